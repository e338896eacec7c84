//! Shapes of events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Friend, Outgoing, Received, Record};
use crate::{
    map,
    message::{self, friend},
    net,
};

/// An event; the tag is also the name of the server-sent event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first connection to a peer.
    PeerUp {
        /// Who.
        address: String,
    },
    /// The last connection to a peer is gone.
    PeerDown {
        /// Who.
        address: String,
    },
    /// The map changed.
    MapChanged {
        /// Whose record.
        address: String,
        /// `changed`, `removed` or `equivocation` (two records signed with one sequence number).
        change: String,
        /// The record, when it changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<Box<Record>>,
    },
    /// A node's state changed.
    Presence {
        /// Who.
        address: String,
        /// Its state.
        #[schema(value_type = String, example = "offline")]
        state: map::State,
    },
    /// A message is complete in the inbox.
    MessageReceived {
        /// The message.
        #[serde(flatten)]
        message: Received,
    },
    /// An outgoing message made a step or progress.
    Outgoing {
        /// The message.
        #[serde(flatten)]
        message: Box<Outgoing>,
    },
    /// A friendship waits for an answer.
    #[serde(rename = "friend.offered")]
    FriendOffered {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friendship holds, or was renewed.
    #[serde(rename = "friend.active")]
    FriendActive {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// An offer was declined.
    #[serde(rename = "friend.declined")]
    FriendDeclined {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friendship was ended by one of the two.
    #[serde(rename = "friend.revoked")]
    FriendRevoked {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friendship ended with its time.
    #[serde(rename = "friend.expired")]
    FriendExpired {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friend did not keep a part of a message that it had signed for; see the evidence.
    #[serde(rename = "friend.broken_promise")]
    FriendBrokenPromise {
        /// The friend.
        address: String,
        /// The sealed part; of a message of one part that is its id.
        id: String,
        /// `lost`, `never_held`, `false_withdrawal`, `false_ack` or `withheld`.
        why: String,
        /// When it was found out.
        at: u64,
    },
    /// The subscriber was too slow: events were lost; read the state again.
    Lagged {
        /// Of which kind: `peers`, `map`, `messages` or `friends`.
        source: String,
        /// How many.
        lost: u64,
    },
}

impl Event {
    /// The name of the server-sent event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PeerUp { .. } => "peer_up",
            Self::PeerDown { .. } => "peer_down",
            Self::MapChanged { .. } => "map_changed",
            Self::Presence { .. } => "presence",
            Self::MessageReceived { .. } => "message_received",
            Self::Outgoing { .. } => "outgoing",
            Self::FriendOffered { .. } => "friend.offered",
            Self::FriendActive { .. } => "friend.active",
            Self::FriendDeclined { .. } => "friend.declined",
            Self::FriendRevoked { .. } => "friend.revoked",
            Self::FriendExpired { .. } => "friend.expired",
            Self::FriendBrokenPromise { .. } => "friend.broken_promise",
            Self::Lagged { .. } => "lagged",
        }
    }
}

impl From<net::PeerEvent> for Event {
    fn from(event: net::PeerEvent) -> Self {
        match event {
            net::PeerEvent::Up(peer) => Self::PeerUp { address: peer.to_string() },
            net::PeerEvent::Down(peer) => Self::PeerDown { address: peer.to_string() },
        }
    }
}

impl From<map::Event> for Event {
    fn from(event: map::Event) -> Self {
        let without = |address: String, change: &str| Self::MapChanged { address, change: change.into(), record: None };
        match event {
            map::Event::Changed(entry) => Self::MapChanged {
                address: entry.address.to_string(),
                change: "changed".into(),
                record: Some(Box::new((*entry).into())),
            },
            map::Event::Removed(peer) => without(peer.to_string(), "removed"),
            map::Event::Equivocation(peer) => without(peer.to_string(), "equivocation"),
            map::Event::Presence(peer, state) => Self::Presence { address: peer.to_string(), state },
        }
    }
}

impl From<friend::Event> for Event {
    fn from(friend::Event(friendship): friend::Event) -> Self {
        let (state, friend) = (friendship.state, Box::new(Friend::from(friendship)));
        match state {
            friend::State::Offered => Self::FriendOffered { friend },
            friend::State::Active => Self::FriendActive { friend },
            friend::State::Declined => Self::FriendDeclined { friend },
            friend::State::Revoked => Self::FriendRevoked { friend },
            friend::State::Expired => Self::FriendExpired { friend },
        }
    }
}

impl From<message::Event> for Event {
    fn from(event: message::Event) -> Self {
        match event {
            message::Event::Received(received) => Self::MessageReceived { message: received.into() },
            message::Event::Outgoing(outgoing) => Self::Outgoing { message: Box::new(outgoing.into()) },
            message::Event::BrokenPromise(broken) => Self::FriendBrokenPromise {
                address: broken.friend.to_string(),
                id: broken.id.to_string(),
                why: broken.why.code().to_owned(),
                at: broken.at.0,
            },
        }
    }
}
