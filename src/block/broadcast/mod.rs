//! New blocks, to everybody, once.

pub mod announcer;
pub mod assembly;
pub mod core;
pub mod fetcher;
pub mod known;
pub mod wire;
