//! Counters of mailboxes, under the prefix `vos_mailbox`.

use crate::telemetry::{Counter, EncodeLabelSet, Family, Registry};

/// Why a deposit was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Reason {
    /// The code on the wire.
    pub code: u32,
}

/// What mailboxes did. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Parts taken for others.
    pub stored: Counter,
    /// Parts that were there already.
    pub duplicates: Counter,
    /// Parts refused, by code.
    pub refused: Family<Reason, Counter>,
    /// Parts handed to their owners.
    pub served: Counter,
    /// Parts that their owners acknowledged.
    pub acked: Counter,
    /// Parts whose time was over before they were collected.
    pub expired: Counter,
    /// Our own parts pulled from our friends, repeated ones included.
    pub pulled: Counter,
    /// Answers of our friends that were malformed or not theirs.
    pub bad_pages: Counter,
    /// Receipts that we sent on their own.
    pub receipts_out: Counter,
    /// Receipts that came on their own.
    pub receipts_in: Counter,
    /// Claims that we made: what friends of recipients signed.
    pub claims_out: Counter,
    /// Claims about friends of ours.
    pub claims_in: Counter,
    /// Claims of what a friend did not sign.
    pub forged_claims: Counter,
    /// Checked promises that friends kept.
    pub promises_kept: Counter,
    /// Promises that friends broke.
    pub promises_broken: Counter,
    /// Promises that friends did not account for.
    pub promises_refused: Counter,
    /// Lists of receipts left with friends of the sender.
    pub letters_out: Counter,
}

impl Metrics {
    /// Counters in a registry, under `vos_mailbox`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("vos_mailbox");
        r.register("stored", "Parts taken for others", metrics.stored.clone());
        r.register("duplicates", "Deposited parts that were there already", metrics.duplicates.clone());
        r.register("refused", "Deposited parts refused, by code", metrics.refused.clone());
        r.register("served", "Parts handed to their owners", metrics.served.clone());
        r.register("acked", "Parts that their owners acknowledged", metrics.acked.clone());
        r.register("expired", "Parts never collected", metrics.expired.clone());
        r.register("pulled", "Our own parts pulled from friends", metrics.pulled.clone());
        r.register("bad_pages", "Malformed or forged answers of friends", metrics.bad_pages.clone());
        r.register("receipts_out", "Receipts sent on their own", metrics.receipts_out.clone());
        r.register("receipts_in", "Receipts that came on their own", metrics.receipts_in.clone());
        r.register("claims_out", "Claims made about friends of recipients", metrics.claims_out.clone());
        r.register("claims_in", "Claims about friends of this node", metrics.claims_in.clone());
        r.register("forged_claims", "Claims of what a friend did not sign", metrics.forged_claims.clone());
        r.register("promises_kept", "Checked promises that friends kept", metrics.promises_kept.clone());
        r.register("promises_broken", "Promises that friends broke", metrics.promises_broken.clone());
        r.register("promises_refused", "Promises not accounted for", metrics.promises_refused.clone());
        r.register("letters_out", "Lists of receipts left with friends of the sender", metrics.letters_out.clone());
        metrics
    }
}
