//! The map's counters. Clones share them.

use std::sync::atomic::AtomicU64;

use crate::telemetry::{Counter, Gauge, Registry};

/// Counters of the map, registered under `vos_map`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Valid records held, set whenever the map changes.
    pub records: Gauge,
    /// Gossip that was new and is forwarded.
    pub gossip_accepted: Counter<u64, AtomicU64>,
    /// Gossip that was known, stale or over a rate.
    pub gossip_ignored: Counter<u64, AtomicU64>,
    /// Gossip that was broken.
    pub gossip_rejected: Counter<u64, AtomicU64>,
    /// Records or messages dropped because their author or carrier sent too many.
    pub rate_limited: Counter<u64, AtomicU64>,
    /// Records refused on any way in.
    pub records_refused: Counter<u64, AtomicU64>,
    /// Comparisons with a peer that came to an end.
    pub sync_rounds: Counter<u64, AtomicU64>,
    /// Comparisons that broke off.
    pub sync_failures: Counter<u64, AtomicU64>,
    /// Records taken from peers by page or comparison.
    pub pulled: Counter<u64, AtomicU64>,
    /// Records sent to peers by comparison.
    pub pushed: Counter<u64, AtomicU64>,
    /// Authors caught signing two records with one number.
    pub equivocations: Counter<u64, AtomicU64>,
    /// Questions to Kademlia.
    pub dht_lookups: Counter<u64, AtomicU64>,
    /// Probes sent.
    pub probes: Counter<u64, AtomicU64>,
    /// Records of our own signed.
    pub published: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("vos_map");
        registry.register("records", "Valid records held", self.records.clone());
        let counters = [
            ("gossip_accepted", "Gossip that was new and is forwarded", &self.gossip_accepted),
            ("gossip_ignored", "Gossip that was known, stale or over a rate", &self.gossip_ignored),
            ("gossip_rejected", "Gossip that was broken", &self.gossip_rejected),
            ("rate_limited", "Records dropped because of a rate", &self.rate_limited),
            ("records_refused", "Records refused on any way in", &self.records_refused),
            ("sync_rounds", "Comparisons with a peer that came to an end", &self.sync_rounds),
            ("sync_failures", "Comparisons with a peer that broke off", &self.sync_failures),
            ("pulled", "Records taken from peers by page or comparison", &self.pulled),
            ("pushed", "Records sent to peers by comparison", &self.pushed),
            ("equivocations", "Authors caught signing twice with one number", &self.equivocations),
            ("dht_lookups", "Questions to Kademlia", &self.dht_lookups),
            ("probes", "Probes sent", &self.probes),
            ("published", "Records of our own signed", &self.published),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
