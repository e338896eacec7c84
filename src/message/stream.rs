//! Our stream: what numbers our messages, so that a recipient knows each of them however often it comes.
//!
//! A number is never used twice in a stream, also across restarts: they are reserved durably in blocks. What a restart
//! cannot see is a store that went back in time: a restored backup hands out numbers again that recipients have seen,
//! and they would take new messages for old ones. So a new stream begins when
//! * VOS Map met a record signed with our key that this store did not make: it (or a copy of it) ran ahead somewhere;
//! * the stream or its numbers cannot be read.
//!
//! Messages queued before keep the stream they were sealed with. Numbers go on in the new stream, since a message's number
//! is also its place in the outbox.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    shared::Shared,
    store::{ELSEWHERE, SEQ, STREAM, Tables},
};
use crate::{
    primitives::StreamId,
    runtime::Stop,
    store::{Batch, Family, StoreError},
};

/// Numbers reserved with one write.
const BLOCK: u64 = 4096;
/// When a new stream could not be stored.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Hands out stream and numbers.
#[derive(Debug)]
pub(super) struct Sequence {
    stream: Mutex<StreamId>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// End of what is reserved durably.
    end: u64,
    /// Record of ours signed elsewhere that the stream is newer than; zero: none was met.
    elsewhere: u64,
    /// The stream is to be stored with the next reservation.
    new: bool,
}

fn number(tables: &Tables, key: &[u8]) -> Result<Option<u64>, StoreError> {
    Ok(tables.store.get(Family::Meta, key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
}

impl Sequence {
    /// Goes on after what an earlier run reserved, in a new stream when that is necessary. `elsewhere`: the highest number
    /// of a record of ours that was signed elsewhere.
    pub(super) fn load(tables: &Tables, elsewhere: u64) -> Result<Self, StoreError> {
        let stream = tables.store.get(Family::Meta, STREAM)?.and_then(|bytes| StreamId::from_slice(&bytes));
        let reserved = number(tables, SEQ)?.filter(|end| *end > 0);
        let known = number(tables, ELSEWHERE)?.unwrap_or(0);
        // Numbers are places in the outbox, too: whatever was read, none that is taken comes again.
        let end = reserved.unwrap_or(1).max(tables.highest_seq()?.saturating_add(1));
        let usable = stream.filter(|_| reserved.is_some() && known == elsewhere);
        if usable.is_none() && (stream.is_some() || reserved.is_some()) {
            warn!("the message stream is damaged or was used elsewhere; starting a new one");
        }
        let state = State { next: end, end, elsewhere, new: usable.is_none() };
        let stream = usable.unwrap_or_else(|| StreamId(rand::random()));
        Ok(Self { stream: Mutex::new(stream), state: tokio::sync::Mutex::new(state) })
    }

    /// The stream to seal with. Numbers taken earlier are good in a later stream, too.
    pub(super) fn stream(&self) -> StreamId {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of `n` numbers.
    pub(super) async fn take(&self, tables: &Tables, n: u64) -> Result<u64, StoreError> {
        let mut state = self.state.lock().await;
        let next = state.next;
        if state.new || next + n > state.end {
            let end = (next + n.max(BLOCK)).max(state.end);
            self.store(tables, self.stream(), state.elsewhere, end).await?;
            state.end = end;
            state.new = false;
        }
        state.next = next + n;
        Ok(next)
    }

    /// Begins a new stream, unless the present one began after that record was met. It is durable before it is used.
    pub(super) async fn renew(&self, tables: &Tables, elsewhere: u64) -> Result<bool, StoreError> {
        let mut state = self.state.lock().await;
        if state.elsewhere == elsewhere {
            return Ok(false);
        }
        let stream = StreamId(rand::random());
        self.store(tables, stream, elsewhere, state.end).await?;
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
        state.elsewhere = elsewhere;
        state.new = false;
        Ok(true)
    }

    async fn store(&self, tables: &Tables, stream: StreamId, elsewhere: u64, end: u64) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.put(Family::Meta, STREAM, stream.0).put(Family::Meta, SEQ, end.to_be_bytes());
        batch.put(Family::Meta, ELSEWHERE, elsewhere.to_be_bytes());
        tables.store.commit(batch).await
    }
}

/// Begins a new stream whenever a record of ours turns up that was signed elsewhere.
pub(super) async fn run(shared: &Shared, mut elsewhere: watch::Receiver<u64>, stop: Stop) {
    loop {
        let met = *elsewhere.borrow_and_update();
        let wait = match shared.sequence.renew(&shared.tables, met).await {
            Ok(renewed) => {
                if renewed {
                    info!("our key was used elsewhere: new messages go out in a new stream");
                }
                None
            }
            Err(error) => {
                warn!(%error, "cannot store a new message stream, trying again soon");
                Some(AGAIN)
            }
        };
        tokio::select! {
            biased;
            () = stop.wait() => return,
            changed = elsewhere.changed(), if wait.is_none() => if changed.is_err() {
                return stop.wait().await;
            },
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}
