//! Nodes whose blocks travel whole by gossipsub.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{Multiaddr, SwarmBuilder, gossipsub, noise, swarm::SwarmEvent, tcp, yamux};
use tokio::{sync::mpsc, task::JoinSet};
use vos::{
    block::{Block, Header, Origin, chain::Event, kit, purpose},
    telemetry::Registry,
};

use super::{DEGREE, Kind, MIB, Peer, memory_chain};

const TOPIC: &str = "bench/block";

fn config(kind: Kind) -> gossipsub::Config {
    let mut config = gossipsub::ConfigBuilder::default();
    // What any use for large signed blocks needs; all else is the default.
    config
        .max_transmit_size(5 * MIB)
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|m| gossipsub::MessageId::new(blake3::hash(&m.data).as_bytes()));
    match kind {
        Kind::Flood => {
            config.mesh_n(DEGREE).mesh_n_low(DEGREE).mesh_n_high(DEGREE).mesh_outbound_min(0);
        }
        Kind::Root => {
            config.mesh_n(4).mesh_n_low(3).mesh_n_high(6).mesh_outbound_min(1);
            config.flood_publish(false).idontwant_message_size_threshold(4096).idontwant_on_publish(true);
        }
        _ => {}
    }
    config.build().unwrap()
}

fn encode(block: &Block) -> Vec<u8> {
    let header = block.header().encode();
    let mut bytes = u32::try_from(header.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(header);
    bytes.extend_from_slice(block.body().bytes());
    bytes
}

fn decode(bytes: Vec<u8>) -> Option<(Header, Bytes)> {
    let bytes = Bytes::from(bytes);
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let header = Header::decode(bytes.get(4..4 + length)?).ok()?;
    Some((header, bytes.slice(4 + length..)))
}

pub(super) async fn node(kind: Kind) -> Peer {
    let chain = memory_chain();
    let mut registry = Registry::default();
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_bandwidth_metrics(&mut registry)
        .with_behaviour(|_| {
            gossipsub::Behaviour::<gossipsub::IdentityTransform>::new(
                gossipsub::MessageAuthenticity::Anonymous,
                config(kind),
            )
            .unwrap()
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
        .build();
    let topic = gossipsub::IdentTopic::new(TOPIC);
    swarm.behaviour_mut().subscribe(&topic).unwrap();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse::<Multiaddr>().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let (dial, mut dials) = mpsc::channel::<Multiaddr>(64);
    let (ours, purpose) = (chain.clone(), Arc::new(purpose(&kit::network())));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut events = ours.events();
        let mut checks: JoinSet<Option<Block>> = JoinSet::new();
        let mut sources = HashMap::new();
        loop {
            tokio::select! {
                Some(addr) = dials.recv() => drop(swarm.dial(addr)),
                Ok(event) = events.recv() => {
                    if let Event::Imported { point, origin: Origin::Local, .. } = event {
                        let stored = ours.block(&point.hash).unwrap().unwrap();
                        let block = Block::check(Header::decode(&stored.header).unwrap(), stored.body, 4 * MIB, &purpose);
                        let _ = swarm.behaviour_mut().publish(topic.clone(), encode(&block.unwrap()));
                    }
                }
                Some(Ok(Some(block))) = checks.join_next(), if !checks.is_empty() => {
                    let (message, source) = sources.remove(&block.hash()).unwrap();
                    let accept = gossipsub::MessageAcceptance::Accept;
                    swarm.behaviour_mut().report_message_validation_result(&message, &source, accept);
                    let ours = ours.clone();
                    tokio::spawn(async move { ours.import(block, Origin::Peer(source)).await.unwrap() });
                }
                event = swarm.select_next_some() => {
                    let gossipsub::Event::Message { propagation_source, message_id, message } = (match event {
                        SwarmEvent::Behaviour(event) => event,
                        _ => continue,
                    }) else { continue };
                    let (header, body) = decode(message.data).unwrap();
                    sources.insert(header.hash(), (message_id, propagation_source));
                    let purpose = purpose.clone();
                    checks.spawn_blocking(move || Block::check(header, body, 4 * MIB, &purpose).ok());
                }
            }
        }
    });
    let registry = Arc::new(std::sync::Mutex::new(registry));
    Peer { addr, chain, registry, dial, _keep: Box::new(tasks) }
}
