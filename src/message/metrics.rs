//! Counters of messages, under the prefix `vos_message`.

use super::wire::Code;
use crate::telemetry::{Counter, EncodeLabelSet, Family, Registry};

/// Why something was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Reason {
    code: &'static str,
}

/// What messages did. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Messages queued for sending.
    pub sent: Counter,
    /// Outgoing messages whose receipt came.
    pub delivered: Counter,
    /// Messages completed in the inbox.
    pub received: Counter,
    /// Messages shown while others of their sender before them were missing.
    pub gaps: Counter,
    /// Messages that came after later ones of their sender were shown.
    pub late: Counter,
    /// Questions to senders for missing messages.
    pub asked: Counter,
    /// Parts received again.
    pub duplicates: Counter,
    /// Received parts answered with a refusal, by code.
    pub refused: Family<Reason, Counter>,
    /// Requests that failed and are tried again.
    pub retries: Counter,
    /// Answers whose receipt was missing or not signed by the recipient.
    pub forged_receipts: Counter,
    /// Lists of receipts that recipients left with our friends.
    pub letters_in: Counter,
    /// Messages sealed again for another key.
    pub resealed: Counter,
    /// Bytes of sealed parts handed to other nodes, retries included.
    pub bytes_out: Counter,
    /// Bytes of sealed parts received, repeated ones included.
    pub bytes_in: Counter,
    /// Requests sent.
    pub batches_out: Counter,
    /// Requests received.
    pub batches_in: Counter,
}

impl Metrics {
    /// Counters in a registry, under `vos_message`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("vos_message");
        r.register("sent", "Messages queued for sending", metrics.sent.clone());
        r.register("delivered", "Outgoing messages whose signed receipt came", metrics.delivered.clone());
        r.register("received", "Messages completed in the inbox", metrics.received.clone());
        r.register("gaps", "Messages shown while others before them were missing", metrics.gaps.clone());
        r.register("late", "Messages that came after later ones were shown", metrics.late.clone());
        r.register("asked", "Questions to senders for missing messages", metrics.asked.clone());
        r.register("duplicates", "Parts received again", metrics.duplicates.clone());
        r.register("refused", "Received parts answered with a refusal, by code", metrics.refused.clone());
        r.register("retries", "Requests that failed and are tried again", metrics.retries.clone());
        r.register("forged_receipts", "Answers without a good receipt", metrics.forged_receipts.clone());
        r.register("letters_in", "Lists of receipts collected from friends", metrics.letters_in.clone());
        r.register("resealed", "Messages sealed again for another key", metrics.resealed.clone());
        r.register("bytes_out", "Bytes of sealed parts handed to other nodes", metrics.bytes_out.clone());
        r.register("bytes_in", "Bytes of sealed parts received", metrics.bytes_in.clone());
        r.register("batches_out", "Deliver requests sent", metrics.batches_out.clone());
        r.register("batches_in", "Deliver requests received", metrics.batches_in.clone());
        metrics
    }

    pub(super) fn refuse(&self, code: Code) {
        let code = match code {
            Code::Stored | Code::Delivered => return,
            Code::NeedReseal => "need_reseal",
            Code::TooLarge => "too_large",
            Code::InboxFull => "inbox_full",
            Code::Expired => "expired",
            Code::Bad => "bad",
            Code::Busy => "busy",
            Code::Clock => "clock",
            Code::DiskFull => "disk_full",
        };
        self.refused.get_or_create(&Reason { code }).inc();
    }
}
