//! Tests of whole processes.

mod bad_input;
mod daemon;
mod kills;
mod lifecycle;
mod local_network;
mod messages;
