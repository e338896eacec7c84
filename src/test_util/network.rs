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
    _dir: TempDir,
}

/// Starts a network listening on TCP loopback with the protocols and topics that `wire` adds; returns what `wire` returned too.
///
/// # Panics
/// When it cannot start: tests cannot go on without it.
pub async fn node<T>(config: net::Config, wire: impl FnOnce(&mut Protocols, &mut Topics) -> T) -> (Node, T) {
    let network = NetworkId::default();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(dir.path()).expect("a fresh store opens");
    let (mut protocols, mut topics) = (Protocols::new(network.clone()), Topics::new(network.clone()));
    let wired = wire(&mut protocols, &mut topics);
    let book = Book::default();
    let deps = net::Deps {
        identity: Identity::generate(),
        network,
        config,
        book: Arc::new(book.clone()),
        protocols,
        topics,
        policy: Arc::new(dht::Nothing),
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
            ..net::Config::default()
        }
    }
}
