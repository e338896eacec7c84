//! For tests and benches: real networks and nodes on loopback, and waiting with a deadline.

mod book;
mod cluster;
mod network;
mod wait;

pub use book::Book;
pub use cluster::{Member, config};
pub use network::{Node, node};
pub use wait::until;
