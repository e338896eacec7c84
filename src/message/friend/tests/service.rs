//! Real services, real stores, no swarm.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{
    super::{
        Accept, Config, Deps, Event, Figure, FriendError, Friendship, Handle, Hold, Metrics, Protocol, Service, Side,
        State, Target, Terms, Wanted,
    },
    DAY, START, offer,
};
use crate::{
    identity::Identity,
    map,
    message::contacts::Contacts,
    net::{self, rpc},
    primitives::{ManualClock, NetworkId, PeerId},
    runtime::Stop,
    store::Store,
};

/// Waits for something that must happen.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, future).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

/// What all nodes share.
#[derive(Clone)]
struct Net {
    board: rpc::Loopback<Protocol>,
    clock: Arc<ManualClock>,
}

impl Net {
    fn new() -> Self {
        Self { board: rpc::Loopback::default(), clock: Arc::new(ManualClock::new(START)) }
    }
}

struct Node {
    net: Net,
    identity: Identity,
    config: Config,
    store: Store,
    handle: Handle,
    metrics: Metrics,
    control: net::Detached,
    stop: Stop,
    tasks: JoinSet<Result<(), Infallible>>,
    dir: Arc<tempfile::TempDir>,
}

impl Node {
    fn start(net: &Net, accept: Accept) -> Self {
        let config = Config { accept, reserve_bytes: 0, ..Config::default() };
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let store = Store::open(dir.path()).unwrap();
        Self::run(net, config, Identity::generate(), store, dir)
    }

    fn run(net: &Net, config: Config, identity: Identity, store: Store, dir: Arc<tempfile::TempDir>) -> Self {
        let (local, network) = (identity.address(), NetworkId::default());
        let (client, inbound) = net.board.join(local);
        let mirror = map::Mirror::load(&store, &map::Config::default(), &network, local, net.clock.clone()).unwrap();
        let (handle, control) = net::Handle::detached(local);
        let metrics = Metrics::default();
        let deps = Deps {
            identity: identity.clone(),
            network,
            clock: net.clock.clone(),
            store: store.clone(),
            net: handle,
            map: map::Handle::detached(mirror),
            contacts: Contacts::open(store.clone(), net.clock.clone(), local, true).unwrap(),
            client,
            inbound,
            metrics: metrics.clone(),
        };
        let (service, handle) = Service::new(&config, deps).unwrap();
        let (stop, mut tasks) = (Stop::new(), JoinSet::new());
        tasks.spawn(service.run(stop.clone()));
        Self { net: net.clone(), identity, config, store, handle, metrics, control, stop, tasks, dir }
    }

    /// Stops the service and starts it again on the same store.
    async fn restart(mut self) -> Self {
        self.stop.stop();
        soon("the service stops", self.tasks.join_next()).await.unwrap().unwrap().unwrap();
        let Self { net, identity, config, store, dir, .. } = self;
        Self::run(&net, config, identity, store, dir)
    }

    fn address(&self) -> PeerId {
        self.identity.address()
    }

    /// Off the network, or back on it.
    fn online(&self, online: bool) {
        self.net.board.set_online(self.address(), online);
    }

    async fn asks(&self, friend: &Self) -> Friendship {
        self.handle.offer(friend.address(), Terms::default(), None, 0).await.unwrap()
    }

    async fn with(&self, side: Side, other: &Self) -> Option<Friendship> {
        let all = self.handle.list().await.unwrap();
        all.into_iter().find(|f| f.side == side && f.address == other.address())
    }

    /// Waits until a friendship is in a state, and the other side knows what this one signed.
    async fn reaches(&self, side: Side, other: &Self, state: State) -> Friendship {
        let mut events = self.handle.subscribe();
        let wait = async {
            loop {
                if let Some(now) = self.with(side, other).await.filter(|f| f.state == state && f.told) {
                    return now;
                }
                // Being told is no event: look again soon in any case.
                let _ = tokio::time::timeout(Duration::from_millis(20), events.recv()).await;
            }
        };
        soon(&format!("{side:?} {state:?}"), wait).await
    }

    fn to(&self) -> Target {
        Target::Address(self.address())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_is_accepted_with_less_shown_on_both_sides_and_revoked() {
    let net = Net::new();
    let (a, b) = (Node::start(&net, Accept::Ask), Node::start(&net, Accept::Ask));
    let mut events = b.handle.subscribe();
    let asked = a.asks(&b).await;
    assert_eq!((asked.state, asked.side, asked.terms), (State::Offered, Side::HeldBy, Terms::default()));
    let Event(seen) = soon("the offer arrives", events.recv()).await.unwrap();
    assert_eq!((seen.state, seen.address, seen.grant_id), (State::Offered, a.address(), asked.grant_id));
    let less = Wanted { quota_bytes: Some(1 << 20), ..Wanted::default() };
    let mut held = b.handle.held();
    let accepted = b.handle.accept(a.to(), less).await.unwrap();
    assert_eq!((accepted.state, accepted.terms.quota_bytes), (State::Active, 1 << 20));
    soon("the mailbox learns it", held.wait_for(|h| h.len() == 1 && h[0].state == Hold::Active)).await.unwrap();
    let answered = a.handle.answered(b.address(), Duration::from_secs(30)).await.unwrap().expect("in time");
    assert_eq!((answered.state, answered.terms.quota_bytes), (State::Active, 1 << 20));
    let theirs = b.reaches(Side::HoldingFor, &a, State::Active).await;
    assert_eq!(theirs.grant, answered.grant, "the same grant, to the bit");
    let hash = answered.grant.unwrap().hash();
    // Anybody can fetch and verify it; nobody can pass off another one for it.
    let c = Node::start(&net, Accept::None);
    let fetched = c.handle.fetch(a.address(), b.address(), hash).await.unwrap();
    assert_eq!(Some(fetched), theirs.grant);
    assert!(c.handle.fetch(a.address(), c.address(), hash).await.is_err(), "it is not with that friend");
    b.online(false);
    assert!(c.handle.fetch(a.address(), b.address(), hash).await.is_ok(), "the owner has it, too");
    b.online(true);
    b.handle.report(Side::HoldingFor, a.address(), Figure { used_bytes: Some(5), ..Figure::default() });
    assert_eq!(b.with(Side::HoldingFor, &a).await.unwrap().figure.used_bytes, Some(5));
    let ended = a.handle.revoke(b.to(), None, None).await.unwrap();
    assert_eq!((ended.state, ended.hold), (State::Revoked, Some(Hold::Draining { until: START.plus(7 * DAY) })));
    a.reaches(Side::HeldBy, &b, State::Revoked).await;
    b.reaches(Side::HoldingFor, &a, State::Revoked).await;
    let draining = Hold::Draining { until: START.plus(7 * DAY) };
    soon("the mailbox drains", held.wait_for(|h| h[0].state == draining)).await.unwrap();
    net.clock.set(START.plus(8 * DAY));
    soon("nothing is owed", held.wait_for(|h| h[0].state == Hold::Ended)).await.unwrap();
    assert_eq!(a.handle.revoke(b.to(), None, None).await, Err(FriendError::TooLate(State::Revoked)));
    assert_eq!((b.metrics.accepted.get(), a.metrics.offered.get(), a.metrics.ended.get()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_offline_is_told_when_the_other_connects_also_after_a_restart() {
    let net = Net::new();
    let (mut a, mut b) = (Node::start(&net, Accept::Ask), Node::start(&net, Accept::Ask));
    b.online(false);
    let asked = a.asks(&b).await;
    assert_eq!(a.handle.answered(b.address(), Duration::from_millis(1)).await, Ok(None));
    a = a.restart().await;
    assert_eq!(a.with(Side::HeldBy, &b).await.unwrap().grant_id, asked.grant_id, "durable");
    b.online(true);
    a.control.up(b.address());
    b.reaches_offer(&a).await;
    b = b.restart().await;
    a.online(false);
    b.handle.accept(Target::Grant(asked.grant_id), Wanted::default()).await.unwrap();
    b = b.restart().await;
    assert_eq!(b.handle.held().borrow()[0].state, Hold::Active, "known before anything is asked");
    a.online(true);
    b.control.up(a.address());
    a.reaches(Side::HeldBy, &b, State::Active).await;
    b.reaches(Side::HoldingFor, &a, State::Active).await;
    // The friend resigns while the owner is away.
    a.online(false);
    b.handle.revoke(a.to(), None, None).await.unwrap();
    b = b.restart().await;
    a.online(true);
    b.control.up(a.address());
    let ended = a.reaches(Side::HeldBy, &b, State::Revoked).await;
    assert_eq!(ended.reason, "the friend resigned");
    b.reaches(Side::HoldingFor, &a, State::Revoked).await;
}

impl Node {
    /// Waits for an offer that waits for a person.
    async fn reaches_offer(&self, owner: &Self) -> Friendship {
        let wait = async {
            loop {
                if let Some(f) = self.with(Side::HoldingFor, owner).await.filter(|f| f.state == State::Offered) {
                    return f;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("an offer", wait).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_is_renewed_by_itself_and_expires_when_nobody_answers() {
    let net = Net::new();
    let (a, b) = (Node::start(&net, Accept::All), Node::start(&net, Accept::All));
    a.asks(&b).await;
    let first = a.reaches(Side::HeldBy, &b, State::Active).await;
    b.reaches(Side::HoldingFor, &a, State::Active).await;
    let mut events = a.handle.subscribe();
    net.clock.set(START.plus(70 * DAY));
    let renewal = async {
        loop {
            // The offer of a renewal is news, too.
            let Event(now) = events.recv().await.unwrap();
            if now.grant.as_ref().map(|g| g.hash()) != first.grant.as_ref().map(|g| g.hash()) {
                return now;
            }
        }
    };
    let renewed = soon("a renewal", renewal).await;
    assert_eq!((renewed.state, renewed.grant_id), (State::Active, first.grant_id));
    assert_eq!(renewed.grant.unwrap().offer.prev, first.grant.map(|g| g.hash()));
    assert_eq!(renewed.expires_at, START.plus(160 * DAY));
    b.reaches(Side::HoldingFor, &a, State::Active).await;
    b.online(false);
    net.clock.set(START.plus(160 * DAY));
    let wait = async {
        loop {
            let Event(now) = events.recv().await.unwrap();
            if now.state != State::Active {
                return now;
            }
        }
    };
    let over = soon("it expires", wait).await;
    assert_eq!(over.hold, Some(Hold::Draining { until: START.plus(167 * DAY) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_is_told_and_a_policy_answers_by_itself() {
    let net = Net::new();
    let (a, none) = (Node::start(&net, Accept::Ask), Node::start(&net, Accept::None));
    a.asks(&none).await;
    let no = a.handle.answered(none.address(), Duration::from_secs(30)).await.unwrap().expect("in time");
    assert_eq!(no.state, State::Declined);
    assert!(no.reason.contains("friend.accept"), "{}", no.reason);
    assert!(none.handle.list().await.unwrap().is_empty());
    let b = Node::start(&net, Accept::Ask);
    a.asks(&b).await;
    b.reaches_offer(&a).await;
    b.handle.decline(a.to()).await.unwrap();
    let no = a.reaches(Side::HeldBy, &b, State::Declined).await;
    assert_eq!(no.reason, "declined");
    // A new offer is another question.
    a.asks(&b).await;
    b.reaches_offer(&a).await;
    b.handle.accept(a.to(), Wanted::default()).await.unwrap();
    a.reaches(Side::HeldBy, &b, State::Active).await;
    let nobody = Target::Address(PeerId::random());
    assert_eq!(b.handle.accept(nobody, Wanted::default()).await, Err(FriendError::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_may_hold_for_each_other() {
    let net = Net::new();
    let (a, b) = (Node::start(&net, Accept::All), Node::start(&net, Accept::All));
    let first = a.asks(&b).await;
    b.asks(&a).await;
    for (node, other) in [(&a, &b), (&b, &a)] {
        node.reaches(Side::HeldBy, other, State::Active).await;
        node.reaches(Side::HoldingFor, other, State::Active).await;
    }
    assert_eq!(a.handle.revoke(b.to(), None, None).await, Err(FriendError::Ambiguous));
    assert_eq!(a.handle.revoke(Target::Grant(first.grant_id), None, None).await.unwrap().side, Side::HeldBy);
    let other = a.handle.revoke(b.to(), Some(Side::HoldingFor), None).await.unwrap();
    assert_eq!((other.side, other.state), (Side::HoldingFor, State::Revoked));
    b.reaches(Side::HeldBy, &a, State::Revoked).await;
    b.reaches(Side::HoldingFor, &a, State::Revoked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_two_can_tell_each_other_and_a_full_disk_promises_nothing() {
    use super::super::{
        relation::Fact,
        wire::{self, Answer, Ask, Refused},
    };
    let net = Net::new();
    let (a, b) = (Node::start(&net, Accept::Ask), Node::start(&net, Accept::All));
    let stranger = Identity::generate();
    let (client, _inbound) = net.board.join(stranger.address());
    let say = |fact: Fact| {
        let (client, to) = (client.clone(), b.address());
        async move {
            let response = client.request(to, wire::request(&Ask::Tell(fact))).await.unwrap();
            wire::read_response(&super::verifier(), &response).unwrap()
        }
    };
    let replayed = say(Fact::Offer(offer(&a.identity, &b.identity, START.0))).await;
    assert_eq!(replayed, Answer::Refused(Refused::Bad), "somebody else's offer");
    let for_another = say(Fact::Offer(offer(&stranger, &a.identity, START.0))).await;
    assert_eq!(for_another, Answer::Refused(Refused::Bad));
    let future = say(Fact::Offer(offer(&stranger, &b.identity, START.plus(3 * DAY).0))).await;
    assert_eq!(future, Answer::Refused(Refused::Clock));
    assert!(b.handle.list().await.unwrap().is_empty());
    assert_eq!(b.metrics.asked.get(), 0);
    b.store.pretend_full(true);
    a.asks(&b).await;
    let wait = async {
        loop {
            let now = a.with(Side::HeldBy, &b).await.unwrap();
            if !now.last_error.is_empty() {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(soon("a failed try", wait).await.state, State::Offered);
    assert!(b.handle.list().await.unwrap().is_empty(), "nothing that is not durable is promised");
    b.store.pretend_full(false);
    a.control.up(b.address());
    a.reaches(Side::HeldBy, &b, State::Active).await;
    a.store.pretend_full(true);
    assert!(matches!(a.handle.revoke(b.to(), None, None).await, Err(FriendError::Store(_))));
    assert_eq!(a.with(Side::HeldBy, &b).await.unwrap().state, State::Active, "nothing was signed");
}
