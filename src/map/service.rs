//! The actor: signs and publishes our own record, decides with whom to exchange and whom to probe. It never awaits a
//! peer: what takes time runs in its `JoinSet` and comes back as [`Done`].

mod publish;

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Config, Handle, MapError, State,
    exchange::{self, Context, ExchangeError, Join, Report, Schedule},
    handle::{COMMANDS, Command, check_name, read_probe},
    mirror::Mirror,
    record::{Body, Friend, Record},
    serve, store,
    wire::{Page, Probe, Sync, probe_request},
};
use crate::{
    identity::{EncryptionKey, Identity},
    net::{
        self, PeerEvent, dht,
        pubsub::{PublishError, Publisher, Received},
        rpc::{Client, Inbound},
    },
    primitives::{Clock, NetworkId, PeerId, limits::CLOCK_SKEW},
    runtime::{Backoff, Stop},
    store::Store,
};

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(250);
/// After the start, for the listeners to come up.
const FIRST_PUBLISH: Duration = Duration::from_millis(200);
/// How long the first record waits for an addr to put in it.
const FIRST_ADDRS: Duration = Duration::from_millis(1500);
/// After a connection, for gossipsub to learn what the peer listens to.
const GOSSIP_AFTER_UP: Duration = Duration::from_millis(700);
/// Until a lost peer is probed: it may be reconnecting.
const GRACE: Duration = Duration::from_secs(1);
/// Between samples of nodes that are not connected.
const SAMPLE: Duration = Duration::from_secs(20);
/// Between two looks at who is connected, at what has expired.
const SWEEP: Duration = Duration::from_secs(2);
/// Between two writes of who was seen when.
const FLUSH: Duration = Duration::from_secs(60);
/// Probes at once.
const PROBING: usize = 8;
/// Probes waiting.
const PROBES: usize = 256;
/// A map with no more records than this is paged instead of compared.
const NEARLY_EMPTY: usize = 16;
/// Peers told at once that there is something new to compare.
const SPREAD: usize = 2;

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    /// Our identity: signs our record.
    pub identity: Identity,
    /// Our network.
    pub network: NetworkId,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Where the map is kept.
    pub store: Store,
    /// The map, loaded.
    pub mirror: Mirror,
    /// Connections and our addrs.
    pub net: net::Handle,
    /// Kademlia.
    pub dht: dht::Client,
    /// The topic [`super::wire::TOPIC`].
    pub publisher: Publisher,
    /// What others publish on it.
    pub gossip: mpsc::Receiver<Received>,
    /// `map/page/1`.
    pub page: (Client<Page>, mpsc::Receiver<Inbound<Page>>),
    /// `map/sync/1`.
    pub sync: (Client<Sync>, mpsc::Receiver<Inbound<Sync>>),
    /// `map/probe/1`.
    pub probe: (Client<Probe>, mpsc::Receiver<Inbound<Probe>>),
    /// Our configured name; one set by command later stays until this changes.
    pub name: String,
    /// What we do for others.
    pub roles: Vec<String>,
}

/// What a job brought.
#[derive(Debug)]
enum Done {
    Paged(PeerId, Join, u32, Result<Report, ExchangeError>),
    Compared(PeerId, Result<Report, ExchangeError>),
    Gossiped(Result<(), PublishError>),
    Stored(bool),
    Probed(PeerId, State),
}

/// The map's actor.
#[derive(Debug)]
pub struct Service {
    config: Config,
    identity: Identity,
    network: NetworkId,
    clock: Arc<dyn Clock>,
    store: Store,
    mirror: Mirror,
    net: net::Handle,
    dht: dht::Client,
    publisher: Publisher,
    probe: Client<Probe>,
    context: Context,
    inbound: Option<Queues>,
    commands: mpsc::Receiver<Command>,
    jobs: JoinSet<Done>,
    configured_name: String,
    name: String,
    roles: Vec<String>,
    keys: Vec<EncryptionKey>,
    friends: Vec<Friend>,
    grant_epoch: u64,
    seq: u64,
    own: Option<(Body, Record)>,
    timers: Timers,
    /// Our next record is due even if nothing in it changes.
    forced: bool,
    gossip_due: bool,
    gossiping: bool,
    storing: bool,
    store_backoff: Backoff,
    provided: String,
    schedule: Schedule,
    join: Join,
    joining: bool,
    probes: VecDeque<(Instant, PeerId)>,
    probing: HashSet<PeerId>,
}

#[derive(Debug)]
struct Queues {
    gossip: mpsc::Receiver<Received>,
    page: mpsc::Receiver<Inbound<Page>>,
    sync: mpsc::Receiver<Inbound<Sync>>,
    probe: mpsc::Receiver<Inbound<Probe>>,
}

#[derive(Debug)]
struct Timers {
    started: Instant,
    publish: Option<Instant>,
    takeover: Option<Instant>,
    gossip: Instant,
    spread: Option<Instant>,
    store: Instant,
    sync: Instant,
    sample: Instant,
    sweep: Instant,
    flush: Instant,
}

/// Makes the map's actor and its door. The actor answers nothing before it runs.
///
/// # Errors
/// [`MapError::InvalidName`] for the configured name, or the store's error.
pub fn new(config: Config, deps: Deps) -> Result<(Service, Handle), MapError> {
    check_name(&deps.name)?;
    let name = store::name(&deps.store, &deps.name)?.unwrap_or_else(|| deps.name.clone());
    let previous = deps.mirror.own();
    let seq = store::own_seq(&deps.store)?.max(previous.as_ref().map_or(0, |e| e.seq));
    let (keys, friends, grant_epoch) =
        previous.map_or_else(Default::default, |own| (own.keys, own.friends, own.grant_epoch));
    let (commands, queue) = mpsc::channel(COMMANDS);
    let (probe, probe_queue) = deps.probe;
    let handle = Handle::new(deps.mirror.clone(), commands, deps.dht.clone(), deps.net.clone(), probe.clone());
    let context = Context { mirror: deps.mirror.clone(), page: deps.page.0, sync: deps.sync.0 };
    let inbound = Some(Queues { gossip: deps.gossip, page: deps.page.1, sync: deps.sync.1, probe: probe_queue });
    let now = Instant::now();
    let timers = Timers {
        started: now,
        publish: Some(now + FIRST_PUBLISH),
        takeover: None,
        gossip: now,
        spread: None,
        store: now,
        sync: now + jitter(Duration::from_secs(config.sync_interval_s.max(1))),
        sample: now + jitter(SAMPLE),
        sweep: now,
        flush: now + FLUSH,
    };
    let service = Service {
        config,
        identity: deps.identity,
        network: deps.network,
        clock: deps.clock,
        store: deps.store,
        mirror: deps.mirror,
        net: deps.net,
        dht: deps.dht,
        publisher: deps.publisher,
        probe,
        context,
        inbound,
        commands: queue,
        jobs: JoinSet::new(),
        configured_name: deps.name,
        name,
        roles: deps.roles,
        keys,
        friends,
        grant_epoch,
        seq,
        own: None,
        timers,
        forced: false,
        gossip_due: false,
        gossiping: false,
        storing: false,
        store_backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(300)),
        provided: String::new(),
        schedule: Schedule::default(),
        join: Join::At(None),
        joining: false,
        probes: VecDeque::new(),
        probing: HashSet::new(),
    };
    Ok((service, handle))
}

/// Half to one and a half of `d`.
fn jitter(d: Duration) -> Duration {
    d.mul_f64(0.5 + rand::random::<f64>())
}

impl Service {
    /// Runs until stopped; says goodbye and writes what is left then.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        let mut servers = JoinSet::new();
        if let Some(queues) = self.inbound.take() {
            servers.spawn(serve::pages(self.mirror.clone(), queues.page));
            servers.spawn(serve::comparisons(self.mirror.clone(), queues.sync));
            servers.spawn(serve::probes(self.mirror.clone(), queues.probe));
            servers.spawn(serve::gossip(self.mirror.clone(), queues.gossip));
        }
        let (mut nat, mut own_seen) = (self.net.nat(), self.mirror.own_seen());
        let mut peers = self.net.subscribe();
        for peer in self.net.peers() {
            self.on_up(peer.address);
        }
        let mirror = self.mirror.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(command) = self.commands.recv() => self.on_command(command).await,
                Ok(()) = nat.changed() => self.on_addrs(&mut nat),
                Ok(()) = own_seen.changed() => self.on_own_newer(&mut own_seen),
                event = peers.recv() => self.on_peer(&event),
                () = mirror.grown() => self.spread(None),
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.on_done(done),
                _ = tick.tick() => self.on_tick().await,
            }
        }
        self.jobs.shutdown().await;
        self.goodbye().await;
        servers.shutdown().await;
        self.mirror.flush_seen();
        Ok(())
    }

    async fn on_command(&mut self, command: Command) {
        let (result, answer): (_, oneshot::Sender<_>) = match command {
            Command::SetName(name, answer) => (self.set_name(name).await, answer),
            Command::SetKeys(keys, answer) => (self.set_keys(keys).await, answer),
            Command::SetFriends(friends, epoch, answer) => (self.set_friends(friends, epoch).await, answer),
        };
        // The caller may have gone away; what it asked for is done.
        let _ = answer.send(result.map_err(MapError::from));
    }

    fn on_peer(&mut self, event: &Result<PeerEvent, broadcast::error::RecvError>) {
        match event {
            Ok(PeerEvent::Up(peer)) => self.on_up(*peer),
            Ok(PeerEvent::Down(peer)) => self.queue_probe(*peer, GRACE),
            // Who came is in the peer table; who went will be found by samples.
            Err(_) => self.net.peers().iter().for_each(|p| self.schedule.want(p.address)),
        }
    }

    fn on_up(&mut self, peer: PeerId) {
        self.mirror.heard(&peer);
        self.schedule.want(peer);
        let now = Instant::now();
        if self.gossip_due {
            self.timers.gossip = now + GOSSIP_AFTER_UP;
        }
        if self.store_backoff.tries() > 0 {
            self.timers.store = self.timers.store.min(now + GOSSIP_AFTER_UP);
        }
        self.on_timers(now);
    }

    fn queue_probe(&mut self, peer: PeerId, after: Duration) {
        let waiting = self.probing.contains(&peer) || self.probes.iter().any(|(_, p)| *p == peer);
        if self.probes.len() < PROBES && !waiting {
            self.probes.push_back((Instant::now() + after, peer));
        }
    }

    /// Something new came by comparison: others may lack it too, and gossip does not tell them.
    fn spread(&mut self, from: Option<PeerId>) {
        let mut others: Vec<_> = self.net.peers().into_iter().map(|p| p.address).filter(|p| Some(*p) != from).collect();
        for _ in 0..SPREAD.min(others.len()) {
            let pick = rand::random_range(0..others.len());
            self.schedule.want(others.swap_remove(pick));
        }
    }

    async fn on_tick(&mut self) {
        let now = Instant::now();
        if self.timers.publish.is_some_and(|at| at <= now) {
            self.on_publish(now).await;
        }
        if now >= self.timers.sweep {
            self.timers.sweep = now + SWEEP;
            self.mirror.connected(self.net.peers().into_iter().map(|p| p.address));
            self.mirror.sweep();
            let (wall, quarter) = (self.clock.now(), |b: &Body| b.expires_at.since(b.issued_at) / 4);
            // Signed under a clock that was fast: others refuse it, and a quarter of its life may be years away.
            let ahead = |b: &Body| b.issued_at.since(wall) > CLOCK_SKEW;
            if self.own.as_ref().is_some_and(|(b, _)| wall.since(b.issued_at) >= quarter(b) || ahead(b)) {
                self.try_issue().await;
            }
        }
        if now >= self.timers.flush {
            self.timers.flush = now + FLUSH;
            self.mirror.flush_seen();
        }
        self.on_timers(now);
    }

    fn on_timers(&mut self, now: Instant) {
        if now >= self.timers.sync {
            self.timers.sync = now + jitter(Duration::from_secs(self.config.sync_interval_s.max(1)));
            let peers = self.net.peers();
            if !peers.is_empty() {
                self.schedule.want(peers[rand::random_range(0..peers.len())].address);
            }
        }
        if now >= self.timers.sample {
            self.timers.sample = now + jitter(SAMPLE);
            let net = self.net.clone();
            if let Some(peer) = self.mirror.random(rand::random(), |p| net.is_connected(p)) {
                self.queue_probe(peer, Duration::ZERO);
            }
        }
        if self.timers.spread.is_some_and(|at| at <= now) {
            self.timers.spread = None;
            self.spread(None);
        }
        // The first exchange should bring our record along; it is signed within moments of the start.
        let ready = self.own.is_some() || now - self.timers.started > FIRST_ADDRS;
        while let Some(peer) = if ready { self.schedule.start(now) } else { None } {
            self.start_exchange(peer);
        }
        self.start_gossip(now);
        self.start_store(now);
        self.start_probes(now);
    }

    fn start_exchange(&mut self, peer: PeerId) {
        let context = self.context.clone();
        match self.join {
            Join::At(cursor) if !self.joining && (cursor.is_some() || self.mirror.read().len() <= NEARLY_EMPTY) => {
                self.joining = true;
                self.jobs.spawn(async move {
                    let paging = tokio::time::timeout(exchange::TIMEOUT, exchange::page(&context, peer, cursor));
                    let (join, pulled) = paging.await.unwrap_or((Join::At(cursor), 0));
                    // The comparison brings ours to the peer, and what changed while we read.
                    Done::Paged(peer, join, pulled, exchange::compare(&context, peer).await)
                });
            }
            _ => {
                self.jobs.spawn(async move { Done::Compared(peer, exchange::compare(&context, peer).await) });
            }
        }
    }

    fn start_probes(&mut self, now: Instant) {
        let mut later = VecDeque::new();
        while let Some((at, peer)) = self.probes.pop_front() {
            if at > now || self.probing.len() >= PROBING {
                later.push_back((at, peer));
            } else if !self.net.is_connected(&peer) && self.probing.insert(peer) {
                let probe = self.probe.clone();
                self.mirror.metrics().probes.inc();
                self.jobs.spawn(async move {
                    let result = probe.request(peer, probe_request()).await;
                    Done::Probed(peer, read_probe(&result.map(drop)))
                });
            }
        }
        self.probes = later;
    }

    fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = Instant::now();
        match done {
            Ok(Done::Paged(peer, join, pulled, result)) => {
                self.joining = false;
                self.join = join;
                self.mirror.metrics().pulled.inc_by(pulled.into());
                self.on_compared(peer, result, pulled);
            }
            Ok(Done::Compared(peer, result)) => self.on_compared(peer, result, 0),
            Ok(Done::Gossiped(result)) => {
                self.gossiping = false;
                match result {
                    Ok(()) | Err(PublishError::Duplicate | PublishError::TooLarge | PublishError::Stopped) => {}
                    Err(PublishError::NoPeers | PublishError::Busy) => self.gossip_due = true,
                }
            }
            Ok(Done::Stored(stored)) => {
                self.storing = false;
                if stored {
                    self.store_backoff.reset();
                } else {
                    let retry = now + self.store_backoff.next(rand::random());
                    self.timers.store = self.timers.store.min(retry);
                }
            }
            Ok(Done::Probed(peer, state)) => {
                self.probing.remove(&peer);
                match state {
                    State::Online => self.mirror.heard(&peer),
                    State::Offline => self.mirror.lost(&peer),
                    State::Unknown => {}
                }
            }
            Err(error) => tracing::error!(%error, "a job of the map failed; please report this"),
        }
        self.on_timers(now);
    }

    fn on_compared(&mut self, peer: PeerId, result: Result<Report, ExchangeError>, paged: u32) {
        self.schedule.done(peer, Instant::now());
        let metrics = self.mirror.metrics();
        match result {
            Ok(report) => {
                metrics.sync_rounds.inc();
                metrics.pulled.inc_by(report.pulled.into());
                metrics.pushed.inc_by(report.pushed.into());
                self.mirror.write().complete = report.complete;
                self.mirror.heard(&peer);
                if report.pulled > 0 || paged > 0 {
                    self.spread(Some(peer));
                }
            }
            Err(error) => {
                metrics.sync_failures.inc();
                tracing::debug!(%peer, %error, "comparing maps broke off");
            }
        }
    }
}
