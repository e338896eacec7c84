//! The broadcast's counters. Clones share them.

use std::sync::atomic::AtomicU64;

use crate::telemetry::{Counter, Gauge, Registry};

/// Counters of the broadcast, registered under `vos_block_broadcast`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Blocks being fetched.
    pub fetching: Gauge,
    /// Bytes of bodies here, on their way or kept for others.
    pub body_bytes: Gauge,
    /// NEW_BLOCK that was good and is forwarded.
    pub forwarded: Counter<u64, AtomicU64>,
    /// NEW_BLOCK that was known, stale, early or too far ahead.
    pub ignored: Counter<u64, AtomicU64>,
    /// NEW_BLOCK and NEW_BLOCK_HASH that were broken.
    pub rejected: Counter<u64, AtomicU64>,
    /// NEW_BLOCK dropped because too many were being checked, or there was no room for its body.
    pub overflowed: Counter<u64, AtomicU64>,
    /// NEW_BLOCK_HASH received, on the topic and one by one.
    pub announcements: Counter<u64, AtomicU64>,
    /// NEW_BLOCK_HASH that was one of too many from its peer.
    pub announcements_refused: Counter<u64, AtomicU64>,
    /// Blocks that we announced.
    pub announced: Counter<u64, AtomicU64>,
    /// Blocks of our own that we published.
    pub published: Counter<u64, AtomicU64>,
    /// Peers told one by one.
    pub notified: Counter<u64, AtomicU64>,
    /// Requests sent.
    pub asked: Counter<u64, AtomicU64>,
    /// Requests that brought nothing.
    pub asks_failed: Counter<u64, AtomicU64>,
    /// Bytes of bodies received, whether needed or not.
    pub received_bytes: Counter<u64, AtomicU64>,
    /// Requests answered with a block or a piece.
    pub served: Counter<u64, AtomicU64>,
    /// Their bytes.
    pub served_bytes: Counter<u64, AtomicU64>,
    /// Requests that were told to come back.
    pub busy: Counter<u64, AtomicU64>,
    /// Blocks that came by broadcast and were imported.
    pub imported: Counter<u64, AtomicU64>,
    /// Blocks whose bytes were what their headers say, and were wrong.
    pub invalid: Counter<u64, AtomicU64>,
    /// Fetches given up.
    pub lost: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("vos_block_broadcast");
        registry.register("fetching", "Blocks being fetched", self.fetching.clone());
        registry.register("body_bytes", "Bytes of bodies on their way or kept for others", self.body_bytes.clone());
        let counters = [
            ("forwarded", "NEW_BLOCK that was good and is forwarded", &self.forwarded),
            ("ignored", "NEW_BLOCK that was known, stale, early or too far ahead", &self.ignored),
            ("rejected", "NEW_BLOCK and NEW_BLOCK_HASH that were broken", &self.rejected),
            ("overflowed", "NEW_BLOCK that there was no room for", &self.overflowed),
            ("announcements", "NEW_BLOCK_HASH received", &self.announcements),
            ("announcements_refused", "NEW_BLOCK_HASH over a peer's limit", &self.announcements_refused),
            ("announced", "Blocks announced", &self.announced),
            ("published", "Blocks of our own published", &self.published),
            ("notified", "Peers told of a block one by one", &self.notified),
            ("asked", "Requests sent", &self.asked),
            ("asks_failed", "Requests that brought nothing", &self.asks_failed),
            ("received_bytes", "Bytes of bodies received", &self.received_bytes),
            ("served", "Requests answered with a block or a piece", &self.served),
            ("served_bytes", "Bytes of these answers", &self.served_bytes),
            ("busy", "Requests that were told to come back", &self.busy),
            ("imported", "Blocks that came by broadcast and were imported", &self.imported),
            ("invalid", "Blocks that were wrong although their bytes fit", &self.invalid),
            ("lost", "Fetches given up", &self.lost),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
