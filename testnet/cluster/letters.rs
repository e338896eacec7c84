//! A receipt by way of the sender's own friend: sender and recipient are whole nodes that are never there at one time.

use std::time::{Duration, Instant};

use vos::{
    message::{
        Body, Draft, SendState,
        friend::{State, Terms},
    },
    primitives::PeerId,
    test_util::{Member, config_of_friend},
};

const WAIT: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < WAIT, "not within {WAIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `friend` holds mail of `owner` from now on, and `reader` knows it.
pub(super) async fn befriend(owner: &Member, friend: &Member, reader: &Member) {
    let known = async || owner.node.map.get(&friend.address()).is_some();
    until("they know each other", known).await;
    owner.node.friend.offer(friend.address(), Terms::default(), None, 0).await.expect("offered");
    until("agreed", async || {
        let list = owner.node.friend.list().await.expect("listed");
        list.iter().any(|f| f.state == State::Active)
    })
    .await;
    let listed = async || reader.node.map.get(&owner.address()).is_some_and(|e| e.friends.len() == 1);
    until("the friend is in the record", listed).await;
}

/// The friends of `owner` take what `contact` leaves.
pub(super) async fn lets_in(owner: &Member, contact: PeerId) {
    owner.node.message.contacts().add(contact).await.expect("a contact");
    until("the friend knows the contact", async || {
        let stats = owner.node.message.mailbox().friends().await.expect("running");
        stats.values().any(|f| f.contacts > 0)
    })
    .await;
}

async fn held(friend: &Member, owner: PeerId) -> u64 {
    let held = friend.node.message.mailbox().held().await.expect("running");
    held.iter().find(|o| o.owner == owner).map_or(0, |o| o.messages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_meets_its_recipient_learns_of_the_delivery_from_its_own_friend() {
    let _turn = super::beside_others().await;
    let of_b = Member::start("friend of b", config_of_friend(&[])).await;
    let boot = [of_b.multiaddr()];
    let of_a = Member::start("friend of a", config_of_friend(&boot)).await;
    let a = Member::start("a", config_of_friend(&boot)).await;
    let b = Member::start("b", config_of_friend(&boot)).await;
    let (from, to) = (a.address(), b.address());
    befriend(&a, &of_a, &b).await;
    befriend(&b, &of_b, &a).await;
    lets_in(&b, from).await;
    let b_dir = b.stop().await;
    let draft = Draft { to, body: Body::Bytes(b"hello".to_vec()), file_name: String::new(), ttl: None };
    let id = a.node.message.send(draft).await.expect("queued").id;
    let stored = a.node.message.wait(id, SendState::Stored, WAIT).await.expect("known").expect("in time");
    assert_eq!(stored.state, SendState::Stored);
    // Whom it writes to may leave it something.
    lets_in(&a, to).await;
    let a_dir = a.stop().await;
    let b = Member::start_in(b_dir, "b", config_of_friend(&boot)).await;
    until("it arrives", async || b.node.message.inbox(10).await.expect("read").len() == 1).await;
    until("the receipt is left", async || held(&of_a, from).await == 1).await;
    let _b_dir = b.stop().await;
    let a = Member::start_in(a_dir, "a", config_of_friend(&boot)).await;
    let end = a.node.message.wait(id, SendState::Delivered, WAIT).await.expect("known").expect("in time");
    assert_eq!((end.state, end.history.last().expect("a story").by), (SendState::Delivered, to));
    until("it is acknowledged", async || held(&of_a, from).await == 0).await;
    assert!(a.node.message.inbox(10).await.expect("read").is_empty(), "a receipt is no message");
    for member in [a, of_a, of_b] {
        member.stop().await;
    }
}
