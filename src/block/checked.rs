//! A block, and the proof in its type that its bytes were checked.

use bytes::Bytes;

use super::{
    Body, BodyError,
    header::{Header, HeaderError, Producers},
};
use crate::{
    identity::Purpose,
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
/// Only [`Block::check`] and the store's own blocks make one.
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

    /// The same with the producers that are known already.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn check_with(
        header: Header,
        body: Bytes,
        max_body_bytes: usize,
        producers: &mut Producers,
    ) -> Result<Self, BlockError> {
        let body = Self::fit(&header, body, max_body_bytes)?;
        header.verify_with(producers)?;
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
