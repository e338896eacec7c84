//! A block, and the proof in its type that its bytes were checked.

use bytes::Bytes;

use super::{
    Body, BodyError,
    header::{Header, HeaderError},
};
use crate::{
    identity::{Purpose, SignatureBatch},
    primitives::{Hash, PeerId},
};

/// Why a block is refused whatever the chain looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// The header's fault: this hash can never be good.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The body's fault: the same header may come with its true body.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A header and the body that it commits to: shapes, root and signature are good. What it says about its parent is the chain's to judge.
/// Only [`Block::check`], [`Unverified::verify`] and the store's own blocks make one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    hash: Hash,
    header: Header,
    body: Body,
}

impl Block {
    /// Checks a header with its body, cheapest first: limits, body, root, signature.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn check(header: Header, body: Bytes, max_body_bytes: usize, purpose: &Purpose) -> Result<Self, BlockError> {
        let body = Self::fit(&header, body, max_body_bytes)?;
        header.verify(purpose)?;
        Ok(Self { hash: header.hash(), header, body })
    }

    /// As [`Block::check`] for a header whose signature was checked before.
    ///
    /// # Errors
    /// [`BlockError::Body`].
    pub fn complete(header: VerifiedHeader, body: Bytes, max_body_bytes: usize) -> Result<Self, BlockError> {
        let body = Self::fit(&header.header, body, max_body_bytes)?;
        Ok(Self { hash: header.hash, header: header.header, body })
    }

    fn fit(header: &Header, body: Bytes, max_body_bytes: usize) -> Result<Body, BodyError> {
        if body.len() > max_body_bytes {
            return Err(BodyError::TooLarge);
        }
        if header.body_bytes as usize != body.len() {
            return Err(BodyError::Mismatch);
        }
        let body = Body::decode(body)?;
        if header.transactions != body.len() || header.body_root != body.root() {
            return Err(BodyError::Mismatch);
        }
        Ok(body)
    }

    /// A block that we made or stored ourselves.
    pub(super) fn trusted(header: Header, body: Body) -> Self {
        Self { hash: header.hash(), header, body }
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }
}

/// Blocks whose bodies fit their headers. Their signatures are checked all at once, in a third of the time.
#[derive(Debug)]
pub struct Unverified {
    purpose: Purpose,
    blocks: Vec<Block>,
    signatures: SignatureBatch,
}

impl Unverified {
    /// None yet; signatures are for this purpose.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose: purpose.clone(), blocks: Vec::new(), signatures: SignatureBatch::new(purpose) }
    }

    /// Checks everything of a block but its signature. Returns its hash.
    ///
    /// # Errors
    /// [`BodyError`]; the block is not added then.
    pub fn add(&mut self, header: Header, body: Bytes, max_body_bytes: usize) -> Result<Hash, BodyError> {
        let body = Block::fit(&header, body, max_body_bytes)?;
        header.add_to(&mut self.signatures);
        let hash = header.hash();
        self.blocks.push(Block { hash, header, body });
        Ok(hash)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// All blocks, in the order in which they were added, when every signature is good.
    ///
    /// # Errors
    /// The blocks before the first whose signature is wrong. To find it takes as long as if they had been checked one by one.
    pub fn verify(self) -> Result<Vec<Block>, Vec<Block>> {
        let Self { purpose, mut blocks, signatures } = self;
        if signatures.verify() {
            return Ok(blocks);
        }
        let wrong = blocks.iter().position(|b| b.header.verify(&purpose).is_err());
        blocks.truncate(wrong.unwrap_or(0));
        Err(blocks)
    }
}

/// A header whose signature is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedHeader {
    hash: Hash,
    header: Header,
}

impl VerifiedHeader {
    /// Checks the signature.
    ///
    /// # Errors
    /// [`HeaderError::Signature`].
    pub fn new(header: Header, purpose: &Purpose) -> Result<Self, HeaderError> {
        header.verify(purpose)?;
        Ok(Self { hash: header.hash(), header })
    }

    /// Checks the signatures of many at once.
    ///
    /// # Errors
    /// [`HeaderError::Signature`] when any of them is wrong.
    pub fn all(headers: Vec<Header>, purpose: &Purpose) -> Result<Vec<Self>, HeaderError> {
        let mut signatures = SignatureBatch::new(purpose.clone());
        headers.iter().for_each(|header| header.add_to(&mut signatures));
        if !signatures.verify() {
            return Err(HeaderError::Signature);
        }
        Ok(headers.into_iter().map(|header| Self { hash: header.hash(), header }).collect())
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }
}

/// A place in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Point {
    /// Height.
    pub height: u64,
    /// Hash of the block there.
    pub hash: Hash,
}

/// Where a block came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Made here.
    Local,
    /// Broadcast, fetched by hash, or pulled: from this peer.
    Peer(PeerId),
    /// A file that the operator imports.
    File,
}
