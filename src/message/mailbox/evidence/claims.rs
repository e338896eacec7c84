//! The machine of claims, at the sender: what is still to be settled with which recipient, and when. No I/O: times, answers and
//! randomness are arguments.
//!
//! ```text
//!  ended ─▶ waiting ─▶ claimed at the recipient ─┬─ done ─▶ taken back from friends ─▶ forgotten
//!              ▲                                 └─ later, not reached ─┐
//!              └──────────────── growing pause ◀────────────────────────┘
//! ```
//! First the claim, then the withdrawal: a friend that was told that it need not keep a part owes it no more, and what it had lost
//! before could not be told any more. A claim ends with the promise, so nothing waits for ever.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    time::Duration,
};

use crate::{primitives::PeerId, runtime::Backoff};

/// Messages of all recipients, 100 bytes of memory each; beyond it they wait on disk for the next start.
pub(super) const ALL: usize = 65_536;
/// Messages settled with one recipient at one time.
pub(super) const BATCH: usize = 64;
/// Recipients at one time.
const FLIGHTS: usize = 8;
/// First and longest pause.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// What is to be done about an ended message that was left with friends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::message) struct Settle {
    /// Tell the recipient what its friends signed.
    pub(in crate::message) claim: bool,
    /// Tell the friends that they need not keep it.
    pub(in crate::message) withdraw: bool,
}

impl Settle {
    /// Delivered by us: the recipient may not have got it from its friends.
    pub(in crate::message) const DELIVERED: Self = Self { claim: true, withdraw: true };
    /// Collected by the recipient, who acknowledges it to all its friends.
    pub(in crate::message) const COLLECTED: Self = Self { claim: true, withdraw: false };
    /// The recipient is not to have it.
    pub(in crate::message) const TAKEN_BACK: Self = Self { claim: false, withdraw: true };
    /// Only forget what friends signed.
    pub(in crate::message) const OVER: Self = Self { claim: false, withdraw: false };

    fn and(self, other: Self) -> Self {
        Self { claim: self.claim || other.claim, withdraw: self.withdraw || other.withdraw }
    }
}

#[derive(Debug)]
struct Owner {
    waiting: BTreeMap<u64, Settle>,
    /// The last one that was tried: the others come first.
    cursor: u64,
    flying: bool,
    next_try: Duration,
    backoff: Backoff,
}

/// What is to be settled with a recipient now.
pub(super) type Errand = (PeerId, Vec<(u64, Settle)>);

/// See the module doc.
#[derive(Debug)]
pub(super) struct Claims {
    owners: HashMap<PeerId, Owner>,
    count: usize,
    flying: usize,
    random: u64,
}

impl Claims {
    pub(super) fn new(seed: u64) -> Self {
        Self { owners: HashMap::new(), count: 0, flying: 0, random: seed }
    }

    /// A message for `owner` has ended. `false`: there is no room for it now.
    pub(super) fn add(&mut self, now: Duration, owner: PeerId, seq: u64, settle: Settle) -> bool {
        if self.count >= ALL {
            return false;
        }
        let state = self.owners.entry(owner).or_insert_with(|| Owner {
            waiting: BTreeMap::new(),
            cursor: 0,
            flying: false,
            next_try: now,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        });
        let known = state.waiting.get(&seq).copied();
        state.waiting.insert(seq, known.unwrap_or_default().and(settle));
        self.count += usize::from(known.is_none());
        true
    }

    /// A recipient is connected.
    pub(super) fn appeared(&mut self, now: Duration, owner: &PeerId) {
        if let Some(state) = self.owners.get_mut(owner) {
            state.backoff.reset();
            state.next_try = now;
        }
    }

    /// The next errand, if one is due; answer with [`Claims::answered`].
    pub(super) fn next(&mut self, now: Duration) -> Option<Errand> {
        if self.flying >= FLIGHTS {
            return None;
        }
        let due = |(_, state): &(&PeerId, &mut Owner)| !state.flying && state.next_try <= now;
        let (owner, state) = self.owners.iter_mut().find(due)?;
        let rest = state.waiting.range((Bound::Excluded(state.cursor), Bound::Unbounded));
        let first = state.waiting.range(..=state.cursor);
        let batch: Vec<_> = rest.chain(first).take(BATCH).map(|(seq, settle)| (*seq, *settle)).collect();
        state.cursor = batch.last().map_or(0, |(seq, _)| *seq);
        state.flying = true;
        self.flying += 1;
        Some((*owner, batch))
    }

    /// When [`Claims::next`] may have one.
    pub(super) fn next_due(&self) -> Option<Duration> {
        if self.flying >= FLIGHTS {
            return None;
        }
        self.owners.values().filter(|state| !state.flying).map(|state| state.next_try).min()
    }

    /// An errand ended: whether all of it is settled.
    pub(super) fn answered(&mut self, now: Duration, (owner, batch): &Errand, done: bool) {
        let random = self.random();
        self.flying -= 1;
        let Some(state) = self.owners.get_mut(owner) else { return };
        state.flying = false;
        if done {
            // What was added to meanwhile is settled again.
            for (seq, settle) in batch {
                if state.waiting.get(seq) == Some(settle) {
                    state.waiting.remove(seq);
                    self.count -= 1;
                }
            }
            state.backoff.reset();
            state.next_try = now;
        } else {
            state.next_try = now + state.backoff.next(random);
        }
        if state.waiting.is_empty() {
            self.owners.remove(owner);
        }
    }

    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_precision_loss, reason = "jitter needs no precision")]
        let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}
