//! The actor: feeds the planner with what happens, carries out what it says, greets peers in turn, and shows the progress. It
//! never waits for a peer or for the disk: what takes time runs in its `JoinSet` and comes back as [`Done`], and imports, whose order
//! counts, go through a task of their own.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{broadcast, broadcast::error::TryRecvError, mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use super::{
    answer::Answers,
    clock::Offsets,
    exchange::{Ended, Exchange, Greeted, Import, greeting_json},
    greet::{Schedule, Silence},
    handle::{COMMANDS, Foreign, HEADS, Handle, Progress},
    metrics::Metrics,
    plan::{Failure, Imported, Output, Place, Pulled, State, View},
    planner::{self, Planner},
    serve::Places,
    wire::{Greeting, Headers, Pull, RawBlock, Shakehand, Span},
};
use crate::{
    block::{
        self, Header, Point,
        chain::{self, Chain, Known},
        penalty::{Offence, Penalties},
        trace::{Code, Trace},
    },
    net::{
        self, PeerEvent,
        rpc::{Client, Inbound},
    },
    primitives::{Clock, Hash, NetworkId, PeerId, UnixMillis},
    runtime::{self, Stop, now},
    wire::Status,
};

/// How often timers are looked at, and the least time between two looks at everything while nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// Over how long the rate is measured.
const RATE: Duration = Duration::from_secs(5);
/// Imports that wait for the chain, or to be told: twice what the planner has under way, since it may forget them.
const IMPORTS: usize = 2 * planner::IMPORTS;
/// Block intervals without any block after which peers are asked.
const QUIET: u32 = 3;

/// What sync needs to know of the chain's configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Blocks that are not final yet (`chain.commit_depth`).
    pub depth: u64,
    /// Bytes of a body (`chain.max_bytes`).
    pub max_body_bytes: usize,
    /// Time from one block to the next (`block.interval_ms`).
    pub interval: Duration,
    /// Whether peers of whom none shows any of what they say are as good as none (`block.produce_alone`).
    pub solitary: bool,
}

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    /// The chain.
    pub chain: Chain,
    /// Connections.
    pub net: net::Handle,
    /// Our network: what headers are signed for.
    pub network: NetworkId,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Shared with broadcast.
    pub penalties: Penalties,
    /// Shared with broadcast.
    pub trace: Trace,
    /// `block/shakehand/1`.
    pub shakehand: (Client<Shakehand>, mpsc::Receiver<Inbound<Shakehand>>),
    /// `block/pull/1`.
    pub pull: (Client<Pull>, mpsc::Receiver<Inbound<Pull>>),
    /// `block/headers/1`.
    pub headers: (Client<Headers>, mpsc::Receiver<Inbound<Headers>>),
}

/// What a job brought.
#[derive(Debug)]
enum Done {
    Greeted { peer: PeerId, sent: UnixMillis, took: Duration, result: Greeted },
    Answered(u64, Span, Vec<RawBlock>),
    Pulled(u64, Result<Pulled, Failure>),
    Headers(u64, Result<Vec<Header>, Failure>),
    Proven(u64, Result<(), Failure>),
}

/// Sync's actor.
#[derive(Debug)]
pub struct Service {
    chain: Chain,
    net: net::Handle,
    clock: Arc<dyn Clock>,
    penalties: Penalties,
    trace: Trace,
    metrics: Metrics,
    exchange: Exchange,
    inbound: Option<Queues>,
    claims: mpsc::Receiver<(PeerId, Point)>,
    planner: Planner,
    schedule: Schedule,
    offsets: Offsets,
    foreign: Foreign,
    heads: broadcast::Sender<(PeerId, Point)>,
    silence: Silence,
    heights: VecDeque<(Instant, u64)>,
    totals: (u64, u64),
    state: watch::Sender<State>,
    progress: watch::Sender<Progress>,
    jobs: JoinSet<Done>,
    /// To the task that hands blocks to the chain in their order.
    imports: mpsc::Sender<Import>,
    import_queue: Option<mpsc::Receiver<Import>>,
}

#[derive(Debug)]
struct Queues {
    shakehand: mpsc::Receiver<Inbound<Shakehand>>,
    pull: mpsc::Receiver<Inbound<Pull>>,
    headers: mpsc::Receiver<Inbound<Headers>>,
}

impl View for Chain {
    fn place(&self) -> Place {
        let status = self.status();
        Place { head: status.head, committed: status.committed, halted: status.halted.is_some() }
    }

    fn held(&self, hash: &Hash) -> Option<u64> {
        // A store that fails says so to the chain, which halts.
        match self.known(hash) {
            Ok(Known::Held(height)) => Some(height),
            _ => None,
        }
    }

    fn hash_at(&self, height: u64) -> Option<Hash> {
        Chain::hash_at(self, height).ok().flatten()
    }
}

/// Makes sync's actor and its door. Nothing is asked or answered before it runs.
#[must_use]
pub fn new(settings: Settings, deps: Deps, metrics: Metrics) -> (Service, Handle) {
    let now = now();
    let (claims, queue) = mpsc::channel(COMMANDS);
    let (state, state_seen) = watch::channel(State::default());
    let (progress, progress_seen) = watch::channel(Progress::default());
    let (imports, import_queue) = mpsc::channel(IMPORTS);
    let foreign = Foreign::default();
    let heads = broadcast::Sender::new(HEADS);
    let handle =
        Handle { claims, state: state_seen, progress: progress_seen, heads: heads.clone(), foreign: foreign.clone() };
    let ((shakehand, shakehands), (pull, pulls), (headers, header_asks)) = (deps.shakehand, deps.pull, deps.headers);
    let exchange = Exchange::new(
        (deps.chain.clone(), deps.trace.clone()),
        (shakehand, pull, headers),
        block::purpose(&deps.network),
        settings.max_body_bytes,
    );
    let service = Service {
        chain: deps.chain,
        net: deps.net,
        clock: deps.clock,
        penalties: deps.penalties,
        trace: deps.trace,
        metrics,
        exchange,
        inbound: Some(Queues { shakehand: shakehands, pull: pulls, headers: header_asks }),
        claims: queue,
        planner: Planner::new(settings.depth, settings.solitary, now),
        schedule: Schedule::default(),
        offsets: Offsets::default(),
        foreign,
        heads,
        silence: Silence::new(settings.interval * QUIET, now),
        heights: VecDeque::new(),
        totals: (0, 0),
        state,
        progress,
        jobs: JoinSet::new(),
        imports,
        import_queue: Some(import_queue),
    };
    (service, handle)
}

impl Service {
    /// Runs until stopped. Requests under way are dropped then; nothing of them was promised to anybody.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        let (Some(mut queues), Some(imports)) = (self.inbound.take(), self.import_queue.take()) else { return Ok(()) };
        let answers = Answers {
            chain: self.chain.clone(),
            trace: self.trace.clone(),
            penalties: self.penalties.clone(),
            foreign: self.foreign.clone(),
            places: Places::default(),
            metrics: self.metrics.clone(),
        };
        let mut servers = JoinSet::new();
        servers.spawn(answers.clone().pulls(queues.pull));
        servers.spawn(answers.headers(queues.headers));
        let (ended, mut imported) = mpsc::channel::<Ended>(IMPORTS);
        servers.spawn(self.exchange.clone().imports(imports, ended));
        let (mut events, mut peers) = (self.chain.events(), self.net.subscribe());
        self.net.peers().iter().for_each(|p| self.schedule.add(p.address, now()));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                event = peers.recv() => self.on_peer(&event),
                Some((id, result)) = imported.recv() => self.planner.on_imported(id, result, now()),
                Some(done) = servers.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.on_done(done),
                Some(asked) = queues.shakehand.recv() => self.on_shakehand(asked),
                Some((peer, head)) = self.claims.recv() => self.planner.on_claim(&peer, head),
                event = events.recv() => {
                    self.on_event(&event);
                    // A batch that came in is told block by block, and is one reason to look at everything.
                    loop {
                        match events.try_recv() {
                            Ok(event) => self.on_event(&Ok(event)),
                            Err(TryRecvError::Lagged(_)) => {}
                            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                        }
                    }
                }
                _ = tick.tick() => self.on_tick(),
            }
            self.advance();
        }
        self.jobs.shutdown().await;
        servers.shutdown().await;
        Ok(())
    }

    fn on_peer(&mut self, event: &Result<PeerEvent, broadcast::error::RecvError>) {
        let now = now();
        match event {
            Ok(PeerEvent::Up(peer)) => self.schedule.add(*peer, now),
            Ok(PeerEvent::Down(peer)) => self.on_down(peer),
            Err(_) => {
                let connected = self.net.peers();
                let gone: Vec<_> =
                    self.schedule.peers().filter(|p| !connected.iter().any(|c| c.address == *p)).collect();
                gone.iter().for_each(|peer| self.on_down(peer));
                connected.iter().for_each(|p| self.schedule.add_if_new(p.address, now));
            }
        }
    }

    fn on_down(&mut self, peer: &PeerId) {
        self.schedule.remove(peer);
        self.planner.on_gone(peer, now());
        self.offsets.forget(peer);
        self.foreign.remove(peer);
    }

    fn on_event(&mut self, event: &Result<chain::Event, broadcast::error::RecvError>) {
        if matches!(event, Ok(chain::Event::Imported { .. }) | Err(_)) {
            self.silence.broken(now());
        }
    }

    fn ours(&self) -> Greeting {
        Greeting::of(&self.chain.status(), self.clock.now(), self.net.local())
    }

    /// A peer says where it stands, and wants to know where we do.
    fn on_shakehand(&mut self, asked: Inbound<Shakehand>) {
        let peer = asked.peer;
        if self.penalties.is_banned(&peer) {
            // Bans end. "Refused" is what those of another chain are told, and whoever hears it serves us nothing any more.
            return asked.refuse(Status::Busy);
        }
        let Some(theirs) = Greeting::read(&asked.request, peer) else {
            self.penalties.report(peer, Offence::WrongData);
            return asked.refuse(Status::Invalid);
        };
        self.trace.received(peer, Code::Shakehand, || greeting_json(&theirs));
        self.metrics.shakehands.inc();
        let ours = self.ours();
        if theirs.genesis != ours.genesis {
            asked.refuse(Status::Refused);
            return self.on_foreign(peer);
        }
        self.foreign.remove(&peer);
        self.trace.sent(peer, Code::Shakehand, || greeting_json(&ours));
        asked.respond(ours.to_wire());
        // A request may come from a connection that is gone already: only peers that will be told gone are counted.
        if self.schedule.contains(&peer) {
            self.on_head(peer, &theirs);
        }
    }

    fn on_head(&mut self, peer: PeerId, theirs: &Greeting) {
        self.planner.on_greeting(peer, theirs, now());
        self.planner.on_place(&peer, self.net.voice(&peer));
        // Nobody may be listening.
        let _ = self.heads.send((peer, theirs.head));
    }

    fn on_foreign(&mut self, peer: PeerId) {
        tracing::info!(%peer, "a peer is of another chain and is not used for blocks");
        self.metrics.foreign.inc();
        self.planner.on_gone(&peer, now());
        if self.schedule.contains(&peer) {
            self.foreign.add(peer);
        }
    }

    fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = now();
        let done = match done {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match done {
            Done::Greeted { peer, sent, took, result } => self.on_greeted(peer, sent, took, &result),
            Done::Answered(id, span, raw) => {
                self.planner.on_answered(id);
                let exchange = self.exchange.clone();
                self.jobs.spawn(async move { Done::Pulled(id, exchange.check(raw, span).await) });
            }
            Done::Pulled(id, result) => {
                match &result {
                    Ok(pulled) => {
                        let (blocks, bytes) = (pulled.blocks.len() as u64, pulled.bytes as u64); // usize fits in u64
                        self.totals = (self.totals.0 + blocks, self.totals.1 + bytes);
                        self.metrics.pulled.inc_by(blocks);
                        self.metrics.pulled_bytes.inc_by(bytes);
                    }
                    Err(_) => drop(self.metrics.pulls_failed.inc()),
                }
                self.planner.on_pulled(id, result, now);
            }
            Done::Headers(id, result) => self.planner.on_headers(id, result, &self.chain, now),
            Done::Proven(id, result) => {
                if result.is_ok() {
                    self.metrics.conflicts.inc();
                }
                self.planner.on_proven(id, result, &self.chain, now);
            }
        }
    }

    fn on_greeted(&mut self, peer: PeerId, sent: UnixMillis, took: Duration, result: &Greeted) {
        let now = now();
        let refused = matches!(result, Greeted::Foreign | Greeted::Mute);
        self.schedule.done(&peer, refused, now);
        match result {
            Greeted::Ours(theirs) if self.schedule.contains(&peer) && !self.penalties.is_banned(&peer) => {
                self.metrics.shakehands.inc();
                self.foreign.remove(&peer);
                self.offsets.record(peer, sent, took, theirs.timestamp);
                if let Some(offset_ms) = self.offsets.newly_wrong() {
                    tracing::warn!(
                        offset_ms,
                        "our clock differs from those of our peers; is the time of this machine set?"
                    );
                }
                self.on_head(peer, theirs);
            }
            Greeted::Foreign => self.on_foreign(peer),
            Greeted::Wrong => self.penalties.report(peer, Offence::WrongData),
            // On a line that our own pulls fill an answer may take its time: who is silent says nothing of its head, and no more.
            Greeted::Ours(_) | Greeted::Mute | Greeted::Silent | Greeted::Lost => {}
        }
    }

    fn on_tick(&mut self) {
        let now = now();
        // Broadcast, and what peers ask us, may have got them banned.
        let banned: Vec<_> =
            self.planner.claims().iter().map(|(peer, _)| *peer).filter(|peer| self.penalties.is_banned(peer)).collect();
        banned.iter().for_each(|peer| self.planner.on_gone(peer, now));
        if self.silence.is_long(now) {
            self.schedule.hurry(now);
        }
        self.show(now);
    }

    /// Carries out what is to be done now.
    fn advance(&mut self) {
        let now = now();
        let syncing = self.planner.state().is_behind();
        for peer in self.schedule.start(syncing, now, rand::random()) {
            let (exchange, ours) = (self.exchange.clone(), self.ours());
            self.jobs.spawn(async move {
                let (sent, started) = (ours.timestamp, runtime::now());
                let result = exchange.greet(peer, ours).await;
                Done::Greeted { peer, sent, took: runtime::now().saturating_duration_since(started), result }
            });
        }
        for output in self.planner.poll(&self.chain, now, &mut rand::random::<f64>) {
            self.carry_out(output);
        }
        let state = self.planner.state();
        if self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state) {
            self.show(now);
        }
    }

    fn carry_out(&mut self, output: Output) {
        let exchange = self.exchange.clone();
        match output {
            Output::Pull { id, peer, span, bytes } => {
                self.jobs.spawn(async move {
                    match exchange.pull(peer, span, bytes).await {
                        Ok(raw) => Done::Answered(id, span, raw),
                        Err(failure) => Done::Pulled(id, Err(failure)),
                    }
                });
            }
            Output::Headers { id, peer, ladder } => {
                self.metrics.searches.inc();
                self.jobs.spawn(async move { Done::Headers(id, exchange.headers(peer, ladder).await) });
            }
            Output::Prove { id, peer, span, fork, told } => {
                self.jobs.spawn(async move { Done::Proven(id, exchange.prove(peer, span, fork, told).await) });
            }
            Output::Import { id, peer, blocks, more } => {
                if self.imports.try_send(Import { id, peer, blocks, more }).is_err() {
                    self.planner.on_imported(id, Imported::Refused, now());
                }
            }
            Output::Report { peer, offence } => {
                self.penalties.report(peer, offence);
                if self.penalties.is_banned(&peer) {
                    self.planner.on_gone(&peer, now());
                }
            }
        }
    }

    /// Shows the progress.
    fn show(&mut self, now: Instant) {
        let height = self.chain.status().head.height;
        self.heights.retain(|(at, _)| now.saturating_duration_since(*at) <= RATE);
        let rate = self.heights.front().map_or(0.0, |(at, before)| {
            let seconds = now.saturating_duration_since(*at).as_secs_f64();
            if seconds > 0.0 { height.saturating_sub(*before) as f64 / seconds } else { 0.0 } // exact enough for people
        });
        self.heights.push_back((now, height));
        let target = self.planner.claims().target(height, now).map_or(height, |t| t.height.max(height));
        let offset = self.offsets.median();
        self.metrics.state.set(self.planner.state() as i64);
        self.metrics.behind.set(i64::try_from(target - height).unwrap_or(i64::MAX));
        self.metrics.clock_offset_ms.set(offset.unwrap_or(0));
        let shown = Progress {
            state: self.planner.state(),
            height,
            target,
            rate,
            peers: self.planner.claims().len(),
            in_flight: self.planner.in_flight(),
            blocks: self.totals.0,
            bytes: self.totals.1,
            clock_offset_ms: offset,
        };
        self.progress.send_if_modified(|before| {
            let changed = *before != shown;
            *before = shown;
            changed
        });
    }
}
