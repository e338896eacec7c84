//! The collector machine: which friend is asked when and from where, and what is acknowledged to whom. No I/O: monotonic times,
//! answers and randomness are arguments, requests are [`Output`]s.
//!
//! ```text
//!  start, hint, friend up, timer ─▶ pull from cursor ─▶ page ─▶ into the inbox ─▶ fates ─┬─ done: ack to all friends
//!                                      ▲                                                 ├─ bad: ack to this friend
//!                                      └───────── more ──────────────────────────────────┤
//!                                      └─ from the first unfinished, when some were done ┴─ part, later: stays there
//! ```
//! A part is acknowledged only when the whole message is durable in the inbox (or finally refused), so whatever crashes, what is not
//! acknowledged is still at the friend and comes again. The cursor lives in memory: after a start everything that a friend still has
//! is pulled, and so is it every hour, which finds what a friend restored from a backup.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::wire::DESK_ITEMS;
use crate::{
    primitives::{MessageId, PeerId},
    runtime::Backoff,
};

/// Friends that are asked: those of our record and those that drain.
pub(super) const FRIENDS: usize = 32;
/// Ids waiting to be acknowledged to one friend; more are not remembered, that friend serves them once more.
const ACKS: usize = 16 * 1024;
/// Ids that were durable lately: copies at other friends need not be looked at again.
const RECENT: usize = 16 * 1024;
/// First pause after a failure; doubles up to the poll interval.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// How often everything that a friend has is pulled, not only what is new.
const FULL: Duration = Duration::from_secs(3600);
/// Friends are asked within this time after a start.
const START_SPREAD: Duration = Duration::from_secs(1);

/// What became of a pulled part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Its message is durable in the inbox.
    Done,
    /// It can never be used.
    Bad,
    /// It is durable, others of its message are missing.
    Part,
    /// Not now.
    Later,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Output {
    /// Pull and deliver; answer with [`Collector::pulled`].
    Pull { friend: PeerId, after: u64 },
    /// Acknowledge; answer with [`Collector::acked`].
    Ack { friend: PeerId, ids: Vec<MessageId> },
}

/// A page, delivered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Delivered {
    /// In order.
    pub(super) items: Vec<(u64, MessageId, Fate)>,
    pub(super) head: u64,
    pub(super) more: bool,
}

#[derive(Debug)]
struct Friend {
    cursor: u64,
    /// The first part that stays there for now, of this pass.
    unfinished: Option<u64>,
    /// Something was acknowledged in this pass.
    progress: bool,
    wanted: bool,
    pulling: bool,
    acking: bool,
    acks: BTreeSet<MessageId>,
    due: Duration,
    full_at: Duration,
    backoff: Backoff,
    /// Not before this, after a failure.
    pause: Duration,
    /// The cursor went back: acknowledge first, or all of that comes again.
    settle: bool,
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Collector {
    poll: Duration,
    random: u64,
    friends: HashMap<PeerId, Friend>,
    recent: HashSet<MessageId>,
    recent_order: VecDeque<MessageId>,
    outputs: VecDeque<Output>,
}

impl Collector {
    /// A collector that asks each friend every `poll`; `seed` makes its jitter.
    pub(super) fn new(poll: Duration, seed: u64) -> Self {
        Self {
            poll: poll.max(Duration::from_secs(10)),
            random: seed,
            friends: HashMap::new(),
            recent: HashSet::new(),
            recent_order: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The friends who keep mail for us; of those that are not among them any more nothing is remembered. Beyond [`FRIENDS`] none
    /// is taken.
    pub(super) fn set_friends(&mut self, now: Duration, friends: &[PeerId]) {
        self.friends.retain(|friend, _| friends.contains(friend));
        for friend in friends {
            if self.friends.len() >= FRIENDS || self.friends.contains_key(friend) {
                continue;
            }
            let due = now + START_SPREAD.mul_f64(self.random());
            let state = Friend {
                cursor: 0,
                unfinished: None,
                progress: false,
                wanted: false,
                pulling: false,
                acking: false,
                acks: BTreeSet::new(),
                due,
                full_at: now + FULL,
                backoff: Backoff::new(FIRST_RETRY, self.poll),
                pause: now,
                settle: false,
            };
            self.friends.insert(*friend, state);
        }
    }

    /// The next thing to do.
    pub(super) fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Collector::tick`] is next needed.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let due = |f: &Friend| {
            let waiting = (f.wanted || !f.acks.is_empty()) && !f.pulling && !f.acking;
            if waiting { f.due.min(f.pause) } else { f.due }
        };
        self.friends.values().map(due).min()
    }

    /// A friend says that it has mail.
    pub(super) fn hinted(&mut self, now: Duration, friend: PeerId) {
        if let Some(state) = self.friends.get_mut(&friend) {
            state.wanted = true;
            self.pump(now, friend);
        }
    }

    /// A friend is connected.
    pub(super) fn appeared(&mut self, now: Duration, friend: PeerId) {
        if let Some(state) = self.friends.get_mut(&friend) {
            state.backoff.reset();
            state.pause = now;
            self.hinted(now, friend);
        }
    }

    /// Events were missed: any friend may have appeared.
    pub(super) fn look_around(&mut self, now: Duration) {
        let friends: Vec<_> = self.friends.keys().copied().collect();
        friends.into_iter().for_each(|friend| self.hinted(now, friend));
    }

    /// Starts what is due.
    pub(super) fn tick(&mut self, now: Duration) {
        let friends: Vec<_> = self.friends.keys().copied().collect();
        for friend in friends {
            let spread = self.poll.mul_f64(1.0 + self.random() / 2.0);
            let Some(state) = self.friends.get_mut(&friend) else { continue };
            if state.due <= now {
                state.due = now + spread;
                state.wanted = true;
                if state.full_at <= now && !state.pulling {
                    state.full_at = now + FULL;
                    (state.cursor, state.settle) = (0, true);
                }
            }
            self.pump(now, friend);
        }
    }

    /// Whether a copy of this message part was durable lately.
    pub(super) fn is_recent(&self, id: &MessageId) -> bool {
        self.recent.contains(id)
    }

    /// The answer to [`Output::Pull`]: the page delivered, or that there was none. Whatever it says is done is durable.
    pub(super) fn pulled(&mut self, now: Duration, friend: PeerId, page: Option<Delivered>) {
        let random = self.random();
        let Some(state) = self.friends.get_mut(&friend) else { return };
        state.pulling = false;
        let Some(page) = page else {
            state.wanted = true;
            state.pause = now + state.backoff.next(random);
            return;
        };
        let lost = page.head < state.cursor;
        if lost {
            // Its numbers went back: it lost something, and what it gets now has numbers that we had passed.
            (state.cursor, state.unfinished, state.wanted, state.settle) = (0, None, true, true);
        }
        let (mut done, mut later, mut bad) = (Vec::new(), false, lost);
        for (seq, id, fate) in page.items {
            state.cursor = if lost { state.cursor } else { state.cursor.max(seq) };
            match fate {
                Fate::Done => done.push(id),
                Fate::Bad => {
                    (state.progress, bad) = (true, true);
                    state.acks.insert(id);
                }
                Fate::Part | Fate::Later => {
                    state.unfinished = Some(state.unfinished.map_or(seq, |first| first.min(seq)));
                    later |= fate == Fate::Later;
                }
            }
        }
        state.progress |= !done.is_empty();
        if later {
            // No room, or too busy here: everything again after a pause.
            state.pause = now + state.backoff.next(random);
            state.wanted = true;
            state.progress = false;
        } else {
            if bad {
                // Whoever left junk, or makes it, does not decide how much we pull.
                state.pause = now + state.backoff.next(random);
            } else {
                state.backoff.reset();
            }
            let again = page.more || std::mem::take(&mut state.progress) && state.unfinished.is_some();
            state.wanted |= again;
        }
        if (later || !page.more)
            && let Some(first) = state.unfinished.take()
        {
            (state.cursor, state.settle) = (first - 1, true);
        }
        self.done(friend, done);
        let friends: Vec<_> = self.friends.keys().copied().collect();
        friends.into_iter().for_each(|friend| self.pump(now, friend));
    }

    /// These are durable: no friend needs to keep them.
    fn done(&mut self, from: PeerId, ids: Vec<MessageId>) {
        for id in ids {
            let known = !self.recent.insert(id);
            if !known {
                self.recent_order.push_back(id);
            }
            for (friend, state) in &mut self.friends {
                // The others were told when it was new.
                if *friend == from || !known && state.acks.len() < ACKS {
                    state.acks.insert(id);
                }
            }
            if self.recent_order.len() > RECENT
                && let Some(old) = self.recent_order.pop_front()
            {
                self.recent.remove(&old);
            }
        }
    }

    /// The answer to [`Output::Ack`].
    pub(super) fn acked(&mut self, now: Duration, friend: PeerId, ids: &[MessageId], ok: bool) {
        let random = self.random();
        let Some(state) = self.friends.get_mut(&friend) else { return };
        state.acking = false;
        if ok {
            state.acks.retain(|id| !ids.contains(id));
        } else {
            state.pause = now + state.backoff.next(random);
        }
        self.pump(now, friend);
    }

    fn pump(&mut self, now: Duration, friend: PeerId) {
        let Some(state) = self.friends.get_mut(&friend) else { return };
        if state.pause > now {
            return;
        }
        if !state.acks.is_empty() && !state.acking {
            state.acking = true;
            let ids = state.acks.iter().take(DESK_ITEMS).copied().collect();
            self.outputs.push_back(Output::Ack { friend, ids });
        }
        state.settle &= !state.acks.is_empty();
        if state.wanted && !state.pulling && !state.settle && state.acks.len() < ACKS / 2 {
            state.wanted = false;
            state.pulling = true;
            self.outputs.push_back(Output::Pull { friend, after: state.cursor });
        }
    }

    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[allow(clippy::cast_precision_loss, reason = "jitter needs no precision")]
        let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}
