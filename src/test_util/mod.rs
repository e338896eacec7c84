//! For tests and benches: real networks on loopback, and waiting with a deadline.

mod book;
mod network;
mod wait;

pub use book::Book;
pub use network::{Node, node};
pub use wait::until;
