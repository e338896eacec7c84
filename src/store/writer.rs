//! The group-commit writer: one thread that turns whatever is waiting into one synced write.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use rocksdb::WriteOptions;
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Bodies, Db, Shelf, Space, StoreError};

/// Batches waiting for the writer; callers wait for a place beyond it. 1024 batches of 64 KiB are 64 MiB at worst.
const QUEUE: usize = 1024;
/// Batches merged into one write.
const MERGE_BATCHES: usize = 512;
/// Files to be removed that wait; the writer waits beyond it.
const REMOVALS: usize = 1024;
/// Bytes merged into one write: keeps one write's memory and latency bounded.
const MERGE_BYTES: usize = 4 * 1024 * 1024;

struct Job {
    batch: Batch,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A batch on its way to the disk.
#[derive(Debug)]
#[must_use = "the batch is durable when this has said so"]
pub struct Committing(oneshot::Receiver<Result<(), StoreError>>);

impl Committing {
    /// Waits until the batch is durable.
    ///
    /// # Errors
    /// [`StoreError`] when the disk is full or fails: then nothing of the batch was written.
    pub async fn done(self) -> Result<(), StoreError> {
        self.0.await.map_err(|_| StoreError::Stopped)?
    }
}

/// Counts of the writer since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Batches made durable.
    pub commits: u64,
    /// Synced writes that took.
    pub syncs: u64,
    /// Bytes of keys and values written.
    pub bytes: u64,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

/// Files of bodies whose rows are gone, but maybe not on the disk yet.
type Gone = Arc<Mutex<Vec<(Shelf, u64)>>>;

pub(super) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    gone: Gone,
    thread: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
}

impl Writer {
    pub(super) fn start(db: Arc<Db>, space: Arc<Space>, bodies: Arc<Bodies>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let gone = Gone::default();
        let (shared, unsynced) = (counters.clone(), gone.clone());
        let run = move || run(&db, &space, Remover::new(bodies), queue, &shared, &unsynced);
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(run)?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), gone, thread: Mutex::new(Some(thread)), counters })
    }

    /// Waits for a place in the queue.
    pub(super) async fn submit(&self, batch: Batch) -> Result<Committing, StoreError> {
        let (done, answer) = oneshot::channel();
        if batch.is_empty() {
            // The receiver is right here.
            let _ = done.send(Ok(()));
            return Ok(Committing(answer));
        }
        let jobs = self.jobs.lock().expect("no panic while held").clone().ok_or(StoreError::Stopped)?;
        jobs.send(Job { batch, done }).await.map_err(|_| StoreError::Stopped)?;
        Ok(Committing(answer))
    }

    /// Removes the files of bodies whose rows were removed without a sync, after the next sync.
    pub(super) fn remove_after_sync(&self, bodies: Vec<(Shelf, u64)>) {
        if bodies.is_empty() {
            return;
        }
        self.gone.lock().expect("no panic while held").extend(bodies);
        // A sync with nothing to write, so that it is soon. When the queue is full one is near; when the store is closing, the
        // next start finds the files.
        if let Some(jobs) = &*self.jobs.lock().expect("no panic while held") {
            let _ = jobs.try_send(Job { batch: Batch::new(), done: oneshot::channel().0 });
        }
    }

    pub(super) fn stats(&self) -> WriterStats {
        WriterStats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
        }
    }

    /// Takes no more jobs, finishes those waiting, joins the thread.
    pub(super) fn stop(&self) {
        drop(self.jobs.lock().expect("no panic while held").take());
        let thread = self.thread.lock().expect("no panic while held").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// On a disk that is nearly full: removals, and what leaves the reserve. The others are refused. What they come to is returned too.
fn those_that_fit(space: &Space, jobs: Vec<Job>) -> (Vec<Job>, usize) {
    let (mut fitting, mut bytes) = (Vec::new(), 0);
    for job in jobs {
        let fits = if job.batch.only_removes() { Ok(()) } else { space.check(bytes + job.batch.bytes()) };
        match fits {
            Ok(()) => {
                bytes += job.batch.bytes();
                fitting.push(job);
            }
            // A caller that went away needs no answer.
            Err(full) => drop(job.done.send(Err(full))),
        }
    }
    (fitting, bytes)
}

/// Removes files on a thread of its own, which begins with the first: that takes milliseconds for a large one, and commits wait for the
/// writer. Dropped, it waits until all are removed.
struct Remover {
    bodies: Arc<Bodies>,
    files: Option<SyncSender<(Shelf, u64)>>,
    thread: Option<JoinHandle<()>>,
}

impl Remover {
    fn new(bodies: Arc<Bodies>) -> Self {
        Self { bodies, files: None, thread: None }
    }

    fn remove(&mut self, gone: Vec<(Shelf, u64)>) {
        if !gone.is_empty() && self.thread.is_none() {
            let (files, queue) = sync_channel(REMOVALS);
            let bodies = self.bodies.clone();
            let run = move || queue.into_iter().for_each(|(shelf, number)| bodies.remove(shelf, number));
            // Without a thread the next start removes them.
            let thread = std::thread::Builder::new().name("store-remover".into()).spawn(run);
            (self.files, self.thread) = (thread.is_ok().then_some(files), thread.ok());
        }
        if let Some(files) = &self.files {
            // The thread ends only after this.
            gone.into_iter().for_each(|file| files.send(file).unwrap_or_default());
        }
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.files = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("removing bodies panicked");
        }
    }
}

fn run(
    db: &Db,
    space: &Space,
    mut remover: Remover,
    mut queue: mpsc::Receiver<Job>,
    counters: &Counters,
    unsynced: &Gone,
) {
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    while let Some(first) = queue.blocking_recv() {
        let mut bytes = first.batch.bytes();
        let mut jobs = vec![first];
        // No waiting for more: while one sync runs, the next batch gathers by itself.
        while jobs.len() < MERGE_BATCHES && bytes < MERGE_BYTES {
            let Ok(job) = queue.try_recv() else { break };
            bytes += job.batch.bytes();
            jobs.push(job);
        }
        if space.check(bytes).is_err() {
            (jobs, bytes) = those_that_fit(space, jobs);
            if jobs.is_empty() {
                continue;
            }
        }
        // What only asks for a sync is no commit.
        let commits = jobs.iter().filter(|j| !j.batch.is_empty()).count();
        let mut gone: Vec<_> = jobs.iter_mut().flat_map(|j| std::mem::take(&mut j.batch.bodies)).collect();
        // Taken before the write: their rows were removed before, and this sync covers that.
        gone.append(&mut unsynced.lock().expect("no panic while held"));
        let (batches, waiting): (Vec<_>, Vec<_>) = jobs.into_iter().map(|j| (j.batch, j.done)).unzip();
        let batch = super::to_rocks(db, batches);
        let result = if batch.is_empty() { db.flush_wal(true) } else { db.write_opt(batch, &synced) };
        let result = result.map_err(StoreError::from);
        if result.is_ok() {
            counters.commits.fetch_add(commits as u64, Ordering::Relaxed); // usize fits in u64
            counters.syncs.fetch_add(1, Ordering::Relaxed);
            counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        for done in waiting {
            // A caller that went away does not undo the write.
            let _ = done.send(result.clone());
        }
        if result.is_ok() {
            remover.remove(gone);
        }
    }
}
