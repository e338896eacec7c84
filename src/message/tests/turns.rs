//! Order through the whole service: real stores, loopback protocols.

use std::time::Duration;

use bytes::Bytes;

use super::{
    super::{
        Event, SendState,
        order::{HOLD, Rank},
        outbox::{Now, Output},
        wire::{self, Code},
    },
    mail::{apart, collect_from, deposit, queued},
    net::{Net, Node, START, soon},
    order::numbers,
    service::{bodies, delivered, part, push, shown},
};
use crate::{
    identity::Identity,
    primitives::{PeerId, StreamId},
};

/// A message of a stream of `author` to `node`.
fn numbered(node: &Node, author: &Identity, number: u64, floor: u64) -> Bytes {
    part(node, author, |inner| {
        (inner.seq, inner.rank) = (number, Rank { number, floor });
        inner.body = format!("{number:04}").into();
    })
}

fn texts(bodies: Vec<Vec<u8>>) -> Vec<String> {
    bodies.into_iter().map(|body| String::from_utf8(body).unwrap()).collect()
}

/// How many are missing before each message, oldest first; `None`: it is late.
async fn marks(node: &Node) -> Vec<Option<u64>> {
    let inbox = node.handle.inbox(100).await.unwrap();
    inbox.iter().rev().map(|m| (!m.late).then_some(m.missing)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_early_is_receipted_at_once_and_shown_in_its_turn_also_after_a_restart() {
    let net = Net::new();
    let (b, author) = (Node::start(&net).await, Identity::generate());
    let from = author.address();
    let first = [3, 1, 5].map(|number| numbered(&b, &author, number, 1));
    let (codes, receipt) = push(&net, from, b.address(), &first).await;
    assert_eq!((codes, receipt.is_some()), (vec![Code::Delivered; 3], true));
    assert_eq!(texts(bodies(&b).await), ["0001"]);
    assert_eq!((b.handle.stats().inbox, b.handle.stats().unread), (1, 1));
    let b = b.restart(|_| {}).await;
    assert_eq!((texts(bodies(&b).await), b.handle.stats().inbox), (vec!["0001".to_owned()], 1));
    let mut events = b.handle.subscribe();
    let second = [4, 2].map(|number| numbered(&b, &author, number, 1));
    push(&net, from, b.address(), &second).await;
    assert_eq!(texts(bodies(&b).await), ["0001", "0002", "0003", "0004", "0005"]);
    assert_eq!(marks(&b).await, [Some(0); 5]);
    for expected in b.handle.inbox(4).await.unwrap().into_iter().rev() {
        let Event::Received(received) = soon("event", events.recv()).await.unwrap() else { panic!("another event") };
        assert_eq!(*received, expected);
    }
    let again = [3, 4].map(|number| numbered(&b, &author, number, 1));
    assert_eq!(push(&net, from, b.address(), &again).await.0, [Code::Delivered; 2], "known");
    let b = b.restart(|_| {}).await;
    assert_eq!((bodies(&b).await.len(), b.handle.stats().inbox), (5, 5));
    assert_eq!(b.store.scan(crate::store::Family::Inbox, b"w", None, 10).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_say_anything_of_is_waited_for_for_ten_seconds_and_comes_late() {
    let net = Net::new();
    let (b, author) = (Node::start(&net).await, Identity::generate());
    let began = std::time::Instant::now();
    let parts = [1, 4].map(|number| numbered(&b, &author, number, 1));
    push(&net, author.address(), b.address(), &parts).await;
    shown(&b, 2).await;
    assert!(began.elapsed() >= HOLD);
    assert_eq!(marks(&b).await, [Some(0), Some(2)]);
    push(&net, author.address(), b.address(), &[numbered(&b, &author, 2, 1)]).await;
    assert_eq!(texts(bodies(&b).await), ["0001", "0004", "0002"]);
    assert_eq!(marks(&b).await, [Some(0), Some(2), None]);
    assert_eq!((b.metrics.gaps.get(), b.metrics.late.get()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_at_the_floor_of_its_first_message_whoever_forgot_what() {
    let net = Net::new();
    let (b, author) = (Node::start(&net).await, Identity::generate());
    push(&net, author.address(), b.address(), &[numbered(&b, &author, 70, 70)]).await;
    let other = part(&b, &author, |inner| {
        inner.stream = StreamId([2; 16]);
        (inner.seq, inner.rank) = (1, Rank { number: 1, floor: 1 });
    });
    push(&net, author.address(), b.address(), &[other]).await;
    assert_eq!(marks(&b).await, [Some(0); 2]);
    // Its sender says that 71 and 72 have ended: nothing is waited for.
    push(&net, author.address(), b.address(), &[numbered(&b, &author, 73, 73)]).await;
    assert_eq!(marks(&b).await, [Some(0), Some(0), Some(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_disk_does_not_take_changes_no_order() {
    let net = Net::new();
    let (b, author) = (Node::start(&net).await, Identity::generate());
    let from = author.address();
    push(&net, from, b.address(), &[2, 3].map(|number| numbered(&b, &author, number, 1))).await;
    b.store.pretend_full(true);
    let (codes, _) = push(&net, from, b.address(), &[numbered(&b, &author, 1, 1)]).await;
    assert_eq!(codes, [Code::DiskFull]);
    assert!(b.handle.inbox(10).await.unwrap().is_empty());
    b.store.pretend_full(false);
    let (codes, _) = push(&net, from, b.address(), &[numbered(&b, &author, 1, 1)]).await;
    assert_eq!(codes, [Code::Delivered]);
    assert_eq!(
        (texts(bodies(&b).await), marks(&b).await.len()),
        (vec!["0001".into(), "0002".into(), "0003".into()], 3)
    );
    assert_eq!(marks(&b).await, [Some(0); 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_message_is_not_waited_for_once_its_sender_is_asked() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    net.online(b.address(), false);
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        ids.push(a.handle.send(a.draft(b.address(), text)).await.unwrap().id);
    }
    a.handle.cancel(ids[1]).await.unwrap();
    let began = std::time::Instant::now();
    net.online(b.address(), true);
    delivered(&a, ids[2]).await;
    shown(&b, 2).await;
    assert!(began.elapsed() < HOLD, "{:?}", began.elapsed());
    assert_eq!(
        (texts(bodies(&b).await), marks(&b).await),
        (vec!["one".into(), "three".into()], vec![Some(0), Some(1)])
    );
    assert!(b.metrics.asked.get() >= 1);
    let four = a.handle.send(a.draft(b.address(), "four")).await.unwrap().id;
    delivered(&a, four).await;
    shown(&b, 3).await;
    assert_eq!(marks(&b).await, [Some(0), Some(1), Some(0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_friend_lacks_is_asked_for_and_sent_again() {
    let net = Net::new();
    let (a, b, friends) = apart(&net, 1).await;
    let one = a.handle.send(a.draft(b.address(), "one")).await.unwrap().id;
    let two = a.handle.send(a.draft(b.address(), "two")).await.unwrap().id;
    deposit(&a, &friends[0], &b, queued(&a.handle, two)).await;
    // Nobody tells the sender that its recipient is back.
    let b = b.restart(|_| {}).await;
    net.board.set_online(b.address(), true);
    collect_from(&b, &friends).await;
    delivered(&a, one).await;
    shown(&b, 2).await;
    assert_eq!((texts(bodies(&b).await), marks(&b).await), (vec!["one".into(), "two".into()], vec![Some(0), Some(0)]));
    assert_eq!(a.handle.wait(two, SendState::Delivered, HOLD * 2).await.unwrap().unwrap().state, SendState::Delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_recipient_learns_of_its_numbers_and_a_malformed_question_is_refused() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    net.board.set_online(b.address(), false);
    a.handle.send(a.draft(b.address(), "one")).await.unwrap();
    let two = a.handle.send(a.draft(b.address(), "two")).await.unwrap().id;
    a.handle.cancel(two).await.unwrap();
    let stream = a.handle.shared.sequence.stream();
    let ask = async |from: PeerId, stream, ranges: &[_]| {
        let (client, _inbound) = net.missing.join(from);
        soon("answer", client.request(a.address(), wire::missing(stream, ranges))).await
    };
    let all = [numbers(1, u64::MAX)];
    let answer = ask(b.address(), stream, &all).await.unwrap();
    assert_eq!(wire::read_missed(&answer).unwrap(), [numbers(2, 3)]);
    let stranger = ask(PeerId::random(), stream, &all).await.unwrap();
    assert_eq!(wire::read_missed(&stranger).unwrap(), []);
    let other = ask(b.address(), StreamId([9; 16]), &all).await.unwrap();
    assert_eq!(wire::read_missed(&other).unwrap(), [], "maybe another device of ours has it");
    assert!(ask(b.address(), stream, &[]).await.is_err());
    let a = a.restart(|_| {}).await;
    let (client, _inbound) = net.missing.join(b.address());
    let answer = soon("answer", client.request(a.address(), wire::missing(stream, &all))).await.unwrap();
    assert_eq!(wire::read_missed(&answer).unwrap(), [numbers(2, 3)], "after a restart, too");
}

#[test]
fn a_recipient_that_asks_and_asks_is_sent_nothing_more_often_than_it_answers() {
    use super::super::outbox::Outbox;
    let (me, to) = (PeerId::random(), PeerId::random());
    let mut outbox = Outbox::new(me, Duration::from_secs(60), 1);
    let mut now = Now { wall: START, mono: Duration::ZERO };
    outbox.add(now, super::prop::header(0, to, me, 1), true);
    let mut sent = 0;
    for _ in 0..1000 {
        now.mono += Duration::from_millis(10);
        outbox.wanted(now, to, &[0, 7]);
        outbox.wanted(now, PeerId::random(), &[0]);
        outbox.tick(now);
        while let Some(output) = outbox.output() {
            if let Output::Send { flight, .. } = output {
                sent += 1;
                outbox.answered(now, flight, Ok((vec![Code::InboxFull], Vec::new())));
            }
        }
    }
    assert!((5..=14).contains(&sent), "{sent} times in ten seconds");
}
