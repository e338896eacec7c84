//! New blocks, to everybody, once.

mod announcer;
mod assembly;
mod core;
mod fetcher;
mod handle;
mod hold;
mod known;
mod metrics;
mod serve;
mod service;
#[cfg(test)]
mod tests;
pub mod wire;

pub use handle::Handle;
pub use metrics::Metrics;
pub use service::{Deps, Ends, Service, Settings, new};
