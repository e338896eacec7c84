//! Whom to tell of a block. A header is passed on before its body is here (that is the topic's mesh); a block is announced once it is
//! imported, to everybody who is not known to have it: by the topic that goes one hop, and one by one to those who do not listen
//! to it.

use super::known::{Known, NODE_WIDE, Recent};
use crate::primitives::{Hash, PeerId};

/// Peers told one by one of one block. Those on the topic cost nothing here; who else is connected is of another version, or
/// just came.
pub(super) const MAX_NOTIFIED: usize = 32;
/// Blocks this far below the head are announced; who lacks older ones catches up by asking for ranges.
pub(super) const NEAR_HEAD: u64 = 8;

/// How the news of a block goes out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Announce {
    /// On the topic: somebody there may not have it.
    pub(super) topic: bool,
    /// NOTIFY to these.
    pub(super) notify: Vec<PeerId>,
}

/// What was told to whom.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    known: Known,
    /// Announced by us: a block is announced once.
    announced: Recent<Hash>,
}

impl Default for Announcer {
    fn default() -> Self {
        Self { known: Known::default(), announced: Recent::new(NODE_WIDE) }
    }
}

impl Announcer {
    /// A peer came.
    pub(super) fn up(&mut self, peer: PeerId) {
        self.known.up(peer);
    }

    /// A peer went.
    pub(super) fn down(&mut self, peer: &PeerId) {
        self.known.down(peer);
    }

    /// A peer has a block: it sent it, announced it, or said so.
    pub(super) fn learn(&mut self, peer: &PeerId, hash: Hash) {
        self.known.learn(peer, hash);
    }

    /// Who has what.
    #[must_use]
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// A block is imported. `listens` says who is on the topic. From now on everybody who is told counts as knowing it.
    pub(super) fn announce(&mut self, hash: Hash, listens: impl Fn(&PeerId) -> bool) -> Announce {
        if !self.announced.insert(hash) {
            return Announce::default();
        }
        let unaware: Vec<_> = self.known.peers().filter(|p| !self.known.has(p, &hash)).copied().collect();
        let (on_topic, mut notify): (Vec<_>, Vec<_>) = unaware.into_iter().partition(|p| listens(p));
        notify.sort_unstable();
        notify.truncate(MAX_NOTIFIED);
        for peer in on_topic.iter().chain(&notify) {
            self.known.learn(peer, hash);
        }
        Announce { topic: !on_topic.is_empty(), notify }
    }

    /// Whether to tell `peer` of a block that it seems to lack: once.
    pub(super) fn remind(&mut self, peer: &PeerId, hash: Hash) -> bool {
        let due = self.known.is_up(peer) && !self.known.has(peer, &hash);
        self.known.learn(peer, hash);
        due
    }
}
