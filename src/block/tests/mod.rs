//! Tests of blocks and the chain.

mod chain;
