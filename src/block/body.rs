//! The body: transactions in order, and how it is cut into pieces that can each be checked on arrival.
//!
//! A body's bytes are its transactions, each after its length as four bytes big-endian: canonical by construction. The root in
//! the header is the BLAKE3 hash of these bytes, so it commits to every one of them (a hash tree of one's own is easy to get
//! wrong: N5 of the source system's defects). BLAKE3 is a tree itself: the chaining values of its subtrees of
//! [`PIECE_BYTES`] are what [`Pieces`] holds. With them each piece is checked alone, in any order, and forwarded before
//! the rest is here, and nobody signs anything more than the root.

use blake3::{
    Hasher,
    hazmat::{self, HasherExt, Mode},
};
use bytes::Bytes;

use crate::primitives::Hash;

/// Bytes of a piece, but for the last one of a body. A power of two and at least a chunk of BLAKE3 (1024).
pub const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of a body by default (`chain.max_bytes`).
pub const DEFAULT_MAX_BODY_BYTES: usize = 1024 * 1024;
/// The most that `chain.max_bytes` can be.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Transactions in one block.
pub const MAX_TRANSACTIONS: usize = 10_000;
/// Bytes of the length before each transaction.
const LENGTH: usize = 4;

/// Why bytes are not the body of a header. What is wrong is the body: the true one may still come from somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// Not a list of transactions.
    #[error("malformed body")]
    Malformed,
    /// An empty transaction, or the same one twice.
    #[error("empty or repeated transaction")]
    Transaction,
    /// Too many bytes or transactions.
    #[error("body over a limit")]
    TooLarge,
    /// Another length, number of transactions or root than the header says.
    #[error("body does not match its header")]
    Mismatch,
}

/// A well-formed body. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Body {
    bytes: Bytes,
    transactions: u32,
}

impl Body {
    /// A body of these transactions.
    ///
    /// # Errors
    /// [`BodyError`] when one is empty or repeated, or a limit of this module is passed.
    pub fn new<T: AsRef<[u8]>>(transactions: &[T]) -> Result<Self, BodyError> {
        let bytes = transactions.iter().map(|t| LENGTH + t.as_ref().len()).sum();
        if bytes > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge);
        }
        let mut body = Vec::with_capacity(bytes);
        for transaction in transactions {
            let length = u32::try_from(transaction.as_ref().len()).map_err(|_| BodyError::TooLarge)?;
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(transaction.as_ref());
        }
        Self::decode(body.into())
    }

    /// Reads a body: lengths, limits, nothing empty, nothing twice. It is not compared with any header.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(bytes: Bytes) -> Result<Self, BodyError> {
        if bytes.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge);
        }
        let mut seen = Vec::new();
        for transaction in Transactions(&bytes) {
            let transaction = transaction?;
            if seen.len() == MAX_TRANSACTIONS {
                return Err(BodyError::TooLarge);
            }
            seen.push(transaction);
        }
        // Sorted, equal ones are neighbours, and most comparisons end with the first bytes: hashing all bytes for a set would cost
        // several times what the root does, and no choice of bytes makes this slower than that.
        seen.sort_unstable();
        if seen.first().is_some_and(|t| t.is_empty()) || seen.windows(2).any(|w| w[0] == w[1]) {
            return Err(BodyError::Transaction);
        }
        let transactions = u32::try_from(seen.len()).map_err(|_| BodyError::TooLarge)?;
        Ok(Self { bytes, transactions })
    }

    /// The encoded bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many transactions.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.transactions
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions == 0
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> impl Iterator<Item = &[u8]> {
        Transactions(&self.bytes).map_while(Result::ok)
    }

    /// What a header says of this body.
    #[must_use]
    pub fn root(&self) -> Hash {
        Hash::of(&self.bytes)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} transactions, {} bytes)", self.transactions, self.bytes.len())
    }
}

struct Transactions<'a>(&'a [u8]);

impl<'a> Iterator for Transactions<'a> {
    type Item = Result<&'a [u8], BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((length, rest)) = self.0.split_first_chunk::<LENGTH>() else {
            self.0 = &[];
            return Some(Err(BodyError::Malformed));
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((transaction, rest)) = rest.split_at_checked(length) else {
            self.0 = &[];
            return Some(Err(BodyError::Malformed));
        };
        self.0 = rest;
        Some(Ok(transaction))
    }
}

/// The hash tree's nodes above each piece of one body, checked against its root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pieces {
    body_bytes: usize,
    /// Empty when the whole body is one piece: then the root is its hash.
    nodes: Vec<[u8; 32]>,
    root: Hash,
}

impl Pieces {
    /// The pieces of `body`, whose root comes out of the same pass.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        if body.len() <= PIECE_BYTES {
            return Self { body_bytes: body.len(), nodes: Vec::new(), root: Hash::of(body) };
        }
        let nodes: Vec<_> = body.chunks(PIECE_BYTES).enumerate().map(|(i, piece)| node(i, piece)).collect();
        let root = merge_root(&nodes, body.len());
        Self { body_bytes: body.len(), nodes, root }
    }

    /// Takes nodes that somebody sent for a body of `body_bytes` with `root`; `None` when they are not that tree's.
    #[must_use]
    pub fn from_nodes(root: Hash, body_bytes: usize, nodes: Vec<[u8; 32]>) -> Option<Self> {
        if body_bytes > MAX_BODY_BYTES {
            return None;
        }
        let good = match body_bytes <= PIECE_BYTES {
            true => nodes.is_empty(),
            false => nodes.len() == body_bytes.div_ceil(PIECE_BYTES) && merge_root(&nodes, body_bytes) == root,
        };
        good.then_some(Self { body_bytes, nodes, root })
    }

    /// The nodes to send; none for a body of one piece.
    #[must_use]
    pub fn nodes(&self) -> &[[u8; 32]] {
        &self.nodes
    }

    /// The body's root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.root
    }

    /// How many pieces; none for an empty body.
    #[must_use]
    pub fn count(&self) -> usize {
        self.body_bytes.div_ceil(PIECE_BYTES)
    }

    /// Where piece `index` lies in the body.
    #[must_use]
    pub fn range(&self, index: usize) -> std::ops::Range<usize> {
        let start = (index * PIECE_BYTES).min(self.body_bytes);
        start..(start + PIECE_BYTES).min(self.body_bytes)
    }

    /// Whether `bytes` are piece `index`.
    #[must_use]
    pub fn check(&self, index: usize, bytes: &[u8]) -> bool {
        if index >= self.count() || bytes.len() != self.range(index).len() {
            return false;
        }
        match self.nodes.get(index) {
            Some(expected) => *expected == node(index, bytes),
            None => Hash::of(bytes) == self.root,
        }
    }
}

fn node(index: usize, piece: &[u8]) -> [u8; 32] {
    let offset = index as u64 * PIECE_BYTES as u64; // usize fits in u64
    Hasher::new().set_input_offset(offset).update(piece).finalize_non_root()
}

/// The root over the nodes of a body of `bytes`, which is longer than a piece.
fn merge_root(nodes: &[[u8; 32]], bytes: usize) -> Hash {
    let (left, right) = halves(nodes, bytes);
    Hash(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn merge(nodes: &[[u8; 32]], bytes: usize) -> [u8; 32] {
    if let [node] = nodes {
        return *node;
    }
    let (left, right) = halves(nodes, bytes);
    hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
}

fn halves(nodes: &[[u8; 32]], bytes: usize) -> ([u8; 32], [u8; 32]) {
    let left = usize::try_from(hazmat::left_subtree_len(bytes as u64)).expect("less than a body");
    let (l, r) = nodes.split_at(left / PIECE_BYTES);
    (merge(l, left), merge(r, bytes - left))
}
