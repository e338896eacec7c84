//! The order machine: messages of one stream of one sender are handed over in the order in which they were accepted there. No I/O:
//! times and answers are arguments, what is to be shown and asked are return values.
//!
//! ```text
//!  durable message ─▶ arrive ─┬─ its turn ──────────────▶ shown, and what waited for it
//!                             ├─ early ─▶ held, durable ─┬─ the missing ones came ─▶ shown
//!                             │                          ├─ its sender says that they never will ─▶ shown with a gap mark
//!                             │                          └─ HOLD is over ─▶ shown with a gap mark
//!                             └─ late: its turn is over ─▶ shown at once, marked
//! ```
//! A sender counts its messages to each recipient in each stream without holes, from 1 on (`lanes.rs`), and every message says
//! from which number on its sender still waits for a receipt: the *floor*. What is below has ended there, so it never comes, and
//! nothing waits for it. So the lane of a sender begins at the floor of the first message that is seen of it, also when we
//! lost what we knew. A gap in front of a held message is what can still come: its sender is asked for it (`Missing`), and answers
//! which of the numbers never will; the others it sends again.
//!
//! Early messages are durable and receipted like others, so nothing depends on when they are shown. A message waits no
//! longer than [`HOLD`] after it came, whatever is missing in front of it, longer only while friends are still asked what they
//! keep for us, and [`LONGEST`] at most. The mark is how many numbers were missing right before a message when it was shown. When one of
//! them comes later it is shown as late; the mark stays, it tells what was so.
//!
//! # Limits
//! [`PER_LANE`] held messages of a stream and [`ALL`] together, beyond it a stream's gaps are given up at once. What is known of a stream
//! that nothing is held of is one small row in the store, aged like the marks of seen messages. A sender that numbers badly, far
//! ahead or twice, spoils the marks of its own messages only.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    time::Duration,
};

use super::wire::StoredMessage;
use crate::primitives::{PeerId, StreamId};

/// How long a message waits for those before it.
pub(super) const HOLD: Duration = Duration::from_secs(10);
/// How long it waits while friends are asked what they keep for us.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked whether they still are.
const LOOK: Duration = Duration::from_secs(1);
/// Held messages of one stream. A held message is 1 KiB of memory at most, half of it as a rule.
pub(super) const PER_LANE: usize = 8 * 1024;
/// Held messages of all streams.
pub(super) const ALL: usize = 32 * 1024;
/// Streams of which nothing is held that are kept in memory, 200 bytes each; others are read from the store.
const LANES: usize = 8 * 1024;
/// A gap that is this old was not made by requests that overtook each other: its sender is asked.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(300);
/// When it is asked again: it was not reached, or what it sent again was lost.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// How often a sender is asked for what is missing at one place.
const ASKS: u32 = 3;
/// Senders asked at one time.
const ASKING: usize = 16;
/// Ranges of missing numbers in one question, and of lost ones in an answer.
pub(super) const RANGES: usize = 64;

/// Numbers from the first one to before the other.
pub(super) type Numbers = Range<u64>;

/// Where a message stands among those of its stream for its recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rank {
    /// From 1 on, without holes.
    pub(super) number: u64,
    /// Numbers below had ended at the sender when this one was sealed. Not above `number`.
    pub(super) floor: u64,
}

/// A stream between us and a peer: theirs to us here, ours to them in `lanes.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Lane {
    pub(super) peer: PeerId,
    pub(super) stream: StreamId,
}

/// A message that is handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shown {
    /// With its marks.
    pub(super) message: StoredMessage,
    /// Whether it is in the store as a held one.
    pub(super) was_held: bool,
}

/// What one batch changes.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// In order.
    pub(super) shown: Vec<Shown>,
    /// Held from now on.
    pub(super) held: Vec<StoredMessage>,
    /// The next number of streams.
    pub(super) next: Vec<(Lane, u64)>,
}

/// A question to a sender, and which of the numbers are missing; answer with [`Order::answered`].
pub(super) type Question = (Lane, Vec<Numbers>);

#[derive(Debug)]
struct Held {
    message: StoredMessage,
    at: Duration,
    saved: bool,
}

#[derive(Debug)]
struct Stream {
    /// Everything below was shown or given up.
    next: u64,
    floor: u64,
    held: BTreeMap<u64, Held>,
    /// The same by when they came.
    waits: BTreeSet<(Duration, u64)>,
    /// Shown with the next batch, in the order in which they came: in their turn, or late.
    ready: Vec<StoredMessage>,
    due: Option<Duration>,
    ask_at: Option<Duration>,
    asks: u32,
    asking: bool,
    touched: bool,
    /// The next number that the store knows.
    written: Option<u64>,
    /// The last batch with something of it.
    batch: u64,
}

/// All streams of all senders.
#[derive(Debug, Default)]
pub(super) struct Order {
    streams: HashMap<Lane, Stream>,
    touched: Vec<Lane>,
    due: BTreeSet<(Duration, Lane)>,
    asks: BTreeSet<(Duration, Lane)>,
    held: usize,
    asking: usize,
    batch: u64,
    durable: u64,
    /// Streams in memory before it is looked which of them may go.
    crowd: usize,
}

impl Order {
    /// Whether a stream is in memory, so that the store need not be asked.
    pub(super) fn knows(&self, lane: &Lane) -> bool {
        self.streams.contains_key(lane)
    }

    /// Held messages.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes over what the store knows of a stream: its next number.
    pub(super) fn load(&mut self, lane: Lane, next: u64) {
        self.streams.entry(lane).or_insert_with(|| Stream::new(next, Some(next)));
    }

    /// Takes over a held message from the store; its stream was loaded before.
    pub(super) fn load_held(&mut self, now: Duration, lane: Lane, number: u64, message: StoredMessage) {
        let Some(stream) = self.streams.get_mut(&lane) else { return };
        let twice = stream.held.insert(number, Held { message, at: now, saved: true });
        self.held += usize::from(twice.is_none());
        stream.waits.insert((now, number));
        self.touch(lane);
    }

    /// A message that becomes durable with the next batch. Of a stream that is not known this is the first one.
    pub(super) fn arrive(&mut self, now: Duration, lane: Lane, rank: Rank, message: StoredMessage) {
        let Rank { number, floor } = rank;
        let stream = self.streams.entry(lane).or_insert_with(|| Stream::new(floor.min(number), None));
        stream.floor = stream.floor.max(floor.min(number));
        if number < stream.next || stream.held.contains_key(&number) {
            let received = crate::message::Received { late: true, ..message.received };
            stream.ready.push(StoredMessage { received, held: None, ..message });
        } else if number == stream.next && stream.held.is_empty() {
            // As a rule.
            stream.next += 1;
            stream.ready.push(StoredMessage { held: None, ..message });
        } else {
            stream.held.insert(number, Held { message, at: now, saved: false });
            stream.waits.insert((now, number));
            self.held += 1;
        }
        if !std::mem::replace(&mut stream.touched, true) {
            self.touched.push(lane);
        }
    }

    /// Its sender answered: these numbers never come. `None`: it did not.
    pub(super) fn answered(&mut self, lane: Lane, never: Option<&[Numbers]>) {
        self.asking = self.asking.saturating_sub(1);
        let Some(stream) = self.streams.get_mut(&lane) else { return };
        stream.asking = false;
        let mut never: Vec<_> = never.unwrap_or_default().to_vec();
        never.sort_unstable_by_key(|range| range.start);
        let mut reach = stream.reach();
        for range in never {
            while stream.held.contains_key(&reach) {
                reach += 1;
            }
            if range.start <= reach {
                reach = reach.max(range.end);
            }
        }
        stream.floor = stream.floor.max(reach);
        self.touch(lane);
    }

    /// When [`Order::tick`] is next needed.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let ask = self.asks.first().filter(|_| self.asking < ASKING);
        [self.due.first(), ask].into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Gives up what was waited for long enough; settle afterwards. `collecting`: friends are still asked what they keep for us.
    pub(super) fn tick(&mut self, now: Duration, collecting: bool) {
        while let Some((at, lane)) = self.due.first().copied().filter(|due| due.0 <= now) {
            self.due.remove(&(at, lane));
            let Some(stream) = self.streams.get_mut(&lane) else { continue };
            stream.due = None;
            let hold = if collecting { LONGEST } else { HOLD };
            stream.give_up(|came| came + hold <= now);
            self.touch(lane);
        }
    }

    /// The next sender to be asked, if one is due.
    pub(super) fn question(&mut self, now: Duration) -> Option<Question> {
        while self.asking < ASKING {
            let (at, lane) = self.asks.first().copied().filter(|ask| ask.0 <= now)?;
            self.asks.remove(&(at, lane));
            let Some(stream) = self.streams.get_mut(&lane) else { continue };
            stream.ask_at = None;
            let missing = stream.missing();
            if missing.is_empty() || stream.asking {
                continue;
            }
            stream.asks += 1;
            stream.asking = true;
            self.asking += 1;
            return Some((lane, missing));
        }
        None
    }

    /// Whether a batch is needed.
    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// What the next batch holds, and its number: told when it is durable ([`Order::committed`]).
    pub(super) fn settle(&mut self, now: Duration) -> (u64, Settled) {
        self.batch += 1;
        let mut settled = Settled::default();
        for lane in std::mem::take(&mut self.touched) {
            let Some(stream) = self.streams.get_mut(&lane) else { continue };
            stream.touched = false;
            stream.batch = self.batch;
            let held = stream.held.len();
            let ready = std::mem::take(&mut stream.ready).into_iter();
            settled.shown.extend(ready.map(|message| Shown { message, was_held: false }));
            stream.hand_over(&mut settled.shown);
            if stream.held.len() > PER_LANE || self.held - (held - stream.held.len()) > ALL {
                stream.give_up(|_| true);
                stream.hand_over(&mut settled.shown);
            }
            self.held -= held - stream.held.len();
            for held in stream.held.values_mut().filter(|held| !held.saved) {
                held.saved = true;
                settled.held.push(held.message.clone());
            }
            if stream.written != Some(stream.next) {
                stream.written = Some(stream.next);
                stream.asks = 0;
                settled.next.push((lane, stream.next));
            }
            self.plan(now, lane);
        }
        (self.batch, settled)
    }

    /// A batch is durable, and those before it.
    pub(super) fn committed(&mut self, batch: u64) {
        self.durable = self.durable.max(batch);
        if self.streams.len() > self.crowd.max(LANES) {
            let durable = self.durable;
            // What is in the store can be read again.
            self.streams.retain(|_, s| !s.held.is_empty() || s.touched || s.asking || s.batch > durable);
            self.crowd = self.streams.len() * 2;
        }
    }

    fn touch(&mut self, lane: Lane) {
        if let Some(stream) = self.streams.get_mut(&lane)
            && !std::mem::replace(&mut stream.touched, true)
        {
            self.touched.push(lane);
        }
    }

    /// When a stream is to be looked at again.
    fn plan(&mut self, now: Duration, lane: Lane) {
        let Some(stream) = self.streams.get_mut(&lane) else { return };
        let due = stream.waits.first().map(|(came, _)| *came + HOLD);
        // Past it only while friends are asked.
        let due = due.map(|due| if due > now { due } else { now + LOOK });
        // Not later than it was: those that came first are waited for no longer by what came after them.
        let due = due.map(|due| stream.due.map_or(due, |old| old.min(due)));
        if due != stream.due {
            if let Some(old) = std::mem::replace(&mut stream.due, due) {
                self.due.remove(&(old, lane));
            }
            self.due.extend(due.map(|due| (due, lane)));
        }
        let pause = if stream.asks == 0 { ASK_AFTER } else { ASK_AGAIN };
        let wanted = !stream.held.is_empty() && !stream.asking && stream.asks < ASKS;
        match (wanted, stream.ask_at) {
            (true, None) => {
                stream.ask_at = Some(now + pause);
                self.asks.insert((now + pause, lane));
            }
            (false, Some(at)) => {
                stream.ask_at = None;
                self.asks.remove(&(at, lane));
            }
            _ => {}
        }
    }
}

impl Stream {
    fn new(next: u64, written: Option<u64>) -> Self {
        Self {
            next,
            floor: next,
            held: BTreeMap::new(),
            waits: BTreeSet::new(),
            ready: Vec::new(),
            due: None,
            ask_at: None,
            asks: 0,
            asking: false,
            touched: false,
            written,
            batch: 0,
        }
    }

    /// Nothing below this can still come in its turn.
    fn reach(&self) -> u64 {
        self.next.max(self.floor)
    }

    /// Nothing is waited for any more by messages that came at such a time.
    fn give_up(&mut self, over: impl Fn(Duration) -> bool) {
        let over = self.waits.iter().take_while(|(came, _)| over(*came)).map(|(_, number)| *number).max();
        self.floor = self.floor.max(over.unwrap_or(0));
    }

    /// Shows what may be shown.
    fn hand_over(&mut self, shown: &mut Vec<Shown>) {
        while let Some(first) = self.held.first_entry() {
            let number = *first.key();
            if number > self.next.max(self.floor) {
                return;
            }
            let Held { mut message, at, saved } = first.remove();
            self.waits.remove(&(at, number));
            message.received.missing = number.saturating_sub(self.next);
            message.held = None;
            self.next = number.saturating_add(1);
            shown.push(Shown { message, was_held: saved });
        }
    }

    /// Numbers that may still come, and something waits for them.
    fn missing(&self) -> Vec<Numbers> {
        let (mut from, mut missing) = (self.reach(), Vec::new());
        for number in self.held.keys() {
            if from < *number {
                missing.push(from..*number);
            }
            if missing.len() == RANGES {
                break;
            }
            from = number.saturating_add(1);
        }
        missing
    }
}
