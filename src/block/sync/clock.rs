//! How far our clock is from those of our peers, by SHAKEHAND. Told, never followed: no peer moves our clock, and whoever
//! sets its own wrongly learns it from its own node.

use std::{collections::HashMap, time::Duration};

use crate::primitives::{PeerId, UnixMillis};

/// Peers without which there is no median: of three, one may lie.
const ENOUGH: usize = 3;
/// Peers kept. The median of these is good to a few milliseconds; those beyond are not asked.
const PEERS: usize = 64;
/// An offset above which the operator is warned: half of what a block's time may be ahead.
pub(super) const WARN: Duration = Duration::from_secs(1);

/// Offsets of our peers' clocks from ours, in milliseconds: positive when theirs is ahead.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    last: HashMap<PeerId, i64>,
    warned: bool,
}

impl Offsets {
    /// A SHAKEHAND left at `sent` by our clock, took `round_trip`, and brought the peer's clock: read half-way, as far as we know.
    pub(super) fn record(&mut self, peer: PeerId, sent: UnixMillis, round_trip: Duration, theirs: UnixMillis) {
        if self.last.len() < PEERS || self.last.contains_key(&peer) {
            let ours = i128::from(sent.plus(round_trip / 2).0);
            let offset = i128::from(theirs.0) - ours;
            // Clocks of hostile peers may be anywhere in u64; half of i64 is still beyond any real one.
            let limit = i128::from(i64::MAX / 2);
            self.last.insert(peer, i64::try_from(offset.clamp(-limit, limit)).unwrap_or_default());
        }
    }

    /// The peer is gone.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.last.remove(peer);
    }

    /// The median; `None` with fewer than three peers.
    pub(super) fn median(&self) -> Option<i64> {
        if self.last.len() < ENOUGH {
            return None;
        }
        let mut all: Vec<_> = self.last.values().copied().collect();
        all.sort_unstable();
        let middle = all.len() / 2;
        Some(if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2 })
    }

    /// The median when it has just become larger than [`WARN`]: to be told once.
    pub(super) fn newly_wrong(&mut self) -> Option<i64> {
        let wrong = self.median().filter(|m| Duration::from_millis(m.unsigned_abs()) > WARN);
        let news = wrong.filter(|_| !self.warned);
        self.warned = wrong.is_some();
        news
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn with(all: &[i64]) -> Offsets {
        let mut offsets = Offsets::default();
        for offset in all {
            let theirs = UnixMillis(NOW.0.saturating_add_signed(*offset));
            offsets.record(PeerId::random(), NOW, Duration::ZERO, theirs);
        }
        offsets
    }

    #[test]
    fn the_half_of_the_round_trip_is_taken_off() {
        let mut offsets = Offsets::default();
        for _ in 0..3 {
            offsets.record(PeerId::random(), NOW, Duration::from_millis(300), NOW.plus(Duration::from_millis(150)));
        }
        assert_eq!(offsets.median(), Some(0));
    }

    #[test]
    fn two_peers_are_no_median_and_one_liar_of_three_changes_nothing() {
        assert_eq!(with(&[5, 7]).median(), None);
        assert_eq!(with(&[5, 7, i64::MAX / 4]).median(), Some(7));
        assert_eq!(with(&[-40, -50, i64::MIN / 4]).median(), Some(-50));
        let mut offsets = with(&[1, 2]);
        offsets.record(PeerId::random(), NOW, Duration::ZERO, UnixMillis(u64::MAX));
        offsets.record(PeerId::random(), UnixMillis(u64::MAX), Duration::MAX, UnixMillis(0));
        assert_eq!(offsets.median(), Some(1), "of four, between the middle two");
    }

    #[test]
    fn a_wrong_clock_is_told_once_until_it_was_right() {
        let mut offsets = with(&[1500, 1600, 1700]);
        assert_eq!(offsets.newly_wrong(), Some(1600));
        assert_eq!(offsets.newly_wrong(), None);
        let peers: Vec<_> = offsets.last.keys().copied().collect();
        peers.iter().for_each(|p| offsets.record(*p, NOW, Duration::ZERO, NOW));
        assert_eq!(offsets.newly_wrong(), None);
        peers.iter().for_each(|p| offsets.record(*p, NOW, Duration::ZERO, NOW.minus(2 * WARN)));
        assert_eq!(offsets.newly_wrong(), Some(-2000));
        offsets.forget(&peers[0]);
        assert_eq!(offsets.median(), None);
    }

    proptest! {
        #[test]
        fn less_than_half_of_liars_cannot_leave_the_range_of_the_honest(
            honest in proptest::collection::vec(-500i64..500, 3..20), lies in proptest::collection::vec(any::<i64>(), 0..20),
        ) {
            let lies = &lies[..lies.len().min(honest.len() - 1)];
            let all: Vec<_> = honest.iter().chain(lies).copied().collect();
            let median = with(&all).median().unwrap();
            let (low, high) = (honest.iter().min().unwrap(), honest.iter().max().unwrap());
            prop_assert!((*low..=*high).contains(&median), "{median}");
        }
    }
}
