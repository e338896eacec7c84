//! The end-to-end tests: everything here uses `vos` as people do, by its program.
//!
//! `process/` starts real daemons and talks to them with real commands: exit statuses, signals, kill -9, and the local
//! network of `vos testnet`. `topology/` holds files for `vos testnet --topology`.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod process;
