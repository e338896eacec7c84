//! Messages by way of friends: the whole service at every node, over loopbacks. Over real connections, with friendships, the
//! process tests do it (`testnet/process/offline.rs`).

use std::time::Duration;

use super::{
    super::{
        Handle, SendState,
        contacts::{Pair, deposit_key},
        envelope::wire_of_stored,
        friend::{Hold, POLICY_CONTACTS, POLICY_OPEN_POW, Terms},
        mailbox::{Account, DRAIN, Grant, Part, Place, Refusal, Who},
    },
    net::{Net, Node, START, soon},
};
use crate::{
    primitives::{GrantId, Hash, MessageId, NetworkId},
    store::Family,
};

const WORK: Account = Account::Work(18);

pub(super) fn grant() -> Grant {
    let terms = Terms { policy: POLICY_OPEN_POW, ..Terms::default() };
    Grant { id: GrantId([1; 16]), epoch: 1, phase: Hold::Active, not_after: START.plus(DRAIN * 10), terms }
}

/// The sealed parts of a message that `from` has queued.
pub(super) fn queued(from: &Handle, id: MessageId) -> Vec<Part> {
    let tables = &from.shared.tables;
    let seq = tables.seq_of(&id).unwrap().unwrap();
    let parts = tables.outgoing(seq).unwrap().unwrap().parts;
    let part = |index| {
        let stored = tables.out_part(seq, index).unwrap().unwrap();
        Part { sealed: wire_of_stored(&stored).unwrap(), ttl_s: 3600, withdraw: Hash::default() }
    };
    (0..parts).map(part).collect()
}

pub(super) async fn deposit(from: &Node, holder: &Node, owner: &Node, parts: Vec<Part>) {
    let place = Place { holder: holder.address(), owner: owner.address(), grant: grant().id };
    let deposit = from.handle.mailbox().depositor().deposit(place, &WORK, parts);
    for answer in soon("deposit", deposit).await.unwrap().0 {
        answer.unwrap();
    }
}

pub(super) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let all = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, all).await;
}

pub(super) async fn held(holder: &Node, owner: &Node) -> u64 {
    let held = soon("stats", holder.handle.mailbox().held()).await.unwrap();
    held.into_iter().find(|s| s.owner == owner.address()).map_or(0, |s| s.messages)
}

/// A sender and a recipient who never meet, and friends of the recipient who agreed.
pub(super) async fn apart(net: &Net, friends: usize) -> (Node, Node, Vec<Node>) {
    let (a, b) = (Node::start(net).await, Node::start(net).await);
    let mut all = Vec::new();
    for _ in 0..friends {
        let friend = Node::start(net).await;
        friend.handle.mailbox().grant(b.address(), grant()).await.unwrap();
        all.push(friend);
    }
    net.board.set_online(b.address(), false);
    (a, b, all)
}

pub(super) async fn collect_from(b: &Node, friends: &[Node]) {
    b.handle.mailbox().set_friends(friends.iter().map(Node::address).collect()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_waits_at_two_friends_arrives_once_and_its_receipt_finds_the_sender() {
    let net = Net::new();
    let (a, b, friends) = apart(&net, 2).await;
    let one = a.handle.send(a.draft(b.address(), "one")).await.unwrap().id;
    let large: Vec<u8> = (0..700_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let two = a.handle.send(a.draft(b.address(), large.clone())).await.unwrap().id;
    for friend in &friends {
        deposit(&a, friend, &b, queued(&a.handle, one)).await;
        deposit(&a, friend, &b, queued(&a.handle, two)).await;
        assert_eq!(held(friend, &b).await, 4);
    }
    // The sender is gone when the recipient comes.
    net.mail.receipts.set_online(a.address(), false);
    let b = b.restart(|_| {}).await;
    collect_from(&b, &friends).await;
    until("both arrive", async || b.handle.inbox(10).await.unwrap().len() == 2).await;
    assert!(b.handle.read(two, true).await.unwrap().1 == large);
    assert_eq!(b.handle.read(one, true).await.unwrap().0.from, a.address());
    for friend in &friends {
        until("the friend's copies are acknowledged", async || held(friend, &b).await == 0).await;
    }
    assert_eq!(a.handle.outgoing(one).await.unwrap().state, SendState::Queued);
    assert_eq!(b.store.scan(Family::Mailbox, b"r", None, 10).unwrap().len(), 2, "two receipts are owed");
    let b = b.restart(|_| {}).await;
    net.mail.receipts.set_online(a.address(), true);
    net.peers.send(crate::net::PeerEvent::Up(a.address())).unwrap();
    for id in [one, two] {
        let end = a.handle.wait(id, SendState::Delivered, Duration::from_secs(30)).await.unwrap().unwrap();
        assert_eq!((end.state, end.history.last().unwrap().by), (SendState::Delivered, b.address()));
    }
    until("nothing is owed any more", async || b.store.scan(Family::Mailbox, b"r", None, 10).unwrap().is_empty()).await;
    assert_eq!(b.handle.inbox(10).await.unwrap().len(), 2);
    assert_eq!((a.mail_metrics.receipts_in.get(), a.metrics.forged_receipts.get()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_directly_and_was_removed_does_not_come_again_from_a_friend() {
    let net = Net::new();
    let (a, b, friends) = apart(&net, 1).await;
    let id = a.handle.send(a.draft(b.address(), "hello")).await.unwrap().id;
    deposit(&a, &friends[0], &b, queued(&a.handle, id)).await;
    let b = b.restart(|_| {}).await;
    net.online(b.address(), true);
    let end = a.handle.wait(id, SendState::Delivered, Duration::from_secs(30)).await.unwrap().unwrap();
    assert_eq!(end.state, SendState::Delivered);
    b.handle.remove(id).await.unwrap();
    collect_from(&b, &friends).await;
    until("the copy is acknowledged", async || held(&friends[0], &b).await == 0).await;
    assert!(b.handle.inbox(10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_owner_hears_of_new_mail_and_junk_is_thrown_away_without_stopping_the_rest() {
    let net = Net::new();
    let (a, b, friends) = apart(&net, 1).await;
    let friend = &friends[0];
    let b = b.restart(|_| {}).await;
    collect_from(&b, &friends).await;
    until("a first look", async || !b.handle.mailbox().friends().await.unwrap().is_empty()).await;
    net.peers.send(crate::net::PeerEvent::Up(b.address())).unwrap();
    let id = a.handle.send(a.draft(b.address(), "hello")).await.unwrap().id;
    let junk = Part { sealed: vec![1; 1089].into(), ttl_s: 3600, withdraw: Hash::default() };
    let mut parts = vec![junk];
    parts.extend(queued(&a.handle, id));
    deposit(&a, friend, &b, parts).await;
    until("it arrives", async || b.handle.inbox(10).await.unwrap().len() == 1).await;
    until("both are acknowledged", async || held(friend, &b).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_lets_contacts_in_by_key_and_learns_what_was_refused() {
    let net = Net::new();
    let (a, b, friends) = apart(&net, 1).await;
    let friend = &friends[0];
    let terms = Terms { policy: POLICY_CONTACTS, per_contact_msgs: 1, ..Terms::default() };
    let contacts_only = Grant { terms, epoch: 2, ..grant() };
    friend.handle.mailbox().grant(b.address(), contacts_only).await.unwrap();
    let b = b.restart(|_| {}).await;
    b.handle.contacts().add(a.address()).await.unwrap();
    collect_from(&b, &friends).await;
    let pair = Pair { owner: b.address(), contact: a.address(), holder: friend.address() };
    let key = deposit_key(&a.identity, &NetworkId::default(), pair).unwrap();
    until("registered", async || known_contacts(&b, friend).await == 1).await;
    b.handle.mailbox().set_friends(Vec::new()).await.unwrap();
    let first = a.handle.send(a.draft(b.address(), "one")).await.unwrap().id;
    let second = a.handle.send(a.draft(b.address(), "two")).await.unwrap().id;
    let place = Place { holder: friend.address(), owner: b.address(), grant: grant().id };
    let account = Account::Key(Box::new(key.clone()));
    let deposit = async |id| {
        let parts = queued(&a.handle, id);
        soon("deposit", a.handle.mailbox().depositor().deposit(place, &account, parts)).await.unwrap().0.remove(0)
    };
    assert!(deposit(first).await.is_ok());
    assert_eq!(deposit(second).await, Err(Refusal::QuotaContact));
    collect_from(&b, &friends).await;
    until("one arrives", async || b.handle.inbox(10).await.unwrap().len() == 1).await;
    let stats = b.handle.mailbox().friends().await.unwrap();
    let refused = &stats[&friend.address()].refused;
    assert_eq!(
        (refused[0].who, refused[0].why, refused[0].marker.count),
        (Who::Contact(key.public_key()), Refusal::QuotaContact, 1)
    );
    soon("seen", b.handle.mailbox().saw_refused(friend.address(), refused)).await.unwrap().unwrap();
    until("there is room again", async || held(friend, &b).await == 0).await;
    assert!(deposit(second).await.is_ok());
    net.peers.send(crate::net::PeerEvent::Up(friend.address())).unwrap();
    until("the other one arrives", async || b.handle.inbox(10).await.unwrap().len() == 2).await;
    assert!(b.handle.mailbox().friends().await.unwrap()[&friend.address()].refused.is_empty());
}

/// Contacts of `owner` whose deposit keys a friend knows.
pub(super) async fn known_contacts(owner: &Node, friend: &Node) -> usize {
    let stats = owner.handle.mailbox().friends().await.unwrap();
    stats.get(&friend.address()).map_or(0, |stats| stats.contacts)
}
