//! L6: wiring. (Stub: what the command line needs of it.)

use std::{net::SocketAddr, path::PathBuf};

use tokio::sync::oneshot;

use crate::{
    config::Config,
    primitives::{Multiaddr, NetworkId, PeerId},
};

/// How to run a node.
#[derive(Debug)]
pub struct Options {
    /// Where everything is kept; made when missing.
    pub data_dir: PathBuf,
    /// The whole configuration, checked.
    pub config: Config,
    /// A name asked for explicitly (configuration or flag); `None`: keep the one it has.
    pub name: Option<String>,
    /// The network; the same as `config.node.network`.
    pub network: NetworkId,
    /// Told once, when the node is ready.
    pub ready: oneshot::Sender<Ready>,
}

/// What a ready node tells.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its address.
    pub address: PeerId,
    /// Addrs it listens on.
    pub listen: Vec<Multiaddr>,
    /// Where the operations endpoints are served.
    pub http: Option<SocketAddr>,
}

/// Why a node could not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not built yet.
    #[error("the node is not built yet")]
    Missing,
}

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// [`Error`]
#[allow(clippy::unused_async, clippy::needless_pass_by_value, reason = "stub")]
pub async fn run(options: Options) -> Result<(), Error> {
    let _ = options;
    Err(Error::Missing)
}
