//! L5: the control API: HTTP/1.1 and JSON for the command line and other programs of this machine.
//!
//! ```text
//!   <data-dir>/api.sock (mode 0600)     127.0.0.1 (bearer token)        node.http
//!            │ serve_unix                     │ serve_tcp                  │ serve_ops
//!            └───────────────┬────────────────┘                            │
//!                 routes/ (one file for each subject)             /healthz /readyz /metrics
//!                            │ extract.rs, error.rs, schema.rs
//!            net::Handle  map::Handle  message::Handle  friend::Handle  block::Handle
//! ```
//!
//! * Every route is registered by the macro that documents it, so `/v1/openapi.json` cannot lag behind.
//! * Every error has one shape, `{"error":{"code","message"}}`; `error.rs` is the only mapping.
//! * `/v1/events` is a stream of server-sent events; a subscriber that is too slow gets `lagged` and reads the state again.
//! * [`Client`] is the other side, used by the command line and tests.
//!
//! # Limits
//! 128 connections for each listener, one more is answered 503; 10 s for a request's head, 32 KiB of it; JSON bodies 64 KiB;
//! message bodies `message.max_bytes`, spooled to disk above one chunk, 16 uploads at once; 8 received bodies and blocks in memory at
//! once; 32 event streams; 2 segments of the chain.
//!
//! # Security
//! The Unix socket's mode is its authentication; it is never wider than 0600, not even while it is made. TCP is served
//! on loopback only, to holders of the token, and refuses foreign `Host` and `Origin` headers, so that a web page cannot
//! reach it by DNS rebinding. The operations endpoints change nothing and show no secret.

mod auth;
mod client;
mod config;
mod error;
mod events;
mod extract;
mod ops;
mod routes;
pub mod schema;
mod serve;
mod spool;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use tokio::sync::{Semaphore, watch};

pub use auth::{TokenError, load_or_create_token};
pub use client::{Client, ClientError, Download, Events};
pub use config::{Config, Endpoint, EndpointError};
pub use ops::serve_ops;
pub use routes::openapi;
pub use serve::{BindError, bind_tcp, bind_unix, serve_tcp, serve_tcp_on, serve_unix, serve_unix_on};
pub use spool::prepare_spool_dir;

use crate::{
    block, map,
    message::{self, friend},
    net,
    primitives::{NetworkId, PeerId},
    runtime::Stop,
    store::Store,
    telemetry::Registry,
};

/// Event streams at once. Each costs a connection and three bounded queues' places.
const MAX_SUBSCRIBERS: usize = 32;
/// Message uploads at once: with 16 MiB each, 256 MiB of spool files at most.
const MAX_UPLOADS: usize = 16;
/// Segments of the chain on their way in or out at once: each takes a thread and the store's attention.
const MAX_SEGMENTS: usize = 2;
/// Received bodies, and blocks, in memory at once: with 16 MiB each, 22 MiB in base64, 176 MiB at most, and a local caller did it.
const MAX_BODIES: usize = 8;

/// What does not change while the node runs.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Our address.
    pub address: PeerId,
    /// The raw Ed25519 public key.
    pub public_key: [u8; 32],
    /// The network.
    pub network: NetworkId,
    /// When the node started.
    pub started: Instant,
    /// Where the operations endpoints are served.
    pub http: Option<SocketAddr>,
    /// Where this API is served on TCP.
    pub api_tcp: Option<SocketAddr>,
    /// `message.max_bytes`.
    pub max_message_bytes: u64,
    /// The running configuration; it names files of secrets, but holds none.
    pub config: serde_json::Value,
}

/// What the API needs of the node.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The network.
    pub net: net::Handle,
    /// The VOS Map.
    pub map: map::Handle,
    /// Messages.
    pub message: message::Handle,
    /// Friend VOS.
    pub friend: friend::Handle,
    /// Block exchange; `None` when it is off.
    pub block: Option<block::Handle>,
    /// The store, for its size.
    pub store: Store,
    /// What does not change.
    pub info: Arc<NodeInfo>,
    /// All metrics.
    pub metrics: Arc<Registry>,
    /// Whether the node finished starting.
    pub ready: watch::Receiver<bool>,
    /// Ends event streams; the same signal as the servers get, or an earlier one.
    pub stop: Stop,
    /// Folder (mode 0700, on the store's file system, see [`prepare_spool_dir`]) for the bodies of messages while they are handed in.
    pub spool_dir: PathBuf,
}

/// The state of all routes.
#[derive(Clone, Debug)]
pub(crate) struct App {
    deps: Deps,
    subscribers: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    segments: Arc<Semaphore>,
}

impl App {
    fn new(deps: Deps) -> Self {
        Self {
            deps,
            subscribers: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
            segments: Arc::new(Semaphore::new(MAX_SEGMENTS)),
        }
    }
}

#[cfg(test)]
mod tests;
