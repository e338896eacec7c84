//! Three holders, an owner and depositors; lost, repeated and late requests, failed commits, crashes of everybody at any point, clocks
//! an hour apart. In the end everything that was receipted is in the inbox, nothing was acknowledged before it was durable, nothing that
//! was acknowledged came back, and no quota was exceeded at any time. `SEED=n` replays a run.
//!
//! Every receipt is claimed at the owner at some time, and maybe taken back by its sender. Holders that keep what they store are never
//! blamed; in runs where holders restore older copies of their disks, those that lost something are, and only those.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use super::{
    super::{
        collector::{Collector, Delivered, Fate, Output},
        evidence::{Fate as Said, Why},
        grant::Grant,
        machine::{Known, Limits, MESSAGE_COST, Machine, Queue, Stored, Verdict},
        refusal::Refusal,
        store::Gone,
    },
    START, offer, open_grant, preimage,
};
use crate::{
    message::friend::Terms,
    primitives::{MessageId, PeerId, UnixMillis},
};

mod promises;

use promises::{Promise, token};

const HOLDERS: usize = 3;
const MESSAGES: u64 = 60;
/// Faults happen until then, in milliseconds.
const QUIET: u64 = 120_000;
const END: u64 = 2 * 3_600_000;
const PAGE: usize = 7;
const QUOTA: u32 = 6;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

type Work = (usize, u32);

enum Event {
    /// A sender tells the owner what a holder signed, and that holder is asked to account.
    Claim(Promise),
    /// The account is at the owner: what it says, by which clock, and when it was given.
    Account(Promise, Said, UnixMillis, u64),
    /// The part is pulled by its number.
    Show(Promise, u64),
    Withdraw(Promise),
    /// A copy of a holder's disk is made, and put back.
    Copy(usize),
    Restore(usize),
    /// A depositor tries a holder until that has it, or says that the owner has.
    Deposit {
        n: u64,
        holder: usize,
    },
    Arrive {
        n: u64,
        holder: usize,
    },
    AckArrives {
        owner: u32,
        holder: usize,
        ids: Vec<MessageId>,
    },
    Commit {
        holder: Work,
    },
    PullArrives {
        owner: u32,
        holder: usize,
        after: u64,
    },
    Pulled {
        owner: u32,
        holder: usize,
        page: Option<(Vec<Stored>, u64, bool)>,
    },
    Brought {
        owner: u32,
        holder: usize,
        delivered: Delivered,
        ids: Vec<MessageId>,
    },
    Acked {
        owner: u32,
        holder: usize,
        ids: Vec<MessageId>,
        ok: bool,
    },
    Hint {
        holder: usize,
    },
    Tick,
    CrashHolder(usize),
    CrashOwner,
}

enum Write {
    Item(Stored),
    Gone(MessageId, UnixMillis, Gone),
}

enum Reply {
    Deposited(u64, MessageId, Result<(), Refusal>),
    Acked(u32, Vec<MessageId>),
}

#[derive(Clone, Default)]
struct Disk {
    known: HashMap<MessageId, Known>,
    queue: BTreeMap<u64, Stored>,
    head: u64,
    tombstones: u64,
    acked: HashSet<MessageId>,
    gone: HashMap<MessageId, Gone>,
}

struct Holder {
    id: PeerId,
    machine: Machine,
    disk: Disk,
    epoch: u32,
    skew: u64,
    waiting: Vec<Event>,
    writes: Vec<Write>,
    replies: Vec<Reply>,
    committing: bool,
    copy: Disk,
}

struct World {
    random: Random,
    now: u64,
    owner: PeerId,
    holders: Vec<Holder>,
    collector: Collector,
    epoch: u32,
    inbox: HashSet<MessageId>,
    receipted: HashSet<MessageId>,
    settled: HashSet<(u64, usize)>,
    refused: u64,
    /// What holders signed for; what of it they lost by restoring a copy, and when; what of that they got again.
    signed: HashSet<(usize, MessageId)>,
    lost: HashMap<(usize, MessageId), u64>,
    again: HashSet<(usize, MessageId)>,
    /// How promises were judged, by an account of when.
    judged: HashMap<(usize, MessageId), (Option<Why>, u64)>,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
}

fn grant() -> Grant {
    let mut grant = open_grant(1);
    grant.terms = Terms { quota_msgs: QUOTA, ..grant.terms };
    grant
}

fn fresh(owner: PeerId, disk: &Disk) -> Machine {
    let mut machine = Machine::new(Limits { max_bytes: u64::MAX, max_msgs: u64::MAX });
    let grants = BTreeMap::from([(grant().id, grant())]);
    let queue = Queue { grants, head: disk.head, durable: disk.head, tombstones: disk.tombstones, ..Queue::default() };
    machine.load(owner, queue);
    disk.queue.values().for_each(|stored| machine.load_item(&owner, stored));
    machine
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let owner = PeerId::random();
        let holder = |skew| Holder {
            id: PeerId::random(),
            machine: fresh(owner, &Disk::default()),
            disk: Disk::default(),
            epoch: 0,
            skew,
            waiting: Vec::new(),
            writes: Vec::new(),
            replies: Vec::new(),
            committing: false,
            copy: Disk::default(),
        };
        let mut world = Self {
            now: 0,
            owner,
            holders: (0..HOLDERS).map(|at| holder(at as u64 * 3_600_000)).collect(),
            collector: Collector::new(Duration::from_secs(60), random.below(u64::MAX)),
            epoch: 0,
            inbox: HashSet::new(),
            receipted: HashSet::new(),
            settled: HashSet::new(),
            refused: 0,
            signed: HashSet::new(),
            lost: HashMap::new(),
            again: HashSet::new(),
            judged: HashMap::new(),
            events: BTreeMap::new(),
            count: 0,
            random,
        };
        for n in 0..MESSAGES {
            let (first, at) = (world.random.below(HOLDERS as u64) as usize, world.random.below(QUIET));
            // At two holders, sometimes at all three.
            let copies = 2 + usize::from(world.random.below(4) == 0);
            (0..copies).for_each(|k| world.at(at, Event::Deposit { n, holder: (first + k) % HOLDERS }));
        }
        for _ in 0..12 {
            let (at, holder) = (world.random.below(QUIET), world.random.below(HOLDERS as u64) as usize);
            world.at(at, Event::CrashHolder(holder));
            let at = world.random.below(QUIET);
            world.at(at, Event::CrashOwner);
        }
        // The owner comes when some is there already.
        world.at(QUIET / 4, Event::CrashOwner);
        world.at(QUIET / 4, Event::Tick);
        world
    }

    fn at(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.insert((at.max(self.now), self.count), event);
    }

    fn later(&mut self, most: u64, event: Event) {
        let at = self.now + 1 + self.random.below(most);
        self.at(at, event);
    }

    fn fault(&mut self, percent: u64) -> bool {
        self.now < QUIET && self.random.below(100) < percent
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > END {
                break;
            }
            self.now = at;
            self.handle(event);
            self.carry_out();
        }
    }

    fn handle(&mut self, event: Event) {
        let mono = Duration::from_millis(self.now);
        match event {
            Event::Deposit { n, holder } if !self.settled.contains(&(n, holder)) => {
                if !self.fault(20) {
                    self.later(200, Event::Arrive { n, holder });
                }
                if self.fault(10) {
                    self.later(60_000, Event::Arrive { n, holder });
                }
                self.later(5000, Event::Deposit { n, holder });
            }
            Event::Arrive { holder, .. }
            | Event::AckArrives { holder, .. }
            | Event::Withdraw(Promise { holder, .. })
                if self.holders[holder].committing =>
            {
                self.holders[holder].waiting.push(event);
            }
            Event::Arrive { n, holder } => self.arrive(n, holder),
            Event::AckArrives { owner, holder, ids } => self.ack(owner, holder, ids),
            Event::Commit { holder: (holder, epoch) } if self.holders[holder].epoch == epoch => self.commit(holder),
            Event::PullArrives { owner, holder, after } => self.pull(owner, holder, after),
            Event::Pulled { owner, holder, page } if owner == self.epoch => self.bring(holder, page),
            Event::Brought { owner, holder, delivered, ids } if owner == self.epoch => {
                // Durable now, in whatever order commits end.
                self.inbox.extend(ids);
                let friend = self.holders[holder].id;
                self.collector.pulled(mono, friend, Some(delivered));
            }
            Event::Acked { owner, holder, ids, ok } if owner == self.epoch => {
                let friend = self.holders[holder].id;
                self.collector.acked(mono, friend, &ids, ok);
            }
            Event::Claim(promise) if self.fault(20) => self.later(30_000, Event::Claim(promise)),
            Event::Claim(promise) => self.claim(promise),
            Event::Account(promise, says, at, given) => self.account(promise, says, at, given),
            Event::Show(promise, given) => self.show(promise, given),
            Event::Withdraw(promise) => self.withdraw(promise),
            Event::Copy(at) => self.holders[at].copy = self.holders[at].disk.clone(),
            Event::Restore(at) => self.restore(at),
            Event::Hint { holder } => {
                let friend = self.holders[holder].id;
                self.collector.hinted(mono, friend);
            }
            Event::Tick => {
                self.collector.tick(mono);
                self.later(4000, Event::Tick);
            }
            Event::CrashHolder(at) => self.crash(at),
            Event::CrashOwner => {
                self.epoch += 1;
                self.collector = Collector::new(Duration::from_secs(60), self.random.below(u64::MAX));
                let friends: Vec<_> = self.holders.iter().map(|h| h.id).collect();
                self.collector.set_friends(mono, &friends);
            }
            _ => {}
        }
    }

    fn crash(&mut self, at: usize) {
        let owner = self.owner;
        let holder = &mut self.holders[at];
        holder.epoch += 1;
        holder.machine = fresh(owner, &holder.disk);
        (holder.writes, holder.replies, holder.waiting) = (Vec::new(), Vec::new(), Vec::new());
        holder.committing = false;
    }

    fn known(&self, at: usize, id: &MessageId) -> Option<Known> {
        let holder = &self.holders[at];
        holder.machine.fresh(&self.owner, id).or_else(|| holder.disk.known.get(id).copied())
    }

    fn arrive(&mut self, n: u64, at: usize) {
        let offer = offer(n, 0, 14 * 24 * 3600);
        let (known, owner) = (self.known(at, &offer.id), self.owner);
        let now = START.plus(Duration::from_millis(self.now + self.holders[at].skew));
        let holder = &mut self.holders[at];
        let result = match holder.machine.plan((now, true), &owner, &grant().id, &offer, known) {
            Verdict::Store(stored) => {
                holder.writes.push(Write::Item(stored));
                Ok(())
            }
            Verdict::Again(_) => Ok(()),
            Verdict::Refuse(why) => Err(why),
        };
        let queue = holder.machine.queue(&owner).unwrap();
        assert!(queue.count <= QUOTA.into(), "quota");
        holder.replies.push(Reply::Deposited(n, offer.id, result));
        self.begin(at);
    }

    fn ack(&mut self, epoch: u32, at: usize, ids: Vec<MessageId>) {
        let (owner, now) = (self.owner, START.plus(Duration::from_millis(self.now + self.holders[at].skew)));
        for id in &ids {
            let known = self.known(at, id);
            let holder = &mut self.holders[at];
            if let Some(until) = holder.machine.ack(now, &owner, *id, known) {
                let held = matches!(known, Some(Known::Held(_)));
                let how = if held { Gone::Acked(token(at, id)) } else { Gone::Never };
                holder.writes.push(Write::Gone(*id, until, how));
            }
        }
        self.holders[at].replies.push(Reply::Acked(epoch, ids));
        self.begin(at);
    }

    fn begin(&mut self, at: usize) {
        let holder = &mut self.holders[at];
        holder.committing = true;
        let work = (at, holder.epoch);
        self.later(30, Event::Commit { holder: work });
    }

    fn commit(&mut self, at: usize) {
        let (ok, owner) = (!self.fault(10), self.owner);
        let holder = &mut self.holders[at];
        holder.committing = false;
        let disk = &mut holder.disk;
        for write in std::mem::take(&mut holder.writes).into_iter().filter(|_| ok) {
            match write {
                Write::Item(stored) => {
                    assert!(disk.queue.insert(stored.seq, stored).is_none() && stored.seq == disk.head + 1, "no gap");
                    disk.head = stored.seq;
                    if self.lost.contains_key(&(at, stored.id)) {
                        self.again.insert((at, stored.id));
                    }
                    disk.known.insert(stored.id, Known::Held(stored));
                }
                Write::Gone(id, until, how) => {
                    disk.gone.insert(id, how);
                    if let Some(Known::Held(stored)) = disk.known.insert(id, Known::Gone(until)) {
                        disk.queue.remove(&stored.seq);
                    }
                    disk.tombstones += 1;
                    if !matches!(how, Gone::Withdrawn(_)) {
                        disk.acked.insert(id);
                    }
                }
            }
        }
        holder.machine.finish(ok);
        let bytes = disk.queue.values().map(|s| u64::from(s.len) + MESSAGE_COST).sum();
        assert_eq!(holder.machine.totals(), (disk.queue.len() as u64, bytes));
        assert_eq!(holder.machine.queue(&owner).unwrap().tombstones, disk.tombstones);
        let (replies, waiting) = (std::mem::take(&mut holder.replies), std::mem::take(&mut holder.waiting));
        for reply in replies {
            let lost = self.fault(15);
            match reply {
                Reply::Deposited(n, id, Ok(())) if ok && !lost => {
                    if let Some(Known::Held(stored)) = self.holders[at].disk.known.get(&id).copied() {
                        self.signed.insert((at, id));
                        let promise = Promise { holder: at, stored, preimage: preimage(n), asked: 0 };
                        self.later(QUIET, Event::Claim(promise));
                        self.later(QUIET * 2, Event::Withdraw(promise));
                    }
                    self.settled.insert((n, at));
                    self.receipted.insert(id);
                    self.later(100, Event::Hint { holder: at });
                }
                Reply::Deposited(n, _, Err(Refusal::AlreadyDelivered)) if !lost => {
                    self.settled.insert((n, at));
                }
                Reply::Deposited(_, _, Err(why)) => {
                    assert!(matches!(why, Refusal::QuotaOwner | Refusal::AlreadyDelivered), "{why}");
                    self.refused += u64::from(why == Refusal::QuotaOwner);
                }
                Reply::Deposited(..) => {}
                Reply::Acked(owner, ids) => self.later(100, Event::Acked { owner, holder: at, ids, ok: ok && !lost }),
            }
        }
        waiting.into_iter().for_each(|event| self.later(1, event));
    }

    fn pull(&mut self, owner: u32, at: usize, after: u64) {
        let disk = &self.holders[at].disk;
        let rest: Vec<_> = disk.queue.range(after + 1..).map(|(_, stored)| *stored).collect();
        assert!(rest.iter().all(|stored| !disk.acked.contains(&stored.id)), "what was acknowledged comes back");
        let page = (rest.iter().take(PAGE).copied().collect(), disk.head, rest.len() > PAGE);
        let page = (!self.fault(15)).then_some(page);
        self.later(150, Event::Pulled { owner, holder: at, page });
    }

    fn bring(&mut self, at: usize, page: Option<(Vec<Stored>, u64, bool)>) {
        let (friend, mono) = (self.holders[at].id, Duration::from_millis(self.now));
        let Some((items, head, more)) = page else { return self.collector.pulled(mono, friend, None) };
        let (mut ids, mut fates) = (Vec::new(), Vec::new());
        for stored in items {
            let fate = if self.collector.is_recent(&stored.id) || self.inbox.contains(&stored.id) {
                Fate::Done
            } else if self.fault(20) {
                [Fate::Later, Fate::Part, Fate::Busy][self.random.below(3) as usize]
            } else {
                ids.push(stored.id);
                Fate::Done
            };
            fates.push((stored.seq, stored.id, fate));
        }
        let delivered = Delivered { bytes: fates.len() as u64 * 1024, items: fates, head, more };
        self.later(50, Event::Brought { owner: self.epoch, holder: at, delivered, ids });
    }

    fn carry_out(&mut self) {
        let owner = self.epoch;
        while let Some(output) = self.collector.output() {
            let at = |world: &Self, friend| world.holders.iter().position(|h| h.id == friend).unwrap();
            match output {
                Output::Pull { friend, after } => {
                    let holder = at(self, friend);
                    if self.fault(20) {
                        self.later(2000, Event::Pulled { owner, holder, page: None });
                    } else {
                        self.later(100, Event::PullArrives { owner, holder, after });
                    }
                }
                Output::Register(keys) => panic!("there are no contacts: {keys:?}"),
                Output::Ack { friend, ids } => {
                    let holder = at(self, friend);
                    assert!(ids.iter().all(|id| self.inbox.contains(id)), "acknowledged before it is durable");
                    if self.fault(20) {
                        // Arrives nevertheless, much later.
                        self.later(30_000, Event::AckArrives { owner: u32::MAX, holder, ids: ids.clone() });
                        self.later(2000, Event::Acked { owner, holder, ids, ok: false });
                    } else {
                        // A crash of the holder loses it without an answer but the connection's end.
                        self.later(100, Event::AckArrives { owner, holder, ids: ids.clone() });
                        self.later(40_000, Event::Acked { owner, holder, ids, ok: false });
                    }
                }
            }
        }
    }
}

fn seeds(count: u64) -> Vec<u64> {
    let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    given.map_or_else(|| (0..count).collect(), |seed| vec![seed])
}

#[test]
fn nothing_that_was_receipted_is_lost_and_nothing_that_was_acknowledged_comes_back() {
    let (mut messages, mut refused, mut judged) = (0, 0, 0);
    for seed in seeds(1500) {
        println!("SEED={seed}");
        let mut world = World::new(seed);
        world.run();
        let lost = world.receipted.difference(&world.inbox).count();
        assert_eq!(lost, 0, "SEED={seed}: receipted and lost");
        assert_eq!(world.inbox.len() as u64, MESSAGES, "SEED={seed}: everything arrives in the end");
        for holder in &world.holders {
            assert!(holder.disk.queue.is_empty(), "SEED={seed}: {} are never acknowledged", holder.disk.queue.len());
        }
        let blamed: Vec<_> = world.judged.values().filter(|(why, _)| why.is_some()).collect();
        assert!(blamed.is_empty(), "SEED={seed}: honest holders are blamed: {blamed:?}");
        judged += world.judged.len();
        messages += world.inbox.len();
        refused += world.refused;
    }
    println!("{messages} messages, {refused} deposits refused for now, {judged} promises judged");
    assert!(seeds(2).len() == 1 || refused > 100 && judged > 1000, "quotas were reached");
}
