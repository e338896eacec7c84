//! GET_BLOCK of others: from what is on its way here, from what just came, or from the chain. Everybody gets an answer.

use bytes::Bytes;
use serde_json::json;

use super::{Done, Service, Ticket, Wanted, now};
use crate::{
    block::{
        Header, VerifiedHeader,
        broadcast::{
            core::Asked,
            wire::{Get, block_response, piece_response, read_get_request},
        },
        chain::ChainError,
        penalty::Offence,
        trace::Code,
    },
    net::rpc::Inbound,
    primitives::{Hash, PeerId},
    wire::Status,
};

impl Service {
    pub(super) fn on_get(&mut self, asked: Inbound<Get>) {
        let peer = asked.peer;
        if self.shuns(&peer) {
            return asked.refuse(Status::Refused);
        }
        let Ok((hash, wanted)) = read_get_request(&asked.request) else {
            self.penalties.report(peer, Offence::WrongData);
            return asked.refuse(Status::Invalid);
        };
        if !self.shares.allows(peer, now()) {
            return self.busy(asked);
        }
        match wanted {
            Wanted::Block => {
                self.trace.received(peer, Code::GetBlock, || json!(hash.to_string()));
                self.give_block(asked, hash);
            }
            Wanted::Piece(index) => self.give_piece(asked, hash, index),
        }
    }

    fn busy(&self, asked: Inbound<Get>) {
        self.metrics.busy.inc();
        asked.refuse(Status::Busy);
    }

    fn give_block(&mut self, asked: Inbound<Get>, hash: Hash) {
        let Some((header, pieces, body)) = self.core.block(&hash) else { return self.read(asked, hash, Wanted::Block) };
        let height = header.height;
        match block_response(header, pieces, || body.cloned()) {
            Some((response, bytes)) => {
                let peer = asked.peer;
                self.shares.gave(peer, 1, bytes, now());
                self.served(bytes);
                self.trace.sent(peer, Code::NewBlock, || json!({ "height": height, "hash": hash.to_string() }));
                asked.respond(response);
            }
            // A body of one piece that is not here yet.
            None => self.busy(asked),
        }
    }

    fn give_piece(&mut self, asked: Inbound<Get>, hash: Hash, index: usize) {
        let ticket = self.ticket;
        match self.core.on_asked(now(), &asked.peer, &hash, index, ticket) {
            Asked::Here(piece) => self.give(asked, piece),
            Asked::Wait => {
                self.ticket += 1;
                self.tickets.insert(ticket, asked);
            }
            Asked::No => self.busy(asked),
            Asked::Nonsense => {
                self.penalties.report(asked.peer, Offence::WrongData);
                asked.refuse(Status::Invalid);
            }
            Asked::Elsewhere => self.read(asked, hash, Wanted::Piece(index)),
        }
    }

    fn give(&mut self, asked: Inbound<Get>, piece: Bytes) {
        self.shares.gave(asked.peer, 0, piece.len(), now());
        self.served(piece.len());
        asked.respond(piece_response(piece));
    }

    fn served(&self, bytes: usize) {
        self.metrics.served.inc();
        self.metrics.served_bytes.inc_by(bytes as u64); // usize fits in u64
    }

    /// The end of a wait for a piece.
    pub(super) fn answer(&mut self, ticket: Ticket, piece: Option<Bytes>) {
        let Some(asked) = self.tickets.remove(&ticket) else { return };
        match piece {
            Some(piece) => self.give(asked, piece),
            None => self.busy(asked),
        }
    }

    /// Reads a block for somebody who asks for it; whoever asks for the same meanwhile shares the read.
    fn read(&mut self, asked: Inbound<Get>, hash: Hash, wanted: Wanted) {
        if let Some(waiting) = self.reads.get_mut(&hash) {
            // All of a piece's window, for every neighbour, is what `net::rpc` lets in.
            waiting.push((asked, wanted));
            return;
        }
        let peer = asked.peer;
        if !self.shares.begin_read(peer, now()) {
            return self.busy(asked);
        }
        self.reads.insert(hash, vec![(asked, wanted)]);
        let (chain, purpose) = (self.chain.clone(), self.purpose.clone());
        self.jobs.spawn_blocking(move || {
            let block = chain.block(&hash).map(|stored| {
                // The genesis block is signed by nobody, and everybody has it.
                let stored = stored?;
                let header = VerifiedHeader::new(Header::decode(&stored.header).ok()?, &purpose).ok()?;
                Some(Box::new((header, stored.body)))
            });
            Done::Read(hash, peer, block)
        });
    }

    pub(super) fn on_read(
        &mut self,
        hash: Hash,
        reader: &PeerId,
        result: Result<Option<Box<(VerifiedHeader, Bytes)>>, ChainError>,
    ) {
        self.shares.end_read(reader);
        let waiting = self.reads.remove(&hash).unwrap_or_default();
        let status = match result {
            Ok(Some(block)) => {
                let (header, body) = *block;
                self.core.put(now(), header, body);
                if self.core.block(&hash).is_some() {
                    for (asked, wanted) in waiting {
                        match wanted {
                            Wanted::Block => self.give_block(asked, hash),
                            Wanted::Piece(index) => self.give_piece(asked, hash, index),
                        }
                    }
                    return;
                }
                // No room: too many bodies are on their way.
                Status::Busy
            }
            Ok(None) => Status::NotFound,
            Err(error) => {
                tracing::debug!(%error, "a block could not be read");
                Status::Failed
            }
        };
        for (asked, _) in waiting {
            asked.refuse(status);
        }
    }
}
