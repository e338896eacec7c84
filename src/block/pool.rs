//! Transactions that wait to be produced. Pure: time is an argument.
//!
//! A transaction is in the pool once, and not again while a recent block of the best chain has it. When a reorg detaches a block its
//! transactions return to the front, unless the new branch has them too. What is older than 128 blocks is not known any more: rules
//! of a chain that cannot bear a transaction twice must refuse the second one ([`super::chain::Validator::full`]).
//!
//! One that no block has taken for half an hour is dropped, and counted.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::primitives::{Hash, PeerId, UnixMillis};

/// Bytes of a transaction: a slow line takes it in the time that an answer may take.
pub const MAX_TRANSACTION_BYTES: usize = 64 * 1024;
/// Blocks of the best chain whose transactions are remembered.
pub(super) const RECENT_BLOCKS: usize = 128;
/// Transactions of those blocks that are remembered: some 8 MiB of hashes.
const RECENT_TRANSACTIONS: usize = 128 * 1024;
/// What one peer may have in the pool is the whole divided by this; and so is what is left for ourselves when others fill it.
const PEER_SHARE: usize = 4;
/// How long a transaction waits, in milliseconds. Nobody wants it if no block has taken it by then.
const MAX_AGE_MS: u64 = 30 * 60 * 1000;
/// Bytes that a transaction takes in a body beside its own.
const LENGTH: usize = 4;

/// Why a transaction is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolError {
    /// It has no bytes: can never be taken.
    #[error("a transaction has at least one byte")]
    Empty,
    /// More than [`MAX_TRANSACTION_BYTES`]: can never be taken.
    #[error("a transaction has at most {MAX_TRANSACTION_BYTES} bytes")]
    TooLarge,
    /// It waits already.
    #[error("it waits already: nothing is to be done")]
    Known,
    /// A recent block has it.
    #[error("one of the newest blocks has it already: nothing is to be done")]
    Included,
    /// No room, or none for this peer; later there is.
    #[error(
        "too many transactions wait: try again when the next blocks have taken some (`block.pool_transactions`, `block.pool_bytes`)"
    )]
    Full,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    from: Option<PeerId>,
    since: UnixMillis,
    place: i64,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    max_transactions: usize,
    max_bytes: usize,
    entries: HashMap<Hash, Entry>,
    order: BTreeMap<i64, Hash>,
    bytes: usize,
    peers: HashMap<PeerId, (usize, usize)>,
    /// In how many recent blocks a transaction is.
    included: HashMap<Hash, u32>,
    recent: VecDeque<(Hash, Vec<Hash>)>,
    recent_transactions: usize,
    back: i64,
    front: i64,
}

impl Pool {
    /// An empty pool with these limits.
    #[must_use]
    pub fn new(max_transactions: usize, max_bytes: usize) -> Self {
        Self {
            max_transactions,
            max_bytes,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            bytes: 0,
            peers: HashMap::new(),
            included: HashMap::new(),
            recent: VecDeque::new(),
            recent_transactions: 0,
            back: 0,
            front: 0,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of those that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a transaction waits.
    #[must_use]
    pub fn contains(&self, hash: &Hash) -> bool {
        self.entries.contains_key(hash)
    }

    /// Whether a transaction waits, or a recent block has it.
    #[must_use]
    pub fn knows(&self, hash: &Hash) -> bool {
        self.entries.contains_key(hash) || self.included.contains_key(hash)
    }

    /// Whether a recent block has a transaction.
    #[must_use]
    pub fn is_included(&self, hash: &Hash) -> bool {
        self.included.contains_key(hash)
    }

    /// A transaction that waits.
    #[must_use]
    pub fn get(&self, hash: &Hash) -> Option<Bytes> {
        self.entries.get(hash).map(|entry| entry.bytes.clone())
    }

    /// Since when a transaction waits.
    #[must_use]
    pub fn since(&self, hash: &Hash) -> Option<UnixMillis> {
        self.entries.get(hash).map(|entry| entry.since)
    }

    /// Has a transaction wait behind all others.
    pub fn postpone(&mut self, hash: &Hash) {
        if let Some(entry) = self.entries.get_mut(hash) {
            self.order.remove(&entry.place);
            self.back += 1;
            entry.place = self.back;
            self.order.insert(entry.place, *hash);
        }
    }

    /// Takes a transaction: our own, or from the peer that passed it on. Returns its hash.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn add(&mut self, bytes: Bytes, from: Option<PeerId>, now: UnixMillis) -> Result<Hash, PoolError> {
        if bytes.is_empty() {
            return Err(PoolError::Empty);
        }
        if bytes.len() > MAX_TRANSACTION_BYTES {
            return Err(PoolError::TooLarge);
        }
        let hash = Hash::of(&bytes);
        if self.entries.contains_key(&hash) {
            return Err(PoolError::Known);
        }
        if self.included.contains_key(&hash) {
            return Err(PoolError::Included);
        }
        let (count, sum) = from.and_then(|p| self.peers.get(&p)).copied().unwrap_or_default();
        let share = |whole: usize| (whole / PEER_SHARE).max(1);
        // And no more than is free: several that take all they can leave room for one more.
        let free = |whole: usize, taken: usize| whole.saturating_sub(taken);
        // What is left when all others have filled theirs is for what is put in here.
        let ours = |whole: usize| if from.is_some() { whole - whole / PEER_SHARE } else { whole };
        let (most, most_bytes) = (ours(self.max_transactions), ours(self.max_bytes));
        let peer_full = from.is_some()
            && (count >= share(self.max_transactions).min(free(most, self.entries.len()))
                || sum + bytes.len() > (self.max_bytes / PEER_SHARE).min(free(most_bytes, self.bytes)));
        if peer_full || self.entries.len() >= most || self.bytes + bytes.len() > most_bytes {
            return Err(PoolError::Full);
        }
        self.back += 1;
        self.insert(hash, Entry { bytes, from, since: now, place: self.back });
        Ok(hash)
    }

    fn insert(&mut self, hash: Hash, entry: Entry) {
        self.bytes += entry.bytes.len();
        if let Some(peer) = entry.from {
            let (count, bytes) = self.peers.entry(peer).or_default();
            *count += 1;
            *bytes += entry.bytes.len();
        }
        self.order.insert(entry.place, hash);
        self.entries.insert(hash, entry);
    }

    /// Forgets a transaction.
    pub fn remove(&mut self, hash: &Hash) {
        let Some(entry) = self.entries.remove(hash) else { return };
        self.order.remove(&entry.place);
        self.bytes -= entry.bytes.len();
        if let Some(peer) = entry.from
            && let Some((count, bytes)) = self.peers.get_mut(&peer)
        {
            *count -= 1;
            *bytes -= entry.bytes.len();
            if *count == 0 {
                self.peers.remove(&peer);
            }
        }
    }

    /// A block became part of the best chain. One that is known to be is not counted again: whoever reads the newest blocks after
    /// events were lost is told of some of them once more.
    pub fn attach<'a>(&mut self, block: Hash, transactions: impl Iterator<Item = &'a [u8]>) {
        if self.recent.iter().any(|(hash, _)| *hash == block) {
            return;
        }
        let hashes: Vec<Hash> = transactions.map(Hash::of).collect();
        for hash in &hashes {
            self.remove(hash);
            *self.included.entry(*hash).or_default() += 1;
        }
        self.recent_transactions += hashes.len();
        self.recent.push_back((block, hashes));
        while self.recent.len() > RECENT_BLOCKS
            || (self.recent_transactions > RECENT_TRANSACTIONS && self.recent.len() > 1)
        {
            if let Some((_, hashes)) = self.recent.pop_front() {
                self.forget(&hashes);
            }
        }
    }

    /// A block is no longer part of the best chain: its transactions wait again, before all others. They were accepted before,
    /// so there may be twice as much as else; blocks of others, one branch after the other, cannot make it more. Returns how many found no
    /// room.
    pub fn detach<'a>(&mut self, block: &Hash, transactions: impl Iterator<Item = &'a [u8]>, now: UnixMillis) -> usize {
        if let Some(at) = self.recent.iter().rposition(|(hash, _)| hash == block)
            && let Some((_, hashes)) = self.recent.remove(at)
        {
            self.forget(&hashes);
        }
        let (transactions, mut lost): (Vec<&[u8]>, _) = (transactions.collect(), 0);
        for bytes in transactions.into_iter().rev() {
            let hash = Hash::of(bytes);
            if self.knows(&hash) {
                continue;
            }
            let fits = self.entries.len() < 2 * self.max_transactions && self.bytes + bytes.len() <= 2 * self.max_bytes;
            if !fits {
                lost += 1;
            } else {
                self.front -= 1;
                let bytes = Bytes::copy_from_slice(bytes);
                self.insert(hash, Entry { bytes, from: None, since: now, place: self.front });
            }
        }
        lost
    }

    /// The recent blocks of the best chain as far as they were told, newest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Hash> {
        self.recent.iter().rev().map(|(hash, _)| *hash).collect()
    }

    /// Forgets which blocks are recent, to be told again.
    pub fn forget_recent(&mut self) {
        self.included.clear();
        self.recent.clear();
        self.recent_transactions = 0;
    }

    fn forget(&mut self, hashes: &[Hash]) {
        self.recent_transactions -= hashes.len();
        for hash in hashes {
            if let Some(count) = self.included.get_mut(hash) {
                *count -= 1;
                if *count == 0 {
                    self.included.remove(hash);
                }
            }
        }
    }

    /// The transactions for one body, in the order in which they came, that fit into `max_bytes` and `max_count`. They stay
    /// until a block has them.
    #[must_use]
    pub fn package(&self, max_bytes: usize, max_count: usize) -> Vec<Bytes> {
        let (mut picked, mut bytes) = (Vec::new(), 0);
        for entry in self.order.values().filter_map(|hash| self.entries.get(hash)) {
            if picked.len() >= max_count {
                break;
            }
            // A smaller one behind may still fit.
            if bytes + LENGTH + entry.bytes.len() <= max_bytes {
                bytes += LENGTH + entry.bytes.len();
                picked.push(entry.bytes.clone());
            }
        }
        picked
    }

    /// Drops what nobody has taken for long. Returns how many that were.
    pub fn sweep(&mut self, now: UnixMillis) -> usize {
        let old = |e: &Entry| now.0.saturating_sub(e.since.0) > MAX_AGE_MS;
        let gone: Vec<Hash> = self.entries.iter().filter(|(_, e)| old(e)).map(|(h, _)| *h).collect();
        for hash in &gone {
            self.remove(hash);
        }
        gone.len()
    }
}
