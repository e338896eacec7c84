//! The simulator's order: what waits for its turn, what is asked for and answered, and that every inbox shows each stream in order.

use std::collections::HashMap;

use super::{
    super::super::{
        handle::Received,
        lanes::{Lanes, Missed},
        order::{Lane, Numbers, Order, Rank},
        outbox::{Header, is_end},
        wire::StoredMessage,
    },
    Event, Key, NODES, Node, World, stream,
};
use crate::primitives::{MessageId, UnixMillis};

/// A message in an inbox, as it was handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) key: Key,
    number: u64,
    missing: u64,
    late: bool,
}

impl Node {
    /// Takes the number of a message at `seq`; kept when that is durable.
    pub(super) fn number(&mut self, lane: Lane, seq: u64) -> super::super::super::lanes::Number {
        let stored = self.disk.our_next.get(&lane).copied();
        let number = self.lanes.take(lane, seq, stored);
        self.disk.ranks.insert(seq, number.rank);
        number
    }

    /// A message is durable, and so is that its number is taken.
    pub(super) fn numbered(&mut self, lane: Lane) {
        self.disk.our_next.insert(lane, self.lanes.next(&lane).unwrap());
    }

    /// What a crash leaves.
    pub(super) fn load_order(&mut self, now: std::time::Duration) {
        self.lanes = Default::default();
        let pending: Vec<&Header> = self.disk.outbox.values().filter(|h| !is_end(h.state)).collect();
        for header in pending {
            let stored = self.disk.our_next.get(&header.lane()).copied();
            self.lanes.load(header.lane(), (header.number, header.seq), stored);
        }
        self.order = Order::default();
        for ((lane, number), message) in &self.disk.held {
            self.order.load(*lane, self.disk.next_of.get(lane).copied().unwrap_or(*number));
            self.order.load_held(now, *lane, *number, message.clone());
        }
        self.settle(now);
    }

    /// A message that is durable now.
    pub(super) fn arrive(&mut self, now: std::time::Duration, key: Key, rank: Rank, id: MessageId) {
        self.disk.seen.insert(key, id);
        let lane = Lane { peer: key.sender, stream: key.stream };
        if let Some(next) = self.disk.next_of.get(&lane).filter(|_| !self.order.knows(&lane)) {
            self.order.load(lane, *next);
        }
        let received = Received {
            id,
            from: key.sender,
            sent_at: UnixMillis(0),
            received_at: UnixMillis(0),
            bytes: 0,
            read: false,
            file_name: String::new(),
            missing: 0,
            late: false,
        };
        let held = Some((key.stream, rank.number));
        let message = StoredMessage { received, slot: key.seq, parts: 1, held };
        self.numbers.insert(key, rank.number);
        self.order.arrive(now, lane, rank, message);
    }

    /// Hands over what may be, together with what has arrived.
    pub(super) fn settle(&mut self, now: std::time::Duration) {
        if !self.order.is_touched() {
            return;
        }
        let (batch, settled) = self.order.settle(now);
        for held in settled.held {
            let (stream, number) = held.held.unwrap();
            self.disk.held.insert((Lane { peer: held.received.from, stream }, number), held);
        }
        for shown in settled.shown {
            let StoredMessage { received, slot, .. } = shown.message;
            let (sender, seq) = (received.from, slot);
            let key = *self.disk.seen.keys().find(|k| k.sender == sender && k.seq == seq).unwrap();
            let number = self.numbers[&key];
            let lane = Lane { peer: sender, stream: key.stream };
            let was_held = self.disk.held.get(&(lane, number)).is_some_and(|m| m.slot == slot);
            assert_eq!(was_held, shown.was_held);
            if was_held {
                self.disk.held.remove(&(lane, number));
            }
            self.disk.inbox.push(Arrived { key, number, missing: received.missing, late: received.late });
        }
        self.disk.next_of.extend(settled.next);
        self.order.committed(batch);
    }

    /// Each stream of each sender in order, with marks that are true.
    pub(super) fn check_order(&self, seed: u64) -> (u64, u64) {
        assert_eq!((self.order.held(), self.disk.held.len()), (0, 0), "SEED={seed}: nothing waits for ever");
        let (mut next, mut gaps, mut late) = (HashMap::new(), 0, 0);
        for arrived in &self.disk.inbox {
            let Arrived { key, number, missing, late: is_late } = *arrived;
            let lane = (key.sender, key.stream);
            let Some(expected) = next.get(&lane).copied() else {
                assert!(!is_late, "SEED={seed}: nothing was shown before it");
                next.insert(lane, number + 1);
                continue;
            };
            if is_late {
                assert!(number < expected, "SEED={seed}: {arrived:?} is not late, {expected} is next");
                late += 1;
            } else {
                assert_eq!(number.checked_sub(expected), Some(missing), "SEED={seed}: {arrived:?}, {expected} is next");
                next.insert(lane, number + 1);
                gaps += u64::from(missing > 0);
            }
        }
        (gaps, late)
    }
}

impl World {
    pub(super) fn turns(&mut self, node: usize) {
        let now = self.clock().mono;
        let epoch = self.nodes[node].epoch;
        self.nodes[node].order.tick(now, false);
        self.nodes[node].settle(now);
        while let Some((lane, missing)) = self.nodes[node].order.question(now) {
            self.asked += 1;
            let to = self.nodes.iter().position(|n| n.id == lane.peer).unwrap();
            if self.offline(node) || self.offline(to) || self.fault(20) {
                self.later(3000, Event::Missed { node: (node, epoch), lane, never: None });
            } else {
                self.later(200, Event::Missing { node: (node, epoch), to, lane, missing });
            }
        }
    }

    pub(super) fn missing(&mut self, from: (usize, u32), to: usize, lane: Lane, missing: &[Numbers]) {
        let (now, ours) = (self.clock(), Lane { peer: self.nodes[from.0].id, stream: stream(to) });
        assert_eq!(lane.stream, ours.stream);
        let node = &mut self.nodes[to];
        let Missed { never, pending } = node.lanes.missed(&ours, missing, node.disk.our_next.get(&ours).copied());
        let headers = node.disk.outbox.values().filter(|h| h.lane() == ours);
        for header in headers.filter(|h| node.outbox.get(h.seq).is_some()) {
            assert!(!never.iter().any(|range| range.contains(&header.number)), "{} is still to come", header.number);
        }
        node.outbox.wanted(now, ours.peer, &pending);
        self.carry_out(to);
        let never = (!self.fault(20)).then_some(never);
        self.later(200, Event::Missed { node: from, lane, never });
    }

    pub(super) fn missed(&mut self, node: usize, lane: Lane, never: Option<&[Numbers]>) {
        let now = self.clock().mono;
        self.nodes[node].order.answered(lane, never);
        self.nodes[node].settle(now);
    }

    pub(super) fn check_orders(&self, seed: u64) -> (u64, u64) {
        let all = (0..NODES).map(|at| self.nodes[at].check_order(seed));
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

pub(super) type Ours = std::sync::Arc<Lanes>;
