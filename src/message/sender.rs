//! The actor around the [`Outbox`] machine: carries out its requests, stores its changes, answers who waits.
//!
//! Changes of state are stored by one task at a time, in order; what gathers meanwhile is written together. They are written
//! without waiting for the disk: a lost one after a power cut means that the message is sent again, known at the other side,
//! and receipted again. Three things are synced, since others rely on them: a cancellation, that friends hold a message, and
//! what was ended by a receipt that its recipient then forgets. Who waits for a state is told when it is stored.

mod cache;
mod request;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, error};

use self::{
    cache::Cache,
    request::{deliver, reseal},
};
use super::{
    Event, MessageError, Outgoing, SendState,
    intake::{cost, store_error},
    leaving::Leaver,
    mailbox::evidence::Ended,
    outbox::{Answer, Deposited, Friend, Header, Item, Now, Outbox, Output, is_end},
    shared::{Shared, subtract},
    store::Tables,
    wire::Deliver,
};
use crate::{
    map,
    net::{PeerEvent, rpc},
    primitives::{MessageId, PeerId},
    runtime::Stop,
    store::{Batch, StoreError},
};

/// Commands waiting for the actor; senders wait beyond it.
pub(super) const QUEUE: usize = 1024;
/// The actor looks around at least this often: wall time may jump.
const LOOK: Duration = Duration::from_secs(30);
/// Ended messages whose stored receipts wait to be settled; those beyond it wait for the next start.
const SETTLING: usize = 16_384;

type Reply<T> = oneshot::Sender<Result<T, MessageError>>;

/// What the actor is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// A part of a message that is being sealed can be read from the store; the first part brings the header.
    Sealed(Option<Box<Header>>, Item, Bytes),
    /// A message of which parts were sealed will never be durable.
    Abandoned(u64),
    /// A message is durable; its wire form when it has one part.
    Queued(Box<Header>, Option<Bytes>),
    Wait(MessageId, SendState, Reply<Outgoing>),
    Get(MessageId, Reply<Outgoing>),
    /// Brings views read from the store up to date.
    Refresh(Vec<Outgoing>, Reply<Vec<Outgoing>>),
    Cancel(MessageId, Reply<Outgoing>),
    /// A message came from there.
    Heard(PeerId),
    /// That recipient misses these.
    Wanted(PeerId, Vec<u64>),
    /// This recipient's signed receipt for these came on its own; told when their end is durable.
    Receipted(PeerId, Vec<MessageId>, oneshot::Sender<()>),
}

/// What a task of the actor brings back.
enum Done {
    Answered(u64, Result<Answer, Vec<Item>>),
    Resealed(u64, Result<Header, String>),
    Stored(Vec<Header>, Result<(), StoreError>),
    Friends(PeerId, Result<Vec<Friend>, String>),
    Left(u64, Deposited),
}

struct Waiter {
    state: SendState,
    reply: Reply<Outgoing>,
}

pub(super) struct Sender {
    shared: Arc<Shared>,
    client: rpc::Client<Deliver>,
    leaver: Leaver,
    machine: Outbox,
    started: Instant,
    tasks: JoinSet<Done>,
    seqs: HashMap<MessageId, u64>,
    cache: Cache,
    waiters: HashMap<u64, Vec<Waiter>>,
    cancels: HashMap<u64, Vec<Reply<Outgoing>>>,
    /// Changed headers not stored yet; the last change counts.
    dirty: Vec<Header>,
    storing: bool,
    /// Ended, and not stored yet.
    ending: HashMap<u64, Header>,
    /// Receipts that came on their own, until what they ended is stored: their recipients then forget them.
    receipted: Vec<(HashSet<u64>, oneshot::Sender<()>)>,
    /// Being sealed again: their end is stored after that, or the new sealing would bring them back.
    resealing: HashSet<u64>,
    /// Ended messages that friends hold, and who settles that.
    settling: VecDeque<Ended>,
    settle: mpsc::Sender<Ended>,
}

impl Sender {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: rpc::Client<Deliver>,
        (leaver, settle): (Leaver, mpsc::Sender<Ended>),
        pending: Vec<Header>,
    ) -> Self {
        let retry_max = Duration::from_secs(shared.config.retry_max_s);
        let mut sender = Self {
            machine: Outbox::new(shared.local, retry_max, rand::random()),
            shared,
            client,
            leaver,
            started: Instant::now(),
            tasks: JoinSet::new(),
            seqs: HashMap::new(),
            cache: Cache::default(),
            waiters: HashMap::new(),
            cancels: HashMap::new(),
            dirty: Vec::new(),
            storing: false,
            ending: HashMap::new(),
            receipted: Vec::new(),
            resealing: HashSet::new(),
            settling: VecDeque::new(),
            settle,
        };
        let now = sender.now();
        for header in pending {
            sender.seqs.extend(header.ids.iter().map(|id| (*id, header.seq)));
            sender.machine.add(now, header, false);
        }
        sender
    }

    /// Runs until stopped; changes under way are then stored.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        peers: broadcast::Receiver<PeerEvent>,
        stop: Stop,
    ) {
        let mut peers = Some(peers);
        let mut map = Some(self.shared.recipients.events());
        loop {
            self.carry_out();
            let due = self.next_due();
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done),
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                event = next(&mut peers) => self.peer_event(&event),
                event = next(&mut map) => self.map_event(&event),
                () = tokio::time::sleep_until(due) => {
                    let now = self.now();
                    self.machine.tick(now);
                }
            }
        }
        while self.storing || !self.dirty.is_empty() {
            self.store_dirty();
            match self.tasks.join_next().await {
                Some(Ok(Done::Stored(headers, result))) => self.stored(headers, &result),
                Some(_) => {}
                None => break,
            }
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.shared.now(), mono: self.started.elapsed() }
    }

    fn next_due(&self) -> Instant {
        let now = self.now();
        let (pause, expiry) = self.machine.next_due();
        let pause = pause.map_or(LOOK, |at| at.saturating_sub(now.mono));
        let expiry = expiry.map_or(LOOK, |at| at.since(now.wall));
        Instant::now() + pause.min(expiry).min(LOOK).max(Duration::from_millis(1))
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Sealed(header, item, wire) => {
                if let Some(header) = header {
                    self.machine.begin(*header);
                }
                if self.machine.sealed(now, item) {
                    self.cache.put_early(item, wire);
                }
            }
            Command::Abandoned(seq) => {
                self.machine.abandon(seq);
                self.cache.forget(seq);
            }
            Command::Queued(header, wire) => {
                if let Some(wire) = wire {
                    self.cache.put(header.seq, wire);
                }
                self.seqs.insert(header.id(), header.seq);
                self.shared.tell(|| Event::Outgoing(Box::new(header.view(0))));
                self.machine.add(now, *header, true);
            }
            Command::Heard(peer) => self.machine.heard(now, peer),
            Command::Wanted(peer, seqs) => self.machine.wanted(now, peer, &seqs),
            Command::Receipted(recipient, ids, reply) => {
                let mut seqs: HashSet<_> = ids.iter().filter_map(|id| self.seqs.get(id).copied()).collect();
                for seq in &seqs {
                    self.machine.receipted(now, *seq, recipient);
                }
                // Those of somebody else did not end by it.
                seqs.retain(|seq| self.machine.get(*seq).is_none());
                self.receipted.push((seqs, reply));
                self.answer_receipts();
            }
            Command::Get(id, reply) => {
                let _ = reply.send(self.view(&id).map(|(_, view)| view));
            }
            Command::Refresh(mut views, reply) => {
                for view in &mut views {
                    if let Some(seq) = self.seqs.get(&view.id)
                        && let Some(fresh) = self.live_view(*seq)
                    {
                        *view = fresh;
                    }
                }
                let _ = reply.send(Ok(views));
            }
            Command::Wait(id, state, reply) => match self.view(&id) {
                Ok((seq, view)) if !is_end(view.state) && view.state < state => {
                    let waiters = self.waiters.entry(seq).or_default();
                    waiters.retain(|w| !w.reply.is_closed());
                    waiters.push(Waiter { state, reply });
                }
                result => drop(reply.send(result.map(|(_, view)| view))),
            },
            Command::Cancel(id, reply) => match self.view(&id) {
                Ok((seq, view)) => match self.machine.cancel(now, seq) {
                    Some(()) => self.cancels.entry(seq).or_default().push(reply),
                    None => drop(reply.send(Err(MessageError::TooLate(view.state)))),
                },
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    /// A message that this actor has in memory.
    fn live_view(&self, seq: u64) -> Option<Outgoing> {
        let pending = self.machine.get(seq).map(|(header, acked)| header.view(acked));
        pending.or_else(|| self.ending.get(&seq).map(|header| header.view(0)))
    }

    fn view(&self, id: &MessageId) -> Result<(u64, Outgoing), MessageError> {
        if let Some(seq) = self.seqs.get(id)
            && let Some(view) = self.live_view(*seq)
        {
            return Ok((*seq, view));
        }
        let tables = &self.shared.tables;
        let seq = tables.seq_of(id).map_err(|e| store_error(&e))?.ok_or(MessageError::NotFound)?;
        let header = tables.outgoing(seq).map_err(|e| store_error(&e))?.ok_or(MessageError::NotFound)?;
        Ok((seq, header.view(0)))
    }

    fn peer_event(&mut self, event: &Result<PeerEvent, Missed>) {
        let now = self.now();
        match event {
            Ok(PeerEvent::Up(peer)) => self.machine.appeared(now, *peer),
            Ok(PeerEvent::Down(_)) => {}
            Err(Missed) => self.machine.recipients().into_iter().for_each(|p| self.machine.heard(now, p)),
        }
    }

    fn map_event(&mut self, event: &Result<map::Event, Missed>) {
        let now = self.now();
        match event {
            // Another addr or another key: whatever failed before may work now.
            Ok(map::Event::Changed(entry)) => self.machine.appeared(now, entry.address),
            Ok(map::Event::Presence(peer, map::State::Online)) => self.machine.heard(now, *peer),
            Ok(_) => {}
            Err(Missed) => self.machine.recipients().into_iter().for_each(|p| self.machine.heard(now, p)),
        }
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = self.now();
        match done {
            Ok(Done::Answered(flight, Err(damaged))) => self.machine.unreadable(now, flight, &damaged),
            Ok(Done::Answered(flight, Ok(answer))) => {
                if answer.is_err() {
                    self.shared.metrics.retries.inc();
                    self.cache.forget_early();
                }
                self.machine.answered(now, flight, answer);
            }
            Ok(Done::Resealed(seq, result)) => {
                self.resealing.remove(&seq);
                if let Ok(header) = &result {
                    self.shared.metrics.resealed.inc();
                    if self.machine.get(seq).is_some() {
                        self.seqs.extend(header.ids.iter().map(|id| (*id, seq)));
                    }
                }
                self.cache.forget(seq);
                if let Some(header) = self.ending.get(&seq) {
                    self.dirty.push(header.clone());
                }
                self.machine.resealed(now, seq, result);
            }
            Ok(Done::Stored(headers, result)) => self.stored(headers, &result),
            Ok(Done::Friends(recipient, found)) => {
                if let Err(error) = &found {
                    debug!(%recipient, %error, "cannot tell who its friends are");
                }
                self.machine.friends(now, recipient, found);
            }
            Ok(Done::Left(flight, answer)) => self.machine.deposited(now, flight, answer),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// Does what the machine wants.
    fn carry_out(&mut self) {
        while let Some(output) = self.machine.output() {
            match output {
                Output::Send { flight, peer, items } => self.send(flight, peer, items),
                Output::Reseal(seq) => {
                    if let Some((header, _)) = self.machine.get(seq) {
                        self.resealing.insert(seq);
                        let (shared, header) = (self.shared.clone(), header.clone());
                        self.tasks.spawn(async move { Done::Resealed(seq, reseal(&shared, header).await) });
                    }
                }
                Output::Changed { seq, durable } => {
                    let Some((header, acked)) = self.machine.get(seq) else { continue };
                    let view = header.view(acked);
                    if durable {
                        // Told when it is stored.
                        self.dirty.push(header.clone());
                    } else {
                        self.notify(seq, &view);
                    }
                }
                Output::Ended(header) => {
                    let seq = header.seq;
                    self.shared.lanes.ended(&header.lane(), header.number);
                    self.cache.forget(seq);
                    if !self.resealing.contains(&seq) {
                        self.dirty.push((*header).clone());
                    }
                    self.ending.insert(seq, *header);
                }
                Output::Friends(recipient) => {
                    let leaver = self.leaver.clone();
                    self.tasks.spawn(async move { Done::Friends(recipient, leaver.friends(recipient).await) });
                }
                Output::Leave { flight, owner, friend, items } => self.leave(flight, owner, friend, &items),
                Output::Settle { seq, owner, settle } => {
                    if self.settling.len() < SETTLING {
                        self.settling.push_back((owner, seq, settle));
                    }
                }
                Output::NoReceipt(peer) => {
                    debug!(%peer, "says delivered, but sent no receipt with its signature");
                    self.shared.metrics.forged_receipts.inc();
                }
            }
        }
        while let Some(ended) = self.settling.pop_front() {
            if self.settle.try_send(ended).is_err() {
                // Again with the next thing that happens here.
                self.settling.push_front(ended);
                break;
            }
        }
        self.store_dirty();
    }

    fn leave(&mut self, flight: u64, owner: PeerId, friend: Friend, items: &[Item]) {
        // What has ended meanwhile has no parts any more, and its deposit fails.
        let end = |seq| self.machine.get(seq).map_or(self.shared.now(), |(header, _)| header.expires_at);
        let items = items.iter().map(|item| (*item, end(item.0))).collect();
        let leaver = self.leaver.clone();
        self.tasks.spawn(async move { Done::Left(flight, leaver.leave(owner, friend, items).await) });
    }

    fn send(&mut self, flight: u64, peer: PeerId, items: Vec<Item>) {
        let cached: Vec<_> = items.iter().map(|item| self.cache.get(item)).collect();
        let (shared, client) = (self.shared.clone(), self.client.clone());
        self.tasks.spawn(async move { Done::Answered(flight, deliver(shared, client, peer, items, cached).await) });
    }

    fn store_dirty(&mut self) {
        if self.storing || self.dirty.is_empty() {
            return;
        }
        self.storing = true;
        let headers = std::mem::take(&mut self.dirty);
        let mut batch = Batch::new();
        for header in &headers {
            if is_end(header.state) {
                Tables::put_ended(&mut batch, header);
            } else {
                Tables::put_header(&mut batch, header);
            }
        }
        let store = self.shared.tables.store.clone();
        // Who was told that a friend has it is never told again that none has.
        let waited = |seq: &u64| self.receipted.iter().any(|(seqs, _)| seqs.contains(seq));
        let promised = |h: &Header| matches!(h.state, SendState::Cancelled | SendState::Stored) || waited(&h.seq);
        let promise = headers.iter().any(promised);
        self.tasks.spawn(async move {
            let result = if promise {
                store.commit(batch).await
            } else {
                let write = tokio::task::spawn_blocking(move || store.write_unsynced(batch));
                write.await.unwrap_or(Err(StoreError::Stopped))
            };
            Done::Stored(headers, result)
        });
    }

    fn stored(&mut self, headers: Vec<Header>, result: &Result<(), StoreError>) {
        self.storing = false;
        if let Err(error) = result {
            // The message will be sent again after a restart and known at the other side.
            error!(%error, "cannot store what became of outgoing messages");
        }
        for header in headers {
            let seq = header.seq;
            if !is_end(header.state) {
                // It may have gone on meanwhile.
                let acked = self.machine.get(seq).map_or(0, |(_, acked)| acked);
                self.notify(seq, &header.view(acked));
                continue;
            }
            let view = header.view(0);
            if self.ending.remove(&seq).is_none() {
                continue;
            }
            for id in &header.ids {
                self.seqs.remove(id);
            }
            let counts = &self.shared.counts;
            subtract(&counts.outbox_bytes, cost(header.bytes, header.parts));
            subtract(&counts.outbox_pending, 1);
            if header.state == SendState::Delivered {
                self.shared.metrics.delivered.inc();
                self.shared.recipients.heard(header.to);
            }
            for reply in self.cancels.remove(&seq).unwrap_or_default() {
                let _ = reply.send(result.clone().map(|()| view.clone()).map_err(|e| store_error(&e)));
            }
            for (seqs, _) in &mut self.receipted {
                seqs.remove(&seq);
            }
            self.notify(seq, &view);
        }
        if result.is_err() {
            // Their recipients bring them again.
            self.receipted.clear();
        }
        self.answer_receipts();
    }

    /// Answers the receipts all of whose messages are stored.
    fn answer_receipts(&mut self) {
        let receipts = std::mem::take(&mut self.receipted);
        for (seqs, reply) in receipts {
            if seqs.is_empty() {
                // Who asked may have gone away.
                let _ = reply.send(());
            } else {
                self.receipted.push((seqs, reply));
            }
        }
    }

    fn notify(&mut self, seq: u64, view: &Outgoing) {
        if let Some(waiters) = self.waiters.remove(&seq) {
            let (reached, waiting): (Vec<_>, Vec<_>) =
                waiters.into_iter().partition(|w| is_end(view.state) || view.state >= w.state);
            reached.into_iter().for_each(|w| drop(w.reply.send(Ok(view.clone()))));
            if !waiting.is_empty() {
                self.waiters.insert(seq, waiting);
            }
        }
        self.shared.tell(|| Event::Outgoing(Box::new(view.clone())));
    }
}

/// A subscription lost some events.
pub(super) struct Missed;

/// The next event; never when the other end is gone.
pub(super) async fn next<T: Clone>(events: &mut Option<broadcast::Receiver<T>>) -> Result<T, Missed> {
    if let Some(receiver) = events {
        match receiver.recv().await {
            Ok(event) => return Ok(event),
            Err(broadcast::error::RecvError::Lagged(_)) => return Err(Missed),
            Err(broadcast::error::RecvError::Closed) => *events = None,
        }
    }
    std::future::pending().await
}
