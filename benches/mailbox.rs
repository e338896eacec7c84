//! Messages by way of a friend: sender, friends and recipient are whole nodes in this process, each with its store on the disk of the
//! temporary folder.
//!
//! Defends: messages left with one friend (sealed, synced at the sender and at the friend, receipted by it), 64 in flight, at
//! least 0.5 of the rate of direct durable messages in the same run; 10000 messages of 1 KiB that wait at one friend are in the inbox
//! and acknowledged within 3 s, and within 5 s when two friends have all of them. (A sender leaves two copies at most.)

use std::time::{Duration, Instant};

use tempfile::TempDir;
use vos::{
    config::Config,
    message::{
        SendState,
        friend::{Accept, State, Terms},
    },
    primitives::PeerId,
    test_util::{Member, config},
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
const WAIT: Duration = Duration::from_secs(120);

fn settings(bootstrap: &[vos::primitives::Multiaddr]) -> Config {
    let mut config = config(bootstrap);
    (config.friend.accept, config.friend.reserve_bytes) = (Accept::All, 0);
    config
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < WAIT, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A sender, friends who let it in, and a recipient.
struct Story {
    sender: Member,
    friends: Vec<Member>,
    recipient: Option<Member>,
    to: PeerId,
}

impl Story {
    async fn start(friends: usize) -> Self {
        let sender = Member::start("sender", settings(&[])).await;
        let boot = [sender.multiaddr()];
        let recipient = Member::start("recipient", settings(&boot)).await;
        let mut all = Vec::new();
        for n in 0..friends {
            all.push(Member::start(&format!("friend{n}"), settings(&boot)).await);
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
        Self { sender, friends: all, recipient: Some(recipient), to }
    }

    /// The recipient goes away.
    async fn away(&mut self) -> TempDir {
        self.recipient.take().expect("it is there").stop().await
    }

    async fn held(&self) -> u64 {
        let mut all = 0;
        for friend in &self.friends {
            let held = friend.node.message.mailbox().held().await.expect("running");
            all += held.iter().map(|owner| owner.messages).sum::<u64>();
        }
        all
    }

    async fn stop(self) {
        for member in self.recipient.into_iter().chain(self.friends).chain([self.sender]) {
            member.stop().await;
        }
    }
}

/// To one friend, against directly to the friend itself.
async fn leaving() {
    let mut story = Story::start(1).await;
    let dir = story.away().await;
    let (handle, friend) = (&story.sender.node.message, story.friends[0].address());
    rate(handle, story.to, (BODY, 640), (IN_FLIGHT, SendState::Stored)).await;
    rate(handle, friend, (BODY, 640), (IN_FLIGHT, SendState::Delivered)).await;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let ours = rate(handle, story.to, (BODY, BATCH), (IN_FLIGHT, SendState::Stored)).await;
        rates.push((ours, rate(handle, friend, (BODY, BATCH), (IN_FLIGHT, SendState::Delivered)).await));
    }
    let (a, b) = (median_f(rates.iter().map(|r| r.0).collect()), median_f(rates.iter().map(|r| r.1).collect()));
    let what = "messages of 256 bytes left with a friend, 64 in flight (delivered directly, durable and receipted)";
    report(what, &format!("{a:.0}/s"), &format!("{b:.0}/s"), a / b, 0.5);
    story.stop().await;
    drop(dir);
}

/// The recipient comes back to what waits at all of its friends.
async fn collecting(friends: usize, limit: f64) {
    let mut story = Story::start(friends).await;
    let dir = story.away().await;
    rate(&story.sender.node.message, story.to, (WAITING_BODY, WAITING), (IN_FLIGHT, SendState::Stored)).await;
    let copies = (WAITING * friends) as u64;
    until("every friend has all", async || story.held().await == copies).await;
    let boot = [story.sender.multiaddr()];
    let start = Instant::now();
    let recipient = Member::start_in(dir, "recipient", settings(&boot)).await;
    let started = start.elapsed();
    let message = recipient.node.message.clone();
    story.recipient = Some(recipient);
    until("all are in the inbox", async || message.stats().inbox == WAITING as u64).await;
    let there = start.elapsed();
    until("all are acknowledged", async || story.held().await == 0).await;
    let all = (start.elapsed()).as_secs_f64();
    let what = format!("{WAITING} messages of 1 KiB at {friends} friends, from the start of the recipient");
    let value =
        format!("started in {started:.1?}, in the inbox after {there:.1?}, acknowledged everywhere after {all:.2} s");
    bound(&what, &value, all <= limit, &format!("{limit} s"));
    story.stop().await;
}

pub(crate) async fn run() {
    leaving().await;
    collecting(1, 3.0).await;
    collecting(2, 5.0).await;
}
