//! Asking others, and bringing what is whole to the chain.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::{AskId, Candidate, Content, Done, Failure, ImportError, NewBlock, Service, Wanted, now};
use crate::{
    block::{
        Block, Origin, Point, VerifiedHeader,
        broadcast::wire::{Get, Malformed, get_request, read_block, read_piece},
        chain::{ChainError, Outcome},
        trace::Code,
    },
    identity::Purpose,
    net::rpc::{RequestError, Wire},
    primitives::{Hash, PeerId},
    wire::Status,
};

/// Between tries to import while the chain is busy; so often, then sync hears of it, and others may bring the block again.
const BUSY: Duration = Duration::from_millis(100);
const BUSY_TRIES: usize = 20;

/// Bytes of a body that are checked where we are: some 100 us, which is about what another thread costs on a busy machine.
const AT_ONCE: usize = 128 * 1024;

impl Service {
    pub(super) fn ask(&mut self, id: AskId, peer: PeerId, hash: Hash, wanted: Wanted) {
        self.metrics.asked.inc();
        let (get, purpose, max) = (self.get.clone(), self.purpose.clone(), self.settings.max_body_bytes);
        let request = get_request(hash, wanted);
        let shunned = self.shuns(&peer);
        let job = match wanted {
            // Neighbours of another chain, or banned ones, have nothing for us.
            Wanted::Block if shunned => self.jobs.spawn(async move { Done::Block(id, peer, Err(Failure::NotFound)) }),
            Wanted::Piece(index) if shunned => {
                self.jobs.spawn(async move { Done::Piece(id, peer, hash, index, Err(Failure::NotFound)) })
            }
            Wanted::Block => {
                self.trace.sent(peer, Code::GetBlock, || json!(hash.to_string()));
                self.jobs.spawn(async move {
                    let result = match get.request(peer, request).await {
                        Ok(response) => read(&response, &hash, max, &purpose).map_err(|_| Failure::Garbage),
                        Err(error) => Err(failure(&error)),
                    };
                    Done::Block(id, peer, result)
                })
            }
            Wanted::Piece(index) => self.jobs.spawn(async move {
                let result = match get.request(peer, request).await {
                    Ok(response) => read_piece(response).map_err(|_| Failure::Garbage),
                    Err(error) => Err(failure(&error)),
                };
                Done::Piece(id, peer, hash, index, result)
            }),
        };
        self.asks.insert(id, job);
    }

    pub(super) fn on_block(
        &mut self,
        id: AskId,
        peer: PeerId,
        result: Result<Box<(VerifiedHeader, Content)>, Failure>,
    ) {
        // Cancelled while its result was on the way here.
        if self.asks.remove(&id).is_none() {
            return;
        }
        match result {
            Ok(block) => {
                let (header, content) = *block;
                let hash = header.hash();
                self.trace.received(
                    peer,
                    Code::NewBlock,
                    || json!({ "height": header.header().height, "hash": hash.to_string() }),
                );
                if let Content::Body(body) = &content {
                    self.metrics.received_bytes.inc_by(body.len() as u64); // usize fits in u64
                }
                if let Some((_, from)) = self.core.on_answer(now(), id) {
                    self.core.learn(&from, hash);
                    self.consider(Candidate { from, gossip: None, header, content });
                }
            }
            Err(failure) => {
                self.metrics.asks_failed.inc();
                self.core.on_failure(now(), id, failure);
            }
        }
    }

    pub(super) fn on_piece(
        &mut self,
        id: AskId,
        peer: PeerId,
        hash: &Hash,
        index: usize,
        result: Result<Bytes, Failure>,
    ) {
        let waited = self.asks.remove(&id).is_some();
        match result {
            Ok(bytes) => {
                self.metrics.received_bytes.inc_by(bytes.len() as u64); // usize fits in u64
                if waited {
                    self.core.on_piece(now(), id, peer, hash, index, bytes);
                }
            }
            Err(failure) if waited => {
                self.metrics.asks_failed.inc();
                self.core.on_failure(now(), id, failure);
            }
            Err(_) => {}
        }
    }

    /// Brings a whole block to the chain.
    pub(super) fn import(&mut self, header: VerifiedHeader, body: Bytes, from: PeerId) {
        let (chain, max) = (self.chain.clone(), self.settings.max_body_bytes);
        let point = Point { height: header.header().height, hash: header.hash() };
        self.jobs.spawn(async move {
            let block = match body.len() <= AT_ONCE {
                true => Ok(Block::complete(header, body, max)),
                false => tokio::task::spawn_blocking(move || Block::complete(header, body, max)).await,
            };
            let Ok(Ok(block)) = block else { return Done::Imported(point, from, Err(ImportError::Body)) };
            for _ in 0..BUSY_TRIES {
                match chain.import(block.clone(), Origin::Peer(from)).await {
                    Err(ChainError::Busy) => tokio::time::sleep(BUSY).await,
                    result => return Done::Imported(point, from, result.map_err(ImportError::Chain)),
                }
            }
            Done::Imported(point, from, Err(ImportError::Chain(ChainError::Busy)))
        });
    }

    pub(super) fn on_imported(&mut self, point: Point, from: PeerId, result: Result<Outcome, ImportError>) {
        let hash = point.hash;
        self.core.on_import_over(&hash);
        match result {
            // Announced when the chain tells of it: so is what comes by other ways.
            Ok(Outcome::Imported { .. }) => {
                self.metrics.imported.inc();
                self.core.on_imported(&hash);
            }
            Ok(Outcome::Known | Outcome::Early(_)) => self.core.on_imported(&hash),
            Ok(Outcome::Orphan { missing }) => {
                self.core.on_imported(&hash);
                if !self.is_syncing() {
                    self.core.want(now(), from, missing);
                }
            }
            // A whole body stays: when somebody speaks of it again, it need not come again.
            Ok(Outcome::OutOfWindow | Outcome::Ignored(_)) => self.core.abandon(&hash),
            // Nobody who passed on the header could know: its bytes are what the producer signed. So nobody is blamed, but it is never
            // fetched again.
            Ok(Outcome::Invalid(why)) => {
                tracing::debug!(%hash, %why, "an invalid block");
                self.metrics.invalid.inc();
                self.core.condemn(&hash);
            }
            Err(ImportError::Body) => {
                tracing::debug!(%hash, "a header that commits to what is no body");
                self.metrics.invalid.inc();
                self.core.condemn(&hash);
            }
            Err(ImportError::Chain(error)) => {
                tracing::debug!(%hash, %error, "a block was not imported");
                self.core.on_not_imported(&hash);
                // Nobody may speak of it again; sync does what is left when the chain takes blocks again.
                self.sync.claim(from, point);
            }
        }
        self.reconsider(&hash);
    }
}

/// A block that was asked for, with a good signature.
fn read(
    response: &<Get as Wire>::Response,
    hash: &Hash,
    max: usize,
    purpose: &Purpose,
) -> Result<Box<(VerifiedHeader, Content)>, Malformed> {
    let NewBlock { header, content } = read_block(response, hash, max)?;
    let header = VerifiedHeader::new(header, purpose).map_err(|_| Malformed)?;
    Ok(Box::new((header, content)))
}

fn failure(error: &RequestError) -> Failure {
    match error {
        RequestError::Status(Status::Busy) | RequestError::Busy => Failure::Busy,
        RequestError::Status(_) | RequestError::Unsupported => Failure::NotFound,
        RequestError::Malformed | RequestError::TooLarge { .. } => Failure::Garbage,
        RequestError::Unreachable(_) | RequestError::Timeout | RequestError::ConnectionLost | RequestError::Stopped => {
            Failure::NoAnswer
        }
    }
}
