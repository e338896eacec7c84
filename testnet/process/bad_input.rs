//! Bad input: the documented exit status, one clear reason, and nothing lost.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use super::daemon::{Home, Pair, eventually, fails, run, vos};

#[test]
fn an_unknown_flag_is_wrong_usage() {
    fails(&vos().arg("--no-such-flag").output().unwrap(), 2);
    fails(&vos().args(["daemon", "--lisen", "/ip4/127.0.0.1/tcp/0"]).output().unwrap(), 2);
    fails(&vos().arg("no-such-command").output().unwrap(), 2);
}

#[test]
fn an_unknown_config_key_names_the_nearest() {
    let home = Home::new(&[]);
    fs::write(home.file("config.toml"), "[net]\ntarget_peer = 3\n").unwrap();
    let reason = fails(&home.daemon_fails(&[]), 2);
    assert!(reason.contains("target_peers"), "{reason}");
    assert!(!home.file("db").exists(), "nothing was opened with a configuration that nobody understood");
}

#[test]
fn an_unknown_key_of_set_is_wrong_usage() {
    let reason = fails(&Home::new(&[]).daemon_fails(&["--set", "map.ful_limit=3"]), 2);
    assert!(reason.contains("full_limit"), "{reason}");
}

#[test]
fn a_malformed_multiaddr_is_wrong_usage_and_is_quoted() {
    let home = Home::new(&[]);
    for flag in ["--bootstrap", "--listen"] {
        let reason = fails(&home.daemon_fails(&[flag, "/ip4/999.1.1.1/tcp/x"]), 2);
        assert!(reason.contains("/ip4/999.1.1.1/tcp/x"), "{reason}");
    }
    let daemon = home.start(&[]);
    fails(&home.run(&["connect", "nonsense"]), 2);
    daemon.terminate();
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let home = Home::new(&[]);
    assert!(home.run(&["init"]).status.success());
    let key = home.file("identity.key");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    let before = fs::read(&key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let reason = fails(&home.daemon_fails(&[]), 1);
    assert!(reason.contains("identity.key"), "{reason}");
    assert_eq!(fs::read(&key).unwrap(), before, "a refused key is left as it is");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    home.start(&[]).terminate();
}

#[test]
fn a_port_in_use_fails_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let reason = fails(&Home::new(&[]).daemon_fails(&["--listen", &format!("/ip4/127.0.0.1/tcp/{port}")]), 1);
    assert!(reason.contains(&port.to_string()), "{reason}");
}

#[test]
fn a_second_daemon_on_one_data_directory_fails_and_the_first_goes_on() {
    let home = Home::new(&[]);
    let first = home.start(&[]);
    let reason = fails(&home.daemon_fails(&[]), 1);
    assert!(reason.contains(home.path().to_str().unwrap()), "{reason}");
    assert_eq!(home.json(&["id"])["address"], first.address, "the first still answers on its socket");
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_untouched() {
    let home = Home::new(&[]);
    home.start(&[]).terminate();
    let set_version = |version: u32| {
        let mut options = rocksdb::Options::default();
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        let families = rocksdb::DB::list_cf(&options, home.file("db")).unwrap();
        let db =
            rocksdb::DBWithThreadMode::<rocksdb::MultiThreaded>::open_cf(&options, home.file("db"), families).unwrap();
        let meta = db.cf_handle("meta").unwrap();
        db.put_cf(&meta, b"layout_version", version.to_be_bytes()).unwrap();
    };
    set_version(1000);
    let reason = fails(&home.daemon_fails(&[]), 1);
    assert!(reason.contains("1000"), "{reason}");
    set_version(1);
    home.start(&[]).terminate();
}

#[test]
fn without_a_daemon_every_client_command_says_so() {
    let home = Home::new(&[]);
    for args in [&["status"][..], &["id"], &["peers"], &["map", "ls"], &["inbox", "ls"], &["online", "x"]] {
        fails(&home.run(args), 3);
    }
    let output = home.run(&["--json", "status"]);
    assert_eq!(output.status.code(), Some(3));
    let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{error}");
}

#[test]
fn an_address_or_name_that_nobody_has_is_not_found() {
    let stranger = Home::new(&[]);
    let daemon = stranger.start(&[]);
    let nobody = daemon.address.clone();
    daemon.terminate();
    let home = Home::new(&[]);
    let _daemon = home.start(&[]);
    fails(&home.run(&["map", "get", &nobody]), 4);
    fails(&home.run(&["map", "get", "no-such-name"]), 4);
    fails(&home.run(&["send", &nobody, "hello"]), 4);
    fails(&home.run(&["inbox", "read", &"ab".repeat(32)]), 4);
    fails(&home.run(&["outbox", "show", &"ab".repeat(32)]), 4);
}

#[test]
fn an_ambiguous_name_lists_its_owners_and_sends_nothing() {
    let pair = Pair::start(&[]);
    let third = Home::new(&[]);
    let bootstrap = pair.at_a.as_ref().unwrap().bootstrap();
    let at_third = third.start(&["--name", "bob", "--bootstrap", &bootstrap]);
    eventually("three records in the map", || (pair.a.json(&["status"])["map"]["records"] == 3).then_some(()));
    let reason = fails(&pair.a.run(&["send", "bob", "hello"]), 2);
    assert!(reason.contains(&pair.address_b()) && reason.contains(&at_third.address), "{reason}");
    assert_eq!(pair.a.json(&["outbox", "ls"])["messages"].as_array().map(Vec::len), Some(0));
    let refused = pair.a.run(&["--json", "online", "bob"]);
    assert_eq!(refused.status.code(), Some(2), "{}", super::daemon::shown(&refused));
    let error: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(error["error"]["owners"].as_array().map(Vec::len), Some(2), "{error}");
    assert_eq!(pair.a.json(&["map", "get", "bob"])["records"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_oversized_message_is_refused_before_it_is_queued() {
    let pair = Pair::start(&["--set", "message.max_bytes=1000"]);
    let file = pair.a.file("large");
    fs::write(&file, vec![7; 1001]).unwrap();
    let reason = fails(&pair.a.run(&["send", &pair.address_b(), "--file", file.to_str().unwrap()]), 2);
    assert!(reason.contains("1000"), "{reason}");
    assert_eq!(pair.a.json(&["outbox", "ls"])["messages"].as_array().map(Vec::len), Some(0));
    // Of a pipe nobody knows the length before.
    fs::write(&file, vec![7; 1_000_000]).unwrap();
    let mut piped = vos();
    piped.arg("--data-dir").arg(pair.a.path()).args(["send", &pair.address_b(), "--file", "-"]);
    let reason = fails(&piped.stdin(fs::File::open(&file).unwrap()).output().unwrap(), 2);
    assert!(reason.contains("1000"), "{reason}");
    assert_eq!(pair.a.json(&["outbox", "ls"])["messages"].as_array().map(Vec::len), Some(0));
    fs::write(&file, vec![7; 1000]).unwrap();
    let sent = pair.a.json(&["send", &pair.address_b(), "--file", file.to_str().unwrap(), "--wait", "delivered"]);
    assert_eq!((&sent["state"], &sent["bytes"]), (&"delivered".into(), &1000.into()));
}

#[test]
fn a_missing_file_is_an_error_without_a_panic() {
    let home = Home::new(&[]);
    let daemon = home.start(&[]);
    let output = run(home.path(), &["send", &daemon.address, "--file", "/no/such/file"]);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}", super::daemon::shown(&output));
    let code = output.status.code().unwrap();
    assert!(fails(&output, code).contains("/no/such/file"));
}
