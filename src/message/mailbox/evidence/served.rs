//! Which parts friends gave us lately: those promises are kept, and nobody needs to be asked about them.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use crate::primitives::{MessageId, PeerId};

/// Parts that are remembered, 60 bytes each. Senders claim soon after they have the receipt; of what is forgotten the friend is asked.
pub(super) const SERVED: usize = 32 * 1024;

/// Half of a hash: one of two that are the same would be a promise counted as kept.
type Mark = [u8; 16];

fn mark(friend: &PeerId, id: &MessageId) -> Mark {
    let mut hash = blake3::Hasher::new();
    hash.update(&friend.to_bytes()).update(&id.0);
    let mut mark = Mark::default();
    hash.finalize_xof().fill(&mut mark);
    mark
}

/// Shared by who collects and who judges.
#[derive(Clone, Debug, Default)]
pub(in crate::message::mailbox) struct Served(Arc<Mutex<(HashSet<Mark>, VecDeque<Mark>)>>);

impl Served {
    /// A friend gave us these, and each has its id.
    pub(in crate::message::mailbox) fn note(&self, friend: &PeerId, ids: &[MessageId]) {
        let marks: Vec<Mark> = ids.iter().map(|id| mark(friend, id)).collect();
        let mut served = self.0.lock().expect("no panic while held");
        let (known, order) = &mut *served;
        for mark in marks {
            if known.insert(mark) {
                order.push_back(mark);
            }
            if order.len() > SERVED
                && let Some(old) = order.pop_front()
            {
                known.remove(&old);
            }
        }
    }

    pub(super) fn contains(&self, friend: &PeerId, id: &MessageId) -> bool {
        let mark = mark(friend, id);
        self.0.lock().expect("no panic while held").0.contains(&mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_parts_of_each_friend_are_remembered() {
        let (served, friend, other) = (Served::default(), PeerId::random(), PeerId::random());
        let id = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            MessageId(id)
        };
        let all: Vec<_> = (0..=SERVED).map(id).collect();
        served.note(&friend, &all[..1]);
        assert!(served.contains(&friend, &id(0)) && !served.contains(&other, &id(0)));
        served.note(&friend, &all);
        assert!(!served.contains(&friend, &id(0)), "the first goes");
        assert!((1..=SERVED).all(|n| served.contains(&friend, &id(n))));
    }
}
