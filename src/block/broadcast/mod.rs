//! New blocks, to everybody, once.

pub mod announcer;
pub mod assembly;
pub mod core;
pub mod fetcher;
pub mod hold;
pub mod known;
#[cfg(test)]
mod tests;
pub mod wire;
