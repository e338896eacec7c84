//! What is durable of an outgoing message, and its story.

use crate::{
    identity::KeyId,
    message::{
        envelope::{MAX_PART, PART_BYTES},
        handle::{Outgoing, SendState, Step},
        order::Lane,
    },
    primitives::{Hash, MessageId, PeerId, StreamId, UnixMillis},
};

/// What is remembered of attempts to leave one message with friends, the earliest forgotten first: a record lists 8.
const LEFT: usize = 16;
/// Steps of a message's story; only a message that is left again and again has more.
const STEPS: usize = 64;

/// An attempt to leave a message with a friend of its recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::message) struct Left {
    /// The friend.
    pub(in crate::message) holder: PeerId,
    /// The sealing that was left: the id of its part 0.
    pub(in crate::message) id: MessageId,
    /// The grant that the recipient's record named.
    pub(in crate::message) grant: Hash,
    /// When the friend had signed for every part, by our clock; zero: it has not.
    pub(in crate::message) at: UnixMillis,
    /// Until when it promised to keep it.
    pub(in crate::message) until: UnixMillis,
    /// Why it refused; empty when it did not.
    pub(in crate::message) refused: String,
    /// Whether it will refuse this sealing under this grant for ever.
    pub(in crate::message) never: bool,
}

/// What is durable of an outgoing message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::message) struct Header {
    /// Its number in our stream, and its place in the store.
    pub(in crate::message) seq: u64,
    pub(in crate::message) stream: StreamId,
    /// Its number among those for its recipient in that stream.
    pub(in crate::message) number: u64,
    /// The id that the user knows, then those of later sealings. Never empty.
    pub(in crate::message) ids: Vec<MessageId>,
    pub(in crate::message) to: PeerId,
    pub(in crate::message) state: SendState,
    pub(in crate::message) bytes: u64,
    pub(in crate::message) parts: u32,
    pub(in crate::message) sealed_bytes: u64,
    /// The key it is sealed to.
    pub(in crate::message) key_id: KeyId,
    pub(in crate::message) queued_at: UnixMillis,
    pub(in crate::message) expires_at: UnixMillis,
    pub(in crate::message) history: Vec<Step>,
    pub(in crate::message) last_error: String,
    /// Attempts to leave it with friends of the recipient, one for each friend.
    pub(in crate::message) left: Vec<Left>,
}

impl Header {
    /// The id that the user knows.
    pub(in crate::message) fn id(&self) -> MessageId {
        self.ids[0]
    }

    /// The lane of its number.
    pub(in crate::message) fn lane(&self) -> Lane {
        Lane { peer: self.to, stream: self.stream }
    }

    /// For the user; `acked` parts are at the recipient.
    pub(in crate::message) fn view(&self, acked: u32) -> Outgoing {
        let there = matches!(self.state, SendState::Sent | SendState::Delivered);
        let part_bytes = PART_BYTES as u64; // usize fits in u64
        Outgoing {
            id: self.id(),
            to: self.to,
            state: self.state,
            bytes: self.bytes,
            sent_bytes: if there { self.bytes } else { self.bytes.min(u64::from(acked) * part_bytes) },
            queued_at: self.queued_at,
            expires_at: self.expires_at,
            holders: if there { vec![self.to] } else { self.holders() },
            refused: self.refused(),
            history: self.history.clone(),
            last_error: self.last_error.clone(),
        }
    }

    /// Friends that did not take a message that is still to be delivered, and why.
    fn refused(&self) -> Vec<(PeerId, String)> {
        if is_end(self.state) {
            return Vec::new();
        }
        let refused = self.left.iter().filter(|left| !left.refused.is_empty());
        refused.map(|left| (left.holder, left.refused.clone())).collect()
    }

    /// Friends that have signed for all parts of a message that is still to be delivered.
    fn holders(&self) -> Vec<PeerId> {
        if is_end(self.state) {
            return Vec::new();
        }
        self.left.iter().filter(|l| l.at.0 > 0).map(|l| l.holder).collect()
    }

    /// The id of the present sealing.
    pub(in crate::message) fn sealing(&self) -> MessageId {
        self.ids.last().copied().unwrap_or_else(|| self.id())
    }

    /// Whether a friend holds the present sealing now.
    pub(super) fn is_left(&self, holder: &PeerId, now: UnixMillis) -> bool {
        self.left_now(now).any(|l| l.holder == *holder)
    }

    /// Attempts that ended with the present sealing at a friend that keeps it still.
    pub(super) fn left_now(&self, now: UnixMillis) -> impl Iterator<Item = &Left> {
        let id = self.sealing();
        self.left.iter().filter(move |l| l.id == id && l.at.0 > 0 && now < l.until)
    }

    /// Whether a friend will never take the present sealing under this grant.
    pub(super) fn is_refused(&self, holder: &PeerId, grant: &Hash) -> bool {
        let id = self.sealing();
        self.left.iter().any(|l| l.never && l.holder == *holder && l.id == id && l.grant == *grant)
    }

    /// Remembers an attempt in place of the earlier one with the same friend. Whether it says something new.
    pub(super) fn remember(&mut self, attempt: Left) -> bool {
        if let Some(old) = self.left.iter_mut().find(|l| l.holder == attempt.holder) {
            return std::mem::replace(old, attempt.clone()) != attempt;
        }
        if self.left.len() >= LEFT {
            self.left.remove(0);
        }
        self.left.push(attempt);
        true
    }

    /// A friend holds it now: a step of its own for each friend, but never back from a later state.
    pub(super) fn stored(&mut self, at: UnixMillis, by: PeerId) {
        let state = SendState::Stored;
        if self.state <= state && self.history.len() < STEPS {
            self.state = state;
            self.history.push(Step { state, at, by });
        }
    }

    /// Enters a state, unless it is at or past it.
    pub(super) fn enter(&mut self, state: SendState, at: UnixMillis, by: PeerId) {
        if self.state < state {
            self.state = state;
            self.history.push(Step { state, at, by });
        }
    }

    pub(super) fn part_len(&self, index: u32) -> usize {
        if index + 1 < self.parts {
            return MAX_PART;
        }
        let before = u64::from(self.parts.saturating_sub(1)) * MAX_PART as u64; // usize fits in u64
        usize::try_from(self.sealed_bytes.saturating_sub(before)).unwrap_or(MAX_PART).min(MAX_PART)
    }
}

/// Whether a state is an end.
pub(in crate::message) fn is_end(state: SendState) -> bool {
    matches!(state, SendState::Delivered | SendState::Expired | SendState::Refused | SendState::Cancelled)
}
