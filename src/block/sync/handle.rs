//! The door: what sync shows of itself, and the one thing that others tell it.

use std::{
    collections::HashSet,
    sync::{Arc, RwLock},
};

use tokio::sync::{broadcast, mpsc, watch};

use super::plan::State;
use crate::{block::Point, primitives::PeerId};

/// Claims waiting for the service. One that finds no room is dropped: SHAKEHAND brings it again.
pub(super) const COMMANDS: usize = 256;
/// Heads told by SHAKEHAND that a slow listener may have before it loses the oldest.
pub(super) const HEADS: usize = 256;
/// Peers of other chains remembered.
const FOREIGN: usize = 1024;

/// How far sync is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Progress {
    /// What it is doing.
    pub state: State,
    /// Our best block's height.
    pub height: u64,
    /// The height that we want to reach, as far as peers can be believed; our own height when nothing is missing.
    pub target: u64,
    /// Blocks a second by which our height rose in the last seconds.
    pub rate: f64,
    /// Connected peers of our chain.
    pub peers: usize,
    /// Pulls under way.
    pub in_flight: usize,
    /// Blocks pulled and checked since the start.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How far the clocks of our peers are from ours in the median, in milliseconds: positive when theirs are ahead. `None`
    /// with fewer than three peers. Nothing follows it.
    pub clock_offset_ms: Option<i64>,
}

/// Peers of another chain: not used for blocks, whatever else they are good for. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Foreign(Arc<RwLock<HashSet<PeerId>>>);

impl Foreign {
    pub(super) fn add(&self, peer: PeerId) {
        let mut all = self.0.write().expect("no panic while held");
        if all.len() < FOREIGN {
            all.insert(peer);
        }
    }

    pub(super) fn remove(&self, peer: &PeerId) {
        if self.contains(peer) {
            self.0.write().expect("no panic while held").remove(peer);
        }
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.0.read().expect("no panic while held").contains(peer)
    }
}

/// Talks to sync. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) claims: mpsc::Sender<(PeerId, Point)>,
    pub(super) state: watch::Receiver<State>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) heads: broadcast::Sender<(PeerId, Point)>,
    pub(super) foreign: Foreign,
}

impl Handle {
    /// What an announcement says about a peer's head. A hint; it may be dropped when there are too many.
    pub fn claim(&self, peer: PeerId, head: Point) {
        if self.claims.try_send((peer, head)).is_err() {
            tracing::trace!(%peer, "a claim found no room");
        }
    }

    /// The state and its changes: broadcast and production go by it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The progress and its changes, a few times a second while there are any.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Heads that peers tell by SHAKEHAND from now on. A slow receiver loses the oldest.
    #[must_use]
    pub fn heads(&self) -> broadcast::Receiver<(PeerId, Point)> {
        self.heads.subscribe()
    }

    /// Whether a connected peer said that it is of another chain.
    #[must_use]
    pub fn is_foreign(&self, peer: &PeerId) -> bool {
        self.foreign.contains(peer)
    }

    /// For tests: `peer` is of another chain.
    #[cfg(any(test, feature = "test-util"))]
    pub fn set_foreign(&self, peer: PeerId) {
        self.foreign.add(peer);
    }

    /// For tests: a door without sync behind it, what sets its state, and the claims that it is told.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn detached(state: State) -> (Self, watch::Sender<State>, mpsc::Receiver<(PeerId, Point)>) {
        let (claims, told) = mpsc::channel(COMMANDS);
        let (sender, state) = watch::channel(state);
        let (_, progress) = watch::channel(Progress::default());
        let heads = broadcast::Sender::new(HEADS);
        (Self { claims, state, progress, heads, foreign: Foreign::default() }, sender, told)
    }
}
