//! L6: a node of all features, each wired by a function of its own, and the order of start and shutdown.
//!
//! # Start
//! Data directory and its lock → identity → store (migrated) → saved map → protocols and topics → network built and
//! listening → features → control API and operations → first record signed → `ready`. `/readyz` answers 503 until then, and again from
//! the moment the node is asked to stop.
//!
//! # Shutdown, within 5 s
//! 1. **API**: no new work; requests under way get a second.
//! 2. **Features**: messages stop sending (everything accepted is on disk already), the map says goodbye by gossip, which
//!    needs the network still up.
//! 3. **Network**: connections are closed, so that others notice at once.
//! 4. **Store**: the writer finishes and syncs.
//!
//! A task that panics or ends by itself stops the node the same way, with its name in the error.

mod blocks;
mod bootstrap;
mod data_dir;
mod error;
mod friends;
mod reset;
mod signals;
mod wiring;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::sync::{oneshot, watch};

pub use blocks::OwnChain;
pub use data_dir::{DataDir, DataDirError};
pub use error::Error;
pub use reset::reset_chain;
use wiring::Wiring;

use crate::{
    block,
    config::Config,
    identity::{self, Identity},
    map,
    message::{self, friend},
    net,
    primitives::{Multiaddr, NetworkId, PeerId},
    runtime::{Ended, Stop, Supervisor},
    store::Store,
};

/// For each of the three groups of tasks to end, out of 5 s together.
const STOP: [Duration; 3] = [Duration::from_millis(1500), Duration::from_millis(2000), Duration::from_millis(1000)];

/// For all of it: the store is closed in what the groups left.
const STOP_IN_ALL: Duration = Duration::from_secs(5);

/// For our first record: it waits a moment for addrs to settle, and for one synced write.
const FIRST_RECORD: Duration = Duration::from_secs(5);

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

/// A running node in this process: what the daemon and cluster tests hold.
#[derive(Debug)]
pub struct Node {
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
    /// What it tells when ready.
    pub info: Ready,
    store: Store,
    layers: [Layer; 3],
    ready: watch::Sender<bool>,
    // Released last: until then nobody else may use the folder.
    _dir: DataDir,
}

/// Tasks that stop together.
#[derive(Debug)]
struct Layer {
    stop: Stop,
    tasks: Supervisor,
}

impl Layer {
    fn new() -> Self {
        let stop = Stop::new();
        Self { tasks: Supervisor::new(stop.clone()), stop }
    }
}

/// Places of the layers, in the order they stop.
const API: usize = 0;
const FEATURES: usize = 1;
const NET: usize = 2;

/// Runs a node until SIGTERM or SIGINT; a second signal ends it at once.
///
/// # Errors
/// [`Error`] when it cannot start, or a task ends by itself.
pub async fn run(options: Options) -> Result<(), Error> {
    let mut signals = signals::Signals::new().map_err(Error::Signals)?;
    let Options { data_dir, config, name, network: _, ready } = options;
    let mut node = tokio::select! {
        node = Node::start(data_dir, config, name) => node?,
        () = signals.wait() => return Ok(()),
    };
    // Nobody may wait for it.
    let _ = ready.send(node.info.clone());
    notify(&[sd_notify::NotifyState::Ready]);
    let ended = tokio::select! {
        () = signals.wait() => None,
        ended = node.failed() => Some(ended),
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    tokio::select! {
        () = node.stop() => {}
        () = signals.wait() => tracing::warn!("second signal: ending at once"),
    }
    ended.map_or(Ok(()), |ended| Err(ended.into()))
}

/// Tells systemd, when it started us.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "could not tell systemd");
    }
}

impl Node {
    /// Starts a node; it is ready when this returns.
    ///
    /// # Errors
    /// [`Error`]; nothing runs then.
    pub async fn start(data_dir: PathBuf, config: Config, name: Option<String>) -> Result<Self, Error> {
        Self::start_with(data_dir, config, name, OwnChain::default()).await
    }

    /// The same with a chain of one's own: see [`block::chain::Validator`].
    ///
    /// # Errors
    /// [`Error`]; nothing runs then.
    pub async fn start_with(
        data_dir: PathBuf,
        mut config: Config,
        name: Option<String>,
        chain: OwnChain,
    ) -> Result<Self, Error> {
        let dir = DataDir::open(data_dir)?;
        raise_file_limit();
        let identity = identity::load_or_create(&dir.identity_key())?;
        config.net.bootstrap.extend(bootstrap::load(&config.net.bootstrap_dir, &config.node.network)?);
        let path = dir.db();
        let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.expect("opening does not panic")?;
        match Box::pin(Self::start_on(&dir, identity, store.clone(), (config, name, chain))).await {
            Ok(parts) => Ok(parts.into_node(store, dir)),
            Err(error) => {
                store.close();
                Err(error)
            }
        }
    }

    async fn start_on(
        dir: &DataDir,
        identity: Identity,
        store: Store,
        (config, name, chain): (Config, Option<String>, OwnChain),
    ) -> Result<Parts, Error> {
        let mut wiring = Wiring::new(dir, identity, store, config, name)?;
        let (protocols, topics, map_ends, message_ends, (friend_ends, block_ends)) = wiring.protocols();
        let (mut network, net, dht) = wiring.network(protocols, topics)?;
        let listen = network.listen().await?;
        let (map_service, map) = wiring.map(map_ends, &net, dht)?;
        let contacts = wiring.contacts()?;
        let (friend_service, friend) = wiring.friend(friend_ends, &net, &map, &contacts)?;
        let (message_service, message) = wiring.message(message_ends, &net, &map, (&friend, &contacts))?;
        let mut layers = [Layer::new(), Layer::new(), Layer::new()];
        layers[NET].tasks.spawn("rpc", network.take_server());
        layers[NET].tasks.spawn("swarm", |stop| network.run(stop));
        layers[FEATURES].tasks.spawn("map", |stop| map_service.run(stop));
        layers[FEATURES].tasks.spawn("message", |stop| message_service.run(stop));
        layers[FEATURES].tasks.spawn("friend", |stop| friend_service.run(stop));
        let (mail, pins) = (message.mailbox().clone(), map.clone());
        layers[FEATURES].tasks.spawn("mailboxes", |stop| friends::run(friend.clone(), mail, map.clone(), stop));
        layers[FEATURES].tasks.spawn("contacts", |stop| friends::pin(contacts, pins, stop));
        let block = match block_ends {
            Some(ends) => Some(wiring.block((ends, chain), &net, &mut layers[FEATURES]).await?),
            None => None,
        };
        let handles = Handles { net, map, message, friend, block };
        let (address, network_id) = (handles.net.local(), wiring.config.node.network.clone());
        let (ready, readiness) = watch::channel(false);
        let http = wiring.api(&handles, readiness, &mut layers[API]).await?;
        first_record(&handles.map).await;
        ready.send_replace(true);
        tracing::info!(%address, network = %network_id, "ready");
        Ok(Parts { handles, info: Ready { address, listen, http }, layers, ready })
    }

    /// Waits until a task ends that should not. Cancel-safe.
    pub async fn failed(&mut self) -> Ended {
        let [api, features, net] = &mut self.layers;
        tokio::select! {
            ended = api.tasks.failed() => ended,
            ended = features.tasks.failed() => ended,
            ended = net.tasks.failed() => ended,
        }
    }

    /// What the store's writer has done: benches show how many messages share a sync.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn writer_stats(&self) -> crate::store::WriterStats {
        self.store.writer_stats()
    }

    /// Stops in order; see the module doc.
    pub async fn stop(&mut self) {
        let end = tokio::time::Instant::now() + STOP_IN_ALL;
        self.ready.send_replace(false);
        for (layer, deadline) in self.layers.iter_mut().zip(STOP) {
            layer.stop.stop();
            let late = layer.tasks.join(deadline).await;
            if !late.is_empty() {
                tracing::warn!(?late, "tasks did not stop in time");
            }
        }
        let store = self.store.clone();
        let closed = tokio::task::spawn_blocking(move || store.close());
        match tokio::time::timeout_at(end, closed).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("closing the store panicked"),
            // What was acknowledged is synced: a disk that hangs may not keep the process.
            Err(_) => tracing::error!("the disk does not answer: the store was not closed in time"),
        }
    }
}

struct Handles {
    net: net::Handle,
    map: map::Handle,
    message: message::Handle,
    friend: friend::Handle,
    block: Option<block::Handle>,
}

struct Parts {
    handles: Handles,
    info: Ready,
    layers: [Layer; 3],
    ready: watch::Sender<bool>,
}

impl Parts {
    fn into_node(self, store: Store, dir: DataDir) -> Node {
        let Handles { net, map, message, friend, block } = self.handles;
        Node {
            net,
            map,
            message,
            friend,
            block,
            info: self.info,
            store,
            layers: self.layers,
            ready: self.ready,
            _dir: dir,
        }
    }
}

/// Ready means that others can learn of us: our first record is signed and durable.
async fn first_record(map: &map::Handle) {
    let mut changes = map.subscribe();
    let signed = async {
        while map.get(&map.local()).is_none() {
            // Every change is a reason to look; so is a while without one.
            let _ = tokio::time::timeout(Duration::from_millis(20), changes.recv()).await;
        }
    };
    if tokio::time::timeout(FIRST_RECORD, signed).await.is_err() {
        tracing::warn!("our first record is not signed yet; others will learn of us later");
    }
}

/// Each connection, store file and API client is a file: the soft limit of 1024 is soon reached.
fn raise_file_limit() {
    match rlimit::increase_nofile_limit(1 << 16) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "could not raise the limit of open files"),
    }
}
