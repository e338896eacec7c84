//! The other side of sync: answers PULL_BLOCK and headers from the chain, on threads of their own, with places for all.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    handle::Foreign,
    metrics::Metrics,
    serve::Places,
    wire::{self, Headers, Pull, Push, Span},
};
use crate::{
    block::{
        chain::{Chain, ChainError, Stored},
        penalty::{Offence, Penalties},
        trace::{Code, Trace},
    },
    net::rpc::Inbound,
    primitives::PeerId,
    wire::Status,
};

/// What answering needs.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) chain: Chain,
    pub(super) trace: Trace,
    pub(super) penalties: Penalties,
    pub(super) foreign: Foreign,
    pub(super) places: Places,
    pub(super) metrics: Metrics,
}

impl Answers {
    /// Answers PULL_BLOCK until the queue closes.
    pub(super) async fn pulls(self, mut queue: mpsc::Receiver<Inbound<Pull>>) {
        let mut serving = JoinSet::new(); // as many as there are places
        loop {
            tokio::select! {
                asked = queue.recv() => match asked {
                    Some(asked) => self.on_pull(asked, &mut serving),
                    None => return,
                },
                Some(_) = serving.join_next(), if !serving.is_empty() => {}
            }
        }
    }

    /// Whether a peer gets nothing: it was banned, or is of another chain.
    fn is_refused(&self, peer: &PeerId) -> bool {
        self.penalties.is_banned(peer) || self.foreign.contains(peer)
    }

    fn on_pull(&self, asked: Inbound<Pull>, serving: &mut JoinSet<()>) {
        let peer = asked.peer;
        if self.is_refused(&peer) {
            return asked.refuse(Status::Refused);
        }
        let Some((span, max_bytes)) = wire::read_pull_request(&asked.request) else {
            self.penalties.report(peer, Offence::WrongData);
            return asked.refuse(Status::Invalid);
        };
        self.trace.pull(false, peer, span.start, span.count);
        let place = match self.places.take(peer, Instant::now()) {
            Ok(place) => place,
            Err(retry) => {
                self.metrics.busy.inc();
                return asked.respond_encoded(wire::push_response(&Push::Busy(retry), span.count));
            }
        };
        let this = self.clone();
        serving.spawn(async move {
            let chain = this.chain.clone();
            let read = tokio::task::spawn_blocking(move || {
                let push = blocks(&chain, span, max_bytes)?;
                Ok::<_, ChainError>((wire::push_response(&push, span.count), push))
            });
            let Ok(Ok((pieces, push))) = read.await else { return asked.refuse(Status::Failed) };
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            let count = this.tell(peer, &push);
            this.metrics.served.inc_by(count as u64); // usize fits in u64
            this.metrics.served_bytes.inc_by(bytes as u64);
            place.gave(count, bytes, Instant::now());
            // Whoever has the answer may ask again at once.
            drop(place);
            asked.respond_encoded(pieces);
        });
    }

    /// Tells the trace of an answer. Returns how many blocks it has.
    fn tell(&self, peer: PeerId, push: &Push<Stored>) -> usize {
        let Push::Blocks(blocks) = push else {
            self.trace.sent(peer, Code::PushBlock, || json!({ "answer": format!("{push:?}") }));
            return 0;
        };
        self.trace.push(true, peer, blocks.iter().map(|b| (&b.header, &b.body)));
        blocks.len()
    }

    /// Answers questions for headers until the queue closes.
    pub(super) async fn headers(self, mut queue: mpsc::Receiver<Inbound<Headers>>) {
        while let Some(asked) = queue.recv().await {
            let peer = asked.peer;
            if self.is_refused(&peer) {
                asked.refuse(Status::Refused);
                continue;
            }
            let Some(ladder) = wire::read_headers_request(&asked.request) else {
                self.penalties.report(peer, Offence::WrongData);
                asked.refuse(Status::Invalid);
                continue;
            };
            let chain = self.chain.clone();
            // One after the other: they are small, rare, and limited by rate before they are read.
            let read = tokio::task::spawn_blocking(move || {
                chain.headers(ladder.start, ladder.count as usize, ladder.stride) // u32 fits in usize
            });
            match read.await {
                Ok(Ok(headers)) => asked.respond(wire::headers_response(&headers)),
                _ => asked.refuse(Status::Failed),
            }
        }
    }
}

fn blocks(chain: &Chain, span: Span, max_bytes: usize) -> Result<Push<Stored>, ChainError> {
    let status = chain.status();
    if span.start > status.head.height {
        return Ok(Push::NotFound(status.head.height));
    }
    if span.start > 0 && span.start < status.earliest {
        return Ok(Push::Pruned(status.earliest));
    }
    let blocks = chain.range(span.start, span.count as usize, max_bytes)?; // u32 fits in usize
    Ok(match blocks.is_empty() {
        false => Push::Blocks(blocks),
        // The best chain became shorter meanwhile.
        true => Push::Busy(Duration::from_millis(250)),
    })
}
