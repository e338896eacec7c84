//! Which gossip is let in. gossipsub remembers each message that is new to it for minutes, in three places, whoever sent it and whatever is
//! judged of it, and it keeps the bytes of those on topics that nobody here has joined. Nothing of that has a bound of its own, and what
//! was once remembered stays until its time is over. So the bound is here, before any of it: messages on other topics go no further; when
//! more than [`MOST`] messages are remembered, each host has an equal share of what is left up to [`CEILING`], of each topic, so that
//! transactions do not crowd out news of blocks; and beyond that nothing new is heard until some of it is forgotten.
//!
//! Shares go by address and not by name, since names cost nothing, and stay when a host's connections end. Whether what a host sends is
//! of use is not asked: to send what is passed on costs no more. All that come through relays, and from this machine, have one together.
//!
//! What goes no further is none of its sender's faults, who may be as honest as busy: to gossipsub it looks like one message of a topic of
//! nobody's ([`NOWHERE`]), which it knows already.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{self, DataTransform, IdentityTransform, Message, RawMessage, TopicHash},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

use super::per_ip::host_of;

/// Of those on this machine, and behind relays.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Messages remembered in all, some 400 bytes each, above which hosts have shares: 670 a second.
const MOST: f64 = 200_000.0;
/// And the most that there may be: 200 MB, and after a burst up to twice as much ([`FADE`]).
const CEILING: f64 = 500_000.0;
/// The topic of what is not let in.
const NOWHERE: &str = "nowhere";
/// For how long a host has to be known to have a share.
const NEW: Duration = Duration::from_secs(60);
/// A fifth of what is counted is forgotten each time that this passes: in the mean it is what came within five minutes, the time for which
/// gossip remembers ([`super::REMEMBERED`]); after a burst there may be twice as much.
const FADE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Host {
    since: Instant,
    /// Messages that were new, of late, by topic.
    new: HashMap<TopicHash, f64>,
}

#[derive(Debug)]
struct State {
    topics: HashSet<TopicHash>,
    /// Connected peers, and where they are.
    peers: HashMap<PeerId, IpAddr>,
    /// Those that are connected, and those of whose messages some are remembered.
    hosts: HashMap<IpAddr, Host>,
    /// Messages that were new, of all.
    new: f64,
    faded: Instant,
    /// Who sent what gossip is looking at.
    from: Option<PeerId>,
}

impl State {
    fn fade(&mut self, now: Instant) {
        while now.saturating_duration_since(self.faded) >= FADE {
            self.faded += FADE;
            self.new *= 0.8;
            let connected: HashSet<IpAddr> = self.peers.values().copied().collect();
            self.hosts.retain(|ip, host| {
                host.new.values_mut().for_each(|new| *new *= 0.8);
                host.new.retain(|_, new| *new >= 1.0);
                !host.new.is_empty() || connected.contains(ip)
            });
        }
    }

    /// What each host may have of each topic.
    fn share(&self) -> f64 {
        let shares = (self.hosts.len() + 1) * self.topics.len().max(1);
        (CEILING - MOST) / shares as f64 // far below what a float holds
    }

    fn admits(&mut self, topic: &TopicHash, now: Instant) -> bool {
        self.fade(now);
        if !self.topics.contains(topic) || self.new < MOST {
            return self.topics.contains(topic);
        }
        let ip = self.from.and_then(|peer| self.peers.get(&peer));
        let Some(host) = ip.and_then(|ip| self.hosts.get(ip)).filter(|_| self.new < CEILING) else { return false };
        let settled = now.saturating_duration_since(host.since) >= NEW;
        settled && host.new.get(topic).is_none_or(|new| *new < self.share())
    }
}

fn nowhere() -> TopicHash {
    gossipsub::IdentTopic::new(NOWHERE).hash()
}

/// What gossip asks of each message, and what is counted. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::net) struct Gate(Arc<Mutex<State>>);

impl Gate {
    fn new(topics: impl IntoIterator<Item = TopicHash>, now: Instant) -> Self {
        let topics = topics.into_iter().collect();
        Self(Arc::new(Mutex::new(State {
            topics,
            peers: HashMap::new(),
            hosts: HashMap::new(),
            new: 0.0,
            faded: now,
            from: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    fn up(&self, peer: PeerId, ip: IpAddr, now: Instant) {
        let mut state = self.state();
        // One that is here in two ways counts where it can be told from others.
        if ip != NO_ADDRESS || !state.peers.contains_key(&peer) {
            state.peers.insert(peer, ip);
        }
        state.hosts.entry(ip).or_insert_with(|| Host { since: now, new: HashMap::new() });
    }

    fn down(&self, peer: &PeerId) {
        self.state().peers.remove(peer);
    }

    fn begin(&self, from: Option<PeerId>) {
        self.state().from = from;
    }

    /// A message that was new came from this peer, and is remembered. Only what is new counts: copies, which the gate sees too, cost nothing.
    pub(in crate::net) fn on_new(&self, peer: &PeerId, topic: &TopicHash) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.new += 1.0;
        if let Some(host) = state.peers.get(peer).and_then(|ip| state.hosts.get_mut(ip)) {
            *host.new.entry(topic.clone()).or_default() += 1.0;
        }
    }
}

impl DataTransform for Gate {
    fn inbound_transform(&self, message: RawMessage) -> io::Result<Message> {
        match self.state().admits(&message.topic, Instant::now()) {
            true => IdentityTransform.inbound_transform(message),
            false => Ok(Message { source: None, data: Vec::new(), sequence_number: None, topic: nowhere() }),
        }
    }

    fn outbound_transform(&self, topic: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        IdentityTransform.outbound_transform(topic, data)
    }
}

/// gossipsub with its gate.
pub(in crate::net) type Gossip = gossipsub::Behaviour<Gate>;

/// Tells the gate who is there, and who sent what gossip looks at.
pub(in crate::net) struct Gated {
    gossip: Gossip,
    gate: Gate,
}

impl Gated {
    /// gossipsub for these topics.
    pub(super) fn new(
        config: gossipsub::Config,
        topics: impl IntoIterator<Item = TopicHash>,
    ) -> Result<Self, &'static str> {
        let gate = Gate::new(topics, Instant::now());
        let gossip = Gossip::new_with_transform(gossipsub::MessageAuthenticity::Anonymous, config, gate.clone())?;
        Ok(Self { gossip, gate })
    }

    /// The same with gossipsub's metrics.
    pub(super) fn with_metrics(self, registry: &mut crate::telemetry::Registry) -> Self {
        let gossip = self.gossip.with_metrics(registry, gossipsub::MetricsConfig::default());
        Self { gossip, ..self }
    }

    pub(in crate::net) fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl std::ops::Deref for Gated {
    type Target = Gossip;

    fn deref(&self) -> &Gossip {
        &self.gossip
    }
}

impl std::ops::DerefMut for Gated {
    fn deref_mut(&mut self) -> &mut Gossip {
        &mut self.gossip
    }
}

impl NetworkBehaviour for Gated {
    type ConnectionHandler = THandler<Gossip>;
    type ToSwarm = gossipsub::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.gossip.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.gossip.handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(c) => {
                let ip = host_of(c.endpoint.get_remote_address()).unwrap_or(NO_ADDRESS);
                self.gate.up(c.peer_id, ip, Instant::now());
            }
            FromSwarm::ConnectionClosed(c) if c.remaining_established == 0 => self.gate.down(&c.peer_id),
            _ => {}
        }
        self.gossip.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.gate.begin(Some(peer));
        self.gossip.on_connection_handler_event(peer, id, event);
        self.gate.begin(None);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.gossip.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_much_is_remembered_each_host_has_its_share_and_then_nobody_has() {
        let start = Instant::now();
        let [topic, other] = ["ours", "others"].map(|name| gossipsub::IdentTopic::new(name).hash());
        let gate = Gate::new([topic.clone(), other.clone()], start);
        let [honest, flood, again, late] = std::array::from_fn(|_| PeerId::random());
        let ip = |n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
        let hears = |peer: Option<PeerId>, topic: &TopicHash, now| {
            gate.begin(peer);
            gate.state().admits(topic, now)
        };
        gate.up(honest, ip(1), start);
        gate.up(flood, ip(2), start);
        let later = start + NEW;
        assert!(hears(Some(flood), &topic, later));
        assert!(!hears(Some(honest), &gossipsub::IdentTopic::new("of nobody").hash(), later));
        (0..200_000).for_each(|_| gate.on_new(&flood, &topic));
        // Its other names, and what it may still say of something else.
        gate.up(again, ip(2), later);
        gate.down(&flood);
        gate.up(late, ip(3), later - Duration::from_secs(1));
        let all = [Some(honest), Some(flood), Some(again), Some(late), None];
        assert_eq!(all.map(|p| hears(p, &topic, later)), [true, false, false, false, false]);
        assert_eq!(all.map(|p| hears(p, &other, later)), [true, false, true, false, false]);
        let share = gate.state().share();
        assert!((share - 37_500.0).abs() < 1.0, "of three hosts, two topics, and one more: {share}");
        (0..37_500).for_each(|_| gate.on_new(&honest, &topic));
        assert_eq!([&topic, &other].map(|t| hears(Some(honest), t, later)), [false, true]);
        gate.state().new = CEILING;
        assert!(!hears(Some(honest), &other, later), "nobody is");
        // What is forgotten makes room, and whoever is gone for long has no share.
        let much_later = later + 5 * FADE;
        assert_eq!([honest, again].map(|p| hears(Some(p), &topic, much_later)), [true, true]);
        gate.down(&again);
        assert!(hears(Some(honest), &topic, much_later + 60 * FADE));
        assert_eq!(gate.state().hosts.len(), 2);
    }

    #[test]
    fn what_is_not_let_in_is_one_message_of_nobody_s_topic() {
        let gate = Gate::new([gossipsub::IdentTopic::new("ours").hash()], Instant::now());
        let message = |topic: &str, data: &[u8]| RawMessage {
            source: None,
            data: data.to_vec(),
            sequence_number: None,
            topic: gossipsub::IdentTopic::new(topic).hash(),
            signature: None,
            key: None,
            validated: true,
        };
        let ours = gate.inbound_transform(message("ours", b"news")).unwrap();
        assert_eq!((&ours.topic, &ours.data[..]), (&gossipsub::IdentTopic::new("ours").hash(), &b"news"[..]));
        let others = [b"one", b"two"].map(|data| gate.inbound_transform(message("of others", data)).unwrap());
        assert!(others.iter().all(|m| m.topic == nowhere() && m.data.is_empty()));
    }
}
