//! Our side of order: the numbers of our messages in each of our streams to each recipient, and which of them are still to come.
//!
//! A number is taken when a message is accepted, in order, and given back when that fails and nothing was numbered after it; else it
//! stays a hole, of which the recipient is told like of any message that ended. The next number of a lane is durable with the
//! message that took the one before: batches go to the store in the order of their numbers ([`Lanes::turn`]), so it never goes back. A
//! crash gives back numbers whose messages were not durable, maybe with some parts of them at the recipient (`outbox/early.rs`):
//! those never become whole there, and are told apart by their sequence numbers.
//!
//! # Limits
//! Lanes with pending messages, and [`IDLE`] others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::order::{Lane, Numbers, RANGES, Rank};
use crate::store::StoreError;

/// Lanes without pending messages that are remembered, 100 bytes each; others are read from the store.
const IDLE: usize = 4096;
/// Pending messages that one question is answered with: they are sent again.
const WANTED: usize = 256;

#[derive(Debug)]
struct State {
    next: u64,
    /// Place in the outbox by number.
    pending: BTreeMap<u64, u64>,
}

/// See the module doc.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: std::sync::Mutex<HashMap<Lane, State>>,
    turn: tokio::sync::Mutex<()>,
}

/// The answer to a recipient that misses numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Missed {
    /// Will never come.
    pub(super) never: Vec<Numbers>,
    /// Places of those that will.
    pub(super) pending: Vec<u64>,
}

/// A number that is taken; given back when it is dropped, unless its message was kept.
#[derive(Debug)]
pub(super) struct Number {
    lanes: Arc<Lanes>,
    pub(super) lane: Lane,
    pub(super) rank: Rank,
    kept: bool,
}

impl Number {
    /// Its message is durable.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if !self.kept {
            self.lanes.give_back(&self.lane, self.rank.number);
        }
    }
}

impl Lanes {
    /// Takes over a pending message from the store.
    /// `stored`: as in [`Lanes::take`].
    pub(super) fn load(&self, lane: Lane, (number, seq): (u64, u64), stored: Option<u64>) {
        let mut lanes = self.lock();
        let fresh = || State { next: stored.unwrap_or(1).max(1), pending: BTreeMap::new() };
        let state = lanes.entry(lane).or_insert_with(fresh);
        state.next = state.next.max(number.saturating_add(1));
        state.pending.insert(number, seq);
    }

    /// Whether the next number of a lane is in memory.
    pub(super) fn knows(&self, lane: &Lane) -> bool {
        self.lock().contains_key(lane)
    }

    /// The next number, for the message at `seq`. `stored`: what the store knows of a lane that is not in memory.
    pub(super) fn take(self: &Arc<Self>, lane: Lane, seq: u64, stored: Option<u64>) -> Number {
        let mut lanes = self.lock();
        let fresh = || State { next: stored.unwrap_or(1).max(1), pending: BTreeMap::new() };
        let state = lanes.entry(lane).or_insert_with(fresh);
        let number = state.next;
        state.next += 1;
        state.pending.insert(number, seq);
        let floor = state.pending.first_key_value().map_or(number, |(first, _)| *first);
        Number { lanes: self.clone(), lane, rank: Rank { number, floor }, kept: false }
    }

    /// Held from putting the next numbers into a batch until it waits for the store's writer.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The next number of a lane in memory.
    pub(super) fn next(&self, lane: &Lane) -> Option<u64> {
        self.lock().get(lane).map(|state| state.next)
    }

    /// A message has ended: it never comes any more.
    pub(super) fn ended(&self, lane: &Lane, number: u64) {
        let mut lanes = self.lock();
        let crowded = lanes.len() > IDLE;
        if let Some(state) = lanes.get_mut(lane) {
            state.pending.remove(&number);
            if crowded && state.pending.is_empty() {
                lanes.remove(lane);
            }
        }
    }

    fn give_back(&self, lane: &Lane, number: u64) {
        let mut lanes = self.lock();
        let Some(state) = lanes.get_mut(lane) else { return };
        state.pending.remove(&number);
        if state.next == number + 1 {
            state.next = number;
        }
    }

    /// What becomes of numbers that a recipient misses. `stored`: as in [`Lanes::take`]; of a lane that nobody knows nothing is said:
    /// another device of ours may have it.
    pub(super) fn missed(&self, lane: &Lane, asked: &[Numbers], stored: Option<u64>) -> Missed {
        let (lanes, none) = (self.lock(), BTreeMap::new());
        let state = lanes.get(lane).map(|state| (state.next, &state.pending));
        let Some((next, pending)) = state.or_else(|| Some((stored?, &none))) else { return Missed::default() };
        let mut missed = Missed::default();
        for range in asked.iter().take(RANGES) {
            let (mut from, end) = (range.start.max(1), range.end.min(next));
            if from >= end {
                continue;
            }
            for (number, seq) in pending.range(from..end) {
                if missed.pending.len() == WANTED || missed.never.len() == RANGES {
                    return missed;
                }
                if from < *number {
                    missed.never.push(from..*number);
                }
                from = number + 1;
                missed.pending.push(*seq);
            }
            if from < end && missed.never.len() < RANGES {
                missed.never.push(from..end);
            }
        }
        missed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Lane, State>> {
        self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What the store knows of a lane, when that is needed.
pub(super) fn stored(
    lanes: &Lanes,
    lane: &Lane,
    read: impl FnOnce(&Lane) -> Result<Option<u64>, StoreError>,
) -> Result<Option<u64>, StoreError> {
    if lanes.knows(lane) { Ok(None) } else { read(lane) }
}
