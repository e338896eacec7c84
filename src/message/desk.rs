//! Changes to what is in the inbox, one at a time, and the regular cleaning.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::{
    MessageError, Received,
    intake::store_error,
    shared::{Shared, subtract},
    store::{Tables, inbox_cost},
};
use crate::{primitives::MessageId, runtime::Stop, store::Batch};

/// Requests waiting; callers wait beyond it.
pub(super) const QUEUE: usize = 64;
/// How often old marks and headers are looked over.
const CLEAN: Duration = Duration::from_secs(600);
/// Seen marks looked at each time: 20 ms of reading; 2.9 million a day.
const MARKS: usize = 20_000;

type Reply<T> = oneshot::Sender<Result<T, MessageError>>;

/// What the desk is asked.
#[derive(Debug)]
pub(super) enum Command {
    MarkRead(MessageId, Reply<Received>),
    Remove(MessageId, Reply<()>),
}

pub(super) async fn run(shared: Arc<Shared>, mut commands: mpsc::Receiver<Command>, stop: Stop) {
    let mut clean = tokio::time::interval(CLEAN);
    let mut cursor = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => return,
            command = commands.recv() => match command {
                // The caller may have gone away; the change stands.
                Some(Command::MarkRead(id, reply)) => drop(reply.send(mark_read(&shared, id).await)),
                Some(Command::Remove(id, reply)) => drop(reply.send(remove(&shared, id).await)),
                None => return,
            },
            _ = clean.tick() => cursor = sweep(&shared, cursor).await,
        }
    }
}

async fn mark_read(shared: &Shared, id: MessageId) -> Result<Received, MessageError> {
    let found = shared.tables.received(&id).map_err(|e| store_error(&e))?;
    let (arrival, mut message) = found.ok_or(MessageError::NotFound)?;
    if !message.received.read {
        message.received.read = true;
        let mut batch = Batch::new();
        Tables::put_received(&mut batch, arrival, &message);
        shared.tables.store.commit(batch).await.map_err(|e| store_error(&e))?;
        subtract(&shared.counts.unread, 1);
    }
    Ok(message.received)
}

async fn remove(shared: &Shared, id: MessageId) -> Result<(), MessageError> {
    let found = shared.tables.received(&id).map_err(|e| store_error(&e))?;
    let (arrival, message) = found.ok_or(MessageError::NotFound)?;
    let mut batch = Batch::new();
    Tables::remove_received(&mut batch, arrival, &message);
    shared.tables.store.commit(batch).await.map_err(|e| store_error(&e))?;
    subtract(&shared.counts.inbox, 1);
    subtract(&shared.counts.inbox_bytes, inbox_cost(&message));
    if !message.received.read {
        subtract(&shared.counts.unread, 1);
    }
    Ok(())
}

async fn sweep(shared: &Arc<Shared>, cursor: Vec<u8>) -> Vec<u8> {
    let tables = shared.tables.clone();
    let work = tokio::task::spawn_blocking(move || {
        let forgotten = tables.forget_ended()?;
        Ok::<_, crate::store::StoreError>((forgotten, tables.forget_seen(tables.age.now(), &cursor, MARKS)?))
    });
    match work.await {
        Ok(Ok((forgotten, cursor))) => {
            if forgotten > 0 {
                debug!(forgotten, "old outgoing messages forgotten");
            }
            cursor
        }
        Ok(Err(error)) => {
            warn!(%error, "cannot clean up old messages");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}
