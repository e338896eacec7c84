//! The thread that owns the chain. It takes what is waiting, applies it, writes it in one batch, shows it, and then answers: so
//! many waiting blocks share one write and one sync. When whoever catches up says that more follows, it waits a moment for that, and
//! has the store begin with what is here meanwhile: the disk works while blocks still come in, and little is left to do when the last one
//! is here.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
};

use super::{
    core::{Core, Rules},
    handle::{Chain, ChainError, Event, Outcome, SegmentOutcome},
    metrics::Metrics,
    start::OpenError,
    store::ChainStore,
    view::Shared,
};
use crate::{
    block::{Block, Origin, VerifiedHeader},
    primitives::{Clock, PeerId, UnixMillis},
    runtime::Stop,
};

/// Commands waiting for the owner. What they hold is bounded by bytes as well ([`super::handle::QUEUED_KIB`]).
const QUEUE: usize = 64;
/// Blocks written in one batch; what comes last may bring more.
pub(in crate::block) const MERGE_BLOCKS: usize = 2048;
/// Bytes of bodies written in one batch; what comes last may bring more. Larger ones share more, and still take less than a quarter
/// second.
pub(in crate::block) const MERGE_BYTES: usize = 16 * 1024 * 1024;
/// How long blocks wait for those that follow them, each time: some answers of a fast neighbour, and nothing that anybody notices.
const LINGER: Duration = Duration::from_millis(20);
/// How often waiting blocks are looked through.
const TICK: Duration = Duration::from_millis(250);
/// Between two tries to read a store that failed.
const RETRY_MS: u64 = 2000;
/// More reorgs than this within [`REORG_WINDOW_MS`] are worth a warning: two parts of the network push each other around.
const REORGS: usize = 6;
const REORG_WINDOW_MS: u64 = 60_000;

/// What the owner is asked.
#[derive(Debug)]
pub(super) enum Command {
    Import(Box<Block>, Origin, Answer<Outcome>, OwnedSemaphorePermit),
    Segment {
        blocks: Vec<Block>,
        origin: Origin,
        /// Others follow soon.
        more: bool,
        answer: Answer<SegmentOutcome>,
        room: OwnedSemaphorePermit,
    },
    Conflict {
        peer: PeerId,
        headers: Vec<VerifiedHeader>,
        told: HashSet<PeerId>,
        answer: Answer<()>,
    },
    Tick,
    Stop,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, ChainError>>;

impl Command {
    fn blocks(&self) -> &[Block] {
        match self {
            Self::Import(block, ..) => std::slice::from_ref(&**block),
            Self::Segment { blocks, .. } => blocks,
            _ => &[],
        }
    }
}

/// What waits for the write.
enum Pending {
    Import(Outcome, Answer<Outcome>),
    Segment(SegmentOutcome, Answer<SegmentOutcome>),
}

/// What the chain works with.
#[derive(Debug)]
pub struct Deps {
    /// Where blocks are kept.
    pub store: Arc<dyn ChainStore>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Metrics,
}

/// The chain's owner. Nothing is imported before it runs; reads work at once.
#[derive(Debug)]
pub struct Service {
    core: Core,
    queue: mpsc::Receiver<Command>,
    /// Taken by [`Service::run`]: the thread itself must not keep its queue open.
    ticks: Option<mpsc::Sender<Command>>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    reorgs: VecDeque<UnixMillis>,
    retry: UnixMillis,
}

/// The chain's thread ended by itself: the store takes no write any more before it is opened anew, or there is a bug. The log says which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the chain ended by itself: the log says why; start the node again")]
pub struct Ended;

/// Reads the chain and makes its owner and its door. Blocks.
///
/// # Errors
/// [`OpenError`] when the store is of another chain, damaged, or fails.
pub fn open(rules: Rules, deps: Deps) -> Result<(Service, Chain), OpenError> {
    let validator = rules.validator.clone();
    let core = Core::open(rules, deps.store.clone(), deps.clock.now())?;
    let shared = Arc::new(Shared::new(&core, deps.store, validator));
    let (commands, queue) = mpsc::channel(QUEUE);
    let chain = Chain::new(shared.clone(), commands.clone(), deps.clock.clone());
    let service = Service {
        core,
        queue,
        ticks: Some(commands),
        shared,
        clock: deps.clock,
        metrics: deps.metrics,
        reorgs: VecDeque::new(),
        retry: UnixMillis(0),
    };
    service.show();
    Ok((service, chain))
}

impl Service {
    /// Runs until stopped. What was answered is in the store then.
    ///
    /// # Errors
    /// [`Ended`] when the thread panics or cannot be started, or the store takes no write any more.
    pub async fn run(mut self, stop: Stop) -> Result<(), Ended> {
        let commands = self.ticks.take().ok_or(Ended)?;
        let (done, mut ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("chain".into());
        let body = move || {
            self.own();
            // A task that is gone needs no answer.
            let _ = done.send(());
        };
        thread.spawn(body).map_err(|_| Ended)?;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                _ = &mut ended => return Err(Ended),
                // A full queue has enough to do.
                _ = ticks.tick() => drop(commands.try_send(Command::Tick)),
            }
        }
        if commands.send(Command::Stop).await.is_err() {
            return Err(Ended);
        }
        ended.await.map_err(|_| Ended)
    }

    fn own(mut self) {
        // Without it nothing waits for what follows.
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
        while let Some(first) = self.queue.blocking_recv() {
            if !self.take(first, timer.as_ref()) {
                return;
            }
        }
    }

    /// Handles a command and those behind it that may share its write. `false` when asked to stop: what is behind that stays in the queue,
    /// and whoever sent it is told that the chain stopped.
    fn take(&mut self, first: Command, timer: Option<&Runtime>) -> bool {
        let (mut pending, mut blocks, mut bytes) = (Vec::new(), 0, 0);
        let mut next = Some(first);
        while let Some(command) = next {
            blocks += command.blocks().len();
            bytes += command.blocks().iter().map(|b| b.body().bytes().len()).sum::<usize>();
            let more = matches!(command, Command::Segment { more: true, .. });
            if !self.handle(command, &mut pending) {
                self.finish(pending, self.clock.now());
                return false;
            }
            // Who has a new block is not kept waiting.
            let more = more && !pending.iter().any(|p| matches!(p, Pending::Import(..)));
            next = match blocks < MERGE_BLOCKS && bytes < MERGE_BYTES {
                true => self.queue.try_recv().ok().or_else(|| timer.filter(|_| more).and_then(|t| self.linger(t))),
                false => None,
            };
        }
        self.finish(pending, self.clock.now());
        true
    }

    /// What comes within [`LINGER`].
    fn linger(&mut self, timer: &Runtime) -> Option<Command> {
        self.core.prepare();
        let queue = &mut self.queue;
        timer.block_on(async { tokio::time::timeout(LINGER, queue.recv()).await.ok().flatten() })
    }

    /// `false` when asked to stop.
    fn handle(&mut self, command: Command, pending: &mut Vec<Pending>) -> bool {
        let now = self.clock.now();
        match command {
            Command::Import(block, origin, answer, _room) => match self.core.apply(*block, origin, now) {
                Ok(outcome) => pending.push(Pending::Import(outcome, answer)),
                Err(error) => drop(answer.send(Err(error))),
            },
            Command::Segment { blocks, origin, answer, room: _room, .. } => {
                match self.core.apply_segment(blocks, origin, now) {
                    Ok(outcome) => pending.push(Pending::Segment(outcome, answer)),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Command::Conflict { peer, headers, told, answer } => {
                self.finish(std::mem::take(pending), now);
                self.metrics.conflicts.inc();
                let result = self.core.conflict(peer, &headers, told, now);
                let result = result.map(|events| self.publish(events, now));
                if result.is_err() {
                    self.publish_halt();
                }
                drop(answer.send(result));
            }
            Command::Tick => {
                self.finish(std::mem::take(pending), now);
                self.tick(now);
                if self.core.is_stuck() {
                    tracing::error!(
                        "the store is read and refuses every write, and the disk is not full: what it refuses it takes when it is opened \
                         anew, so the node ends, to be started again"
                    );
                    return false;
                }
            }
            Command::Stop => return false,
        }
        true
    }

    /// Writes, shows, answers. Blocks released by what came are taken too, one portion before and the others after the answers.
    fn finish(&mut self, pending: Vec<Pending>, now: UnixMillis) {
        if pending.is_empty() && !self.core.has_work() {
            return;
        }
        let mut more = self.core.work(now);
        let mut written = self.write(now);
        for pending in pending {
            let failed = written.clone().err();
            // A caller that went away does not undo the write.
            match pending {
                Pending::Import(outcome, answer) => drop(answer.send(failed.map_or_else(|| Ok(outcome), Err))),
                Pending::Segment(outcome, answer) => drop(answer.send(failed.map_or_else(|| Ok(outcome), Err))),
            }
        }
        while written.is_ok() && matches!(more, Ok(true)) {
            more = self.core.work(now);
            written = self.write(now);
        }
    }

    fn write(&mut self, now: UnixMillis) -> Result<(), ChainError> {
        match self.core.flush() {
            Ok(events) => {
                self.publish(events, now);
                Ok(())
            }
            Err(error) => {
                self.retry = now.plus(Duration::from_millis(RETRY_MS));
                self.publish_halt();
                Err(error.into())
            }
        }
    }

    fn tick(&mut self, now: UnixMillis) {
        if self.core.is_broken() {
            // A clock that was set back does not make it longer.
            if (1..=RETRY_MS).contains(&self.retry.0.saturating_sub(now.0)) {
                return;
            }
            self.retry = now.plus(Duration::from_millis(RETRY_MS));
            let events = self.core.recover(now);
            if self.core.status().halted.is_some() {
                return self.publish_halt();
            }
            return self.publish(events, now);
        }
        let before = (self.core.waiting(), self.shared.status());
        match self.core.tick(now) {
            // Mostly nothing happens, and a node that is idle should be.
            Ok(events) if events.is_empty() && before == (self.core.waiting(), self.core.status()) => {}
            Ok(events) => self.publish(events, now),
            Err(_) => self.publish_halt(),
        }
    }

    /// Shows that no blocks are taken, and nothing that was not written.
    fn publish_halt(&self) {
        let status = self.core.status();
        self.metrics.halted.set(i64::from(status.halted.is_some()));
        self.shared.publish_halt(status);
    }

    fn publish(&mut self, events: Vec<Event>, now: UnixMillis) {
        for event in &events {
            match event {
                Event::Imported { .. } => drop(self.metrics.imported.inc()),
                Event::Head { detached, .. } if !detached.is_empty() => self.count_reorg(detached.len(), now),
                Event::Committed { from, to } => drop(self.metrics.committed_blocks.inc_by(to.height - from + 1)),
                Event::Head { .. } | Event::Conflict { .. } | Event::Halted(_) => {}
            }
        }
        match self.core.is_broken() {
            // What is in memory was not written. What peers prove has no need to be.
            true => {
                self.publish_halt();
                self.shared.tell(events.into_iter().filter(|e| matches!(e, Event::Conflict { .. })));
            }
            false => self.shared.publish(&self.core, events),
        }
        self.show();
    }

    fn count_reorg(&mut self, detached: usize, now: UnixMillis) {
        self.metrics.reorgs.inc();
        self.reorgs.push_back(now);
        while self.reorgs.front().is_some_and(|at| now.0.saturating_sub(at.0) > REORG_WINDOW_MS) {
            self.reorgs.pop_front();
        }
        tracing::info!(detached, "the best chain changed its branch");
        if self.reorgs.len() > REORGS {
            tracing::warn!(reorgs = self.reorgs.len(), "the best chain changes its branch many times a minute");
            // One warning for each run of them.
            self.reorgs.clear();
        }
    }

    fn show(&self) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let height = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (candidates, orphans, retired) = self.core.sizes();
        let written = self.core.written();
        self.metrics.head.set(height(self.core.head().height));
        self.metrics.committed.set(height(self.core.committed().height));
        self.metrics.candidates.set(gauge(candidates));
        self.metrics.orphans.set(gauge(orphans));
        self.metrics.retired.set(gauge(retired));
        self.metrics.conflict_peers.set(gauge(self.core.conflicting_peers()));
        let status = self.core.status();
        self.metrics.halted.set(i64::from(status.halted.is_some()));
        self.metrics.damaged_files.set(gauge(status.damaged_files));
        let count = |counter: &crate::telemetry::Counter<u64, std::sync::atomic::AtomicU64>, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        count(&self.metrics.writes, written.writes);
        count(&self.metrics.synced_writes, written.synced);
        count(&self.metrics.invalid, written.invalid);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Service {
    /// For tests: runs the owner on a thread of its own, without a runtime, until every [`Chain`] and its clones are gone. Nothing ticks:
    /// waiting blocks do not grow old, and a failed store is not tried again.
    pub fn run_detached(mut self) {
        self.ticks = None;
        std::thread::spawn(move || self.own());
    }

    /// For simulations: runs the owner within the calling task, so that virtual time stands while it works, until stopped or until every
    /// [`Chain`] and its clones are gone.
    pub async fn run_inline(mut self, stop: Stop) {
        self.ticks = None;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            let command = tokio::select! {
                biased;
                () = stop.wait() => return,
                command = self.queue.recv() => command,
                _ = ticks.tick() => Some(Command::Tick),
            };
            if !command.is_some_and(|command| self.take(command, None)) {
                return;
            }
        }
    }
}
