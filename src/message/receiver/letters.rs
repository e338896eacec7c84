//! Letters: receipts for messages of ours that their recipients left with our friends.
//!
//! They come from friends only, are settled with the outbox before the friend is told that it need not keep them, are never shown and
//! never answered by a receipt.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::{Item, Round};
use crate::message::{
    envelope::Inner,
    mailbox, receipt,
    sender::Command,
    shared::Shared,
    wire::{BATCH_PARTS, Code},
};

/// How long the outbox may take to store what a letter ended: one commit.
const SETTLE: Duration = Duration::from_secs(10);

/// Settles all letters of a round.
pub(super) async fn settle(shared: &Arc<Shared>, sender: &mpsc::Sender<Command>, round: &mut Round) {
    for item in round.items() {
        if let Item::Letter(inner) = item {
            *item = Item::Done(take(shared, sender, inner).await, None);
        }
    }
}

async fn take(shared: &Shared, sender: &mpsc::Sender<Command>, inner: &Inner) -> Code {
    let read = mailbox::read_letter(&inner.body).filter(|(signer, _)| *signer == inner.sender);
    let verified = read.and_then(|(signer, signed)| receipt::verify(&signer, &shared.receipts, &signed, BATCH_PARTS));
    let Some(entries) = verified else {
        shared.metrics.forged_receipts.inc();
        return Code::Bad;
    };
    shared.metrics.letters_in.inc();
    let (reply, settled) = oneshot::channel();
    let ids = entries.into_iter().map(|(id, _)| id).collect();
    let settle =
        async { sender.send(Command::Receipted(inner.sender, ids, reply)).await.is_ok() && settled.await.is_ok() };
    if tokio::time::timeout(SETTLE, settle).await.unwrap_or(false) {
        return Code::Delivered;
    }
    debug!(from = %inner.sender, "cannot settle what a receipt names yet");
    Code::Busy
}
