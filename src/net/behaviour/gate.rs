//! Which gossip is let in. gossipsub remembers each message that is new to it for minutes, in three places, whoever sent it and whatever is
//! judged of it, and it keeps the bytes of those on topics that nobody here has joined. Nothing of that has a bound of its own, names cost
//! nothing, and what was once remembered stays until its time is over. So the bound is here, before any of it: messages on other topics
//! go no further; and when more than [`MOST`] messages are remembered, only peers are heard most of whose news were passed on, however many
//! those are, and of others, that did not come a moment ago, [`FREE`] each and [`SPARE`] of all together.
//!
//! What goes no further is none of its sender's faults, who may be as honest as busy: to gossipsub it looks like one message of a topic of
//! nobody's ([`NOWHERE`]), which it knows already.

use std::{
    collections::{HashMap, HashSet},
    io,
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

/// Messages remembered of all peers, some 400 bytes each, above which not everybody is heard.
const MOST: f64 = 200_000.0;
/// So many for each that was passed on are heard of one peer then.
const PER_ACCEPTED: f64 = 5.0;
/// And so many of one whose news go no further, as announcements do that are for us alone: ten a second.
const FREE: f64 = 4096.0;
/// Of all of those.
const SPARE: f64 = 100_000.0;
/// The topic of what is not let in.
const NOWHERE: &str = "nowhere";
/// For how long a peer has to be connected to be heard then.
const NEW: Duration = Duration::from_secs(60);
/// A fifth of what is counted is forgotten each time that this passes: in the mean it is what came within five minutes, the time for which
/// gossip remembers ([`super::REMEMBERED`]); after a burst there may be twice as much.
const FADE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Record {
    since: Instant,
    /// Messages that were new, of late.
    new: f64,
    /// Of these, those that were passed on.
    accepted: f64,
}

#[derive(Debug)]
struct State {
    topics: HashSet<TopicHash>,
    peers: HashMap<PeerId, Record>,
    /// Of all peers, those that are gone too.
    new: f64,
    /// Of these, those that were let in though there were enough.
    spare: f64,
    faded: Instant,
    /// Who sent what gossip is looking at.
    from: Option<PeerId>,
}

impl State {
    fn fade(&mut self, now: Instant) {
        while now.saturating_duration_since(self.faded) >= FADE {
            self.faded += FADE;
            (self.new, self.spare) = (self.new * 0.8, self.spare * 0.8);
            for record in self.peers.values_mut() {
                (record.new, record.accepted) = (record.new * 0.8, record.accepted * 0.8);
            }
        }
    }

    fn admits(&mut self, topic: &TopicHash, now: Instant) -> bool {
        self.fade(now);
        if !self.topics.contains(topic) || self.new < MOST {
            return self.topics.contains(topic);
        }
        let Some(record) = self.from.and_then(|peer| self.peers.get(&peer)) else { return false };
        if record.new < record.accepted * PER_ACCEPTED {
            return true;
        }
        let settled = now.saturating_duration_since(record.since) >= NEW;
        settled && record.new < FREE && self.spare < SPARE
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
            new: 0.0,
            spare: 0.0,
            faded: now,
            from: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    fn up(&self, peer: PeerId, now: Instant) {
        self.state().peers.entry(peer).or_insert(Record { since: now, new: 0.0, accepted: 0.0 });
    }

    fn down(&self, peer: &PeerId) {
        self.state().peers.remove(peer);
    }

    fn begin(&self, from: Option<PeerId>) {
        self.state().from = from;
    }

    /// A message that was new came from this peer, and is remembered.
    pub(in crate::net) fn on_new(&self, peer: &PeerId) {
        let mut guard = self.state();
        let state = &mut *guard;
        let enough = state.new >= MOST;
        state.new += 1.0;
        if let Some(record) = state.peers.get_mut(peer) {
            // Only what is new counts: copies, which the gate sees too, cost nothing.
            if enough && record.new >= record.accepted * PER_ACCEPTED {
                state.spare += 1.0;
            }
            record.new += 1.0;
        }
    }

    /// It was good, and is passed on.
    pub(in crate::net) fn on_accepted(&self, peer: &PeerId) {
        if let Some(record) = self.state().peers.get_mut(peer) {
            record.accepted += 1.0;
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
            FromSwarm::ConnectionEstablished(c) => self.gate.up(c.peer_id, Instant::now()),
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
    fn when_too_much_is_remembered_only_those_are_heard_whose_news_are_passed_on() {
        let (start, topic) = (Instant::now(), gossipsub::IdentTopic::new("ours").hash());
        let gate = Gate::new([topic.clone()], start);
        let [honest, flood, quiet, late] = std::array::from_fn(|_| PeerId::random());
        let hears = |peer: Option<PeerId>, topic: &TopicHash, now| {
            gate.begin(peer);
            gate.state().admits(topic, now)
        };
        [honest, flood, quiet].iter().for_each(|peer| gate.up(*peer, start));
        let later = start + NEW;
        assert!(hears(Some(flood), &topic, later));
        assert!(!hears(Some(honest), &gossipsub::IdentTopic::new("of others").hash(), later));
        for i in 0..20_000 {
            gate.on_new(&honest);
            if i % 4 == 0 {
                gate.on_accepted(&honest);
            }
        }
        (0..200_000).for_each(|_| gate.on_new(&flood));
        (0..3000).for_each(|_| gate.on_new(&quiet));
        gate.up(late, later - Duration::from_secs(1));
        let all = [honest, flood, quiet, late];
        assert_eq!(all.map(|p| hears(Some(p), &topic, later)), [true, false, true, false]);
        assert!(!hears(None, &topic, later));
        gate.on_new(&quiet);
        assert!(gate.state().spare > 0.0);
        // However many there are of whom little comes that is of use: all of them together are heard for so long.
        gate.state().spare = SPARE;
        assert_eq!(all.map(|p| hears(Some(p), &topic, later)), [true, false, false, false]);
        // Who stays is heard again when it is forgotten.
        assert!(!hears(Some(flood), &topic, later));
        assert!(hears(Some(flood), &topic, later + 2 * FADE), "fewer than that are remembered");
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
