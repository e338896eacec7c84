//! Messages by the commands that people use.

use std::fs;

use super::daemon::{Pair, eventually, fails, shown};

#[test]
fn a_file_that_is_no_text_arrives_as_it_was() {
    let pair = Pair::start(&[]);
    let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = pair.a.file("bytes.bin");
    fs::write(&file, &body).unwrap();
    let sent = pair.a.json(&["send", "bob", "--file", file.to_str().unwrap(), "--wait", "delivered"]);
    assert_eq!(sent["state"], "delivered", "{sent}");
    let id = sent["id"].as_str().unwrap();
    let read = pair.b.run(&["inbox", "read", id]);
    assert!(read.status.success(), "{}", shown(&read));
    assert!(read.stdout == body, "{} bytes came back", read.stdout.len());
    let listed = pair.b.json(&["inbox", "ls"]);
    assert_eq!(listed["messages"][0]["id"], id);
    assert_eq!(listed["messages"][0]["read"], true, "{listed}");
    let shown = pair.a.json(&["outbox", "show", id]);
    let history = shown["history"].as_array().unwrap();
    let receipt = history.iter().find(|step| step["state"] == "delivered").unwrap();
    assert_eq!(receipt["by"], pair.address_b(), "{shown}");
}

#[test]
fn a_message_waits_for_its_recipient_and_for_a_restart_of_its_sender() {
    let mut pair = Pair::start(&[]);
    let bob = pair.address_b();
    pair.at_b.take().unwrap().terminate();
    let queued = pair.a.json(&["send", &bob, "patience"]);
    let id = queued["id"].as_str().unwrap().to_owned();
    let output = pair.a.run(&["send", &bob, "no patience", "--wait", "delivered", "--timeout", "1"]);
    assert!(matches!(output.status.code(), Some(5 | 6)), "{}", shown(&output));
    let code = output.status.code().unwrap();
    fails(&output, code);
    pair.at_a.take().unwrap().terminate();
    pair.at_b = Some(pair.b.start(&[]));
    pair.at_a = Some(pair.a.start(&[]));
    eventually("delivered", || (pair.a.json(&["outbox", "show", &id])["state"] == "delivered").then_some(()));
    let read = pair.b.run(&["inbox", "read", &id]);
    assert_eq!(read.stdout, b"patience", "{}", shown(&read));
}
