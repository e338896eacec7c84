//! Tests of whole processes.

mod bad_input;
mod daemon;
mod friends;
mod kills;
mod lifecycle;
mod local_network;
mod messages;
mod offline;
