//! What the swarm is made of. Refusing parts come first: fields are asked in order and the first refusal ends it.

use std::{sync::Arc, time::Duration};

use libp2p::{
    allow_block_list::{self, BlockedPeers},
    autonat::v2 as autonat,
    connection_limits::{self, ConnectionLimits},
    dcutr, gossipsub, identify, kad, mdns, memory_connection_limits, ping, relay,
    swarm::{NetworkBehaviour, THandler, behaviour::toggle::Toggle},
    upnp,
};

use super::{
    AddrBook, Config, StartError,
    dht::RecordStore,
    pubsub::{self, Joined},
    rpc,
};
use crate::{
    identity::Identity,
    primitives::{NetworkId, PeerId},
    telemetry,
};

mod book;
mod gate;
mod lean;
mod per_ip;

pub(super) use gate::Gated;
use lean::{Boxed, Trimmed, With};

/// Handshakes under way from outside. One that says nothing costs a socket and some KiB for ten seconds; with few places,
/// somebody who opens connections and says nothing would lock everybody else out.
const MAX_PENDING_INCOMING: u32 = 1024;
/// Our own dials under way.
const MAX_PENDING_OUTGOING: u32 = 64;

/// How long gossip knows a message again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Bytes of a message's id.
const ID_BYTES: usize = 20;
/// Ids in one control message: with two bytes around each, and a topic's name, well below the 16 KiB that gossipsub takes.
const MAX_IDS: usize = 512;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) bans: allow_block_list::Behaviour<BlockedPeers>,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) per_ip: per_ip::Behaviour,
    pub(super) memory: Toggle<memory_connection_limits::Behaviour>,
    pub(super) book: book::Behaviour,
    pub(super) rpc: rpc::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<RecordStore>,
    pub(super) gossip: With<Trimmed, Gated>,
    pub(super) relay_client: relay::client::Behaviour,
    pub(super) relay: Toggle<relay::Behaviour>,
    pub(super) dcutr: Toggle<dcutr::Behaviour>,
    pub(super) autonat_client: Toggle<autonat::client::Behaviour>,
    pub(super) autonat_server: Toggle<autonat::server::Behaviour>,
    pub(super) upnp: Toggle<upnp::tokio::Behaviour>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The behaviour that the swarm has.
pub(super) type Lean = With<Boxed<THandler<Behaviour>>, Behaviour>;

/// What the behaviours are made from, besides the relay client that the transport brings.
pub(super) struct Parts<'a> {
    pub(super) identity: &'a Identity,
    pub(super) network: &'a NetworkId,
    pub(super) config: &'a Config,
    pub(super) book: Arc<dyn AddrBook>,
    /// Refused from the start.
    pub(super) banned: Vec<PeerId>,
    pub(super) records: RecordStore,
    pub(super) gossip: Gated,
    pub(super) rpc: rpc::Behaviour,
}

pub(super) fn build(parts: Parts<'_>, relay_client: relay::client::Behaviour) -> Result<Lean, StartError> {
    let Parts { identity, network, config, book, banned, records, gossip, rpc } = parts;
    let local = identity.address();
    let mut bans = allow_block_list::Behaviour::default();
    for peer in banned {
        bans.block_peer(peer);
    }
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUTGOING))
        .with_max_established(Some(config.max_connections))
        // Whoever fills all inbound places must not keep us from dialling whom we choose.
        .with_max_established_incoming(Some(config.max_connections - config.max_connections / 4))
        .with_max_established_per_peer(Some(config.max_connections_per_peer));
    let memory = (config.max_memory_mib > 0).then(|| {
        let bytes = usize::try_from(config.max_memory_mib).unwrap_or(usize::MAX).saturating_mul(1024 * 1024);
        memory_connection_limits::Behaviour::with_max_bytes(bytes)
    });
    let identify = identify::Config::new(network.name("1"), identity.keypair().public())
        .with_agent_version(telemetry::agent())
        .with_push_listen_addr_updates(true);
    let mdns = match config.mdns {
        true => Some(
            mdns::tokio::Behaviour::new(mdns::Config::default(), local)
                .map_err(|e| StartError::Setup(format!("mdns: {e}")))?,
        ),
        false => None,
    };
    Ok(With::new(Behaviour {
        bans,
        limits: connection_limits::Behaviour::new(limits),
        per_ip: per_ip::Behaviour::new(config.max_connections_per_ip),
        memory: memory.into(),
        book: book::Behaviour::new(book),
        rpc,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new()),
        kad: kademlia(network, local, records),
        gossip: With::new(gossip),
        relay_client,
        relay: config.relay_server.then(|| relay::Behaviour::new(local, relay_config(config))).into(),
        dcutr: config.relay_client.then(|| dcutr::Behaviour::new(local)).into(),
        autonat_client: config.relay_client.then(autonat::client::Behaviour::default).into(),
        // Dialling back on request is for public nodes only: it has no filter for private addrs (rust-libp2p issue 6610).
        autonat_server: config.relay_server.then(autonat::server::Behaviour::default).into(),
        upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        mdns: mdns.into(),
    }))
}

fn kademlia(network: &NetworkId, local: PeerId, records: RecordStore) -> kad::Behaviour<RecordStore> {
    let mut config = kad::Config::new(network.protocol("kad/1.0.0"));
    // Our map republishes by itself; Kademlia's jobs would copy every record each hour.
    config.set_replication_interval(None);
    config.set_publication_interval(None);
    config.set_provider_publication_interval(None);
    config.set_record_ttl(Some(crate::primitives::limits::MAX_RECORD_VALIDITY));
    config.set_query_timeout(Duration::from_secs(20));
    config.set_periodic_bootstrap_interval(Some(Duration::from_secs(600)));
    kad::Behaviour::with_config(local, records, config)
}

fn relay_config(config: &Config) -> relay::Config {
    relay::Config {
        max_reservations: config.relay_max_circuits,
        max_reservations_per_peer: 2,
        max_circuits: config.relay_max_circuits,
        max_circuits_per_peer: 16,
        // Messages of 16 MiB must fit; a circuit that hits its limit is cut without notice (spec libp2p.md, 0.4).
        max_circuit_bytes: 1 << 30,
        max_circuit_duration: Duration::from_secs(24 * 3600),
        ..relay::Config::default()
    }
}

/// gossipsub for `topics`; made apart because its metrics borrow the registry.
pub(super) fn gossip(topics: &pubsub::Topics, registry: &mut telemetry::Registry) -> Result<Gated, StartError> {
    let setup = |e: &dyn std::fmt::Display| StartError::Setup(format!("gossipsub: {e}"));
    let config = gossip_config(topics)?;
    let joined = topics.joined.iter().map(|joined| gossipsub::IdentTopic::new(joined.topic.clone()).hash());
    let mut gossip = Gated::new(config, joined).map_err(|e| setup(&e))?.with_metrics(registry);
    let mut scores = gossipsub::PeerScoreParams {
        // Many honest nodes share an IP behind NAT, and all of them in a test network.
        ip_colocation_factor_weight: 0.0,
        // What somebody gives us that we asked for, and the gate does not let in, is a promise that it did not keep.
        behaviour_penalty_threshold: 6.0,
        ..gossipsub::PeerScoreParams::default()
    };
    for Joined { topic, .. } in &topics.joined {
        let topic = gossipsub::IdentTopic::new(topic.clone());
        scores.topics.insert(topic.hash(), topic_scores());
        gossip.subscribe(&topic).map_err(|e| setup(&e))?;
    }
    gossip.with_peer_score(scores, gossipsub::PeerScoreThresholds::default()).map_err(|e| setup(&e))?;
    Ok(gossip)
}

/// How gossip works for `topics`.
pub(super) fn gossip_config(topics: &pubsub::Topics) -> Result<gossipsub::Config, StartError> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(pubsub::MAX_TRANSMIT)
        .heartbeat_initial_delay(Duration::from_millis(500))
        .heartbeat_interval(Duration::from_secs(1))
        // What we publish takes the mesh, as what we forward does: a topic's degree holds for its author too.
        .flood_publish(false)
        // With messages above this, neighbours are told at once that they need not send them; below it, telling costs as much.
        // The author tells too, or its own message would come back, since an anonymous one names nobody.
        .idontwant_message_size_threshold(4096)
        .idontwant_on_publish(true)
        // A verdict must come within this many heartbeats.
        .history_length(12)
        .history_gossip(6)
        .duplicate_cache_time(REMEMBERED)
        .iwant_followup_time(Duration::from_secs(2))
        // What tells of more ids than this would be a larger control message than the receiver takes, which ends its stream.
        .max_control_messages_sent(MAX_IDS)
        .connection_handler_queue_len(256);
    // All five of each topic: what is not set is one of gossipsub's defaults, whatever the others are, and its builder
    // compares the numbers of those topics only that have a size.
    for Joined { topic, mesh, .. } in &topics.joined {
        let topic = gossipsub::IdentTopic::new(topic.clone()).hash();
        config
            .mesh_n_for_topic(mesh.n, topic.clone())
            .mesh_n_low_for_topic(mesh.low, topic.clone())
            .mesh_n_high_for_topic(mesh.high, topic.clone())
            .mesh_outbound_min_for_topic(mesh.outbound_min, topic.clone())
            .max_transmit_size_for_topic(mesh.max_payload + pubsub::ENVELOPE, topic);
    }
    config.build().map_err(|e| StartError::Setup(format!("gossipsub: {e}")))
}

/// Quiet topics: only invalid messages count. The delivery-rate penalties would punish peers of a topic without news.
fn topic_scores() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Three invalid messages bring a peer below the publish threshold of -50, six below the graylist's -80 soon after.
        invalid_message_deliveries_weight: -6.0,
        invalid_message_deliveries_decay: 0.9,
        ..gossipsub::TopicScoreParams::default()
    }
}

/// The id covers topic and data: one id for the same bytes from anybody.
fn message_id(message: &gossipsub::Message) -> gossipsub::MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&message.data);
    gossipsub::MessageId::new(&hasher.finalize().as_bytes()[..ID_BYTES])
}
