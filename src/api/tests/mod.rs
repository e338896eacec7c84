//! Real sockets, real requests.

mod server;
