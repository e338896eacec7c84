//! Wiring of block exchange: chain, sync, broadcast, production, and the small tasks between them. Simulations put whole networks
//! together with the same function.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::Instant,
};

use super::{Error, Layer, wiring::Ends};
use crate::{
    block::{
        self,
        broadcast::{self, Settings},
        chain::{self, Rocks},
        penalty::{Penalties, Verdict},
        producer, purpose,
        sync::{self, State, wire as sync_wire},
        trace::Trace,
    },
    config::Config,
    identity::Identity,
    net::{
        self,
        pubsub::{Mesh, Publisher, Received, Topics},
        rpc::Protocols,
    },
    primitives::Clock,
    runtime::{Stop, Supervisor},
    store::Store,
    telemetry::Registry,
};

/// How long a node without any peer waits before it produces alone: at the start its peers are still to be connected.
const ALONE: Duration = Duration::from_secs(10);

/// Rules of a chain of one's own, for a program that runs a node itself: what is `None` follows the configuration.
#[derive(Clone, Debug, Default)]
pub struct OwnChain {
    /// What is valid; instead of `chain.producers`.
    pub validator: Option<Arc<dyn block::chain::Validator>>,
    /// Which branch is better; instead of `chain.fork_choice`.
    pub choice: Option<Arc<dyn block::chain::ForkChoice>>,
}

/// Our ends of the topics and protocols of block exchange.
pub(super) struct BlockEnds {
    broadcast: broadcast::Ends,
    shakehand: Ends<sync_wire::Shakehand>,
    pull: Ends<sync_wire::Pull>,
    headers: Ends<sync_wire::Headers>,
    transactions: (Publisher, mpsc::Receiver<Received>),
    transaction: Ends<producer::wire::GetTransaction>,
}

fn settings(config: &Config) -> Settings {
    Settings {
        max_body_bytes: config.chain.max_bytes,
        degree: config.block.degree,
        peers: config.net.target_peers,
        max_peers: usize::try_from(config.net.max_connections).unwrap_or(usize::MAX),
    }
}

impl BlockEnds {
    /// Joins the topics and adds the protocols, unless block exchange is off.
    pub(super) fn new(config: &Config, protocols: &mut Protocols, topics: &mut Topics) -> Option<Self> {
        config.block.enabled.then(|| Self {
            broadcast: broadcast::Ends::new(&settings(config), protocols, topics),
            shakehand: protocols.add(),
            pull: protocols.add(),
            headers: protocols.add(),
            transactions: topics.add(producer::wire::TOPIC, Mesh::default().with_max_payload(producer::wire::MAX_NEWS)),
            transaction: protocols.add(),
        })
    }
}

/// What block exchange is made from.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: &'a Identity,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) registry: &'a mut Registry,
    pub(super) net: &'a net::Handle,
}

/// Opens the chain by the configuration's rules, or those of one's own.
async fn open(
    config: &Config,
    own: OwnChain,
    (store, clock): (&Store, &Arc<dyn Clock>),
    metrics: chain::Metrics,
) -> Result<(chain::Service, chain::Chain), Error> {
    let validator = own.validator.map_or_else(|| config.chain.validator().map_err(Error::Producer), Ok)?;
    let validator = Arc::new(chain::Spaced::new(config.chain.spacing_ms, validator));
    let mut rules = config.chain.rules(&config.node.network, validator)?;
    if let Some(choice) = own.choice {
        rules.choice = choice;
    }
    let (blocks, clock) = (store.clone(), clock.clone());
    let open = move || {
        let store = Arc::new(Rocks::open(blocks)?);
        chain::open(rules, chain::Deps { store, clock, metrics })
    };
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(opened.expect("opening does not panic")?)
}

/// Opens the chain and spawns its tasks.
pub(super) async fn start(
    parts: Parts<'_>,
    (store, own): (&Store, OwnChain),
    ends: BlockEnds,
    layer: &mut Layer,
) -> Result<block::Handle, Error> {
    let Parts { config, identity, clock, .. } = parts;
    if config.block.produce && own.validator.is_none() && !config.chain.may_produce(&identity.address()) {
        return Err(Error::NotProducer(identity.address()));
    }
    let metrics = chain::Metrics::default();
    metrics.register(parts.registry);
    let (service, chain) = open(config, own, (store, clock), metrics).await?;
    let net = parts.net.clone();
    layer.tasks.spawn("chain", |stop| service.run(stop));
    let (handle, verdicts) = assemble(parts, chain, ends, &mut layer.tasks);
    layer.tasks.spawn("block penalties", |stop| disconnect(verdicts, net, stop));
    Ok(handle)
}

/// Spawns everything that works on a chain: its door, and the peers that are banned.
fn assemble(
    parts: Parts<'_>,
    chain: chain::Chain,
    ends: BlockEnds,
    tasks: &mut Supervisor,
) -> (block::Handle, mpsc::Receiver<Verdict>) {
    let Parts { config, identity, clock, registry, net } = parts;
    let network = &config.node.network;
    let (sync_metrics, broadcast_metrics) = (sync::Metrics::default(), broadcast::Metrics::default());
    let pool_metrics = producer::Metrics::default();
    sync_metrics.register(registry);
    broadcast_metrics.register(registry);
    pool_metrics.register(registry);
    let (penalties, verdicts) = Penalties::new();
    let trace = Trace::default();
    let sync_settings = sync::Settings {
        depth: config.chain.commit_depth,
        max_body_bytes: config.chain.max_bytes,
        interval: Duration::from_millis(config.block.interval_ms),
        solitary: config.block.produce_alone,
    };
    let deps = sync::Deps {
        chain: chain.clone(),
        net: net.clone(),
        network: network.clone(),
        clock: clock.clone(),
        penalties: penalties.clone(),
        trace: trace.clone(),
        shakehand: ends.shakehand,
        pull: ends.pull,
        headers: ends.headers,
    };
    let (sync_service, sync) = sync::new(sync_settings, deps, sync_metrics);
    let deps = broadcast::Deps {
        chain: chain.clone(),
        sync: sync.clone(),
        net: net.clone(),
        network: network.clone(),
        clock: clock.clone(),
        penalties: penalties.clone(),
        trace: trace.clone(),
        ends: ends.broadcast,
        metrics: broadcast_metrics,
    };
    let (broadcast_service, broadcast) = broadcast::new(settings(config), deps);
    let (ready, in_sync) = watch::channel(false);
    let deps = producer::Deps {
        identity: identity.clone(),
        network: network.clone(),
        clock: clock.clone(),
        chain: chain.clone(),
        publisher: ends.transactions.0,
        gossip: ends.transactions.1,
        get: ends.transaction,
        penalties,
        in_sync,
        max_body_bytes: config.chain.max_bytes,
        metrics: pool_metrics,
    };
    let (producer_service, pool) = producer::new(&config.block, deps);

    tasks.spawn("block sync", |stop| sync_service.run(stop));
    tasks.spawn("block broadcast", |stop| broadcast_service.run(stop));
    tasks.spawn("block producer", |stop| producer_service.run(stop));
    let (heads, states) = (sync.clone(), sync.state());
    tasks.spawn("block heads", |stop| tell_heads(heads, broadcast, stop));
    let alone = config.block.produce_alone.then_some(ALONE);
    if config.block.produce && alone.is_none() {
        tracing::info!("no block is produced while no peer is connected (block.produce_alone)");
    }
    tasks.spawn("block readiness", move |stop| may_produce(states, alone, ready, stop));
    let handle = block::Handle::new((chain, sync, pool), trace, purpose(network), config.chain.max_bytes);
    (handle, verdicts)
}

/// What peers say of their heads is told to the broadcast, which helps those that are a block or two behind.
async fn tell_heads(sync: sync::Handle, broadcast: broadcast::Handle, stop: Stop) -> Result<(), Infallible> {
    let mut heads = sync.heads();
    loop {
        let head = tokio::select! {
            () = stop.wait() => return Ok(()),
            head = heads.recv() => head,
        };
        match head {
            Ok((peer, head)) => broadcast.head(peer, head),
            Err(RecvError::Lagged(_)) => {}
            // Sync has ended, so the node is stopping.
            Err(RecvError::Closed) => stop.wait().await,
        }
    }
}

/// Whether a block of ours would help: when we are in step, or have been without any peer for as long as `alone` says.
async fn may_produce(
    mut states: watch::Receiver<State>,
    alone: Option<Duration>,
    ready: watch::Sender<bool>,
    stop: Stop,
) -> Result<(), Infallible> {
    loop {
        let state = *states.borrow_and_update();
        ready.send_replace(state == State::Synced);
        let long_alone = Instant::now() + alone.unwrap_or_default();
        let changed = tokio::select! {
            () = stop.wait() => return Ok(()),
            changed = states.changed() => changed,
            () = tokio::time::sleep_until(long_alone), if alone.is_some() && state == State::NoPeers => {
                ready.send_replace(true);
                tokio::select! {
                    () = stop.wait() => return Ok(()),
                    changed = states.changed() => changed,
                }
            }
        };
        if changed.is_err() {
            // Sync has ended, so the node is stopping.
            stop.wait().await;
        }
    }
}

/// Closes the connections of peers that were banned from block exchange.
async fn disconnect(mut verdicts: mpsc::Receiver<Verdict>, net: net::Handle, stop: Stop) -> Result<(), Infallible> {
    loop {
        let verdict = tokio::select! {
            () = stop.wait() => return Ok(()),
            verdict = verdicts.recv() => verdict,
        };
        let Some(Verdict { peer, offence, .. }) = verdict else {
            stop.wait().await;
            return Ok(());
        };
        tracing::info!(%peer, ?offence, "banned from block exchange for ten minutes");
        if let Err(error) = net.disconnect(peer).await {
            tracing::debug!(%peer, %error, "could not close its connections");
        }
    }
}

#[cfg(test)]
mod tests;
