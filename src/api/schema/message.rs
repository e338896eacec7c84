//! Shapes of messages sent and received.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::message::{self, SendState};

/// How to send.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SendOptions {
    /// Address or name of the recipient.
    pub to: String,
    /// File name for the recipient, at most 255 bytes.
    pub file_name: Option<String>,
    /// Time to live in seconds; default `message.ttl_s`.
    pub ttl_s: Option<u64>,
    /// Answer only when this state is reached or the time is over: `queued` (default), `sent`, `stored`, `delivered`.
    #[param(value_type = Option<String>)]
    pub wait: Option<WaitState>,
    /// How long to wait for it, at most 3600000; default 60000.
    pub timeout_ms: Option<u64>,
}

/// A state that a sender can wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WaitState {
    /// Durable in our outbox.
    #[default]
    #[value(skip)]
    Queued,
    /// Handed to the recipient's node.
    Sent,
    /// Held by a Friend VOS, or further.
    Stored,
    /// The recipient's signed receipt is here.
    Delivered,
}

impl WaitState {
    /// The same as the message feature's state.
    #[must_use]
    pub fn state(self) -> SendState {
        match self {
            Self::Queued => SendState::Queued,
            Self::Sent => SendState::Sent,
            Self::Stored => SendState::Stored,
            Self::Delivered => SendState::Delivered,
        }
    }

    /// The word used in queries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Stored => "stored",
            Self::Delivered => "delivered",
        }
    }
}

/// Waiting for an outgoing message.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitOptions {
    /// Answer only when this state, or an end, is reached or the time is over.
    #[param(value_type = Option<String>)]
    pub wait: Option<WaitState>,
    /// How long to wait for it, at most 3600000; default 60000.
    pub timeout_ms: Option<u64>,
}

/// What became of a message that was handed in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// `queued`, `sent`, `stored`, `delivered`, `expired`, `refused` or `cancelled`.
    #[schema(value_type = String, example = "queued")]
    pub state: SendState,
    /// Bytes of the body.
    pub bytes: u64,
    /// The recipient.
    pub to: String,
}

impl From<&Outgoing> for Sent {
    fn from(outgoing: &Outgoing) -> Self {
        Self { id: outgoing.id.clone(), state: outgoing.state, bytes: outgoing.bytes, to: outgoing.to.clone() }
    }
}

/// How many.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Limit {
    /// The newest so many, 1 to 1000; default 100.
    pub limit: Option<usize>,
}

/// Outgoing messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outbox {
    /// Newest first.
    pub messages: Vec<Outgoing>,
}

/// An outgoing message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outgoing {
    /// Its id.
    pub id: String,
    /// The recipient.
    pub to: String,
    /// Where it is.
    #[schema(value_type = String, example = "sent")]
    pub state: SendState,
    /// Bytes of the body.
    pub bytes: u64,
    /// Bytes the recipient's node has so far.
    pub sent_bytes: u64,
    /// When it was queued.
    pub queued_at: u64,
    /// When it expires.
    pub expires_at: u64,
    /// Who holds it besides us.
    pub holders: Vec<String>,
    /// Friends of the recipient that did not take it, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedBy>,
    /// Its story, oldest first.
    pub history: Vec<Step>,
    /// Why the last try failed; empty when none did.
    pub last_error: String,
}

/// A friend of the recipient that did not take a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefusedBy {
    /// The friend.
    pub address: String,
    /// Why, in words.
    pub reason: String,
}

/// One step of an outgoing message's story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// The state it reached.
    #[schema(value_type = String, example = "queued")]
    pub state: SendState,
    /// When.
    pub at: u64,
    /// Who made it so.
    pub by: String,
}

impl From<message::Outgoing> for Outgoing {
    fn from(outgoing: message::Outgoing) -> Self {
        let step = |s: &message::Step| Step { state: s.state, at: s.at.0, by: s.by.to_string() };
        Self {
            id: outgoing.id.to_string(),
            to: outgoing.to.to_string(),
            state: outgoing.state,
            bytes: outgoing.bytes,
            sent_bytes: outgoing.sent_bytes,
            queued_at: outgoing.queued_at.0,
            expires_at: outgoing.expires_at.0,
            holders: outgoing.holders.iter().map(ToString::to_string).collect(),
            refused: outgoing
                .refused
                .iter()
                .map(|(holder, why)| RefusedBy { address: holder.to_string(), reason: why.clone() })
                .collect(),
            history: outgoing.history.iter().map(step).collect(),
            last_error: outgoing.last_error,
        }
    }
}

/// Received messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Inbox {
    /// Newest first.
    pub messages: Vec<Received>,
}

/// A received message without its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Received {
    /// Its id.
    pub id: String,
    /// The sender, proven by its signature.
    pub from: String,
    /// When the sender says it was sent.
    pub sent_at: u64,
    /// When it was complete here.
    pub received_at: u64,
    /// Bytes of the body.
    pub bytes: u64,
    /// Whether it was read.
    pub read: bool,
    /// File name given by the sender, maybe empty. Hostile text: never a path.
    #[serde(default)]
    pub file_name: String,
    /// Messages of its sender that were missing right before it when it was shown: they had not come in time, or never will.
    #[serde(default)]
    pub missing: u64,
    /// Whether it came after later ones of its sender were shown.
    #[serde(default)]
    pub late: bool,
}

impl From<message::Received> for Received {
    fn from(received: message::Received) -> Self {
        Self {
            id: received.id.to_string(),
            from: received.from.to_string(),
            sent_at: received.sent_at.0,
            received_at: received.received_at.0,
            bytes: received.bytes,
            read: received.read,
            file_name: received.file_name,
            missing: received.missing,
            late: received.late,
        }
    }
}

/// A received message with its body: `text` when it is UTF-8, else `base64`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// The message.
    #[serde(flatten)]
    pub received: Received,
    /// The body, when it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The body in standard base64, when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// How to read.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadOptions {
    /// Whether the message counts as read afterwards; default false.
    #[serde(default)]
    pub mark: bool,
}
