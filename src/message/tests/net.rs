//! A small network of message services: loopback protocol, temporary stores, a map that is a table.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};

use super::super::{
    Body, Config, Deliver, Draft, Handle, Metrics, Missing, Service, ServiceError,
    contacts::Contacts,
    friend, mailbox,
    recipients::{Granted, Recipients},
    service::Parts,
};
use crate::{
    identity::{EncryptionKey, Identity},
    map::{self, MapError},
    net::{PeerEvent, rpc},
    primitives::{Hash, ManualClock, NetworkId, PeerId, UnixMillis},
    runtime::Stop,
    store::Store,
};

pub(super) const START: UnixMillis = UnixMillis(1_700_000_000_000);

/// Waits for something that must happen.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, future).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

/// The boards of the mailbox protocols.
#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    pub(super) deposit: rpc::Loopback<mailbox::Deposit>,
    pub(super) pull: rpc::Loopback<mailbox::Pull>,
    pub(super) desk: rpc::Loopback<mailbox::Desk>,
    pub(super) hint: rpc::Loopback<mailbox::Hint>,
    pub(super) receipts: rpc::Loopback<mailbox::Receipts>,
    pub(super) audit: rpc::Loopback<mailbox::evidence::Audit>,
    pub(super) claim: rpc::Loopback<mailbox::evidence::Claim>,
}

impl Mail {
    fn join(&self, node: PeerId) -> mailbox::Ends {
        mailbox::Ends {
            deposit: self.deposit.join(node),
            pull: self.pull.join(node),
            desk: self.desk.join(node),
            hint: self.hint.join(node),
            receipts: self.receipts.join(node),
            audit: self.audit.join(node),
            claim: self.claim.join(node),
        }
    }

    pub(super) fn set_online(&self, node: PeerId, online: bool) {
        self.deposit.set_online(node, online);
        self.pull.set_online(node, online);
        self.desk.set_online(node, online);
        self.hint.set_online(node, online);
        self.receipts.set_online(node, online);
        self.audit.set_online(node, online);
        self.claim.set_online(node, online);
    }
}

/// Grants by owner, friend and hash.
type Grants = HashMap<(PeerId, PeerId, Hash), Granted>;

/// What all nodes share.
#[derive(Clone, Debug)]
pub(super) struct Net {
    pub(super) board: rpc::Loopback<Deliver>,
    pub(super) missing: rpc::Loopback<Missing>,
    pub(super) mail: Mail,
    pub(super) keys: Arc<Mutex<HashMap<PeerId, Vec<EncryptionKey>>>>,
    /// Friends of owners, and the grants behind them.
    pub(super) friends: Arc<Mutex<HashMap<PeerId, Vec<map::Friend>>>>,
    pub(super) grants: Arc<Mutex<Grants>>,
    pub(super) clock: Arc<ManualClock>,
    /// The number of a record of everybody's own, signed elsewhere.
    pub(super) elsewhere: watch::Sender<u64>,
    map: broadcast::Sender<map::Event>,
    pub(super) peers: broadcast::Sender<PeerEvent>,
}

impl Net {
    pub(super) fn new() -> Self {
        Self {
            board: rpc::Loopback::default(),
            missing: rpc::Loopback::default(),
            mail: Mail::default(),
            keys: Arc::default(),
            friends: Arc::default(),
            grants: Arc::default(),
            clock: Arc::new(ManualClock::new(START)),
            elsewhere: watch::channel(0).0,
            map: broadcast::channel(64).0,
            peers: broadcast::channel(64).0,
        }
    }

    /// Takes a node off the network, or back.
    pub(super) fn online(&self, peer: PeerId, online: bool) {
        self.board.set_online(peer, online);
        self.missing.set_online(peer, online);
        self.mail.set_online(peer, online);
        let _ = self.peers.send(if online { PeerEvent::Up(peer) } else { PeerEvent::Down(peer) });
    }
}

#[derive(Debug)]
struct Table {
    net: Net,
    local: PeerId,
}

impl Recipients for Table {
    fn keys(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<EncryptionKey>, MapError>> {
        let keys = self.net.keys.lock().unwrap().get(&peer).cloned().ok_or(MapError::NotFound);
        Box::pin(async { keys })
    }

    fn friends(&self, peer: PeerId) -> BoxFuture<'_, Result<Vec<map::Friend>, MapError>> {
        let friends = self.net.friends.lock().unwrap().get(&peer).cloned().unwrap_or_default();
        Box::pin(async { Ok(friends) })
    }

    fn granted(&self, owner: PeerId, friend: PeerId, hash: Hash) -> BoxFuture<'_, Result<Granted, String>> {
        let granted = self.net.grants.lock().unwrap().get(&(owner, friend, hash)).copied();
        Box::pin(async move { granted.ok_or_else(|| "nobody gave the grant".to_owned()) })
    }

    fn publish_keys(&self, keys: Vec<EncryptionKey>) -> BoxFuture<'_, Result<(), MapError>> {
        self.net.keys.lock().unwrap().insert(self.local, keys);
        let event = map::Event::Changed(Box::new(map::Entry {
            address: self.local,
            name: String::new(),
            addrs: Vec::new(),
            roles: Vec::new(),
            friends: Vec::new(),
            grant_epoch: 0,
            keys: Vec::new(),
            seq: 0,
            issued_at: START,
            expires_at: START,
            state: map::State::Online,
            last_seen_at: None,
            from_dht: false,
        }));
        let _ = self.net.map.send(event);
        Box::pin(async { Ok(()) })
    }

    fn heard(&self, _: PeerId) {}

    fn events(&self) -> broadcast::Receiver<map::Event> {
        self.net.map.subscribe()
    }

    fn signed_elsewhere(&self) -> watch::Receiver<u64> {
        self.net.elsewhere.subscribe()
    }
}

/// A running service.
pub(super) struct Node {
    pub(super) net: Net,
    pub(super) identity: Identity,
    pub(super) store: Store,
    pub(super) handle: Handle,
    pub(super) metrics: Metrics,
    pub(super) mail_metrics: mailbox::Metrics,
    pub(super) config: Config,
    stop: Stop,
    tasks: JoinSet<Result<(), ServiceError>>,
    pub(super) dir: Arc<tempfile::TempDir>,
}

impl Node {
    pub(super) async fn start(net: &Net) -> Self {
        Self::with(net, Config::default()).await
    }

    pub(super) async fn with(net: &Net, config: Config) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let store = Store::open(dir.path()).unwrap();
        Self::run(net, config, Identity::generate(), store, dir).await
    }

    pub(super) async fn run(
        net: &Net,
        config: Config,
        identity: Identity,
        store: Store,
        dir: Arc<tempfile::TempDir>,
    ) -> Self {
        let (deliver, inbound) = net.board.join(identity.address());
        Self::over(net, config, (identity, store, dir), deliver, inbound).await
    }

    async fn over(
        net: &Net,
        config: Config,
        (identity, store, dir): (Identity, Store, Arc<tempfile::TempDir>),
        deliver: rpc::Client<Deliver>,
        inbound: mpsc::Receiver<rpc::Inbound<Deliver>>,
    ) -> Self {
        let local = identity.address();
        net.keys.lock().unwrap().remove(&local);
        let (metrics, mail_metrics) = (Metrics::default(), mailbox::Metrics::default());
        let parts = Parts {
            identity: identity.clone(),
            network: NetworkId::default(),
            clock: net.clock.clone(),
            store: store.clone(),
            peers: net.peers.subscribe(),
            recipients: Arc::new(Table { net: net.clone(), local }),
            contacts: Contacts::open(store.clone(), net.clock.clone(), local, true).unwrap(),
            deliver,
            inbound,
            missing: net.missing.join(local),
            metrics: metrics.clone(),
            mailbox: (friend::Config::default(), net.mail.join(local), mail_metrics.clone()),
        };
        let (service, handle) = Service::with(config.clone(), parts).unwrap();
        let stop = Stop::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(service.run(stop.clone()));
        let published = async {
            while !net.keys.lock().unwrap().contains_key(&local) {
                tokio::task::yield_now().await;
            }
        };
        soon("keys are published", published).await;
        Self { net: net.clone(), identity, store, handle, metrics, mail_metrics, config, stop, tasks, dir }
    }

    pub(super) fn address(&self) -> PeerId {
        self.identity.address()
    }

    /// Stops the service, runs `between` on its store, and starts it again.
    pub(super) async fn restart(mut self, between: impl FnOnce(&Store)) -> Self {
        self.halt().await;
        between(&self.store);
        let Self { net, identity, store, config, dir, .. } = self;
        Self::run(&net, config, identity, store, dir).await
    }

    /// Stops the service; its store stays.
    pub(super) async fn halt(&mut self) {
        self.stop.stop();
        soon("the service stops", self.tasks.join_next()).await.unwrap().unwrap().unwrap();
    }

    pub(super) fn draft(&self, to: PeerId, body: impl Into<Vec<u8>>) -> Draft {
        Draft { to, body: Body::Bytes(body.into()), file_name: String::new(), ttl: None }
    }
}
