//! The other side of sync: answers PULL_BLOCK and headers from the chain, on threads of their own, with places for all.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    handle::Foreign,
    metrics::Metrics,
    serve::Places,
    wire::{self, Headers, Pull, Push, Span},
};
use crate::{
    block::{
        chain::{Chain, ChainError, Stored, Stretch},
        penalty::{Offence, Penalties},
        trace::{Code, Trace},
    },
    net::rpc::Inbound,
    primitives::PeerId,
    runtime::now,
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
        let place = match self.places.take(peer, now()) {
            Ok(place) => place,
            Err(retry) => {
                self.metrics.busy.inc();
                return asked.respond_encoded(wire::push_response(&Push::Busy(retry), span.count));
            }
        };
        let this = self.clone();
        serving.spawn(async move {
            let chain = this.chain.clone();
            let read = tokio::task::spawn_blocking(move || find(&chain, span, max_bytes));
            let Ok(Ok(found)) = read.await else { return asked.refuse(Status::Failed) };
            let pieces = match &found {
                Found::Stretches(stretches) => wire::stretch_response(stretches, span.count),
                Found::Push(push) => wire::push_response(push, span.count),
            };
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            let count = this.tell(peer, &found);
            this.metrics.served.inc_by(count as u64); // usize fits in u64
            this.metrics.served_bytes.inc_by(bytes as u64);
            place.gave(count, bytes, now());
            // Whoever has the answer may ask again at once.
            drop(place);
            asked.respond_encoded(pieces);
        });
    }

    /// Tells the trace of an answer. Returns how many blocks it has.
    fn tell(&self, peer: PeerId, found: &Found) -> usize {
        match found {
            Found::Stretches(stretches) => {
                let blocks = stretches.iter().filter_map(|s| wire::read_blocks(s.bytes.clone(), s.count));
                self.trace.push(true, peer, || blocks.flatten().map(|b| (b.header, b.body)).collect());
                stretches.iter().map(|s| s.count).sum()
            }
            Found::Push(Push::Blocks(blocks)) => {
                self.trace.push(true, peer, || blocks.iter().map(|b| (b.header.clone(), b.body.clone())).collect());
                blocks.len()
            }
            Found::Push(push) => {
                self.trace.sent(peer, Code::PushBlock, || push.json());
                0
            }
        }
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

/// What there is to answer a pull with.
enum Found {
    /// Blocks as they were put together when they came.
    Stretches(Vec<Stretch>),
    /// Anything else.
    Push(Push<Stored>),
}

fn find(chain: &Chain, span: Span, max_bytes: usize) -> Result<Found, ChainError> {
    let status = chain.status();
    if span.start > status.head.height {
        return Ok(Found::Push(Push::NotFound(status.head.height)));
    }
    if span.start > 0 && span.start < status.earliest {
        return Ok(Found::Push(Push::Pruned(status.earliest)));
    }
    let stretches = stretches(chain, span, max_bytes)?;
    if !stretches.is_empty() {
        return Ok(Found::Stretches(stretches));
    }
    let blocks = chain.range(span.start, span.count as usize, max_bytes)?; // u32 fits in usize
    Ok(Found::Push(match blocks.is_empty() {
        false => Push::Blocks(blocks),
        // The best chain became shorter meanwhile.
        true => Push::Busy(Duration::from_millis(250)),
    }))
}

/// Stretches that follow each other. What they leave to be asked for is answered from there.
fn stretches(chain: &Chain, span: Span, max_bytes: usize) -> Result<Vec<Stretch>, ChainError> {
    let (mut stretches, mut from, mut left, mut room) =
        (Vec::<Stretch>::new(), span.start, span.count as usize, max_bytes);
    while left > 0 && room > 0 {
        let Some(stretch) = chain.stretch(from, left, room)? else { break };
        // The first of a stretch may be longer than there is room for, and a reorg may come between two of them.
        if stretches.last().is_some_and(|s| s.last.hash != stretch.parent || stretch.bytes.len() > room) {
            break;
        }
        (from, left) = (stretch.last.height + 1, left - stretch.count);
        room = room.saturating_sub(stretch.bytes.len());
        stretches.push(stretch);
    }
    Ok(stretches)
}
