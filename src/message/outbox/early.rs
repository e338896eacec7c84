//! A head start: while a large message is still being sealed, its first parts go to the recipient already.
//!
//! ```text
//!  begin ─▶ held ─ sealed ─▶ waiting ─▶ flying ─▶ stored        all parts but the last one
//!    │       ▲                             │
//!    │       └─── any other answer, none ──┘ no more parts go early
//!    ├─▶ add: the message is durable, everything left goes, the last part too
//!    └─▶ abandon: it will never be durable, and nobody was told of it
//! ```
//! Without the last part the recipient can neither show the message nor sign for it, so nothing is ever delivered that its
//! sender would forget in a crash. What a crash leaves is an incomplete message at the recipient, which ends there like
//! any other; its number is not used again. Whoever is told that sending failed should know that the recipient may have read the
//! parts that went. A message that is not durable has no state that anybody sees: it is not
//! told of, left with friends, refused, expired or cancelled.

use super::{Entry, Header, Item, Now, Outbox, PartState};

impl Outbox {
    /// A message of several parts is being sealed. Its number must be durable, and its first part have an id.
    pub(in crate::message) fn begin(&mut self, header: Header) {
        let (seq, to) = (header.seq, header.to);
        if header.parts < 2 || header.ids.is_empty() || self.entries.contains_key(&seq) {
            return;
        }
        let mut entry = Entry::new(header, PartState::Held, self.retry_max);
        entry.durable = false;
        self.entries.insert(seq, entry);
        self.peer(to).held.insert(seq);
    }

    /// A part of it can be sent. Whether it will go early: not the last one, and not to a recipient that is not there.
    pub(in crate::message) fn sealed(&mut self, now: Now, (seq, index): Item) -> bool {
        let Some(entry) = self.entries.get_mut(&seq).filter(|e| !e.durable && !e.held) else { return false };
        let to = entry.header.to;
        let Some(peer) = self.peers.get_mut(&to).filter(|p| p.backoff.tries() == 0) else { return false };
        let part = entry.parts.get_mut(index as usize).filter(|p| **p == PartState::Held); // u32 fits in usize
        let Some(part) = part.filter(|_| index + 1 < entry.header.parts) else { return false };
        *part = PartState::Waiting;
        peer.waiting.insert((seq, index));
        self.pump(now, to);
        true
    }

    /// It is durable now.
    pub(super) fn durable(&mut self, now: Now, header: Header) {
        let Some(entry) = self.entries.get_mut(&header.seq).filter(|e| !e.durable) else { return };
        let (seq, to) = (header.seq, header.to);
        let last_error = std::mem::take(&mut entry.header.last_error);
        entry.header = Header { last_error, ..header };
        entry.durable = true;
        self.expiring.insert((entry.header.expires_at, seq));
        self.release(now, seq);
        self.wants_friends(now, to, seq);
    }

    /// It will not be. What the recipient has of it is never completed.
    pub(in crate::message) fn abandon(&mut self, seq: u64) {
        if self.entries.get(&seq).is_some_and(|e| !e.durable)
            && let Some(entry) = self.entries.remove(&seq)
        {
            self.forget(&entry);
        }
    }

    /// A part was not taken: what that means is found out when the message is durable. Until then it and the others stay.
    pub(super) fn keep_back(&mut self, (seq, index): Item) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.held = true;
        let part = &mut entry.parts[index as usize]; // in range: it is one of the entry's parts
        if *part == PartState::Flying {
            *part = PartState::Held;
        }
        self.pause(seq);
    }
}
