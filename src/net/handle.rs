//! The typed, cloneable handle to the swarm task.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{CommandError, bans::Bans};
use crate::primitives::{Multiaddr, PeerId};

/// Whether others can dial us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Some other node dialled us back on an addr we announced.
    Public,
    /// Others tried and failed.
    Private,
    /// Nobody tried yet.
    #[default]
    Unknown,
}

/// What we know about our own addrs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nat {
    /// Whether others can dial us.
    pub reachability: Reachability,
    /// Addrs we listen on.
    pub listen: Vec<Multiaddr>,
    /// Confirmed external addrs, including relayed ones.
    pub external: Vec<Multiaddr>,
}

/// Who dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// They did.
    Inbound,
    /// We did.
    Outbound,
}

/// A connected peer; of several connections the best one (direct first).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Who.
    pub address: PeerId,
    /// The remote addr.
    pub addr: Multiaddr,
    /// Whether the path goes through a relay.
    pub relayed: bool,
    /// `tcp`, `quic`, `ws` or `relay`.
    pub transport: &'static str,
    /// Who dialled.
    pub direction: Direction,
    /// Last ping's round-trip time.
    pub rtt: Option<Duration>,
    /// Software the peer says it runs (hostile text, capped at 64 characters).
    pub agent: String,
    /// Connections to it.
    pub connections: usize,
    /// Since when.
    pub since: Instant,
}

/// Connections coming and going.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// The first connection to a peer.
    Up(PeerId),
    /// The last connection to a peer is gone.
    Down(PeerId),
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, CommandError>>;

/// What the swarm task is asked.
#[derive(Debug)]
pub(super) enum Command {
    Connect { peer: Option<PeerId>, addrs: Vec<Multiaddr>, answer: Answer<PeerId> },
    Disconnect { peer: PeerId, answer: Answer<()> },
    Listen { addr: Multiaddr, answer: Answer<Multiaddr> },
    Unlisten { addr: Multiaddr, answer: Answer<()> },
    Ban { peer: PeerId, answer: Answer<()> },
    Unban { peer: PeerId, answer: Answer<()> },
}

/// Commands waiting for the swarm task.
pub(super) const COMMANDS: usize = 256;
/// Peer events kept for a slow subscriber: a hundred bytes each, laid out at once. Who is further behind looks at all peers.
pub(super) const EVENTS: usize = 256;
/// For a dial over all addrs of a peer.
const CONNECT: Duration = Duration::from_secs(12);

/// The peer table, written by the swarm task and read by anybody.
pub(super) type PeerTable = Arc<RwLock<HashMap<PeerId, PeerInfo>>>;

/// Talks to the swarm task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) local: PeerId,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) events: broadcast::Sender<PeerEvent>,
    pub(super) peers: PeerTable,
    pub(super) bans: Bans,
    pub(super) nat: watch::Receiver<Nat>,
}

impl Handle {
    /// Our own address.
    #[must_use]
    pub fn local(&self) -> PeerId {
        self.local
    }

    /// Connected peers, by address.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        let mut peers: Vec<_> = self.peers.read().expect("no panic while held").values().cloned().collect();
        peers.sort_by_key(|p| p.address);
        peers
    }

    /// One connected peer.
    #[must_use]
    pub fn peer(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.peers.read().expect("no panic while held").get(peer).cloned()
    }

    /// Number of connected peers.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.peers.read().expect("no panic while held").len()
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.read().expect("no panic while held").contains_key(peer)
    }

    /// Connections coming and going from now on. A slow receiver loses the oldest (`Lagged`) and should read
    /// [`Handle::peers`] again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        self.events.subscribe()
    }

    /// Our addrs and reachability, and their changes.
    #[must_use]
    pub fn nat(&self) -> watch::Receiver<Nat> {
        self.nat.clone()
    }

    /// Dials an addr and waits for the connection; a `/p2p/<address>` at its end is checked.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] when nobody, or somebody else, answers.
    pub async fn connect(&self, addr: Multiaddr) -> Result<PeerId, CommandError> {
        let peer = super::peer_of(&addr);
        self.ask(CONNECT, |answer| Command::Connect { peer, addrs: vec![addr], answer }).await
    }

    /// Dials a peer at the addrs that the address book and Kademlia know, unless it is connected.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] when none of them answers.
    pub async fn connect_peer(&self, peer: PeerId) -> Result<(), CommandError> {
        if self.is_connected(&peer) {
            return Ok(());
        }
        let command = |answer| Command::Connect { peer: Some(peer), addrs: Vec::new(), answer };
        self.ask(CONNECT, command).await.map(drop)
    }

    /// Closes all connections to a peer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`] when there is none.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), CommandError> {
        self.ask(CONNECT, |answer| Command::Disconnect { peer, answer }).await
    }

    /// Listens on one more addr; returns it with the port that was chosen.
    ///
    /// # Errors
    /// [`CommandError::Invalid`] when it cannot be listened on.
    pub async fn listen(&self, addr: Multiaddr) -> Result<Multiaddr, CommandError> {
        self.ask(CONNECT, |answer| Command::Listen { addr, answer }).await
    }

    /// Stops listening on an addr. Connections stay.
    ///
    /// # Errors
    /// [`CommandError::NotFound`] when nothing listens there.
    pub async fn unlisten(&self, addr: Multiaddr) -> Result<(), CommandError> {
        self.ask(CONNECT, |answer| Command::Unlisten { addr, answer }).await
    }

    /// Closes connections to a peer and refuses new ones in both directions, for 90 days and also after a restart. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`CommandError::Full`] with 4096 bans, the store's error, [`CommandError::Stopped`].
    pub async fn ban(&self, peer: PeerId) -> Result<(), CommandError> {
        self.bans.add(peer).await?;
        self.ask(CONNECT, |answer| Command::Ban { peer, answer }).await
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// [`CommandError::NotFound`] when it was not banned; the store's error.
    pub async fn unban(&self, peer: PeerId) -> Result<(), CommandError> {
        if !self.bans.contains(&peer) {
            return Err(CommandError::NotFound(format!("{peer} is not banned")));
        }
        self.ask(CONNECT, |answer| Command::Unban { peer, answer }).await?;
        self.bans.remove(&peer).await
    }

    /// Banned peers.
    #[must_use]
    pub fn bans(&self) -> Vec<PeerId> {
        self.bans.list()
    }

    async fn ask<T>(&self, deadline: Duration, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, CommandError> {
        let (answer, result) = oneshot::channel();
        self.commands.try_send(command(answer)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => CommandError::Busy,
            mpsc::error::TrySendError::Closed(_) => CommandError::Stopped,
        })?;
        match tokio::time::timeout(deadline, result).await {
            Err(_) => Err(CommandError::Timeout),
            Ok(Err(_)) => Err(CommandError::Stopped),
            Ok(Ok(result)) => result,
        }
    }
}

/// For tests: what the swarm task would do to a [`Handle`].
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug)]
pub struct Detached {
    /// Our addrs.
    pub nat: watch::Sender<Nat>,
    events: broadcast::Sender<PeerEvent>,
    peers: PeerTable,
    _commands: mpsc::Receiver<Command>,
}

#[cfg(any(test, feature = "test-util"))]
impl Detached {
    /// A direct connection to `peer`, which is nowhere, comes up.
    pub fn up(&self, peer: PeerId) {
        self.up_at(peer, Multiaddr::empty());
    }

    /// A direct connection to `peer` comes up over this addr.
    pub fn up_at(&self, peer: PeerId, addr: Multiaddr) {
        let info = PeerInfo {
            address: peer,
            addr,
            relayed: false,
            transport: "tcp",
            direction: Direction::Outbound,
            rtt: None,
            agent: String::new(),
            connections: 1,
            since: Instant::now(),
        };
        self.peers.write().expect("no panic while held").insert(peer, info);
        let _ = self.events.send(PeerEvent::Up(peer));
    }

    /// The last connection to `peer` goes away.
    pub fn down(&self, peer: PeerId) {
        self.peers.write().expect("no panic while held").remove(&peer);
        let _ = self.events.send(PeerEvent::Down(peer));
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Handle {
    /// For tests: a handle without a swarm, and what moves it. Commands get no answer.
    #[must_use]
    pub fn detached(local: PeerId) -> (Self, Detached) {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let events = broadcast::Sender::new(EVENTS);
        let (nat, addrs) = watch::channel(Nat::default());
        let peers = PeerTable::default();
        let control = Detached { nat, events: events.clone(), peers: peers.clone(), _commands: queue };
        (Self { local, commands, events, peers, bans: Bans::detached(), nat: addrs }, control)
    }
}
