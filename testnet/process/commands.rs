//! Commands that no other test runs against a real daemon, and what the daemon serves for operators and programs.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Stdio,
};

use serde_json::Value;

use super::daemon::{Daemon, Following, Home, Killed, Pair, eventually, fails, run, shown, vos};

/// GET over a TCP socket: the status line, and the rest.
fn get(addr: &str, path: &str, headers: &str) -> (String, String) {
    let mut socket = TcpStream::connect(addr).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (status, rest) = answer.split_once("\r\n").unwrap();
    (status.to_owned(), rest.to_owned())
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let home = Home::new(&[]);
    let mut command = vos();
    command.arg("--data-dir").arg(home.path()).args(["--json", "daemon", "--network", "process-test"]);
    command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Killed(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let addr = ready["http"].as_str().unwrap().to_owned();
    assert_eq!(home.json(&["status"])["http"], *addr);
    assert!(get(&addr, "/healthz", "").0.contains("200"));
    let (status, body) = get(&addr, "/readyz", "");
    assert!(status.contains("200") && body.ends_with("ready\n"), "{status} {body}");
    let (status, metrics) = get(&addr, "/metrics", "");
    assert!(status.contains("200"), "{status}");
    for name in
        ["vos_net_peers", "vos_libp2p_", "vos_map_records 1", "vos_message_sent_total", "vos_block_chain_halted 0"]
    {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert!(get(&addr, "/v1/status", "").0.contains("404"), "the control API is not here");
}

#[test]
fn the_api_on_tcp_wants_its_token_and_no_foreign_host() {
    let home = Home::new(&["--set", "api.tcp=127.0.0.1:0"]);
    let daemon = home.start(&[]);
    let addr = home.json(&["status"])["api_tcp"].as_str().expect("where it is").to_owned();
    let token = fs::read_to_string(home.file("api.token")).unwrap();
    let bearer = format!("authorization: Bearer {}\r\n", token.trim());
    let (status, body) = get(&addr, "/v1/id", &bearer);
    assert!(status.contains("200") && body.contains(&daemon.address), "{status} {body}");
    assert!(get(&addr, "/v1/id", "").0.contains("401"));
    assert!(get(&addr, "/v1/id", "authorization: Bearer 0123\r\n").0.contains("401"));
    let foreign = get(&addr, "/v1/id", &format!("{bearer}origin: https://example.org\r\n"));
    assert!(foreign.0.contains("403"), "{foreign:?}");
}

#[test]
fn one_connection_is_made_measured_ended_and_refused() {
    let pair = Pair::start(&[]);
    let (a, b) = (&pair.a, pair.address_b());
    let ping = a.json(&["ping", "bob"]);
    assert_eq!(ping["address"], *b);
    assert!(ping["rtt_ms"].as_f64().unwrap() > 0.0, "{ping}");
    let peers = a.json(&["peers"]);
    let peer = &peers["peers"][0];
    assert_eq!(
        (&peer["address"], &peer["path"], &peer["transport"]),
        (&b.as_str().into(), &"direct".into(), &"tcp".into())
    );
    for key in ["addr", "direction"] {
        assert!(!peer[key].is_null(), "{key} in {peer}");
    }
    a.json(&["ban", "add", &b]);
    assert_eq!(a.json(&["ban", "ls"])["bans"][0], *b);
    eventually("a banned peer is gone", || a.json(&["peers"])["peers"].as_array().unwrap().is_empty().then_some(()));
    fails(&a.run(&["ping", &b, "--timeout", "5"]), 7);
    a.json(&["ban", "rm", &b]);
    let addr = pair.at_b.as_ref().unwrap().bootstrap();
    assert_eq!(a.json(&["connect", &addr])["address"], *b);
    a.json(&["disconnect", &b]);
    fails(&a.run(&["disconnect", "12D3KooWBFV128jUxuc2mFTYWSczG3MtGvZnB3x3oEfTkg2KUf4J"]), 4);
}

#[test]
fn a_node_listens_on_one_more_addr_and_is_reached_there() {
    let pair = Pair::start(&[]);
    let added = pair.a.json(&["listen", "add", "/ip4/127.0.0.1/tcp/0/ws"]);
    let addr = added["addr"].as_str().unwrap().to_owned();
    assert!(addr.ends_with("/ws") && !addr.contains("/tcp/0/"), "{addr}");
    let listed = pair.a.json(&["listen", "ls"])["listen"].as_array().unwrap().len();
    assert_eq!(listed, 2);
    let address = pair.at_a.as_ref().unwrap().address.clone();
    let third = Home::new(&[]);
    let _daemon = third.start(&["--bootstrap", &format!("{addr}/p2p/{address}")]);
    eventually("it joined there", || (third.json(&["status"])["map"]["records"] == 3).then_some(()));
    pair.a.json(&["listen", "rm", &addr]);
    assert_eq!(pair.a.json(&["listen", "ls"])["listen"].as_array().unwrap().len(), 1);
}

#[test]
fn what_happens_is_told_as_events() {
    let mut pair = Pair::start(&[]);
    let (a, b) = (&pair.a, &pair.b);
    let (at_a, at_b) = (Following::start(a, &["events"]), Following::start(b, &["events"]));
    a.json(&["name", "alicia"]);
    let renamed = at_b.until("event", "map_changed");
    assert_eq!(renamed["record"]["name"], "alicia", "{renamed}");
    a.json(&["send", "bob", "hello", "--wait", "delivered"]);
    let id = at_b.until("event", "message_received")["id"].clone();
    at_a.until("state", "delivered");
    pair.at_b.take().unwrap().terminate();
    at_a.until("event", "peer_down");
    pair.at_b = Some(b.start(&[]));
    assert_eq!(at_a.until("event", "peer_up")["address"], pair.address_b());
    let read = b.json(&["inbox", "read", id.as_str().unwrap()]);
    assert_eq!((&read["text"], &read["id"], &read["bytes"]), (&"hello".into(), &id, &5.into()), "{read}");
    b.json(&["inbox", "rm", id.as_str().unwrap()]);
    fails(&b.run(&["inbox", "read", id.as_str().unwrap()]), 4);
}

#[test]
fn a_message_that_waits_is_cancelled() {
    let mut pair = Pair::start(&[]);
    pair.at_b.take().unwrap().terminate();
    let sent = pair.a.json(&["send", "bob", "never mind"]);
    assert_eq!(sent["state"], "queued");
    let id = sent["id"].as_str().unwrap();
    pair.a.json(&["outbox", "cancel", id]);
    assert_eq!(pair.a.json(&["outbox", "show", id])["state"], "cancelled");
    pair.at_b = Some(pair.b.start(&[]));
    pair.a.json(&["send", "bob", "but this", "--wait", "delivered"]);
    let inbox = pair.b.json(&["inbox", "ls"]);
    assert_eq!(inbox["messages"].as_array().unwrap().len(), 1, "{inbox}");
    fails(&pair.a.run(&["outbox", "cancel", id]), 1);
    fails(&pair.a.run(&["outbox", "cancel", &"00".repeat(32)]), 4);
}

#[test]
fn completions_and_manual_pages_are_printed() {
    for (shell, word) in [("bash", "complete"), ("zsh", "#compdef vos"), ("fish", "complete -c vos")] {
        let output = vos().args(["completions", shell]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(word) && text.contains("testnet"), "{shell}");
    }
    let output = vos().arg("man").output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(".TH"), "{}", shown(&output));
    let folder = tempfile::tempdir().unwrap();
    assert!(vos().arg("man").arg(folder.path()).status().unwrap().success());
    let pages: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(pages.iter().any(|p| p == "vos-map-get.1") && pages.len() > 40, "{pages:?}");
}

#[test]
fn a_configuration_is_printed_and_checked() {
    let home = Home::new(&[]);
    let config = vos().args(["config", "default"]).output().unwrap();
    fs::write(home.file("config.toml"), &config.stdout).unwrap();
    assert!(home.run(&["config", "check"]).status.success(), "the default one in the data directory");
    let shown = home.json(&["config", "show", "--set", "map.full_limit=77"]);
    assert_eq!(shown["map"]["full_limit"], 77);
    fs::write(home.file("config.toml"), "[map]\nfull_limit = 0\n").unwrap();
    let reason = fails(&home.run(&["config", "check"]), 2);
    assert!(reason.contains("full_limit"), "{reason}");
    let genesis = home.file("genesis.toml");
    fs::write(home.file("config.toml"), format!("[chain]\ngenesis = {:?}\n", genesis.display().to_string())).unwrap();
    assert!(fails(&home.run(&["config", "check"]), 2).contains("cannot read the genesis file"));
    fs::write(&genesis, "time = 1767225600001\nextra = 'mine'\n").unwrap();
    assert!(home.run(&["config", "check"]).status.success(), "a genesis file is read too");
    fails(&run(Path::new("/nonexistent"), &["config", "check"]), 2);
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/bootstrap/bootstrap.toml");
    assert!(home.run(&["config", "check", ours]).status.success(), "the one of a bootstrap node");
}

#[test]
fn a_node_joins_by_a_bootstrap_file_and_a_bad_one_is_named() {
    let first = Home::new(&[]);
    let at_first: Daemon = first.start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let write = |addr: &str| {
        let text = format!("network = \"process-test\"\nnodes = [\"{addr}\"]\n");
        fs::write(folder.path().join("ours.toml"), text).unwrap();
    };
    let set = format!("net.bootstrap_dir={}", folder.path().display());
    let home = Home::new(&["--set", &set]);
    for wrong in ["nonsense", "/ip4/127.0.0.1/tcp/4001"] {
        write(wrong);
        let reason = fails(&home.daemon_fails(&[]), 2);
        assert!(reason.contains("ours.toml"), "{reason}");
    }
    write(&at_first.bootstrap());
    let _daemon = home.start(&[]);
    eventually("it joined", || (home.json(&["status"])["map"]["records"] == 2).then_some(()));
}

#[test]
fn a_damaged_key_is_refused_and_left_as_it_is() {
    let home = Home::new(&[]);
    assert!(home.run(&["init"]).status.success());
    let key = home.file("identity.key");
    let good = fs::read(&key).unwrap();
    for damaged in [&good[..good.len() / 2], b"", b"not a key at all"] {
        fs::write(&key, damaged).unwrap();
        let reason = fails(&home.daemon_fails(&[]), 1);
        assert!(reason.contains("identity.key"), "{reason}");
        assert_eq!(fs::read(&key).unwrap(), damaged);
    }
    fs::write(&key, good).unwrap();
    home.start(&[]).terminate();
}
