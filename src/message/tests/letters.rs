//! Receipts by way of the sender's own friends: the whole service at every node, over loopbacks.

use bytes::Bytes;

use super::{
    super::{
        SendState,
        envelope::Kind,
        friend::POLICY_OPEN_POW,
        mailbox::{self, Part},
        receipt,
        recipients::Granted,
        wire::Code,
    },
    mail::{apart, collect_from, deposit, grant, held, known_contacts, queued, until},
    net::{Net, Node},
    service::{LONG, part, push},
};
use crate::{
    identity::Identity,
    map,
    primitives::{Hash, MessageId, NetworkId, UnixMillis},
};

/// Makes `friend` a friend of `owner`, as others read it.
async fn befriend(net: &Net, owner: &Node, friend: &Node) {
    friend.handle.mailbox().grant(owner.address(), grant()).await.unwrap();
    let (terms, hash) = (grant().terms, Hash([7; 32]));
    let granted =
        Granted { id: grant().id, not_after: grant().not_after, max_ttl_s: terms.max_ttl_s, policy: POLICY_OPEN_POW };
    net.grants.lock().unwrap().insert((owner.address(), friend.address(), hash), granted);
    let listed = map::Friend { address: friend.address(), addrs: Vec::new(), grant_hash: Some(hash.0), priority: 1 };
    net.friends.lock().unwrap().entry(owner.address()).or_default().push(listed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_learns_from_its_own_friend_what_was_delivered_while_it_was_away() {
    let net = Net::new();
    let (a, b, friends) = apart(&net, 1).await;
    let own = [Node::start(&net).await, Node::start(&net).await];
    for friend in &own {
        befriend(&net, &a, friend).await;
    }
    collect_from(&a, &own).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let id = a.handle.send(a.draft(b.address(), text)).await.unwrap().id;
        deposit(&a, &friends[0], &b, queued(&a.handle, id)).await;
        ids.push(id);
    }
    for friend in &own {
        until("whom it wrote to may leave it something", async || known_contacts(&a, friend).await == 1).await;
    }
    // The sender is gone before the recipient comes, and comes when that is gone.
    net.online(a.address(), false);
    let b = b.restart(|_| {}).await;
    collect_from(&b, &friends).await;
    until("all arrive", async || b.handle.inbox(10).await.unwrap().len() == 3).await;
    for friend in &own {
        until("one letter with each friend", async || held(friend, &a).await == 1).await;
    }
    // That it was left is remembered, so that a restart does not leave it again.
    let noted = async || {
        let rows = b.store.scan(crate::store::Family::Mailbox, b"r", None, 10).unwrap();
        rows.len() == 3 && rows.iter().all(|(_, value)| value.len() == 9)
    };
    until("noted", noted).await;
    let letters = b.mail_metrics.letters_out.get();
    net.online(b.address(), false);
    net.mail.receipts.set_online(a.address(), false);
    let a = a.restart(|_| {}).await;
    net.online(a.address(), true);
    net.mail.receipts.set_online(a.address(), false);
    collect_from(&a, &own).await;
    for id in ids {
        let end = a.handle.wait(id, SendState::Delivered, LONG).await.unwrap().unwrap();
        assert_eq!((end.state, end.history.last().unwrap().by), (SendState::Delivered, b.address()));
    }
    for friend in &own {
        until("the letter is acknowledged", async || held(friend, &a).await == 0).await;
    }
    assert_eq!((a.handle.inbox(10).await.unwrap().len(), a.handle.stats().inbox), (0, 0), "a receipt is no message");
    assert_eq!((letters, a.mail_metrics.receipts_in.get(), a.metrics.forged_receipts.get()), (1, 0, 0));
    assert!(a.metrics.letters_in.get() >= 1);
    let owed = || a.store.scan(crate::store::Family::Mailbox, b"r", None, 10).unwrap();
    assert!(owed().is_empty(), "and is not answered by one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_lies_settles_nothing_and_one_that_does_not_come_from_a_friend_is_refused() {
    let net = Net::new();
    let (a, b, _) = apart(&net, 0).await;
    let own = [Node::start(&net).await];
    befriend(&net, &a, &own[0]).await;
    let id = a.handle.send(a.draft(b.address(), "one")).await.unwrap().id;
    let purpose = receipt::purpose(&NetworkId::default());
    let stranger = Identity::generate();
    let letter = |author: &Identity, signer: &Identity, id: MessageId, change: &dyn Fn(Bytes) -> Bytes| {
        let signed = receipt::sign(signer, &purpose, &[(id, UnixMillis(1))]);
        let body = change(mailbox::letter(&signer.address(), signed));
        part(&a, author, |inner| {
            (inner.kind, inner.total, inner.body) = (Kind::Receipt, body.len() as u64, body);
        })
    };
    let plain = |body: Bytes| body;
    let good = letter(&b.identity, &b.identity, id, &plain);
    let (codes, _) = push(&net, stranger.address(), a.address(), std::slice::from_ref(&good)).await;
    assert_eq!(codes, [Code::Bad], "whoever is here brings receipts by their own protocol");
    let lies = [
        letter(&stranger, &stranger, id, &plain),
        letter(&stranger, &b.identity, id, &plain),
        letter(&b.identity, &stranger, id, &plain),
        letter(&b.identity, &b.identity, MessageId([9; 32]), &plain),
        letter(&b.identity, &b.identity, id, &|_| Bytes::from_static(b"noise")),
        letter(&b.identity, &b.identity, id, &|body| body.slice(..body.len() - 1)),
    ];
    let leave = |sealed: Bytes| Part { sealed, ttl_s: 3600, withdraw: Hash::default() };
    deposit(&b, &own[0], &a, lies.into_iter().map(leave).collect()).await;
    collect_from(&a, &own).await;
    until("all are thrown away", async || held(&own[0], &a).await == 0).await;
    assert_eq!(a.handle.outgoing(id).await.unwrap().state, SendState::Queued);
    assert_eq!(a.metrics.forged_receipts.get(), 4);
    deposit(&b, &own[0], &a, vec![leave(good)]).await;
    collect_from(&a, &[]).await;
    collect_from(&a, &own).await;
    let end = a.handle.wait(id, SendState::Delivered, LONG).await.unwrap().unwrap();
    assert_eq!(end.state, SendState::Delivered);
    assert!(a.handle.inbox(10).await.unwrap().is_empty());
}
