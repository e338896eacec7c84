//! The machine of receipts that we owe: to whom, and when it is tried. No I/O: times and answers are arguments.
//!
//! They are durable before the message is acknowledged to a friend, and forgotten when the sender has taken them or would not want
//! them any more. A lost one costs the sender a direct try: that is answered with a receipt too.

use std::{collections::HashMap, time::Duration};

use crate::{
    message::{inbox::MAX_TTL, outbox::Now, wire::BATCH_PARTS},
    primitives::{MessageId, PeerId, UnixMillis},
    runtime::Backoff,
};

/// Receipts owed to all senders, 150 bytes of memory each; beyond it new ones are not noted.
const ALL: usize = 100_000;
/// Senders tried at one time.
const FLIGHTS: usize = 16;
/// First and longest pause before the same sender is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(900));

/// Receipts for one sender.
#[derive(Debug)]
struct Sender {
    entries: HashMap<MessageId, UnixMillis>,
    flying: bool,
    next_try: Duration,
    backoff: Backoff,
}

/// How a sender answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It has them.
    Yes,
    /// It will not take them.
    Never,
    /// It was not reached.
    NotNow,
}

/// A list for a sender.
pub(super) type Errand = (PeerId, Vec<(MessageId, UnixMillis)>);

/// See the module doc.
#[derive(Debug)]
pub(super) struct Owed {
    senders: HashMap<PeerId, Sender>,
    count: usize,
    flying: usize,
    random: u64,
}

impl Owed {
    pub(super) fn new(seed: u64) -> Self {
        Self { senders: HashMap::new(), count: 0, flying: 0, random: seed }
    }

    /// Whether another one would be noted.
    pub(super) fn has_room(&self) -> bool {
        self.count < ALL
    }

    /// A durable one.
    pub(super) fn add(&mut self, now: Duration, (sender, id, at): (PeerId, MessageId, UnixMillis)) {
        if !self.has_room() {
            return;
        }
        let state = self.senders.entry(sender).or_insert_with(|| Sender {
            entries: HashMap::new(),
            flying: false,
            next_try: now,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        });
        self.count += usize::from(state.entries.insert(id, at).is_none());
    }

    /// A sender is connected.
    pub(super) fn appeared(&mut self, now: Duration, peer: &PeerId) {
        if let Some(state) = self.senders.get_mut(peer) {
            state.backoff.reset();
            state.next_try = now;
        }
    }

    /// The next list to bring, if one is due; answer with [`Owed::answered`].
    pub(super) fn next(&mut self, now: Duration) -> Option<Errand> {
        if self.flying >= FLIGHTS {
            return None;
        }
        let due = |(_, s): &(&PeerId, &mut Sender)| !s.flying && s.next_try <= now;
        let (peer, state) = self.senders.iter_mut().find(due)?;
        state.flying = true;
        self.flying += 1;
        Some((*peer, state.entries.iter().take(BATCH_PARTS).map(|(id, at)| (*id, *at)).collect()))
    }

    /// When [`Owed::next`] may have one.
    pub(super) fn next_due(&self) -> Option<Duration> {
        if self.flying >= FLIGHTS {
            return None;
        }
        self.senders.values().filter(|s| !s.flying).map(|s| s.next_try).min()
    }

    /// A list was brought, or not. Which ids are to be forgotten in the store.
    pub(super) fn answered(&mut self, now: Now, (peer, list): &Errand, taken: Taken) -> Vec<MessageId> {
        let random = self.random();
        self.flying -= 1;
        let Some(state) = self.senders.get_mut(peer) else { return Vec::new() };
        state.flying = false;
        let over = |at: UnixMillis| now.wall.since(at) > MAX_TTL;
        if taken == Taken::NotNow {
            state.next_try = now.mono + state.backoff.next(random);
        } else {
            state.backoff.reset();
        }
        let gone = list.iter().filter(|(_, at)| taken != Taken::NotNow || over(*at)).map(|(id, _)| *id);
        let gone: Vec<_> = gone.filter(|id| state.entries.remove(id).is_some()).collect();
        self.count -= gone.len();
        if state.entries.is_empty() {
            self.senders.remove(peer);
        }
        gone
    }

    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_precision_loss, reason = "jitter needs no precision")]
        let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}
