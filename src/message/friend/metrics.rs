//! Counters of friendships, under the prefix `vos_friend`.

use super::wire::Refused;
use crate::telemetry::{Counter, EncodeLabelSet, Family, Gauge, Registry};

/// Why something told was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Why {
    code: &'static str,
}

/// What friendships did. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Offers that we signed, renewals included.
    pub offered: Counter,
    /// Offers of others that were new here, renewals included.
    pub asked: Counter,
    /// Offers of others that we accepted, renewals included.
    pub accepted: Counter,
    /// Offers of others that we declined.
    pub declined: Counter,
    /// Friendships that we ended.
    pub ended: Counter,
    /// What others told us and we refused, by code.
    pub refused: Family<Why, Counter>,
    /// Tries to tell the other side that failed.
    pub retries: Counter,
    /// Friends that hold messages for us now.
    pub held_by: Gauge,
    /// Nodes for which we hold messages now.
    pub holding_for: Gauge,
    /// Bytes promised to them.
    pub promised_bytes: Gauge,
}

impl Metrics {
    /// Counters in a registry, under `vos_friend`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("vos_friend");
        r.register("offered", "Offers signed here, renewals included", metrics.offered.clone());
        r.register("asked", "New offers of other nodes, renewals included", metrics.asked.clone());
        r.register("accepted", "Offers of other nodes accepted, renewals included", metrics.accepted.clone());
        r.register("declined", "Offers of other nodes declined", metrics.declined.clone());
        r.register("ended", "Friendships ended here", metrics.ended.clone());
        r.register("refused", "Statements of other nodes refused, by code", metrics.refused.clone());
        r.register("retries", "Tries to tell the other side that failed", metrics.retries.clone());
        r.register("held_by", "Friends that hold messages for this node", metrics.held_by.clone());
        r.register("holding_for", "Nodes for which messages are held", metrics.holding_for.clone());
        r.register("promised_bytes", "Bytes promised to other nodes", metrics.promised_bytes.clone());
        metrics
    }

    pub(super) fn refuse(&self, why: Refused) {
        self.refused.get_or_create(&Why { code: why.code() }).inc();
    }
}
