//! Many nodes, lost and repeated and late requests, crashes at any point, lost keys: in the end everything accepted is in its
//! recipient's inbox once and each stream in order, and nothing that was not. `SEED=n` replays a run.

mod crash;
mod early;
mod mail;
mod order;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;

use super::super::{
    envelope::{BodyId, Inner, Kind, PART_BYTES},
    handle::{SendState, Step},
    inbox::{Assembly, Inbox, Key, Limits, Progress, Room, Verdict},
    lanes::Number,
    order::{Lane, Numbers, Order, Rank},
    outbox::{Answer, Deposited, Header, Item, Now, Outbox, Output},
    wire::{Code, StoredMessage},
};
use crate::primitives::{Hash, MessageId, PeerId, StreamId, UnixMillis};

const START: UnixMillis = UnixMillis(1_700_000_000_000);
const NODES: usize = 12;
/// Friends of each node: those after it.
const FRIENDS: usize = 3;
/// Stands for a request of nobody: parts that come from a mailbox.
const COLLECTED: u32 = u32::MAX - 1;
const MESSAGES: u64 = 60;
/// Faults happen until then, in milliseconds.
const QUIET: u64 = 120_000;
const END: u64 = 3_600_000;

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

/// A part as it travels: id, content, and the key generation it is sealed to.
#[derive(Clone)]
struct Part(MessageId, Inner, u64);

enum Event {
    Queue { from: usize, to: usize, parts: u32 },
    Sealed { node: (usize, u32), seq: u64, index: u32 },
    Request { from: (usize, u32), to: usize, flight: u64, parts: Vec<Part> },
    Commit { node: (usize, u32), reply: ((usize, u32), u64), items: Vec<Planned>, writes: Vec<Write> },
    Answer { node: (usize, u32), flight: u64, answer: Answer },
    Ended { node: (usize, u32), header: Header },
    Resealed { node: (usize, u32), seq: u64 },
    Friends { node: (usize, u32), recipient: PeerId },
    Deposit { from: (usize, u32), flight: u64, owner: usize, holder: usize, parts: Vec<Part> },
    Deposited { node: (usize, u32), flight: u64, answer: Deposited },
    Collect { node: usize },
    Receipted { sender: usize, recipient: PeerId, ids: Vec<MessageId> },
    Missing { node: (usize, u32), to: usize, lane: Lane, missing: Vec<Numbers> },
    Missed { node: (usize, u32), lane: Lane, never: Option<Vec<Numbers>> },
    Offline { node: usize },
    Tick { node: usize },
    Crash { node: usize },
    LoseKeys { node: usize },
}

enum Planned {
    Part(Key, u32),
    Whole(Key, MessageId),
    Complete(Key),
    Done(Code, Option<MessageId>),
}

enum Write {
    Part(Key, Option<Box<Assembly>>, u32),
    Gone(Key),
    Delivered(Key, Rank, MessageId),
}

/// What survives a crash.
#[derive(Default)]
struct Disk {
    outbox: BTreeMap<u64, Header>,
    assemblies: HashMap<Key, (Assembly, BTreeSet<u32>)>,
    seen: HashMap<Key, MessageId>,
    inbox: Vec<order::Arrived>,
    /// What waits for its turn, and where streams go on.
    held: BTreeMap<(Lane, u64), StoredMessage>,
    next_of: HashMap<Lane, u64>,
    /// Numbers of its own messages.
    our_next: HashMap<Lane, u64>,
    ranks: HashMap<u64, Rank>,
    /// What it holds for others, by owner.
    mail: BTreeMap<(usize, MessageId), (usize, Part)>,
    /// Letters that it holds for senders: from whom, and what they name.
    letters: Vec<(usize, PeerId, Vec<MessageId>)>,
    /// What owners have collected here.
    collected: BTreeSet<(usize, MessageId)>,
}

struct Node {
    id: PeerId,
    outbox: Outbox,
    /// Messages being sealed, lost in a crash.
    sealing: BTreeMap<u64, (Header, Number)>,
    lanes: order::Ours,
    inbox: Inbox,
    order: Order,
    /// Numbers of what it got.
    numbers: HashMap<Key, u64>,
    epoch: u32,
    keys: u64,
    next_seq: u64,
    offline_until: u64,
    disk: Disk,
}

struct World {
    random: Random,
    now: u64,
    nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    redelivered: u64,
    stored: u64,
    collected: u64,
    withdrawn: u64,
    letters: u64,
    /// Parts stored at recipients before their message was durable at its sender; messages that never were.
    early: u64,
    abandoned: u64,
    forgotten: u64,
    asked: u64,
}

fn stream(node: usize) -> StreamId {
    StreamId([node as u8; 16])
}

fn part_id(node: usize, seq: u64, sealing: usize, index: u32) -> MessageId {
    let text = format!("{node} {seq} {sealing} {index}");
    MessageId(Hash::of(text.as_bytes()).0)
}

fn inbox() -> Inbox {
    Inbox::new(Limits { max_bytes: 1 << 30, inbox_max_bytes: 1 << 40 }, 0)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let nodes = (0..NODES).map(|_| {
            let id = PeerId::random();
            Node {
                id,
                outbox: Outbox::new(id, Duration::from_secs(30), random.below(u64::MAX)),
                sealing: BTreeMap::new(),
                lanes: order::Ours::default(),
                inbox: inbox(),
                order: Order::default(),
                numbers: HashMap::new(),
                epoch: 0,
                keys: 0,
                next_seq: 0,
                offline_until: 0,
                disk: Disk::default(),
            }
        });
        let nodes = nodes.collect();
        let mut world = Self {
            random,
            now: 0,
            nodes,
            events: BTreeMap::new(),
            count: 0,
            redelivered: 0,
            stored: 0,
            collected: 0,
            withdrawn: 0,
            letters: 0,
            early: 0,
            abandoned: 0,
            forgotten: 0,
            asked: 0,
        };
        for _ in 0..MESSAGES * NODES as u64 {
            let (from, to) = (world.node(), world.node());
            let parts = if world.random.below(4) == 0 { 2 + world.random.below(9) as u32 } else { 1 };
            if from != to {
                let at = world.random.below(QUIET);
                world.at(at, Event::Queue { from, to, parts });
            }
        }
        for _ in 0..NODES * 8 {
            let (at, node) = (world.random.below(QUIET), world.node());
            world.at(at, Event::Crash { node });
            let (at, node) = (world.random.below(QUIET), world.node());
            world.at(at, Event::Offline { node });
            let (at, node) = (world.random.below(QUIET), world.node());
            if world.random.below(4) == 0 {
                world.at(at, Event::LoseKeys { node });
            }
        }
        (0..NODES).for_each(|node| world.at(1, Event::Tick { node }));
        (0..NODES).for_each(|node| world.at(1, Event::Collect { node }));
        world
    }

    fn node(&mut self) -> usize {
        self.random.below(NODES as u64) as usize
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
        self.random.below(100) < percent && self.now < QUIET
    }

    fn clock(&self) -> Now {
        Now { wall: START.plus(Duration::from_millis(self.now)), mono: Duration::from_millis(self.now) }
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > END {
                break;
            }
            self.now = at;
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock();
        let alive = |world: &Self, (node, epoch): (usize, u32)| world.nodes[node].epoch == epoch;
        match event {
            Event::Queue { from, to, parts } => self.queue(from, to, parts),
            Event::Sealed { node, seq, index } if alive(self, node) => self.sealed(node, seq, index),
            Event::Request { from, to, flight, parts } => self.request(from, to, flight, parts),
            Event::Commit { node, reply, items, writes } if alive(self, node) => {
                self.commit(node.0, reply, items, writes);
            }
            // Its connection broke with it.
            Event::Commit { reply: (node, flight), .. } => {
                self.later(2000, Event::Answer { node, flight, answer: Err("connection lost".into()) });
            }
            Event::Answer { node, flight, answer } if alive(self, node) => {
                self.nodes[node.0].outbox.answered(now, flight, answer);
                self.carry_out(node.0);
            }
            Event::Ended { node, header } if alive(self, node) => {
                self.nodes[node.0].disk.outbox.insert(header.seq, header);
            }
            Event::Resealed { node, seq } if alive(self, node) => self.reseal(node.0, seq),
            Event::Friends { node, recipient } if alive(self, node) => self.friends(node.0, recipient),
            Event::Deposit { from, flight, owner, holder, parts } => self.deposit(from, flight, owner, holder, parts),
            Event::Deposited { node, flight, answer } if alive(self, node) => {
                self.nodes[node.0].outbox.deposited(now, flight, answer);
                self.carry_out(node.0);
            }
            Event::Collect { node } => self.collect(node),
            Event::Receipted { sender, recipient, ids } => self.receipted(sender, recipient, &ids),
            Event::Missing { node, to, lane, missing } => self.missing(node, to, lane, &missing),
            Event::Missed { node, lane, never } if alive(self, node) => self.missed(node.0, lane, never.as_deref()),
            Event::Offline { node } => {
                self.nodes[node].offline_until = self.now + self.random.below(40_000);
            }
            Event::Tick { node } => {
                self.nodes[node].outbox.tick(now);
                self.carry_out(node);
                self.turns(node);
                self.later(400, Event::Tick { node });
            }
            Event::Crash { node } => self.crash(node),
            Event::LoseKeys { node } => self.nodes[node].keys += 1,
            _ => {}
        }
    }

    fn queue(&mut self, from: usize, to: usize, parts: u32) {
        let (now, recipient, keys) = (self.clock(), self.nodes[to].id, self.nodes[to].keys);
        let node = &mut self.nodes[from];
        let seq = node.next_seq;
        node.next_seq += 1;
        let mut number = node.number(Lane { peer: recipient, stream: stream(from) }, seq);
        let header = Header {
            seq,
            stream: number.lane.stream,
            number: number.rank.number,
            ids: vec![part_id(from, seq, 0, 0)],
            to: recipient,
            state: SendState::Queued,
            bytes: u64::from(parts) * PART_BYTES as u64,
            parts,
            sealed_bytes: 1089,
            key_id: keys.to_be_bytes(),
            queued_at: now.wall,
            expires_at: now.wall.plus(Duration::from_secs(86_400)),
            history: vec![Step { state: SendState::Queued, at: now.wall, by: node.id }],
            last_error: String::new(),
            left: Vec::new(),
        };
        if parts > 1 && self.random.below(3) > 0 {
            return self.seal(from, header, number);
        }
        let node = &mut self.nodes[from];
        number.keep();
        node.numbered(header.lane());
        node.disk.outbox.insert(seq, header.clone());
        node.outbox.add(now, header, true);
        self.carry_out(from);
    }

    fn part(&self, from: usize, (seq, index): Item) -> Part {
        let node = &self.nodes[from];
        let header = node.sealing.get(&seq).map_or_else(|| &node.disk.outbox[&seq], |(header, _)| header);
        assert!(index + 1 < header.parts || !node.sealing.contains_key(&seq), "the last part stays");
        let inner = Inner {
            kind: Kind::Message,
            sender: self.nodes[from].id,
            recipient: header.to,
            stream: stream(from),
            seq,
            rank: node.disk.ranks[&seq],
            sent_at: header.queued_at,
            expires_at: header.expires_at,
            key_id: header.key_id,
            file_name: String::new(),
            body: Bytes::new(),
            index,
            total: header.bytes,
            body_id: BodyId([1; 32]),
        };
        Part(part_id(from, seq, header.ids.len() - 1, index), inner, u64::from_be_bytes(header.key_id))
    }

    fn carry_out(&mut self, node: usize) {
        let epoch = self.nodes[node].epoch;
        while let Some(output) = self.nodes[node].outbox.output() {
            match output {
                Output::Send { flight, peer, items } => {
                    let to = self.nodes.iter().position(|n| n.id == peer).unwrap();
                    let parts: Vec<_> = items.into_iter().map(|item| self.part(node, item)).collect();
                    let from = (node, epoch);
                    let away = self.offline(to) || self.offline(node);
                    if self.fault(10) {
                        // Arrives nevertheless, much later, when nobody waits for it.
                        let late = Event::Request { from: (node, u32::MAX), to, flight, parts: parts.clone() };
                        self.later(60_000, late);
                    }
                    if away || self.fault(20) {
                        self.later(2000, Event::Answer { node: from, flight, answer: Err("lost".into()) });
                    } else {
                        self.later(200, Event::Request { from, to, flight, parts });
                    }
                }
                Output::Reseal(seq) => self.later(200, Event::Resealed { node: (node, epoch), seq }),
                Output::Ended(header) => {
                    assert!(!self.nodes[node].sealing.contains_key(&header.seq), "it has no state yet");
                    assert_eq!(header.state, SendState::Delivered, "nothing is lost: {}", header.last_error);
                    let key = Key { sender: self.nodes[node].id, stream: stream(node), seq: header.seq };
                    self.nodes[node].lanes.ended(&header.lane(), header.number);
                    let to = self.nodes.iter().find(|n| n.id == header.to).unwrap();
                    assert!(to.disk.seen.contains_key(&key), "delivered means durable at the recipient");
                    // Not synced: a crash may forget it.
                    self.later(100, Event::Ended { node: (node, epoch), header: *header });
                }
                Output::Changed { seq, durable } => {
                    let Some((header, _)) = self.nodes[node].outbox.get(seq).filter(|_| durable) else { continue };
                    self.changed(node, &header.clone());
                }
                Output::Friends(recipient) => self.later(200, Event::Friends { node: (node, epoch), recipient }),
                Output::Leave { flight, owner, friend, items } => {
                    let place = |peer| self.nodes.iter().position(|n| n.id == peer).unwrap();
                    let (owner, holder) = (place(owner), place(friend.peer));
                    let sealing = &self.nodes[node].sealing;
                    assert!(items.iter().all(|(seq, _)| !sealing.contains_key(seq)), "only what is durable");
                    let parts: Vec<_> = items.into_iter().map(|item| self.part(node, item)).collect();
                    if self.offline(holder) || self.offline(node) || self.fault(20) {
                        let answer = Err("lost".into());
                        self.later(2000, Event::Deposited { node: (node, epoch), flight, answer });
                    } else {
                        self.later(500, Event::Deposit { from: (node, epoch), flight, owner, holder, parts });
                    }
                }
                Output::Settle { seq, owner, settle } => {
                    if settle.withdraw {
                        self.take_back((node, seq), owner);
                    }
                }
                Output::NoReceipt(_) => panic!("recipients are honest here"),
            }
        }
    }

    fn offline(&self, node: usize) -> bool {
        self.nodes[node].offline_until > self.now
    }

    /// A header is stored: it never tells less than before, and who is named has what it signed for.
    fn changed(&mut self, node: usize, header: &Header) {
        assert!(!self.nodes[node].sealing.contains_key(&header.seq), "it has no state yet");
        let old = self.nodes[node].disk.outbox.insert(header.seq, header.clone());
        assert!(old.is_none_or(|old| old.state <= header.state), "never backward");
        let to = self.nodes.iter().position(|n| n.id == header.to).unwrap();
        let sealing = header.ids.len() - 1;
        for left in header.left.iter().filter(|l| l.at.0 > 0 && l.id == header.ids[sealing]) {
            self.stored += 1;
            let holder = self.nodes.iter().find(|n| n.id == left.holder).unwrap();
            for index in 0..header.parts {
                let key = (to, part_id(node, header.seq, sealing, index));
                // What is delivered was maybe taken back before a crash made us forget that.
                let whole = Key { sender: self.nodes[node].id, stream: stream(node), seq: header.seq };
                let delivered = self.nodes[to].disk.seen.contains_key(&whole);
                let there = holder.disk.mail.contains_key(&key) || holder.disk.collected.contains(&key) || delivered;
                assert!(there, "a friend has what it signed for");
            }
        }
    }

    fn request(&mut self, from: (usize, u32), to: usize, flight: u64, parts: Vec<Part>) {
        let (now, node) = (self.clock().wall, &mut self.nodes[to]);
        let (mut items, mut writes) = (Vec::new(), Vec::new());
        for Part(id, inner, keys) in parts {
            let key = Key::of(&inner);
            let seen = node.disk.seen.get(&key).map(|id| (*id, now));
            if keys != node.keys {
                items.push(Planned::Done(Code::NeedReseal, None));
                continue;
            }
            items.push(match node.inbox.plan(now, Room { held: 0, contact: true }, (id, inner), seen) {
                Verdict::Answer(code) => Planned::Done(code, None),
                Verdict::Again(id, _) => {
                    self.redelivered += 1;
                    Planned::Done(Code::Delivered, Some(id))
                }
                Verdict::Whole { key, rank, message, .. } => {
                    writes.push(Write::Delivered(key, rank, message.received.id));
                    Planned::Whole(key, message.received.id)
                }
                Verdict::Part { key, index, header, gone, .. } => {
                    writes.extend(gone.map(|gone| Write::Gone(gone.key)));
                    writes.push(Write::Part(key, header, index));
                    Planned::Part(key, index)
                }
                Verdict::Complete(key) => Planned::Complete(key),
            });
        }
        let node = (to, self.nodes[to].epoch);
        self.later(50, Event::Commit { node, reply: (from, flight), items, writes });
    }

    fn commit(&mut self, at: usize, reply: ((usize, u32), u64), items: Vec<Planned>, writes: Vec<Write>) {
        let ok = !self.fault(5);
        let Now { wall: now, mono } = self.clock();
        let (mut stored, mut delivered) = (Vec::new(), Vec::new());
        let node = &mut self.nodes[at];
        for write in writes.into_iter().filter(|_| ok) {
            match write {
                Write::Part(key, header, index) => {
                    stored.push(key);
                    if let Some(header) = header {
                        let parts = node.disk.assemblies.remove(&key).map(|(_, parts)| parts);
                        node.disk.assemblies.insert(key, (*header, parts.unwrap_or_default()));
                    }
                    let entry = node.disk.assemblies.get_mut(&key).expect("a header comes with the first part");
                    entry.1.insert(index);
                }
                Write::Gone(key) => drop(node.disk.assemblies.remove(&key)),
                Write::Delivered(key, rank, id) => {
                    node.arrive(mono, key, rank, id);
                    delivered.push(key);
                }
            }
        }
        let (mut codes, mut receipts, mut completing) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            let (code, receipt) = match item {
                Planned::Done(code, receipt) => (code, receipt),
                Planned::Whole(key, id) => {
                    node.inbox.committed_whole(&key);
                    if ok { (Code::Delivered, Some(id)) } else { (Code::Busy, None) }
                }
                Planned::Part(key, index) => {
                    let whole = matches!(node.inbox.committed_part(&key, index, ok), Progress::Whole);
                    completing.extend(whole.then_some(key));
                    (if ok { Code::Stored } else { Code::Busy }, None)
                }
                Planned::Complete(key) => {
                    completing.push(key);
                    (Code::Stored, None)
                }
            };
            codes.push(code);
            receipts.extend(receipt.map(|id| (id, now)));
        }
        for key in completing {
            let id = node.inbox.assembly(&key).unwrap().message(now).unwrap().received.id;
            let assembly = node.inbox.assembly(&key).unwrap();
            let (parts, rank) = (assembly.parts(), assembly.rank);
            let (_, stored) = node.disk.assemblies.remove(&key).unwrap();
            assert_eq!(stored.len(), parts as usize, "whole on disk, too");
            node.inbox.completed(&key, true);
            node.arrive(mono, key, rank, id);
            delivered.push(key);
        }
        node.settle(mono);
        let durable = |key: &Key| {
            let sender = self.nodes.iter().find(|n| n.id == key.sender).unwrap();
            sender.disk.outbox.contains_key(&key.seq)
        };
        self.early += stored.iter().filter(|key| !durable(key)).count() as u64;
        for key in delivered {
            assert!(durable(&key), "what is delivered is durable at its sender");
        }
        let ((to, epoch), flight) = reply;
        if epoch == COLLECTED {
            // What is durable here is acknowledged to all friends, and the receipt is brought.
            for id in receipts.iter().map(|(id, _)| *id) {
                for holder in (1..=FRIENDS).map(|n| (at + n) % NODES) {
                    self.nodes[holder].disk.mail.remove(&(at, id));
                    self.nodes[holder].disk.collected.insert((at, id));
                }
            }
            let (recipient, ids) = (self.nodes[at].id, receipts.into_iter().map(|(id, _)| id).collect());
            if self.offline(to) || self.fault(50) {
                self.leave_letter(to, recipient, ids);
            } else if !self.fault(30) {
                self.later(500, Event::Receipted { sender: to, recipient, ids });
            }
            return;
        }
        let answer = if self.fault(20) { Err("answer lost".into()) } else { Ok((codes, receipts)) };
        self.later(200, Event::Answer { node: (to, epoch), flight, answer });
    }
}

#[test]
fn whatever_is_lost_repeated_late_or_restarted_every_message_is_delivered_once() {
    let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let seeds: Vec<u64> = given.map_or_else(|| (0..40).collect(), |seed| vec![seed]);
    let (mut messages, mut repeated, mut stored, mut collected, mut withdrawn) = (0, 0, 0, 0, 0);
    let (mut early, mut abandoned, mut forgotten) = (0, 0, 0);
    let (mut asked, mut gaps, mut late, mut letters) = (0, 0, 0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        world.run();
        let mut expected = BTreeMap::new();
        for (at, node) in world.nodes.iter().enumerate() {
            assert_eq!(node.outbox.len(), 0, "SEED={seed}: everything ended: {:?}", node.outbox);
            for header in node.disk.outbox.values() {
                assert_eq!(header.state, SendState::Delivered, "SEED={seed}");
                let key = Key { sender: node.id, stream: stream(at), seq: header.seq };
                expected.entry(header.to).or_insert_with(Vec::new).push(key);
            }
        }
        for node in &mut world.nodes {
            let mut wanted = expected.remove(&node.id).unwrap_or_default();
            messages += wanted.len();
            wanted.sort_unstable();
            let mut inbox: Vec<_> = node.disk.inbox.iter().map(|arrived| arrived.key).collect();
            inbox.sort_unstable();
            assert!(inbox == wanted, "SEED={seed}: exactly once");
        }
        let (new_gaps, new_late) = world.check_orders(seed);
        (asked, gaps, late) = (asked + world.asked, gaps + new_gaps, late + new_late);
        world.sweep(seed);
        (repeated, letters) = (repeated + world.redelivered, letters + world.letters);
        (stored, collected, withdrawn) =
            (stored + world.stored, collected + world.collected, withdrawn + world.withdrawn);
        (early, abandoned, forgotten) = (early + world.early, abandoned + world.abandoned, forgotten + world.forgotten);
    }
    println!("{messages} messages, {repeated} receipts repeated");
    println!("{early} parts came early, {abandoned} messages were abandoned, {forgotten} forgotten in a crash");
    println!("{stored} times stored, {collected} parts collected, {withdrawn} withdrawn, {letters} letters");
    println!("{asked} times asked, {gaps} gaps, {late} came late");
    let order = asked > 100 && gaps > 10 && late > 10;
    let mail = letters > 100 && stored > 100 && collected > 100 && withdrawn > 100;
    let sealing = early > 100 && abandoned > 10 && forgotten > 10;
    assert!(given.is_some() || (repeated > 100 && mail && sealing && order), "the faults did something");
}
