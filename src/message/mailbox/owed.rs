//! The machine of receipts that we owe: to whom, when it is tried, and when they are left with friends. No I/O: times and answers are
//! arguments.
//!
//! ```text
//!  durable ─▶ owed ─▶ brought ─┬─ taken, or refused ─▶ forgotten
//!                ▲             └─ not reached ─▶ pause ─┬─▶ again
//!                └──────────────────────────────────────┴─▶ a letter: left with friends of the sender, once
//! ```
//! They are durable before the message is acknowledged to a friend, and forgotten when the sender has taken them or would not want
//! them any more; one that was left stays owed until then, since friends lose things, too. A lost one costs the sender a direct try:
//! that is answered with a receipt too.
//!
//! # Limits
//! A letter names up to 64 messages, and what gathers between two letters makes the next: to one sender one in [`LETTER_PAUSE`] and
//! [`LETTERS_A_DAY`], so receipts take little of what we may leave with its friends. Where there is no room for one, none is tried for an
//! hour or more: messages go first.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

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
/// Letters on their way at one time.
const LETTERS: usize = 4;
/// From the first try that did not reach a sender to the first letter: more may gather.
pub(super) const LETTER_AFTER: Duration = Duration::from_secs(2);
/// From one letter to the next one to the same sender.
pub(super) const LETTER_PAUSE: Duration = Duration::from_secs(60);
/// First and longest pause after a letter that no friend took.
const LETTER_RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(4 * 3600));
/// Letters to one sender in a day.
pub(super) const LETTERS_A_DAY: u32 = 64;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Receipts for one sender.
#[derive(Debug)]
struct Sender {
    entries: HashMap<MessageId, UnixMillis>,
    /// Those that no friend of the sender has.
    unleft: BTreeSet<MessageId>,
    flying: bool,
    next_try: Duration,
    backoff: Backoff,
    /// When the next letter may go; `None`: it was not found to be away.
    letter_at: Option<Duration>,
    writing: bool,
    letter_backoff: Backoff,
    /// Letters since this.
    letters: (u32, Duration),
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
    writing: usize,
    random: u64,
}

impl Owed {
    pub(super) fn new(seed: u64) -> Self {
        Self { senders: HashMap::new(), count: 0, flying: 0, writing: 0, random: seed }
    }

    /// Whether another one would be noted.
    pub(super) fn has_room(&self) -> bool {
        self.count < ALL
    }

    /// A durable one. `left`: friends of the sender have it.
    pub(super) fn add(&mut self, now: Duration, (sender, id, at): (PeerId, MessageId, UnixMillis), left: bool) {
        if !self.has_room() {
            return;
        }
        let state = self.senders.entry(sender).or_insert_with(|| Sender {
            entries: HashMap::new(),
            unleft: BTreeSet::new(),
            flying: false,
            next_try: now,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            letter_at: None,
            writing: false,
            letter_backoff: Backoff::new(LETTER_RETRY.0, LETTER_RETRY.1),
            letters: (0, now),
        });
        let new = state.entries.insert(id, at).is_none();
        self.count += usize::from(new);
        if new && !left {
            state.unleft.insert(id);
        }
    }

    /// A sender is connected: no letter is needed, unless it turns out that it is not reached.
    pub(super) fn appeared(&mut self, now: Duration, peer: &PeerId) {
        if let Some(state) = self.senders.get_mut(peer) {
            state.backoff.reset();
            state.next_try = now;
            state.letter_at = None;
        }
    }

    /// The next list to bring, if one is due; answer with [`Owed::answered`].
    pub(super) fn next(&mut self, now: Duration) -> Option<Errand> {
        if self.flying >= FLIGHTS {
            return None;
        }
        let due = |(_, s): &(&PeerId, &mut Sender)| s.try_due().is_some_and(|at| at <= now);
        let (peer, state) = self.senders.iter_mut().find(due)?;
        state.flying = true;
        self.flying += 1;
        Some((*peer, state.entries.iter().take(BATCH_PARTS).map(|(id, at)| (*id, *at)).collect()))
    }

    /// The next letter, if one is due; answer with [`Owed::lettered`].
    pub(super) fn next_letter(&mut self, now: Duration) -> Option<Errand> {
        if self.writing >= LETTERS {
            return None;
        }
        let due = |(_, s): &(&PeerId, &mut Sender)| s.letter_due().is_some_and(|at| at <= now);
        let (peer, state) = self.senders.iter_mut().find(due)?;
        if state.letters.1 + DAY <= now {
            state.letters = (0, now);
        }
        state.letters.0 += 1;
        state.writing = true;
        self.writing += 1;
        let list = state.unleft.iter().take(BATCH_PARTS);
        Some((*peer, list.filter_map(|id| Some((*id, *state.entries.get(id)?))).collect()))
    }

    /// When [`Owed::next`] or [`Owed::next_letter`] may have one.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let tries = self.senders.values().filter(|_| self.flying < FLIGHTS).filter_map(Sender::try_due);
        let letters = self.senders.values().filter(|_| self.writing < LETTERS).filter_map(Sender::letter_due);
        tries.chain(letters).min()
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
            state.letter_at.get_or_insert(now.mono + LETTER_AFTER);
        } else {
            state.backoff.reset();
            state.letter_at = None;
        }
        let gone = list.iter().filter(|(_, at)| taken != Taken::NotNow || over(*at)).map(|(id, _)| *id);
        let gone: Vec<_> = gone.filter(|id| state.entries.remove(id).is_some()).collect();
        for id in &gone {
            state.unleft.remove(id);
        }
        self.count -= gone.len();
        if state.entries.is_empty() && !state.writing {
            self.senders.remove(peer);
        }
        gone
    }

    /// A letter was left with a friend of the sender, or none took it. What is owed still and was left: to be remembered.
    pub(super) fn lettered(
        &mut self,
        now: Duration,
        (peer, list): &Errand,
        left: bool,
    ) -> Vec<(MessageId, UnixMillis)> {
        let random = self.random();
        self.writing -= 1;
        let Some(state) = self.senders.get_mut(peer) else { return Vec::new() };
        state.writing = false;
        let pause = if left {
            state.letter_backoff.reset();
            LETTER_PAUSE
        } else {
            state.letter_backoff.next(random)
        };
        // It may have appeared meanwhile.
        state.letter_at = state.letter_at.map(|_| now + pause);
        let was_left: Vec<_> = list.iter().filter(|(id, _)| left && state.unleft.remove(id)).copied().collect();
        if state.entries.is_empty() && !state.flying {
            self.senders.remove(peer);
        }
        was_left
    }

    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_precision_loss, reason = "jitter needs no precision")]
        let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}

impl Sender {
    fn try_due(&self) -> Option<Duration> {
        (!self.flying && !self.entries.is_empty()).then_some(self.next_try)
    }

    fn letter_due(&self) -> Option<Duration> {
        if self.writing || self.unleft.is_empty() {
            return None;
        }
        let (letters, since) = self.letters;
        self.letter_at.map(|at| if letters < LETTERS_A_DAY { at } else { at.max(since + DAY) })
    }
}
