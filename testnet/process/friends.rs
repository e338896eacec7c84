//! Friend VOS by the commands that people use.

use serde_json::Value;

use super::daemon::{Home, Pair, eventually, fails, shown};

/// The friendship on one side, once it is in a state.
fn reaches(home: &Home, side: &str, address: &str, state: &str) -> Value {
    eventually(&format!("{side} {state}"), || {
        let listed = home.json(&["friend", "ls"]);
        let all = listed[side].as_array().unwrap().clone();
        all.into_iter().find(|f| f["address"] == address && f["state"] == state && f["told"] == true)
    })
}

/// The friends that `home` sees in the record of `owner`.
fn listed(home: &Home, owner: &str) -> Vec<Value> {
    let record = home.json(&["map", "get", owner]);
    record["records"][0]["friends"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_friendship_is_offered_accepted_published_and_ended_over_restarts_of_both() {
    let mut pair = Pair::start(&["--set", "friend.reserve_bytes=0"]);
    let (alice, bob) = (pair.at_a.as_ref().unwrap().address.clone(), pair.address_b());
    // Bob is away: the offer waits on disk, also over a restart of alice.
    pair.at_b.take().unwrap().terminate();
    let offered = pair.a.json(&["friend", "offer", &bob, "--quota", "8MiB", "--priority", "2"]);
    assert_eq!((&offered["state"], &offered["quota_bytes"]), (&"offered".into(), &(8 << 20).into()), "{offered}");
    let waiting =
        pair.a.run(&["friend", "offer", &bob, "--quota", "8MiB", "--priority", "2", "--wait", "--timeout", "1"]);
    let reason = fails(&waiting, 6);
    assert!(reason.contains("the offer stays"), "{reason}");
    pair.at_a.take().unwrap().kill();
    pair.at_b = Some(pair.b.start(&[]));
    pair.at_a = Some(pair.a.start(&[]));
    let asked = eventually("the offer arrives", || {
        let listed = pair.b.json(&["friend", "ls"]);
        listed["holding_for"].as_array().unwrap().iter().find(|f| f["state"] == "offered").cloned()
    });
    assert_eq!((&asked["address"], &asked["grant_id"]), (&alice.as_str().into(), &offered["grant_id"]));
    let too_much = pair.b.run(&["friend", "accept", &alice, "--quota", "9MiB"]);
    assert!(fails(&too_much, 2).contains("lowered"));
    let accepted = pair.b.json(&["friend", "accept", &alice, "--quota", "4MiB", "--ttl", "2d"]);
    assert_eq!(accepted["state"], "active", "{accepted}");
    let held = reaches(&pair.a, "held_by", &bob, "active");
    assert_eq!((&held["quota_bytes"], &held["terms"]["max_ttl_s"]), (&(4 << 20).into(), &(2 * 86400).into()));
    assert_eq!(held["grant"], reaches(&pair.b, "holding_for", &alice, "active")["grant"], "the same on both sides");
    // The record lists it, with its priority, and anybody can verify the grant.
    eventually("bob reads it in alice's record", || (listed(&pair.b, &alice) == [bob.as_str()]).then_some(()));
    let of = pair.b.json(&["friend", "of", &alice, "--verify"]);
    assert_eq!((&of["friends"][0]["verified"], &of["friends"][0]["priority"]), (&true.into(), &2.into()), "{of}");
    assert_eq!(of["friends"][0]["grant_hash"], held["grant_hash"]);
    // Both forget nothing.
    pair.at_a.take().unwrap().kill();
    pair.at_b.take().unwrap().kill();
    pair.at_a = Some(pair.a.start(&[]));
    pair.at_b = Some(pair.b.start(&[]));
    assert_eq!(reaches(&pair.a, "held_by", &bob, "active")["grant"], held["grant"]);
    assert_eq!(reaches(&pair.b, "holding_for", &alice, "active")["grant"], held["grant"]);
    eventually("still listed", || (listed(&pair.b, &alice) == [bob.as_str()]).then_some(()));
    let shown_by = pair.a.run(&["friend", "show", &bob]);
    assert!(
        shown_by.status.success() && String::from_utf8_lossy(&shown_by.stdout).contains("4.0 MiB"),
        "{}",
        shown(&shown_by)
    );
    let revoked = pair.a.json(&["friend", "revoke", &bob, "--drain", "1d"]);
    assert_eq!((&revoked["state"], &revoked["mailbox"]), (&"revoked".into(), &"draining".into()), "{revoked}");
    reaches(&pair.b, "holding_for", &alice, "revoked");
    eventually("not listed any more", || listed(&pair.b, &alice).is_empty().then_some(()));
    let again = pair.b.run(&["friend", "accept", &alice]);
    fails(&again, 1);
    // They may agree again; this time the friend ends it.
    pair.a.json(&["friend", "offer", &bob]);
    eventually("asked again", || pair.b.run(&["friend", "accept", &alice]).status.success().then_some(()));
    let held = reaches(&pair.a, "held_by", &bob, "active");
    assert_eq!(held["grant_id"], offered["grant_id"], "the mailbox stays");
    pair.b.json(&["friend", "revoke", held["grant_id"].as_str().unwrap()]);
    let ended = reaches(&pair.a, "held_by", &bob, "revoked");
    assert_eq!(ended["reason"], "the friend resigned");
}

#[test]
fn a_policy_answers_by_itself_and_wait_has_an_exit_status_for_each_answer() {
    let mut pair = Pair::start(&["--set", "friend.accept=none", "--set", "friend.reserve_bytes=0"]);
    let declined = pair.a.run(&["friend", "offer", "bob", "--wait"]);
    assert!(fails(&declined, 7).contains("friend.accept"));
    pair.at_b.take().unwrap().terminate();
    // A policy that says yes while there is room: with less than was offered, because there is less.
    pair.at_b = Some(pair.b.start(&["--set", "friend.accept=all", "--set", "friend.max_bytes=2000000"]));
    let accepted = pair.a.json(&["friend", "offer", "bob", "--wait"]);
    assert_eq!((&accepted["state"], &accepted["quota_bytes"]), (&"active".into(), &2_000_000.into()), "{accepted}");
    let usage = [
        vec!["friend", "offer", "bob", "--quota", "0"],
        vec!["friend", "offer", "bob", "--expires", "91d"],
        vec!["friend", "offer", "bob", "--ttl", "31d"],
        vec!["friend", "offer", "bob", "--quota", "much"],
        vec!["friend", "revoke", "bob", "--side", "left"],
    ];
    for args in usage {
        fails(&pair.a.run(&args), 2);
    }
    fails(&pair.a.run(&["friend", "accept", "bob"]), 4);
    fails(&pair.a.run(&["friend", "show", &"0".repeat(32)]), 4);
    fails(&pair.a.run(&["friend", "offer", "nobody"]), 4);
}
