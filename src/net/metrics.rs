//! The network's own metrics; libp2p's stand beside them in the same registry under `vos_libp2p_`,
//! gossipsub's under `vos_` (that crate knows no prefix).

use std::sync::{Arc, atomic::AtomicU64};

use crate::telemetry::{Counter, Gauge, Registry};

/// Counters of the swarm task.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    peers: Gauge,
    dial_failures: Counter,
    gossip_dropped: Counter,
    gossip_slow: Counter,
    event_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self::default();
        let net = registry.sub_registry_with_prefix("vos_net");
        net.register("peers", "Peers connected now", metrics.peers.clone());
        net.register("dial_failures", "Dials that reached nobody", metrics.dial_failures.clone());
        let help = "Gossip messages ignored because the feature's queue was full";
        net.register("gossip_dropped", help, metrics.gossip_dropped.clone());
        let help =
            "Heartbeats of gossip in which a peer lost messages, because it does not take them or its link is too slow";
        net.register("gossip_slow", help, metrics.gossip_slow.clone());
        let help = "Longest time one swarm event took to handle, in seconds, since the start";
        net.register("event_seconds_max", help, metrics.event_seconds.clone());
        Arc::new(metrics)
    }

    /// Set from the peer table's length, never counted up and down.
    pub(super) fn set_peers(&self, n: usize) {
        self.peers.set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    pub(super) fn dial_failed(&self) {
        self.dial_failures.inc();
    }

    pub(super) fn gossip_dropped(&self) {
        self.gossip_dropped.inc();
    }

    pub(super) fn gossip_slow(&self) {
        self.gossip_slow.inc();
    }

    pub(super) fn event_took(&self, seconds: f64) {
        if seconds > self.event_seconds.get() {
            self.event_seconds.set(seconds);
        }
    }
}
