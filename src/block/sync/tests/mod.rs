//! Tests of sync as a whole: its bytes, the planner alone, many planners over real chains in a simulation, and the real service.

mod imports;
mod late;
mod lone;
mod planner;
mod service;
mod sim;
mod slow;
mod swarm;
mod voices;
mod wire;

use crate::block::{Block, Body, Header, chain::Stored, kit::Maker};

/// What the chain would give to whoever serves this block.
fn stored(block: &Block) -> Stored {
    Stored { hash: block.hash(), header: block.header().encode().into(), body: block.body().bytes().clone() }
}

/// A block on `parent` with so many bytes of body, in one transaction or none, and of extra data.
fn sized(parent: &Block, bytes: usize, extra: usize) -> Block {
    let fill = parent.header().height.to_be_bytes()[7];
    // Its length comes before each transaction.
    let transactions: Vec<Vec<u8>> = bytes.checked_sub(4).map(|bytes| vec![fill; bytes]).into_iter().collect();
    let body = Body::new(&transactions).unwrap();
    assert_eq!(body.bytes().len(), bytes);
    let maker = Maker::new(1);
    let header = Header { extra: vec![fill; extra], ..maker.header(parent, 2000, &body) };
    maker.sign(header, body)
}
