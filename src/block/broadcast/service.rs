//! The actor: carries out what [`Core`] says. It never awaits a peer, a signature or the store: what takes time runs in its
//! `JoinSet` and comes back as [`Done`].

mod fetch;
mod give;
mod news;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    Metrics,
    assembly::Ticket,
    core::{Core, Output},
    fetcher::{AskId, Failure, Fault},
    handle::{COMMANDS, Command, Handle},
    hold::Hold,
    serve::Shares,
    wire::{
        Content, Get, HASH_TOPIC, MAX_NEW_BLOCK, MAX_NEW_BLOCK_HASH, NEW_TOPIC, NewBlock, Notify, NotifyAnswer, Wanted,
    },
};
use crate::{
    block::{
        Point, VerifiedHeader,
        chain::{Chain, ChainError, Event, Outcome},
        penalty::{Offence, Penalties},
        purpose,
        sync::{self, State},
        trace::Trace,
    },
    identity::Purpose,
    net::{
        self, PeerEvent,
        pubsub::{Mesh, Publisher, Received, Topics},
        rpc::{Client, Inbound, Protocols},
    },
    primitives::{Clock, Hash, NetworkId, PeerId},
    runtime::{Stop, now},
};

/// The longest sleep: an unforeseen wait is no longer than this.
const TICK: Duration = Duration::from_secs(1);
/// After a connection, for gossip to learn who listens to what.
const SETTLE: Duration = Duration::from_secs(1);
/// Peers that came lately and are still to be told of the head.
const NEWCOMERS: usize = 256;

/// What the broadcast needs to know of the chain's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Bytes of a body (`chain.max_bytes`); the same everywhere.
    pub max_body_bytes: usize,
    /// Neighbours that a header is forwarded to (`block.degree`); 0: the root of [`Settings::peers`].
    pub degree: usize,
    /// Peers that a node of this network usually has.
    pub peers: usize,
    /// Peers that this node may have at most: all of them hear of a block that we have.
    pub max_peers: usize,
}

/// Our ends of the topics and protocols.
#[derive(Debug)]
pub struct Ends {
    pub(super) new: (Publisher, mpsc::Receiver<Received>),
    pub(super) hashes: (Publisher, mpsc::Receiver<Received>),
    pub(super) notify: (Client<Notify>, mpsc::Receiver<Inbound<Notify>>),
    pub(super) get: (Client<Get>, mpsc::Receiver<Inbound<Get>>),
}

impl Ends {
    /// Joins the topics and adds the protocols.
    pub fn new(settings: &Settings, protocols: &mut Protocols, topics: &mut Topics) -> Self {
        let mesh = match settings.degree {
            0 => Mesh::root_of(settings.peers),
            degree => Mesh::of_degree(degree),
        };
        Self {
            new: topics.add(NEW_TOPIC, mesh.with_max_payload(MAX_NEW_BLOCK)),
            hashes: topics.add(HASH_TOPIC, Mesh::everybody(settings.max_peers).with_max_payload(MAX_NEW_BLOCK_HASH)),
            notify: protocols.add(),
            get: protocols.add(),
        }
    }

    /// For simulations: ends that somebody else moves.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn detached(
        new: (Publisher, mpsc::Receiver<Received>),
        hashes: (Publisher, mpsc::Receiver<Received>),
        notify: (Client<Notify>, mpsc::Receiver<Inbound<Notify>>),
        get: (Client<Get>, mpsc::Receiver<Inbound<Get>>),
    ) -> Self {
        Self { new, hashes, notify, get }
    }
}

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    /// The chain.
    pub chain: Chain,
    /// Catching up: its state, and where claims go.
    pub sync: sync::Handle,
    /// Connections.
    pub net: net::Handle,
    /// Our network: what headers are signed for.
    pub network: NetworkId,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Shared with sync.
    pub penalties: Penalties,
    /// Shared with sync.
    pub trace: Trace,
    /// Topics and protocols.
    pub ends: Ends,
    /// Counters.
    pub metrics: Metrics,
}

/// A header whose signature is good, and how it came.
#[derive(Debug)]
struct Candidate {
    from: PeerId,
    /// The gossip that waits for a verdict; `None` for an answer to a question of ours.
    gossip: Option<Received>,
    header: VerifiedHeader,
    content: Content,
}

/// Why a whole block is not in the chain.
#[derive(Debug)]
enum ImportError {
    /// The body that the header commits to is none.
    Body,
    Chain(ChainError),
}

/// What a job brought.
#[derive(Debug)]
enum Done {
    /// A gossiped header's signature: when it is wrong, the gossip is left.
    Checked(Result<Box<Candidate>, Received>),
    Block(AskId, PeerId, Result<Box<(VerifiedHeader, Content)>, Failure>),
    Piece(AskId, PeerId, Hash, usize, Result<Bytes, Failure>),
    Imported(Point, PeerId, Result<Outcome, ImportError>),
    /// A block of the store, for `PeerId` and everybody who asked meanwhile.
    Read(Hash, PeerId, Result<Option<Box<(VerifiedHeader, Bytes)>>, ChainError>),
    /// A block of our own, to be published.
    Own(Option<Box<(VerifiedHeader, Bytes)>>),
    Notified(PeerId, Hash, Option<NotifyAnswer>),
    Nothing,
}

#[derive(Debug)]
struct Queues {
    new: mpsc::Receiver<Received>,
    hashes: mpsc::Receiver<Received>,
    notify: mpsc::Receiver<Inbound<Notify>>,
    get: mpsc::Receiver<Inbound<Get>>,
    /// From the beginning on, so that nothing is missed before it runs.
    events: broadcast::Receiver<Event>,
    peers: broadcast::Receiver<PeerEvent>,
}

/// The broadcast's actor.
#[derive(Debug)]
pub struct Service {
    settings: Settings,
    purpose: Arc<Purpose>,
    chain: Chain,
    sync: sync::Handle,
    state: watch::Receiver<State>,
    net: net::Handle,
    clock: Arc<dyn Clock>,
    penalties: Penalties,
    trace: Trace,
    metrics: Metrics,
    new: Publisher,
    hashes: Publisher,
    notify: Client<Notify>,
    get: Client<Get>,
    queues: Option<Queues>,
    commands: mpsc::Receiver<Command>,
    core: Core,
    hold: Hold<Candidate>,
    jobs: JoinSet<Done>,
    /// NOTIFY that are not answered yet, by peer.
    notifying: HashMap<PeerId, usize>,
    /// Signatures being checked.
    checking: usize,
    asks: HashMap<AskId, AbortHandle>,
    tickets: HashMap<Ticket, Inbound<Get>>,
    ticket: Ticket,
    /// Requests that wait for a read of the store.
    reads: HashMap<Hash, Vec<(Inbound<Get>, Wanted)>>,
    shares: Shares,
    newcomers: Vec<(Instant, PeerId)>,
    /// Blocks to be announced, and when.
    announcements: VecDeque<(Instant, Point)>,
}

/// Makes the actor and its door.
#[must_use]
pub fn new(settings: Settings, deps: Deps) -> (Service, Handle) {
    let Ends { new, hashes, notify, get } = deps.ends;
    let (commands, queue) = mpsc::channel(COMMANDS);
    let (events, peers) = (deps.chain.events(), deps.net.subscribe());
    let queues = Queues { new: new.1, hashes: hashes.1, notify: notify.1, get: get.1, events, peers };
    let service = Service {
        settings,
        purpose: Arc::new(purpose(&deps.network)),
        chain: deps.chain,
        state: deps.sync.state(),
        sync: deps.sync,
        net: deps.net,
        clock: deps.clock,
        penalties: deps.penalties,
        trace: deps.trace,
        metrics: deps.metrics,
        new: new.0,
        hashes: hashes.0,
        notify: notify.0,
        get: get.0,
        queues: Some(queues),
        commands: queue,
        core: Core::new(rand::random()),
        hold: Hold::default(),
        jobs: JoinSet::new(),
        notifying: HashMap::new(),
        checking: 0,
        asks: HashMap::new(),
        tickets: HashMap::new(),
        ticket: 0,
        reads: HashMap::new(),
        shares: Shares::default(),
        newcomers: Vec::new(),
        announcements: VecDeque::new(),
    };
    (service, Handle { commands })
}

impl Service {
    /// Runs until stopped.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        let Some(mut queues) = self.queues.take() else { return Ok(()) };
        for peer in self.net.peers() {
            self.on_up(peer.address);
        }
        let mut state = self.state.clone();
        loop {
            self.carry_out();
            let wake = self.wake();
            tokio::select! {
                biased;
                () = stop.wait() => break,
                event = queues.peers.recv() => self.on_peer(&event),
                event = queues.events.recv() => self.on_event(&event),
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    // Cancelled ones bring nothing.
                    if let Ok(done) = done {
                        self.on_done(done);
                    }
                }
                Some(command) = self.commands.recv() => self.on_command(command),
                Ok(()) = state.changed() => self.on_state(),
                // Answers to others first: they wait for what is here already.
                Some(asked) = queues.get.recv() => self.on_get(asked),
                Some(received) = queues.new.recv() => self.on_new(received),
                Some(received) = queues.hashes.recv() => self.on_hash(received),
                Some(told) = queues.notify.recv() => self.on_notify(told),
                () = tokio::time::sleep_until(wake.into()) => self.on_tick(),
            }
        }
        self.jobs.shutdown().await;
        Ok(())
    }

    fn wake(&self) -> Instant {
        let newcomer = self.newcomers.iter().map(|(at, _)| *at).min();
        let announcement = self.announcements.iter().map(|(at, _)| *at).min();
        let next = [self.core.deadline(), self.hold.deadline(), newcomer, announcement].into_iter().flatten().min();
        let latest = now() + TICK;
        next.map_or(latest, |at| at.min(latest))
    }

    fn on_tick(&mut self) {
        let now = now();
        self.core.tick(now);
        for candidate in self.hold.due(now) {
            self.consider(candidate);
        }
        for (_, peer) in self.newcomers.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.tell_head(peer);
        }
        self.announce_due();
    }

    fn on_peer(&mut self, event: &Result<PeerEvent, broadcast::error::RecvError>) {
        match event {
            Ok(PeerEvent::Up(peer)) => self.on_up(*peer),
            Ok(PeerEvent::Down(peer)) => self.core.down(now(), peer),
            Err(_) => {
                let connected: Vec<_> = self.net.peers().iter().map(|p| p.address).collect();
                for peer in self.core.peers().into_iter().filter(|p| !connected.contains(p)) {
                    self.core.down(now(), &peer);
                }
                connected.into_iter().for_each(|p| self.on_up(p));
            }
        }
    }

    fn on_up(&mut self, peer: PeerId) {
        self.core.up(peer);
        if self.newcomers.len() < NEWCOMERS {
            self.newcomers.push((now() + SETTLE, peer));
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Checked(candidate) => self.on_checked(candidate),
            Done::Block(id, peer, result) => self.on_block(id, peer, result),
            Done::Piece(id, peer, hash, index, result) => self.on_piece(id, peer, &hash, index, result),
            Done::Imported(point, from, result) => self.on_imported(point, from, result),
            Done::Read(hash, peer, result) => self.on_read(hash, &peer, result),
            Done::Own(block) => self.on_own(block),
            Done::Notified(peer, hash, answer) => self.on_notified(peer, hash, answer),
            Done::Nothing => {}
        }
    }

    /// Nothing to do with this peer: it is banned for what it did with blocks, or of another chain.
    fn shuns(&self, peer: &PeerId) -> bool {
        self.penalties.is_banned(peer) || self.sync.is_foreign(peer)
    }

    fn is_syncing(&self) -> bool {
        *self.state.borrow() == State::Syncing
    }

    fn carry_out(&mut self) {
        loop {
            let outputs = self.core.take_outputs();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Ask { id, peer, hash, wanted } => self.ask(id, peer, hash, wanted),
                    Output::Cancel(id) => {
                        if let Some(job) = self.asks.remove(&id) {
                            job.abort();
                        }
                    }
                    Output::Serve(ticket, piece) => self.answer(ticket, piece),
                    Output::Import { header, body, from } => self.import(*header, body, from),
                    Output::Blame(peer, fault) => self.penalties.report(
                        peer,
                        match fault {
                            Fault::Unserved => Offence::Unserved,
                            Fault::Timeout => Offence::Timeout,
                            Fault::WrongData => Offence::WrongData,
                            Fault::Flood => Offence::Flood,
                        },
                    ),
                    Output::Lost(hash) => {
                        tracing::debug!(%hash, "a block is given up: nobody who spoke of it gave it to us, or not in time");
                        self.metrics.lost.inc();
                        self.reconsider(&hash);
                    }
                }
            }
        }
        let (fetching, _, bytes, _) = self.core.sizes();
        self.metrics.fetching.set(i64::try_from(fetching).unwrap_or(i64::MAX));
        self.metrics.body_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// What waited for this block is judged again.
    fn reconsider(&mut self, parent: &Hash) {
        for candidate in self.hold.children(parent) {
            self.consider(candidate);
        }
    }
}
