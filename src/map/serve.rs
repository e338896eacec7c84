//! Answering others: pages, comparisons, probes, and the verdict on gossip. One small task each; no answer waits for
//! another node.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    limit::Buckets,
    mirror::Mirror,
    sync::{Answer, Ask, MAX_PUSH, MAX_PUSH_BYTES, respond},
    wire::{Page, Probe, Sync, page_response, probe_response, read_page_request, read_sync_request, sync_response},
};
use crate::{
    net::{pubsub::Received, rpc::Inbound},
    primitives::PeerId,
    wire::Status,
};

/// Pushes verified at once, one thread each.
const PUSHES: usize = 2;
/// Gossip verified in one go: some 4 ms.
const GOSSIP_BATCH: usize = 64;
/// Gossip messages taken from one peer: 50 a second for a minute, all at once if need be. A network of 10000 nodes that
/// refresh daily makes 0.1 a second; a restart of all of them comes by comparison.
const GOSSIP_PER_PEER: u32 = 3000;
const GOSSIP_WINDOW: Duration = Duration::from_secs(60);

/// Serves pages until the queue closes.
pub(super) async fn pages(mirror: Mirror, mut requests: mpsc::Receiver<Inbound<Page>>) {
    while let Some(inbound) = requests.recv().await {
        match read_page_request(&inbound.request) {
            Some((after, bytes)) => inbound.respond(page_response(mirror.page_of(after, bytes))),
            None => inbound.refuse(Status::Invalid),
        }
    }
}

/// Serves comparisons until the queue closes.
pub(super) async fn comparisons(mirror: Mirror, mut requests: mpsc::Receiver<Inbound<Sync>>) {
    let mut pushes = JoinSet::new();
    while let Some(mut inbound) = requests.recv().await {
        while pushes.try_join_next().is_some() {}
        match read_sync_request(std::mem::take(&mut inbound.request)) {
            None => inbound.refuse(Status::Invalid),
            Some(Ask::Push(envelopes)) => {
                let bytes: usize = envelopes.iter().map(|e| e.len()).sum();
                if envelopes.len() > MAX_PUSH || bytes > MAX_PUSH_BYTES {
                    inbound.refuse(Status::Invalid);
                } else if pushes.len() >= PUSHES {
                    inbound.refuse(Status::Busy);
                } else {
                    let mirror = mirror.clone();
                    pushes.spawn_blocking(move || take_push(&mirror, &envelopes, inbound));
                }
            }
            Some(ask) => {
                let answer = {
                    let mut map = mirror.write();
                    respond(&mut map, &ask).map(|answer| (answer, map.is_full()))
                };
                match answer {
                    Some((answer, full)) => inbound.respond(sync_response(answer, full)),
                    None => inbound.refuse(Status::Invalid),
                }
            }
        }
    }
}

fn take_push(mirror: &Mirror, envelopes: &[Arc<[u8]>], inbound: Inbound<Sync>) {
    let envelopes: Vec<Vec<u8>> = envelopes.iter().map(|e| e.to_vec()).collect();
    let taken = mirror.take_push(&envelopes);
    if taken.refused > 0 {
        tracing::debug!(peer = %inbound.peer, refused = taken.refused, "peer pushed invalid records");
    }
    if taken.broken > 0 {
        // What was good of it is taken all the same.
        return inbound.refuse(Status::Invalid);
    }
    let full = mirror.read().is_full();
    inbound.respond(sync_response(Answer::Pushed(taken.accepted), full));
}

/// Serves probes until the queue closes. Who probes us is there.
pub(super) async fn probes(mirror: Mirror, mut requests: mpsc::Receiver<Inbound<Probe>>) {
    while let Some(inbound) = requests.recv().await {
        mirror.heard(&inbound.peer);
        let seq = mirror.own().map_or(0, |e| e.seq);
        inbound.respond(probe_response(seq));
    }
}

/// Judges gossip until the queue closes: verified off the async threads, one batch at a time, so that a flood takes one
/// thread and the queue's bounded memory.
pub(super) async fn gossip(mirror: Mirror, mut received: mpsc::Receiver<Received>) {
    let mut peers: Buckets<PeerId> = Buckets::new(GOSSIP_PER_PEER, GOSSIP_WINDOW);
    let mut batch = Vec::with_capacity(GOSSIP_BATCH);
    while received.recv_many(&mut batch, GOSSIP_BATCH).await > 0 {
        let now = std::time::Instant::now();
        let within = |m: &Received| {
            let within = peers.take(m.source, now);
            if !within {
                mirror.metrics().rate_limited.inc();
            }
            within
        };
        let taken: Vec<Received> = batch.drain(..).filter(within).collect();
        let mirror = mirror.clone();
        let judging = tokio::task::spawn_blocking(move || {
            for message in taken {
                let verdict = mirror.judge(&message.data);
                message.judge(verdict);
            }
        });
        if judging.await.is_err() {
            tracing::error!("judging gossip panicked; please report this");
        }
    }
}
