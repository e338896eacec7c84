//! `vos`: a headless peer-to-peer overlay node. (The map of the house is written below as rooms are finished.)
pub mod api;
pub mod config;
pub mod identity;
pub mod map;
pub mod message;
pub mod net;
pub mod node;
pub mod primitives;
pub mod runtime;
pub mod store;
pub mod telemetry;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod wire;
