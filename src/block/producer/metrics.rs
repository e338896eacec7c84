//! Counters of pool and production.

use crate::telemetry::{Counter, Gauge, Registry};

/// Counters of pool and production, registered under `vos_block_pool`. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Transactions that wait.
    pub transactions: Gauge,
    /// Their bytes.
    pub bytes: Gauge,
    /// Transactions submitted here and taken.
    pub submitted: Counter,
    /// Transactions from peers that were new and are passed on.
    pub accepted: Counter,
    /// Transactions from peers that were known, or found no room.
    pub ignored: Counter,
    /// Transactions from peers that can never be taken.
    pub rejected: Counter,
    /// Transactions that no block had taken after half an hour, dropped.
    pub expired: Counter,
    /// Transactions that were taken and dropped for another reason: blocks that left the chain had more than the pool has room for, or one
    /// of ours made every block invalid.
    pub dropped: Counter,
    /// Blocks produced.
    pub produced: Counter,
    /// Blocks that were due and not produced: busy, halted, or found invalid by our own rules.
    pub failed: Counter,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("vos_block_pool");
        registry.register("transactions", "Transactions that wait", self.transactions.clone());
        registry.register("bytes", "Bytes of the transactions that wait", self.bytes.clone());
        let counters = [
            ("submitted", "Transactions submitted here and taken", &self.submitted),
            ("accepted", "Transactions from peers that were new", &self.accepted),
            ("ignored", "Transactions from peers that were known or found no room", &self.ignored),
            ("rejected", "Transactions from peers that can never be taken", &self.rejected),
            ("expired", "Transactions that no block had taken after half an hour, dropped", &self.expired),
            (
                "dropped",
                "Transactions dropped: of blocks that left the chain, or that made each block invalid",
                &self.dropped,
            ),
            ("produced", "Blocks produced", &self.produced),
            ("failed", "Blocks that were due and not produced", &self.failed),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
