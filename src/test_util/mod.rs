//! For tests and benches: real networks and nodes on loopback, and waiting with a deadline.

mod book;
mod cluster;
mod network;
mod wait;

pub use book::Book;
pub use cluster::{Member, config, config_of_friend};
pub use network::{Ground, Node, node, node_on};
pub use wait::until;
