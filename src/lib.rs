//! `vos`: a headless peer-to-peer overlay node. (The map of the house is written below as rooms are finished.)
pub mod api;
pub mod cli;
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
pub mod wire;
