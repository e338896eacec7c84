//! Tests of sync as a whole: its bytes, the planner alone, many planners over real chains in a simulation, and the real service.

mod imports;
mod late;
mod lone;
mod planner;
mod service;
mod sim;
mod slow;
mod swarm;
mod wire;

use crate::block::{Block, chain::Stored};

/// What the chain would give to whoever serves this block.
fn stored(block: &Block) -> Stored {
    Stored { hash: block.hash(), header: block.header().encode().into(), body: block.body().bytes().clone() }
}
