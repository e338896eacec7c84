//! Tests of whole processes.

mod bad_input;
mod blocks;
mod commands;
pub(crate) mod daemon;
mod evidence;
mod friends;
mod kills;
mod lifecycle;
mod local_network;
mod messages;
mod offline;
