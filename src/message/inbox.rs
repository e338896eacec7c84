//! The inbox machine: which received parts are stored, refused or known already, and when a message is whole. No I/O: what was
//! opened, what the store has seen, and times are arguments.
//!
//! ```text
//!  opened part ─▶ plan ─┬─ refuse (code)                      time, size, room, too many incomplete, contradiction
//!                       ├─ again (receipt once more)          delivered before
//!                       ├─ whole: header, body, seen marks    one commit ─▶ receipt
//!                       └─ part:  assembly header, body part  written ─▶ stored ─▶ last one: complete
//!                                                             sync, header, seen marks: one commit ─▶ receipt
//! ```
//! Whether a message is shown now or waits for those before it is for `order.rs`; it is durable and receipted either way.
//!
//! `stored` is no promise: parts of a large body are synced when the last one came, and a power cut before that may lose any of
//! them. Only the receipt is, and a sender that has all its parts stored and no receipt offers them again.
//!
//! A message is known by (sender, stream, seq), which survives sealing it again, and by its id. What is being committed is
//! answered `busy` when it comes again meanwhile, so nothing is stored twice and nothing is receipted before it is durable.
//!
//! # Limits
//! Incomplete messages: their whole size is reserved when their first part comes. Per sender [`PER_SENDER`] of them and four times
//! `message.max_bytes`; together [`ALL`] and half the inbox. Beyond that new ones are refused (`busy`). They end with their expiry or
//! after [`IDLE`] without a new part. They are not evicted for those of others; but one that got nothing for [`GIVES_WAY`] gives
//! way to another one of the same sender: senders that crash while they seal leave parts that nobody completes. When it goes on
//! after all, it is offered again from its start.
//!
//! Strangers cost whoever sends nothing: a name is made in a moment. So all of them together have a quarter less of the inbox than
//! contacts, and half of what there is for incomplete messages. Who is a contact is said when a message comes; after a restart
//! what is incomplete counts as of strangers until it is whole.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use super::{
    envelope::{BodyId, Inner, parts_of},
    handle::Received,
    order::Rank,
    wire::{Code, StoredMessage},
};
use crate::primitives::{MessageId, PeerId, StreamId, UnixMillis, limits::CLOCK_SKEW};

/// Incomplete messages of one sender.
pub(super) const PER_SENDER: usize = 16;
/// Incomplete messages of all senders: 1 KiB of memory each.
pub(super) const ALL: usize = 256;
/// An incomplete message without a new part for this long is dropped.
pub(super) const IDLE: Duration = Duration::from_secs(24 * 3600);
/// An incomplete message without a new part for this long gives way to another one of its sender.
pub(super) const GIVES_WAY: Duration = Duration::from_secs(600);
/// Longest time to live.
pub(super) const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a message is remembered after it was received, in running time of the node: its longest life and 7 days.
pub(super) const SEEN: Duration = Duration::from_secs(37 * 24 * 3600);
/// What a message costs beside its body: headers and seen marks.
pub(super) const MESSAGE_COST: u64 = 512;

/// What a message is known by, however often it is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) sender: PeerId,
    pub(super) stream: StreamId,
    pub(super) seq: u64,
}

impl Key {
    pub(super) fn of(inner: &Inner) -> Self {
        Self { sender: inner.sender, stream: inner.stream, seq: inner.seq }
    }

    /// Fixed-size form for the store.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.stream.0).update(&self.seq.to_be_bytes()).update(&self.sender.to_bytes());
        *hash.finalize().as_bytes()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Have {
    Missing,
    Committing,
    Stored,
}

/// A message that has not all its parts yet.
#[derive(Clone, Debug)]
pub(super) struct Assembly {
    pub(super) key: Key,
    pub(super) rank: Rank,
    /// Its place in the body family; the name of its file when it is large.
    pub(super) slot: u64,
    pub(super) total: u64,
    pub(super) body_id: BodyId,
    pub(super) sent_at: UnixMillis,
    pub(super) expires_at: UnixMillis,
    pub(super) file_name: String,
    /// Of part 0, when that is here.
    pub(super) id: Option<MessageId>,
    pub(super) touched_at: UnixMillis,
    have: Vec<Have>,
    completing: bool,
    /// Whether the header is durable.
    saved: bool,
    /// Whether its sender was a contact when it began.
    of_contact: bool,
}

impl Assembly {
    pub(super) fn new((key, rank): (Key, Rank), slot: u64, total: u64, body_id: BodyId) -> Self {
        Self {
            key,
            rank,
            slot,
            total,
            body_id,
            sent_at: UnixMillis(0),
            expires_at: UnixMillis(0),
            file_name: String::new(),
            id: None,
            touched_at: UnixMillis(0),
            have: vec![Have::Missing; parts_of(total) as usize], // u32 fits in usize
            completing: false,
            saved: false,
            of_contact: false,
        }
    }

    pub(super) fn parts(&self) -> u32 {
        parts_of(self.total)
    }

    /// A part is in the store (when loading).
    pub(super) fn found(&mut self, index: u32) {
        if let Some(have) = self.have.get_mut(index as usize) {
            *have = Have::Stored;
        }
    }

    fn is_whole(&self) -> bool {
        self.id.is_some() && self.have.iter().all(|h| *h == Have::Stored)
    }

    /// Whether something of it is being written.
    fn is_busy(&self) -> bool {
        self.completing || self.have.contains(&Have::Committing)
    }

    fn cost(&self) -> u64 {
        self.total + MESSAGE_COST
    }

    /// The message as it will be in the inbox, once whole.
    pub(super) fn message(&self, now: UnixMillis) -> Option<StoredMessage> {
        let received = Received {
            id: self.id?,
            from: self.key.sender,
            sent_at: self.sent_at,
            received_at: now,
            bytes: self.total,
            read: false,
            file_name: self.file_name.clone(),
            missing: 0,
            late: false,
        };
        let held = Some((self.key.stream, self.rank.number));
        Some(StoredMessage { received, slot: self.slot, parts: self.parts(), held })
    }
}

/// How far a message is after a part of it was stored, or was not.
#[derive(Debug)]
pub(super) enum Progress {
    /// Parts are missing.
    More,
    /// Complete it now.
    Whole,
    /// Nothing of it could be stored: it is forgotten, and its place is to be cleared.
    Dropped(Box<Assembly>),
}

/// What to do with one part.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Answer this; nothing is stored.
    Answer(Code),
    /// Delivered before: receipt it again.
    Again(MessageId, UnixMillis),
    /// A message of one part: store it with its marks, then [`Inbox::committed_whole`].
    Whole { key: Key, rank: Rank, message: Box<StoredMessage>, body: Bytes },
    /// Clear what is `gone`, and store this part, after the assembly's header when that is given; then [`Inbox::committed_part`].
    Part {
        key: Key,
        slot: u64,
        index: u32,
        parts: u32,
        body: Bytes,
        header: Option<Box<Assembly>>,
        gone: Option<Box<Assembly>>,
    },
    /// All parts are stored: complete it.
    Complete(Key),
}

/// Limits from the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_bytes: u64,
    pub(super) inbox_max_bytes: u64,
}

#[derive(Clone, Copy, Default, Debug)]
struct Share {
    count: usize,
    bytes: u64,
}

/// What is known of the inbox and of a sender when a message comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Cost of what is in the inbox.
    pub(super) held: u64,
    /// The sender is a contact.
    pub(super) contact: bool,
}

/// Everything that is on its way into the inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    limits: Limits,
    next_slot: u64,
    assemblies: HashMap<Key, Assembly>,
    senders: HashMap<PeerId, Share>,
    all: Share,
    /// Messages of one part being committed, and their cost.
    committing: HashMap<Key, u64>,
    committing_bytes: u64,
}

impl Inbox {
    /// An inbox whose new slots begin at `next_slot`.
    pub(super) fn new(limits: Limits, next_slot: u64) -> Self {
        Self {
            limits,
            next_slot,
            assemblies: HashMap::new(),
            senders: HashMap::new(),
            all: Share::default(),
            committing: HashMap::new(),
            committing_bytes: 0,
        }
    }

    /// Takes over an incomplete message from the store. What was there of the same message before is returned: its place is to be
    /// cleared.
    pub(super) fn load(&mut self, mut assembly: Assembly) -> Option<Assembly> {
        assembly.saved = true;
        let old = self.drop_assembly(&assembly.key);
        self.charge(assembly.key.sender, assembly.cost());
        self.assemblies.insert(assembly.key, assembly);
        old
    }

    /// An incomplete message.
    pub(super) fn assembly(&self, key: &Key) -> Option<&Assembly> {
        self.assemblies.get(key)
    }

    /// Whether a message is on its way, so that the store need not be asked whether it was seen.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.committing.contains_key(key) || self.assemblies.contains_key(key)
    }

    /// Decides about one opened part. `seen`: what the store remembers of its key; `room`: cost of what is in the inbox, and whether
    /// the sender is a contact.
    pub(super) fn plan(
        &mut self,
        now: UnixMillis,
        room: Room,
        (id, inner): (MessageId, Inner),
        seen: Option<(MessageId, UnixMillis)>,
    ) -> Verdict {
        let key = Key::of(&inner);
        if let Some((id, at)) = seen {
            return Verdict::Again(id, at);
        }
        if self.committing.contains_key(&key) {
            return Verdict::Answer(Code::Busy);
        }
        if let Err(code) = self.check(now, &inner) {
            return Verdict::Answer(code);
        }
        if inner.parts() > 1 {
            return self.plan_part(now, room, id, inner);
        }
        let cost = inner.total + MESSAGE_COST;
        if !self.has_room(room, cost) {
            return Verdict::Answer(Code::InboxFull);
        }
        self.committing.insert(key, cost);
        self.committing_bytes += cost;
        let received = Received {
            id,
            from: inner.sender,
            sent_at: inner.sent_at,
            received_at: now,
            bytes: inner.total,
            read: false,
            file_name: inner.file_name,
            missing: 0,
            late: false,
        };
        let held = Some((key.stream, inner.rank.number));
        let message = Box::new(StoredMessage { received, slot: self.slot(), parts: 1, held });
        Verdict::Whole { key, rank: inner.rank, message, body: inner.body }
    }

    fn check(&self, now: UnixMillis, inner: &Inner) -> Result<(), Code> {
        if inner.total > self.limits.max_bytes {
            return Err(Code::TooLarge);
        }
        if inner.expires_at.plus(CLOCK_SKEW) < now {
            return Err(Code::Expired);
        }
        if inner.sent_at > now.plus(CLOCK_SKEW) {
            return Err(Code::Clock);
        }
        // Longer than seen marks live: it could be delivered twice.
        if inner.expires_at > inner.sent_at.plus(MAX_TTL) {
            return Err(Code::Bad);
        }
        Ok(())
    }

    fn has_room(&self, room: Room, cost: u64) -> bool {
        let taken = room.held.saturating_add(self.all.bytes).saturating_add(self.committing_bytes);
        let kept_free = if room.contact { 0 } else { self.limits.inbox_max_bytes / 4 };
        taken.saturating_add(cost) <= self.limits.inbox_max_bytes - kept_free
    }

    fn plan_part(&mut self, now: UnixMillis, room: Room, id: MessageId, inner: Inner) -> Verdict {
        let key = Key::of(&inner);
        let mut gone = None;
        if !self.assemblies.contains_key(&key) {
            if let Err(code) = self.may_begin(room, &inner, None) {
                let idle = self.idle(now, &key.sender).filter(|a| self.may_begin(room, &inner, Some(a)).is_ok());
                let Some(idle) = idle.map(|a| a.key) else { return Verdict::Answer(code) };
                gone = self.drop_assembly(&idle).map(Box::new);
            }
            let mut assembly = Assembly::new((key, inner.rank), self.slot(), inner.total, inner.body_id);
            assembly.sent_at = inner.sent_at;
            assembly.expires_at = inner.expires_at;
            assembly.file_name.clone_from(&inner.file_name);
            assembly.of_contact = room.contact;
            self.charge(key.sender, assembly.cost());
            self.assemblies.insert(key, assembly);
        }
        let assembly = self.assemblies.get_mut(&key).expect("looked up or made above");
        let same = assembly.rank == inner.rank
            && assembly.total == inner.total
            && assembly.body_id == inner.body_id
            && assembly.sent_at == inner.sent_at
            && assembly.expires_at == inner.expires_at
            && assembly.file_name == inner.file_name;
        if !same {
            return Verdict::Answer(Code::Bad);
        }
        let at = inner.index as usize; // u32 fits in usize; in range: checked against the total when opened
        match assembly.have[at] {
            Have::Committing => return Verdict::Answer(Code::Busy),
            // Commits may overtake each other: a header without the id was stored last, and then came a restart.
            Have::Stored if inner.index == 0 && assembly.id.is_none() => assembly.have[at] = Have::Committing,
            // All there, but a crash came before completing it.
            Have::Stored if assembly.is_whole() && !assembly.completing => {
                assembly.completing = true;
                return Verdict::Complete(key);
            }
            Have::Stored if assembly.completing => return Verdict::Answer(Code::Busy),
            Have::Stored => return Verdict::Answer(Code::Stored),
            Have::Missing => assembly.have[at] = Have::Committing,
        }
        assembly.touched_at = now;
        if inner.index == 0 {
            assembly.id = Some(id);
        }
        // With every part until one is stored: whichever comes first makes the assembly known after a restart. Once more with
        // part 0, which brings the id.
        let header = (!assembly.saved || inner.index == 0).then(|| Box::new(assembly.clone()));
        let (slot, index, parts) = (assembly.slot, inner.index, assembly.parts());
        Verdict::Part { key, slot, index, parts, body: inner.body, header, gone }
    }

    /// The incomplete message of a sender that has got nothing for the longest time.
    fn idle(&self, now: UnixMillis, sender: &PeerId) -> Option<&Assembly> {
        let of_sender = self.assemblies.values().filter(|a| a.key.sender == *sender && !a.is_busy());
        of_sender.filter(|a| now.since(a.touched_at) > GIVES_WAY).min_by_key(|a| (a.touched_at, a.slot))
    }

    /// Whether there is room for another incomplete message, when `gone` goes.
    fn may_begin(&self, room: Room, inner: &Inner, gone: Option<&Assembly>) -> Result<(), Code> {
        // What goes is of this sender, and counted.
        let freed = gone.map_or(Share::default(), |gone| Share { count: 1, bytes: gone.cost() });
        let without = |share: Share| Share { count: share.count - freed.count, bytes: share.bytes - freed.bytes };
        let cost = inner.total + MESSAGE_COST;
        let share = without(self.senders.get(&inner.sender).copied().unwrap_or_default());
        let all = without(self.all);
        let sender_bytes = (self.limits.max_bytes + MESSAGE_COST).saturating_mul(4);
        if !self.has_room(room, cost.saturating_sub(freed.bytes)) {
            return Err(Code::InboxFull);
        }
        let half = self.limits.inbox_max_bytes / 2;
        let many = |share: Share, count, bytes| share.count >= count || share.count > 0 && share.bytes + cost > bytes;
        let crowded = share.count >= PER_SENDER
            || share.bytes + cost > sender_bytes
            || many(all, ALL, half)
            || (!room.contact && many(self.of_strangers(gone), ALL / 2, half / 2));
        if crowded { Err(Code::Busy) } else { Ok(()) }
    }

    /// The incomplete messages of strangers, without `gone`.
    fn of_strangers(&self, gone: Option<&Assembly>) -> Share {
        let counted = |a: &&Assembly| !a.of_contact && gone.is_none_or(|gone| gone.key != a.key);
        let all = self.assemblies.values().filter(counted);
        all.fold(Share::default(), |sum, a| Share { count: sum.count + 1, bytes: sum.bytes + a.cost() })
    }

    /// A message of one part is durable (or not).
    pub(super) fn committed_whole(&mut self, key: &Key) {
        if let Some(cost) = self.committing.remove(key) {
            self.committing_bytes -= cost;
        }
    }

    /// A part is stored (or not).
    pub(super) fn committed_part(&mut self, key: &Key, index: u32, ok: bool) -> Progress {
        let Some(assembly) = self.assemblies.get_mut(key) else { return Progress::More };
        let Some(have) = assembly.have.get_mut(index as usize) else { return Progress::More };
        if !ok {
            *have = Have::Missing;
            if assembly.have.iter().all(|h| *h == Have::Missing) {
                return self.drop_assembly(key).map_or(Progress::More, |gone| Progress::Dropped(Box::new(gone)));
            }
            return Progress::More;
        }
        *have = Have::Stored;
        assembly.saved = true;
        let whole = assembly.is_whole() && !assembly.completing;
        assembly.completing |= whole;
        if whole { Progress::Whole } else { Progress::More }
    }

    /// The body of a message that was being completed did not reach the disk: nothing of it can be trusted, and its place is to be
    /// cleared.
    pub(super) fn spoiled(&mut self, key: &Key) -> Option<Assembly> {
        self.drop_assembly(key)
    }

    /// Completing ended: the message is in the inbox, or it is tried again when a part comes.
    pub(super) fn completed(&mut self, key: &Key, ok: bool) {
        if ok {
            self.drop_assembly(key);
        } else if let Some(assembly) = self.assemblies.get_mut(key) {
            assembly.completing = false;
        }
    }

    /// Removes incomplete messages whose time is over; their places in the store are to be cleared.
    pub(super) fn sweep(&mut self, now: UnixMillis) -> Vec<Assembly> {
        let over =
            |a: &Assembly| !a.is_busy() && (a.expires_at.plus(CLOCK_SKEW) < now || now.since(a.touched_at) > IDLE);
        let keys: Vec<_> = self.assemblies.values().filter(|a| over(a)).map(|a| a.key).collect();
        keys.iter().filter_map(|key| self.drop_assembly(key)).collect()
    }

    /// The next number: where a body is kept, and the order of arrival.
    pub(super) fn slot(&mut self) -> u64 {
        self.next_slot += 1;
        self.next_slot - 1
    }

    fn charge(&mut self, sender: PeerId, cost: u64) {
        let share = self.senders.entry(sender).or_default();
        share.count += 1;
        share.bytes += cost;
        self.all.count += 1;
        self.all.bytes += cost;
    }

    fn drop_assembly(&mut self, key: &Key) -> Option<Assembly> {
        let assembly = self.assemblies.remove(key)?;
        let cost = assembly.cost();
        self.all.count -= 1;
        self.all.bytes -= cost;
        if let Some(share) = self.senders.get_mut(&key.sender) {
            share.count -= 1;
            share.bytes -= cost;
            if share.count == 0 {
                self.senders.remove(&key.sender);
            }
        }
        Some(assembly)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::envelope::{Kind, PART_BYTES},
        *,
    };

    #[test]
    fn of_two_stored_beginnings_of_a_message_one_is_kept_and_the_other_cleared() {
        let mut inbox = Inbox::new(Limits { max_bytes: 1 << 20, inbox_max_bytes: 1 << 30 }, 9);
        let key = Key { sender: PeerId::random(), stream: StreamId([1; 16]), seq: 7 };
        let rank = Rank { number: 1, floor: 1 };
        let assembly = |slot| Assembly::new((key, rank), slot, 600_000, BodyId::default());
        assert!(inbox.load(assembly(3)).is_none());
        assert_eq!(inbox.load(assembly(5)).unwrap().slot, 3);
        assert_eq!((inbox.all.count, inbox.all.bytes), (1, assembly(5).cost()));
        assert_eq!(inbox.spoiled(&key).unwrap().slot, 5);
        assert_eq!((inbox.all.count, inbox.all.bytes, inbox.senders.len()), (0, 0, 0));
        assert!(inbox.spoiled(&key).is_none());
    }

    /// The last part of a message of two, of a sender that never sends the first.
    fn begun(sender: PeerId, seq: u64, total: u64) -> Inner {
        Inner {
            kind: Kind::Message,
            sender,
            recipient: PeerId::random(),
            stream: StreamId([0; 16]),
            seq,
            rank: Rank { number: seq, floor: 1 },
            sent_at: UnixMillis(0),
            expires_at: UnixMillis(60_000),
            key_id: [0; 8],
            file_name: String::new(),
            body: Bytes::from_static(&[1]),
            index: 1,
            total,
            body_id: BodyId::default(),
        }
    }

    #[test]
    fn strangers_that_begin_messages_and_never_end_them_leave_half_of_the_places_to_contacts() {
        for (total, places) in [(PART_BYTES as u64 + 1, ALL), (2 * PART_BYTES as u64, 64)] {
            assert_eq!(parts_of(total), 2);
            // With the large ones bytes are what there is too little of.
            let inbox_max_bytes = if places == ALL { 1 << 40 } else { places as u64 * 2 * (total + MESSAGE_COST) };
            let mut inbox = Inbox::new(Limits { max_bytes: 1 << 30, inbox_max_bytes }, 0);
            let mut begin = |sender, seq, contact| {
                let inner = begun(sender, seq, total);
                let verdict = inbox.plan(UnixMillis(0), Room { held: 0, contact }, (MessageId([0; 32]), inner), None);
                matches!(verdict, Verdict::Part { .. })
            };
            let strangers = (0..1000).filter(|n| begin(PeerId::random(), *n, false)).count();
            assert_eq!(strangers, places / 2);
            let contacts = (0..1000).filter(|n| begin(PeerId::random(), *n, true)).count();
            assert_eq!(contacts, places - places / 2);
        }
    }
}
