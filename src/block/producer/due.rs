//! When a block is due here, and what is in it.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::Service;
use crate::{
    block::{
        Block, Body, Header, MAX_EXTRA_BYTES, MAX_TRANSACTIONS, Origin,
        chain::{ChainError, Outcome, Verdict},
    },
    primitives::{Hash, UnixMillis},
};

/// Producers wait a random part of the interval's fifth, so that one of them is first.
const JITTER: u64 = 5;
/// A block this far ahead of our clock would be kept back by everybody: then somebody's clock is wrong and we wait.
const AHEAD: Duration = Duration::from_secs(1);

impl Service {
    /// The next block is due one interval after the head was made; clocks that differ cannot shift that by more than half of it.
    pub(super) fn plan(&mut self) {
        let age = self.clock.now().since(self.chain.status().head_time).min(self.interval / 2);
        let fifth = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX) / JITTER;
        let jitter = Duration::from_millis(rand::random_range(0..=fifth));
        self.due = Instant::now() + self.interval - age + jitter;
    }

    /// There is a new head. One that is no higher does not put off what is due: or whoever replaces the head again and again would keep
    /// everybody from making the next block.
    pub(super) fn put_off(&mut self, height: u64) {
        let before = self.due;
        self.plan();
        if height <= self.planned {
            self.due = self.due.min(before);
        }
        self.planned = self.planned.max(height);
    }

    pub(super) async fn on_due(&mut self) {
        self.plan();
        match self.produce().await {
            Ok(true) => drop(self.metrics.produced.inc()),
            Ok(false) => drop(self.metrics.failed.inc()),
            Err(error) => {
                tracing::debug!(%error, "no block was produced");
                self.metrics.failed.inc();
            }
        }
    }

    /// Whether a block was produced and taken.
    async fn produce(&mut self) -> Result<bool, ChainError> {
        let (head, now) = (self.chain.status().head, self.clock.now());
        // Its transactions are in the pool still, and would be in the chain twice. The event that tells of it puts this off.
        if self.behind || head.hash != self.known {
            tracing::debug!(head = head.height, "no block is produced before the pool knows the newest ones");
            return Ok(false);
        }
        let Some(parent) = self.chain.header(&head.hash)? else { return Ok(false) };
        let validator = self.chain.validator();
        // Whose clock is fast makes no block nearer to its parent, and those whose clocks are right make theirs a little ahead of them.
        let time = validator.earliest(&parent).max(now);
        if time > now.plus(AHEAD) {
            if parent.time > now.plus(AHEAD) {
                tracing::warn!(
                    head = head.height,
                    "the head is ahead of our clock; no block is produced before that time"
                );
            }
            // The clock may be set meanwhile.
            self.due = self.due.max(Instant::now() + time.since(now.plus(AHEAD)).min(self.interval));
            return Ok(false);
        }
        let packaged = self.pool.package(self.max_bytes, MAX_TRANSACTIONS);
        let mut picked = validator.select(&parent, packaged.clone());
        let left_out = left_out(&packaged, &picked);
        let mut last: Option<Bytes> = None;
        loop {
            let Some(block) = self.make(&parent, time, &picked) else { return Ok(false) };
            // A block that is not ours to make is not the fault of its transactions.
            for verdict in [validator.header(block.header()), validator.contextual(block.header(), &parent)] {
                if let Verdict::Ignore(why) | Verdict::Invalid(why) = verdict {
                    tracing::debug!(%why, "no block is produced now");
                    return Ok(false);
                }
            }
            match self.chain.import(block, Origin::Local).await? {
                Outcome::Imported { .. } => {
                    // Without it a block is good.
                    if let Some(transaction) = last.filter(|_| picked.is_empty()) {
                        tracing::warn!("a transaction makes every block invalid and is dropped");
                        self.pool.remove(&Hash::of(&transaction));
                        self.metrics.dropped.inc();
                    }
                    left_out.iter().for_each(|hash| self.pool.postpone(hash));
                    return Ok(true);
                }
                Outcome::Invalid(why) if picked.is_empty() => {
                    tracing::warn!(%why, "our own block is invalid, whatever is in it");
                    return Ok(false);
                }
                // One of them is bad, and would be in the next block again. Those before it are found in a few tries.
                Outcome::Invalid(why) => {
                    tracing::debug!(%why, transactions = picked.len(), "our own block is invalid, half of it is tried");
                    last = picked.first().cloned();
                    picked.truncate(picked.len() / 2);
                }
                other => {
                    tracing::debug!(?other, "our own block was not taken");
                    return Ok(false);
                }
            }
        }
    }

    /// A block of these transactions on `parent`.
    fn make(&self, parent: &Header, time: UnixMillis, transactions: &[Bytes]) -> Option<Block> {
        let body = Body::new(transactions).ok().filter(|body| body.bytes().len() <= self.max_bytes);
        let Some(body) = body else {
            tracing::error!(
                "the transactions that the chain's rules picked are no body, or a larger one than `chain.max_bytes`"
            );
            return None;
        };
        let mut extra = self.chain.validator().extra(parent);
        extra.truncate(MAX_EXTRA_BYTES);
        let header = Header {
            height: parent.height.saturating_add(1),
            parent: parent.hash(),
            time,
            producer: [0; 32],
            body_root: body.root(),
            body_bytes: u32::try_from(body.bytes().len()).unwrap_or(u32::MAX),
            transactions: body.len(),
            extra,
            signature: [0; 64],
        };
        Some(Block::trusted(header.signed(&self.identity, &self.purpose), body))
    }
}

/// Transactions that did not fit on the state that they were to be produced on, although others behind them did, or none did: next
/// time others go first. What is behind the last one that was picked may only have had no room.
fn left_out(packaged: &[Bytes], picked: &[Bytes]) -> Vec<Hash> {
    if picked.len() >= packaged.len() {
        return Vec::new();
    }
    let picked: HashSet<Hash> = picked.iter().map(|t| Hash::of(t)).collect();
    let mut hashes: Vec<Hash> = packaged.iter().map(|t| Hash::of(t)).collect();
    let last = hashes.iter().rposition(|hash| picked.contains(hash));
    hashes.truncate(last.map_or(hashes.len(), |last| last + 1));
    hashes.retain(|hash| !picked.contains(hash));
    hashes
}
