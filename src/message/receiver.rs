//! The actor around the [`Inbox`] machine: open (blocking, in batches), plan, commit, receipt.
//!
//! ```text
//!  Inbound ─▶ open: ids, seen?, decrypt, verify   (blocking, 2 rounds at once)
//!          ─▶ plan: one store batch for the round (here, in memory, in the order in which rounds came):
//!                                                 what is stored, and what is shown in which order
//!          ─▶ commit                              (up to 8 rounds at once; the store merges them into one sync);
//!                                                 parts of large bodies then go to their files
//!          ─▶ complete messages whose last part came: sync large bodies, second commit
//!          ─▶ sign one receipt a request, answer
//! ```
//! A round is what waits at one time: several requests share one commit. What is shown goes into the batch of the message that it
//! waited for; batches reach the disk in the order in which they were planned, so after a crash nothing is shown before its turn.

mod letters;
mod turns;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{debug, error, warn};

pub(super) use self::turns::Turns;
use super::{
    envelope::{Digests, Inner, Kind, Unverified},
    inbox::{Assembly, Inbox, Key, Progress, Room, Verdict},
    order::{Lane, Numbers, Rank},
    receipt,
    sender::Command,
    shared::Shared,
    store::{LARGE_PARTS, Tables, inbox_cost},
    wire::{self, Code, Deliver, Missing, StoredMessage},
};
use crate::{
    identity::Opener,
    net::rpc::{Client, Inbound},
    primitives::{MessageId, PeerId, UnixMillis},
    runtime::Stop,
    store::{Batch, StoreError},
    wire::Status,
};

/// Requests in one round: at most 8 MiB.
const ROUND: usize = 8;
/// Rounds being opened: more would only wait for a core.
const OPENING: usize = 2;
/// Rounds between request and answer.
const ROUNDS: usize = 8;
/// How often incomplete messages are looked over.
const SWEEP: Duration = Duration::from_secs(600);

/// Parts of large bodies: slot, index, bytes.
type Bodies = Vec<(u64, u32, Bytes)>;

/// Writes parts to the files of their bodies, each opened once for those that follow each other.
fn write(tables: &Tables, bodies: &Bodies) -> Result<(), StoreError> {
    for parts in bodies.chunk_by(|(a, ..), (b, ..)| a == b) {
        let mut body = tables.write_in(parts[0].0)?;
        parts.iter().try_for_each(|(_, index, part)| body.put(*index, part))?;
    }
    Ok(())
}

/// A part as far as it got.
#[derive(Debug)]
enum Item {
    /// Receipts for messages of ours that came by way of a friend, to be settled.
    Letter(Box<Inner>),
    /// Opened, and to be planned.
    Open(MessageId, Box<Inner>),
    /// Being stored, and what gives way to it.
    Part(Key, u32, Option<Box<Assembly>>),
    /// Being stored, the only part of its message.
    Whole(Key, Box<StoredMessage>),
    /// Its message is being completed.
    Completing(Key),
    /// Done: what to answer, and what to receipt.
    Done(Code, Option<(MessageId, UnixMillis)>),
}

/// How requests came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// From a peer.
    Direct,
    /// From a friend's mailbox.
    Collected,
}

/// Requests that go through together.
#[derive(Debug, Default)]
struct Round {
    requests: Vec<(Inbound<Deliver>, Vec<Item>)>,
}

impl Round {
    fn items(&mut self) -> impl Iterator<Item = &mut Item> {
        self.requests.iter_mut().flat_map(|(_, items)| items)
    }
}

/// A message whose parts are all stored.
type Complete = (Key, Rank, Box<StoredMessage>);

enum Done {
    /// With its place among the rounds.
    Opened(u64, Round),
    /// With the number of the batch, when that hands messages over.
    Committed(Round, Option<u64>, Result<(), StoreError>),
    /// Large bodies are on the disk, or not.
    Synced(Round, Vec<Complete>, Vec<(Key, StoreError)>),
    /// In the inbox, or to be tried again when a part comes again.
    Completed(Round, Vec<Complete>, Option<u64>, Result<(), StoreError>),
    /// What waited was handed over.
    Handed(u64, Result<(), StoreError>),
    /// Work that nobody waits for.
    Nothing,
}

/// What came from peers or was collected from friends, whichever is there; of both, neither can shut the other out. Empty when the
/// node stops.
async fn arrived(
    inbound: &mut mpsc::Receiver<Inbound<Deliver>>,
    collected: &mut mpsc::Receiver<Inbound<Deliver>>,
) -> (Vec<Inbound<Deliver>>, Way) {
    let mut requests = Vec::new();
    tokio::select! {
        Some(request) = collected.recv() => (vec![request], Way::Collected),
        _ = inbound.recv_many(&mut requests, ROUND) => (requests, Way::Direct),
    }
}

pub(super) struct Receiver {
    shared: Arc<Shared>,
    machine: Inbox,
    turns: Turns,
    sender: mpsc::Sender<Command>,
    missing: Client<Missing>,
    tasks: JoinSet<Done>,
    /// Questions to senders: what they say never comes, or that they did not answer. Nothing is lost with them.
    asks: JoinSet<(Lane, Option<Vec<Numbers>>)>,
    opening: usize,
    /// Rounds opened, those planned, and what was opened before its turn.
    opened: u64,
    planned: u64,
    early: BTreeMap<u64, Round>,
    rounds: usize,
}

impl Receiver {
    pub(super) fn new(
        shared: Arc<Shared>,
        (machine, turns): (Inbox, Turns),
        sender: mpsc::Sender<Command>,
        missing: Client<Missing>,
    ) -> Self {
        let (tasks, asks, early) = (JoinSet::new(), JoinSet::new(), BTreeMap::new());
        Self {
            shared,
            machine,
            turns,
            sender,
            missing,
            tasks,
            asks,
            opening: 0,
            opened: 0,
            planned: 0,
            early,
            rounds: 0,
        }
    }

    /// Serves until stopped; what is being committed then is finished and answered.
    /// `collected`: what friends kept for us, in the form of requests.
    pub(super) async fn run(
        mut self,
        mut inbound: mpsc::Receiver<Inbound<Deliver>>,
        mut collected: mpsc::Receiver<Inbound<Deliver>>,
        stop: Stop,
    ) {
        let mut sweep = tokio::time::interval(SWEEP);
        self.take_turns().await;
        loop {
            let turn = self.next_turn();
            let may_open = self.opening < OPENING && self.rounds < ROUNDS && !self.is_lost();
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done).await,
                Some(asked) = self.asks.join_next(), if !self.asks.is_empty() => self.asked(asked).await,
                () = tokio::time::sleep_until(turn) => self.take_turns().await,
                _ = sweep.tick() => self.sweep(),
                (requests, way) = arrived(&mut inbound, &mut collected), if may_open => {
                    if requests.is_empty() {
                        break;
                    }
                    self.open(requests, way);
                }
            }
        }
        while let Some(done) = self.tasks.join_next().await {
            self.done(done).await;
        }
    }

    fn open(&mut self, requests: Vec<Inbound<Deliver>>, way: Way) {
        self.opening += 1;
        self.rounds += 1;
        let place = self.opened;
        self.opened += 1;
        let (shared, sender) = (self.shared.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let worker = shared.clone();
            let opened = tokio::task::spawn_blocking(move || open_all(&worker, requests, way)).await;
            // A panic while opening drops the requests, which answers them `Busy`; the panic is reported here.
            let mut round = opened.expect("opening does not panic");
            letters::settle(&shared, &sender, &mut round).await;
            Done::Opened(place, round)
        });
    }

    async fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Opened(place, round)) => {
                self.opening -= 1;
                self.early.insert(place, round);
                while let Some(round) = self.early.remove(&self.planned) {
                    self.planned += 1;
                    self.plan(round).await;
                }
            }
            Ok(Done::Committed(round, number, result)) => self.committed(round, number, &result).await,
            Ok(Done::Synced(round, complete, spoiled)) => self.synced(round, complete, spoiled).await,
            Ok(Done::Completed(round, complete, number, result)) => {
                self.completed(round, complete, number, &result).await;
            }
            Ok(Done::Handed(number, result)) => self.handed_over(number, &result).await,
            Ok(Done::Nothing) => {}
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// Decides about every part of a round and commits what is to be stored.
    async fn plan(&mut self, mut round: Round) {
        if self.is_lost() {
            // Their senders try again.
            return self.answer(round);
        }
        let (now, contacts) = (self.shared.now(), self.shared.contacts.book());
        let (mut batch, mut bodies) = (Batch::new(), Bodies::new());
        let mut completions = Vec::new();
        for item in round.items() {
            if !matches!(item, Item::Open(..)) {
                continue;
            }
            let Item::Open(id, inner) = std::mem::replace(item, Item::Done(Code::Busy, None)) else { continue };
            let key = Key::of(&inner);
            let seen = if self.machine.knows(&key) { Ok(None) } else { self.shared.tables.seen(&key) };
            let seen = match seen.and_then(|seen| self.know_lane(&inner).map(|()| seen)) {
                Ok(seen) => seen,
                Err(error) => {
                    error!(%error, "cannot read which messages were seen");
                    continue;
                }
            };
            let held = self.shared.counts.inbox_bytes.load(Ordering::Relaxed);
            let room = Room { held, contact: contacts.contacts.contains_key(&inner.sender) };
            *item = match self.machine.plan(now, room, (id, *inner), seen) {
                Verdict::Answer(code) => {
                    if code == Code::Stored {
                        self.shared.metrics.duplicates.inc();
                    }
                    Item::Done(code, None)
                }
                Verdict::Again(id, at) => {
                    self.shared.metrics.duplicates.inc();
                    Item::Done(Code::Delivered, Some((id, at)))
                }
                Verdict::Whole { key, rank, message, body } => {
                    Tables::put_in_part(&mut batch, message.slot, 0, &body);
                    self.shared.tables.put_seen(&mut batch, &key, &message);
                    self.arrive(&key, rank, (*message).clone());
                    Item::Whole(key, message)
                }
                Verdict::Part { key, slot, index, parts, body, header, gone } => {
                    if let Some(gone) = &gone {
                        Tables::drop_assembly(&mut batch, gone);
                    }
                    if let Some(header) = header {
                        Tables::put_assembly(&mut batch, &header);
                    }
                    if parts < LARGE_PARTS {
                        Tables::put_in_part(&mut batch, slot, index, &body);
                    } else {
                        bodies.push((slot, index, body));
                    }
                    Item::Part(key, index, gone)
                }
                Verdict::Complete(key) => {
                    completions.push(key);
                    Item::Completing(key)
                }
            };
        }
        if batch.is_empty() && bodies.is_empty() {
            return self.complete(round, completions).await;
        }
        let number = self.settle(&mut batch);
        let tables = self.shared.tables.clone();
        let committing = tables.store.submit(batch).await;
        self.tasks.spawn(async move {
            // Headers first, so that what a crash leaves of the bodies is known.
            let mut result = match committing {
                Ok(committing) => committing.done().await,
                Err(error) => Err(error),
            };
            if result.is_ok() && !bodies.is_empty() {
                let written = tokio::task::spawn_blocking(move || write(&tables, &bodies));
                result = written.await.unwrap_or(Err(StoreError::Stopped));
            }
            Done::Committed(round, number, result)
        });
    }

    async fn committed(&mut self, mut round: Round, number: Option<u64>, result: &Result<(), StoreError>) {
        let failure = result.as_ref().err().map(later);
        if let Err(error) = result {
            warn!(%error, "cannot store received messages; their senders try again");
        }
        let (mut completions, mut over) = (Vec::new(), Vec::new());
        for item in round.items() {
            match item {
                Item::Part(key, index, gone) => {
                    let key = *key;
                    // What gave way is forgotten in any case.
                    over.extend(gone.take().filter(|_| result.is_err()));
                    *item = match self.machine.committed_part(&key, *index, result.is_ok()) {
                        Progress::Whole => {
                            completions.push(key);
                            Item::Completing(key)
                        }
                        progress => {
                            if let Progress::Dropped(gone) = progress {
                                over.push(gone);
                            }
                            Item::Done(failure.unwrap_or(Code::Stored), None)
                        }
                    };
                }
                Item::Whole(key, message) => {
                    self.machine.committed_whole(key);
                    let receipt = (message.received.id, message.received.received_at);
                    *item = if let Some(code) = failure {
                        Item::Done(code, None)
                    } else {
                        self.shared.counts.inbox_bytes.fetch_add(inbox_cost(message), Ordering::Relaxed);
                        Item::Done(Code::Delivered, Some(receipt))
                    };
                }
                // Found whole while planning: its parts are stored already.
                Item::Completing(key) => completions.push(*key),
                Item::Letter(..) | Item::Open(..) | Item::Done(..) => {}
            }
        }
        // Their rows may be on the disk already, or a file; removing needs no room.
        self.clear(over.iter().map(|gone| &**gone));
        self.handed(number, result.is_ok()).await;
        self.complete(round, completions).await;
    }

    /// Completes messages whose parts are all stored, then answers the round.
    async fn complete(&mut self, round: Round, mut keys: Vec<Key>) {
        keys.dedup();
        let now = self.shared.now();
        let complete = |key: Key| {
            let assembly = self.machine.assembly(&key)?;
            Some((key, assembly.rank, Box::new(assembly.message(now)?)))
        };
        let complete: Vec<Complete> = keys.into_iter().filter_map(complete).collect();
        if complete.is_empty() {
            return self.answer(round);
        }
        if complete.iter().all(|(_, _, message)| message.parts < LARGE_PARTS) {
            return self.synced(round, complete, Vec::new()).await;
        }
        let tables = self.shared.tables.clone();
        self.tasks.spawn(async move {
            let sync = move || {
                let (mut synced, mut spoiled) = (Vec::with_capacity(complete.len()), Vec::new());
                for one in complete {
                    let result = if one.2.parts < LARGE_PARTS { Ok(()) } else { tables.sync_in(one.2.slot) };
                    match result {
                        Ok(()) => synced.push(one),
                        Err(error) => spoiled.push((one.0, error)),
                    }
                }
                (synced, spoiled)
            };
            // A panic drops the round, which answers it `Busy`; the panic is reported here.
            let (synced, spoiled) = tokio::task::spawn_blocking(sync).await.expect("syncing does not panic");
            Done::Synced(round, synced, spoiled)
        });
    }

    /// Bodies are on the disk: puts their messages into the inbox. What is `spoiled` begins again.
    async fn synced(&mut self, mut round: Round, complete: Vec<Complete>, spoiled: Vec<(Key, StoreError)>) {
        let mut over = Vec::new();
        for (key, error) in spoiled {
            warn!(%error, "cannot bring the body of a message to the disk; its sender begins again");
            over.extend(self.machine.spoiled(&key));
            let done = round.items().filter(|item| matches!(item, Item::Completing(k) if *k == key));
            done.for_each(|item| *item = Item::Done(later(&error), None));
        }
        self.clear(over.iter());
        let mut batch = Batch::new();
        let lost = if self.is_lost() { Err(StoreError::Failed("a batch was lost".into())) } else { Ok(()) };
        let put = lost.and_then(|()| {
            let mut put = |(key, rank, message): &Complete| self.arrive_whole(&mut batch, key, *rank, message);
            complete.iter().try_for_each(&mut put)
        });
        let number = self.settle(&mut batch);
        let committing = match put {
            Ok(()) => self.shared.tables.store.submit(batch).await,
            Err(error) => Err(error),
        };
        self.tasks.spawn(async move {
            let result = match committing {
                Ok(committing) => committing.done().await,
                Err(error) => Err(error),
            };
            Done::Completed(round, complete, number, result)
        });
    }

    async fn completed(
        &mut self,
        mut round: Round,
        complete: Vec<Complete>,
        number: Option<u64>,
        result: &Result<(), StoreError>,
    ) {
        if let Err(error) = result {
            warn!(%error, "cannot complete received messages; their senders try again");
        }
        for (key, _, message) in complete {
            self.machine.completed(&key, result.is_ok());
            let (code, receipt) = match result {
                Ok(()) => {
                    self.shared.counts.inbox_bytes.fetch_add(inbox_cost(&message), Ordering::Relaxed);
                    (Code::Delivered, Some((message.received.id, message.received.received_at)))
                }
                Err(error) => (later(error), None),
            };
            for item in round.items() {
                if matches!(item, Item::Completing(k) if *k == key) {
                    *item = Item::Done(code, receipt);
                }
            }
        }
        self.handed(number, result.is_ok()).await;
        self.answer(round);
    }

    fn answer(&mut self, round: Round) {
        self.rounds -= 1;
        let mut heard: Vec<PeerId> = Vec::new();
        for (request, items) in round.requests {
            let (mut codes, mut receipts) = (Vec::with_capacity(items.len()), Vec::new());
            for item in items {
                let (code, receipt) = match item {
                    Item::Done(code, receipt) => (code, receipt),
                    // Its assembly went away meanwhile: the sender tries again.
                    _ => (Code::Busy, None),
                };
                self.shared.metrics.refuse(code);
                codes.push(code);
                receipts.extend(receipt);
            }
            let signed =
                (!receipts.is_empty()).then(|| receipt::sign(&self.shared.identity, &self.shared.receipts, &receipts));
            if !receipts.is_empty() && !heard.contains(&request.peer) {
                heard.push(request.peer);
            }
            request.respond(wire::answer(&codes, signed));
        }
        for peer in heard {
            self.shared.recipients.heard(peer);
            // Only a hint: when the queue is full the actor has enough to do.
            let _ = self.sender.try_send(Command::Heard(peer));
        }
    }

    fn sweep(&mut self) {
        let over = self.machine.sweep(self.shared.now());
        if over.is_empty() {
            return;
        }
        debug!(messages = over.len(), "incomplete messages dropped");
        self.clear(over.iter());
    }

    /// Clears the places of incomplete messages.
    fn clear<'a>(&mut self, over: impl Iterator<Item = &'a Assembly>) {
        let mut batch = Batch::new();
        over.for_each(|assembly| Tables::drop_assembly(&mut batch, assembly));
        if batch.is_empty() {
            return;
        }
        let store = self.shared.tables.store.clone();
        self.tasks.spawn(async move {
            if let Err(error) = store.commit(batch).await {
                warn!(%error, "cannot clear incomplete messages");
            }
            Done::Nothing
        });
    }
}

/// What the sender is told when the store failed: it tries again in any case, and its user sees why.
fn later(error: &StoreError) -> Code {
    match error {
        StoreError::DiskFull(_) => Code::DiskFull,
        StoreError::Failed(_) | StoreError::Damaged(_) | StoreError::Stopped => Code::Busy,
    }
}

/// A part before its signature is checked.
enum Step {
    Done(Item),
    /// Opened, at this place among all that were.
    Opened(MessageId, usize),
}

/// Ids, seen marks, decryption, signatures.
fn open_all(shared: &Shared, requests: Vec<Inbound<Deliver>>, way: Way) -> Round {
    let opener = shared.keys.opener();
    let (mut steps, mut opened) = (Vec::with_capacity(requests.len()), Vec::new());
    for mut request in requests {
        shared.metrics.batches_in.inc();
        shared.metrics.bytes_in.inc_by(request.request.parts.len() as u64); // usize fits in u64
        let Some(parts) = wire::take_parts(&mut request.request) else {
            request.refuse(Status::Invalid);
            continue;
        };
        let all: Vec<_> = parts.into_iter().map(|part| open(shared, &opener, part, &mut opened)).collect();
        steps.push((request, all));
    }
    let mut verified = shared.envelopes.verify(opened);
    let mut judge = |step: Step| match step {
        Step::Done(item) => item,
        Step::Opened(id, place) => match verified.get_mut(place).and_then(Option::take) {
            Some(inner) if inner.kind == Kind::Message => Item::Open(id, Box::new(inner)),
            Some(inner) if way == Way::Collected => Item::Letter(Box::new(inner)),
            // Badly signed; and who is here brings receipts by their own protocol.
            _ => Item::Done(Code::Bad, None),
        },
    };
    let requests =
        steps.into_iter().map(|(request, all)| (request, all.into_iter().map(&mut judge).collect())).collect();
    Round { requests }
}

fn open(shared: &Shared, opener: &Opener, part: BytesMut, opened: &mut Vec<Unverified>) -> Step {
    let Some(digests) = Digests::of(&part) else { return Step::Done(Item::Done(Code::Bad, None)) };
    let id = digests.id;
    match shared.tables.seen_id(&id) {
        Ok(Some(at)) => {
            shared.metrics.duplicates.inc();
            return Step::Done(Item::Done(Code::Delivered, Some((id, at))));
        }
        Ok(None) => {}
        Err(error) => {
            error!(%error, "cannot read which messages were seen");
            return Step::Done(Item::Done(Code::Busy, None));
        }
    }
    match shared.envelopes.open(opener, part, &digests) {
        Ok(part) => {
            opened.push(part);
            Step::Opened(id, opened.len() - 1)
        }
        Err(code) => Step::Done(Item::Done(code, None)),
    }
}
