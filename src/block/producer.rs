//! Transactions and production: the pool's task. Transactions travel apart from blocks, so that they never delay them ([`wire`]), and
//! each is checked before it is passed on. With `block.produce` this node packages them into a block on the head, one interval
//! after the head was made: so several producers take turns as it comes, and forks are rare.

mod due;
mod fetch;
mod metrics;
pub mod wire;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

pub use self::metrics::Metrics;
use self::{
    fetch::{Fetched, Fetches, OTHERS},
    wire::{GetTransaction, News},
};
use super::{
    Body, Config, Point,
    chain::{Chain, ChainError, Event, Verdict},
    penalty::{Offence, Penalties},
    pool::{Pool, PoolError, RECENT_BLOCKS},
    purpose,
};
use crate::{
    identity::{Identity, Purpose},
    net::{
        pubsub::{self, PublishError, Publisher, Received},
        rpc::{Client, Inbound},
    },
    primitives::{Clock, Hash, NetworkId, PeerId, UnixMillis},
    runtime::Stop,
    wire::Status,
};

/// The oldest block in which a transaction that waits may be: none waits longer than half an hour, and blocks are half a second apart.
const WAITED_BLOCKS: u64 = 4096;
/// Submissions that wait for the task.
const COMMANDS: usize = 256;
/// Submissions that nobody has heard of yet and that are published again.
const UNHEARD: usize = 1024;
/// Between two rounds of publishing those, and of dropping old ones.
const SWEEP: Duration = Duration::from_secs(2);
/// Publications at once; a publication waits for the swarm task only.
const PUBLISHING: usize = 32;
/// A transaction of ours that is still in no block is told once more after this long: on links that were busy gossip may have dropped it.
/// Before that the network takes it for one that it knows (`duplicate_cache_time`).
const AGAIN: Duration = Duration::from_secs(310);
/// How long a transaction has waited that is told again: the network has forgotten by then that it was told before.
const RETOLD: Duration = Duration::from_secs(300);
/// Transactions of ours that are looked at again; of more the oldest are not.
const OWN: usize = 20_000;

/// Why a transaction was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The pool does not take it.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The rules of the chain refuse it.
    #[error("refused by the chain's rules: {0}")]
    Refused(String),
    /// No block is taken, so none would have it.
    #[error("the chain is halted: {0}")]
    Halted(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// What the task works with.
#[derive(Debug)]
pub struct Deps {
    /// Signs what we produce.
    pub identity: Identity,
    /// Our network.
    pub network: NetworkId,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// The chain.
    pub chain: Chain,
    /// The topic [`wire::TOPIC`].
    pub publisher: Publisher,
    /// What others publish on it.
    pub gossip: mpsc::Receiver<Received>,
    /// `block/transaction/1`.
    pub get: (Client<GetTransaction>, mpsc::Receiver<Inbound<GetTransaction>>),
    /// Shared with broadcast and sync.
    pub penalties: Penalties,
    /// Whether we are up to date, so that a block of ours would help.
    pub in_sync: watch::Receiver<bool>,
    /// Bytes of a body (`chain.max_bytes`).
    pub max_body_bytes: usize,
    /// Counters.
    pub metrics: Metrics,
}

#[derive(Debug)]
struct Submit {
    transaction: Bytes,
    answer: oneshot::Sender<Result<Hash, SubmitError>>,
}

/// Submits transactions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Submit>,
}

impl Handle {
    /// Puts a transaction into the pool and tells the network of it. Returns its hash; what becomes of it is in the blocks. It is
    /// held in memory only.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, transaction: Bytes) -> Result<Hash, SubmitError> {
        let (answer, result) = oneshot::channel();
        let submit = Submit { transaction, answer };
        self.commands.send(submit).await.map_err(|_| SubmitError::Stopped)?;
        result.await.map_err(|_| SubmitError::Stopped)?
    }
}

/// The task of pool and production.
#[derive(Debug)]
pub struct Service {
    identity: Identity,
    purpose: Purpose,
    clock: Arc<dyn Clock>,
    chain: Chain,
    publisher: Publisher,
    gossip: mpsc::Receiver<Received>,
    fetches: Fetches,
    asked: mpsc::Receiver<Inbound<GetTransaction>>,
    penalties: Penalties,
    in_sync: watch::Receiver<bool>,
    metrics: Metrics,
    commands: mpsc::Receiver<Submit>,
    events: broadcast::Receiver<Event>,
    pool: Pool,
    produce: bool,
    interval: Duration,
    max_bytes: usize,
    unheard: VecDeque<Bytes>,
    /// What was submitted here, and when it was published last; oldest first.
    own: VecDeque<(UnixMillis, Hash)>,
    publishing: JoinSet<(Bytes, Result<(), PublishError>)>,
    due: Instant,
    /// The highest head that put it off.
    planned: u64,
    /// The head whose transactions the pool knows.
    known: Hash,
    gossip_ended: bool,
    /// Blocks came too fast to be looked at.
    behind: bool,
}

/// Makes the task and its door.
#[must_use]
pub fn new(config: &Config, deps: Deps) -> (Service, Handle) {
    let (commands, queue) = mpsc::channel(COMMANDS);
    let service = Service {
        purpose: purpose(&deps.network),
        identity: deps.identity,
        clock: deps.clock,
        events: deps.chain.events(),
        chain: deps.chain,
        publisher: deps.publisher,
        gossip: deps.gossip,
        fetches: Fetches::new(deps.get.0),
        asked: deps.get.1,
        penalties: deps.penalties,
        in_sync: deps.in_sync,
        metrics: deps.metrics,
        commands: queue,
        pool: Pool::new(config.pool_transactions, config.pool_bytes),
        produce: config.produce,
        interval: Duration::from_millis(config.interval_ms),
        max_bytes: deps.max_body_bytes,
        unheard: VecDeque::new(),
        own: VecDeque::new(),
        publishing: JoinSet::new(),
        due: Instant::now(),
        planned: 0,
        known: Hash::default(),
        gossip_ended: false,
        behind: false,
    };
    (service, Handle { commands })
}

impl Service {
    /// Runs until stopped.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn run(mut self, stop: Stop) -> Result<(), ChainError> {
        let read = self.read_recent().await;
        self.survive(read)?;
        self.plan();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return Ok(()),
                event = self.events.recv() => {
                    let done = self.on_event(event).await;
                    self.survive(done)?;
                }
                () = tokio::time::sleep_until(self.due), if self.may_produce() => self.on_due().await,
                Ok(()) = self.in_sync.changed() => {}
                Some(done) = self.publishing.join_next() => self.on_published(done),
                Some(submit) = self.commands.recv() => self.on_submit(submit),
                fetched = self.fetches.next() => self.on_fetched(fetched),
                Some(asked) = self.asked.recv() => self.on_asked(asked),
                received = self.gossip.recv(), if !self.gossip_ended => match received {
                    Some(received) => self.on_gossip(received),
                    None => self.gossip_ended = true,
                },
                _ = sweep.tick() => {
                    self.on_sweep();
                    if self.behind {
                        let read = self.read_recent().await;
                        self.survive(read)?;
                    }
                }
            }
            self.metrics.transactions.set(i64::try_from(self.pool.len()).unwrap_or(i64::MAX));
            self.metrics.bytes.set(i64::try_from(self.pool.bytes()).unwrap_or(i64::MAX));
        }
    }

    /// A store that fails is the chain's to report and to try again. What was missed is read with the next sweep.
    fn survive(&mut self, result: Result<(), ChainError>) -> Result<(), ChainError> {
        match result {
            Ok(()) => Ok(()),
            Err(ChainError::Stopped) => Err(ChainError::Stopped),
            Err(error) => {
                tracing::warn!(%error, "the pool could not read the chain and tries again");
                self.behind = true;
                Ok(())
            }
        }
    }

    fn may_produce(&self) -> bool {
        self.produce && *self.in_sync.borrow()
    }

    /// The transactions of the newest blocks, to know them again; those of blocks that left unseen wait again.
    async fn read_recent(&mut self) -> Result<(), ChainError> {
        self.behind = false;
        let known = self.chain.status().head.hash;
        for hash in self.pool.recent() {
            let chain = self.chain.clone();
            let read = move || match chain.header(&hash)? {
                Some(header) if chain.hash_at(header.height)? != Some(hash) => chain.block(&hash),
                _ => Ok(None),
            };
            let left = tokio::task::spawn_blocking(read).await.map_err(|_| ChainError::Stopped)??;
            if let Some(block) = left {
                self.detach(&block.hash, block.body);
            }
        }
        self.pool.forget_recent();
        let chain = self.chain.clone();
        let head = chain.status().head.height;
        let recent = head.saturating_sub(RECENT_BLOCKS as u64 - 1); // 128
        // What waits may be in older ones: those since the block that was known last, or since its branch was left.
        let since = match self.pool.is_empty() {
            true => None,
            false => chain.header(&self.known)?.map(|h| h.height.saturating_sub(RECENT_BLOCKS as u64)),
        };
        let from = since.map_or(recent, |since| since.clamp(head.saturating_sub(WAITED_BLOCKS), recent));
        // All of them may be some hundred MiB: they are read one after another and only their hashes stay.
        for height in from..=head {
            let chain = chain.clone();
            let read = move || match chain.hash_at(height)? {
                Some(hash) => chain.block(&hash),
                None => Ok(None),
            };
            let block = tokio::task::spawn_blocking(read).await.map_err(|_| ChainError::Stopped)??;
            if let Some(block) = block {
                self.attach(block.hash, block.body);
            }
        }
        // What came meanwhile is told by the events.
        self.known = known;
        Ok(())
    }

    fn attach(&mut self, hash: Hash, body: Bytes) {
        // Stored bodies are well-formed.
        let body = Body::decode(body).unwrap_or_default();
        self.pool.attach(hash, body.transactions());
    }

    fn detach(&mut self, hash: &Hash, body: Bytes) {
        let body = Body::decode(body).unwrap_or_default();
        let lost = self.pool.detach(hash, body.transactions(), self.clock.now());
        if lost > 0 {
            tracing::warn!(lost, "transactions of a block that left the chain are dropped: the pool is full");
            self.metrics.dropped.inc_by(lost as u64); // usize fits in u64
        }
    }

    async fn on_event(&mut self, event: Result<Event, broadcast::error::RecvError>) -> Result<(), ChainError> {
        match event {
            Ok(Event::Head { head, detached, attached }) => {
                self.put_off(head.height);
                self.on_head(&detached, &attached).await?;
                self.known = head.hash;
                self.fetches.excuse(|hash| self.pool.is_included(hash));
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                self.plan();
                if self.pool.is_empty() {
                    // What comes from now on is in none of those that were missed, but for the newest.
                    (self.behind, self.known) = (true, self.chain.status().head.hash);
                    return Ok(());
                }
                self.read_recent().await
            }
            Err(broadcast::error::RecvError::Closed) => Err(ChainError::Stopped),
        }
    }

    async fn on_head(&mut self, detached: &[Point], attached: &[Point]) -> Result<(), ChainError> {
        for point in detached {
            match self.chain.block(&point.hash)? {
                Some(block) => self.detach(&block.hash, block.body),
                None => tracing::warn!(
                    height = point.height,
                    "a block that left the chain is not here any more: its transactions are lost"
                ),
            }
        }
        // While catching up nobody reads every block again for nothing; the newest are read when that is over.
        if attached.len() > RECENT_BLOCKS && self.pool.is_empty() {
            self.behind = true;
            return Ok(());
        }
        if self.behind {
            return self.read_recent().await;
        }
        for point in attached {
            if let Some(block) = self.chain.block(&point.hash)? {
                self.attach(block.hash, block.body);
            }
        }
        Ok(())
    }

    fn on_submit(&mut self, submit: Submit) {
        let result = self.take(submit.transaction.clone());
        if let Ok(hash) = result {
            self.metrics.submitted.inc();
            self.remember_own(hash);
            self.publish(submit.transaction);
        }
        // A caller that went away does not take it back.
        let _ = submit.answer.send(result);
    }

    fn take(&mut self, transaction: Bytes) -> Result<Hash, SubmitError> {
        if let Some(why) = self.chain.status().halted {
            return Err(SubmitError::Halted(why));
        }
        match self.chain.validator().transaction(&transaction) {
            Verdict::Accept => Ok(self.pool.add(transaction, None, self.clock.now())?),
            Verdict::Ignore(why) | Verdict::Invalid(why) => Err(SubmitError::Refused(why)),
        }
    }

    fn on_gossip(&mut self, mut received: Received) {
        let source = received.source;
        match News::read(std::mem::take(&mut received.data)) {
            Some(News::Whole(transaction)) => {
                let verdict = self.judge(transaction, source);
                self.pass(received, verdict);
            }
            Some(News::Announced(hash)) if !self.pool.knows(&hash) => {
                let others = self.publisher.listeners(OTHERS, &source);
                if let Some(received) = self.fetches.begin(received, hash, others) {
                    self.pass(received, pubsub::Verdict::Ignore);
                }
            }
            Some(News::Announced(hash)) => {
                let verdict = self.known_verdict(&hash);
                self.pass(received, verdict);
            }
            None => self.pass(received, pubsub::Verdict::Reject),
        }
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        let over = self.fetches.settle(fetched, |hash| self.pool.knows(hash));
        let Some(Fetched { received, transaction, liars, .. }) = over else { return };
        liars.into_iter().for_each(|liar| self.penalties.report(liar, Offence::WrongData));
        let verdict = match transaction {
            // A small one travels as it is; under its hash it would travel a second time.
            Some(transaction) if transaction.len() <= wire::MAX_WHOLE => pubsub::Verdict::Reject,
            Some(transaction) => self.judge(transaction, received.source),
            None => pubsub::Verdict::Ignore,
        };
        self.pass(received, verdict);
    }

    /// Takes a transaction that `source` passed on, if it can be taken.
    fn judge(&mut self, transaction: Bytes, source: PeerId) -> pubsub::Verdict {
        let told = transaction.clone();
        match self.chain.validator().transaction(&transaction) {
            Verdict::Ignore(_) => pubsub::Verdict::Ignore,
            Verdict::Invalid(_) => pubsub::Verdict::Reject,
            Verdict::Accept => match self.pool.add(transaction, Some(source), self.clock.now()) {
                Ok(_) => pubsub::Verdict::Accept,
                Err(PoolError::Empty | PoolError::TooLarge) => pubsub::Verdict::Reject,
                Err(PoolError::Known) => self.known_verdict(&Hash::of(&told)),
                Err(PoolError::Included | PoolError::Full) => pubsub::Verdict::Ignore,
            },
        }
    }

    /// What a transaction is worth that is told again. One that has waited here for as long as whoever put it in waits before it tells it
    /// again goes on: somebody behind us may have missed it, or have started since.
    fn known_verdict(&self, hash: &Hash) -> pubsub::Verdict {
        let since = self.pool.since(hash);
        match since.is_some_and(|since| self.clock.now().since(since) >= RETOLD) {
            true => pubsub::Verdict::Accept,
            false => pubsub::Verdict::Ignore,
        }
    }

    fn pass(&self, received: Received, verdict: pubsub::Verdict) {
        match verdict {
            pubsub::Verdict::Accept => drop(self.metrics.accepted.inc()),
            pubsub::Verdict::Ignore => drop(self.metrics.ignored.inc()),
            pubsub::Verdict::Reject => drop(self.metrics.rejected.inc()),
        }
        received.judge(verdict);
    }

    fn on_asked(&self, asked: Inbound<GetTransaction>) {
        match wire::read_request(&asked.request).map(|hash| self.pool.get(&hash)) {
            Some(Some(transaction)) => asked.respond(wire::response(transaction)),
            Some(None) => asked.refuse(Status::NotFound),
            None => asked.refuse(Status::Invalid),
        }
    }

    fn publish(&mut self, transaction: Bytes) {
        if self.publishing.len() >= PUBLISHING {
            return self.keep_unheard(transaction);
        }
        let publisher = self.publisher.clone();
        self.publishing.spawn(async move {
            let result = publisher.publish(News::encode(&transaction)).await;
            (transaction, result)
        });
    }

    fn remember_own(&mut self, hash: Hash) {
        if self.own.len() == OWN {
            self.own.pop_front();
        }
        self.own.push_back((self.clock.now(), hash));
    }

    fn on_published(&mut self, done: Result<(Bytes, Result<(), PublishError>), tokio::task::JoinError>) {
        match done {
            Ok((transaction, Err(PublishError::NoPeers | PublishError::Busy))) => self.keep_unheard(transaction),
            // There is room again: what waits behind a burst need not wait for the next round.
            Ok((_, Ok(()))) => self.publish_unheard(),
            _ => {}
        }
    }

    fn keep_unheard(&mut self, transaction: Bytes) {
        if self.unheard.len() == UNHEARD {
            self.unheard.pop_front();
        }
        self.unheard.push_back(transaction);
    }

    /// Publishes the oldest of what nobody has heard of, unless a block has it meanwhile.
    fn publish_unheard(&mut self) {
        while let Some(transaction) = self.unheard.pop_front() {
            if self.pool.contains(&Hash::of(&transaction)) {
                return self.publish(transaction);
            }
        }
    }

    fn on_sweep(&mut self) {
        self.fetches.forgive();
        let expired = self.pool.sweep(self.clock.now());
        if expired > 0 {
            tracing::warn!(
                expired,
                "transactions that no block has taken for half an hour were dropped: does anybody produce?"
            );
            self.metrics.expired.inc_by(expired as u64); // usize fits in u64
        }
        for _ in 0..self.unheard.len().min(PUBLISHING) {
            self.publish_unheard();
        }
        let now = self.clock.now();
        for _ in 0..PUBLISHING {
            let due = self.own.front().filter(|(at, _)| now.since(*at) >= AGAIN);
            let Some((_, hash)) = due.copied() else { break };
            self.own.pop_front();
            if let Some(transaction) = self.pool.get(&hash) {
                self.remember_own(hash);
                self.publish(transaction);
            }
        }
    }
}

#[cfg(test)]
mod tests;
