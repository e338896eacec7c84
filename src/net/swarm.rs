//! The swarm task: commands and events of the node itself. No protocol has an arm here.
//!
//! Every arm is short: nothing awaits, nothing reads or writes a disk but Kademlia's point operations.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Swarm, SwarmBuilder,
    core::transport::ListenerId,
    gossipsub, kad,
    metrics::Recorder,
    multiaddr::Protocol,
    noise,
    pnet::PreSharedKey,
    swarm::{ConnectionId, DialError, SwarmEvent, dial_opts::DialOpts, dial_opts::PeerCondition},
};
use tokio::sync::{broadcast, mpsc};

use super::{
    AddrBook, CommandError, Config, Handle, PeerEvent, Reachability, StartError,
    bans::Bans,
    behaviour::{self, BehaviourEvent, Lean},
    dht,
    handle::{Answer, COMMANDS, Command, EVENTS, PeerTable},
    metrics::Metrics,
    peers::Peers,
    pubsub::{self, Topics},
    rpc, transport,
};
use crate::{
    identity::Identity,
    primitives::{Clock, Multiaddr, NetworkId, PeerId},
    runtime::Stop,
    store::Store,
    telemetry::Registry,
};

mod connections;
mod external;
mod gossip;
mod kademlia;
mod nat;
mod upnp;

/// How often connections are looked over; each round is jittered by the random choice of candidates.
const ROUND: Duration = Duration::from_secs(2);
/// For the configured listeners to report their addrs.
const LISTEN: Duration = Duration::from_secs(5);
/// Connections to one peer are left alone this long: both sides are still busy with the one they have.
const SETTLE: Duration = Duration::from_secs(10);
/// For connections to say goodbye at the end.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the network is built from.
pub struct Deps {
    /// Our key.
    pub identity: Identity,
    /// The network's name.
    pub network: NetworkId,
    /// Addrs, limits, switches.
    pub config: Config,
    /// The saved map.
    pub book: Arc<dyn AddrBook>,
    /// Request-response protocols.
    pub protocols: rpc::Protocols,
    /// Gossip topics.
    pub topics: Topics,
    /// Which Kademlia records are kept.
    pub policy: dht::SharedPolicy,
    /// For Kademlia's records.
    pub store: Store,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").field("identity", &self.identity).field("network", &self.network).finish_non_exhaustive()
    }
}

/// A built network that does not run yet.
pub struct Network {
    swarm: Swarm<Lean>,
    server: Option<rpc::Server>,
    config: Config,
    book: Arc<dyn AddrBook>,
    commands: mpsc::Receiver<Command>,
    queries: mpsc::Receiver<dht::Query>,
    topics: Topics,
    senders: HashMap<gossipsub::TopicHash, mpsc::Sender<pubsub::Received>>,
    events: broadcast::Sender<PeerEvent>,
    table: PeerTable,
    bans: Bans,
    peers: Peers,
    nat: nat::Nat,
    upnp: upnp::Upnp,
    kad: kademlia::Pending,
    /// Dials that a caller started, with the peer it expects there.
    dials: HashMap<ConnectionId, (Option<PeerId>, Answer<PeerId>)>,
    /// Callers waiting for a dial that somebody else started.
    joined: HashMap<PeerId, Vec<Answer<PeerId>>>,
    bootstrapping: HashMap<ConnectionId, Multiaddr>,
    paths: HashMap<PeerId, Vec<connections::Path>>,
    listens: HashMap<ListenerId, Listener>,
    last_round: Instant,
    metrics: Arc<Metrics>,
    libp2p_metrics: libp2p::metrics::Metrics,
}

#[derive(Debug, Default)]
struct Listener {
    addrs: Vec<Multiaddr>,
    answer: Option<Answer<Multiaddr>>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("local", self.swarm.local_peer_id()).finish_non_exhaustive()
    }
}

/// Builds the network; nothing listens or dials before [`Network::listen`] and [`Network::run`]. Must be called inside a tokio
/// runtime.
///
/// # Errors
/// [`StartError`] when the private key cannot be read, or a transport or behaviour cannot be made.
pub fn build(deps: Deps, registry: &mut Registry) -> Result<(Network, Handle, dht::Client), StartError> {
    let Deps { identity, network, config, book, protocols, topics, policy, store, clock } = deps;
    let local = identity.address();
    let setup = |e: &dyn std::fmt::Display| StartError::Setup(e.to_string());
    let bans = Bans::load(store.clone(), clock.clone()).map_err(|e| setup(&e))?;
    let records =
        dht::RecordStore::new(local, store, policy.clone(), clock, config.dht_max_records).map_err(|e| setup(&e))?;
    let private = private_key(&config)?;
    let (rpc, server) = protocols.build();
    let metrics = Metrics::register(registry);
    let libp2p_registry = registry.sub_registry_with_prefix("vos");
    let libp2p_metrics = libp2p::metrics::Metrics::new(libp2p_registry);
    let gossip = behaviour::gossip(&topics, libp2p_registry)?;
    let parts = behaviour::Parts {
        identity: &identity,
        network: &network,
        config: &config,
        book: book.clone(),
        banned: bans.list(),
        records,
        gossip,
        rpc,
    };
    let transport = transport::build(identity.keypair(), private)?;
    let swarm = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_other_transport(|_| transport)
        .map_err(|e| setup(&e))?
        .with_relay_client(noise::Config::new, transport::yamux_config)
        .map_err(|e| setup(&e))?
        .with_bandwidth_metrics(libp2p_registry)
        .with_behaviour(|_, relay_client| behaviour::build(parts, relay_client).map_err(Into::into))
        .map_err(|e| setup(&e))?
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(config.idle_timeout_s)))
        .with_connection_timeout(Duration::from_secs(10))
        .build();
    let (queue, commands) = mpsc::channel(COMMANDS);
    let (client, queries) = dht::Client::new();
    let (events, _) = broadcast::channel(EVENTS);
    let (nat, watched) = nat::Nat::new(&config);
    let table = PeerTable::default();
    let handle = Handle {
        local,
        commands: queue,
        events: events.clone(),
        peers: table.clone(),
        bans: bans.clone(),
        nat: watched,
    };
    let senders =
        topics.joined.iter().map(|j| (gossipsub::IdentTopic::new(j.topic.clone()).hash(), j.sender.clone())).collect();
    let peers = Peers::new(config.target_peers, config.high_water, config.bootstrap.clone(), Instant::now());
    let network = Network {
        swarm,
        server: Some(server),
        config,
        book,
        commands,
        queries,
        topics,
        senders,
        events,
        table,
        bans,
        peers,
        nat,
        upnp: upnp::Upnp::new(),
        kad: kademlia::Pending::new(policy),
        dials: HashMap::new(),
        joined: HashMap::new(),
        bootstrapping: HashMap::new(),
        paths: HashMap::new(),
        listens: HashMap::new(),
        last_round: Instant::now(),
        metrics,
        libp2p_metrics,
    };
    Ok((network, handle, client))
}

fn private_key(config: &Config) -> Result<Option<PreSharedKey>, StartError> {
    let file = &config.private_key_file;
    if file.is_empty() {
        return Ok(None);
    }
    let fail = |why: &dyn std::fmt::Display| StartError::Setup(format!("private key {file}: {why}"));
    let size = std::fs::metadata(file).map_err(|e| fail(&e))?.len();
    if size > 4096 {
        return Err(fail(&"longer than any key file"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| fail(&e))?;
    let key = text.trim().parse().map_err(|e| fail(&e))?;
    tracing::info!("private network: QUIC is off, since it cannot carry the pre-shared key");
    Ok(Some(key))
}

impl Network {
    /// Starts all configured listeners and waits for their addrs. Returns the addrs.
    ///
    /// # Errors
    /// [`StartError::Listen`] naming the addr, e.g. when the port is in use.
    pub async fn listen(&mut self) -> Result<Vec<Multiaddr>, StartError> {
        let private = !self.config.private_key_file.is_empty();
        let mut waiting = HashMap::new();
        for addr in self.config.listen.clone() {
            if private && addr.iter().any(|p| matches!(p, Protocol::QuicV1)) {
                tracing::warn!(%addr, "not listening: QUIC is off in a private network");
                continue;
            }
            let failed = |why: String| StartError::Listen { addr: addr.clone(), why };
            let id = self.swarm.listen_on(addr.clone()).map_err(|e| failed(listen_error_text(&e)))?;
            self.listens.insert(id, Listener::default());
            waiting.insert(id, addr);
        }
        for addr in self.config.external.clone() {
            self.swarm.add_external_address(addr.clone());
        }
        let deadline = tokio::time::Instant::now() + LISTEN;
        while !waiting.is_empty() {
            let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await else {
                let addr = waiting.into_values().next().expect("checked above");
                return Err(StartError::Listen { addr, why: "no addr within 5 s".to_owned() });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                SwarmEvent::ListenerClosed { listener_id, reason: Err(e), .. } => {
                    if let Some(addr) = waiting.remove(listener_id) {
                        return Err(StartError::Listen { addr, why: e.to_string() });
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        Ok(self.nat.snapshot().listen)
    }

    /// The task that serves inbound requests; it may be taken once.
    ///
    /// # Panics
    /// When called twice.
    pub fn take_server(
        &mut self,
    ) -> impl FnOnce(Stop) -> futures::future::BoxFuture<'static, Result<(), std::convert::Infallible>> + use<> {
        let server = self.server.take().expect("the server is taken once");
        move |stop| Box::pin(server.run(stop))
    }

    /// Runs until stopped; then closes all connections.
    ///
    /// # Errors
    /// None; the type is what a supervisor wants.
    pub async fn run(mut self, stop: Stop) -> Result<(), std::convert::Infallible> {
        self.nat.refresh_mode(&mut self.swarm);
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.wait() => break,
                event = self.swarm.select_next_some() => {
                    let start = Instant::now();
                    self.on_event(event);
                    self.metrics.event_took(start.elapsed().as_secs_f64());
                }
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(query) = self.queries.recv() => self.kad.start(query, &mut self.swarm.behaviour_mut().kad),
                Some(publish) = self.topics.queue.recv() => self.on_publish(publish),
                Some(judged) = self.topics.judged.recv() => self.on_verdict(&judged),
                _ = round.tick() => self.on_round(),
            }
        }
        self.goodbye().await;
        Ok(())
    }

    async fn goodbye(&mut self) {
        // The router's answers are not told, so there is all the time for them.
        let mapped = self.upnp.is_mapped();
        for id in self.listens.keys() {
            self.swarm.remove_listener(*id);
        }
        let connected: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while mapped || self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        // Peers that do not answer notice the closed socket.
        let _ = tokio::time::timeout(GOODBYE, closed).await;
    }

    fn on_round(&mut self) {
        let candidates = match self.peers.wanted() {
            0 => Vec::new(),
            n => self.neighbours().into_iter().chain(self.book.candidates(n)).collect(),
        };
        // Of topics that everybody is told of directly all peers are in the mesh, which keeps nobody connected.
        let few = self.topics.joined.iter().filter(|joined| !joined.mesh.everybody);
        let gossip = &self.swarm.behaviour().gossip;
        let few: Vec<_> = few.map(|joined| gossipsub::IdentTopic::new(joined.topic.clone()).hash()).collect();
        let meshed: HashSet<_> = few.iter().flat_map(|topic| gossip.mesh_peers(topic)).copied().collect();
        for peer in self.bans.take_ended() {
            tracing::info!(%peer, "a ban is over");
            self.swarm.behaviour_mut().bans.unblock_peer(peer);
        }
        let candidates = candidates.into_iter().filter(|p: &PeerId| !self.bans.contains(p)).collect();
        let round = self.peers.round(Instant::now(), candidates, |p| meshed.contains(p), rand::random::<f64>);
        for peer in round.dial_peers {
            // An error means no addr, or already dialling: the pause has been set.
            let _ = self.swarm.dial(DialOpts::peer_id(peer).build());
        }
        for addr in round.dial_addrs {
            tracing::debug!(%addr, "dialling bootstrap node");
            let opts = dial_opts(super::peer_of(&addr), vec![addr.clone()]);
            let id = opts.connection_id();
            if self.swarm.dial(opts).is_ok() {
                self.bootstrapping.insert(id, addr);
            }
        }
        for peer in round.close {
            tracing::debug!(%peer, "closing the youngest connections above the high-water mark");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        self.close_dead(Instant::now());
        self.close_surplus();
        self.joined.retain(|_, answers| {
            answers.retain(|a| !a.is_closed());
            !answers.is_empty()
        });
        self.nat.on_round(Instant::now());
        self.search_router(Instant::now());
        self.nat.refresh_mode(&mut self.swarm);
        self.nat.reserve(&mut self.swarm, &self.table, self.config.relay_client);
    }

    fn on_command(&mut self, command: Command) {
        // A caller that went away needs no answer: results of `send` are dropped on purpose.
        match command {
            Command::Connect { peer, addrs, answer } => self.connect(peer, addrs, answer),
            Command::Disconnect { peer, answer } => {
                let known = self.swarm.disconnect_peer_id(peer);
                let _ = answer.send(known.map_err(|()| CommandError::NotFound(format!("not connected to {peer}"))));
            }
            Command::Listen { addr, answer } => match self.swarm.listen_on(addr) {
                Ok(id) => {
                    self.listens.insert(id, Listener { addrs: Vec::new(), answer: Some(answer) });
                }
                Err(e) => drop(answer.send(Err(CommandError::Invalid(listen_error_text(&e))))),
            },
            Command::Unlisten { addr, answer } => {
                let id = self.listens.iter().find(|(_, l)| l.addrs.contains(&addr)).map(|(id, _)| *id);
                let removed = id.is_some_and(|id| self.swarm.remove_listener(id));
                let missing = || CommandError::NotFound(format!("not listening on {addr}"));
                let _ = answer.send(if removed { Ok(()) } else { Err(missing()) });
            }
            Command::Ban { peer, answer } => {
                self.swarm.behaviour_mut().bans.block_peer(peer);
                self.swarm.behaviour_mut().kad.remove_peer(&peer);
                let _ = answer.send(Ok(()));
            }
            Command::Unban { peer, answer } => {
                self.swarm.behaviour_mut().bans.unblock_peer(peer);
                self.peers.forgive(&peer);
                let _ = answer.send(Ok(()));
            }
        }
    }

    fn connect(&mut self, peer: Option<PeerId>, addrs: Vec<Multiaddr>, answer: Answer<PeerId>) {
        if let Some(peer) = peer {
            if self.bans.contains(&peer) {
                return drop(answer.send(Err(CommandError::Banned(peer))));
            }
            if self.swarm.is_connected(&peer) {
                return drop(answer.send(Ok(peer)));
            }
        }
        let opts = dial_opts(peer, addrs);
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(id, (peer, answer))),
            // Somebody else dials it: that dial's end is the answer.
            Err(DialError::DialPeerConditionFalse(_)) if let Some(peer) = peer => {
                self.joined.entry(peer).or_default().push(answer);
            }
            Err(e) => drop(answer.send(Err(CommandError::Unreachable(super::dial_error_text(&e))))),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        self.libp2p_metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                if let Some(addr) = self.bootstrapping.remove(&connection_id) {
                    self.peers.on_bootstrapped(&addr, peer_id);
                }
                self.answer_dials(peer_id, connection_id);
                self.on_established(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_error(connection_id, peer_id, &error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                tracing::info!(addr = %address, "listening");
                // A place at a relay is no other network.
                if !super::is_relayed(&address) {
                    self.peers.forgive_all(Instant::now());
                }
                let listener = self.listens.entry(listener_id).or_default();
                listener.addrs.push(address.clone());
                if let Some(answer) = listener.answer.take() {
                    let _ = answer.send(Ok(address));
                }
                self.publish_addrs();
            }
            SwarmEvent::ExpiredListenAddr { listener_id, address } => {
                if let Some(listener) = self.listens.get_mut(&listener_id) {
                    listener.addrs.retain(|a| *a != address);
                }
                external::ip(&address).into_iter().for_each(|gone| self.on_ip_gone(gone));
                self.publish_addrs();
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(Listener { answer: Some(answer), .. }) = self.listens.remove(&listener_id) {
                    let why = reason.err().map_or_else(|| "the listener closed".to_owned(), |e| e.to_string());
                    let _ = answer.send(Err(CommandError::Invalid(why)));
                }
                self.nat.on_listener_closed(listener_id);
                self.publish_addrs();
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.nat.on_confirmed(&address);
                self.publish_addrs();
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                self.nat.on_expired(&address);
                self.publish_addrs();
            }
            _ => {}
        }
    }

    fn on_dial_error(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let text = super::dial_error_text(error);
        if !matches!(error, DialError::DialPeerConditionFalse(_)) {
            self.metrics.dial_failed();
            tracing::debug!(peer = peer.map(tracing::field::display), %text, "dial failed");
        }
        self.bootstrapping.remove(&id);
        if let Some((_, answer)) = self.dials.remove(&id) {
            let _ = answer.send(Err(CommandError::Unreachable(text.clone())));
        }
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        for answer in peer.and_then(|p| self.joined.remove(&p)).unwrap_or_default() {
            let _ = answer.send(Err(CommandError::Unreachable(text.clone())));
        }
    }

    /// A connection to `peer` is there: whoever waited for one has it, whichever dial made it.
    fn answer_dials(&mut self, peer: PeerId, id: ConnectionId) {
        let done = self.dials.extract_if(|dial, (wanted, _)| *dial == id || *wanted == Some(peer));
        let done: Vec<_> = done.map(|(_, (_, answer))| answer).collect();
        for answer in done.into_iter().chain(self.joined.remove(&peer).unwrap_or_default()) {
            let _ = answer.send(Ok(peer));
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(event) => {
                self.libp2p_metrics.record(&event);
                self.on_identify(event);
            }
            BehaviourEvent::Ping(event) => {
                self.libp2p_metrics.record(&event);
                self.on_ping(&event);
            }
            BehaviourEvent::Kad(event) => {
                self.libp2p_metrics.record(&event);
                if let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event {
                    self.kad.on_progress(id, result, step.last);
                }
            }
            BehaviourEvent::Gossip(event) => {
                self.libp2p_metrics.record(&event);
                self.on_gossip(event);
            }
            BehaviourEvent::Dcutr(event) => {
                self.libp2p_metrics.record(&event);
                self.on_punched(&event);
            }
            BehaviourEvent::Relay(event) => self.libp2p_metrics.record(&event),
            BehaviourEvent::AutonatClient(event) => {
                self.nat.on_tested(&mut self.swarm, event.server, &event.tested_addr, event.result.is_ok());
                self.publish_addrs();
            }
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Upnp(event) => self.on_upnp(&event),
            BehaviourEvent::RelayClient(event) => tracing::debug!(?event, "relay"),
            BehaviourEvent::AutonatServer(event) => tracing::debug!(?event, "reachability test served"),
            BehaviourEvent::Bans(never)
            | BehaviourEvent::Limits(never)
            | BehaviourEvent::PerIp(never)
            | BehaviourEvent::Memory(never)
            | BehaviourEvent::Book(never)
            | BehaviourEvent::Rpc(never) => match never {},
        }
    }

    fn publish_addrs(&mut self) {
        let listen: Vec<_> = self.listens.values().flat_map(|l| l.addrs.iter().cloned()).collect();
        self.nat.review(&mut self.swarm, &listen);
        self.review_upnp(&listen);
        let external = self.swarm.external_addresses().cloned().collect();
        self.nat.set_addrs(listen, external);
        self.nat.refresh_mode(&mut self.swarm);
    }
}

fn dial_opts(peer: Option<PeerId>, addrs: Vec<Multiaddr>) -> DialOpts {
    match (peer, addrs) {
        (Some(peer), addrs) if addrs.is_empty() => DialOpts::peer_id(peer).build(),
        // Also while it is being dialled: this addr may be the one that is right.
        (Some(peer), addrs) => DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(addrs).build(),
        (None, addrs) => {
            let addr = addrs.into_iter().next().unwrap_or_else(Multiaddr::empty);
            DialOpts::unknown_peer_id().address(addr).build()
        }
    }
}

fn listen_error_text(error: &libp2p::TransportError<std::io::Error>) -> String {
    match error {
        libp2p::TransportError::MultiaddrNotSupported(addr) => {
            format!("{addr} is not an addr to listen on (tcp, udp/../quic-v1, tcp/../ws)")
        }
        libp2p::TransportError::Other(e) => super::root_cause(e),
    }
}

use super::handle::PeerTable as Table;
