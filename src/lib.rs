//! `vos`: a headless peer-to-peer overlay node. (The map of the house is written below as rooms are finished.)
pub mod identity;
#[cfg(test)]
mod layers_test;
pub mod map;
pub mod message;
pub mod net;
pub mod primitives;
pub mod runtime;
pub mod store;
pub mod telemetry;
pub mod testnet;
pub mod wire;
