//! What the receiver does about order: puts what may be shown into its batches, tells of it when they are durable, asks senders for
//! what is missing, and gives up what was waited for long enough.

use std::{
    collections::VecDeque,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tracing::{debug, error, warn};

use super::{Done, Receiver};
use crate::{
    message::{
        Event,
        envelope::Inner,
        inbox::Key,
        order::{Lane, Numbers, Order, Question, Rank},
        store::Tables,
        wire::{self, StoredMessage},
    },
    store::{Batch, StoreError},
};

/// When what is in the store could not be read: again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Nothing is due.
const NEVER: Duration = Duration::from_secs(3600);

/// A batch that hands messages over.
#[derive(Debug)]
struct Handing {
    number: u64,
    shown: Vec<StoredMessage>,
    /// How it ended.
    ok: Option<bool>,
}

/// See the module doc.
#[derive(Debug)]
pub(in crate::message) struct Turns {
    pub(super) order: Order,
    /// Batches under way, in the order in which they were given to the store: told of in this order, too.
    handing: VecDeque<Handing>,
    /// A batch was lost, so what is in memory is not what is in the store: read again before anything else is taken.
    lost: bool,
    started: Instant,
}

impl Turns {
    /// Reads what waits for its turn. Blocks.
    pub(in crate::message) fn load(tables: &Tables) -> Result<Self, StoreError> {
        let started = Instant::now();
        Ok(Self { order: load(tables, Duration::ZERO)?, handing: VecDeque::new(), lost: false, started })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn load(tables: &Tables, now: Duration) -> Result<Order, StoreError> {
    let mut order = Order::default();
    for message in tables.held()? {
        let Some((stream, number)) = message.held else { continue };
        let lane = Lane { peer: message.received.from, stream };
        if !order.knows(&lane) {
            order.load(lane, tables.next_of(&lane)?.unwrap_or(number));
        }
        order.load_held(now, lane, number, message);
    }
    Ok(order)
}

impl Receiver {
    /// Whether nothing may be taken now.
    pub(super) fn is_lost(&self) -> bool {
        self.turns.lost
    }

    /// When [`Receiver::take_turns`] is next needed.
    pub(super) fn next_turn(&self) -> tokio::time::Instant {
        let wait = match self.turns.order.next_due() {
            _ if self.turns.lost => AGAIN,
            due => due.map_or(NEVER, |at| at.saturating_sub(self.turns.now())),
        };
        tokio::time::Instant::now() + wait.max(Duration::from_millis(1))
    }

    /// Makes sure that the stream of a part is in memory.
    pub(super) fn know_lane(&mut self, inner: &Inner) -> Result<(), StoreError> {
        self.know(Lane { peer: inner.sender, stream: inner.stream })
    }

    fn know(&mut self, lane: Lane) -> Result<(), StoreError> {
        if !self.turns.order.knows(&lane)
            && let Some(next) = self.shared.tables.next_of(&lane)?
        {
            self.turns.order.load(lane, next);
        }
        Ok(())
    }

    /// A whole message becomes durable with the next batch; its stream is known.
    pub(super) fn arrive(&mut self, key: &Key, rank: Rank, message: StoredMessage) {
        let lane = Lane { peer: key.sender, stream: key.stream };
        self.turns.order.arrive(self.turns.now(), lane, rank, message);
    }

    /// The same for one that came in parts.
    pub(super) fn arrive_whole(
        &mut self,
        batch: &mut Batch,
        key: &Key,
        rank: Rank,
        message: &StoredMessage,
    ) -> Result<(), StoreError> {
        self.know(Lane { peer: key.sender, stream: key.stream })?;
        Tables::end_assembly(batch, message.slot);
        self.shared.tables.put_seen(batch, key, message);
        self.arrive(key, rank, message.clone());
        Ok(())
    }

    /// Puts into a batch what has arrived, and what that lets through. The batch's number, when it has something of this.
    pub(super) fn settle(&mut self, batch: &mut Batch) -> Option<u64> {
        if !self.turns.order.is_touched() {
            return None;
        }
        let (number, settled) = self.turns.order.settle(self.turns.now());
        let machine = &mut self.machine;
        self.shared.tables.put_settled(batch, &settled, || machine.slot());
        let shown = settled.shown.into_iter().map(|shown| shown.message).collect();
        self.turns.handing.push_back(Handing { number, shown, ok: None });
        Some(number)
    }

    /// A batch is durable, or lost. What it hands over is told after what earlier ones do.
    pub(super) async fn handed(&mut self, number: Option<u64>, ok: bool) {
        if let Some(handing) = self.turns.handing.iter_mut().find(|h| Some(h.number) == number) {
            handing.ok = Some(ok);
        }
        while let Some(ok) = self.turns.handing.front().and_then(|handing| handing.ok) {
            let Some(handing) = self.turns.handing.pop_front() else { break };
            if ok {
                self.turns.order.committed(handing.number);
                handing.shown.into_iter().for_each(|message| self.show(message));
            }
            self.turns.lost |= !ok;
        }
        self.read_again().await;
    }

    fn show(&self, message: StoredMessage) {
        let (counts, metrics, received) = (&self.shared.counts, &self.shared.metrics, message.received);
        counts.inbox.fetch_add(1, Ordering::Relaxed);
        counts.unread.fetch_add(1, Ordering::Relaxed);
        metrics.received.inc();
        metrics.late.inc_by(u64::from(received.late));
        metrics.gaps.inc_by(u64::from(received.missing > 0));
        self.shared.tell(|| Event::Received(Box::new(received)));
    }

    /// After a batch was lost and none is under way any more: what is in the store is what counts.
    async fn read_again(&mut self) {
        if !self.turns.lost || !self.turns.handing.is_empty() {
            return;
        }
        let (tables, now) = (self.shared.tables.clone(), self.turns.now());
        match tokio::task::spawn_blocking(move || load(&tables, now)).await {
            Ok(Ok(order)) => (self.turns.order, self.turns.lost) = (order, false),
            Ok(Err(error)) => error!(%error, "cannot read which messages wait for their turn"),
            Err(error) => error!(%error, "cannot read which messages wait for their turn"),
        }
    }

    /// Hands over what is due, and asks for what is missing.
    pub(super) async fn take_turns(&mut self) {
        self.read_again().await;
        if self.turns.lost {
            return;
        }
        let now = self.turns.now();
        self.turns.order.tick(now, self.shared.collecting.load(Ordering::Relaxed));
        let mut batch = Batch::new();
        if let Some(number) = self.settle(&mut batch) {
            match self.shared.tables.store.submit(batch).await {
                Ok(committing) => {
                    self.tasks.spawn(async move { Done::Handed(number, committing.done().await) });
                }
                Err(error) => self.handed_over(number, &Err(error)).await,
            }
        }
        while let Some(question) = self.turns.order.question(now) {
            self.shared.metrics.asked.inc();
            let client = self.missing.clone();
            self.asks.spawn(async move { (question.0, ask(&client, &question).await) });
        }
    }

    pub(super) async fn handed_over(&mut self, number: u64, result: &Result<(), StoreError>) {
        if let Err(error) = result {
            warn!(%error, "cannot hand messages over; trying again");
        }
        self.handed(Some(number), result.is_ok()).await;
    }

    pub(super) async fn asked(&mut self, asked: Result<(Lane, Option<Vec<Numbers>>), tokio::task::JoinError>) {
        match asked {
            Ok((lane, never)) => self.turns.order.answered(lane, never.as_deref()),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
        self.take_turns().await;
    }
}

/// Asks a sender; `None`: it did not answer.
async fn ask(client: &crate::net::rpc::Client<wire::Missing>, (lane, missing): &Question) -> Option<Vec<Numbers>> {
    match client.request(lane.peer, wire::missing(lane.stream, missing)).await {
        Ok(answer) => wire::read_missed(&answer),
        Err(error) => {
            debug!(sender = %lane.peer, %error, "cannot ask for missing messages");
            None
        }
    }
}
