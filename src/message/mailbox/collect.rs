//! The actor around the [`Collector`]: pulls, puts what it pulled through the same door as direct messages, acknowledges.
//!
//! ```text
//!  Output::Pull ─▶ request ─▶ page ─▶ ids checked ─▶ door: batches like those of a peer ─▶ receiver: open, plan, commit
//!                                                                                            │ codes, our own receipt
//!                                     fates ◀─ durable ─ courier: receipts that we owe ◀─────┘
//! ```
//! The receiver treats a message the same way however it came, so delivery is once over any number of holders and direct tries. Receipts
//! for our own messages that others left with our friends go through the same door and end at the outbox.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, warn};

use super::{
    Metrics,
    collector::{Collector, Delivered, Fate, Keys, Output},
    courier,
    evidence::{Served, Tokens},
    machine::{Marker, Who},
    refusal::Refusal,
    resume::{self, Resume},
    wire::{self, Desk, DeskWork, Hint, Page, Pull, PulledItem},
};
use crate::{
    message::{
        contacts::deposit_keys,
        envelope::part_id,
        receipt,
        sender::next,
        shared::Shared,
        wire::{self as deliver, BATCH_BYTES, BATCH_PARTS, Code, Deliver},
    },
    net::{PeerEvent, rpc},
    primitives::{MessageId, NetworkId, PeerId, UnixMillis},
    runtime::Stop,
};

/// Batches of one page given to the receiver at one time: it commits them together.
const BATCHES: usize = 4;
/// The actor looks around at least this often.
const LOOK: Duration = Duration::from_secs(30);
/// Commands waiting.
pub(super) const QUEUE: usize = 64;

/// A kind of deposit that a friend had to refuse for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Whose.
    pub who: Who,
    /// Which quota was full.
    pub why: Refusal,
    /// How often, and since when.
    pub marker: Marker,
}

/// How collecting from one friend goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FriendStats {
    /// When it last answered, by our clock.
    pub pulled_at: Option<UnixMillis>,
    /// Why it last did not.
    pub last_error: Option<String>,
    /// The last queue number that it gave out.
    pub head: u64,
    /// What it refused because something was full.
    pub refused: Vec<Refused>,
    /// Contacts of ours whose deposit keys it knows.
    pub contacts: usize,
}

/// What the actor is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Who keeps mail for us.
    Friends(Vec<PeerId>),
    Stats(oneshot::Sender<BTreeMap<PeerId, FriendStats>>),
}

enum Done {
    Pulled(PeerId, Result<Page, String>),
    Delivered(PeerId, Delivered),
    Acked(PeerId, Vec<MessageId>, bool),
    Registered(Keys, bool),
    /// Work that nobody waits for.
    Nothing,
}

/// What collecting needs.
#[derive(Debug)]
pub(super) struct Deps {
    pub(super) shared: Arc<Shared>,
    pub(super) network: NetworkId,
    pub(super) metrics: Metrics,
    pub(super) pull: rpc::Client<Pull>,
    pub(super) desk: rpc::Client<Desk>,
    /// What comes with acknowledgements.
    pub(super) tokens: Tokens,
    /// What friends gave us.
    pub(super) served: Served,
    /// Where the receiver takes what was collected.
    pub(super) door: mpsc::Sender<rpc::Inbound<Deliver>>,
    pub(super) courier: mpsc::Sender<courier::Owe>,
}

/// Collects until stopped.
pub(super) struct Collect {
    deps: Arc<Deps>,
    machine: Collector,
    stats: HashMap<PeerId, FriendStats>,
    resume: Resume,
    started: Instant,
    tasks: JoinSet<Done>,
}

impl Collect {
    pub(super) fn new(poll: Duration, deps: Deps) -> Self {
        Self {
            deps: Arc::new(deps),
            machine: Collector::new(poll, rand::random()),
            stats: HashMap::new(),
            resume: Resume::default(),
            started: Instant::now(),
            tasks: JoinSet::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut hints: mpsc::Receiver<rpc::Inbound<Hint>>,
        peers: broadcast::Receiver<PeerEvent>,
        stop: Stop,
    ) {
        let mut peers = Some(peers);
        let mut contacts = self.deps.shared.contacts.watch();
        contacts.mark_changed();
        loop {
            self.carry_out();
            self.deps.shared.collecting.store(self.machine.is_collecting(), Ordering::Relaxed);
            let wait = self.machine.next_due().map_or(LOOK, |at| at.saturating_sub(self.now()).min(LOOK));
            tokio::select! {
                biased;
                () = stop.wait() => return,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done),
                Some(command) = commands.recv() => self.command(command),
                Ok(()) = contacts.changed() => {
                    let book = contacts.borrow_and_update().clone();
                    let (now, removed) = (self.now(), book.removed.keys().copied().collect());
                    self.machine.set_contacts(now, book.contacts.keys().copied().collect(), removed);
                }
                Some(hint) = hints.recv() => {
                    self.machine.hinted(self.now(), hint.peer);
                    hint.respond(wire::taken());
                }
                event = next(&mut peers) => match event {
                    Ok(PeerEvent::Up(peer)) => self.machine.appeared(self.now(), peer),
                    Ok(PeerEvent::Down(_)) => {}
                    Err(_) => self.machine.look_around(self.now()),
                },
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => self.machine.tick(self.now()),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Friends(friends) => {
                self.stats.retain(|friend, _| friends.contains(friend));
                self.resume.keep(&friends);
                self.machine.set_friends(self.now(), &friends);
            }
            Command::Stats(reply) => {
                let stats = |(friend, contacts): (PeerId, usize)| {
                    (friend, FriendStats { contacts, ..self.stats.get(&friend).cloned().unwrap_or_default() })
                };
                // Who asked may have gone away.
                let _ = reply.send(self.machine.friends().map(stats).collect());
            }
        }
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = self.now();
        match done {
            Ok(Done::Pulled(friend, Ok(page))) => {
                let stats = self.stats.entry(friend).or_default();
                stats.pulled_at = Some(self.deps.shared.now());
                (stats.last_error, stats.head) = (None, page.head);
                let refused = page.markers.iter().map(|((who, code), marker)| {
                    let why = Refusal::from_wire(u32::from(*code), 0);
                    Refused { who: *who, why, marker: *marker }
                });
                stats.refused = refused.collect();
                let deps = self.deps.clone();
                let news = if page.more { Vec::new() } else { self.resume.news(now, friend, &page.markers) };
                if !news.is_empty() {
                    self.tasks.spawn(async move {
                        resume::greet(&deps, friend, news).await;
                        Done::Nothing
                    });
                }
                self.deps.metrics.pulled.inc_by(page.items.len() as u64); // usize fits in u64
                let known: Vec<_> = page.items.iter().map(|item| self.machine.is_recent(&item.id)).collect();
                let deps = self.deps.clone();
                self.tasks.spawn(async move { Done::Delivered(friend, bring(&deps, friend, page, known).await) });
            }
            Ok(Done::Pulled(friend, Err(error))) => {
                debug!(%friend, %error, "cannot collect from a friend");
                self.stats.entry(friend).or_default().last_error = Some(error);
                self.machine.pulled(now, friend, None);
            }
            Ok(Done::Delivered(friend, delivered)) => self.machine.pulled(now, friend, Some(delivered)),
            Ok(Done::Registered(keys, ok)) => self.machine.registered(now, &keys, ok),
            Ok(Done::Acked(friend, ids, ok)) => self.machine.acked(now, friend, &ids, ok),
            Ok(Done::Nothing) => {}
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.machine.output() {
            let deps = self.deps.clone();
            match output {
                Output::Pull { friend, after } => {
                    self.tasks.spawn(async move { Done::Pulled(friend, pull(&deps, friend, after).await) });
                }
                Output::Register(keys) => {
                    self.tasks.spawn(async move {
                        let ok = register(&deps, &keys).await;
                        Done::Registered(keys, ok)
                    });
                }
                Output::Ack { friend, ids } => {
                    self.tasks.spawn(async move {
                        let acked = ids.iter().map(|id| (*id, deps.tokens.token(&friend, id))).collect();
                        let work = DeskWork { acked, ..DeskWork::default() };
                        let answer = deps.desk.request(friend, wire::desk(&work)).await;
                        let ok = match answer.map(|a| wire::read_desk_answer(&a)) {
                            Ok(Ok(())) => true,
                            // It keeps nothing for us any more: nothing is left to be acknowledged.
                            Ok(Err(Refusal::NotFriend | Refusal::Revoked)) => true,
                            Ok(Err(_)) | Err(_) => false,
                        };
                        Done::Acked(friend, ids, ok)
                    });
                }
            }
        }
    }
}

/// Tells a friend whose messages it may take. Whether it knows now, or need not be asked again.
async fn register(deps: &Arc<Deps>, keys: &Keys) -> bool {
    let (us, network, keys) = (deps.shared.identity.clone(), deps.network.clone(), keys.clone());
    let friend = keys.friend;
    let derive = move || [&keys.add, &keys.revoke].map(|who| deposit_keys(&us, &network, friend, who));
    let Ok([add, revoked]) = tokio::task::spawn_blocking(derive).await else { return false };
    // The grant's limits for one contact hold; we have no others.
    let contacts = add.into_iter().map(|key| (key, u32::MAX, u64::MAX)).collect();
    let work = DeskWork { contacts, revoked, ..DeskWork::default() };
    match deps.desk.request(friend, wire::desk(&work)).await.map(|answer| wire::read_desk_answer(&answer)) {
        Ok(Ok(())) => true,
        Ok(Err(refusal)) => {
            warn!(%friend, %refusal, "a friend does not take the deposit keys of our contacts");
            true
        }
        Err(error) => {
            debug!(%friend, %error, "cannot register deposit keys");
            false
        }
    }
}

async fn pull(deps: &Deps, friend: PeerId, after: u64) -> Result<Page, String> {
    let answer = deps.pull.request(friend, wire::pull(after)).await.map_err(|e| e.to_string())?;
    wire::read_pulled(answer, after).ok_or_else(|| {
        deps.metrics.bad_pages.inc();
        "the friend's answer is malformed".to_owned()
    })
}

/// Puts a page into the inbox. `known`: which items were durable before.
async fn bring(deps: &Deps, friend: PeerId, page: Page, known: Vec<bool>) -> Delivered {
    let bytes = page.items.iter().map(|item| item.part.len() as u64).sum(); // usize fits in u64
    let (mut fates, mut given) = (Vec::with_capacity(page.items.len()), Vec::new());
    let mut batches: Vec<Vec<(usize, Bytes)>> = Vec::new();
    let mut room = 0;
    for (item, known) in page.items.iter().zip(known) {
        let PulledItem { part, id, .. } = item;
        let at = fates.len();
        fates.push(if known { Fate::Done } else { Fate::Bad });
        // What a friend altered or mixed up is not the message that was left there; another friend may have that.
        if known || part_id(part) != Some(*id) {
            continue;
        }
        given.push(*id);
        let bytes = part.len() + 4;
        match batches.last_mut().filter(|b| b.len() < BATCH_PARTS && room >= bytes) {
            Some(batch) => batch.push((at, part.clone())),
            None => {
                batches.push(vec![(at, part.clone())]);
                room = BATCH_BYTES;
            }
        }
        room -= bytes.min(room);
    }
    deps.served.note(&friend, &given);
    let brought = futures::stream::iter(batches).map(|batch| bring_batch(deps, friend, batch));
    let brought: Vec<_> = brought.buffered(BATCHES).collect().await;
    for (at, fate) in brought.into_iter().flatten() {
        fates[at] = fate; // in range: it is the place of an item above
    }
    let bad = fates.iter().filter(|f| **f == Fate::Bad).count();
    if bad > 0 {
        warn!(%friend, bad, "a friend served parts that cannot be used");
    }
    let items = page.items.iter().zip(fates).map(|(item, fate)| (item.seq, item.id, fate)).collect();
    Delivered { items, head: page.head, more: page.more, bytes }
}

/// One request to our own receiver; what it delivers is receipted before it counts as done.
async fn bring_batch(deps: &Deps, friend: PeerId, batch: Vec<(usize, Bytes)>) -> Vec<(usize, Fate)> {
    let (places, parts): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let later = |places: &[usize]| places.iter().map(|at| (*at, Fate::Later)).collect();
    let (inbound, answer) = rpc::Inbound::<Deliver>::local(friend, deliver::request(&parts));
    if deps.door.send(inbound).await.is_err() {
        return later(&places);
    }
    let Some((codes, receipt)) = answer.await.ok().and_then(|answer| deliver::answered(answer, parts.len())) else {
        return later(&places);
    };
    let shared = &deps.shared;
    let entries = receipt.and_then(|r| receipt::verify(&shared.local, &shared.receipts, &r, BATCH_PARTS));
    let mut owed = Vec::new();
    for (id, at) in entries.unwrap_or_default() {
        match shared.tables.durable(&id) {
            Ok(Some(message)) => owed.push((message.received.from, id, at)),
            // Removed by its reader already: a direct try of the sender gets the receipt.
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "cannot read from whom a message is");
                return later(&places);
            }
        }
    }
    if !owed.is_empty() {
        let (reply, durable) = oneshot::channel();
        let sent = deps.courier.send(courier::Owe { list: owed, reply }).await;
        if sent.is_err() || !matches!(durable.await, Ok(Ok(()))) {
            return later(&places);
        }
    }
    places.into_iter().zip(codes.into_iter().map(fate)).collect()
}

fn fate(code: Code) -> Fate {
    match code {
        Code::Delivered => Fate::Done,
        // A clock ahead of ours, too: it does not stand in the way of what comes after it.
        Code::Stored | Code::Clock => Fate::Part,
        // Sealed to a key that is gone, or to none: kept, it would only fill the mailbox. Its sender has it until it is receipted
        // and seals it again when it is told so directly.
        Code::Bad | Code::Expired | Code::TooLarge | Code::NeedReseal => Fate::Bad,
        Code::Busy => Fate::Busy,
        Code::InboxFull | Code::DiskFull => Fate::Later,
    }
}
