//! Sync's counters. Clones share them.

use std::sync::atomic::AtomicU64;

use crate::telemetry::{Counter, Gauge, Registry};

/// Counters of sync, registered under `vos_block_sync`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// The state: 0 no peers, 1 syncing, 2 catching up, 3 synced, 4 stalled.
    pub state: Gauge,
    /// Heights between our head and the target.
    pub behind: Gauge,
    /// Median offset of our peers' clocks in milliseconds; 0 while it is not known.
    pub clock_offset_ms: Gauge,
    /// SHAKEHANDs sent and answered.
    pub shakehands: Counter<u64, AtomicU64>,
    /// SHAKEHANDs from or to peers of another chain.
    pub foreign: Counter<u64, AtomicU64>,
    /// Blocks pulled and checked.
    pub pulled: Counter<u64, AtomicU64>,
    /// Their bytes.
    pub pulled_bytes: Counter<u64, AtomicU64>,
    /// Pulls that brought nothing.
    pub pulls_failed: Counter<u64, AtomicU64>,
    /// Blocks served by height.
    pub served: Counter<u64, AtomicU64>,
    /// Their bytes.
    pub served_bytes: Counter<u64, AtomicU64>,
    /// Requests that were told to come back.
    pub busy: Counter<u64, AtomicU64>,
    /// Searches for the place where a peer's chain leaves ours.
    pub searches: Counter<u64, AtomicU64>,
    /// Branches below our committed block that peers proved.
    pub conflicts: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("vos_block_sync");
        let gauges = [
            ("state", "0 no peers, 1 syncing, 2 catching up, 3 synced, 4 stalled", &self.state),
            ("behind", "Heights between our head and the target", &self.behind),
            ("clock_offset_ms", "Median offset of our peers' clocks", &self.clock_offset_ms),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("shakehands", "SHAKEHANDs sent and answered", &self.shakehands),
            ("foreign", "SHAKEHANDs with peers of another chain", &self.foreign),
            ("pulled", "Blocks pulled and checked", &self.pulled),
            ("pulled_bytes", "Bytes of blocks pulled and checked", &self.pulled_bytes),
            ("pulls_failed", "Pulls that brought nothing", &self.pulls_failed),
            ("served", "Blocks served by height", &self.served),
            ("served_bytes", "Bytes of blocks served by height", &self.served_bytes),
            ("busy", "Requests that were told to come back", &self.busy),
            ("searches", "Searches for where a peer's chain leaves ours", &self.searches),
            ("conflicts", "Branches below our committed block that peers proved", &self.conflicts),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
