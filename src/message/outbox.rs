//! The outbox machine: what goes to whom when, and what the answers mean. No I/O: times and answers are arguments, requests and
//! changes are [`Output`]s.
//!
//! ```text
//!            ┌─────────── busy, full, no receipt ── hold (entry backoff) ◀─┐
//!  add ─▶ waiting ─▶ flying ─▶ stored part … all stored ─▶ receipt ─▶ Delivered
//!            ▲          │ request failed: back, peer backoff; meanwhile to friends of the recipient ─▶ Stored (`deposits`)
//!            └──────────┘           too large, bad ─▶ Refused     time over ─▶ Expired     user ─▶ Cancelled
//! ```
//! Each recipient has a queue in order of acceptance and up to [`WINDOW`] requests in flight; what gathers while they are under way
//! makes the next batch. Trouble with a *peer* pauses that peer; trouble with a *message* pauses that message, others go on.

mod answers;
mod deposits;
mod early;
mod header;
mod wanted;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use self::deposits::{Away, Leaving, SILENCE, SMALL_REQUEST};
pub(super) use self::{
    deposits::{Deposited, Friend},
    header::{Header, Left, is_end},
};
use super::{
    handle::SendState,
    mailbox::evidence::Settle,
    wire::{BATCH_BYTES, BATCH_PARTS, Code},
};
use crate::{
    primitives::{MessageId, PeerId, UnixMillis},
    runtime::Backoff,
};

/// Requests in flight to one recipient. Four of 1 MiB cover 40 ms of a gigabit path, and while one is being synced at
/// the other side the next is on its way.
const WINDOW: usize = 4;
/// First pause after a failure; doubles up to `message.retry_max_s`.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Hints that a peer may be there lead to one try in this time at most.
const HINT_PAUSE: Duration = Duration::from_secs(1);
/// Pending messages are tried within this time after a start, spread so that not all are tried at once.
const START_SPREAD: Duration = Duration::from_secs(2);

/// Two clocks: wall time for what is stored and signed, monotonic time for pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: UnixMillis,
    /// Since the start of the machine.
    pub(super) mono: Duration,
}

/// One part of one message: sequence number and index.
pub(super) type Item = (u64, u32);

/// What the machine wants done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Ask `peer` to take these parts; answer with [`Outbox::answered`].
    Send { flight: u64, peer: PeerId, items: Vec<Item> },
    /// Seal again for the recipient's present key; answer with [`Outbox::resealed`].
    Reseal(u64),
    /// State or progress changed; `durable`: the header must be stored.
    Changed { seq: u64, durable: bool },
    /// It reached an end and left the machine: store the header, drop the body.
    Ended(Box<Header>),
    /// A receipt was promised and none came that the recipient signed.
    NoReceipt(PeerId),
    /// Who are the friends of this recipient? Answer with [`Outbox::friends`].
    Friends(PeerId),
    /// Leave these parts for `owner` with a friend; answer with [`Outbox::deposited`].
    Leave { flight: u64, owner: PeerId, friend: Friend, items: Vec<Item> },
    /// A message that was left with friends of `owner` has ended: see [`Settle`].
    Settle { seq: u64, owner: PeerId, settle: Settle },
}

/// The answer to a request: a code for each item and what the receipt, already verified, names; or why there is none.
pub(super) type Answer = Result<(Vec<Code>, Vec<(MessageId, UnixMillis)>), String>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PartState {
    Waiting,
    Flying,
    Acked,
    Held,
}

#[derive(Debug)]
struct Entry {
    header: Header,
    parts: Vec<PartState>,
    acked: u32,
    /// Not yet: only a head start, see `early`.
    durable: bool,
    /// Counts sealings, so that answers to an older one are told apart.
    sealing: u32,
    resealing: bool,
    held: bool,
    backoff: Backoff,
    leaving: Leaving,
}

#[derive(Debug)]
struct Peer {
    waiting: BTreeSet<Item>,
    held: BTreeSet<u64>,
    flights: usize,
    backoff: Backoff,
    next_try: Duration,
    last_try: Option<Duration>,
    last_wanted: Option<Duration>,
}

#[derive(Debug)]
struct Flight {
    peer: PeerId,
    /// When its silence says something.
    silent_at: Option<Duration>,
    /// With the sealing each part was of.
    items: Vec<(Item, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Peer(PeerId),
    Entry(u64),
    Away(PeerId),
    Silent(u64),
}

/// All pending outgoing messages.
#[derive(Debug)]
pub(super) struct Outbox {
    local: PeerId,
    retry_max: Duration,
    random: u64,
    entries: HashMap<u64, Entry>,
    peers: HashMap<PeerId, Peer>,
    flights: HashMap<u64, Flight>,
    /// Recipients that cannot be reached.
    away: HashMap<PeerId, Away>,
    deposits: HashMap<u64, deposits::Flight>,
    /// Recipients whose messages wait for a free deposit.
    crowded: BTreeSet<PeerId>,
    next_flight: u64,
    due: BTreeSet<(Duration, Due)>,
    expiring: BTreeSet<(UnixMillis, u64)>,
    outputs: VecDeque<Output>,
}

impl Outbox {
    /// An empty outbox of `local`; `seed` makes its jitter.
    pub(super) fn new(local: PeerId, retry_max: Duration, seed: u64) -> Self {
        Self {
            local,
            retry_max: retry_max.max(FIRST_RETRY),
            random: seed,
            entries: HashMap::new(),
            peers: HashMap::new(),
            flights: HashMap::new(),
            away: HashMap::new(),
            deposits: HashMap::new(),
            crowded: BTreeSet::new(),
            next_flight: 0,
            due: BTreeSet::new(),
            expiring: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes over a message that is durable. `fresh`: just queued, try now; else it is from an earlier run.
    pub(super) fn add(&mut self, now: Now, header: Header, fresh: bool) {
        let (seq, to) = (header.seq, header.to);
        if is_end(header.state) {
            return;
        }
        if self.entries.contains_key(&seq) {
            return self.durable(now, header);
        }
        let spread = START_SPREAD.mul_f64(self.random());
        let retry_max = self.retry_max;
        let known = self.peers.contains_key(&to);
        let peer = self.peers.entry(to).or_insert_with(|| Peer::new(retry_max));
        peer.waiting.extend((0..header.parts).map(|index| (seq, index)));
        if !fresh && !known {
            peer.next_try = now.mono + spread;
            self.due.insert((peer.next_try, Due::Peer(to)));
        }
        self.expiring.insert((header.expires_at, seq));
        self.entries.insert(seq, Entry::new(header, PartState::Waiting, retry_max));
        self.pump(now, to);
        self.wants_friends(now, to, seq);
    }

    /// The next thing to do.
    pub(super) fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Outbox::tick`] is next needed: a pause that ends, and a message that expires.
    pub(super) fn next_due(&self) -> (Option<Duration>, Option<UnixMillis>) {
        (self.due.first().map(|d| d.0), self.expiring.first().map(|e| e.0))
    }

    /// Ends pauses and lives that are over.
    pub(super) fn tick(&mut self, now: Now) {
        while let Some((_, seq)) = self.expiring.first().copied().filter(|e| e.0 <= now.wall) {
            let local = self.local;
            self.settle(seq, Settle::OVER);
            self.end(now, seq, SendState::Expired, local);
        }
        while let Some((at, due)) = self.due.first().copied().filter(|d| d.0 <= now.mono) {
            self.due.remove(&(at, due));
            match due {
                Due::Peer(peer) => self.pump(now, peer),
                Due::Entry(seq) => self.release(now, seq),
                Due::Away(recipient) => self.leave(now, recipient),
                Due::Silent(flight) => self.silent(now, flight),
            }
        }
    }

    /// A peer is connected, or its record changed: try now, also what was paused.
    pub(super) fn appeared(&mut self, now: Now, peer: PeerId) {
        self.friend_appeared(now, peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.backoff.reset();
        state.next_try = now.mono;
        for seq in state.held.clone() {
            self.release(now, seq);
        }
        self.pump(now, peer);
    }

    /// A sign of life from a peer.
    pub(super) fn heard(&mut self, now: Now, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let soon = state.last_try.map_or(now.mono, |t| (t + HINT_PAUSE).max(now.mono));
        if soon < state.next_try {
            state.next_try = soon;
            self.due.insert((soon, Due::Peer(peer)));
            self.pump(now, peer);
        }
    }

    /// Peers with pending messages.
    pub(super) fn recipients(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// A sealing is done and durable, or why not.
    pub(super) fn resealed(&mut self, now: Now, seq: u64, result: Result<Header, String>) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.resealing = false;
        match result {
            Ok(new) => {
                entry.header.ids = new.ids;
                entry.header.key_id = new.key_id;
                entry.header.sealed_bytes = new.sealed_bytes;
                entry.leaving.signed.clear();
                entry.sealing += 1;
                entry.acked = 0;
                for part in entry.parts.iter_mut().filter(|p| **p == PartState::Acked) {
                    *part = PartState::Held;
                }
                // The sealing stored the header as it was when it began.
                self.outputs.push_back(Output::Changed { seq, durable: true });
                self.release(now, seq);
            }
            Err(why) => {
                let item = (seq, 0);
                entry.header.last_error.clone_from(&why);
                self.hold(now, item, &why);
            }
        }
    }

    /// The recipient's receipt for a message came on its own, not with an answer.
    pub(super) fn receipted(&mut self, now: Now, seq: u64, recipient: PeerId) {
        let local = self.local;
        let Some(entry) = self.entries.get_mut(&seq).filter(|e| e.durable && e.header.to == recipient) else { return };
        entry.header.enter(SendState::Sent, now.wall, local);
        self.settle(seq, Settle::COLLECTED);
        self.end(now, seq, SendState::Delivered, recipient);
    }

    /// Ends a pending message by the user's wish; `None`: it is not pending.
    pub(super) fn cancel(&mut self, now: Now, seq: u64) -> Option<()> {
        self.get(seq).is_some().then(|| {
            let local = self.local;
            self.settle(seq, Settle::TAKEN_BACK);
            self.end(now, seq, SendState::Cancelled, local);
        })
    }

    /// A pending message and how many of its parts are at the recipient.
    pub(super) fn get(&self, seq: u64) -> Option<(&Header, u32)> {
        self.entries.get(&seq).filter(|e| e.durable).map(|e| (&e.header, e.acked))
    }

    /// Pending messages.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn failed(&mut self, now: Now, peer: PeerId, items: &[(Item, u32)], why: &str) {
        for (item, _) in items {
            if let Some(entry) = self.entries.get_mut(&item.0) {
                why.clone_into(&mut entry.header.last_error);
            }
            self.put_back(*item);
        }
        let random = self.random();
        let Some(state) = self.peers.get_mut(&peer) else { return };
        // Requests that failed together are one failure.
        if state.next_try <= now.mono {
            state.next_try = now.mono + state.backoff.next(random);
            self.due.insert((state.next_try, Due::Peer(peer)));
        }
        self.not_reached(now, peer);
    }

    fn put_back(&mut self, (seq, index): Item) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if !entry.durable {
            return self.keep_back((seq, index));
        }
        let part = &mut entry.parts[index as usize]; // in range: it is one of the entry's parts
        if *part != PartState::Flying {
            return;
        }
        if entry.held || entry.resealing {
            *part = PartState::Held;
        } else {
            *part = PartState::Waiting;
            let to = entry.header.to;
            self.peer(to).waiting.insert((seq, index));
        }
    }

    /// What is known of a recipient that has pending messages.
    fn peer(&mut self, to: PeerId) -> &mut Peer {
        self.peers.entry(to).or_insert_with(|| Peer::new(self.retry_max))
    }

    /// Takes a message's waiting parts out of the queue.
    fn pause(&mut self, seq: u64) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        let Some(peer) = self.peers.get_mut(&entry.header.to) else { return };
        for (part, index) in entry.parts.iter_mut().zip(0..) {
            if *part == PartState::Waiting {
                *part = PartState::Held;
                peer.waiting.remove(&(seq, index));
            }
        }
    }

    /// Pauses one message; the others of its recipient go on.
    fn hold(&mut self, now: Now, (seq, index): Item, why: &str) {
        let random = self.random();
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        why.clone_into(&mut entry.header.last_error);
        if entry.parts[index as usize] == PartState::Flying {
            entry.parts[index as usize] = PartState::Held; // in range: it is one of the entry's parts
        }
        if std::mem::replace(&mut entry.held, true) {
            return;
        }
        self.due.insert((now.mono + entry.backoff.next(random), Due::Entry(seq)));
        let to = entry.header.to;
        self.peer(to).held.insert(seq);
        self.pause(seq);
    }

    fn release(&mut self, now: Now, seq: u64) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.held = false;
        if entry.resealing || !entry.durable {
            return;
        }
        let to = entry.header.to;
        let retry_max = self.retry_max;
        let peer = self.peers.entry(to).or_insert_with(|| Peer::new(retry_max));
        peer.held.remove(&seq);
        for (part, index) in entry.parts.iter_mut().zip(0..) {
            if *part == PartState::Held {
                *part = PartState::Waiting;
                peer.waiting.insert((seq, index));
            }
        }
        self.pump(now, to);
    }

    fn end(&mut self, now: Now, seq: u64, state: SendState, by: PeerId) {
        let Some(mut entry) = self.entries.remove(&seq) else { return };
        let to = entry.header.to;
        entry.header.enter(state, now.wall, by);
        if state == SendState::Delivered {
            entry.header.last_error.clear();
        }
        self.expiring.remove(&(entry.header.expires_at, seq));
        self.forget(&entry);
        if let Some(away) = self.away.get_mut(&to) {
            away.wanting.remove(&seq);
        }
        self.outputs.push_back(Output::Ended(Box::new(entry.header)));
    }

    /// Takes what was an entry out of its recipient's queue.
    fn forget(&mut self, entry: &Entry) {
        let Header { seq, to, parts, .. } = entry.header;
        let Some(peer) = self.peers.get_mut(&to) else { return };
        for index in 0..parts {
            peer.waiting.remove(&(seq, index));
        }
        peer.held.remove(&seq);
        if peer.tidy() {
            self.peers.remove(&to);
            self.away.remove(&to);
        }
    }

    /// Sends what may be sent to a peer now.
    fn pump(&mut self, now: Now, to: PeerId) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        // After a failure one request finds out whether the peer is back.
        let window = if peer.backoff.tries() == 0 { WINDOW } else { 1 };
        while !peer.waiting.is_empty() && peer.next_try <= now.mono && peer.flights < window {
            let mut items = Vec::new();
            let mut bytes = 0;
            while let Some((seq, index)) = peer.waiting.first().copied() {
                let entry = self.entries.get_mut(&seq).expect("what waits is pending");
                bytes += entry.header.part_len(index) + 4;
                if items.len() == BATCH_PARTS || (bytes > BATCH_BYTES && !items.is_empty()) {
                    break;
                }
                peer.waiting.pop_first();
                entry.parts[index as usize] = PartState::Flying; // in range: it is one of the entry's parts
                items.push(((seq, index), entry.sealing));
            }
            let flight = self.next_flight;
            self.next_flight += 1;
            peer.flights += 1;
            peer.last_try = Some(now.mono);
            let wanted = items.iter().map(|(item, _)| *item).collect();
            let silent_at = (bytes <= SMALL_REQUEST).then_some(now.mono + SILENCE);
            self.due.extend(silent_at.map(|at| (at, Due::Silent(flight))));
            self.flights.insert(flight, Flight { peer: to, silent_at, items });
            self.outputs.push_back(Output::Send { flight, peer: to, items: wanted });
        }
        if peer.tidy() {
            self.peers.remove(&to);
            self.away.remove(&to);
        }
    }

    /// Uniform in `0.0..1.0` (splitmix64): jitter needs no more.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 32 bits fit in a float exactly.
        f64::from((z >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Entry {
    fn new(header: Header, part: PartState, retry_max: Duration) -> Self {
        let parts = vec![part; header.parts as usize]; // u32 fits in usize
        let (backoff, leaving) = (Backoff::new(FIRST_RETRY, retry_max), Leaving::default());
        let (acked, sealing, durable, resealing, held) = (0, 0, true, false, false);
        Self { header, parts, acked, durable, sealing, resealing, held, backoff, leaving }
    }
}

impl Peer {
    fn new(retry_max: Duration) -> Self {
        Self {
            waiting: BTreeSet::new(),
            held: BTreeSet::new(),
            flights: 0,
            backoff: Backoff::new(FIRST_RETRY, retry_max),
            next_try: Duration::ZERO,
            last_try: None,
            last_wanted: None,
        }
    }

    /// Whether nothing is to be remembered of it.
    fn tidy(&self) -> bool {
        self.waiting.is_empty() && self.held.is_empty() && self.flights == 0
    }
}
