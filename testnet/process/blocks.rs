//! The chain by the program: transactions, blocks, segments, trace; producers that are killed; what is refused and how.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use serde_json::Value;

use super::daemon::{Daemon, Following, Home, Pair, eventually, fails, shown, vos, wait_at_most};

/// Blocks come quickly, and are final soon.
const QUICK: [&str; 6] =
    ["--set", "block.interval_ms=100", "--set", "chain.spacing_ms=50", "--set", "chain.commit_depth=3"];

/// Alice produces, Bob does not.
fn chain() -> Pair {
    let mut pair = Pair::start(&QUICK);
    pair.at_a.take().unwrap().terminate();
    pair.at_a = Some(pair.a.start(&["--set", "block.produce=true"]));
    pair
}

fn height(home: &Home) -> u64 {
    home.json(&["block", "head"])["head"]["height"].as_u64().unwrap()
}

fn reaches(home: &Home, wanted: u64) {
    eventually(&format!("height {wanted}"), || (height(home) >= wanted).then_some(()));
}

fn submit(home: &Home, text: &str) -> String {
    let file = home.file("transaction");
    fs::write(&file, text).unwrap();
    let taken = home.json(&["block", "submit", file.to_str().unwrap()]);
    taken["transaction"].as_str().unwrap().to_owned()
}

/// The block of `home`'s best chain that holds a transaction.
fn holder(home: &Home, text: &str) -> Value {
    use base64::Engine as _;
    let wanted = base64::engine::general_purpose::STANDARD.encode(text);
    let mut next = 1;
    eventually("the transaction is in a block", || {
        while next <= height(home) {
            let block = home.json(&["block", "get", &next.to_string()]);
            if let Some(at) = block["transactions"].as_array().unwrap().iter().position(|t| *t == *wanted) {
                let hash = blake3::hash(text.as_bytes()).to_hex();
                assert_eq!(block["transaction_hashes"][at], hash.as_str(), "what submit answered");
                return Some(block);
            }
            next += 1;
        }
        None
    })
}

#[test]
fn a_transaction_is_put_in_at_one_node_and_becomes_final_at_both() {
    let pair = chain();
    let hash = submit(&pair.b, "pay nobody nothing");
    let again = pair.b.run(&["block", "submit", pair.b.file("transaction").to_str().unwrap()]);
    assert!(fails(&again, 7).contains("already"), "{}", shown(&again));
    assert_eq!(hash, blake3::hash(b"pay nobody nothing").to_hex().as_str());
    let block = holder(&pair.b, "pay nobody nothing");
    let (id, producer) = (block["header"]["hash"].as_str().unwrap(), &block["header"]["producer"]);
    assert_eq!(*producer, *pair.at_a.as_ref().unwrap().address);
    for home in [&pair.a, &pair.b] {
        let block = eventually("final", || {
            let block = home.json(&["block", "get", id]);
            (block["committed"] == true).then_some(block)
        });
        assert_eq!((&block["best"], &block["header"]["transactions"]), (&true.into(), &1.into()), "{block}");
    }
    let text = pair.b.run(&["block", "get", id]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("pay nobody nothing"), "{}", shown(&text));
    let head = pair.b.json(&["block", "head"]);
    assert_eq!(head["head"]["hash"].as_str().unwrap().len(), 64, "{head}");
    assert_eq!(pair.b.json(&["status"])["block"]["genesis"], head["genesis"]);
    let sync = pair.b.json(&["block", "sync", "--wait", "--timeout", "60"]);
    assert_eq!((&sync["state"], &sync["peers"]), (&"synced".into(), &1.into()), "{sync}");
}

#[test]
fn a_node_whose_producer_is_killed_again_and_again_never_leaves_its_chain() {
    let mut pair = chain();
    let mut known: Vec<String> = Vec::new();
    for round in 0..12_u32 {
        reaches(&pair.b, height(&pair.b) + 2);
        let text = format!("transaction of round {round}");
        submit(&pair.a, &text);
        let at = height(&pair.b);
        known.push(pair.b.json(&["block", "get", &pair.b.json(&["block", "head"])["committed"]["height"].to_string()])["header"]["hash"].as_str().unwrap().to_owned());
        pair.at_a.take().unwrap().kill();
        if round % 2 == 0 {
            pair.at_b.take().unwrap().kill();
            pair.at_b = Some(pair.b.start(&[]));
        }
        pair.at_a = Some(pair.a.start(&["--set", "block.produce=true"]));
        reaches(&pair.a, at);
    }
    reaches(&pair.b, height(&pair.a));
    for hash in known {
        for home in [&pair.a, &pair.b] {
            let block = home.json(&["block", "get", &hash]);
            assert_eq!((&block["best"], &block["committed"]), (&true.into(), &true.into()), "{block}");
        }
    }
}

#[test]
fn a_segment_goes_into_a_file_and_into_another_node_and_is_checked() {
    let mut pair = chain();
    submit(&pair.a, "in the file");
    holder(&pair.a, "in the file");
    reaches(&pair.a, 12);
    // Nothing moves while the file is compared.
    pair.at_a.take().unwrap().terminate();
    pair.at_a = Some(pair.a.start(&[]));
    let file = pair.a.file("blocks");
    let path = file.to_str().unwrap();
    let exported = pair.a.json(&["block", "export", path, "--to", "10"]);
    assert_eq!((&exported["first"], &exported["last"], &exported["blocks"]), (&1.into(), &10.into(), &10.into()));
    let other = Home::new(&QUICK);
    let at_other = other.start(&[]);
    let imported = other.json(&["block", "import", path]);
    assert_eq!((&imported["blocks"], &imported["skipped"]), (&10.into(), &0.into()), "{imported}");
    assert_eq!(other.json(&["block", "import", path])["skipped"], 10);
    let get = |home: &Home, n: &str| home.json(&["block", "get", n])["header"]["hash"].clone();
    assert_eq!(get(&other, "10"), get(&pair.a, "10"));
    // Through pipes, the rest of it.
    let mut export = vos();
    export.arg("--data-dir").arg(pair.a.path()).args(["block", "export", "-", "--from", "11", "--to", "12"]);
    let mut export = export.stdout(Stdio::piped()).spawn().unwrap();
    let mut import = vos();
    import.arg("--data-dir").arg(other.path()).args(["--json", "block", "import", "-"]);
    let import = import.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(
        wait_at_most(&mut export, Duration::from_secs(20)).success() && import.status.success(),
        "{}",
        shown(&import)
    );
    assert_eq!(height(&other), 12);
    // Damaged, cut off, of another chain, and no file of blocks at all.
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let foreign = Home::new(&[]);
    let genesis = foreign.file("genesis.toml");
    fs::write(&genesis, "time = 1767225600001\nextra = 'another'\n").unwrap();
    let at_foreign = foreign.start(&["--set", &format!("chain.genesis={}", genesis.display())]);
    for (home, bytes, word) in [
        (&other, &good[..good.len() - 40], "cut off"),
        (&other, b"not blocks", "no file of blocks"),
        (&foreign, &good[..], "genesis"),
    ] {
        fs::write(&file, bytes).unwrap();
        let reason = fails(&home.run(&["block", "import", path]), 2);
        assert!(reason.contains(word), "{reason}");
    }
    fs::write(&file, &bad).unwrap();
    let empty = Home::new(&QUICK);
    let at_empty = empty.start(&[]);
    fails(&empty.run(&["block", "import", path]), 2);
    assert!(height(&empty) < 10, "blocks before the damage are good and stay");
    fails(&other.run(&["block", "import", "/nowhere/blocks"]), 2);
    fails(&pair.a.run(&["block", "export", path, "--from", "5", "--to", "9999"]), 4);
    let reason = fails(&pair.a.run(&["block", "export", path, "--from", "5", "--to", "3"]), 2);
    assert!(reason.contains("below"), "{reason}");
    // A file that is not ours to touch, and a name that is a link.
    let (unrelated, link) = (other.file("blocks.part"), other.file("latest"));
    fs::write(&unrelated, "mine").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(pair.a.run(&["block", "export", link.to_str().unwrap(), "--to", "5"]).status.success());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && fs::read(&file).unwrap().starts_with(b"VOSBLK"));
    assert_eq!(fs::read(&unrelated).unwrap(), b"mine");
    let parts = fs::read_dir(file.parent().unwrap()).unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    assert_eq!(parts.filter(|name| name.starts_with(".vos-export")).count(), 0);
    // Two in one: the first one is imported, the second one is not lost without a word.
    fs::write(&file, [&good[..], &good[..]].concat()).unwrap();
    assert!(fails(&other.run(&["block", "import", path]), 2).contains("goes on"));
    let two = pair.a.run(&["--json", "block", "export", "-"]);
    assert_eq!(two.status.code(), Some(2), "blocks and a document do not fit in one stream: {}", shown(&two));
    assert!(pair.a.run(&["block", "export", "/dev/null", "--to", "5"]).status.success());
    // What is replaced is for nobody else than before.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(pair.a.run(&["block", "export", path, "--to", "5"]).status.success());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::metadata("/dev/null").unwrap().is_file(), "a device stays what it is");
    let _: (Daemon, Daemon, Daemon) = (at_other, at_foreign, at_empty);
}

#[test]
fn a_chain_is_forgotten_alone_and_fetched_again() {
    let mut pair = chain();
    let alice = pair.at_a.as_ref().unwrap().address.clone();
    pair.b.json(&["contact", "add", &alice]);
    reaches(&pair.b, 8);
    let hash = |home: &Home, n: &str| home.json(&["block", "get", n])["header"]["hash"].clone();
    let (fifth, address) = (hash(&pair.b, "5"), pair.at_b.as_ref().unwrap().address.clone());
    let reason = fails(&pair.b.run(&["block", "reset", "--yes"]), 1);
    assert!(reason.contains("in use by the daemon"), "{reason}");
    let before = height(&pair.b);
    pair.at_b.take().unwrap().terminate();
    let reason = fails(&pair.b.run(&["block", "reset"]), 2);
    assert!(reason.contains("--yes"), "{reason}");
    let forgotten = pair.b.json(&["block", "reset", "--yes"]);
    assert!(forgotten["head"]["height"].as_u64().unwrap() >= before, "{forgotten}");
    assert!(pair.b.json(&["block", "reset", "--yes"])["head"].is_null(), "it can be done again");
    // Another genesis than before, which it would have refused; and then the first one again.
    let genesis = pair.b.file("genesis.toml");
    fs::write(&genesis, "time = 1767225600001\nextra = 'another'\n").unwrap();
    let set = format!("chain.genesis={}", genesis.display());
    let at_other = pair.b.start(&["--set", &set]);
    assert_eq!(height(&pair.b), 0);
    at_other.terminate();
    let reason = fails(&pair.b.daemon_fails(&[]), 2);
    assert!(reason.contains("vos block reset"), "{reason}");
    assert!(pair.b.run(&["block", "reset", "--yes"]).status.success());
    pair.at_b = Some(pair.b.start(&[]));
    reaches(&pair.b, before);
    assert_eq!(hash(&pair.b, "5"), fifth);
    assert_eq!(pair.at_b.as_ref().unwrap().address, address);
    assert!(pair.b.json(&["contact", "ls"]).to_string().contains(&alice), "contacts stay");
    let nowhere = pair.b.file("nowhere");
    let nobody = vos().arg("--data-dir").arg(&nowhere).args(["block", "reset", "--yes"]).output().unwrap();
    fails(&nobody, 2);
    assert!(!nowhere.exists());
}

#[test]
fn exchanges_are_traced_in_the_form_of_the_protocols_first_description() {
    let pair = chain();
    let trace = Following::start(&pair.b, &["block", "trace"]);
    let mut codes = std::collections::BTreeSet::new();
    while !codes.contains("SHAKEHAND") || !codes.contains("NEW_BLOCK") || !codes.contains("NEW_BLOCK_HASH") {
        let exchange = trace.next();
        assert!(exchange["direction"].is_string() && !exchange["data"].is_null(), "{exchange}");
        let peer = &exchange["peer"];
        assert!(peer.is_null() || *peer == *pair.at_a.as_ref().unwrap().address, "{exchange}");
        codes.insert(exchange["code"].as_str().unwrap().to_owned());
    }
    // One that comes later asks for blocks by height.
    let late = Home::new(&QUICK);
    let _daemon = late.start(&[]);
    let trace = Following::start(&late, &["block", "trace"]);
    reaches(&pair.a, 5);
    late.json(&["connect", &pair.at_b.as_ref().unwrap().bootstrap()]);
    let pull = trace.until("code", "PULL_BLOCK");
    assert_eq!((&pull["direction"], &pull["data"]), (&"sent".into(), &1.into()), "{pull}");
    assert!(pull["count"].as_u64().unwrap() > 0, "{pull}");
    let push = trace.until("code", "PUSH_BLOCK");
    let header = &push["data"]["block_header"];
    assert!(
        header["height"].is_u64() && header["hash"].is_string() && push["data"]["transactions"].is_array(),
        "{push}"
    );
}

#[test]
fn a_watcher_sees_blocks_come_become_the_head_and_become_final() {
    let pair = chain();
    let watch = Following::start(&pair.b, &["block", "watch"]);
    let imported = watch.until("event", "block.imported");
    let height = imported["height"].as_u64().unwrap();
    let head = watch.until("event", "block.head");
    assert!(head["height"].as_u64().unwrap() >= height, "{head}");
    let committed = std::iter::repeat_with(|| watch.until("event", "block.committed"))
        .find(|committed| committed["height"].as_u64().unwrap() >= height)
        .unwrap();
    assert!(committed["first"].as_u64().unwrap() <= height, "{committed}");
    let block = pair.b.json(&["block", "get", imported["hash"].as_str().unwrap()]);
    assert_eq!((&block["header"]["height"], &block["committed"]), (&height.into(), &true.into()), "{block}");
}

#[test]
fn what_cannot_be_done_says_why_with_its_exit_status() {
    let (home, off) = (Home::new(&[]), Home::new(&["--set", "block.enabled=false"]));
    fails(&home.run(&["block", "head"]), 3);
    let (running, without) = (home.start(&[]), off.start(&[]));
    for command in
        [&["block", "head"][..], &["block", "get", "1"], &["block", "sync"], &["block", "trace"], &["block", "watch"]]
    {
        assert!(fails(&off.run(command), 7).contains("block.enabled"));
    }
    assert!(off.json(&["status"])["block"].is_null());
    let missing = fails(&home.run(&["block", "get", "7"]), 4);
    assert!(missing.contains("ends at 0"), "{missing}");
    fails(&home.run(&["block", "get", &"ab".repeat(32)]), 4);
    fails(&home.run(&["block", "get", "seven"]), 2);
    fails(&home.run(&["block", "submit", "/nowhere/transaction"]), 2);
    fs::write(home.file("empty"), b"").unwrap();
    fails(&home.run(&["block", "submit", home.file("empty").to_str().unwrap()]), 2);
    fs::write(home.file("huge"), vec![7; 5 << 20]).unwrap();
    fails(&home.run(&["block", "submit", home.file("huge").to_str().unwrap()]), 2);
    // A transaction from a pipe, and one that is no text.
    let mut pipe = vos();
    pipe.arg("--data-dir").arg(home.path()).args(["block", "submit"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut pipe = pipe.spawn().unwrap();
    pipe.stdin.take().unwrap().write_all(&[0xff, 0, 0xfe]).unwrap();
    let taken = pipe.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&taken.stdout).trim(), blake3::hash(&[0xff, 0, 0xfe]).to_hex().as_str());
    fails(&home.run(&["block", "sync", "--wait", "--timeout", "0.2"]), 6);
    let reason = fails(&home.run(&["block", "sync", "--timeout", "10"]), 2);
    assert!(reason.contains("--wait"), "it would wait for nothing: {reason}");
    // Whoever repeats what got no answer learns that it was taken.
    let hash = blake3::hash(b"twice").to_hex();
    fs::write(home.file("twice"), b"twice").unwrap();
    let twice = || home.run(&["--json", "block", "submit", home.file("twice").to_str().unwrap()]);
    assert!(twice().status.success());
    let (again, code) = (twice(), 7);
    assert_eq!(again.status.code(), Some(code), "{}", shown(&again));
    let error = serde_json::from_slice::<Value>(&again.stdout).unwrap()["error"].clone();
    assert_eq!((&error["code"], &error["transaction"]), (&"duplicate".into(), &hash.as_str().into()), "{error}");
    fails(&home.run(&["block", "export", "x", "--from", "50"]), 4);
    // A chain is not opened with another genesis block, nor with one that cannot be read.
    drop(running);
    let others = format!("chain.producers=['{}']", without.address);
    let reason = fails(&home.daemon_fails(&["--set", "block.produce=true", "--set", &others]), 2);
    assert!(reason.contains("none of chain.producers"), "{reason}");
    let genesis = home.file("genesis.toml");
    fs::write(&genesis, "time = 1767225600001\nextra = 'mine'\n").unwrap();
    let set = format!("chain.genesis={}", genesis.display());
    let reason = fails(&home.daemon_fails(&["--set", &set]), 2);
    assert!(reason.contains("genesis"), "{reason}");
    fs::write(&genesis, "time = 'soon'\n").unwrap();
    let reason = fails(&home.daemon_fails(&["--set", &set]), 2);
    assert!(reason.contains("genesis file") && reason.contains("line 1:") && !reason.contains("\\n"), "{reason}");
    let reason = fails(&home.daemon_fails(&["--set", "chain.commit_depth=200"]), 2);
    assert!(reason.contains("commit_depth = 200") && !reason.contains("deep_reorg_max"), "{reason}");
    let reason = fails(&home.daemon_fails(&["--set", "chain.commit_depth=0"]), 2);
    assert!(reason.contains("chain.commit_depth"), "{reason}");
    let _: Daemon = without;
}
