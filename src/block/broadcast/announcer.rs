//! Whom to tell of a block. A header is passed on before its body is here (that is the topic's mesh); a block is announced once it is
//! imported, to everybody who is not known to have it: by the topic that goes one hop, and one by one to those who do not listen
//! to it.
//!
//! What goes out on the topic may not arrive: gossipsub drops what finds no room, and on a link that is dead to gossip alone it goes
//! on saying that all is well. So whoever tells a head below it some seconds later is told once more, one by one.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::known::{Known, NODE_WIDE, Recent};
use crate::primitives::{Hash, PeerId};

/// Peers told one by one of one block. Those on the topic cost nothing here; who else is connected is of another version, or
/// just came.
pub(super) const MAX_NOTIFIED: usize = 32;
/// Blocks this far below the head are announced; who lacks older ones catches up by asking for ranges.
pub(super) const NEAR_HEAD: u64 = 8;

/// Who was told on the topic knows a block after this, and may have fetched it, or was not reached.
pub(super) const REACHED: Duration = Duration::from_secs(5);
/// Blocks of which it is remembered who was told on the topic: nobody is reminded of older ones.
const TOLD: usize = 8;

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
    told: VecDeque<Told>,
}

/// Who was told of a block on the topic.
#[derive(Clone, Debug)]
struct Told {
    at: Instant,
    hash: Hash,
    peers: HashSet<PeerId>,
}

impl Default for Announcer {
    fn default() -> Self {
        Self { known: Known::default(), announced: Recent::new(NODE_WIDE), told: VecDeque::new() }
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
        for told in &mut self.told {
            told.peers.remove(peer);
        }
    }

    /// A peer has a block: it sent it, announced it, or said so.
    pub(super) fn learn(&mut self, peer: &PeerId, hash: Hash) {
        self.known.learn(peer, hash);
    }

    /// What was to tell it did not arrive.
    pub(super) fn unlearn(&mut self, peer: &PeerId, hash: &Hash) {
        self.known.unlearn(peer, hash);
    }

    /// Who has what.
    #[must_use]
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// A block is imported. `listens` says who is on the topic. From now on everybody who is told counts as knowing it, on the topic for
    /// [`REACHED`].
    pub(super) fn announce(&mut self, now: Instant, hash: Hash, listens: impl Fn(&PeerId) -> bool) -> Announce {
        if !self.announced.insert(hash) {
            return Announce::default();
        }
        let unaware: Vec<_> = self.known.peers().filter(|p| !self.known.has(p, &hash)).copied().collect();
        let (on_topic, mut notify): (Vec<_>, Vec<_>) = unaware.into_iter().partition(|p| listens(p));
        // Others for each block, and nobody can choose an id that is always among them.
        notify.sort_by_cached_key(|p| Hash::of(&[&hash.0[..], &p.to_bytes()].concat()).0);
        // Also when not all of them can be told alone: some may listen, and be slow just now.
        let topic = !on_topic.is_empty() || notify.len() > MAX_NOTIFIED;
        notify.truncate(MAX_NOTIFIED);
        for peer in &notify {
            self.known.learn(peer, hash);
        }
        if !on_topic.is_empty() {
            if self.told.len() >= TOLD {
                self.told.pop_front();
            }
            self.told.push_back(Told { at: now, hash, peers: on_topic.into_iter().collect() });
        }
        Announce { topic, notify }
    }

    /// Whether to tell `peer` of a block that it seems to lack: once, and not while it may be hearing of it on the topic.
    pub(super) fn remind(&mut self, now: Instant, peer: &PeerId, hash: Hash) -> bool {
        let just_told = |t: &Told| t.hash == hash && now < t.at + REACHED && t.peers.contains(peer);
        if !self.known.is_up(peer) || self.known.has(peer, &hash) || self.told.iter().any(just_told) {
            return false;
        }
        self.known.learn(peer, hash);
        true
    }
}
