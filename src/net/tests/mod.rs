//! The network over real loopback sockets.

#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod gossip;
mod limits;
mod rpc;
mod transports;
mod traps;
