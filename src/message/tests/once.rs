//! Delivered once, whatever happens to stores and clocks: restored backups, damaged numbers, clocks that jump.

use std::time::Duration;

use super::{
    super::{MessageError, inbox::SEEN, store::Tables, wire::Code},
    net::{Net, Node, START, soon},
    service::{LONG, bodies, delivered, part, push},
};
use crate::{
    identity::Identity,
    primitives::PeerId,
    store::{Batch, Family},
};

fn stream_of(node: &Node) -> Option<Vec<u8>> {
    node.store.get(Family::Meta, b"message_stream").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_takes_a_new_stream_when_the_map_met_our_record_elsewhere() {
    let net = Net::new();
    let (a, b, c) = (Node::start(&net).await, Node::start(&net).await, Node::start(&net).await);
    net.online(b.address(), false);
    let queued = a.handle.send(a.draft(b.address(), "before the backup")).await.unwrap().id;
    let backup = a.store.get(Family::Meta, b"message_seq").unwrap().unwrap();
    // What the backup does not know: a run that used the numbers after it.
    let a = a.restart(|_| {}).await;
    let lost = a.handle.send(a.draft(c.address(), "after the backup")).await.unwrap().id;
    delivered(&a, lost).await;
    let restored = a.restart(|store| {
        let mut batch = Batch::new();
        let headers = store.scan(Family::Outbox, b"h", None, 1).unwrap();
        for (key, _) in &headers {
            batch.delete(Family::Outbox, key.as_slice());
        }
        batch.delete(Family::Outbox, [b"i", lost.as_bytes().as_slice()].concat());
        batch.put(Family::Meta, b"message_seq".as_slice(), backup);
        store.write_unsynced(batch).unwrap();
    });
    let a = restored.await;
    assert_eq!(a.handle.outgoing(lost).await, Err(MessageError::NotFound), "the backup is from before");
    let before = stream_of(&a);
    net.elsewhere.send_replace(7);
    let renewed = async {
        while stream_of(&a) == before {
            tokio::task::yield_now().await;
        }
    };
    soon("a new stream", renewed).await;
    let fresh = a.handle.send(a.draft(c.address(), "after the restore")).await.unwrap().id;
    delivered(&a, fresh).await;
    assert_eq!(bodies(&c).await, [b"after the backup".to_vec(), b"after the restore".to_vec()]);
    net.online(b.address(), true);
    delivered(&a, queued).await;
    let stream = stream_of(&a);
    let a = a.restart(|_| {}).await;
    let last = a.handle.send(a.draft(c.address(), "once more")).await.unwrap().id;
    delivered(&a, last).await;
    assert_eq!(stream_of(&a), stream, "one new stream for one restore");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_numbers_are_not_used_again() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let first = a.handle.send(a.draft(b.address(), "first")).await.unwrap().id;
    delivered(&a, first).await;
    net.online(b.address(), false);
    let queued = a.handle.send(a.draft(b.address(), "queued")).await.unwrap().id;
    let before = stream_of(&a);
    let damage = |store: &crate::store::Store| {
        let mut batch = Batch::new();
        batch.put(Family::Meta, b"message_seq".as_slice(), b"damaged".as_slice());
        store.write_unsynced(batch).unwrap();
    };
    let a = a.restart(damage).await;
    let after = a.handle.send(a.draft(b.address(), "after")).await.unwrap().id;
    assert_ne!(stream_of(&a), before);
    assert_eq!(a.handle.stats().outbox_pending, 2, "none took the place of another");
    net.online(b.address(), true);
    delivered(&a, queued).await;
    delivered(&a, after).await;
    let mut got = bodies(&b).await;
    got.sort();
    assert_eq!(got, [b"after".to_vec(), b"first".to_vec(), b"queued".to_vec()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_weeks_ahead_for_a_while_makes_nothing_arrive_twice() {
    let net = Net::new();
    let b = Node::start(&net).await;
    let (author, carrier) = (Identity::generate(), PeerId::random());
    let original = part(&b, &author, |_| {});
    assert_eq!(push(&net, carrier, b.address(), std::slice::from_ref(&original)).await.0, [Code::Delivered]);
    net.clock.set(START.plus(Duration::from_secs(60 * 24 * 3600)));
    let b = b.restart(|store| {
        let mut batch = Batch::new();
        batch.delete(Family::Meta, b"message_age".as_slice());
        store.write_unsynced(batch).unwrap();
    });
    let b = b.await;
    let swept = async {
        while b.store.get(Family::Meta, b"message_age").unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    soon("old marks are looked over after a start", swept).await;
    net.clock.set(START.plus(Duration::from_secs(60)));
    let again = part(&b, &author, |_| {});
    for copy in [original, again] {
        assert_eq!(push(&net, carrier, b.address(), &[copy]).await.0, [Code::Delivered]);
    }
    assert_eq!(b.handle.stats().inbox, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seen_marks_go_when_the_store_was_in_use_for_as_long_as_they_must_live() {
    let net = Net::new();
    let mut b = Node::start(&net).await;
    let (author, carrier) = (Identity::generate(), PeerId::random());
    assert_eq!(push(&net, carrier, b.address(), &[part(&b, &author, |_| {})]).await.0, [Code::Delivered]);
    b.halt().await;
    let marks = || b.store.scan(Family::Seen, b"", None, 10).unwrap().len();
    let mut old = Batch::new();
    old.put(Family::Seen, b"i from before marks had an age".as_slice(), START.0.to_be_bytes());
    b.store.write_unsynced(old).unwrap();
    let tables = Tables::new(&b.store).unwrap();
    assert_eq!(marks(), 4);
    assert!(tables.age.now() < SEEN);
    tables.forget_seen(SEEN - Duration::from_secs(1), b"", 10).unwrap();
    assert_eq!(marks(), 4);
    assert!(Tables::new(&b.store).unwrap().age.now() >= SEEN - Duration::from_secs(1), "the age is stored");
    tables.forget_seen(SEEN + LONG * 10, b"", 10).unwrap();
    assert_eq!(marks(), 0);
}
