//! How much one peer may leave in how short a time: charged by the bytes of a request before anything of it is hashed or verified,
//! so malformed deposits cost as much as good ones. (Requests a second are limited before parsing, by `net::rpc`.)

use std::{collections::HashMap, time::Duration};

use crate::primitives::PeerId;

/// Bytes a second from one peer: more than one connection brings over most links.
const BYTES: f64 = 32.0 * 1024.0 * 1024.0;
/// What may come at once: two seconds' worth.
const BURST: f64 = 2.0 * BYTES;
/// Peers remembered, 80 bytes each; those whose allowance is whole again are forgotten first.
const PEERS: usize = 8192;

/// Allowances by peer. Times are monotonic, since the start.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<PeerId, (f64, Duration)>);

impl Rates {
    /// Takes `bytes` from a peer's allowance, or says after how many milliseconds there are as many.
    pub(super) fn take(&mut self, now: Duration, peer: PeerId, bytes: usize) -> Result<(), u64> {
        let at_hand =
            |(tokens, at): (f64, Duration)| (tokens + now.saturating_sub(at).as_secs_f64() * BYTES).min(BURST);
        if self.0.len() >= PEERS && !self.0.contains_key(&peer) {
            self.0.retain(|_, state| at_hand(*state) < BURST);
            if self.0.len() >= PEERS {
                return Err(1000);
            }
        }
        let state = self.0.entry(peer).or_insert((BURST, now));
        let (tokens, cost) = (at_hand(*state), f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
        if cost > tokens {
            *state = (tokens, now);
            let wait = Duration::from_secs_f64(((cost - tokens) / BYTES).clamp(0.0, 3600.0));
            return Err(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) + 1);
        }
        *state = (tokens - cost, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_leaves_too_much_is_told_when_to_come_again_and_others_go_on() {
        let (mut rates, peer, mib) = (Rates::default(), PeerId::random(), 1024 * 1024);
        let mut now = Duration::ZERO;
        (0..64).for_each(|_| assert_eq!(rates.take(now, peer, mib), Ok(())));
        let wait = rates.take(now, peer, mib).unwrap_err();
        assert!((30..40).contains(&wait), "{wait}");
        assert_eq!(rates.take(now, PeerId::random(), mib), Ok(()));
        now += Duration::from_millis(wait);
        assert_eq!(rates.take(now, peer, mib), Ok(()));
        assert!(rates.take(now, peer, mib).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut rates = Rates::default();
        for _ in 0..PEERS {
            assert_eq!(rates.take(Duration::ZERO, PeerId::random(), 1), Ok(()));
        }
        assert_eq!(rates.take(Duration::ZERO, PeerId::random(), 1), Err(1000));
        assert_eq!(rates.take(Duration::from_secs(1), PeerId::random(), 1), Ok(()));
        assert_eq!(rates.0.len(), 1);
    }
}
