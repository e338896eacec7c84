//! The JSON shapes of the control API, shared by server and client. Keys may be added, never renamed.
//!
//! Times are Unix milliseconds named `*_at`, durations `*_ms` or `*_s`, sizes `*bytes`; ids and hashes are lower-case hex,
//! addresses base58. Strings that came from other nodes are passed on as they are: whoever shows them escapes them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    map,
    message::{self, SendState},
    net,
    primitives::UnixMillis,
};

/// A duration in milliseconds, with microseconds as its fraction.
pub(super) fn millis(d: Duration) -> f64 {
    // Microseconds of any round trip are far below 2^53, so the conversion is exact.
    d.as_micros() as f64 / 1000.0
}

/// Our identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Id {
    /// Our address.
    pub address: String,
    /// The raw Ed25519 public key, hex.
    pub public_key: String,
    /// Id of the encryption key that senders should use now, hex; empty before the first record is made.
    pub encryption_key_id: String,
}

/// State of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Our address.
    pub address: String,
    /// Our name, maybe empty.
    pub name: String,
    /// Network id.
    pub network: String,
    /// Version of the daemon.
    pub version: String,
    /// Whether the daemon finished starting.
    pub ready: bool,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Its process id.
    pub pid: u32,
    /// Addrs it listens on, each ending in `/p2p/<address>`.
    pub listen: Vec<String>,
    /// Confirmed external addrs.
    pub external: Vec<String>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, as `ip:port`; `null` when off.
    pub http: Option<String>,
    /// Where the control API is served on TCP, as `ip:port`; `null` when off.
    pub api_tcp: Option<String>,
    /// Connected peers.
    pub peers: usize,
    /// The VOS Map.
    pub map: MapStatus,
    /// Reachability.
    pub nat: NatStatus,
    /// Messages.
    pub messages: MessageStatus,
    /// Disk.
    pub disk: DiskStatus,
}

/// Size and health of the VOS Map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MapStatus {
    /// Valid records, our own included.
    pub records: usize,
    /// Whether the last exchange with some peer found nothing missing.
    pub complete: bool,
    /// Hash over all valid records, hex: equal on two nodes means equal maps.
    pub digest: String,
}

/// Whether others can dial us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NatStatus {
    /// `public`, `private` or `unknown`.
    #[schema(value_type = String, example = "unknown")]
    pub reachability: net::Reachability,
}

/// Counts of messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessageStatus {
    /// Outgoing messages that are not at an end.
    pub outbox_pending: u64,
    /// Received messages.
    pub inbox: u64,
    /// Received and not read.
    pub unread: u64,
}

/// Disk use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskStatus {
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Bytes free on its file system; `null` when the system does not say.
    pub free_bytes: Option<u64>,
}

/// Connected peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peers {
    /// By address.
    pub peers: Vec<Peer>,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Who.
    pub address: String,
    /// Its remote addr.
    pub addr: String,
    /// `direct` or `relayed`.
    pub path: String,
    /// `tcp`, `quic`, `ws` or `relay`.
    pub transport: String,
    /// `inbound` (they dialled) or `outbound`.
    #[schema(value_type = String, example = "outbound")]
    pub direction: net::Direction,
    /// Last ping's round-trip time.
    pub rtt_ms: Option<f64>,
    /// Software it says it runs.
    pub agent: String,
    /// Connections to it.
    pub connections: usize,
    /// Seconds since the first of them.
    pub connected_s: u64,
}

impl From<net::PeerInfo> for Peer {
    fn from(peer: net::PeerInfo) -> Self {
        Self {
            address: peer.address.to_string(),
            addr: peer.addr.to_string(),
            path: path_name(peer.relayed).to_owned(),
            transport: peer.transport.to_owned(),
            direction: peer.direction,
            rtt_ms: peer.rtt.map(millis),
            agent: peer.agent,
            connections: peer.connections,
            connected_s: peer.since.elapsed().as_secs(),
        }
    }
}

fn path_name(relayed: bool) -> &'static str {
    if relayed { "relayed" } else { "direct" }
}

/// Whom to probe.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Address or name.
    #[serde(alias = "address")]
    pub target: String,
    /// How long to wait, 1 to 120000; default 10000.
    pub timeout_ms: Option<u64>,
}

/// Answer to a ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pong {
    /// Who answered.
    pub address: String,
    /// Round-trip time.
    pub rtt_ms: f64,
    /// `direct` or `relayed`; `null` when the connection is already gone.
    pub path: Option<String>,
}

/// Whether a node is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Online {
    /// Who.
    pub address: String,
    /// `online`, `offline`, or `unknown` when there is no addr to try.
    #[schema(value_type = String, example = "online")]
    pub state: map::State,
    /// `direct` or `relayed`; `null` when not connected.
    pub path: Option<String>,
    /// Round-trip time of the probe.
    pub rtt_ms: Option<f64>,
    /// When it was last heard.
    pub last_seen_at: Option<u64>,
}

impl From<map::Presence> for Online {
    fn from(presence: map::Presence) -> Self {
        Self {
            address: presence.address.to_string(),
            state: presence.state,
            path: presence.relayed.map(|relayed| path_name(relayed).to_owned()),
            rtt_ms: presence.rtt.map(millis),
            last_seen_at: presence.last_seen_at.map(|t| t.0),
        }
    }
}

/// An addr to dial, or to listen on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Addr {
    /// A multiaddr.
    pub addr: String,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Its address; names are accepted where a node is asked for.
    pub address: String,
}

/// Addrs we listen on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listen {
    /// Multiaddrs.
    pub listen: Vec<String>,
}

/// A node's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// At most 64 bytes, no control characters; empty removes it.
    pub name: String,
}

/// Banned nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bans {
    /// Their addresses.
    pub bans: Vec<String>,
}

/// Which part of the map.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MapPage {
    /// Records after this address.
    pub after: Option<String>,
    /// At most so many, 1 to 1000; default 1000.
    pub limit: Option<usize>,
}

/// Records of the map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Records {
    /// By address.
    pub records: Vec<Record>,
    /// `after` of the next page; `null` on the last one.
    #[serde(default)]
    pub next: Option<String>,
}

/// A node as the VOS Map knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// Its address.
    pub address: String,
    /// Its name, maybe empty, not unique.
    pub name: String,
    /// Where it can be dialled.
    pub addrs: Vec<String>,
    /// What it does for others.
    pub roles: Vec<String>,
    /// Its Friend VOS.
    pub friends: Vec<String>,
    /// Ids of its encryption keys.
    #[serde(default)]
    pub encryption_key_ids: Vec<String>,
    /// The record's sequence number.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: u64,
    /// When it ends.
    pub expires_at: u64,
    /// `online`, `offline` or `unknown`.
    #[schema(value_type = String, example = "online")]
    pub state: map::State,
    /// When the node was last heard.
    pub last_seen_at: Option<u64>,
    /// Where it was found: `map`, or `dht` when it came from Kademlia and is not in the local map.
    #[serde(default)]
    pub source: String,
}

impl From<map::Entry> for Record {
    fn from(entry: map::Entry) -> Self {
        Self {
            address: entry.address.to_string(),
            name: entry.name,
            addrs: entry.addrs.iter().map(ToString::to_string).collect(),
            roles: entry.roles,
            friends: entry.friends.iter().map(ToString::to_string).collect(),
            encryption_key_ids: entry.keys.iter().map(|k| hex::encode(k.id)).collect(),
            seq: entry.seq,
            issued_at: entry.issued_at.0,
            expires_at: entry.expires_at.0,
            state: entry.state,
            last_seen_at: entry.last_seen_at.map(|t| t.0),
            source: if entry.from_dht { "dht" } else { "map" }.to_owned(),
        }
    }
}

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
    /// Its story, oldest first.
    pub history: Vec<Step>,
    /// Why the last try failed; empty when none did.
    pub last_error: String,
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
}

impl From<message::Received> for Received {
    fn from(received: message::Received) -> Self {
        let UnixMillis(sent_at) = received.sent_at;
        Self {
            id: received.id.to_string(),
            from: received.from.to_string(),
            sent_at,
            received_at: received.received_at.0,
            bytes: received.bytes,
            read: received.read,
            file_name: received.file_name,
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

/// A command was carried out and there is nothing else to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Always true.
    pub done: bool,
}

/// Every failed request's body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// A stable word for programs.
    pub code: String,
    /// For people: what was wrong and what to do.
    pub message: String,
    /// With `ambiguous`: the nodes that have this name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Record>,
}

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
    /// The subscriber was too slow: events were lost; read the state again.
    Lagged {
        /// Of which kind: `peers`, `map` or `messages`.
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

impl From<message::Event> for Event {
    fn from(event: message::Event) -> Self {
        match event {
            message::Event::Received(received) => Self::MessageReceived { message: received.into() },
            message::Event::Outgoing(outgoing) => Self::Outgoing { message: Box::new(outgoing.into()) },
        }
    }
}
