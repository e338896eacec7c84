//! Answering: who may pull how much. Blocks are served in every state of sync (N11), read from the store on threads of their own.
//!
//! A peer has two requests in service, and all peers together sixteen; more are told to come back. What a peer gets is counted. One
//! that took its share of late is served from idle places only: while half of the places are free. So a lone node that catches up gets
//! all that this node can give (a fixed rate of 1024 blocks in 10 s would make a chain of 100000 blocks take a quarter of an
//! hour from one peer), and one that takes without end never delays those that ask for little. Above all there is a budget of bytes
//! for the whole node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::primitives::PeerId;

/// Requests of one peer in service.
const PER_PEER: usize = 2;
/// Requests in service.
const IN_ALL: usize = 16;
/// A peer's share: after this much it waits for idle places until as much time has passed as its share is for.
const SHARE_BLOCKS: f64 = 1024.0;
const SHARE_BYTES: f64 = 20.0 * 1024.0 * 1024.0;
/// What a share is for.
const SHARE_TIME: Duration = Duration::from_secs(10);
/// What the node gives in [`SHARE_TIME`] to all: a gigabit line, whoever asks.
const NODE_BYTES: f64 = 1.25e9;
/// Peers whose share is counted; those whose share is whole again are forgotten.
const PEERS: usize = 4096;

/// A bucket that leaks evenly: how much of `size` was taken lately.
#[derive(Debug, Default)]
struct Taken {
    amount: f64,
    at: Option<Instant>,
}

impl Taken {
    fn now(&self, size: f64, now: Instant) -> f64 {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        (self.amount - passed * size / SHARE_TIME.as_secs_f64()).max(0.0)
    }

    fn add(&mut self, amount: f64, size: f64, now: Instant) {
        (self.amount, self.at) = (self.now(size, now) + amount, Some(now));
    }

    /// How long until less than `size` is taken.
    fn wait(&self, size: f64, now: Instant) -> Duration {
        let over = (self.now(size, now) - size).max(0.0);
        Duration::from_secs_f64(over * SHARE_TIME.as_secs_f64() / size)
    }
}

#[derive(Debug, Default)]
struct Peer {
    serving: usize,
    blocks: Taken,
    bytes: Taken,
}

#[derive(Debug, Default)]
struct Desk {
    serving: usize,
    peers: HashMap<PeerId, Peer>,
    bytes: Taken,
}

/// Places for those who ask. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Desk>>);

/// A place; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    peer: PeerId,
}

impl Places {
    /// A place for `peer`.
    ///
    /// # Errors
    /// When to come back.
    pub(super) fn take(&self, peer: PeerId, now: Instant) -> Result<Place, Duration> {
        let mut desk = self.0.lock().expect("no panic while held");
        let wait = desk.bytes.wait(NODE_BYTES, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        if desk.peers.len() >= PEERS && !desk.peers.contains_key(&peer) {
            desk.peers.retain(|_, p| p.serving > 0 || p.bytes.now(SHARE_BYTES, now) > 0.0);
        }
        let (serving, full) = (desk.serving, desk.peers.len() >= PEERS);
        // A pull takes some milliseconds here; a quarter second is a fair guess for a place to be free.
        let soon = Duration::from_millis(250);
        let known = desk.peers.get(&peer);
        if known.map_or(0, |p| p.serving) >= PER_PEER || serving >= IN_ALL || (full && known.is_none()) {
            return Err(soon);
        }
        let share =
            known.map_or(Duration::ZERO, |p| p.blocks.wait(SHARE_BLOCKS, now).max(p.bytes.wait(SHARE_BYTES, now)));
        if !share.is_zero() && serving >= IN_ALL / 2 {
            return Err(share.min(Duration::from_secs(2)).max(soon));
        }
        desk.serving += 1;
        desk.peers.entry(peer).or_default().serving += 1;
        drop(desk);
        Ok(Place { places: self.clone(), peer })
    }
}

impl Place {
    /// Counts what was given.
    pub(super) fn gave(&self, blocks: usize, bytes: usize, now: Instant) {
        let mut desk = self.places.0.lock().expect("no panic while held");
        let (blocks, bytes) = (blocks as f64, bytes as f64); // far below what a float holds
        desk.bytes.add(bytes, NODE_BYTES, now);
        if let Some(peer) = desk.peers.get_mut(&self.peer) {
            peer.blocks.add(blocks, SHARE_BLOCKS, now);
            peer.bytes.add(bytes, SHARE_BYTES, now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut desk = self.places.0.lock().expect("no panic while held");
        desk.serving -= 1;
        if let Some(peer) = desk.peers.get_mut(&self.peer) {
            peer.serving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_two_places_and_all_have_sixteen() {
        let (places, now) = (Places::default(), Instant::now());
        let peer = PeerId::random();
        let both = (places.take(peer, now).unwrap(), places.take(peer, now).unwrap());
        assert!(places.take(peer, now).is_err());
        let others: Vec<_> = (0..14).map(|_| places.take(PeerId::random(), now).unwrap()).collect();
        assert!(places.take(PeerId::random(), now).is_err());
        drop(both);
        assert!(places.take(peer, now).is_ok());
        drop(others);
        assert_eq!(places.0.lock().unwrap().serving, 0);
    }

    #[test]
    fn who_took_its_share_is_served_from_idle_places_until_time_has_passed() {
        let (places, now) = (Places::default(), Instant::now());
        let greedy = PeerId::random();
        places.take(greedy, now).unwrap().gave(5000, 1, now);
        assert!(places.take(greedy, now).is_ok(), "nobody else wants anything");
        let others: Vec<_> = (0..8).map(|_| places.take(PeerId::random(), now).unwrap()).collect();
        let wait = places.take(greedy, now).unwrap_err();
        assert!(wait > Duration::ZERO);
        assert!(places.take(PeerId::random(), now).is_ok(), "others are served on");
        assert!(places.take(greedy, now + SHARE_TIME * 5).is_ok());
        drop(others);
        assert!(places.take(greedy, now).is_ok());
    }

    #[test]
    fn the_node_has_a_budget_and_what_is_counted_is_bounded() {
        let (places, now) = (Places::default(), Instant::now());
        places.take(PeerId::random(), now).unwrap().gave(1, 2_500_000_000, now);
        assert_eq!(places.take(PeerId::random(), now).unwrap_err(), SHARE_TIME);
        assert!(places.take(PeerId::random(), now + SHARE_TIME * 2).is_ok());
        let later = now + SHARE_TIME * 4;
        for _ in 0..2 * PEERS {
            if let Ok(place) = places.take(PeerId::random(), later) {
                place.gave(1, 1, later);
            }
        }
        assert!(places.0.lock().unwrap().peers.len() <= PEERS);
        assert!(places.take(PeerId::random(), later + SHARE_TIME).is_ok());
    }
}
