//! The actor around the [`Machine`]: check (blocking), plan, commit, sign, answer.
//!
//! ```text
//!  Inbound<Deposit> ─▶ rate ─▶ check: ids, signatures, work  (blocking, 2 rounds at once)
//!  Inbound<Desk> ────────────────────────┐       │
//!  grants, sweep ────────────────────────┤       ▼
//!                                        └──▶ turn: one batch, one commit at a time ─▶ sign one receipt a request, answer
//!  Inbound<Pull> ─▶ read (blocking, 8 at once, beside the turns) ─▶ answer
//!  Inbound<Audit> ─▶ read (the same) ─▶ sign what became of each part (`evidence/account.rs`)
//! ```
//! While a turn is being synced the next one gathers: however many deposits wait, they share one sync. One turn at a time also means
//! that an ack and a deposit of the same message cannot overtake each other.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, warn};

use super::{
    Metrics,
    evidence::{self, Audit},
    grant::Grant,
    machine::{GrantError, Limits, Machine, Offer, Proof, Stored},
    metrics::Reason,
    proof::{self, StoredReceipt},
    rates::Rates,
    refusal::Refusal,
    store::Tables,
    wire::{self, Deposit, Desk, Hint, Page, Pull, RawProof},
};
use crate::{
    identity::{self, Identity, Purpose},
    message::{envelope::part_id, friend::Config},
    net::{PeerEvent, rpc},
    primitives::{Clock, GrantId, NetworkId, PeerId, UnixMillis},
    runtime::Stop,
    store::{Store, StoreError},
    wire::Status,
};

/// Deposits checked in one job, and jobs at once.
const ROUND: usize = 16;
const CHECKING: usize = 2;
/// Bytes of checked deposits that wait for their turn; no more are taken from the queue beyond it.
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Requests to the desk that wait for their turn: 13 KiB each.
const WAITING_DESK: usize = 256;
/// Pulls being read.
const PULLS: usize = 8;
/// Accounts being given.
const ACCOUNTS: usize = 8;
/// Hints under way.
const HINTS: usize = 64;
/// An owner who is connected is told of new mail once in this time, unless it has pulled meanwhile.
const HINT_PAUSE: Duration = Duration::from_secs(30);
/// How often ended messages, tombstones and markers are looked over.
const SWEEP: Duration = Duration::from_secs(30);
/// Messages over all owners: 300 bytes on disk each beside their bodies.
const MAX_MSGS: u64 = 2_000_000;
/// Commands waiting.
pub(super) const QUEUE: usize = 64;

/// What is held for one owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerStats {
    /// The owner.
    pub owner: PeerId,
    /// The newest grant that it was given.
    pub grant: Option<Grant>,
    /// Sealed parts held.
    pub messages: u64,
    /// What they cost against the quota.
    pub bytes: u64,
    /// The last queue number given out.
    pub head: u64,
    /// Ids that are remembered as collected.
    pub tombstones: u64,
    /// Registered deposit keys.
    pub contacts: usize,
    /// Deposits refused because something was full, since the owner last looked.
    pub refused: u64,
}

/// Told when a grant is durable.
pub(super) type GrantReply = oneshot::Sender<Result<(), GrantError>>;

/// What the actor is asked.
#[derive(Debug)]
pub(super) enum Command {
    Grant(PeerId, Grant, GrantReply),
    Stats(oneshot::Sender<Vec<OwnerStats>>),
    /// Look over what has ended now.
    #[cfg(test)]
    Sweep(oneshot::Sender<()>),
}

/// What the holder needs.
#[derive(Debug)]
pub(super) struct Deps {
    pub(super) identity: Identity,
    pub(super) network: NetworkId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) peers: broadcast::Receiver<PeerEvent>,
    pub(super) deposits: mpsc::Receiver<rpc::Inbound<Deposit>>,
    pub(super) pulls: mpsc::Receiver<rpc::Inbound<Pull>>,
    pub(super) desk: mpsc::Receiver<rpc::Inbound<Desk>>,
    pub(super) hints: rpc::Client<Hint>,
    pub(super) audits: mpsc::Receiver<rpc::Inbound<Audit>>,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// A deposit whose proofs are checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) inbound: rpc::Inbound<Deposit>,
    pub(super) owner: PeerId,
    pub(super) grant: GrantId,
    pub(super) offers: Vec<Offer>,
    pub(super) bytes: usize,
}

/// How one item will be answered when the turn is durable.
#[derive(Debug)]
pub(super) enum Planned {
    Refused(Refusal),
    Stored(Stored, bool),
}

/// What is answered when a batch is durable.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) deposits: Vec<(rpc::Inbound<Deposit>, PeerId, Vec<Planned>)>,
    pub(super) desk: Vec<(rpc::Inbound<Desk>, Result<(), Refusal>)>,
    pub(super) grants: Vec<GrantReply>,
    pub(super) touched: HashSet<PeerId>,
    pub(super) added: HashSet<PeerId>,
    pub(super) cleared: Vec<PeerId>,
    pub(super) granted: Vec<PeerId>,
    pub(super) acked: u64,
    pub(super) expired: u64,
    pub(super) swept: bool,
    #[cfg(test)]
    pub(super) sweepers: Vec<oneshot::Sender<()>>,
}

pub(super) enum Done {
    Checked(Vec<Checked>),
    Committed(Box<Turn>, Result<(), StoreError>),
    Read(rpc::Inbound<Pull>, Result<Page, StoreError>),
    Hinted(PeerId, bool),
    /// An account was given, or not.
    Accounted,
}

pub(super) struct Holder {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) stored: Purpose,
    pub(super) deposit: Purpose,
    pub(super) account: Purpose,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tables: Tables,
    pub(super) metrics: Metrics,
    pub(super) hints: rpc::Client<Hint>,
    pub(super) machine: Machine,
    pub(super) rates: Rates,
    pub(super) started: Instant,
    /// Owners who are connected, as far as we know.
    pub(super) online: HashSet<PeerId>,
    pub(super) hinted: HashMap<PeerId, Instant>,
    pub(super) hinting: usize,
    pub(super) checking: usize,
    pub(super) pulling: usize,
    pub(super) accounting: usize,
    pub(super) checked: VecDeque<Checked>,
    pub(super) checked_bytes: usize,
    pub(super) waiting_desk: Vec<rpc::Inbound<Desk>>,
    pub(super) waiting_grants: Vec<(PeerId, Grant, GrantReply)>,
    /// Owners whose grants are not durable yet.
    pub(super) granted: HashSet<PeerId>,
    pub(super) sweep_due: bool,
    /// Owners still to be looked over in this round.
    pub(super) sweeping: Vec<PeerId>,
    pub(super) committing: bool,
    pub(super) tasks: JoinSet<Done>,
    #[cfg(test)]
    pub(super) sweepers: Vec<oneshot::Sender<()>>,
}

/// The queues that the actor reads.
#[derive(Debug)]
pub(super) struct Queues {
    peers: Option<broadcast::Receiver<PeerEvent>>,
    deposits: mpsc::Receiver<rpc::Inbound<Deposit>>,
    pulls: mpsc::Receiver<rpc::Inbound<Pull>>,
    desk: mpsc::Receiver<rpc::Inbound<Desk>>,
    audits: mpsc::Receiver<rpc::Inbound<Audit>>,
    commands: mpsc::Receiver<Command>,
}

impl Holder {
    /// Loads what is held. Blocks.
    pub(super) fn load(config: &Config, deps: Deps) -> Result<(Self, Queues), StoreError> {
        let Deps { identity, network, clock, store, metrics, peers, deposits, pulls, desk, hints, audits, commands } =
            deps;
        let tables = Tables { store };
        let mut machine = Machine::new(Limits { max_bytes: config.max_bytes, max_msgs: MAX_MSGS });
        tables.load(&mut machine)?;
        let holder = Self {
            config: config.clone(),
            identity,
            stored: proof::stored_purpose(&network),
            deposit: proof::deposit_purpose(&network),
            account: evidence::purpose(&network),
            clock,
            tables,
            metrics,
            hints,
            machine,
            rates: Rates::default(),
            started: Instant::now(),
            online: HashSet::new(),
            hinted: HashMap::new(),
            hinting: 0,
            checking: 0,
            pulling: 0,
            accounting: 0,
            checked: VecDeque::new(),
            checked_bytes: 0,
            waiting_desk: Vec::new(),
            waiting_grants: Vec::new(),
            granted: HashSet::new(),
            sweep_due: false,
            sweeping: Vec::new(),
            committing: false,
            tasks: JoinSet::new(),
            #[cfg(test)]
            sweepers: Vec::new(),
        };
        let queues = Queues { peers: Some(peers), deposits, pulls, desk, audits, commands };
        Ok((holder, queues))
    }

    /// Serves until stopped; what is being committed then is finished and answered.
    pub(super) async fn run(mut self, mut queues: Queues, stop: Stop) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            self.turn();
            let mut requests = Vec::new();
            let ready = self.checking < CHECKING && self.checked_bytes < WAITING_BYTES;
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done),
                Some(command) = queues.commands.recv() => self.command(command),
                Some(inbound) = queues.desk.recv(), if self.waiting_desk.len() < WAITING_DESK => {
                    self.waiting_desk.push(inbound);
                }
                event = crate::message::sender::next(&mut queues.peers) => self.peer_event(event.as_ref().ok()),
                n = queues.deposits.recv_many(&mut requests, ROUND), if ready => {
                    if n == 0 {
                        break;
                    }
                    self.check(requests);
                }
                Some(inbound) = queues.pulls.recv(), if self.pulling < PULLS => self.pull(inbound),
                Some(inbound) = queues.audits.recv(), if self.accounting < ACCOUNTS => self.account_for(inbound),
                _ = sweep.tick() => self.sweep_due = true,
            }
        }
        // What is being committed is answered; the rest is asked again elsewhere.
        while self.committing {
            match self.tasks.join_next().await {
                Some(done) => self.done(done),
                None => break,
            }
        }
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Grant(owner, grant, reply) => {
                // It may have been connected for long: the first hint will tell.
                if self.machine.queue(&owner).is_none() {
                    self.online.insert(owner);
                }
                self.waiting_grants.push((owner, grant, reply));
            }
            Command::Stats(reply) => {
                let view = |(owner, q): (&PeerId, &super::machine::Queue)| OwnerStats {
                    owner: *owner,
                    grant: q.grants.values().max_by_key(|g| g.epoch).copied(),
                    messages: q.count,
                    bytes: q.bytes,
                    head: q.durable,
                    tombstones: q.tombstones,
                    contacts: q.contacts.len(),
                    refused: q.markers.values().map(|m| m.count).sum(),
                };
                // Who asked may have gone away.
                let _ = reply.send(self.machine.queues().map(view).collect());
            }
            #[cfg(test)]
            Command::Sweep(reply) => {
                self.sweep_due = true;
                self.sweepers.push(reply);
            }
        }
    }

    fn peer_event(&mut self, event: Option<&PeerEvent>) {
        match event {
            Some(PeerEvent::Up(peer)) if self.machine.queue(peer).is_some() => {
                self.online.insert(*peer);
                self.hinted.remove(peer);
                self.hint(*peer);
            }
            Some(PeerEvent::Up(_)) => {}
            Some(PeerEvent::Down(peer)) => {
                self.online.remove(peer);
            }
            // Some were missed: nobody is surely connected. Owners look by themselves too.
            None => self.online.clear(),
        }
    }

    /// Tells a connected owner that there is mail, if there is.
    fn hint(&mut self, owner: PeerId) {
        let Some(queue) = self.machine.queue(&owner).filter(|q| q.count > 0) else { return };
        let recent = self.hinted.get(&owner).is_some_and(|at| at.elapsed() < HINT_PAUSE);
        if recent || self.hinting >= HINTS || !self.online.contains(&owner) {
            return;
        }
        self.hinting += 1;
        self.hinted.insert(owner, Instant::now());
        let (client, request) = (self.hints.clone(), wire::hint(queue.count, queue.bytes));
        self.tasks.spawn(async move {
            let told = client.request(owner, request).await;
            if let Err(error) = &told {
                debug!(%owner, %error, "cannot tell an owner of its mail; it will look by itself");
            }
            Done::Hinted(owner, told.is_ok())
        });
    }

    fn check(&mut self, requests: Vec<rpc::Inbound<Deposit>>) {
        let now = self.started.elapsed();
        let allowed = |inbound: &rpc::Inbound<Deposit>| {
            let bytes = inbound.request.items.len();
            self.rates.take(now, inbound.peer, bytes)
        };
        let (requests, rated): (Vec<_>, Vec<_>) = {
            let mut allowed = allowed;
            let judged: Vec<_> = requests.into_iter().map(|r| (allowed(&r), r)).collect();
            judged.into_iter().partition(|(rate, _)| rate.is_ok())
        };
        for (rate, inbound) in rated {
            let Some(raw) = wire::read_deposit(&inbound.request) else {
                inbound.refuse(Status::Invalid);
                continue;
            };
            let why = Refusal::Rate(rate.err().unwrap_or_default());
            self.refuse(why, raw.items.len());
            let answers = vec![Err(why); raw.items.len()];
            self.answer(inbound, &raw.owner, &answers);
        }
        if requests.is_empty() {
            return;
        }
        self.checking += 1;
        let purpose = self.deposit.clone();
        self.tasks.spawn(async move {
            let work = move || requests.into_iter().filter_map(|(_, inbound)| check(&purpose, inbound)).collect();
            let checked = tokio::task::spawn_blocking(work).await;
            // A panic while checking drops the requests, which answers them `Busy`; the panic is reported here.
            Done::Checked(checked.expect("checking does not panic"))
        });
    }

    fn pull(&mut self, inbound: rpc::Inbound<Pull>) {
        let now = self.now();
        let owner = inbound.peer;
        if let Err(why) = self.machine.may_pull(&owner, now) {
            debug!(peer = %owner, %why, "a pull was refused");
            return inbound.refuse(Status::Refused);
        }
        self.pulling += 1;
        self.hinted.remove(&owner);
        let (tables, range) = (self.tables.clone(), wire::read_pull(&inbound.request));
        self.tasks.spawn(async move {
            let read = tokio::task::spawn_blocking(move || tables.page(&owner, now, range)).await;
            Done::Read(inbound, read.unwrap_or(Err(StoreError::Stopped)))
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Checked(checked)) => {
                self.checking -= 1;
                for deposit in checked {
                    self.checked_bytes += deposit.bytes;
                    self.checked.push_back(deposit);
                }
            }
            Ok(Done::Committed(turn, result)) => self.committed(*turn, &result),
            Ok(Done::Read(inbound, page)) => {
                self.pulling -= 1;
                let queue = self.machine.queue(&inbound.peer);
                match (page, queue) {
                    (Ok(mut page), Some(queue)) => {
                        // A commit may be on the disk, and read here, before its turn is known to have ended.
                        page.head = queue.durable.max(page.items.last().map_or(0, |item| item.seq));
                        page.markers = queue.markers.iter().map(|(key, marker)| (*key, *marker)).collect();
                        self.metrics.served.inc_by(page.items.len() as u64); // usize fits in u64
                        inbound.respond(wire::pulled(&page));
                    }
                    (Ok(_), None) => inbound.refuse(Status::Refused),
                    (Err(error), _) => {
                        warn!(%error, "cannot read what is held for an owner");
                        inbound.refuse(Status::Failed);
                    }
                }
            }
            Ok(Done::Accounted) => self.accounting -= 1,
            Ok(Done::Hinted(owner, told)) => {
                self.hinting -= 1;
                if !told {
                    self.online.remove(&owner);
                }
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn committed(&mut self, turn: Turn, result: &Result<(), StoreError>) {
        self.committing = false;
        self.machine.finish(result.is_ok());
        let failed = match result {
            Ok(()) => None,
            Err(StoreError::DiskFull(_)) => Some(Refusal::DiskFull),
            Err(_) => Some(Refusal::Busy),
        };
        if let Err(error) = result {
            warn!(%error, "cannot store what was left for others; depositors try again");
            self.granted.extend(turn.granted);
            // At the next tick: not again and again on a full disk.
            self.sweep_due = false;
        } else {
            turn.cleared.iter().for_each(|owner| self.machine.drop_queue(owner));
            self.metrics.acked.inc_by(turn.acked);
            self.metrics.expired.inc_by(turn.expired);
        }
        for (inbound, owner, planned) in turn.deposits {
            let answers: Vec<_> = planned.into_iter().map(|planned| self.settle(planned, failed)).collect();
            self.answer(inbound, &owner, &answers);
        }
        for (inbound, answer) in turn.desk {
            inbound.respond(wire::desk_answer(answer.and(failed.map_or(Ok(()), Err))));
        }
        for reply in turn.grants {
            // Who asked may have gone away.
            let _ = reply.send(result.clone().map_err(GrantError::Store));
        }
        if result.is_ok() {
            turn.added.into_iter().for_each(|owner| self.hint(owner));
        }
        #[cfg(test)]
        for reply in turn.sweepers {
            let _ = reply.send(());
        }
    }

    /// Signs for what is stored.
    fn answer(&self, inbound: rpc::Inbound<Deposit>, owner: &PeerId, answers: &[Result<StoredReceipt, Refusal>]) {
        let sign = |stored: &[StoredReceipt]| proof::sign(&self.identity, &self.stored, owner, stored);
        inbound.respond(wire::deposited(answers, sign));
    }

    fn settle(&self, planned: Planned, failed: Option<Refusal>) -> Result<StoredReceipt, Refusal> {
        match (planned, failed) {
            (Planned::Refused(why), _) | (Planned::Stored(..), Some(why)) => {
                self.refuse(why, 1);
                Err(why)
            }
            (Planned::Stored(stored, duplicate), None) => {
                let counter = if duplicate { &self.metrics.duplicates } else { &self.metrics.stored };
                counter.inc();
                Ok(StoredReceipt::of(&stored, duplicate))
            }
        }
    }

    fn refuse(&self, why: Refusal, times: usize) {
        let reason = Reason { code: u32::from(why.code()) };
        self.metrics.refused.get_or_create(&reason).inc_by(times as u64); // usize fits in u64
    }
}

/// Ids, signatures, work.
fn check(purpose: &Purpose, inbound: rpc::Inbound<Deposit>) -> Option<Checked> {
    let Some(raw) = wire::read_deposit(&inbound.request) else {
        inbound.refuse(Status::Invalid);
        return None;
    };
    let bytes = inbound.request.items.len();
    let (grant, owner) = (raw.grant, raw.owner);
    let offer = |item: wire::RawItem| {
        let proof = match item.proof {
            RawProof::None => Proof::None,
            RawProof::Nonce(nonce) => Proof::Work(proof::work_bits(&grant, &item.id, nonce)),
            RawProof::Key(key, signature) => {
                let text = proof::deposit_text(&grant, &item.id, item.ttl_s, &item.withdraw);
                Proof::Key(key, identity::verify_key(&key, purpose, &text, &signature))
            }
        };
        let matches = part_id(&item.part) == Some(item.id);
        Offer { id: item.id, ttl_s: item.ttl_s, withdraw: item.withdraw, part: item.part, matches, proof }
    };
    let offers = raw.items.into_iter().map(offer).collect();
    Some(Checked { inbound, owner, grant, offers, bytes })
}
