//! What a recipient asks for: messages that it misses in front of those it has.

use super::{HINT_PAUSE, Now, Outbox};
use crate::primitives::PeerId;

impl Outbox {
    /// A recipient is there and misses these messages of ours: try now, also what was paused or is held by friends. Once in
    /// [`HINT_PAUSE`] at most, whatever it asks: what goes out is never more than a recipient gets that answers nothing.
    pub(in crate::message) fn wanted(&mut self, now: Now, recipient: PeerId, seqs: &[u64]) {
        let Some(state) = self.peers.get_mut(&recipient) else { return };
        if state.last_wanted.is_some_and(|at| now.mono < at + HINT_PAUSE) {
            return;
        }
        state.last_wanted = Some(now.mono);
        state.backoff.reset();
        state.next_try = now.mono;
        for seq in seqs {
            if self.entries.get(seq).is_some_and(|entry| entry.header.to == recipient) {
                self.release(now, *seq);
            }
        }
        self.pump(now, recipient);
    }
}
