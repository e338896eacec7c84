//! The requests of sync, each from its first byte to checked data: what the service's jobs do.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesOrdered};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::{
    check,
    plan::{Failure, Imported, Pulled},
    wire::{self, Greeting, Headers, Ladder, MAX_HEADERS, Pull, Push, RawBlock, Shakehand, Span},
};
use crate::{
    block::{
        Block, Header, Origin, Point,
        chain::{Chain, ChainError, SegmentOutcome},
        trace::{Code, Trace},
    },
    identity::Purpose,
    net::rpc::{Client, RequestError},
    primitives::PeerId,
    wire::Status,
};

/// Answers checked at once: one on each core, but no more than this, so that others find one free on large machines.
const CHECKS: usize = 8;
/// A peer that only says that it is busy is left alone for this long.
const BUSY: Duration = Duration::from_secs(1);

/// What the jobs share.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) chain: Chain,
    pub(super) trace: Trace,
    pub(super) shakehand: Client<Shakehand>,
    pub(super) pull: Client<Pull>,
    pub(super) headers: Client<Headers>,
    pub(super) purpose: Purpose,
    pub(super) max_body: usize,
    checks: Arc<Semaphore>,
}

/// Blocks for the chain; see [`Output::Import`](super::plan::Output::Import).
#[derive(Debug)]
pub(super) struct Import {
    pub(super) id: u64,
    pub(super) peer: PeerId,
    pub(super) blocks: Vec<Block>,
    pub(super) more: bool,
}

/// An import, and how it ended.
pub(super) type Ended = (u64, Imported);

/// How a SHAKEHAND ended.
#[derive(Debug)]
pub(super) enum Greeted {
    /// The peer's greeting.
    Ours(Box<Greeting>),
    /// It is of another chain.
    Foreign,
    /// It does not speak the protocol.
    Mute,
    /// It answered nonsense.
    Wrong,
    /// No answer in time.
    Silent,
    /// The connection broke.
    Lost,
}

impl Exchange {
    pub(super) fn new(
        (chain, trace): (Chain, Trace),
        (shakehand, pull, headers): (Client<Shakehand>, Client<Pull>, Client<Headers>),
        purpose: Purpose,
        max_body: usize,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let checks = Arc::new(Semaphore::new(cores.clamp(2, CHECKS)));
        Self { chain, trace, shakehand, pull, headers, purpose, max_body, checks }
    }

    pub(super) async fn greet(self, peer: PeerId, ours: Greeting) -> Greeted {
        self.trace.sent(peer, Code::Shakehand, || greeting_json(&ours));
        match self.shakehand.request(peer, ours.to_wire()).await {
            Ok(raw) => match Greeting::read(&raw, peer) {
                Some(theirs) => {
                    self.trace.received(peer, Code::Shakehand, || greeting_json(&theirs));
                    if theirs.genesis == ours.genesis { Greeted::Ours(theirs.into()) } else { Greeted::Foreign }
                }
                None => Greeted::Wrong,
            },
            Err(RequestError::Status(Status::Refused)) => Greeted::Foreign,
            Err(RequestError::Unsupported) => Greeted::Mute,
            Err(RequestError::Malformed) => Greeted::Wrong,
            Err(RequestError::Timeout) => Greeted::Silent,
            Err(_) => Greeted::Lost,
        }
    }

    /// Pulls blocks, of `bytes` at most together or one alone. They are of the right form, and nothing else is known of them.
    pub(super) async fn pull(self, peer: PeerId, span: Span, bytes: usize) -> Result<Vec<RawBlock>, Failure> {
        self.trace.pull(true, peer, span.start, span.count);
        let raw = self.pull.request(peer, wire::pull_request(span, bytes)).await.map_err(|e| failure(&e))?;
        let push = wire::read_push_response(raw, span).ok_or(Failure::Wrong)?;
        match &push {
            Push::Blocks(blocks) => {
                self.trace.push(false, peer, || blocks.iter().map(|b| (b.header.clone(), b.body.clone())).collect());
            }
            other => self.trace.received(peer, Code::PushBlock, || other.json()),
        }
        match push {
            Push::Blocks(raw) => Ok(raw),
            Push::NotFound(height) => Err(Failure::NotFound(height)),
            Push::Pruned(earliest) => Err(Failure::Pruned(earliest)),
            Push::Busy(pause) => Err(Failure::Busy(pause)),
        }
    }

    /// Checks all of an answer that can be checked without the chain.
    pub(super) async fn check(self, raw: Vec<RawBlock>, span: Span) -> Result<Pulled, Failure> {
        let _turn = self.checks.acquire().await.map_err(|_| Failure::Lost)?;
        let checked = tokio::task::spawn_blocking(move || check::blocks(raw, span, self.max_body, &self.purpose));
        checked.await.unwrap_or(Err(Failure::Lost))
    }

    /// Headers that show where two chains part.
    pub(super) async fn headers(self, peer: PeerId, ladder: Ladder) -> Result<Vec<Header>, Failure> {
        let raw = self.headers.request(peer, wire::headers_request(ladder)).await.map_err(|e| failure(&e))?;
        check::headers(&wire::read_headers_response(raw, ladder.count).ok_or(Failure::Wrong)?)
    }

    /// Has a peer prove its branch on `fork`, and shows it to the chain; `told` are the connected peers that told
    /// their head.
    pub(super) async fn prove(
        self,
        peer: PeerId,
        span: Span,
        fork: Point,
        told: HashSet<PeerId>,
    ) -> Result<(), Failure> {
        let mut raw = Vec::new();
        while raw.len() < span.count as usize {
            let have = raw.len() as u64; // at most a few thousand
            let count = (span.count - u32::try_from(have).unwrap_or(span.count)).min(MAX_HEADERS);
            let ladder = Ladder { start: span.start + have, count, stride: 1 };
            let answer = self.headers.request(peer, wire::headers_request(ladder)).await.map_err(|e| failure(&e))?;
            let more = wire::read_headers_response(answer, count).ok_or(Failure::Wrong)?;
            let last = more.len() < count as usize;
            raw.extend(more);
            if last {
                break;
            }
        }
        let purpose = self.purpose.clone();
        let proof = tokio::task::spawn_blocking(move || check::proof(&raw, span.start, fork, &purpose));
        let proof = proof.await.unwrap_or(Err(Failure::Lost))?;
        self.chain.conflict(peer, proof, told).await.map_err(|error| {
            match error {
                ChainError::NoBranch(_) | ChainError::NoConflict(_) => {
                    tracing::debug!(%peer, %error, "headers prove no conflict");
                }
                _ => tracing::warn!(%peer, %error, "a conflict could not be reported"),
            }
            unproven(&error)
        })
    }

    /// Hands blocks to the chain and tells how it ended, both in the order in which they come, until nobody hands or listens any more. Waits
    /// while the chain has too much to do.
    pub(super) async fn imports(self, mut queue: mpsc::Receiver<Import>, ended: mpsc::Sender<Ended>) {
        let mut waiting = FuturesOrdered::new(); // as many as the planner hands over at once
        let mut warned = false;
        loop {
            tokio::select! {
                next = queue.recv() => {
                    let Some(Import { id, peer, blocks, more }) = next else { return };
                    let queued = self.chain.queue_segment(blocks, Origin::Peer(peer), more).await;
                    waiting.push_back(async move {
                        match queued {
                            Ok(queued) => (id, queued.outcome().await),
                            Err(error) => (id, Err(error)),
                        }
                    });
                }
                Some((id, outcome)) = waiting.next() => {
                    let imported = match outcome {
                        Ok(SegmentOutcome { held, new, stopped }) => {
                            warned = false;
                            Imported::Held { held, new, stopped }
                        }
                        Err(error) => {
                            if !std::mem::replace(&mut warned, true) && error != ChainError::Stopped {
                                tracing::warn!(%error, "the chain takes no blocks");
                            }
                            Imported::Refused
                        }
                    };
                    if ended.send((id, imported)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn failure(error: &RequestError) -> Failure {
    match error {
        RequestError::Timeout => Failure::Timeout,
        RequestError::Malformed => Failure::Wrong,
        RequestError::Busy | RequestError::Status(Status::Busy) => Failure::Busy(BUSY),
        _ => Failure::Lost,
    }
}

/// What a proof is that the chain does not take.
pub(super) fn unproven(error: &ChainError) -> Failure {
    match error {
        ChainError::NoBranch(_) => Failure::Wrong,
        // Either chain may have moved since the place where they part was looked for.
        _ => Failure::Lost,
    }
}

/// The three fields of the seed, and ours.
pub(super) fn greeting_json(greeting: &Greeting) -> serde_json::Value {
    json!({
        "timestamp": greeting.timestamp,
        "height": greeting.committed.height,
        "address": greeting.address.to_string(),
        "head": greeting.head.height,
        "head_hash": greeting.head.hash.to_string(),
        "genesis": greeting.genesis.to_string(),
    })
}
