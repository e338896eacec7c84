//! Tests of the map, by price: fixed vectors, properties, a simulation of many maps, the service over loopback.

mod prop;
mod service;
mod sim;
mod vectors;

use std::{sync::Arc, time::Duration};

use super::record::{Body, Record};
use crate::{
    identity::Identity,
    primitives::{NetworkId, UnixMillis},
};

/// Some day in 2026.
pub(super) const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

/// An identity that is the same in every run.
pub(super) fn identity(number: u64) -> Identity {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes(seed).unwrap();
    Identity::from_keypair(keypair)
}

pub(super) fn network() -> NetworkId {
    "test".parse().unwrap()
}

/// A good body with sequence number `seq`, a name and one addr.
pub(super) fn body(of: &Identity, seq: u64) -> Body {
    let mut body = Body::new(of.address(), seq, NOW, NOW.plus(Duration::from_secs(24 * 3600)));
    body.name = "anna".into();
    body.addrs = vec!["/ip4/10.0.0.1/tcp/4001".parse().unwrap()];
    body
}

pub(super) fn record(of: &Identity, seq: u64) -> Record {
    body(of, seq).seal(of, &network())
}

/// Another record with the same number.
pub(super) fn rival(of: &Identity, seq: u64) -> Record {
    let mut body = body(of, seq);
    body.name = "other".into();
    body.seal(of, &network())
}

/// A random number generator for tests: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }
}

/// Shared bytes of an envelope.
pub(super) fn bytes(record: &Record) -> Vec<u8> {
    Arc::clone(record.envelope()).to_vec()
}
