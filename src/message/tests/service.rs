//! Real services, real stores, no swarm.

use std::{fs, time::Duration};

use super::{
    super::{
        Body, Config, Deliver, Draft, Event, MessageError, SendState,
        envelope::{BodyId, Envelopes, Inner, Kind, PART_BYTES},
        order::Rank,
        receipt,
        store::LARGE_PARTS,
        wire::{self, Code},
    },
    early::no_body,
    net::{Net, Node, START, soon},
};
use crate::{
    identity::{Identity, SealSession},
    net::rpc,
    primitives::{MessageId, NetworkId, PeerId, StreamId},
    store::{Batch, Family, Shelf},
};

pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) async fn delivered(node: &Node, id: MessageId) {
    let end = node.handle.wait(id, SendState::Delivered, LONG).await.unwrap().expect("in time");
    assert_eq!(end.state, SendState::Delivered, "{}", end.last_error);
}

/// The whole inbox: ids and bodies, oldest first.
pub(super) async fn bodies(node: &Node) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for message in node.handle.inbox(10_000).await.unwrap() {
        bodies.push(node.handle.read(message.id, false).await.unwrap().1);
    }
    bodies.reverse();
    bodies
}

/// Waits until so many messages are shown.
pub(super) async fn shown(node: &Node, count: usize) {
    let all = async {
        while node.handle.inbox(100).await.unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("messages are shown", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_is_receipted_read_and_removed() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let mut events = b.handle.subscribe();
    let mut draft = a.draft(b.address(), "hello");
    draft.file_name = "hello.txt".into();
    let sent = a.handle.send(draft).await.unwrap();
    delivered(&a, sent.id).await;
    let end = a.handle.outgoing(sent.id).await.unwrap();
    let states: Vec<_> = end.history.iter().map(|s| (s.state, s.by)).collect();
    let (me, you) = (a.address(), b.address());
    assert_eq!(states, [(SendState::Queued, me), (SendState::Sent, me), (SendState::Delivered, you)]);
    assert_eq!((end.sent_bytes, end.holders.as_slice(), end.last_error.as_str()), (5, &[you][..], ""));
    let Event::Received(received) = soon("event", events.recv()).await.unwrap() else { panic!("another event") };
    assert_eq!((received.id, received.from, received.bytes, received.read), (sent.id, me, 5, false));
    assert_eq!(received.file_name, "hello.txt");
    assert_eq!((b.handle.stats().inbox, b.handle.stats().unread), (1, 1));
    assert_eq!(b.handle.read(sent.id, true).await.unwrap().1, b"hello");
    assert!(b.handle.inbox(10).await.unwrap()[0].read);
    assert_eq!((b.handle.stats().inbox, b.handle.stats().unread), (1, 0));
    b.handle.remove(sent.id).await.unwrap();
    assert_eq!(b.handle.remove(sent.id).await, Err(MessageError::NotFound));
    assert_eq!(b.handle.read(sent.id, false).await, Err(MessageError::NotFound));
    assert_eq!(b.handle.stats().inbox, 0);
    assert_eq!(a.handle.cancel(sent.id).await, Err(MessageError::TooLate(SendState::Delivered)));
    assert_eq!(a.handle.stats().outbox_pending, 0);
    assert!(a.store.scan(Family::OutboxBody, b"", None, 10).unwrap().is_empty(), "the body is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_drafts_are_refused_and_their_spool_files_removed() {
    let net = Net::new();
    let config = Config { max_bytes: 1000, outbox_max_bytes: 3000, ..Config::default() };
    let (a, b) = (Node::with(&net, config).await, Node::start(&net).await);
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("body");
    fs::write(&spool, vec![0; 1001]).unwrap();
    let file = Draft { to: b.address(), body: Body::File(spool.clone()), file_name: String::new(), ttl: None };
    assert_eq!(a.handle.send(file).await, Err(MessageError::TooLarge { got: 1001, limit: 1000 }));
    assert!(!spool.exists());
    let to_me = a.handle.send(a.draft(a.address(), "x")).await;
    assert!(matches!(to_me, Err(MessageError::Invalid(_))));
    let nobody = PeerId::random();
    assert_eq!(a.handle.send(a.draft(nobody, "x")).await, Err(MessageError::UnknownRecipient(nobody)));
    let mut long = a.draft(b.address(), "x");
    long.file_name = "n".repeat(256);
    assert!(matches!(a.handle.send(long).await, Err(MessageError::Invalid(_))));
    let mut forever = a.draft(b.address(), "x");
    forever.ttl = Some(Duration::from_secs(31 * 24 * 3600));
    assert!(matches!(a.handle.send(forever).await, Err(MessageError::Invalid(_))));
    net.online(b.address(), false);
    a.handle.send(a.draft(b.address(), vec![1; 1000])).await.unwrap();
    assert!(matches!(a.handle.send(a.draft(b.address(), vec![1; 1000])).await, Err(MessageError::Full(_))));
    assert_eq!(a.handle.stats().outbox_pending, 1, "only what was accepted");
    assert_eq!(a.handle.outgoing(MessageId([7; 32])).await, Err(MessageError::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_somebody_offline_go_out_when_it_returns() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    net.online(b.address(), false);
    let mut ids = Vec::new();
    for i in 0..100 {
        ids.push(a.handle.send(a.draft(b.address(), format!("{i}"))).await.unwrap().id);
    }
    let short = Duration::from_millis(1);
    assert_eq!(a.handle.wait(ids[0], SendState::Sent, short).await.unwrap(), None);
    let listed = a.handle.outbox(1000).await.unwrap();
    assert!(listed.iter().all(|m| m.state == SendState::Queued));
    assert_eq!(listed.iter().map(|m| m.id).rev().collect::<Vec<_>>(), ids, "newest first");
    net.online(b.address(), true);
    for id in ids {
        delivered(&a, id).await;
    }
    assert_eq!(bodies(&b).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_either_side_loses_and_doubles_nothing() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let body: Vec<u8> = (0..PART_BYTES * 5 / 2).map(|i| (i % 251) as u8).collect();
    net.online(b.address(), false);
    let small = a.handle.send(a.draft(b.address(), "small")).await.unwrap().id;
    let large = a.handle.send(a.draft(b.address(), body.clone())).await.unwrap().id;
    let a = a.restart(|_| {}).await;
    assert_eq!(a.handle.stats().outbox_pending, 2);
    assert_eq!(a.handle.outgoing(large).await.unwrap().state, SendState::Queued);
    let b = b.restart(|_| {}).await;
    net.online(b.address(), true);
    delivered(&a, small).await;
    delivered(&a, large).await;
    let a = a.restart(|_| {}).await;
    let b = b.restart(|_| {}).await;
    assert_eq!(a.handle.outgoing(large).await.unwrap().state, SendState::Delivered);
    let mut got = bodies(&b).await;
    got.sort_by_key(Vec::len);
    assert!(got == [b"small".to_vec(), body], "both, once");
    assert_eq!((b.handle.stats().inbox, b.handle.stats().unread), (2, 2));
    let next = a.handle.send(a.draft(b.address(), "small")).await.unwrap().id;
    delivered(&a, next).await;
    assert_eq!(b.handle.stats().inbox, 3, "a new message, not taken for an old one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_that_lost_its_keys_gets_the_message_sealed_again_under_the_same_id() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    net.online(b.address(), false);
    let body: Vec<u8> = vec![9; PART_BYTES + 1];
    let in_a_file: Vec<u8> = vec![10; PART_BYTES * LARGE_PARTS as usize];
    let small = a.handle.send(a.draft(b.address(), "small")).await.unwrap().id;
    let large = a.handle.send(a.draft(b.address(), body.clone())).await.unwrap().id;
    let larger = a.handle.send(a.draft(b.address(), in_a_file.clone())).await.unwrap().id;
    let lose_keys = |store: &crate::store::Store| {
        let mut batch = Batch::new();
        batch.delete(Family::Meta, b"encryption_keyring".as_slice());
        store.write_unsynced(batch).unwrap();
    };
    let before = b.handle.encryption_key_id();
    let b = b.restart(lose_keys).await;
    assert_ne!(b.handle.encryption_key_id(), before);
    net.online(b.address(), true);
    delivered(&a, small).await;
    delivered(&a, large).await;
    delivered(&a, larger).await;
    let mut got = bodies(&b).await;
    got.sort_by_key(Vec::len);
    assert!(got == [b"small".to_vec(), body, in_a_file], "all, once");
    assert_eq!(a.metrics.resealed.get(), 3);
    assert!(a.handle.outbox(10).await.unwrap().iter().all(|m| [small, large, larger].contains(&m.id)));
    no_body(&a.store, Shelf::Outbox).await;
    assert!(a.store.scan(Family::OutboxBody, b"", None, 10).unwrap().is_empty(), "and what was sealed again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_16_mib_from_a_file_arrives_whole() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("body");
    let body: Vec<u8> = (0..16 * 1024 * 1024_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&spool, &body).unwrap();
    let started = std::time::Instant::now();
    let draft = Draft { to: b.address(), body: Body::File(spool.clone()), file_name: "big".into(), ttl: None };
    let sent = a.handle.send(draft).await.unwrap();
    println!("queued after {:?}", started.elapsed());
    assert!(!spool.exists());
    delivered(&a, sent.id).await;
    println!("delivered after {:?}", started.elapsed());
    assert!(b.handle.read(sent.id, false).await.unwrap().1 == body);
    assert_eq!(a.handle.outgoing(sent.id).await.unwrap().sent_bytes, 16 * 1024 * 1024);
    assert!(b.store.scan(Family::Inbox, b"a", None, 10).unwrap().is_empty(), "nothing incomplete is left");
}

/// Asks `to` as `from` to take these parts.
pub(super) async fn push(
    net: &Net,
    from: PeerId,
    to: PeerId,
    parts: &[bytes::Bytes],
) -> (Vec<Code>, Option<receipt::Receipt>) {
    let (client, _inbound) = net.board.join(from);
    let answer = soon("answer", client.request_encoded(to, &wire::pieces(parts))).await.unwrap();
    wire::answered(answer, parts.len()).unwrap()
}

/// Becomes a rank that follows from the sequence number, and waits for nothing.
const UNRANKED: Rank = Rank { number: 0, floor: 0 };

/// A part from `author` to `node`, as it would make it, or changed.
pub(super) fn part(node: &Node, author: &Identity, change: impl FnOnce(&mut Inner)) -> bytes::Bytes {
    let key = node.net.keys.lock().unwrap()[&node.address()][0];
    let envelopes = Envelopes::new(author.clone(), &NetworkId::default());
    let mut inner = Inner {
        kind: Kind::Message,
        sender: author.address(),
        recipient: node.address(),
        stream: StreamId([1; 16]),
        seq: 1,
        rank: UNRANKED,
        sent_at: START,
        expires_at: START.plus(Duration::from_secs(3600)),
        key_id: key.id,
        file_name: String::new(),
        body: bytes::Bytes::from_static(b"body"),
        index: 0,
        total: 4,
        body_id: BodyId::default(),
    };
    change(&mut inner);
    if inner.rank == UNRANKED {
        inner.rank = Rank { number: inner.seq + 1, floor: inner.seq + 1 };
    }
    let mut session = SealSession::new(envelopes.context(), &node.address(), key).unwrap();
    envelopes.seal(&mut session, &inner).unwrap().wire()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_message_is_receipted_again_and_delivered_once_even_after_it_was_removed() {
    let net = Net::new();
    let b = Node::start(&net).await;
    let (author, carrier) = (Identity::generate(), PeerId::random());
    let original = part(&b, &author, |_| {});
    let (codes, first) = push(&net, carrier, b.address(), &[original.clone(), original.clone()]).await;
    assert_eq!(codes, [Code::Delivered, Code::Busy], "the second copy came while the first was being stored");
    let purpose = receipt::purpose(&NetworkId::default());
    let entries = receipt::verify(&b.address(), &purpose, &first.unwrap(), 64).unwrap();
    let id = b.handle.inbox(10).await.unwrap()[0].id;
    assert_eq!(entries, [(id, START)]);
    net.clock.set(START.plus(Duration::from_secs(60)));
    let again = part(&b, &author, |_| {});
    assert_ne!(again, original, "the same message, sealed anew");
    b.handle.remove(id).await.unwrap();
    let b = b.restart(|_| {}).await;
    for copy in [original, again] {
        let (codes, receipt) = push(&net, carrier, b.address(), &[copy]).await;
        assert_eq!(codes, [Code::Delivered]);
        let entries = receipt::verify(&b.address(), &purpose, &receipt.unwrap(), 64).unwrap();
        assert_eq!(entries, [(id, START)], "the same receipt");
    }
    assert!(b.handle.inbox(10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_part_has_its_own_answer_and_good_ones_beside_it_are_delivered() {
    let net = Net::new();
    let config = Config { max_bytes: 300_000, ..Config::default() };
    let b = Node::with(&net, config).await;
    let (author, other) = (Identity::generate(), Identity::generate());
    let hour = Duration::from_secs(3600);
    let stale_key = {
        let mut ring = crate::identity::Keyring::default();
        ring.rotate(START);
        ring.current().unwrap()
    };
    let make = |change: &dyn Fn(&mut Inner)| part(&b, &author, |inner| change(inner));
    let mut altered = make(&|_| {}).to_vec();
    altered[100] ^= 1;
    let mut unknown_key = make(&|_| {}).to_vec();
    unknown_key[1..9].copy_from_slice(&stale_key.id);
    let cases = [
        (make(&|i| i.seq = 100), Code::Delivered),
        (make(&|i| i.sender = other.address()), Code::Bad),
        (make(&|i| i.recipient = other.address()), Code::Bad),
        (part(&b, &b.identity, |_| {}), Code::Bad),
        (altered.into(), Code::Bad),
        (bytes::Bytes::from_static(b"short"), Code::Bad),
        (unknown_key.into(), Code::NeedReseal),
        (make(&|i| i.total = 5), Code::Bad),
        (make(&|i| i.index = 1), Code::Bad),
        (make(&|i| i.total = u64::MAX), Code::Bad),
        (make(&|i| i.rank = Rank { number: 0, floor: 1 }), Code::Bad),
        (make(&|i| i.rank = Rank { number: 1, floor: 0 }), Code::Bad),
        (make(&|i| i.rank = Rank { number: 1, floor: 2 }), Code::Bad),
        (make(&|i| i.rank = Rank { number: u64::MAX, floor: 1 }), Code::Bad),
        (make(&|i| i.file_name = "n".repeat(300)), Code::Bad),
        (make(&|i| i.expires_at = START.minus(hour)), Code::Expired),
        (make(&|i| i.expires_at = START.plus(hour * 24 * 31)), Code::Bad),
        (make(&|i| (i.sent_at, i.expires_at) = (START.plus(hour), START.plus(hour * 2))), Code::Clock),
        (
            make(&|i| {
                i.seq = 7;
                (i.total, i.body) = (400_000, vec![0; PART_BYTES].into());
            }),
            Code::TooLarge,
        ),
        (make(&|i| i.seq = 101), Code::Delivered),
    ];
    for (at, (part, code)) in cases.into_iter().enumerate() {
        let (codes, _) = push(&net, author.address(), b.address(), &[part]).await;
        assert_eq!(codes, [code], "case {at}");
    }
    assert_eq!(b.handle.stats().inbox, 2);
    assert_eq!(b.store.scan(Family::InboxBody, b"", None, 10).unwrap().len(), 2);
    let mixed = [make(&|i| i.sender = other.address()), make(&|i| i.seq = 102), bytes::Bytes::new()];
    let (codes, _) = push(&net, author.address(), b.address(), &mixed).await;
    assert_eq!(codes, [Code::Bad, Code::Delivered, Code::Bad], "one bad part stops nothing");
    let (client, _inbound) = net.board.join(author.address());
    for bad in [&b""[..], b"\0\0\0", &[0; 4 * 65], &[255; 8]] {
        let request = crate::wire::proto::message::Deliver { parts: bytes::Bytes::copy_from_slice(bad) };
        let error = client.request(b.address(), request).await.unwrap_err();
        assert_eq!(error, rpc::RequestError::Status(crate::wire::Status::Invalid));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_do_not_belong_together_are_refused_and_harm_nothing() {
    let net = Net::new();
    let b = Node::start(&net).await;
    let (author, hour) = (Identity::generate(), Duration::from_secs(3600));
    let total = 280_000;
    let first = part(&b, &author, |i| (i.total, i.body) = (total, vec![1; PART_BYTES].into()));
    let second = |change: &dyn Fn(&mut Inner)| {
        part(&b, &author, |i| {
            (i.total, i.body, i.index) = (total, vec![2; total as usize - PART_BYTES].into(), 1);
            change(i);
        })
    };
    let cases = [
        (first, Code::Stored),
        (second(&|i| (i.total, i.body) = (total + 1, vec![2; total as usize + 1 - PART_BYTES].into())), Code::Bad),
        (second(&|i| i.body_id = BodyId([1; 32])), Code::Bad),
        (second(&|i| i.file_name = "other".into()), Code::Bad),
        (second(&|i| i.sent_at = START.minus(hour)), Code::Bad),
        (second(&|i| i.expires_at = START.plus(hour * 2)), Code::Bad),
        (second(&|_| {}), Code::Delivered),
    ];
    for (at, (part, code)) in cases.into_iter().enumerate() {
        let (codes, _) = push(&net, author.address(), b.address(), &[part]).await;
        assert_eq!(codes, [code], "case {at}");
    }
    let body = [vec![1; PART_BYTES], vec![2; total as usize - PART_BYTES]].concat();
    assert!(bodies(&b).await == [body]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_recipient_finds_too_large_is_refused_with_the_reason() {
    let net = Net::new();
    let b = Node::with(&net, Config { max_bytes: 100, ..Config::default() }).await;
    let a = Node::start(&net).await;
    let id = a.handle.send(a.draft(b.address(), vec![0; 101])).await.unwrap().id;
    let end = a.handle.wait(id, SendState::Delivered, LONG).await.unwrap().unwrap();
    assert_eq!((end.state, end.last_error.as_str()), (SendState::Refused, "larger than the recipient accepts"));
    assert_eq!(end.history.last().unwrap().by, b.address());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_inbox_delays_and_loses_nothing() {
    let net = Net::new();
    // One of 1000 bytes and one of 10 fit in what strangers have, each with 512 bytes beside its body; two of 1000 do not.
    let b = Node::with(&net, Config { inbox_max_bytes: 2800, ..Config::default() }).await;
    let a = Node::start(&net).await;
    let first = a.handle.send(a.draft(b.address(), vec![1; 1000])).await.unwrap().id;
    delivered(&a, first).await;
    let second = a.handle.send(a.draft(b.address(), vec![2; 1000])).await.unwrap().id;
    let full = async {
        while a.handle.outgoing(second).await.unwrap().last_error != "the recipient's inbox is full" {
            tokio::task::yield_now().await;
        }
    };
    soon("refused for now", full).await;
    let tiny = a.handle.send(a.draft(b.address(), vec![3; 10])).await.unwrap().id;
    delivered(&a, tiny).await;
    assert_eq!(a.handle.outgoing(second).await.unwrap().state, SendState::Queued);
    b.handle.remove(first).await.unwrap();
    delivered(&a, second).await;
    // The tiny one was there first, and waited for its turn.
    shown(&b, 2).await;
    assert_eq!(bodies(&b).await, [vec![2; 1000], vec![3; 10]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_fill_their_part_of_an_inbox_leave_the_rest_to_contacts() {
    let net = Net::new();
    let b = Node::with(&net, Config { inbox_max_bytes: 2800, ..Config::default() }).await;
    let (stranger, contact) = (Node::start(&net).await, Node::start(&net).await);
    delivered(&stranger, stranger.handle.send(stranger.draft(b.address(), vec![1; 1000])).await.unwrap().id).await;
    let full = |node: &Node, id| {
        let handle = node.handle.clone();
        soon("refused for now", async move {
            while handle.outgoing(id).await.unwrap().last_error != "the recipient's inbox is full" {
                tokio::task::yield_now().await;
            }
        })
    };
    for node in [&stranger, &contact] {
        let id = node.handle.send(node.draft(b.address(), vec![2; 700])).await.unwrap().id;
        full(node, id).await;
        if node.address() == contact.address() {
            b.handle.contacts().add(contact.address()).await.unwrap();
            delivered(node, id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_either_side_delays_and_loses_nothing_and_the_inbox_stays_readable() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let first = a.handle.send(a.draft(b.address(), "first")).await.unwrap();
    delivered(&a, first.id).await;
    a.store.pretend_full(true);
    assert!(matches!(a.handle.send(a.draft(b.address(), "no")).await, Err(MessageError::DiskFull(_))));
    assert!(matches!(a.handle.outbox(10).await.unwrap().as_slice(), [one] if one.id == first.id));
    a.store.pretend_full(false);
    b.store.pretend_full(true);
    let second = a.handle.send(a.draft(b.address(), "second")).await.unwrap();
    let (read, body) = b.handle.read(first.id, true).await.unwrap();
    assert_eq!((read.read, &body[..]), (false, &b"first"[..]), "read without being marked");
    let refused = async {
        while a.handle.outgoing(second.id).await.unwrap().last_error != "the recipient's disk is full" {
            tokio::task::yield_now().await;
        }
    };
    soon("refused for now", refused).await;
    b.store.pretend_full(false);
    delivered(&a, second.id).await;
    assert_eq!(bodies(&b).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_recipients_signature_counts_as_delivery() {
    let net = Net::new();
    let (a, mut b) = (Node::start(&net).await, Node::start(&net).await);
    b.halt().await;
    // Somebody takes the recipient's place without having its key.
    let (_client, mut inbound) = net.board.join(b.address());
    let id = a.handle.send(a.draft(b.address(), "secret")).await.unwrap().id;
    let purpose = receipt::purpose(&NetworkId::default());
    let (liar, entries) = (Identity::generate(), [(id, START)]);
    let forgeries = [
        None,
        Some(receipt::sign(&liar, &purpose, &entries)),
        Some(receipt::sign(&b.identity, &purpose, &[(MessageId([0; 32]), START)])),
        Some(receipt::sign(&b.identity, &receipt::purpose(&"other".parse().unwrap()), &entries)),
    ];
    for forgery in forgeries {
        let request = soon("a try", inbound.recv()).await.unwrap();
        request.respond(wire::answer(&[Code::Delivered], forgery));
        let noticed = async {
            while a.handle.outgoing(id).await.unwrap().last_error.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        soon("noticed", noticed).await;
        assert_eq!(a.handle.outgoing(id).await.unwrap().state, SendState::Queued);
        net.online(b.address(), true);
    }
    let request = soon("a try", inbound.recv()).await.unwrap();
    request.respond(wire::answer(&[Code::Delivered], Some(receipt::sign(&b.identity, &purpose, &entries))));
    delivered(&a, id).await;
    assert_eq!(a.metrics.forged_receipts.get(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_and_expired_messages_end_and_stay_ended() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    net.online(b.address(), false);
    let cancelled = a.handle.send(a.draft(b.address(), "cancel")).await.unwrap().id;
    let mut short = a.draft(b.address(), "expire");
    short.ttl = Some(Duration::from_secs(60));
    let expired = a.handle.send(short).await.unwrap().id;
    let kept = a.handle.send(a.draft(b.address(), "keep")).await.unwrap().id;
    assert_eq!(a.handle.cancel(cancelled).await.unwrap().state, SendState::Cancelled);
    assert_eq!(a.handle.cancel(cancelled).await, Err(MessageError::TooLate(SendState::Cancelled)));
    net.clock.set(START.plus(Duration::from_secs(61)));
    // Anything makes the actor look at the clock.
    net.online(b.address(), false);
    let end = a.handle.wait(expired, SendState::Delivered, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(end.state, SendState::Expired);
    let a = a.restart(|_| {}).await;
    assert_eq!(a.handle.stats().outbox_pending, 1);
    net.online(b.address(), true);
    delivered(&a, kept).await;
    shown(&b, 1).await;
    assert_eq!(bodies(&b).await, [b"keep".to_vec()]);
    assert_eq!(a.handle.outgoing(cancelled).await.unwrap().state, SendState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_delivered_in_few_syncs() {
    const EACH: usize = 40;
    const FLIGHT: usize = 64;
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let started = std::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..FLIGHT {
        let (handle, to) = (a.handle.clone(), b.address());
        tasks.spawn(async move {
            for _ in 0..EACH {
                let draft = Draft { to, body: Body::Bytes(vec![7; 100]), file_name: String::new(), ttl: None };
                let id = handle.send(draft).await.unwrap().id;
                let end = handle.wait(id, SendState::Delivered, LONG).await.unwrap().unwrap();
                assert_eq!(end.state, SendState::Delivered);
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    let n = EACH * FLIGHT;
    let (stats_a, stats_b) = (a.store.writer_stats(), b.store.writer_stats());
    println!("{:.0} messages/s; {stats_a:?} {stats_b:?}", n as f64 / started.elapsed().as_secs_f64());
    println!("{} batches", a.metrics.batches_out.get());
    assert_eq!(b.handle.stats().inbox, n as u64);
    assert!(stats_b.syncs < n as u64, "commits are shared");
}

/// The protocol's numbers hold together.
#[test]
fn the_largest_request_fits_its_limit() {
    use prost::Message as _;
    use rpc::Wire as _;
    let parts = vec![bytes::Bytes::from(vec![0; super::super::envelope::MAX_PART]); 4];
    assert!(wire::pieces(&parts).concat().len() <= Deliver::MAX_REQUEST);
    let purpose = receipt::purpose(&NetworkId::default());
    let entries = vec![(MessageId([1; 32]), START); wire::BATCH_PARTS];
    let receipt = receipt::sign(&Identity::generate(), &purpose, &entries);
    let answer = wire::answer(&[Code::Clock; wire::BATCH_PARTS], Some(receipt));
    assert!(answer.encoded_len() <= Deliver::MAX_RESPONSE);
}
