//! Answers recipients that miss messages of ours: what will never come, and what is sent again.
//!
//! Everything is answered from memory, or with one read of a recipient that nothing is pending for. A recipient is told of its own
//! numbers only: the connection says who asks.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::error;

use super::{
    lanes::stored,
    order::Lane,
    sender::Command,
    shared::Shared,
    wire::{self, Missing},
};
use crate::{net::rpc::Inbound, runtime::Stop, wire::Status};

/// Answers until stopped.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut inbound: mpsc::Receiver<Inbound<Missing>>,
    sender: mpsc::Sender<Command>,
    stop: Stop,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => return,
            asked = inbound.recv() => match asked {
                Some(asked) => answer(&shared, asked, &sender),
                None => return,
            },
        }
    }
}

fn answer(shared: &Shared, asked: Inbound<Missing>, sender: &mpsc::Sender<Command>) {
    let Some((stream, numbers)) = wire::read_missing(&asked.request) else { return asked.refuse(Status::Invalid) };
    let lane = Lane { peer: asked.peer, stream };
    let stored = match stored(&shared.lanes, &lane, |lane| shared.tables.our_next(lane)) {
        Ok(stored) => stored,
        Err(error) => {
            error!(%error, "cannot read our next number");
            return asked.refuse(Status::Failed);
        }
    };
    let missed = shared.lanes.missed(&lane, &numbers, stored);
    if !missed.pending.is_empty() {
        // Only a hint: when the queue is full the actor has enough to do, and the recipient asks again.
        let _ = sender.try_send(Command::Wanted(asked.peer, missed.pending));
    }
    asked.respond(wire::missed(&missed.never));
}
