//! Messages to somebody offline: friends hold them, over stops and kills of everybody.

use serde_json::Value;

use super::daemon::{Daemon, Home, eventually, shown};

/// Alice sends to bob, whose friends hold his mail.
pub(super) struct Story {
    pub(super) a: Home,
    pub(super) b: Home,
    pub(super) friends: Vec<Home>,
    alice: Option<Daemon>,
    pub(super) bob: Option<Daemon>,
    pub(super) held: Vec<Option<Daemon>>,
    to: String,
}

impl Story {
    /// All know each other, and bob's record lists its friends, also where alice reads it.
    pub(super) fn start(friends: usize) -> Self {
        Self::with(friends, "contacts", true)
    }

    /// The same with friends who let in as `policy` says, alice being a contact or not.
    fn with(friends: usize, policy: &str, contact: bool) -> Self {
        let args = ["--set", "message.retry_max_s=2", "--set", "friend.reserve_bytes=0"];
        let args = [&args[..], &["--set", "friend.accept=all"]].concat();
        let new = || Home::new(&args);
        let (a, b, friends) = (new(), new(), (0..friends).map(|_| new()).collect::<Vec<_>>());
        let alice = a.start(&[]);
        let boot = alice.bootstrap();
        let bob = b.start(&["--bootstrap", &boot]);
        let held: Vec<_> = friends.iter().map(|home| Some(home.start(&["--bootstrap", &boot]))).collect();
        let nodes = friends.len() + 2;
        for home in [&a, &b].into_iter().chain(&friends) {
            eventually("all records", || (home.json(&["status"])["map"]["records"] == nodes).then_some(()));
        }
        for (daemon, priority) in held.iter().flatten().zip(1..) {
            let offer =
                ["friend", "offer", &daemon.address, "--priority", &priority.to_string(), "--policy", policy, "--wait"];
            assert_eq!(b.json(&offer)["state"], "active");
        }
        if contact {
            b.json(&["contact", "add", &alice.address]);
        }
        eventually("the friends let alice in", || {
            let stats = b.json(&["mailbox", "stats"]);
            let known = stats["held_by"].as_array()?.iter().filter(|f| f["contacts"] == usize::from(contact)).count();
            (known == friends.len()).then_some(())
        });
        let to = bob.address.clone();
        eventually("alice reads who bob's friends are", || {
            let record = a.json(&["map", "get", &to]);
            (record["records"][0]["friends"].as_array()?.len() == friends.len()).then_some(())
        });
        Self { a, b, friends, alice: Some(alice), bob: Some(bob), held, to }
    }

    pub(super) fn bootstrap(&self) -> String {
        self.held.iter().chain([&self.alice, &self.bob]).flatten().next().unwrap().bootstrap()
    }

    /// Sends and waits until a friend has it; the id.
    #[track_caller]
    pub(super) fn store(&self, text: &str) -> String {
        let sent = self.a.json(&["send", &self.to, text, "--wait", "stored", "--timeout", "60"]);
        assert_eq!(sent["state"], "stored", "{sent}");
        sent["id"].as_str().unwrap().to_owned()
    }

    pub(super) fn back(&mut self) {
        let boot = self.bootstrap();
        self.bob = Some(self.b.start(&["--bootstrap", &boot]));
    }

    /// It is in the inbox, once.
    #[track_caller]
    pub(super) fn arrived(&self, id: &str, text: &str) {
        eventually("the message arrives", || {
            let listed = self.b.json(&["inbox", "ls"]);
            listed["messages"].as_array()?.iter().any(|m| m["id"] == id).then_some(())
        });
        let read = self.b.run(&["inbox", "read", id]);
        assert_eq!(String::from_utf8_lossy(&read.stdout), text, "{}", shown(&read));
        assert_eq!(self.b.json(&["inbox", "ls"])["messages"].as_array().unwrap().len(), 1, "once");
    }

    fn shown(&self, id: &str) -> Value {
        self.a.json(&["outbox", "show", id])
    }
}

#[test]
fn sender_and_recipient_are_never_there_at_one_time() {
    let mut story = Story::start(1);
    let friend = story.held[0].as_ref().unwrap().address.clone();
    story.bob.take().unwrap().terminate();
    let id = story.store("while you were away");
    let held = story.shown(&id);
    assert_eq!(held["holders"], serde_json::json!([friend]), "{held}");
    let step = held["history"].as_array().unwrap().iter().find(|step| step["state"] == "stored").unwrap();
    assert_eq!(step["by"], friend, "{held}");
    story.alice.take().unwrap().terminate();
    // The friend forgets nothing when it dies between storing and handing over.
    story.held[0].take().unwrap().kill();
    story.held[0] = Some(story.friends[0].start(&[]));
    story.back();
    story.arrived(&id, "while you were away");
    let boot = story.bootstrap();
    story.alice = Some(story.a.start(&["--bootstrap", &boot]));
    let told = eventually("delivered", || Some(story.shown(&id)).filter(|m| m["state"] == "delivered"));
    let last = told["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["state"], &last["by"]), (&"delivered".into(), &story.to.as_str().into()), "{told}");
    story.arrived(&id, "while you were away");
}

#[test]
fn the_second_friend_has_it_when_the_first_is_dead() {
    let mut story = Story::start(2);
    let second = story.held[1].as_ref().unwrap().address.clone();
    story.bob.take().unwrap().kill();
    story.held[0].take().unwrap().kill();
    let id = story.store("by the other one");
    assert_eq!(story.shown(&id)["holders"], serde_json::json!([second]));
    story.alice.take().unwrap().kill();
    story.back();
    story.arrived(&id, "by the other one");
    let boot = story.bootstrap();
    story.alice = Some(story.a.start(&["--bootstrap", &boot]));
    eventually("delivered", || (story.shown(&id)["state"] == "delivered").then_some(()));
    // The first one is back with an empty mailbox; nothing comes twice.
    story.held[0] = Some(story.friends[0].start(&["--bootstrap", &boot]));
    story.arrived(&id, "by the other one");
}

#[test]
fn a_stranger_pays_with_work_where_it_is_let_in_and_waits_where_it_is_not() {
    let mut story = Story::with(1, "work", false);
    story.bob.take().unwrap().terminate();
    let id = story.store("we have not met");
    story.back();
    story.arrived(&id, "we have not met");

    let mut story = Story::with(1, "contacts", false);
    story.bob.take().unwrap().terminate();
    let sent = story.a.run(&["send", &story.to, "let me in", "--wait", "stored", "--timeout", "3", "--json"]);
    assert_eq!(sent.status.code(), Some(6), "{}", shown(&sent));
    let waiting = &story.a.json(&["outbox", "ls"])["messages"][0];
    assert_eq!(waiting["state"], "queued", "{waiting}");
    // Once bob is back it goes out directly.
    story.back();
    story.arrived(waiting["id"].as_str().unwrap(), "let me in");
}

#[test]
fn whom_we_wrote_to_may_answer_while_we_are_gone_and_who_is_shut_out_may_not() {
    let mut story = Story::with(1, "contacts", false);
    let alice = story.alice.as_ref().unwrap().address.clone();
    let sent = story.b.json(&["send", &alice, "write to me", "--wait", "delivered", "--timeout", "30"]);
    assert_eq!(sent["state"], "delivered");
    let contacts = story.b.json(&["contact", "ls"]);
    assert_eq!(
        (&contacts["contacts"][0]["address"], &contacts["contacts"][0]["origin"]),
        (&alice.as_str().into(), &"written".into())
    );
    eventually("the friend knows", || {
        (story.b.json(&["mailbox", "stats"])["held_by"][0]["contacts"] == 1).then_some(())
    });
    story.bob.take().unwrap().terminate();
    let id = story.store("with pleasure");
    story.back();
    story.arrived(&id, "with pleasure");

    let rest = story.b.json(&["contact", "rm", &alice]);
    assert_eq!(rest["contacts"], serde_json::json!([]));
    let friend = &story.friends[0];
    eventually("its key is gone at the friend", || {
        (friend.json(&["mailbox", "stats"])["holding_for"][0]["contacts"] == 0).then_some(())
    });
    // Writing to it does not let it in again.
    story.b.json(&["send", &alice, "do not", "--wait", "delivered", "--timeout", "30"]);
    assert_eq!(story.b.json(&["contact", "ls"])["contacts"], serde_json::json!([]));
    story.bob.take().unwrap().terminate();
    let sent = story.a.run(&["send", &story.to, "but why", "--wait", "stored", "--timeout", "3"]);
    assert_eq!(sent.status.code(), Some(6), "{}", shown(&sent));
}
