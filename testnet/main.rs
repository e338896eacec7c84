//! The end-to-end tests, in one binary because each one links libp2p and RocksDB again.
//!
//! `cluster/` runs whole nodes in this process and looks at them through their handles: seconds. `process/` uses `vos` as
//! people do, by its program: real daemons, real commands, exit statuses, signals, kill -9, and the local network of `vos
//! testnet`. `natlab/` does the same behind real NATs in network namespaces. `topology/` holds files for `vos testnet
//! --topology`.

#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::disallowed_methods,
    reason = "a test ends where something unexpected happens, and its tasks with its runtime"
)]

mod cluster;
mod natlab;
mod process;
