//! A running network on loopback without any feature: what the rpc and gossip tests and benches stand on.

use std::sync::Arc;

use tempfile::TempDir;

use super::Book;
use crate::{
    identity::Identity,
    net::{self, Handle, dht, pubsub::Topics, rpc::Protocols},
    primitives::{Multiaddr, NetworkId, SystemClock},
    runtime::{Stop, Supervisor},
    store::Store,
    telemetry::Registry,
};

/// A running network; dropping it stops its tasks.
#[derive(Debug)]
pub struct Node {
    /// Its handle.
    pub handle: Handle,
    /// Its Kademlia client.
    pub dht: dht::Client,
    /// Where it listens.
    pub addrs: Vec<Multiaddr>,
    /// Its address book.
    pub book: Book,
    /// Asks its tasks to end.
    pub stop: Stop,
    /// Its tasks.
    pub tasks: Supervisor,
    _dir: Arc<TempDir>,
}

/// What a network is built on.
#[derive(Debug)]
pub struct Ground {
    /// Its key.
    pub identity: Identity,
    /// Its store.
    pub store: Store,
    /// Which Kademlia records it keeps and believes.
    pub policy: dht::SharedPolicy,
    /// The store's folder.
    pub dir: Arc<TempDir>,
}

impl Ground {
    /// A new key, an empty store, and no Kademlia records.
    ///
    /// # Panics
    /// When there is no place for it.
    #[must_use]
    pub fn fresh() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let store = Store::open(dir.path()).expect("a fresh store opens");
        Self { identity: Identity::generate(), store, policy: Arc::new(dht::Nothing), dir }
    }
}

/// Starts a network listening on TCP loopback with the protocols and topics that `wire` adds; returns what `wire` returned too.
///
/// # Panics
/// When it cannot start: tests cannot go on without it.
pub async fn node<T>(config: net::Config, wire: impl FnOnce(&mut Protocols, &mut Topics) -> T) -> (Node, T) {
    node_on(Ground::fresh(), config, wire).await
}

/// The same on what is there.
///
/// # Panics
/// When it cannot start.
pub async fn node_on<T>(
    ground: Ground,
    config: net::Config,
    wire: impl FnOnce(&mut Protocols, &mut Topics) -> T,
) -> (Node, T) {
    let network = NetworkId::default();
    let Ground { identity, store, policy, dir } = ground;
    let (mut protocols, mut topics) = (Protocols::new(network.clone()), Topics::new(network.clone()));
    let wired = wire(&mut protocols, &mut topics);
    let book = Book::default();
    let deps = net::Deps {
        identity,
        network,
        config,
        book: Arc::new(book.clone()),
        protocols,
        topics,
        policy,
        store,
        clock: Arc::new(SystemClock),
    };
    let (mut network, handle, dht) = net::build(deps, &mut Registry::default()).expect("the network builds");
    let addrs = network.listen().await.expect("loopback can be listened on");
    let stop = Stop::new();
    let mut tasks = Supervisor::new(stop.clone());
    tasks.spawn("rpc", network.take_server());
    tasks.spawn("swarm", |stop| network.run(stop));
    (Node { handle, dht, addrs, book, stop, tasks, _dir: dir }, wired)
}

impl Node {
    /// The configuration for loopback: one TCP listener on a free port.
    #[must_use]
    pub fn config() -> net::Config {
        net::Config {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a constant")],
            relay_client: false,
            // The limit is one node's, and a test process has many, and other tests beside it.
            max_memory_mib: 0,
            ..net::Config::default()
        }
    }
}
