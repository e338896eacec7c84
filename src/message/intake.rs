//! The way into the outbox: seal, commit, hand to the sender.
//!
//! Messages that wait together are sealed in one blocking job and made durable with one batch; while one batch is being
//! synced the next is sealed. A large body ([`LARGE_PARTS`] parts and more) is read, sealed and written to its file part by part, one
//! thread sealing while another writes, so that only a few parts of it are in memory; the file is synced before its header is
//! committed. What is written is offered to the sender at once: all parts but the last may go before the message is
//! durable (`outbox/early.rs`).

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    Body, MessageError, Outgoing, SendState, Step,
    envelope::{BodyId, Inner, Kind, Part, part_len, parts_of},
    lanes::{self, Number},
    order::{Lane, Rank},
    outbox::Header,
    sender::Command,
    shared::{Shared, subtract},
    store::{LARGE_PARTS, Tables},
};
use crate::{
    identity::EncryptionKey,
    primitives::{PeerId, UnixMillis},
    runtime::Stop,
    store::{Batch, StoreError},
};

/// Drafts waiting to be sealed; `send` waits beyond it. 64 of one part are 16 MiB at most.
pub(super) const QUEUE: usize = 64;
/// Drafts sealed in one job.
const BATCH: usize = 64;
/// Sealed parts of a large body that wait to be written: 1 MiB.
const PIPE: usize = 4;
/// What a part costs beside its body: padding, header, index.
const PART_COST: u64 = 1024;
/// Pending messages at most: a header in memory is about 500 bytes.
const MAX_PENDING: u64 = 200_000;

/// A place in the outbox, given back unless the message gets into it.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    cost: u64,
    kept: bool,
}

/// What a pending message costs against `message.outbox_max_bytes`.
pub(super) fn cost(bytes: u64, parts: u32) -> u64 {
    bytes + u64::from(parts) * PART_COST
}

impl Place {
    pub(super) fn take(shared: &Arc<Shared>, bytes: u64) -> Result<Self, MessageError> {
        let (cost, limit) = (cost(bytes, parts_of(bytes)), shared.config.outbox_max_bytes);
        let counts = &shared.counts;
        let taken = counts.outbox_bytes.fetch_add(cost, Ordering::Relaxed);
        let pending = counts.outbox_pending.fetch_add(1, Ordering::Relaxed);
        let place = Self { shared: shared.clone(), cost, kept: false };
        if taken.saturating_add(cost) > limit {
            return Err(MessageError::Full(format!(
                "the outbox is full: {taken} of {limit} bytes wait for their recipients (message.outbox_max_bytes)"
            )));
        }
        if pending >= MAX_PENDING {
            return Err(MessageError::Full(format!(
                "the outbox is full: {pending} messages wait for their recipients"
            )));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            subtract(&self.shared.counts.outbox_bytes, self.cost);
            subtract(&self.shared.counts.outbox_pending, 1);
        }
    }
}

/// A checked draft.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) to: PeerId,
    pub(super) key: EncryptionKey,
    pub(super) body: Body,
    pub(super) bytes: u64,
    pub(super) file_name: String,
    pub(super) expires_at: UnixMillis,
    pub(super) place: Place,
    pub(super) reply: oneshot::Sender<Result<Outgoing, MessageError>>,
}

impl Drop for Job {
    fn drop(&mut self) {
        // The spool file is ours from the start, whatever becomes of the message.
        if let Body::File(path) = &self.body
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove a spooled body");
        }
    }
}

/// Takes drafts until stopped, `width` batches at once; what is under way then is finished.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Job>,
    sender: mpsc::Sender<Command>,
    (width, batch): (usize, usize),
    stop: Stop,
) {
    let mut tasks = JoinSet::new();
    loop {
        let mut drafts = Vec::new();
        tokio::select! {
            biased;
            () = stop.wait() => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            n = jobs.recv_many(&mut drafts, batch), if tasks.len() < width => {
                if n == 0 {
                    break;
                }
                let wanted = n as u64; // usize fits in u64
                match shared.sequence.take(&shared.tables, wanted).await {
                    Ok(first) => {
                        let drafts = number_all(&shared, first, drafts);
                        tasks.spawn(accept(shared.clone(), drafts, sender.clone()));
                    }
                    Err(error) => drafts.into_iter().for_each(|job| finish(job, Err(store_error(&error)))),
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// A draft with its place in the outbox and its number for its recipient.
struct Numbered {
    job: Job,
    seq: u64,
    number: Number,
}

/// Numbers drafts in the order of acceptance; `first` is the place of the first.
fn number_all(shared: &Shared, first: u64, jobs: Vec<Job>) -> Vec<Numbered> {
    let mut numbered = Vec::with_capacity(jobs.len());
    for (job, seq) in jobs.into_iter().zip(first..) {
        let lane = Lane { peer: job.to, stream: shared.sequence.stream() };
        match lanes::stored(&shared.lanes, &lane, |lane| shared.tables.our_next(lane)) {
            Ok(stored) => {
                let number = shared.lanes.take(lane, seq, stored);
                numbered.push(Numbered { job, seq, number });
            }
            Err(error) => finish(job, Err(store_error(&error))),
        }
    }
    numbered
}

/// Drafts of one part are taken in batches, two at a time.
pub(super) const SMALL: (usize, usize) = (2, BATCH);
/// Larger ones one by one, two at a time.
pub(super) const LARGE: (usize, usize) = (2, 1);

pub(super) fn store_error(error: &StoreError) -> MessageError {
    match error {
        StoreError::Stopped => MessageError::Stopped,
        full @ StoreError::DiskFull(_) => MessageError::DiskFull(full.to_string()),
        other @ (StoreError::Failed(_) | StoreError::Damaged(_)) => MessageError::Store(other.to_string()),
    }
}

/// Tells the caller, after the spool file is gone.
fn finish(mut job: Job, result: Result<Outgoing, MessageError>) {
    let (unused, _) = oneshot::channel();
    let reply = std::mem::replace(&mut job.reply, unused);
    drop(job);
    // The caller may have gone away.
    let _ = reply.send(result);
}

/// A draft that is sealed and not yet durable.
struct Sealed {
    job: Job,
    number: Number,
    header: Header,
    /// The wire form of a single part, so that it need not be read again to be sent.
    wire: Option<Bytes>,
}

async fn accept(shared: Arc<Shared>, jobs: Vec<Numbered>, sender: mpsc::Sender<Command>) {
    let (worker, early) = (shared.clone(), sender.clone());
    let sealing = tokio::task::spawn_blocking(move || seal_all(&worker, jobs, &early));
    let Ok((batch, sealed)) = sealing.await else { return };
    if let Err(error) = commit(&shared, batch, &sealed).await {
        for Sealed { job, number, header, .. } in sealed {
            drop(number);
            if header.parts >= LARGE_PARTS {
                let mut batch = Batch::new();
                Tables::drop_staged(&mut batch, header.seq, header.parts);
                // What stays is removed at the next start.
                let _ = shared.tables.store.write_unsynced(batch);
                let _ = sender.send(Command::Abandoned(header.seq)).await;
            }
            finish(job, Err(store_error(&error)));
        }
        return;
    }
    for Sealed { mut job, mut number, header, wire } in sealed {
        job.place.kept = true;
        number.keep();
        shared.metrics.sent.inc();
        let view = header.view(0);
        // Durable now: when the sender is gone already, the next start sends it.
        let _ = sender.send(Command::Queued(Box::new(header), wire)).await;
        finish(job, Ok(view));
    }
}

/// Makes sealed drafts durable, and that their numbers are taken.
async fn commit(shared: &Shared, mut batch: Batch, sealed: &[Sealed]) -> Result<(), StoreError> {
    let turn = shared.lanes.turn().await;
    let lanes: BTreeSet<Lane> = sealed.iter().map(|sealed| sealed.header.lane()).collect();
    for lane in lanes {
        if let Some(next) = shared.lanes.next(&lane) {
            Tables::put_our_next(&mut batch, &lane, next);
        }
    }
    let committing = shared.tables.store.submit(batch).await?;
    drop(turn);
    committing.done().await
}

/// Seals drafts; the batch makes all of them durable.
fn seal_all(shared: &Shared, jobs: Vec<Numbered>, sender: &mpsc::Sender<Command>) -> (Batch, Vec<Sealed>) {
    let (mut batch, mut all) = (Batch::new(), Vec::with_capacity(jobs.len()));
    for Numbered { mut job, seq, number } in jobs {
        let parts = parts_of(job.bytes);
        let result = if parts < LARGE_PARTS {
            seal_small(shared, (seq, &number), &mut job, &mut batch)
        } else {
            let result = seal_large(shared, (seq, &number), &mut job, &mut batch, sender);
            if result.is_err() {
                let mut undo = Batch::new();
                Tables::drop_staged(&mut undo, seq, parts);
                let _ = shared.tables.store.write_unsynced(undo);
                // When the sender is gone already, nothing of it will be sent.
                let _ = sender.blocking_send(Command::Abandoned(seq));
            }
            result
        };
        match result {
            Ok((header, wire)) => {
                Tables::put_pending(&mut batch, &header);
                all.push(Sealed { job, number, header, wire });
            }
            Err(error) => {
                drop(number);
                finish(job, Err(error));
            }
        }
    }
    (batch, all)
}

type Accepted = Result<(Header, Option<Bytes>), MessageError>;

fn inner_of(shared: &Shared, header: &Header, rank: Rank, job: &Job) -> Inner {
    Inner {
        kind: Kind::Message,
        sender: shared.local,
        recipient: job.to,
        stream: header.stream,
        seq: header.seq,
        rank,
        sent_at: header.queued_at,
        expires_at: job.expires_at,
        key_id: job.key.id,
        file_name: job.file_name.clone(),
        body: Bytes::new(),
        index: 0,
        total: job.bytes,
        body_id: BodyId::draw(parts_of(job.bytes)),
    }
}

impl Header {
    /// A part was sealed.
    fn add(&mut self, index: u32, part: &Part) {
        if index == 0 {
            self.ids.push(part.id);
        }
        self.sealed_bytes += part.wire().len() as u64; // usize fits in u64
    }
}

fn header_of(shared: &Shared, (seq, number): (u64, &Number), job: &Job, now: UnixMillis) -> Header {
    Header {
        seq,
        stream: number.lane.stream,
        number: number.rank.number,
        ids: Vec::new(),
        to: job.to,
        state: SendState::Queued,
        bytes: job.bytes,
        parts: parts_of(job.bytes),
        sealed_bytes: 0,
        key_id: job.key.id,
        queued_at: now,
        expires_at: job.expires_at,
        history: vec![Step { state: SendState::Queued, at: now, by: shared.local }],
        last_error: String::new(),
        left: Vec::new(),
    }
}

/// Seals all parts into the batch.
fn seal_small(shared: &Shared, (seq, number): (u64, &Number), job: &mut Job, batch: &mut Batch) -> Accepted {
    let mut header = header_of(shared, (seq, number), job, shared.now());
    let mut inner = inner_of(shared, &header, number.rank, job);
    let mut source = Source::open(&mut job.body)?;
    let (mut wire, mut sealed) = (None, Vec::new());
    for index in 0..header.parts {
        (inner.index, inner.body) = (index, source.part(job.bytes, index)?);
        let part = seal(shared, job, &inner)?;
        header.add(index, &part);
        wire = (header.parts == 1).then(|| part.wire());
        sealed.push(part);
    }
    // All or none: the batch holds other drafts too.
    for (index, part) in (0..).zip(sealed) {
        Tables::put_out_part(batch, seq, index, part.stored());
    }
    Ok((header, wire))
}

/// A sealed part on its way to the store; the first one with the header, for the sender.
type Written = (u32, Part, Option<Box<Header>>);

/// Seals and writes part by part; the sync at the end makes them durable before the header that `batch` holds.
fn seal_large(
    shared: &Shared,
    (seq, number): (u64, &Number),
    job: &mut Job,
    batch: &mut Batch,
    sender: &mpsc::Sender<Command>,
) -> Accepted {
    let tables = &shared.tables;
    let mut header = header_of(shared, (seq, number), job, shared.now());
    let mut inner = inner_of(shared, &header, number.rank, job);
    let last = header.parts - 1;
    // Asked before the recipient gets parts of what then finds no room.
    tables.store.check_room(job.bytes).map_err(|e| store_error(&e))?;
    let mut source = Source::open(&mut job.body)?;
    let mut staging = Batch::new();
    Tables::put_staging(&mut staging, seq, header.parts);
    // Logged before the parts, so that what a crash leaves of them is found and removed.
    tables.store.write_unsynced(staging).map_err(|e| store_error(&e))?;
    let (ready, sealed) = std::sync::mpsc::sync_channel::<Written>(PIPE);
    let write = move || -> Result<(), StoreError> {
        let mut body = tables.write_out(seq)?;
        for (index, part, header) in sealed {
            body.put(index, part.stored())?;
            if index < last {
                // An actor that has much to do sends it later.
                let _ = sender.try_send(Command::Sealed(header, (seq, index), part.wire()));
            }
        }
        tables.sync_out(seq)
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(write);
        let mut seal_all = || -> Result<(), MessageError> {
            for index in 0..=last {
                (inner.index, inner.body) = (index, source.part(job.bytes, index)?);
                let part = seal(shared, job, &inner)?;
                header.add(index, &part);
                let first = (index == 0).then(|| Box::new(header.clone()));
                if ready.send((index, part, first)).is_err() {
                    break; // the store failed: the writer says how
                }
            }
            Ok(())
        };
        let sealing = seal_all();
        drop(ready);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sealing.and(written.map_err(|e| store_error(&e)))
    })?;
    Tables::end_staging(batch, seq);
    Ok((header, None))
}

fn seal(shared: &Shared, job: &Job, inner: &Inner) -> Result<Part, MessageError> {
    let invalid = |e: crate::identity::SealError| MessageError::Invalid(e.to_string());
    let session = shared.sessions.get(shared.envelopes.context(), job.to, job.key).map_err(invalid)?;
    let mut session = session.lock().expect("no panic while held");
    shared.envelopes.seal(&mut session, inner).map_err(invalid)
}

fn unreadable(error: &std::io::Error) -> MessageError {
    MessageError::Invalid(format!("the body cannot be read: {error}"))
}

/// What was read is not what was promised.
fn changed(expected: u64) -> MessageError {
    MessageError::Invalid(format!("the body does not have {expected} bytes: it changed while it was read"))
}

/// A body, read once, part by part.
enum Source {
    Bytes(Bytes),
    File(File),
}

impl Source {
    fn open(body: &mut Body) -> Result<Self, MessageError> {
        Ok(match body {
            Body::Bytes(bytes) => Self::Bytes(std::mem::take(bytes).into()),
            Body::File(path) => Self::File(File::open(path).map_err(|e| unreadable(&e))?),
        })
    }

    /// Part `index` of a body of `total` bytes; the parts are asked for in order. Nothing comes after the last one.
    fn part(&mut self, total: u64, index: u32) -> Result<Bytes, MessageError> {
        let length = part_len(total, index).ok_or_else(|| changed(total))?;
        let part = self.read(length)?;
        let is_last = index + 1 == parts_of(total);
        if part.len() != length || (is_last && !self.read(1)?.is_empty()) {
            return Err(changed(total));
        }
        Ok(part)
    }

    /// The next `most` bytes; fewer at the end.
    fn read(&mut self, most: usize) -> Result<Bytes, MessageError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.split_to(most.min(bytes.len()))),
            Self::File(file) => {
                let mut part = Vec::with_capacity(most);
                let limit = most as u64; // usize fits in u64
                file.take(limit).read_to_end(&mut part).map_err(|e| unreadable(&e))?;
                Ok(part.into())
            }
        }
    }
}
