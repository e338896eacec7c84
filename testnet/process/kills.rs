//! kill -9 between a message and its receipt, again and again: what was acknowledged arrives, and arrives once.

use std::{
    collections::HashMap,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use super::daemon::{Daemon, Home, Pair, SOON, eventually, vos};

/// Kills, half of them of the sender and half of the recipient.
const ROUNDS: u32 = 50;

/// The kill comes this much later each round, over and over: before the acknowledgement, on the way, after the receipt.
const STEP: Duration = Duration::from_millis(3);
const STEPS: u32 = 14;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_delivered_twice() {
    // Quick tries: the test is about crashes, not about patience.
    let Pair { a, b, at_a, at_b } = Pair::start(&["--set", "message.retry_max_s=1"]);
    let (mut at_a, mut at_b) = (at_a.unwrap(), at_b.unwrap());
    let to = at_b.address.clone();
    let mut acknowledged = HashMap::new();
    for round in 0..ROUNDS {
        let text = format!("message of round {round}");
        let send = start_send(&a, &to, &text);
        // A moment that is different each round. The kill itself is the event; there is nothing to wait for.
        thread::sleep(STEP * ((round / 2) % STEPS));
        let sender_dies = round % 2 == 0;
        if sender_dies {
            at_a.kill();
            at_a = a.start(&[]);
        } else {
            at_b.kill();
            at_b = b.start(&[]);
        }
        // A send that failed was not acknowledged: its message may arrive or not, but not twice.
        if let Some(id) = finished(send) {
            acknowledged.insert(id, text);
        }
    }
    // Those that only ever lose the race would prove nothing.
    assert!(acknowledged.len() >= ROUNDS as usize / 2, "only {} sends were acknowledged", acknowledged.len());
    for id in acknowledged.keys() {
        eventually(&format!("receipt of {id}"), || {
            (a.json(&["outbox", "show", id])["state"] == "delivered").then_some(())
        });
    }
    check_inbox(&b, &acknowledged);
    let _: (Daemon, Daemon) = (at_a, at_b);
}

/// Rounds of the three: each kills one of sender, friend and recipient.
const ROUNDS_OF_THREE: u32 = 100;

#[test]
fn nothing_is_lost_or_doubled_by_way_of_a_friend_whoever_of_the_three_is_killed() {
    let args = ["--set", "message.retry_max_s=1", "--set", "friend.reserve_bytes=0", "--set", "friend.accept=all"];
    let [a, b, f] = [(); 3].map(|()| Home::new(&args));
    let mut at_f = f.start(&[]);
    let boot = at_f.bootstrap();
    let mut at_a = a.start(&["--bootstrap", &boot]);
    let mut at_b = Some(b.start(&["--bootstrap", &boot]));
    let to = at_b.as_ref().unwrap().address.clone();
    for home in [&a, &b, &f] {
        eventually("all records", || (home.json(&["status"])["map"]["records"] == 3).then_some(()));
    }
    assert_eq!(b.json(&["friend", "offer", &at_f.address, "--wait"])["state"], "active");
    b.json(&["contact", "add", &at_a.address]);
    eventually("the friend lets the sender in", || {
        (b.json(&["mailbox", "stats"])["held_by"][0]["contacts"] == 1).then_some(())
    });
    eventually("the sender reads of the friend", || {
        (a.json(&["map", "get", &to])["records"][0]["friends"].as_array()?.len() == 1).then_some(())
    });
    let mut acknowledged = HashMap::new();
    for round in 0..ROUNDS_OF_THREE {
        let moment = STEP * (round / 4 % STEPS);
        let text = format!("message {round} of the three");
        if round % 4 == 3 {
            // Back, and while it collects, it or the friend dies.
            at_b = Some(b.start(&[]));
            thread::sleep(moment * 4);
            if round % 8 == 3 {
                at_b.take().unwrap().kill();
                at_b = Some(b.start(&[]));
            } else {
                at_f.kill();
                at_f = f.start(&[]);
            }
            continue;
        }
        let send = start_send(&a, &to, &text);
        thread::sleep(moment);
        match round % 4 {
            // It stays away; the next two rounds go to the friend.
            0 => at_b.take().unwrap().kill(),
            1 => {
                at_f.kill();
                at_f = f.start(&[]);
            }
            _ => {
                at_a.kill();
                at_a = a.start(&[]);
            }
        }
        if let Some(id) = finished(send) {
            acknowledged.insert(id, text);
        }
    }
    assert!(acknowledged.len() >= ROUNDS_OF_THREE as usize / 2, "only {} sends were acknowledged", acknowledged.len());
    for id in acknowledged.keys() {
        eventually(&format!("receipt of {id}"), || {
            (a.json(&["outbox", "show", id])["state"] == "delivered").then_some(())
        });
    }
    check_inbox(&b, &acknowledged);
    let held = |id: &String| {
        let history = a.json(&["outbox", "show", id])["history"].clone();
        history.as_array().unwrap().iter().any(|step| step["state"] == "stored")
    };
    let by_friend = acknowledged.keys().filter(|id| held(id)).count();
    assert!(by_friend >= 10, "only {by_friend} went by way of the friend");
    let _: (Daemon, Option<Daemon>, Daemon) = (at_a, at_b, at_f);
}

fn start_send(home: &Home, to: &str, text: &str) -> std::process::Child {
    let mut command = vos();
    command.arg("--data-dir").arg(home.path()).args(["--json", "send", to, text]);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The id when the daemon acknowledged the message.
fn finished(mut send: std::process::Child) -> Option<String> {
    let end = Instant::now() + SOON;
    while send.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "send hangs although its daemon was killed and is back");
        thread::sleep(Duration::from_millis(5));
    }
    let output = send.wait_with_output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    output.status.success().then(|| document["id"].as_str().expect("an acknowledged message has an id").to_owned())
}

/// Every acknowledged message is there with its body, and no body is there twice.
fn check_inbox(home: &Home, acknowledged: &HashMap<String, String>) {
    let listed = home.json(&["inbox", "ls"]);
    let ids: Vec<&str> = listed["messages"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    let mut bodies: HashMap<String, &str> = HashMap::new();
    for id in &ids {
        let body = String::from_utf8(home.run(&["inbox", "read", id]).stdout).unwrap();
        if let Some(other) = bodies.insert(body.clone(), id) {
            panic!("{body:?} was delivered twice, as {other} and {id}");
        }
    }
    for (id, text) in acknowledged {
        assert_eq!(bodies.get(text), Some(&id.as_str()), "{text:?} was acknowledged and is not in the inbox");
    }
}
