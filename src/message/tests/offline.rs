//! Messages for somebody offline: which friends get them, and the whole way over real services.

use std::time::Duration;

use super::{
    super::{
        friend::{Hold, POLICY_CONTACTS_POW, Terms},
        handle::{SendState, Step},
        mailbox::{self, Refusal, StoredReceipt, evidence::Settle},
        outbox::{Deposited, Friend, Header, Item, Left, Now, Outbox, Output},
        recipients::Granted,
        wire::Code,
    },
    net::{Net, Node, START, soon},
    service::{LONG, bodies, delivered},
};
use crate::{
    map,
    primitives::{GrantId, Hash, MessageId, PeerId, StreamId, UnixMillis},
};

const DAY: Duration = Duration::from_secs(86_400);

fn now(seconds: u64) -> Now {
    let mono = Duration::from_secs(seconds);
    Now { wall: START.plus(mono), mono }
}

fn id(seq: u64) -> MessageId {
    MessageId([u8::try_from(seq).unwrap(); 32])
}

fn header(seq: u64, to: PeerId, parts: u32) -> Header {
    Header {
        seq,
        stream: StreamId([0; 16]),
        number: seq + 1,
        ids: vec![id(seq)],
        to,
        state: SendState::Queued,
        bytes: 1,
        parts,
        sealed_bytes: 1089,
        key_id: [0; 8],
        queued_at: START,
        expires_at: START.plus(7 * DAY),
        history: vec![Step { state: SendState::Queued, at: START, by: to }],
        last_error: String::new(),
        left: Vec::new(),
    }
}

fn receipt(seq: u64) -> Result<StoredReceipt, Refusal> {
    let (grant, expires_at) = (GrantId([1; 16]), START.plus(5 * DAY));
    let withdraw = Hash([2; 32]);
    Ok(StoredReceipt { id: id(seq), grant, stored_at: START, expires_at, queue_seq: 1, duplicate: false, withdraw })
}

/// An outbox whose only recipient does not answer, and that recipient's friends.
struct Alone {
    outbox: Outbox,
    to: PeerId,
    friends: Vec<Friend>,
}

impl Alone {
    fn new(friends: usize) -> Self {
        let outbox = Outbox::new(PeerId::random(), Duration::from_secs(900), 1);
        let friend = |_| Friend { peer: PeerId::random(), grant: Hash([1; 32]) };
        Self { outbox, to: PeerId::random(), friends: (0..friends).map(friend).collect() }
    }

    /// Queues a message, lets the direct try fail, and tells who the friends are.
    fn fails(&mut self, at: Now, message: Header) -> Vec<Output> {
        self.outbox.add(at, message, true);
        let sent = self.outputs();
        let [Output::Send { flight, .. }] = sent[..] else { panic!("{sent:?}") };
        self.outbox.answered(at, flight, Err("nobody answers".into()));
        assert_eq!(self.outputs(), [Output::Friends(self.to)]);
        self.outbox.friends(at, self.to, Ok(self.friends.clone()));
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.outbox.output()).collect()
    }

    fn answer(&mut self, at: Now, flight: u64, answer: Deposited) -> Vec<Output> {
        self.outbox.deposited(at, flight, answer);
        self.outputs()
    }

    fn header(&self, seq: u64) -> &Header {
        self.outbox.get(seq).unwrap().0
    }
}

/// Flights, friends and parts of what is left.
fn leaves(outputs: &[Output]) -> Vec<(u64, Friend, Vec<Item>)> {
    let leave = |output: &Output| match output {
        Output::Leave { flight, friend, items, .. } => Some((*flight, *friend, items.clone())),
        _ => None,
    };
    outputs.iter().filter_map(leave).collect()
}

#[test]
fn the_best_two_friends_get_it_the_next_one_steps_in_and_a_direct_delivery_takes_it_back() {
    let mut alone = Alone::new(3);
    let friends = alone.friends.clone();
    let message = header(1, alone.to, 2);
    let first = leaves(&alone.fails(now(0), message));
    let both = vec![(1, 0), (1, 1)];
    assert_eq!(
        first.iter().map(|l| (l.1, l.2.clone())).collect::<Vec<_>>(),
        [(friends[0], both.clone()), (friends[1], both.clone())]
    );
    // The best one is dead: the third takes its place, at once.
    let second = leaves(&alone.answer(now(1), first[0].0, Err("connection refused".into())));
    assert_eq!(second.iter().map(|l| (l.1, l.2.clone())).collect::<Vec<_>>(), [(friends[2], both)]);
    assert_eq!(alone.header(1).state, SendState::Queued, "nobody has it");
    // One part alone is not the message.
    let some = alone.answer(now(1), second[0].0, Ok(vec![receipt(1), Err(Refusal::Busy)]));
    assert_eq!((alone.header(1).state, leaves(&some).len()), (SendState::Queued, 0));
    let mut outputs = alone.answer(now(3), first[1].0, Ok(vec![receipt(1), receipt(2)]));
    assert!(outputs.contains(&Output::Changed { seq: 1, durable: true }));
    let view = alone.header(1).view(0);
    assert_eq!((view.state, view.holders), (SendState::Stored, vec![friends[1].peer]));
    // A second holder is still wanted.
    alone.outbox.tick(now(5));
    outputs.extend(alone.outputs());
    let more = leaves(&outputs);
    assert_eq!(more.len(), 1, "{more:?}");
    let receipts = more[0].2.iter().map(|(_, index)| receipt(1 + u64::from(*index))).collect();
    alone.answer(now(6), more[0].0, Ok(receipts));
    let steps: Vec<_> = alone.header(1).history.iter().map(|s| (s.state, s.by)).collect();
    let by = more[0].1.peer;
    assert_eq!(steps[1..], [(SendState::Stored, friends[1].peer), (SendState::Stored, by)]);
    alone.outbox.tick(now(60));
    let retry = alone.outputs();
    assert!(leaves(&retry).is_empty(), "two are enough: {retry:?}");
    // The recipient is back and takes it from us.
    let flight = outputs.iter().chain(&retry).find_map(|o| match o {
        Output::Send { flight, items, .. } => Some((*flight, items.len())),
        _ => None,
    });
    let (flight, items) = flight.expect("direct tries go on");
    alone.outbox.answered(now(61), flight, Ok((vec![Code::Delivered; items], vec![(id(1), START)])));
    let end = alone.outputs();
    assert!(end.contains(&Output::Settle { seq: 1, owner: alone.to, settle: Settle::DELIVERED }), "{end:?}");
    let Some(Output::Ended(header)) = end.last() else { panic!("{end:?}") };
    assert_eq!(header.state, SendState::Delivered);
}

#[test]
fn two_seconds_of_silence_are_enough_for_friends_and_a_late_answer_still_counts() {
    let mut alone = Alone::new(1);
    alone.outbox.add(now(0), header(1, alone.to, 1), true);
    let sent = alone.outputs();
    let [Output::Send { flight, .. }] = sent[..] else { panic!("{sent:?}") };
    alone.outbox.tick(now(1));
    assert_eq!(alone.outputs(), []);
    alone.outbox.tick(now(2));
    assert_eq!(alone.outputs(), [Output::Friends(alone.to)]);
    alone.outbox.friends(now(2), alone.to, Ok(alone.friends.clone()));
    let left = leaves(&alone.outputs());
    assert_eq!((left.len(), left[0].2.clone()), (1, vec![(1, 0)]));
    alone.outbox.answered(now(3), flight, Ok((vec![Code::Delivered], vec![(id(1), START)])));
    let outputs = alone.outputs();
    assert!(matches!(&outputs[..], [Output::Ended(header)] if header.state == SendState::Delivered), "{outputs:?}");
    let after = alone.answer(now(4), left[0].0, Ok(vec![receipt(1)]));
    assert_eq!(after, [Output::Settle { seq: 1, owner: alone.to, settle: Settle::TAKEN_BACK }]);
    // What takes long to send is no silence.
    let mut alone = Alone::new(1);
    alone.outbox.add(now(0), header(1, alone.to, 4), true);
    assert_eq!(alone.outputs().len(), 1);
    alone.outbox.tick(now(9));
    assert_eq!(alone.outputs(), []);
}

#[test]
fn refusals_are_kept_with_their_reason_and_what_is_for_ever_is_not_tried_again() {
    let mut alone = Alone::new(2);
    let friends = alone.friends.clone();
    let message = header(1, alone.to, 1);
    let first = leaves(&alone.fails(now(0), message));
    let never = alone.answer(now(0), first[0].0, Ok(vec![Err(Refusal::TooLarge(10))]));
    assert!(leaves(&never).is_empty());
    let full = alone.answer(now(0), first[1].0, Ok(vec![Err(Refusal::QuotaOwner)]));
    assert!(leaves(&full).is_empty(), "full: not at once again");
    let reasons: Vec<_> = alone.header(1).left.iter().map(|l| (l.holder, l.refused.clone(), l.never)).collect();
    let reason = |refusal: Refusal| refusal.to_string();
    let expected =
        [(friends[0].peer, reason(Refusal::TooLarge(10)), true), (friends[1].peer, reason(Refusal::QuotaOwner), false)];
    assert_eq!(reasons, expected);
    assert!(alone.header(1).last_error.contains("mailbox is full"));
    alone.outbox.tick(now(30));
    let again = leaves(&alone.outputs());
    assert_eq!(again.iter().map(|l| l.1).collect::<Vec<_>>(), [friends[1]], "only the one that was full");
    // The same after a restart.
    let mut later = Alone { friends: friends.clone(), to: alone.to, ..Alone::new(0) };
    let outputs = later.fails(now(40), alone.header(1).clone());
    assert_eq!(leaves(&outputs).iter().map(|l| l.1).collect::<Vec<_>>(), [friends[1]]);
    // Under another grant it may be taken.
    let other = Friend { grant: Hash([2; 32]), ..friends[0] };
    later.outbox.friends(now(41), later.to, Ok(vec![other, friends[1]]));
    assert_eq!(leaves(&later.outputs()).iter().map(|l| l.1).collect::<Vec<_>>(), [other]);
}

#[test]
fn what_was_left_in_an_earlier_run_is_not_left_again_until_its_time_is_over() {
    let mut alone = Alone::new(2);
    let holder = |n: usize, until: Duration| Left {
        holder: alone.friends[n].peer,
        id: id(1),
        grant: Hash([1; 32]),
        at: START,
        until: START.plus(until),
        refused: String::new(),
        never: false,
    };
    let left = vec![holder(0, 5 * DAY), holder(1, DAY)];
    let message = Header { left, state: SendState::Stored, ..header(1, alone.to, 1) };
    assert!(leaves(&alone.fails(now(0), message.clone())).is_empty());
    let mut late = Alone { friends: alone.friends.clone(), to: alone.to, ..Alone::new(0) };
    let day_after = now(DAY.as_secs() + 1);
    let again = leaves(&late.fails(day_after, message.clone()));
    assert_eq!(again.iter().map(|l| l.1).collect::<Vec<_>>(), [alone.friends[1]]);
    // A promise for no time is none, and does not make it busy.
    let past = Ok(StoredReceipt { expires_at: UnixMillis(1), ..receipt(1).unwrap() });
    assert!(leaves(&late.answer(day_after, again[0].0, Ok(vec![past]))).is_empty());
    assert_eq!(late.header(1).left, message.left);
}

/// Friends who hold everything for `owner`.
pub(super) async fn befriend(net: &Net, owner: &Node, friends: &[&Node]) {
    let mut listed = Vec::new();
    for (friend, n) in friends.iter().zip(1..) {
        let (id, hash) = (GrantId([n; 16]), [n; 32]);
        let not_after = START.plus(90 * DAY);
        let terms = Terms { policy: POLICY_CONTACTS_POW, ..Terms::default() };
        let grant = mailbox::Grant { id, epoch: 1, phase: Hold::Active, not_after, terms };
        friend.handle.mailbox().grant(owner.address(), grant).await.unwrap();
        let granted = Granted { id, not_after, max_ttl_s: 86_400, policy: POLICY_CONTACTS_POW };
        net.grants.lock().unwrap().insert((owner.address(), friend.address(), Hash(hash)), granted);
        let (address, priority) = (friend.address(), u32::from(n));
        listed.push(map::Friend { address, addrs: Vec::new(), grant_hash: Some(hash), priority });
    }
    net.friends.lock().unwrap().insert(owner.address(), listed);
    // Nobody is judged unless a test says so.
    owner.handle.mailbox().evidence().judge(Vec::new());
    owner.handle.mailbox().set_friends(friends.iter().map(|f| f.address()).collect()).await.unwrap();
}

pub(super) async fn held(node: &Node) -> u64 {
    node.handle.mailbox().held().await.unwrap().iter().map(|h| h.messages).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn friends_hold_messages_until_the_recipient_collects_them_and_the_receipt_finds_the_sender() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let (f, g) = (Node::start(&net).await, Node::start(&net).await);
    befriend(&net, &b, &[&f, &g]).await;
    net.online(b.address(), false);
    let small = a.handle.send(a.draft(b.address(), "small")).await.unwrap();
    let large = a.handle.send(a.draft(b.address(), vec![7; 600_000])).await.unwrap();
    for id in [small.id, large.id] {
        let stored = a.handle.wait(id, SendState::Stored, LONG).await.unwrap().expect("in time");
        assert_eq!(stored.state, SendState::Stored, "{}", stored.last_error);
    }
    soon("both friends hold all four parts", async {
        while held(&f).await != 4 || held(&g).await != 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The sender forgets nothing, and is away when the recipient is back.
    let a = a.restart(|_| {}).await;
    assert_eq!(a.handle.outgoing(small.id).await.unwrap().state, SendState::Stored);
    net.online(a.address(), false);
    net.online(b.address(), true);
    soon("collected", async {
        while b.handle.stats().inbox != 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut there = bodies(&b).await;
    there.sort();
    assert!(there == [vec![7; 600_000], b"small".to_vec()], "both, whole");
    net.online(a.address(), true);
    delivered(&a, small.id).await;
    delivered(&a, large.id).await;
    let told = a.handle.outgoing(small.id).await.unwrap();
    let states: Vec<_> = told.history.iter().map(|s| (s.state, s.by)).collect();
    assert_eq!(states.first().map(|s| s.0), Some(SendState::Queued));
    assert!(states.contains(&(SendState::Stored, f.address())), "{states:?}");
    assert_eq!(states.last(), Some(&(SendState::Delivered, b.address())));
    assert_eq!(b.handle.stats().inbox, 2, "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_directly_is_taken_back_from_friends() {
    let net = Net::new();
    let (a, b, f) = (Node::start(&net).await, Node::start(&net).await, Node::start(&net).await);
    befriend(&net, &b, &[&f]).await;
    net.online(b.address(), false);
    let sent = a.handle.send(a.draft(b.address(), "either way")).await.unwrap();
    let stored = a.handle.wait(sent.id, SendState::Stored, LONG).await.unwrap().expect("in time");
    assert_eq!((stored.state, stored.holders), (SendState::Stored, vec![f.address()]));
    assert_eq!(held(&f).await, 1);
    // The recipient knows of no friends any more, so it cannot have collected it.
    b.handle.mailbox().set_friends(Vec::new()).await.unwrap();
    net.online(b.address(), true);
    delivered(&a, sent.id).await;
    soon("withdrawn", async {
        while held(&f).await != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bodies(&b).await, [b"either way"]);
}
