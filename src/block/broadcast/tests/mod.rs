//! Tests of the broadcast: machines by their properties, a simulator of hundreds of nodes, and a real service with peers that speak
//! the protocols by hand.

mod machines;
mod service;
mod sim;
mod swarm;
mod wire;

use std::sync::Arc;

use bytes::Bytes;

use super::wire::{Content, SMALL_BODY};
use crate::{
    block::{Body, Header, Pieces, Point, VerifiedHeader, kit, purpose},
    identity::Purpose,
    primitives::{Hash, UnixMillis},
};

pub(super) fn signing() -> Purpose {
    purpose(&kit::network())
}

/// A body of so many bytes, at least 5, of transactions that differ from those of another `salt`.
pub(super) fn body(bytes: usize, salt: u64) -> Body {
    const TRANSACTION: usize = 10_000;
    let mut left = bytes;
    let mut transactions = Vec::new();
    let mut random = blake3::Hasher::new().update(&salt.to_le_bytes()).finalize_xof();
    while left > 0 {
        // What is left over must hold a length and a byte.
        let take = if left < TRANSACTION + 5 { left } else { TRANSACTION };
        let mut transaction = vec![0; take - 4];
        random.fill(&mut transaction);
        transactions.push(transaction);
        left -= take;
    }
    let body = Body::new(&transactions).unwrap();
    assert_eq!(body.bytes().len(), bytes);
    body
}

/// A signed header of `body` on `parent`, the same in every run.
pub(super) fn header(parent: Point, body: &Body, time: UnixMillis) -> Header {
    header_by(1, parent, body, time)
}

fn header_by(producer: u64, parent: Point, body: &Body, time: UnixMillis) -> Header {
    let header = Header {
        height: parent.height + 1,
        parent: parent.hash,
        time,
        producer: [0; 32],
        body_root: body.root(),
        body_bytes: body.bytes().len().try_into().unwrap(),
        transactions: body.len(),
        extra: Vec::new(),
        signature: [0; 64],
    };
    kit::Maker::new(producer).sign(header, body.clone()).header().clone()
}

/// A block as the machines get it.
pub(super) fn block(parent: Point, bytes: usize, salt: u64) -> (VerifiedHeader, Content, Bytes) {
    block_by(1, parent, bytes, salt)
}

/// A block of producer `producer`.
pub(super) fn block_by(producer: u64, parent: Point, bytes: usize, salt: u64) -> (VerifiedHeader, Content, Bytes) {
    let body = body(bytes, salt);
    let header = header_by(producer, parent, &body, UnixMillis(salt));
    let content = match bytes <= SMALL_BODY {
        true => Content::Body(body.bytes().clone()),
        false => Content::Pieces(pieces(body.bytes())),
    };
    (VerifiedHeader::new(header, &signing()).unwrap(), content, body.bytes().clone())
}

pub(super) fn pieces(body: &[u8]) -> Arc<Pieces> {
    Arc::new(Pieces::of(body))
}

pub(super) fn point(header: &VerifiedHeader) -> Point {
    Point { height: header.header().height, hash: header.hash() }
}

pub(super) const GENESIS: Point = Point { height: 0, hash: Hash([0; 32]) };
