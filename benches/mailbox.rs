//! Messages by way of friends: sender, friends and recipient are whole nodes in this process, each with its store on the disk of the
//! temporary folder.
//!
//! Defends: messages left with one friend (sealed, synced at the sender and at the friend, receipted by it), 64 in flight, at
//! least 0.5 of the rate of direct durable messages in the same run; 10000 messages of 1 KiB that wait at one friend are in the inbox
//! and acknowledged within 3 s, and within 5 s when three friends have all of them; a friend of a thousand owners serves one of them
//! at most 1.5 times slower than a friend of one. Prints what one message costs on the wire and at rest beside its padded size.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tempfile::TempDir;
use vos::{
    identity::Identity,
    message::{
        SendState,
        friend::{Hold, POLICY_OPEN_POW, State, Terms},
        mailbox::{Account, Grant, Part, Place, WORK_BITS},
    },
    primitives::{Clock as _, GrantId, Hash, Multiaddr, PeerId, SystemClock},
    test_util::{Member, config_of_friend},
};

use crate::{
    measure::{bound, median_f, report},
    message::rate,
    rpc::IN_FLIGHT,
};

const BODY: usize = 256;
/// Messages in a round.
const BATCH: usize = 3200;
const ROUNDS: usize = 3;
/// What waits for the recipient, with a body that makes 1 KiB with all that is sealed with it.
const WAITING: usize = 10_000;
const WAITING_BODY: usize = 700;
/// The padded size of such a message.
const PADDED: usize = 1024;
/// Owners of a crowded friend.
const OWNERS: usize = 1000;
const WAIT: Duration = Duration::from_secs(120);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < WAIT, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Parts that these hold for `owner`.
async fn held(friends: &[Member], owner: PeerId) -> usize {
    let mut all = 0;
    for friend in friends {
        let held = friend.node.message.mailbox().held().await.expect("running");
        all += held.iter().filter(|o| o.owner == owner).map(|o| o.messages).sum::<u64>();
    }
    usize::try_from(all).expect("few")
}

async fn start_all(dirs: Vec<TempDir>, mut boot: Vec<Multiaddr>) -> Vec<Member> {
    let mut members = Vec::new();
    for dir in dirs {
        let member = Member::start_in(dir, "friend", config_of_friend(&boot)).await;
        boot = vec![member.multiaddr()];
        members.push(member);
    }
    members
}

async fn stop_all(members: Vec<Member>) -> Vec<TempDir> {
    stream::iter(members).then(Member::stop).collect().await
}

/// Nodes that all went away once they had agreed.
struct Story {
    sender: TempDir,
    friends: Vec<TempDir>,
    recipient: TempDir,
    to: PeerId,
}

impl Story {
    async fn start(friends: usize) -> Self {
        let sender = Member::start("sender", config_of_friend(&[])).await;
        let boot = [sender.multiaddr()];
        let recipient = Member::start("recipient", config_of_friend(&boot)).await;
        let mut all = Vec::new();
        for n in 0..friends {
            all.push(Member::start(&format!("friend{n}"), config_of_friend(&boot)).await);
        }
        let to = recipient.address();
        let terms = Terms { quota_msgs: 100_000, quota_bytes: 1 << 30, per_contact_msgs: 100_000, ..Terms::default() };
        let terms = Terms { per_contact_bytes_day: 1 << 30, ..terms };
        for friend in &all {
            until("they know each other", async || recipient.node.map.get(&friend.address()).is_some()).await;
            let offer = recipient.node.friend.offer(friend.address(), terms, None, 0).await;
            offer.expect("offered");
        }
        until("all agreed", async || {
            let list = recipient.node.friend.list().await.expect("listed");
            list.iter().filter(|f| f.state == State::Active).count() == friends
        })
        .await;
        until("the sender is known", async || recipient.node.map.get(&sender.address()).is_some()).await;
        recipient.node.message.contacts().add(sender.address()).await.expect("a contact");
        until("it is let in", async || {
            let stats = recipient.node.message.mailbox().friends().await.expect("running");
            stats.values().filter(|f| f.contacts == 1).count() == friends
        })
        .await;
        until("the sender reads of the friends", async || {
            sender.node.map.get(&to).is_some_and(|e| e.friends.len() == friends)
        })
        .await;
        let recipient = recipient.stop().await;
        let friends = stop_all(all).await;
        Self { sender: sender.stop().await, friends, recipient, to }
    }
}

/// To one friend, against directly to the friend itself.
async fn leaving() {
    let story = Story::start(1).await;
    let friend = start_all(story.friends, Vec::new()).await.remove(0);
    let sender = Member::start_in(story.sender, "sender", config_of_friend(&[friend.multiaddr()])).await;
    let (handle, direct) = (&sender.node.message, friend.address());
    rate(handle, story.to, (BODY, 640), (IN_FLIGHT, SendState::Stored)).await;
    rate(handle, direct, (BODY, 640), (IN_FLIGHT, SendState::Delivered)).await;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let ours = rate(handle, story.to, (BODY, BATCH), (IN_FLIGHT, SendState::Stored)).await;
        rates.push((ours, rate(handle, direct, (BODY, BATCH), (IN_FLIGHT, SendState::Delivered)).await));
    }
    let (a, b) = (median_f(rates.iter().map(|r| r.0).collect()), median_f(rates.iter().map(|r| r.1).collect()));
    let what = "messages of 256 bytes left with a friend, 64 in flight (delivered directly, durable and receipted)";
    report(what, &format!("{a:.0}/s"), &format!("{b:.0}/s"), a / b, 0.5);
    sender.stop().await;
    friend.stop().await;
}

/// Gives a friend many more owners, each with a message in its mailbox.
async fn crowd(friend: &Member, sender: &Member) {
    let mailbox = friend.node.message.mailbox();
    let terms = Terms { policy: POLICY_OPEN_POW, open_share_percent: 100, ..Terms::default() };
    let not_after = SystemClock.now().plus(Duration::from_secs(24 * 3600));
    let mut places = Vec::new();
    for n in 1..OWNERS {
        let owner = Identity::generate().address();
        let id = GrantId(*hash(n).first_chunk().expect("16 of 32 bytes"));
        let grant = Grant { id, epoch: 1, phase: Hold::Active, not_after, terms };
        mailbox.grant(owner, grant).await.expect("granted");
        places.push((n, Place { holder: friend.address(), owner, grant: id }));
    }
    let depositor = sender.node.message.mailbox().depositor();
    let deposits = stream::iter(places).map(|(n, place)| {
        let sealed: Bytes = std::iter::repeat_n(hash(n), PADDED / 32 + 4).flatten().collect();
        let part = Part { sealed, ttl_s: 3600, withdraw: Hash::of(b"kept") };
        async move { depositor.deposit(place, &Account::Work(WORK_BITS), vec![part]).await }
    });
    let mut done = deposits.buffer_unordered(IN_FLIGHT);
    while let Some(answer) = done.next().await {
        assert!(answer.expect("answered").0.iter().all(Result::is_ok), "stored");
    }
}

fn hash(n: usize) -> [u8; 32] {
    *blake3::hash(&n.to_be_bytes()).as_bytes()
}

/// What was left with friends and collected.
struct Collected {
    /// How it went.
    told: String,
    /// From the start of the recipient until the last acknowledgement.
    seconds: f64,
    /// Over the loopback interface, headers and acknowledgements of TCP included, for each message: when it was left, when it was
    /// collected.
    wire: [u64; 2],
    /// Keys and values written for each message: by the sender, by the first friend, by the recipient.
    rest: [u64; 3],
}

/// The recipient comes back to what waits at all of its friends.
async fn collecting(friends: usize, owners: usize) -> Collected {
    let Story { sender, friends: mut dirs, recipient, to } = Story::start(friends).await;
    // A sender leaves two copies: that others have them too takes another sender with the same outbox.
    let sender = Member::start_in(sender, "sender", config_of_friend(&[])).await;
    let mut rest = [sender.node.writer_stats().bytes, 0, 0];
    rate(&sender.node.message, to, (WAITING_BODY, WAITING), (IN_FLIGHT, SendState::Queued)).await;
    rest[0] = sender.node.writer_stats().bytes - rest[0];
    let mut wire = [0; 2];
    let outbox = sender.stop().await;
    let mut full = Vec::new();
    while !dirs.is_empty() {
        let copy = tempfile::Builder::new().prefix("vos").tempdir().expect("a temporary folder");
        let copied = Command::new("cp").arg("-a").arg(outbox.path().join(".")).arg(copy.path()).status();
        assert!(copied.expect("cp runs").success(), "copied");
        let some = start_all(dirs.drain(..dirs.len().min(2)).collect(), Vec::new()).await;
        let before = loopback();
        let sender = Member::start_in(copy, "sender", config_of_friend(&[some[0].multiaddr()])).await;
        until("every friend has all", async || held(&some, to).await == WAITING * some.len()).await;
        (wire[0], rest[1]) = (wire[0] + loopback() - before, some[0].node.writer_stats().bytes);
        if owners > 1 {
            crowd(&some[0], &sender).await;
        }
        sender.stop().await;
        full.extend(stop_all(some).await);
    }
    let friends = start_all(full, Vec::new()).await;
    let boot = [friends[0].multiaddr()];
    let (start, before) = (Instant::now(), loopback());
    let recipient = Member::start_in(recipient, "recipient", config_of_friend(&boot)).await;
    let started = start.elapsed();
    until("all are in the inbox", async || recipient.node.message.stats().inbox == WAITING as u64).await;
    let there = start.elapsed();
    until("all are acknowledged", async || held(&friends, to).await == 0).await;
    let seconds = start.elapsed().as_secs_f64();
    (wire[1], rest[2]) = (loopback() - before, recipient.node.writer_stats().bytes);
    recipient.stop().await;
    stop_all(friends).await;
    let told = format!("started in {started:.1?}, in the inbox after {there:.1?}, acknowledged after {seconds:.2} s");
    let each = |all: u64| all / WAITING as u64;
    Collected { told, seconds, wire: wire.map(each), rest: rest.map(each) }
}

/// Bytes that this machine has sent to itself.
fn loopback() -> u64 {
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let count = devices.lines().find_map(|l| l.trim().strip_prefix("lo:")?.split_whitespace().next()?.parse().ok());
    count.unwrap_or(0)
}

pub(crate) async fn run() {
    leaving().await;
    let what = |friends| format!("{WAITING} messages of 1 KiB at {friends}, from the start of the recipient");
    let alone = collecting(1, 1).await;
    bound(&what("one friend"), &alone.told, alone.seconds <= 3.0, "3 s");
    let ([left, collected], [sender, friend, recipient]) = (alone.wire, alone.rest);
    println!(
        "    bytes a message of {WAITING_BODY}, padded to {PADDED}: on the wire {left} when left and {collected} when collected; keys \
         and values written by the sender {sender}, the friend {friend}, the recipient {recipient}"
    );
    let all = collecting(3, 1).await;
    bound(&what("three friends, each with all of them"), &all.told, all.seconds <= 5.0, "5 s");
    let crowded = collecting(1, OWNERS).await;
    let times = crowded.seconds / alone.seconds;
    let what = what("one friend of 1000 owners, against a friend of one");
    bound(&what, &format!("{}, {times:.2} times as long", crowded.told), times <= 1.5, "1.5 times");
}
