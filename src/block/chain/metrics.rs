//! The chain's counters. Clones share them.

use std::sync::atomic::AtomicU64;

use crate::telemetry::{Counter, Gauge, Registry};

/// Counters of the chain, registered under `vos_block_chain`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Height of the best block.
    pub head: Gauge,
    /// Height of the newest final block.
    pub committed: Gauge,
    /// Blocks above the committed one, on all branches.
    pub candidates: Gauge,
    /// Blocks that wait for their parent or their time.
    pub orphans: Gauge,
    /// Blocks that lost against a final one and are still held.
    pub retired: Gauge,
    /// Peers on a branch that contradicts what is final here: an alarm when it is not 0.
    pub conflict_peers: Gauge,
    /// 1 while no blocks are taken.
    pub halted: Gauge,
    /// Files with bodies of blocks that are gone or damaged.
    pub damaged_files: Gauge,
    /// Blocks taken.
    pub imported: Counter<u64, AtomicU64>,
    /// Blocks found invalid.
    pub invalid: Counter<u64, AtomicU64>,
    /// Changes of the best chain that detached blocks.
    pub reorgs: Counter<u64, AtomicU64>,
    /// Proofs of branches that contradict what is final here.
    pub conflicts: Counter<u64, AtomicU64>,
    /// Writes.
    pub writes: Counter<u64, AtomicU64>,
    /// Writes that were synced, because something became final or a branch was left.
    pub synced_writes: Counter<u64, AtomicU64>,
    /// Blocks that became final in those writes.
    pub committed_blocks: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("vos_block_chain");
        let gauges = [
            ("head", "Height of the best block", &self.head),
            ("committed", "Height of the newest final block", &self.committed),
            ("candidates", "Blocks above the committed one, on all branches", &self.candidates),
            ("orphans", "Blocks that wait for their parent or their time", &self.orphans),
            ("retired", "Blocks that lost and are still held", &self.retired),
            ("conflict_peers", "Peers on a branch that contradicts what is final", &self.conflict_peers),
            ("halted", "1 while no blocks are taken", &self.halted),
            ("damaged_files", "Files with bodies of blocks that are gone or damaged", &self.damaged_files),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("imported", "Blocks taken", &self.imported),
            ("invalid", "Blocks found invalid", &self.invalid),
            ("reorgs", "Changes of the best chain that detached blocks", &self.reorgs),
            ("conflicts", "Proofs of branches that contradict what is final", &self.conflicts),
            ("writes", "Writes to the store", &self.writes),
            ("synced_writes", "Writes that were synced", &self.synced_writes),
            ("committed_blocks", "Blocks that became final", &self.committed_blocks),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
