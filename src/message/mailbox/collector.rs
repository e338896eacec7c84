//! The collector machine: which friend is asked when and from where, what is acknowledged to whom, and whose deposit keys each friend
//! should know. No I/O: monotonic times, answers and randomness are arguments, requests are [`Output`]s.
//!
//! ```text
//!  start, hint, friend up, timer ─▶ pull from cursor ─▶ page ─▶ into the inbox ─▶ fates ─┬─ done: ack to all friends
//!                                      ▲                                                 ├─ bad: ack to this friend
//!                                      └───────── more ──────────────────────────────────┤
//!                                      └─ from the first unfinished, when some were done ┴─ part, busy, later: stays there
//! ```
//! What stays there is pulled again when something else was done meanwhile (it may have been the missing part) and by the timer; a
//! hint brings only what is new. So junk that can never be completed neither hides what comes after it nor comes again with each
//! hint. Only `later`, no room for anything, stops a pass.
//!
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
/// Bytes that one friend makes us pull at once, and then in a second: it can number what was acknowledged anew, and say that there
/// is more, for ever.
const BURST: u64 = 512 * 1024 * 1024;
const REFILL: u64 = 1024 * 1024;
/// Bytes of a full page.
const PAGE: u64 = 1024 * 1024;

/// What became of a pulled part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Its message is durable in the inbox.
    Done,
    /// It can never be used.
    Bad,
    /// It is durable, others of its message are missing.
    Part,
    /// Not now: its sender has too many incomplete messages, or it is being stored by another way.
    Busy,
    /// Not now: there is no room for anything.
    Later,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Output {
    /// Pull and deliver; answer with [`Collector::pulled`].
    Pull { friend: PeerId, after: u64 },
    /// Acknowledge; answer with [`Collector::acked`].
    Ack { friend: PeerId, ids: Vec<MessageId> },
    /// Register the deposit keys of these contacts and take back those of others; answer with [`Collector::registered`].
    Register(Keys),
}

/// Contacts whose deposit keys a friend should know, or no longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Keys {
    pub(super) friend: PeerId,
    /// At most [`DESK_ITEMS`] of either.
    pub(super) add: BTreeSet<PeerId>,
    pub(super) revoke: BTreeSet<PeerId>,
}

/// A page, delivered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Delivered {
    /// In order.
    pub(super) items: Vec<(u64, MessageId, Fate)>,
    pub(super) head: u64,
    pub(super) more: bool,
    /// Of the answer.
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct Friend {
    cursor: u64,
    /// The first part that stays there for now.
    unfinished: Option<u64>,
    /// Some of it was busy in this pass.
    busy: bool,
    /// Something was acknowledged in this pass.
    progress: bool,
    wanted: bool,
    /// It was asked once at least, whether it answered or not.
    asked: bool,
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
    /// Bytes that it may still make us pull, and when that was right.
    budget: (u64, Duration),
    /// Whose deposit keys it knows, and whose it was told to forget; in this run of the program, and for an hour at most.
    registered: BTreeSet<PeerId>,
    revoked: BTreeSet<PeerId>,
    registering: bool,
}

impl Friend {
    /// The next pass begins at what stayed there.
    fn go_back(&mut self) {
        if let Some(first) = self.unfinished.take() {
            (self.cursor, self.settle) = (first - 1, true);
        }
    }

    /// Takes bytes from the budget. When there is not enough for another page: when there will be.
    fn charge(&mut self, now: Duration, bytes: u64) -> Result<(), Duration> {
        let (left, at) = self.budget;
        let refill =
            u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX).saturating_mul(REFILL) / 1000;
        let left = left.saturating_add(refill).min(BURST).saturating_sub(bytes);
        self.budget = (left, now);
        let missing = PAGE.saturating_sub(left);
        if missing == 0 { Ok(()) } else { Err(now + Duration::from_millis(missing * 1000 / REFILL)) }
    }
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Collector {
    poll: Duration,
    random: u64,
    friends: HashMap<PeerId, Friend>,
    contacts: BTreeSet<PeerId>,
    removed: BTreeSet<PeerId>,
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
            contacts: BTreeSet::new(),
            removed: BTreeSet::new(),
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
                busy: false,
                progress: false,
                wanted: false,
                asked: false,
                pulling: false,
                acking: false,
                acks: BTreeSet::new(),
                due,
                full_at: now + FULL,
                backoff: Backoff::new(FIRST_RETRY, self.poll),
                pause: now,
                settle: false,
                budget: (BURST, now),
                registered: BTreeSet::new(),
                revoked: BTreeSet::new(),
                registering: false,
            };
            self.friends.insert(*friend, state);
        }
    }

    /// Who is a contact, and who was one.
    pub(super) fn set_contacts(&mut self, now: Duration, contacts: BTreeSet<PeerId>, removed: BTreeSet<PeerId>) {
        for state in self.friends.values_mut() {
            state.registered.retain(|contact| contacts.contains(contact));
            state.revoked.retain(|contact| removed.contains(contact));
        }
        (self.contacts, self.removed) = (contacts, removed);
        let friends: Vec<_> = self.friends.keys().copied().collect();
        friends.into_iter().for_each(|friend| self.pump(now, friend));
    }

    /// All friends, and how many contacts each surely knows.
    pub(super) fn friends(&self) -> impl Iterator<Item = (PeerId, usize)> {
        self.friends.iter().map(|(friend, state)| (*friend, state.registered.len()))
    }

    /// The answer to [`Output::Register`].
    pub(super) fn registered(&mut self, now: Duration, keys: &Keys, ok: bool) {
        let random = self.random();
        let Some(state) = self.friends.get_mut(&keys.friend) else { return };
        state.registering = false;
        if ok {
            // What changed meanwhile is told next.
            state.registered.extend(keys.add.intersection(&self.contacts));
            state.revoked.extend(keys.revoke.intersection(&self.removed));
            state.registered.retain(|contact| !keys.revoke.contains(contact));
            state.revoked.retain(|contact| !keys.add.contains(contact));
        } else {
            state.pause = now + state.backoff.next(random);
        }
        self.pump(now, keys.friend);
    }

    /// The next thing to do.
    pub(super) fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether some friend may have mail that was not pulled yet: it was not asked since the start, or is being asked. One that was not
    /// reached, or that pauses, is not waited for.
    pub(super) fn is_collecting(&self) -> bool {
        self.friends.values().any(|f| f.pulling || !f.asked || (f.wanted && f.backoff.tries() == 0))
    }

    /// When [`Collector::tick`] is next needed.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let due = |f: &Friend| {
            let keys = !f.registering && self.keys_for(f).is_some();
            let waiting = (f.wanted || !f.acks.is_empty()) && !f.pulling && !f.acking || keys;
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
                    (state.cursor, state.unfinished, state.settle) = (0, None, true);
                    // It may have restored a backup that does not know them.
                    state.registered.clear();
                    state.revoked.clear();
                } else if !state.pulling {
                    state.go_back();
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
        (state.pulling, state.asked) = (false, true);
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
                Fate::Part | Fate::Busy | Fate::Later => {
                    state.unfinished = Some(state.unfinished.map_or(seq, |first| first.min(seq)));
                    state.busy |= fate == Fate::Busy;
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
            } else if !state.busy {
                state.backoff.reset();
            }
            state.wanted |= page.more;
        }
        if later {
            state.go_back();
        } else if !page.more {
            let busy = std::mem::take(&mut state.busy);
            if std::mem::take(&mut state.progress) && state.unfinished.is_some() {
                state.wanted = true;
                state.go_back();
            } else if busy {
                state.due = state.due.min(now + state.backoff.next(random));
            }
        }
        if let Err(at) = state.charge(now, page.bytes) {
            state.pause = state.pause.max(at);
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

    /// What a friend should be told of deposit keys; `None`: it knows.
    fn keys_for(&self, friend: &Friend) -> Option<(BTreeSet<PeerId>, BTreeSet<PeerId>)> {
        let missing = |wanted: &BTreeSet<PeerId>, known: &BTreeSet<PeerId>| -> BTreeSet<PeerId> {
            wanted.difference(known).take(DESK_ITEMS).copied().collect()
        };
        let (add, revoke) = (missing(&self.contacts, &friend.registered), missing(&self.removed, &friend.revoked));
        (!add.is_empty() || !revoke.is_empty()).then_some((add, revoke))
    }

    fn pump(&mut self, now: Duration, friend: PeerId) {
        let keys = self.friends.get(&friend).filter(|f| !f.registering).and_then(|f| self.keys_for(f));
        let Some(state) = self.friends.get_mut(&friend) else { return };
        if state.pause > now {
            return;
        }
        if let Some((add, revoke)) = keys {
            state.registering = true;
            self.outputs.push_back(Output::Register(Keys { friend, add, revoke }));
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
