//! The network over real loopback sockets.

mod gossip;
mod rpc;
mod transports;
