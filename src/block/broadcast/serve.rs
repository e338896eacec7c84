//! Who may ask for how much: a bucket of blocks and one of bytes for each peer, and places for reads of the store.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::primitives::PeerId;

/// Reads of the store under way, for all peers and for one.
const READS: usize = 16;
const READS_PER_PEER: usize = 2;
/// Blocks that one peer gets by hash in [`TIME`].
const BLOCKS: f64 = 128.0;
/// Bytes that it gets in [`TIME`]: a block of the largest size every two seconds.
const BYTES: f64 = 20.0 * 1024.0 * 1024.0;
/// What a share is for.
const TIME: Duration = Duration::from_secs(10);
/// Peers that are counted; whoever's share is whole again is forgotten. Who is not counted is not served.
const PEERS: usize = 4096;

#[derive(Debug)]
struct Share {
    blocks: f64,
    bytes: f64,
    at: Instant,
    reads: usize,
}

impl Share {
    fn leak(&mut self, now: Instant) {
        let part = now.saturating_duration_since(self.at).as_secs_f64() / TIME.as_secs_f64();
        self.blocks = (self.blocks - part * BLOCKS).max(0.0);
        self.bytes = (self.bytes - part * BYTES).max(0.0);
        self.at = now;
    }
}

/// What was given to whom lately.
#[derive(Debug, Default)]
pub(super) struct Shares {
    peers: HashMap<PeerId, Share>,
    reads: usize,
}

impl Shares {
    fn share(&mut self, peer: PeerId, now: Instant) -> Option<&mut Share> {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, s| {
                s.leak(now);
                s.reads > 0 || s.bytes > 0.0 || s.blocks > 0.0
            });
            if self.peers.len() >= PEERS {
                return None;
            }
        }
        let share = self.peers.entry(peer).or_insert(Share { blocks: 0.0, bytes: 0.0, at: now, reads: 0 });
        share.leak(now);
        Some(share)
    }

    /// Whether `peer` has something left of its share.
    pub(super) fn allows(&mut self, peer: PeerId, now: Instant) -> bool {
        self.share(peer, now).is_some_and(|s| s.blocks < BLOCKS && s.bytes < BYTES)
    }

    /// Counts what it was given: so many whole blocks, or none for a piece, and their bytes.
    pub(super) fn gave(&mut self, peer: PeerId, blocks: usize, bytes: usize, now: Instant) {
        if let Some(share) = self.share(peer, now) {
            share.blocks += blocks as f64; // far below what a float holds
            share.bytes += bytes as f64; // the same
        }
    }

    /// Takes a place for a read of the store, to be given back by [`Shares::read`].
    pub(super) fn begin_read(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.reads >= READS {
            return false;
        }
        let Some(share) = self.share(peer, now).filter(|s| s.reads < READS_PER_PEER) else { return false };
        share.reads += 1;
        self.reads += 1;
        true
    }

    /// A read is over.
    pub(super) fn end_read(&mut self, peer: &PeerId) {
        self.reads = self.reads.saturating_sub(1);
        if let Some(share) = self.peers.get_mut(peer) {
            share.reads = share.reads.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_and_comes_back() {
        let (mut shares, mut now) = (Shares::default(), Instant::now());
        let (peer, other) = (PeerId::random(), PeerId::random());
        for _ in 0..128 {
            assert!(shares.allows(peer, now));
            shares.gave(peer, 1, 1000, now);
        }
        assert!(!shares.allows(peer, now) && shares.allows(other, now));
        now += TIME / 64;
        assert!(shares.allows(peer, now), "two blocks' worth are back");
        shares.gave(other, 0, 21 << 20, now);
        assert!(!shares.allows(other, now) && shares.allows(other, now + TIME / 10));
    }

    #[test]
    fn reads_are_few_and_peers_are_bounded() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        let peers: Vec<_> = (0..9).map(|_| PeerId::random()).collect();
        for peer in &peers[..8] {
            assert!(shares.begin_read(*peer, now) && shares.begin_read(*peer, now) && !shares.begin_read(*peer, now));
        }
        assert!(!shares.begin_read(peers[8], now), "sixteen in all");
        shares.end_read(&peers[0]);
        assert!(shares.begin_read(peers[8], now) && !shares.begin_read(peers[0], now));
        for _ in 0..PEERS + 10 {
            shares.gave(PeerId::random(), 0, 1, now);
        }
        assert!(shares.peers.len() <= PEERS);
        assert!(!shares.allows(PeerId::random(), now), "nobody is forgotten who took something");
        assert!(shares.allows(PeerId::random(), now + TIME), "and everybody afterwards");
    }
}
