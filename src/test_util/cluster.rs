//! Whole nodes in one process, each with its own data directory, on loopback.

use tempfile::TempDir;

use crate::{
    config::Config,
    message::friend::Accept,
    node::Node,
    primitives::{Multiaddr, PeerId},
};

/// A whole node and its data directory.
#[derive(Debug)]
pub struct Member {
    /// The node.
    pub node: Node,
    /// Its data directory; survives [`Member::stop`].
    pub dir: TempDir,
}

/// The configuration of a cluster's node: loopback, free ports, no operations endpoint.
#[must_use]
pub fn config(bootstrap: &[Multiaddr]) -> Config {
    let mut config = Config::default();
    config.net.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a constant")];
    config.net.bootstrap = bootstrap.to_vec();
    config.node.http = crate::api::Endpoint::Off;
    config.map.sync_interval_s = 2;
    config
}

/// The same for a node that holds mail of whoever asks, however full the disk of the tests is.
#[must_use]
pub fn config_of_friend(bootstrap: &[Multiaddr]) -> Config {
    let mut config = config(bootstrap);
    (config.friend.accept, config.friend.reserve_bytes) = (Accept::All, 0);
    config
}

impl Member {
    /// Starts a new node.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start(name: &str, config: Config) -> Self {
        let dir = tempfile::Builder::new().prefix("vos").tempdir().expect("a temporary folder");
        Box::pin(Self::start_in(dir, name, config)).await
    }

    /// Starts a node in a data directory that may have been used before.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start_in(dir: TempDir, name: &str, config: Config) -> Self {
        let node = Box::pin(Node::start(dir.path().to_owned(), config, Some(name.to_owned()))).await;
        Self { node: node.expect("the node starts"), dir }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> PeerId {
        self.node.info.address
    }

    /// The multiaddr to bootstrap from it.
    #[must_use]
    pub fn multiaddr(&self) -> Multiaddr {
        let addr = self.node.info.listen[0].clone();
        addr.with_p2p(self.address()).expect("a listen addr has no id")
    }

    /// Stops it in order; returns its data directory.
    pub async fn stop(mut self) -> TempDir {
        self.node.stop().await;
        self.dir
    }
}
