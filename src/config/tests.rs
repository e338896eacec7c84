//! Round trips, precedence and error texts.

use std::path::Path;

use super::{load::parse, *};

fn load(set: &[&str]) -> Result<Config, ConfigError> {
    Config::load(&Sources { set: set.iter().map(|s| (*s).to_owned()).collect(), ..Sources::default() }, |_| {})
}

fn problem(set: &str) -> String {
    load(&[set]).expect_err("a mistake").to_string()
}

/// Keys commented out become values; documentation stays a comment.
fn uncomment(text: &str) -> String {
    let is_key = |l: &str| l.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase()));
    text.lines().map(|l| if is_key(l) { &l[1..] } else { l }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_default_text_loads_back_to_the_defaults_commented_or_not() {
    let text = default_text();
    for text in [text.clone(), uncomment(&text)] {
        parse("default", &text).expect("no mistakes");
        assert_eq!(toml::from_str::<Config>(&text).expect("loads"), Config::default());
    }
}

#[test]
fn the_default_text_has_every_key_of_every_section_with_its_documentation() {
    let values = toml::Table::try_from(Config::default()).expect("representable");
    let written: toml::Table = toml::from_str(&uncomment(&default_text())).expect("loads");
    assert_eq!(written, values, "the sections' KEYS and fields differ");
    let listed: Vec<_> = SECTIONS.iter().map(|s| s.name).collect();
    assert_eq!(values.len(), listed.len());
    assert!(SECTIONS.iter().flat_map(|s| s.keys).all(|k| !k.doc.is_empty()));
}

#[test]
fn the_effective_text_loads_back_to_what_was_set() {
    let config = load(&["node.name=a \"quoted\" name", "map.full_limit=7", "api.tcp=127.0.0.1:99"]).expect("valid");
    let text = effective_text(&config).expect("representable");
    assert_eq!(toml::from_str::<Config>(&text).expect("loads"), config);
    assert_ne!(config, Config::default());
}

#[test]
fn flags_win_over_set_over_environment_over_file_over_defaults() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    let lines = "[map]\nfull_limit = 1\nsync_interval_s = 1\ndht_interval_s = 61\nauthor_rate_per_h = 1\n";
    std::fs::write(&file, lines).expect("written");
    let env = ["VOS_MAP__SYNC_INTERVAL_S", "VOS_MAP__DHT_INTERVAL_S", "VOS_MAP__AUTHOR_RATE_PER_H"];
    let sources = Sources {
        file: Some(file),
        file_required: true,
        env: env.iter().map(|name| ((*name).to_owned(), "62".to_owned())).collect(),
        set: vec!["map.dht_interval_s=63".into(), "map.author_rate_per_h=63".into()],
    };
    let map = Config::load(&sources, |config| config.map.author_rate_per_h = 64).expect("valid").map;
    assert_eq!(map.record_ttl_s, crate::map::Config::default().record_ttl_s);
    assert_eq!((map.full_limit, map.sync_interval_s, map.dht_interval_s, map.author_rate_per_h), (1, 62, 63, 64));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one_and_its_line() {
    let text = "[map]\nfull_limit = 5\nful_limit = 5\n";
    let error = parse("config.toml", text).expect_err("unknown").to_string();
    assert_eq!(error, "config.toml:3: unknown key map.ful_limit; did you mean map.full_limit?");
    assert!(parse("f", "[nett]\n").expect_err("unknown").to_string().contains("did you mean net?"));
    assert!(parse("f", "full_limit = 3\n").expect_err("unknown").to_string().contains("did you mean map.full_limit?"));
    assert!(parse("f", "map = 3\n").expect_err("not a section").to_string().starts_with("f:1: map is a section"));
    assert!(problem("net.full_limit=1").contains("did you mean map.full_limit?"));
    let hostile = parse("f", "[map]\n\"a\\u001b[2J\" = 1\n").expect_err("unknown").to_string();
    assert!(!hostile.contains('\u{1b}') && hostile.starts_with("f:2: unknown key map."), "{hostile}");
    assert!(problem("zzz=1").contains("section.key=value"));
    let env = Sources { env: vec![("VOS_MAP__NOPE".into(), "1".into())], ..Sources::default() };
    assert!(Config::load(&env, |_| {}).expect_err("unknown").to_string().starts_with("VOS_MAP__NOPE: unknown key"));
}

#[test]
fn other_environment_variables_are_left_alone() {
    let env = vec![("VOS_DATA_DIR".into(), "/x".into()), ("PATH".into(), "/bin".into())];
    assert_eq!(Config::load(&Sources { env, ..Sources::default() }, |_| {}).expect("valid"), Config::default());
}

#[test]
fn a_mistake_in_a_file_is_reported_with_its_line() {
    for (text, line) in
        [("[map]\n\nfull_limit = \"x\"\n", 3), ("[map]\nfull_limit =\n", 2), ("[net]\nlisten = [\"nope\"]", 2)]
    {
        let error = parse("c.toml", text).expect_err("a mistake").to_string();
        assert!(error.starts_with(&format!("c.toml:{line}: ")), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn lists_are_given_as_toml_or_separated_by_commas() {
    let expected = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"].map(|a| a.parse().expect("an addr"));
    for text in ["/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2", "[\"/ip4/127.0.0.1/tcp/1\", \"/ip4/127.0.0.1/tcp/2\"]"] {
        assert_eq!(load(&[&format!("net.listen={text}")]).expect("valid").net.listen, expected);
    }
    assert!(load(&["net.listen="]).expect("valid").net.listen.is_empty());
    assert!(problem("net.listen=/ip4/1.2.3.4/tcpp/1").starts_with("--set"));
}

#[test]
fn values_of_the_wrong_type_or_out_of_range_are_refused_by_name() {
    let cases = [
        ("map.full_limit=many", "expected an integer"),
        ("map.full_limit=0", "map.full_limit: 0 is out of range, 1 to"),
        ("map.full_limit=-1", "--set"),
        ("map.full_limit=1\nrecord_ttl_s=5", "expected an integer"),
        ("net.upnp=yes", "expected a boolean"),
        ("message.max_bytes=16777217", "message.max_bytes"),
        ("net.high_water=2", "net.high_water"),
        ("chain.commit_depth=0", "chain.commit_depth: 0 is out of range, 1 to 256"),
        ("chain.deep_reorg_max=1000", "chain.deep_reorg_max"),
        ("chain.max_bytes=5242880", "4194304"),
        ("chain.deep_reorg_max=200", "it can be 116 at most"),
        ("chain.fork_choice=heaviest", "--set"),
        ("chain.producers=['bob']", "chain.producers: \"bob\" is not the address"),
        ("block.interval_ms=1", "block.interval_ms"),
        ("node.network=Main!", "network id"),
        ("node.http=localhost", "expected `off` or an IP address"),
        ("api.tcp=0.0.0.0:80", "loopback"),
        ("net.bootstrap=/ip4/127.0.0.1/tcp/1", "/p2p/<address>"),
        ("log.level=vos=loud", "log.level"),
        ("log.format=xml", "--set"),
        ("node.name=a\u{1b}[2Jb", "control characters"),
    ];
    for (set, expected) in cases {
        let error = problem(set);
        assert!(error.contains(expected), "{set}: {error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    let quick = load(&["block.produce=true", "block.interval_ms=100"]).expect_err("a mistake").to_string();
    assert!(quick.contains("chain.spacing_ms = 500"), "{quick}");
    load(&["block.produce=true", "block.interval_ms=100", "chain.spacing_ms=100"]).expect("valid");
    let long = format!("node.name={}", "n".repeat(65));
    assert!(problem(&long).contains("65 bytes, at most 64"));
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_asked_for() {
    let missing = Path::new("/nonexistent/config.toml");
    assert!(matches!(Config::check_file(missing), Err(ConfigError::Read { .. })));
    let sources = Sources { file: Some(missing.to_owned()), ..Sources::default() };
    assert_eq!(Config::load(&sources, |_| {}).expect("defaults"), Config::default());
}
