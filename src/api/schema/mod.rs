//! The JSON shapes of the control API, shared by server and client. Keys may be added, never renamed.
//!
//! Times are Unix milliseconds named `*_at`, durations `*_ms` or `*_s`, sizes `*bytes`; ids and hashes are lower-case hex,
//! addresses base58. Strings that came from other nodes are passed on as they are: whoever shows them escapes them.

mod block;
mod contact;
mod event;
mod evidence;
mod friend;
mod mailbox;
mod message;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub use self::{block::*, contact::*, event::Event, evidence::*, friend::*, mailbox::*, message::*};
use crate::{map, net};

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
    /// Block exchange; `null` when it is off.
    pub block: Option<BlockHead>,
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
    /// The proof that its owner signed two records with one number, which only a copied key or a program that lies does: both, as signed
    /// envelopes in base64. Told of single nodes, not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equivocation: Option<[String; 2]>,
}

impl From<map::Entry> for Record {
    fn from(entry: map::Entry) -> Self {
        Self {
            address: entry.address.to_string(),
            name: entry.name,
            addrs: entry.addrs.iter().map(ToString::to_string).collect(),
            roles: entry.roles,
            friends: entry.friends.iter().map(|f| f.address.to_string()).collect(),
            encryption_key_ids: entry.keys.iter().map(|k| hex::encode(k.id)).collect(),
            seq: entry.seq,
            issued_at: entry.issued_at.0,
            expires_at: entry.expires_at.0,
            state: entry.state,
            last_seen_at: entry.last_seen_at.map(|t| t.0),
            source: if entry.from_dht { "dht" } else { "map" }.to_owned(),
            equivocation: None,
        }
    }
}

impl Record {
    /// With the proof of its equivocation, when there is one.
    #[must_use]
    pub(super) fn with_proof(self, proof: Option<[Vec<u8>; 2]>) -> Self {
        Self { equivocation: proof.map(|both| both.map(|envelope| STANDARD.encode(envelope))), ..self }
    }
}

/// A command was carried out and there is nothing else to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Always true.
    pub done: bool,
}

/// A body that is bytes and nothing else: only for the document.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Octets(pub Vec<u8>);

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
