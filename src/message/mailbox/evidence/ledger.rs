//! What is durable of friends' promises, at the owner. Numbers are big endian; `friend` is its address (38 bytes).
//!
//! | family | key | value |
//! |---|---|---|
//! | mailbox | `S` friend | score: kept, broken, refused, last change |
//! | mailbox | `E` friend n | evidence, the earliest first |
//! | mailbox | `J` friend id | judged already: the end of the promise, kept (1) or not (0) |

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
};

use super::{
    super::{StoredReceipt, proof::SignedReceipts},
    account::SignedAccount,
    judge::Why,
    wire,
};
use crate::{
    message::friend::Score,
    primitives::{MessageId, PeerId, UnixMillis, limits::MAX_MESSAGE_TTL},
    store::{Batch, Family, Store, StoreError},
};

/// Evidence kept of one friend, 8 KiB each and twice that at most; what comes later only counts.
pub(super) const EVIDENCE: u64 = 64;
/// Friends, also former ones, whose score is kept; of those that are no friends any more the oldest go.
pub(super) const FRIENDS: usize = 256;
/// Parts of one friend that are known to be judged, 90 bytes on disk each. Beyond it those that were kept are forgotten: they may
/// be counted once more. When so many were not kept, more does not matter.
pub(super) const JUDGED: u64 = 65_536;

/// Bytes of what is forgotten at one time.
const SWEPT: usize = 4 * 1024 * 1024;

/// A broken promise: everything that is needed to see it again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Evidence {
    pub(super) id: MessageId,
    pub(super) why: Why,
    /// When it was judged, by our clock.
    pub(super) at: UnixMillis,
    /// Both signatures of the grant.
    pub(super) grant: Vec<u8>,
    pub(super) receipts: SignedReceipts,
    pub(super) account: SignedAccount,
}

/// How a check ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Judgement {
    Kept,
    Broken(Box<Evidence>),
    /// The friend did not account for it.
    Refused,
}

fn key(prefix: u8, friend: &PeerId, rest: &[u8]) -> Vec<u8> {
    [&[prefix], friend.to_bytes().as_slice(), rest].concat()
}

#[derive(Clone, Copy, Default, Debug)]
struct Entry {
    score: Score,
    at: UnixMillis,
    evidence: u64,
    judged: u64,
}

/// Scores, and what they are made of. Loading and sweeping block.
#[derive(Debug)]
pub(super) struct Ledger {
    store: Store,
    entries: HashMap<PeerId, Entry>,
}

impl Ledger {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut entries = HashMap::new();
        for (friend, score, at) in scores(store)? {
            let count = |prefix| -> Result<u64, StoreError> {
                let mut n = 0;
                store.for_each(Family::Mailbox, &key(prefix, &friend, &[]), Bound::Unbounded, |_, _| {
                    n += 1;
                    true
                })?;
                Ok(n)
            };
            entries.insert(friend, Entry { score, at, evidence: count(b'E')?, judged: count(b'J')? });
        }
        Ok(Self { store: store.clone(), entries })
    }

    pub(super) fn is_judged(&self, friend: &PeerId, id: &MessageId) -> Result<bool, StoreError> {
        self.store.contains(Family::Mailbox, &key(b'J', friend, &id.0))
    }

    /// Takes note of judgements about one friend, one for each part; durable when this returns. `friends`: who is one now.
    pub(super) async fn record(
        &mut self,
        friend: PeerId,
        now: UnixMillis,
        judgements: Vec<(StoredReceipt, Judgement)>,
        friends: &HashSet<PeerId>,
    ) -> Result<(), StoreError> {
        let surplus = self.surplus(&friend, friends);
        let mut batch = match surplus {
            None => Batch::new(),
            Some(old) => {
                let store = self.store.clone();
                let removed = tokio::task::spawn_blocking(move || removal(&store, &old)).await;
                removed.unwrap_or(Err(StoreError::Stopped))?
            }
        };
        let mut entry = self.entries.get(&friend).copied().unwrap_or_default();
        if entry.judged >= JUDGED {
            let store = self.store.clone();
            let forgotten = tokio::task::spawn_blocking(move || forget_kept(&store, &friend)).await;
            entry.judged = entry.judged.saturating_sub(forgotten.unwrap_or(Err(StoreError::Stopped))?);
        }
        for (receipt, judgement) in judgements {
            if entry.judged >= JUDGED {
                break;
            }
            let kept = u8::from(judgement == Judgement::Kept);
            match judgement {
                Judgement::Kept => entry.score.kept += 1,
                Judgement::Refused => entry.score.refused += 1,
                Judgement::Broken(evidence) => {
                    entry.score.broken += 1;
                    if entry.evidence < EVIDENCE {
                        let place = key(b'E', &friend, &entry.evidence.to_be_bytes());
                        batch.put(Family::Mailbox, place, wire::encode_evidence(&evidence));
                        entry.evidence += 1;
                    }
                }
            }
            entry.judged += 1;
            // The friend chose the end; a mark does not stay for years.
            let until = receipt.expires_at.min(now.plus(MAX_MESSAGE_TTL));
            let mark = [&until.0.to_be_bytes()[..], &[kept]].concat();
            batch.put(Family::Mailbox, key(b'J', &friend, &receipt.id.0), mark);
        }
        entry.at = now;
        batch.put(Family::Mailbox, key(b'S', &friend, &[]), wire::encode_score(&entry.score, now));
        self.store.commit(batch).await?;
        if let Some(old) = surplus {
            self.entries.remove(&old);
        }
        self.entries.insert(friend, entry);
        Ok(())
    }

    /// Who makes room for one more friend, when that is needed.
    fn surplus(&self, new: &PeerId, friends: &HashSet<PeerId>) -> Option<PeerId> {
        if self.entries.len() < FRIENDS || self.entries.contains_key(new) {
            return None;
        }
        let former = self.entries.iter().filter(|(friend, _)| !friends.contains(friend));
        former.min_by_key(|(_, entry)| entry.at).map(|(old, _)| *old)
    }

    /// So many judged parts were forgotten by [`forget_judged`].
    pub(super) fn forgot(&mut self, friend: &PeerId, judged: u64) {
        if let Some(entry) = self.entries.get_mut(friend) {
            entry.judged = entry.judged.saturating_sub(judged);
        }
    }
}

/// What removes everything about a friend. Blocks.
fn removal(store: &Store, old: &PeerId) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    for prefix in b"SEJ" {
        store.for_each(Family::Mailbox, &key(*prefix, old, &[]), Bound::Unbounded, |k, _| {
            batch.delete(Family::Mailbox, k);
            true
        })?;
    }
    Ok(batch)
}

/// Forgets what was judged of promises that have ended: nobody can claim them any more. How many of whom. Blocks.
pub(super) fn forget_judged(store: &Store, now: UnixMillis) -> Result<Vec<(PeerId, u64)>, StoreError> {
    let (mut batch, mut dropped) = (Batch::new(), HashMap::<PeerId, u64>::new());
    store.for_each(Family::Mailbox, b"J", Bound::Unbounded, |k, until| {
        if until.first_chunk().map_or(0, |until| u64::from_be_bytes(*until)) <= now.0 {
            batch.delete(Family::Mailbox, k);
            let friend = k.get(1..k.len().saturating_sub(32)).and_then(|friend| PeerId::from_bytes(friend).ok());
            friend.into_iter().for_each(|friend| *dropped.entry(friend).or_default() += 1);
        }
        batch.bytes() < SWEPT
    })?;
    store.write_unsynced(batch)?;
    Ok(dropped.into_iter().collect())
}

/// Forgets which promises of a friend were judged and kept; how many. Blocks.
fn forget_kept(store: &Store, friend: &PeerId) -> Result<u64, StoreError> {
    let (mut batch, mut dropped) = (Batch::new(), 0);
    store.for_each(Family::Mailbox, &key(b'J', friend, &[]), Bound::Unbounded, |k, mark| {
        if mark.last() == Some(&1) {
            batch.delete(Family::Mailbox, k);
            dropped += 1;
        }
        true
    })?;
    store.write_unsynced(batch)?;
    Ok(dropped)
}

/// All scores, and when each changed.
pub(super) fn scores(store: &Store) -> Result<Vec<(PeerId, Score, UnixMillis)>, StoreError> {
    let mut scores = Vec::new();
    store.for_each(Family::Mailbox, b"S", Bound::Unbounded, |k, value| {
        let friend = PeerId::from_bytes(&k[1..]).ok();
        scores.extend(friend.zip(wire::decode_score(value)).map(|(friend, (score, at))| (friend, score, at)));
        true
    })?;
    Ok(scores)
}

/// What is kept against one friend, the earliest first.
pub(super) fn evidence(store: &Store, friend: &PeerId) -> Result<Vec<Evidence>, StoreError> {
    let mut all = Vec::new();
    store.for_each(Family::Mailbox, &key(b'E', friend, &[]), Bound::Unbounded, |_, value| {
        all.extend(wire::decode_evidence(value));
        true
    })?;
    Ok(all)
}
