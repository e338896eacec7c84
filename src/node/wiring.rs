//! One function for each feature: what it works with, from what the node has.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::{
    DataDir, Error, Handles, Layer,
    blocks::{self, BlockEnds, OwnChain},
};
use crate::{
    api, block,
    config::Config,
    identity::Identity,
    map,
    message::{self, contacts::Contacts, friend},
    net::{
        self,
        pubsub::{Mesh, Topics},
        rpc::Protocols,
    },
    primitives::{Clock, SystemClock},
    store::Store,
    telemetry::Registry,
};

pub(super) type Ends<W> = (net::rpc::Client<W>, tokio::sync::mpsc::Receiver<net::rpc::Inbound<W>>);

pub(super) type MessageEnds = (Ends<message::Deliver>, Ends<message::Missing>, message::mailbox::Ends);

pub(super) type FriendAndBlockEnds = (Ends<friend::Protocol>, Option<BlockEnds>);

pub(super) struct MapEnds {
    publisher: net::pubsub::Publisher,
    gossip: tokio::sync::mpsc::Receiver<net::pubsub::Received>,
    page: Ends<map::wire::Page>,
    sync: Ends<map::wire::Sync>,
    probe: Ends<map::wire::Probe>,
}

/// What the wiring functions share.
pub(super) struct Wiring<'a> {
    dir: &'a DataDir,
    identity: Identity,
    store: Store,
    pub(super) config: Config,
    name: Option<String>,
    clock: Arc<dyn Clock>,
    mirror: map::Mirror,
    registry: Registry,
}

impl<'a> Wiring<'a> {
    pub(super) fn new(
        dir: &'a DataDir,
        identity: Identity,
        store: Store,
        config: Config,
        name: Option<String>,
    ) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let network = &config.node.network;
        let mirror = map::Mirror::load(&store, &config.map, network, identity.address(), clock.clone())?;
        let mut registry = Registry::default();
        mirror.metrics().register(&mut registry);
        Ok(Self { dir, identity, store, config, name, clock, mirror, registry })
    }

    pub(super) fn protocols(&self) -> (Protocols, Topics, MapEnds, MessageEnds, FriendAndBlockEnds) {
        let network = &self.config.node.network;
        let (mut protocols, mut topics) = (Protocols::new(network.clone()), Topics::new(network.clone()));
        let (publisher, gossip) = topics.add(map::wire::TOPIC, Mesh::default().with_max_payload(map::wire::MAX_NEWS));
        let (page, sync, probe) = (protocols.add(), protocols.add(), protocols.add());
        let message = (protocols.add(), protocols.add(), message::mailbox::Ends::new(&mut protocols));
        let friend = protocols.add();
        let block = BlockEnds::new(&self.config, &mut protocols, &mut topics);
        (protocols, topics, MapEnds { publisher, gossip, page, sync, probe }, message, (friend, block))
    }

    pub(super) fn network(
        &mut self,
        protocols: Protocols,
        topics: Topics,
    ) -> Result<(net::Network, net::Handle, net::dht::Client), Error> {
        let deps = net::Deps {
            identity: self.identity.clone(),
            network: self.config.node.network.clone(),
            config: self.config.net.clone(),
            book: Arc::new(self.mirror.clone()),
            protocols,
            topics,
            policy: self.mirror.policy(),
            store: self.store.clone(),
            clock: self.clock.clone(),
        };
        Ok(net::build(deps, &mut self.registry)?)
    }

    pub(super) fn map(
        &self,
        ends: MapEnds,
        net: &net::Handle,
        dht: net::dht::Client,
    ) -> Result<(map::Service, map::Handle), Error> {
        let MapEnds { publisher, gossip, page, sync, probe } = ends;
        let deps = map::Deps {
            identity: self.identity.clone(),
            network: self.config.node.network.clone(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            net: net.clone(),
            dht,
            publisher,
            gossip,
            page,
            sync,
            probe,
            name: self.name.clone().unwrap_or_default(),
            roles: if self.config.net.relay_server { vec!["relay".to_owned()] } else { Vec::new() },
        };
        Ok(map::new(self.config.map.clone(), deps)?)
    }

    pub(super) fn contacts(&self) -> Result<Contacts, Error> {
        let (clock, local) = (self.clock.clone(), self.identity.address());
        Ok(Contacts::open(self.store.clone(), clock, local, self.config.friend.contact_on_send)?)
    }

    pub(super) fn message(
        &mut self,
        ends: MessageEnds,
        net: &net::Handle,
        map: &map::Handle,
        (friend, contacts): (&friend::Handle, &Contacts),
    ) -> Result<(message::Service, message::Handle), Error> {
        let metrics = message::Metrics::new(&mut self.registry);
        let ((deliver, inbound), missing, mailbox) = ends;
        let mailbox_metrics = message::mailbox::Metrics::new(&mut self.registry);
        let deps = message::Deps {
            identity: self.identity.clone(),
            network: self.config.node.network.clone(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            net: net.clone(),
            map: map.clone(),
            friend: friend.clone(),
            contacts: contacts.clone(),
            deliver,
            inbound,
            missing,
            metrics,
            mailbox: (self.config.friend.clone(), mailbox, mailbox_metrics),
        };
        Ok(message::Service::new(self.config.message.clone(), deps)?)
    }

    pub(super) fn friend(
        &mut self,
        ends: Ends<friend::Protocol>,
        net: &net::Handle,
        map: &map::Handle,
        contacts: &Contacts,
    ) -> Result<(friend::Service, friend::Handle), Error> {
        let metrics = friend::Metrics::new(&mut self.registry);
        let (client, inbound) = ends;
        let deps = friend::Deps {
            identity: self.identity.clone(),
            network: self.config.node.network.clone(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            net: net.clone(),
            map: map.clone(),
            contacts: contacts.clone(),
            client,
            inbound,
            metrics,
        };
        Ok(friend::Service::new(&self.config.friend, deps)?)
    }

    pub(super) async fn block(
        &mut self,
        (ends, chain): (BlockEnds, OwnChain),
        net: &net::Handle,
        layer: &mut Layer,
    ) -> Result<block::Handle, Error> {
        let parts = blocks::Parts {
            config: &self.config,
            identity: &self.identity,
            clock: &self.clock,
            registry: &mut self.registry,
            net,
        };
        blocks::start(parts, (&self.store, chain), ends, layer).await
    }

    /// The control API on its socket and, when asked, on TCP; health and metrics on the operations address, which is
    /// returned.
    pub(super) async fn api(
        mut self,
        handles: &Handles,
        ready: watch::Receiver<bool>,
        layer: &mut Layer,
    ) -> Result<Option<SocketAddr>, Error> {
        let socket = api::bind_unix(&self.dir.api_sock())?;
        let ops = match self.config.node.http.addr() {
            Some(addr) => {
                let failed = |e| Error::Http(addr, e);
                let listener = tokio::net::TcpListener::bind(addr).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                Some((listener, bound))
            }
            None => None,
        };
        let tcp = match self.config.api.tcp.addr() {
            Some(addr) => {
                let token = api::load_or_create_token(&self.dir.api_token())?;
                let listener = api::bind_tcp(addr).await?;
                let bound = listener.local_addr().map_err(|e| Error::Http(addr, e))?;
                Some((listener, token, bound))
            }
            None => None,
        };
        let http = ops.as_ref().map(|(_, bound)| *bound);
        let info = api::NodeInfo {
            address: self.identity.address(),
            public_key: self.identity.public_key(),
            network: self.config.node.network.clone(),
            started: std::time::Instant::now(),
            http,
            api_tcp: tcp.as_ref().map(|(_, _, bound)| *bound),
            max_message_bytes: self.config.message.max_bytes,
            config: serde_json::to_value(&self.config).expect("a configuration is plain data"),
        };
        let deps = api::Deps {
            net: handles.net.clone(),
            map: handles.map.clone(),
            message: handles.message.clone(),
            friend: handles.friend.clone(),
            block: handles.block.clone(),
            store: self.store.clone(),
            info: Arc::new(info),
            metrics: Arc::new(std::mem::take(&mut self.registry)),
            ready,
            stop: layer.stop.clone(),
            spool_dir: self.dir.fresh_spool()?,
        };
        let (path, on_socket) = (self.dir.api_sock(), deps.clone());
        layer.tasks.spawn("api", |stop| api::serve_unix_on(socket, path, on_socket, stop));
        if let Some((listener, token, _)) = tcp {
            let deps = deps.clone();
            layer.tasks.spawn("api-tcp", |stop| api::serve_tcp_on(listener, token, deps, stop));
        }
        if let Some((listener, _)) = ops {
            layer.tasks.spawn("ops", |stop| api::serve_ops(listener, deps, stop));
        }
        Ok(http)
    }
}
