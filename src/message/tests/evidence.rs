//! Friends that lose messages are found out, and honest ones are not blamed: the whole way over real services.

use std::time::Duration;

use super::{
    super::{
        Event, SendState,
        friend::{self, Score},
        mailbox::evidence::{Judged, Standing, Why},
    },
    net::{Net, Node, START, soon},
    offline::{befriend, held},
    service::{LONG, bodies, delivered},
};
use crate::{
    identity::Identity,
    message::mailbox::evidence::tests::liar::{self, Lie},
    net::rpc::RequestError,
    primitives::{GrantId, MessageId, PeerId, UnixMillis},
    store::{Batch, Family, Store},
    wire::Status,
};

const DAY: Duration = Duration::from_secs(86_400);

/// The owner knows what these agreed to, as its friendships would tell it.
fn judge(owner: &Node, friends: &[&Node]) {
    let judged = friends.iter().zip(1..).map(|(friend, n)| {
        let grant = friend::agreed(&owner.identity, &friend.identity, GrantId([n; 16]), START);
        Judged { friend: friend.address(), grant, since: UnixMillis(0), until: START.plus(90 * DAY) }
    });
    owner.handle.mailbox().evidence().judge(judged.collect());
}

/// Sends to somebody who is away, until a friend has it.
async fn store_with_friends(a: &Node, b: &Node, text: &str) -> MessageId {
    let sent = a.handle.send(a.draft(b.address(), text)).await.unwrap();
    let stored = a.handle.wait(sent.id, SendState::Stored, LONG).await.unwrap().expect("in time");
    assert_eq!(stored.state, SendState::Stored, "{}", stored.last_error);
    sent.id
}

/// What the owner knows of a friend, once so much was checked.
async fn checked(owner: &Node, friend: &Node, checked: u64) -> Standing {
    soon("checked", async {
        loop {
            let all = owner.handle.mailbox().evidence().standings(Some(friend.address())).await.unwrap();
            match all.into_iter().next().filter(|standing| standing.score.checked() >= checked) {
                Some(standing) => return standing,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

/// Everything that is kept at the sender for claims is settled.
async fn settled(a: &Node) {
    soon("settled", async {
        while !a.store.scan(Family::Outbox, b"L", None, 1).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(a.store.scan(Family::Outbox, b"R", None, 1).unwrap(), [], "no list without a message");
}

/// As when a copy of the data directory from before the deposits is put back: grants are known, parts and tombstones are not.
fn loses_everything(store: &Store) {
    let mut batch = Batch::new();
    for (family, prefixes) in [(Family::Mailbox, &b"qixdn"[..]), (Family::MailboxBody, b"\0")] {
        for prefix in prefixes {
            let prefix = if *prefix == 0 { Vec::new() } else { vec![*prefix] };
            for (key, _) in store.scan(family, &prefix, None, usize::MAX).unwrap() {
                batch.delete(family, key);
            }
        }
    }
    store.write_unsynced(batch).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_friend_that_lost_a_message_is_proven_wrong_when_it_is_delivered_directly() {
    let net = Net::new();
    let (a, b, f) = (Node::start(&net).await, Node::start(&net).await, Node::start(&net).await);
    befriend(&net, &b, &[&f]).await;
    judge(&b, &[&f]);
    net.online(b.address(), false);
    let id = store_with_friends(&a, &b, "it will be lost").await;
    let f = f.restart(loses_everything).await;
    assert_eq!(held(&f).await, 0);
    let mut events = b.handle.subscribe();
    net.online(b.address(), true);
    delivered(&a, id).await;
    let standing = checked(&b, &f, 1).await;
    assert_eq!((standing.friend, standing.score), (f.address(), Score { kept: 0, broken: 1, refused: 0 }));
    let [broken] = &standing.broken[..] else { panic!("{standing:?}") };
    assert_eq!((broken.id, broken.why, broken.verified), (id, Why::Lost, Ok(())));
    let promise = broken.receipt.unwrap();
    assert_eq!((promise.id, promise.grant, promise.queue_seq), (id, GrantId([1; 16]), 1));
    assert_eq!((broken.answer, broken.answered_at), ("it knows nothing of it", START));
    soon("the event", async {
        loop {
            if let Event::BrokenPromise(told) = events.recv().await.unwrap() {
                assert_eq!((told.friend, told.id, told.why), (f.address(), id, Why::Lost));
                return;
            }
        }
    })
    .await;
    settled(&a).await;
    assert_eq!((b.mail_metrics.promises_broken.get(), b.mail_metrics.claims_in.get()), (1, 1));
    assert_eq!(bodies(&b).await, [b"it will be lost"]);
    // It stays over a restart, and still verifies.
    let b = b.restart(|_| {}).await;
    assert_eq!(b.handle.mailbox().evidence().standings(None).await.unwrap(), [standing]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_friend_that_has_what_it_signed_for_keeps_its_score_and_is_told_to_drop_it_after_that() {
    let net = Net::new();
    let (a, b, f) = (Node::start(&net).await, Node::start(&net).await, Node::start(&net).await);
    befriend(&net, &b, &[&f]).await;
    judge(&b, &[&f]);
    // It collects nothing: what is delivered directly is still at the friend when the claim comes.
    b.handle.mailbox().set_friends(Vec::new()).await.unwrap();
    net.online(b.address(), false);
    let small = store_with_friends(&a, &b, "small").await;
    let large = a.handle.send(a.draft(b.address(), vec![7; 600_000])).await.unwrap();
    a.handle.wait(large.id, SendState::Stored, LONG).await.unwrap().expect("in time");
    assert_eq!(held(&f).await, 4);
    // The sender forgets nothing: all parts are claimed and taken back after its restart, too.
    net.online(a.address(), false);
    let a = a.restart(|_| {}).await;
    net.online(a.address(), true);
    net.online(b.address(), true);
    delivered(&a, small).await;
    delivered(&a, large.id).await;
    let standing = checked(&b, &f, 4).await;
    assert_eq!((standing.score, standing.broken), (Score { kept: 4, broken: 0, refused: 0 }, Vec::new()));
    settled(&a).await;
    soon("taken back", async {
        while held(&f).await != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Acknowledged, the same: nothing is counted twice, and nothing is held against it.
    assert_eq!(checked(&b, &f, 4).await.score.checked(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_friends_only_the_one_that_lost_its_copy_is_blamed() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let (f, g) = (Node::start(&net).await, Node::start(&net).await);
    befriend(&net, &b, &[&f, &g]).await;
    judge(&b, &[&f, &g]);
    net.online(b.address(), false);
    let id = store_with_friends(&a, &b, "two copies").await;
    soon("both have it", async {
        while held(&f).await != 1 || held(&g).await != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon("the sender knows", async {
        while a.handle.outgoing(id).await.unwrap().holders.len() != 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    net.online(a.address(), false);
    let f = f.restart(loses_everything).await;
    net.online(b.address(), true);
    // Collected from the other one, and acknowledged to both.
    soon("collected", async {
        while b.handle.stats().inbox != 1 || held(&g).await != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    net.online(a.address(), true);
    delivered(&a, id).await;
    let standing = checked(&b, &f, 1).await;
    assert_eq!(standing.score, Score { kept: 0, broken: 1, refused: 0 });
    assert!(matches!(standing.broken[0].why, Why::Lost | Why::NeverHeld), "{standing:?}");
    assert_eq!(standing.broken[0].verified, Ok(()));
    settled(&a).await;
    let other = checked(&b, &g, 1).await;
    assert_eq!(other.score, Score { kept: 1, broken: 0, refused: 0 }, "it gave it to its owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_restored_a_backup_blames_nobody_and_neither_does_a_sender_that_took_it_back() {
    let net = Net::new();
    let (a, b, f) = (Node::start(&net).await, Node::start(&net).await, Node::start(&net).await);
    befriend(&net, &b, &[&f]).await;
    judge(&b, &[&f]);
    net.online(b.address(), false);
    let id = store_with_friends(&a, &b, "collected, then forgotten").await;
    net.online(a.address(), false);
    net.online(b.address(), true);
    soon("collected and acknowledged", async {
        while b.handle.stats().inbox != 1 || held(&f).await != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The owner's backup knows of no message: the sender's comes a second time, directly.
    let b = b
        .restart(|store| {
            let mut batch = Batch::new();
            for family in [Family::Inbox, Family::InboxBody, Family::Seen] {
                for (key, _) in store.scan(family, b"", None, usize::MAX).unwrap() {
                    batch.delete(family, key);
                }
            }
            for (key, _) in store.scan(Family::Mailbox, b"r", None, usize::MAX).unwrap() {
                batch.delete(Family::Mailbox, key);
            }
            store.write_unsynced(batch).unwrap();
        })
        .await;
    judge(&b, &[&f]);
    net.online(a.address(), true);
    delivered(&a, id).await;
    settled(&a).await;
    assert_eq!(b.mail_metrics.claims_in.get(), 1);
    // A cancelled message is taken back without a claim.
    net.online(b.address(), false);
    let other = store_with_friends(&a, &b, "never mind").await;
    a.handle.cancel(other).await.unwrap();
    settled(&a).await;
    soon("taken back", async {
        while held(&f).await != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(b.handle.mailbox().evidence().standings(None).await.unwrap(), []);
    assert_eq!(b.mail_metrics.claims_in.get(), 1);
}

/// A dishonest friend of an owner, and a sender that claims.
struct Liar {
    net: Net,
    owner: Node,
    friend: Identity,
    sender: PeerId,
}

impl Liar {
    async fn new() -> Self {
        let net = Net::new();
        let (owner, friend, sender) = (Node::start(&net).await, Identity::generate(), PeerId::random());
        let grant = friend::agreed(&owner.identity, &friend, GrantId([7; 16]), START);
        let judged = Judged { friend: friend.address(), grant, since: UnixMillis(0), until: START.plus(90 * DAY) };
        owner.handle.mailbox().evidence().judge(vec![judged]);
        Self { net, owner, friend, sender }
    }

    /// What the owner answers to a claim, while the friend lies and gives nothing.
    async fn claims(&self, n: u8, lie: Lie) -> bool {
        let (friend, owner) = (self.friend.address(), self.owner.address());
        let (mut audits, mut pulls) = (self.net.mail.audit.join(friend).1, self.net.mail.pull.join(friend).1);
        let says = async {
            loop {
                tokio::select! {
                    Some(asked) = audits.recv() => {
                        let account = liar::account(&self.friend, &owner, &asked.request, (lie, START));
                        asked.respond(account);
                    }
                    Some(pull) = pulls.recv() => pull.respond(liar::nothing()),
                }
            }
        };
        tokio::select! {
            answer = self.claim(liar::claim((&self.friend, friend), &owner, &[liar::promise(n)])) => answer.unwrap(),
            () = says => unreachable!("it lies for ever"),
        }
    }

    async fn claim(&self, claim: crate::wire::proto::mailbox::Claim) -> Result<bool, RequestError> {
        let client = self.net.mail.claim.join(self.sender).0;
        Ok(soon("an answer", client.request(self.owner.address(), claim)).await?.done)
    }

    async fn standing(&self) -> Option<Standing> {
        let all = self.owner.handle.mailbox().evidence().standings(None).await.unwrap();
        all.into_iter().next()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_friend_makes_up_is_broken_and_what_it_will_not_say_lowers_its_score() {
    let liar = Liar::new().await;
    assert!(liar.claims(1, Lie::Acked).await);
    assert!(liar.claims(2, Lie::Withdrawn).await);
    assert!(liar.claims(3, Lie::Held).await);
    assert!(liar.claims(3, Lie::Held).await, "judged once");
    let standing = liar.standing().await.unwrap();
    assert_eq!(standing.score, Score { kept: 0, broken: 3, refused: 0 });
    let found: Vec<_> = standing.broken.iter().map(|b| (b.why, b.why.is_proof(), b.verified)).collect();
    let expected = [(Why::FalseAck, false), (Why::FalseWithdrawal, true), (Why::Withheld, false)];
    assert_eq!(found, expected.map(|(why, proof)| (why, proof, Ok(()))));
    // No account that can be judged, though it is there: the third time counts.
    let answers = [liar.claims(4, Lie::OtherNonce).await, liar.claims(4, Lie::OtherNonce).await];
    assert_eq!(answers, [false, false], "again, later");
    assert_eq!(liar.standing().await.unwrap().score.refused, 0);
    assert!(liar.claims(4, Lie::OtherNonce).await);
    let standing = liar.standing().await.unwrap();
    assert_eq!((standing.score, standing.broken.len()), (Score { kept: 0, broken: 3, refused: 1 }, 3));
    // Who cannot be reached is asked another time.
    let unreachable = liar::claim((&liar.friend, liar.friend.address()), &liar.owner.address(), &[liar::promise(5)]);
    liar.net.online(liar.friend.address(), false);
    assert_eq!(liar.claim(unreachable).await, Ok(false));
    assert_eq!(liar.standing().await.unwrap(), standing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sender_makes_up_is_held_against_nobody() {
    let liar = Liar::new().await;
    let (friend, owner, one) = (liar.friend.address(), liar.owner.address(), liar::promise(1));
    let other = Identity::generate();
    let refused = Err(RequestError::Status(Status::Refused));
    assert_eq!(liar.claim(liar::claim((&other, friend), &owner, &[one])).await, refused, "signed by itself");
    assert_eq!(
        liar.claim(liar::claim((&liar.friend, friend), &other.address(), &[one])).await,
        refused,
        "another owner's"
    );
    assert_eq!(liar.owner.mail_metrics.forged_claims.get(), 2);
    // Nothing to judge, and nobody is asked: no friend of ours, another mailbox, nearly over.
    let stranger = liar::claim((&other, other.address()), &owner, &[one]);
    let mailbox = crate::message::mailbox::StoredReceipt { grant: GrantId([8; 16]), ..one };
    let over = crate::message::mailbox::StoredReceipt { expires_at: START.plus(Duration::from_secs(500)), ..one };
    let others = liar::claim((&liar.friend, friend), &owner, &[mailbox, over]);
    assert_eq!((liar.claim(stranger).await, liar.claim(others).await), (Ok(true), Ok(true)));
    let garbage = crate::wire::proto::mailbox::Claim { holder: vec![1; 30].into(), ..Default::default() };
    assert_eq!(liar.claim(garbage).await, Err(RequestError::Status(Status::Invalid)));
    assert_eq!(liar.standing().await, None);
}
