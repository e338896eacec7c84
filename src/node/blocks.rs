//! Wiring of block exchange: chain, sync, broadcast, production, and the small tasks between them.

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
    runtime::Stop,
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
    pub(super) store: &'a Store,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) registry: &'a mut Registry,
    pub(super) net: &'a net::Handle,
    pub(super) chain: OwnChain,
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
    let (service, chain) = opened.expect("opening does not panic")?;
    // A genesis file says nothing of the network, and blocks are signed for one.
    let committed = chain.header(&chain.status().committed.hash).ok().flatten().filter(|header| header.height > 0);
    if committed.is_some_and(|header| header.verify(&block::purpose(&config.node.network)).is_err()) {
        return Err(chain::OpenError::Network(config.node.network.clone()).into());
    }
    Ok((service, chain))
}

/// Opens the chain and spawns its tasks.
pub(super) async fn start(parts: Parts<'_>, ends: BlockEnds, layer: &mut Layer) -> Result<block::Handle, Error> {
    let Parts { config, identity, store, clock, registry, net, chain: own } = parts;
    let network = &config.node.network;
    if config.block.produce && own.validator.is_none() && !config.chain.may_produce(&identity.address()) {
        return Err(Error::NotProducer(identity.address()));
    }
    let (chain_metrics, sync_metrics) = (chain::Metrics::default(), sync::Metrics::default());
    let (broadcast_metrics, pool_metrics) = (broadcast::Metrics::default(), producer::Metrics::default());
    chain_metrics.register(registry);
    sync_metrics.register(registry);
    broadcast_metrics.register(registry);
    pool_metrics.register(registry);

    let (chain_service, chain) = open(config, own, (store, clock), chain_metrics).await?;
    let (penalties, verdicts) = Penalties::new();
    let trace = Trace::default();
    let sync_settings = sync::Settings {
        depth: config.chain.commit_depth,
        max_body_bytes: config.chain.max_bytes,
        interval: Duration::from_millis(config.block.interval_ms),
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

    layer.tasks.spawn("chain", |stop| chain_service.run(stop));
    layer.tasks.spawn("block sync", |stop| sync_service.run(stop));
    layer.tasks.spawn("block broadcast", |stop| broadcast_service.run(stop));
    layer.tasks.spawn("block producer", |stop| producer_service.run(stop));
    let (heads, states) = (sync.clone(), sync.state());
    layer.tasks.spawn("block heads", |stop| tell_heads(heads, broadcast, stop));
    let alone = config.block.produce_alone.then_some(ALONE);
    if config.block.produce && alone.is_none() {
        tracing::info!("no block is produced while no peer is connected (block.produce_alone)");
    }
    layer.tasks.spawn("block readiness", move |stop| may_produce(states, alone, ready, stop));
    let connections = net.clone();
    layer.tasks.spawn("block penalties", |stop| disconnect(verdicts, connections, stop));
    Ok(block::Handle::new((chain, sync, pool), trace, purpose(network), config.chain.max_bytes))
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
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test joins its tasks itself")]
    async fn alone(after: Option<Duration>) -> (watch::Sender<State>, watch::Receiver<bool>, Stop) {
        let (state, states) = watch::channel(State::Syncing);
        let (ready, mut readiness) = watch::channel(false);
        let stop = Stop::new();
        tokio::spawn(may_produce(states, after, ready, stop.clone()));
        for (next, wanted) in [(State::Synced, true), (State::Stalled, false), (State::NoPeers, false)] {
            state.send(next).unwrap();
            readiness.wait_for(|ready| *ready == wanted).await.unwrap();
        }
        (state, readiness, stop)
    }

    #[tokio::test]
    async fn a_producer_without_peers_produces_after_a_while_if_it_is_told_to() {
        let (state, mut readiness, stop) = alone(Some(Duration::from_millis(30))).await;
        readiness.wait_for(|ready| *ready).await.unwrap();
        state.send(State::CatchingUp).unwrap();
        readiness.wait_for(|ready| !*ready).await.unwrap();
        stop.stop();
    }

    #[tokio::test]
    async fn and_else_it_does_not() {
        let (state, mut readiness, stop) = alone(None).await;
        readiness.mark_unchanged();
        // Time in which the other one would have begun.
        let begins = tokio::time::timeout(Duration::from_millis(200), readiness.wait_for(|ready| *ready));
        assert!(begins.await.is_err());
        state.send(State::Synced).unwrap();
        readiness.wait_for(|ready| *ready).await.unwrap();
        stop.stop();
    }
}
