//! The holder's actor over a loopback, with a real store: refusals, receipts, pulls, acks, restarts.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
};

use super::{
    super::{
        Account, DepositError, Depositor, Metrics, Part, Place, Refusal, StoredReceipt,
        evidence::Audit,
        grant::{DRAIN, Grant},
        holder::{self, Command, Holder, OwnerStats},
        machine::{GrantError, Limits, Machine, Offer, Proof, Verdict, Who},
        proof,
        wire::{self, Deposit, Desk, DeskWork, Hint, Page, Pull},
    },
    DAY, HOUR, START, offer, open_grant, preimage, sealed,
};
use crate::{
    identity::Identity,
    message::{
        envelope::part_id,
        friend::{Config, Hold, POLICY_CONTACTS, POLICY_CONTACTS_POW, Terms},
    },
    net::{PeerEvent, rpc},
    primitives::{GrantId, Hash, ManualClock, MessageId, NetworkId, PeerId},
    runtime::Stop,
    store::{Batch, Family, Store},
};

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, future).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

#[derive(Clone, Default)]
struct Boards {
    deposit: rpc::Loopback<Deposit>,
    pull: rpc::Loopback<Pull>,
    desk: rpc::Loopback<Desk>,
    hint: rpc::Loopback<Hint>,
    audit: rpc::Loopback<Audit>,
}

struct Fixture {
    boards: Boards,
    clock: Arc<ManualClock>,
    identity: Identity,
    config: Config,
    store: Store,
    peers: broadcast::Sender<PeerEvent>,
    commands: mpsc::Sender<Command>,
    metrics: Metrics,
    stop: Stop,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Config { reserve_bytes: 0, ..Config::default() })
    }

    fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut fixture = Self {
            boards: Boards::default(),
            clock: Arc::new(ManualClock::new(START)),
            identity: Identity::generate(),
            config,
            store: Store::open(dir.path()).unwrap(),
            peers: broadcast::channel(16).0,
            commands: mpsc::channel(1).0,
            metrics: Metrics::default(),
            stop: Stop::new(),
            tasks: JoinSet::new(),
            _dir: dir,
        };
        fixture.start();
        fixture
    }

    fn start(&mut self) {
        let holder = self.identity.address();
        let (commands, queue) = mpsc::channel(holder::QUEUE);
        let deps = holder::Deps {
            identity: self.identity.clone(),
            network: NetworkId::default(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            peers: self.peers.subscribe(),
            deposits: self.boards.deposit.join(holder).1,
            pulls: self.boards.pull.join(holder).1,
            desk: self.boards.desk.join(holder).1,
            hints: self.boards.hint.join(holder).0,
            audits: self.boards.audit.join(holder).1,
            commands: queue,
        };
        let (holder, queues) = Holder::load(&self.config, deps).unwrap();
        self.stop = Stop::new();
        self.tasks.spawn(holder.run(queues, self.stop.clone()));
        self.commands = commands;
    }

    /// As after a kill: what was not committed is gone, what was is loaded.
    async fn restart(&mut self) {
        self.tasks.shutdown().await;
        // What the old one has handed to the store is written before the new one reads: a process that is killed writes no more.
        let mut last = Batch::new();
        last.delete(Family::Mailbox, b"nothing");
        soon("commit", self.store.commit(last)).await.unwrap();
        self.start();
    }

    fn address(&self) -> PeerId {
        self.identity.address()
    }

    async fn grant(&self, owner: PeerId, grant: Grant) -> Result<(), GrantError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Grant(owner, grant, reply)).await.unwrap();
        soon("grant", answer).await.unwrap()
    }

    async fn stats(&self, owner: PeerId) -> Option<OwnerStats> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Stats(reply)).await.unwrap();
        soon("stats", answer).await.unwrap().into_iter().find(|s| s.owner == owner)
    }

    async fn sweep(&self) {
        // Twice: what one turn finds empty, the next one clears.
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            self.commands.send(Command::Sweep(reply)).await.unwrap();
            soon("sweep", answer).await.unwrap();
        }
    }

    fn depositor(&self) -> Depositor {
        let me = PeerId::random();
        Depositor::new(&NetworkId::default(), self.boards.deposit.join(me).0, self.boards.desk.join(me).0)
    }

    async fn deposit(
        &self,
        owner: PeerId,
        grant: u8,
        account: &Account,
        parts: Vec<Part>,
    ) -> Vec<Result<StoredReceipt, Refusal>> {
        let place = Place { holder: self.address(), owner, grant: GrantId([grant; 16]) };
        soon("deposit", self.depositor().deposit(place, account, parts)).await.unwrap().0
    }

    async fn one(&self, owner: PeerId, account: &Account, n: u64) -> Result<StoredReceipt, Refusal> {
        self.deposit(owner, 1, account, vec![part(n)]).await.remove(0)
    }

    async fn pull(&self, owner: PeerId, after: u64) -> Result<Page, rpc::RequestError> {
        let client = self.boards.pull.join(owner).0;
        let answer = client.request(self.address(), wire::pull(after));
        Ok(wire::read_pulled(soon("pull", answer).await?, after).unwrap())
    }

    async fn desk(&self, owner: PeerId, work: DeskWork) -> Result<(), Refusal> {
        let client = self.boards.desk.join(owner).0;
        let answer = client.request(self.address(), wire::desk(&work));
        wire::read_desk_answer(&soon("desk", answer).await.unwrap())
    }

    async fn ack(&self, owner: PeerId, ids: &[MessageId]) -> Result<(), Refusal> {
        let acked = ids.iter().map(|id| (*id, token(id))).collect();
        self.desk(owner, DeskWork { acked, ..DeskWork::default() }).await
    }
}

/// What the owner shows with an acknowledgement.
fn token(id: &MessageId) -> [u8; 32] {
    Hash::of(&id.0).0
}

fn part(n: u64) -> Part {
    Part { sealed: sealed(n, 100), ttl_s: 3600, withdraw: Hash::of(&preimage(n)) }
}

fn id(n: u64) -> MessageId {
    part_id(&sealed(n, 100)).unwrap()
}

fn owner() -> PeerId {
    Identity::generate().address()
}

/// Enough work for any fill, little enough for a test.
const WORK: Account = Account::Work(18);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_pulled_by_its_owner_until_it_is_acknowledged_and_never_comes_back() {
    let (mut f, owner) = (Fixture::new(), owner());
    f.grant(owner, open_grant(1)).await.unwrap();
    let parts = vec![part(1), part(2), part(3), part(1)];
    let answers = f.deposit(owner, 1, &WORK, parts).await;
    let receipts: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        receipts.iter().map(|r| (r.queue_seq, r.duplicate)).collect::<Vec<_>>(),
        [(1, false), (2, false), (3, false), (1, true)]
    );
    assert_eq!((receipts[0].id, receipts[0].stored_at, receipts[0].expires_at), (id(1), START, START.plus(HOUR)));
    f.restart().await;
    f.clock.set(START.plus(HOUR / 2));
    let again = f.one(owner, &WORK, 2).await.unwrap();
    assert_eq!(again, StoredReceipt { duplicate: true, ..receipts[1] }, "the same receipt, also after a restart");
    let page = f.pull(owner, 0).await.unwrap();
    assert_eq!(page.items.iter().map(|i| (i.seq, i.id)).collect::<Vec<_>>(), [(1, id(1)), (2, id(2)), (3, id(3))]);
    assert_eq!((page.items[2].part.clone(), page.head, page.more), (sealed(3, 100), 3, false));
    assert_eq!(f.pull(owner, 2).await.unwrap().items.len(), 1);
    assert_eq!(f.pull(owner, 0).await.unwrap(), page, "a pull deletes nothing");
    // 4 was never here: it may be on its way.
    f.ack(owner, &[id(1), id(3), id(4)]).await.unwrap();
    f.restart().await;
    assert_eq!(f.pull(owner, 0).await.unwrap().items.iter().map(|i| i.seq).collect::<Vec<_>>(), [2]);
    for n in [1, 3, 4] {
        assert_eq!(f.one(owner, &WORK, n).await, Err(Refusal::AlreadyDelivered));
    }
    assert_eq!(f.one(owner, &WORK, 5).await.unwrap().queue_seq, 4, "numbers go on");
    let stats = f.stats(owner).await.unwrap();
    assert_eq!((stats.messages, stats.tombstones, stats.head), (2, 3, 4));
    // An hour and seven days after they were stored, and for what was never here 14 days and seven after the ack.
    f.clock.set(START.plus(DAY * 8));
    f.sweep().await;
    assert_eq!(f.stats(owner).await.unwrap().tombstones, 1);
    assert_eq!(f.one(owner, &WORK, 1).await.unwrap().queue_seq, 5, "forgotten after its tombstone");
    assert_eq!(f.one(owner, &WORK, 4).await, Err(Refusal::AlreadyDelivered));
    assert_eq!(f.metrics.acked.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_own_code() {
    let (f, owner, stranger) = (Fixture::new(), owner(), owner());
    let mut grant = open_grant(1);
    grant.terms = Terms { max_msg_bytes: 303, max_ttl_s: 3600, quota_msgs: 3, ..grant.terms };
    assert_eq!(f.grant(PeerId::random(), grant).await, Err(GrantError::BadOwner));
    f.grant(owner, grant).await.unwrap();
    let one = async |part: Part, account: &Account| f.deposit(owner, 1, account, vec![part]).await.remove(0);
    assert_eq!(f.one(stranger, &WORK, 1).await, Err(Refusal::NotFriend));
    assert_eq!(f.deposit(owner, 2, &WORK, vec![part(1)]).await, [Err(Refusal::NotFriend)]);
    let large = Part { sealed: sealed(1, 151), ..part(1) };
    assert_eq!(one(large, &WORK).await, Err(Refusal::TooLarge(303)));
    assert!(one(Part { sealed: sealed(1, 150), ..part(1) }, &WORK).await.is_ok());
    assert_eq!(one(Part { ttl_s: 3601, ..part(1) }, &WORK).await, Err(Refusal::TtlTooLong(3600)));
    assert_eq!(f.one(owner, &Account::Work(0), 1).await, Err(Refusal::NeedPow(18)));
    assert_eq!(f.one(owner, &Account::Key(Box::new(Identity::generate())), 1).await, Err(Refusal::BadAuth));
    // Two places are left.
    let answers = f.deposit(owner, 1, &WORK, vec![part(1), part(2), part(3)]).await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 2);
    assert_eq!(answers[2], Err(Refusal::QuotaOwner));
    let mut raw = wire::RawDeposit { grant: grant.id, owner, items: Vec::new() };
    let nonce = proof::work(&grant.id, &id(8), 18);
    let item = |n| wire::RawItem {
        id: id(8),
        ttl_s: 1,
        withdraw: Hash::default(),
        proof: wire::RawProof::Nonce(nonce),
        part: sealed(n, 100),
    };
    raw.items = vec![item(9)];
    let client = f.boards.deposit.join(stranger).0;
    let answer = soon("answer", client.request(f.address(), wire::deposit(&raw))).await.unwrap();
    assert_eq!(answer.codes, [Refusal::IdMismatch.to_wire().0]);
    for phase in [Hold::Draining { until: START.plus(DAY) }, Hold::Ended] {
        f.grant(owner, Grant { phase, ..grant }).await.unwrap();
        let why = if phase == Hold::Ended { Refusal::Revoked } else { Refusal::Draining };
        assert_eq!(f.one(owner, &WORK, 7).await, Err(why));
        assert_eq!(f.pull(owner, 0).await.is_ok(), phase != Hold::Ended);
    }
    assert_eq!(f.grant(owner, grant).await, Err(GrantError::Stale), "it does not come back");
    let mut late = open_grant(3);
    late.not_after = START.plus(HOUR);
    f.grant(owner, late).await.unwrap();
    f.clock.set(START.plus(HOUR));
    assert_eq!(f.deposit(owner, 3, &WORK, vec![part(7)]).await, [Err(Refusal::GrantExpired)]);
    assert!(f.pull(owner, 0).await.is_ok(), "pulls go on");
    let error = f.pull(stranger, 0).await.unwrap_err();
    assert_eq!(error, rpc::RequestError::Status(crate::wire::Status::Refused));
    assert_eq!(f.ack(stranger, &[id(1)]).await, Err(Refusal::NotFriend));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contacts_have_their_own_share_and_can_be_shut_out_alone() {
    let (mut f, owner) = (Fixture::new(), owner());
    let terms = Terms { policy: POLICY_CONTACTS, per_contact_msgs: 2, ..Terms::default() };
    f.grant(owner, Grant { terms, ..open_grant(1) }).await.unwrap();
    let (ann, bob) = (Identity::generate(), Identity::generate());
    let (a, b) = (Account::Key(Box::new(ann.clone())), Account::Key(Box::new(bob.clone())));
    let contacts = vec![(ann.public_key(), 9, 10_000), (bob.public_key(), 9, 600)];
    f.desk(owner, DeskWork { contacts, ..DeskWork::default() }).await.unwrap();
    assert_eq!(f.one(owner, &WORK, 1).await, Err(Refusal::BadAuth), "contacts only");
    for n in [1, 2] {
        assert!(f.one(owner, &a, n).await.is_ok());
    }
    assert_eq!(f.one(owner, &a, 3).await, Err(Refusal::QuotaContact), "two at a time by the grant");
    assert!(f.one(owner, &b, 4).await.is_ok(), "others are not concerned");
    f.sweep().await;
    f.restart().await;
    assert_eq!(f.one(owner, &a, 3).await, Err(Refusal::QuotaContact));
    f.ack(owner, &[id(1), id(4)]).await.unwrap();
    assert!(f.one(owner, &a, 3).await.is_ok());
    assert!(f.one(owner, &b, 5).await.is_ok());
    f.ack(owner, &[id(5)]).await.unwrap();
    f.restart().await;
    assert_eq!(f.one(owner, &b, 6).await, Err(Refusal::QuotaContact), "600 bytes a day, of 253 each");
    f.clock.set(START.plus(DAY));
    assert!(f.one(owner, &b, 6).await.is_ok(), "a new day");
    let page = f.pull(owner, 0).await.unwrap();
    assert_eq!(page.markers.len(), 2, "{:?}", page.markers);
    assert_eq!(page.markers.iter().map(|(_, m)| m.count).max(), Some(2), "before and after the restart");
    let seen = page.markers.clone();
    f.desk(owner, DeskWork { seen, ..DeskWork::default() }).await.unwrap();
    assert!(f.pull(owner, 0).await.unwrap().markers.is_empty());
    f.desk(owner, DeskWork { revoked: vec![bob.public_key()], ..DeskWork::default() }).await.unwrap();
    f.restart().await;
    assert_eq!(f.one(owner, &b, 8).await, Err(Refusal::BadAuth));
    f.ack(owner, &[id(2), id(3)]).await.unwrap();
    assert_eq!(f.one(owner, &a, 8).await.err(), None);
    let many = (0..255_u8).map(|n| ([n; 32], 1, 1)).collect::<Vec<_>>();
    for round in 0..4_u8 {
        let contacts = many
            .iter()
            .map(|(k, m, b)| {
                (
                    {
                        let mut k = *k;
                        k[0] = round;
                        k[1] ^= 1;
                        k
                    },
                    *m,
                    *b,
                )
            })
            .collect();
        f.desk(owner, DeskWork { contacts, ..DeskWork::default() }).await.unwrap();
    }
    assert_eq!(f.desk(owner, DeskWork { contacts: many, ..DeskWork::default() }).await, Err(Refusal::QuotaOwner));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_deposits_fill_their_share_only_and_cost_more_the_fuller_it_is() {
    let (f, owner) = (Fixture::new(), owner());
    // Ten parts of 253 + 512 bytes.
    let terms = Terms { policy: POLICY_CONTACTS_POW, quota_bytes: 153_000, open_share_percent: 5, ..Terms::default() };
    f.grant(owner, Grant { terms, ..open_grant(1) }).await.unwrap();
    let (mut bits, mut asked) = (18, Vec::new());
    for n in 0..6 {
        while let Err(why) = f.one(owner, &Account::Work(bits), n).await {
            let Refusal::NeedPow(more) = why else { panic!("{why}") };
            bits = u32::try_from(more).unwrap();
            asked.push(bits);
        }
    }
    // A nonce may show more bits than were asked for, so steps may be missing.
    assert!(asked.windows(2).all(|two| two[0] < two[1]), "{asked:?}");
    assert!(!asked.is_empty() && asked.iter().all(|bits| (19..=21).contains(bits)), "{asked:?}");
    // The rest of the work is not for a test to do.
    let mut machine = Machine::new(Limits { max_bytes: u64::MAX, max_msgs: u64::MAX });
    machine.grant(owner, Grant { terms, ..open_grant(1) }, START).unwrap();
    let plan = |machine: &mut Machine, n, bits| {
        let offer = Offer { proof: Proof::Work(bits), ..offer(n, 100, 60) };
        machine.plan((START, true), &owner, &GrantId([1; 16]), &offer, None)
    };
    for (n, bits) in (0..).zip([18, 18, 19, 19, 20, 21, 21, 22, 22, 23]) {
        let asked = plan(&mut machine, n, 0);
        assert_eq!(asked, Verdict::Refuse(Refusal::NeedPow(bits)), "{n}");
        assert!(matches!(plan(&mut machine, n, 24), Verdict::Store(_)), "{n}");
    }
    assert_eq!(plan(&mut machine, 10, 255), Verdict::Refuse(Refusal::QuotaContact));
    assert_eq!(machine.queue(&owner).unwrap().markers[&(Who::Open, 6)].count, 1);
    machine.finish(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_takes_back_what_it_left_and_nobody_else_does() {
    let (f, owner) = (Fixture::new(), owner());
    f.grant(owner, open_grant(1)).await.unwrap();
    f.one(owner, &WORK, 1).await.unwrap();
    let depositor = f.depositor();
    let withdraw = |n| depositor.withdraw(f.address(), owner, id(1), preimage(n));
    soon("answer", withdraw(2)).await.unwrap().unwrap();
    assert_eq!(f.pull(owner, 0).await.unwrap().items.len(), 1, "the wrong secret");
    soon("answer", withdraw(1)).await.unwrap().unwrap();
    assert!(f.pull(owner, 0).await.unwrap().items.is_empty());
    assert_eq!(f.one(owner, &WORK, 1).await, Err(Refusal::AlreadyDelivered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_ends_messages_and_grants_and_leaves_nothing() {
    let (f, owner) = (Fixture::new(), owner());
    f.grant(owner, open_grant(1)).await.unwrap();
    for n in 0..5 {
        f.one(owner, &WORK, n).await.unwrap();
    }
    f.ack(owner, &[id(0)]).await.unwrap();
    f.clock.set(START.plus(HOUR));
    assert!(f.pull(owner, 0).await.unwrap().items.is_empty(), "over, though not swept yet");
    f.sweep().await;
    let stats = f.stats(owner).await.unwrap();
    assert_eq!((stats.messages, stats.bytes, stats.head), (0, 0, 5));
    assert_eq!(f.metrics.expired.get(), 4);
    f.one(owner, &WORK, 9).await.unwrap();
    f.clock.set(open_grant(1).not_after.plus(DRAIN));
    f.sweep().await;
    f.sweep().await;
    assert_eq!(f.stats(owner).await, None);
    for family in [crate::store::Family::Mailbox, crate::store::Family::MailboxBody] {
        assert_eq!(f.store.scan(family, b"", None, 10).unwrap(), [], "nothing is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_a_full_node_refuse_and_lose_nothing() {
    let config = Config { max_bytes: 2 * (253 + 512), reserve_bytes: 0, ..Config::default() };
    let (mut f, owner) = (Fixture::with(config), owner());
    f.grant(owner, open_grant(1)).await.unwrap();
    f.one(owner, &WORK, 1).await.unwrap();
    f.store.pretend_full(true);
    assert_eq!(f.one(owner, &WORK, 2).await, Err(Refusal::DiskFull));
    f.store.pretend_full(false);
    assert_eq!(f.one(owner, &WORK, 2).await.unwrap().queue_seq, 2, "no gap");
    assert_eq!(f.one(owner, &WORK, 3).await, Err(Refusal::DiskFull), "over all owners");
    f.config.reserve_bytes = u64::MAX;
    f.restart().await;
    f.ack(owner, &[id(1)]).await.unwrap();
    assert_eq!(f.one(owner, &WORK, 3).await, Err(Refusal::DiskFull), "the reserve");
    assert_eq!(f.pull(owner, 0).await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_connects_or_is_connected_is_told_of_its_mail() {
    let (f, owner) = (Fixture::new(), owner());
    f.grant(owner, open_grant(1)).await.unwrap();
    let (_client, mut hints) = f.boards.hint.join(owner);
    f.peers.send(PeerEvent::Up(owner)).unwrap();
    f.one(owner, &WORK, 1).await.unwrap();
    let hint = soon("a hint of a new message", hints.recv()).await.unwrap();
    assert_eq!((hint.request.count, hint.peer), (1, f.address()));
    hint.respond(wire::taken());
    f.one(owner, &WORK, 2).await.unwrap();
    f.peers.send(PeerEvent::Down(owner)).unwrap();
    f.one(owner, &WORK, 3).await.unwrap();
    f.peers.send(PeerEvent::Up(owner)).unwrap();
    let hint = soon("a hint at the connection", hints.recv()).await.unwrap();
    assert_eq!(hint.request.count, 3, "none meanwhile: it had been told, then it was away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_holders_signature_counts() {
    let (boards, owner, liar) = (Boards::default(), owner(), Identity::generate());
    let holder = Identity::generate();
    let (_client, mut inbound) = boards.deposit.join(holder.address());
    let me = PeerId::random();
    let depositor = Depositor::new(&NetworkId::default(), boards.deposit.join(me).0, boards.desk.join(me).0);
    let place = Place { holder: holder.address(), owner, grant: GrantId([1; 16]) };
    let good = StoredReceipt {
        id: id(1),
        grant: place.grant,
        stored_at: START,
        expires_at: START,
        queue_seq: 1,
        duplicate: false,
        withdraw: Hash([3; 32]),
    };
    let other = StoredReceipt { id: id(2), ..good };
    let wrong_grant = StoredReceipt { grant: GrantId([2; 16]), ..good };
    let purpose = proof::stored_purpose(&NetworkId::default());
    let foreign = proof::stored_purpose(&"other".parse().unwrap());
    let cases = [
        (&liar, &purpose, owner, good, false),
        (&holder, &foreign, owner, good, false),
        (&holder, &purpose, me, good, false),
        (&holder, &purpose, owner, other, false),
        (&holder, &purpose, owner, wrong_grant, false),
        (&holder, &purpose, owner, good, true),
    ];
    for (signer, purpose, of, receipt, ok) in cases {
        let answer = async {
            let request = inbound.recv().await.unwrap();
            request.respond(wire::deposited(&[Ok(receipt)], |list| proof::sign(signer, purpose, &of, list)));
        };
        let deposit = depositor.deposit(place, &Account::Work(0), vec![part(1)]);
        let (result, ()) = soon("answer", async { tokio::join!(deposit, answer) }).await;
        match result {
            Ok((answers, signed)) => assert!(ok && answers == [Ok(good)] && signed.len() == 1),
            Err(error) => assert!(!ok && error == DepositError::Forged, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_deposits_at_once_share_few_syncs_and_large_ones_go_in_pages() {
    const EACH: u64 = 20;
    const FLIGHT: u64 = 48;
    let (f, owner) = (Fixture::new(), owner());
    let terms = Terms { policy: POLICY_CONTACTS, per_contact_msgs: 4096, ..Terms::default() };
    f.grant(owner, Grant { terms, ..open_grant(1) }).await.unwrap();
    let key = Identity::generate();
    let contacts = vec![(key.public_key(), u32::MAX, u64::MAX)];
    f.desk(owner, DeskWork { contacts, ..DeskWork::default() }).await.unwrap();
    let mut tasks = JoinSet::new();
    let (before, started) = (f.store.writer_stats().syncs, std::time::Instant::now());
    for at in 0..FLIGHT {
        let (depositor, account) = (f.depositor(), Account::Key(Box::new(key.clone())));
        let place = Place { holder: f.address(), owner, grant: GrantId([1; 16]) };
        tasks.spawn(async move {
            for n in 0..EACH {
                let parts = vec![part(at * EACH + n)];
                depositor.deposit(place, &account, parts).await.unwrap().0.remove(0).unwrap();
            }
        });
    }
    while let Some(done) = soon("deposits", tasks.join_next()).await {
        done.unwrap();
    }
    let syncs = f.store.writer_stats().syncs - before;
    println!("{:.0} deposits/s, {syncs} syncs", (EACH * FLIGHT) as f64 / started.elapsed().as_secs_f64());
    assert!(syncs < EACH * FLIGHT / 2, "{syncs} syncs");
    let large = |n| Part { sealed: sealed(n, 256 * 1024 - 8), ..part(0) };
    let parts = (0..9).map(|n| large(10_000 + n)).collect();
    assert!(f.deposit(owner, 1, &Account::Key(Box::new(key)), parts).await.iter().all(Result::is_ok));
    let (mut after, mut pulled, mut pages) = (0, 0, 0);
    loop {
        let page = f.pull(owner, after).await.unwrap();
        after = page.items.last().unwrap().seq;
        pulled += page.items.len() as u64;
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert_eq!((pulled, pages), (EACH * FLIGHT + 9, 3));
}

#[test]
fn the_largest_requests_and_answers_fit_their_limits() {
    use prost::Message as _;
    use rpc::Wire as _;
    let max = super::super::super::envelope::MAX_PART;
    let item = |len| wire::RawItem {
        id: id(1),
        ttl_s: u32::MAX,
        withdraw: Hash([1; 32]),
        proof: wire::RawProof::Key([1; 32], [1; 64]),
        part: vec![1; len].into(),
    };
    let deposit = wire::RawDeposit { grant: GrantId([1; 16]), owner: owner(), items: vec![item(max); 5] };
    assert_eq!(wire::fitting(&deposit.items), 4);
    let deposit = wire::RawDeposit { items: vec![item(max); 4], ..deposit };
    assert!(wire::deposit(&deposit).encoded_len() <= Deposit::MAX_REQUEST);
    let receipt = StoredReceipt {
        id: id(1),
        grant: GrantId([1; 16]),
        stored_at: START,
        expires_at: START,
        queue_seq: 1,
        duplicate: true,
        withdraw: Hash([3; 32]),
    };
    let purpose = proof::stored_purpose(&NetworkId::default());
    let sign = |list: &[StoredReceipt]| proof::sign(&Identity::generate(), &purpose, &owner(), list);
    let answers = [Ok(receipt); 64];
    assert!(wire::deposited(&answers, sign).encoded_len() <= Deposit::MAX_RESPONSE);
    let refused = wire::deposited(&[Err(Refusal::Rate(u64::MAX)); 64], sign);
    assert!(refused.encoded_len() <= Deposit::MAX_RESPONSE);
    assert!(max + 60 <= wire::PULL_BYTES);
    assert!(wire::pull(u64::MAX).encoded_len() <= Pull::MAX_REQUEST);
    let marker = ((super::super::Who::Open, 1), super::super::Marker { count: 1, first_at: START });
    let work = DeskWork {
        acked: vec![(id(1), [2; 32]); wire::DESK_ITEMS],
        contacts: vec![([1; 32], 1, 1); wire::DESK_ITEMS],
        revoked: vec![[1; 32]; wire::DESK_ITEMS],
        seen: vec![marker; super::super::machine::MARKERS],
        withdraw: Some((owner(), id(1), [1; 32])),
    };
    assert!(wire::desk(&work).encoded_len() <= Desk::MAX_REQUEST);
    assert_eq!(wire::read_desk(wire::desk(&work)).unwrap(), work);
}
