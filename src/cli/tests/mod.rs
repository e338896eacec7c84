//! The command tree, and what holds for all commands.

mod client;

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
    for sub in command.get_subcommands() {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() {
            leaves(sub, &path, found);
        } else {
            found.push(path.trim().to_owned());
        }
    }
}

#[test]
fn the_tree_is_consistent_and_is_the_promised_one() {
    Cli::command().debug_assert();
    let mut found = Vec::new();
    leaves(&Cli::command(), "", &mut found);
    let promised = "init,daemon,id,status,peers,ping,connect,disconnect,listen ls,listen add,listen rm,ban ls,ban add,ban rm,\
        name,map ls,map get,map watch,online,send,inbox ls,inbox read,inbox watch,inbox rm,outbox ls,outbox show,outbox cancel,\
        friend offer,friend accept,friend decline,friend revoke,friend ls,friend show,friend evidence,friend of,contact add,contact rm,contact ls,mailbox stats,\
        block head,block get,block submit,block watch,block sync,block trace,block export,block reset,block import,events,testnet,config default,config show,config check,completions,man";
    assert_eq!(found, promised.split(',').map(str::trim).collect::<Vec<_>>());
}

#[test]
fn every_help_text_has_examples_and_exit_statuses() {
    fn check(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let name = command.get_name();
        assert!(help.contains("Examples:\n  ") && help.contains("Exit status: 0 done"), "{name}: {help:?}");
        assert!(command.get_about().is_some(), "{name} says nothing about itself");
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in ["vos --json --data-dir d status", "vos status --json --data-dir d"] {
        let global = parse(line).expect("understood").global;
        assert!(global.json && global.data_dir.as_deref() == Some(Path::new("d")));
    }
    assert!(parse("vos -q -v id").is_err());
    assert_eq!(parse("vos -vv id").expect("understood").global.verbose, 2);
}

#[test]
fn promised_command_lines_are_understood() {
    for line in [
        "vos init --name a",
        "vos daemon --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/udp/0/quic-v1 --bootstrap /dnsaddr/x.example",
        "vos daemon --name a --network test --http off --config c.toml --set map.full_limit=5 --set net.upnp=true",
        "vos daemon --http 127.0.0.1:0 --log-format json",
        "vos send bob hello",
        "vos send bob --file f --wait delivered --timeout 2.5",
        "vos send bob --file -",
        "vos send bob - --wait sent",
        "vos send bob x --wait stored",
        "vos online bob --timeout 3",
        "vos connect /ip4/127.0.0.1/tcp/1",
        "vos testnet --nodes 3 --once --report r.json --keep d --topology t.toml",
        "vos inbox read 00",
        "vos man d",
        "vos completions zsh",
        "vos --color never config show --set node.name=x",
    ] {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn mistakes_are_wrong_usage() {
    for line in [
        "vos",
        "vos nope",
        "vos map",
        "vos id --nope",
        "vos connect nope",
        "vos daemon --listen nope",
        "vos daemon --http nope",
        "vos daemon --network Main!",
        "vos send bob",
        "vos send bob text --file f",
        "vos send bob text --wait queued",
        "vos online bob --timeout 0",
        "vos online bob --timeout inf",
        "vos online bob --timeout nan",
        "vos inbox ls --limit 0",
        "vos completions nope",
        "vos map get ",
        "vos inbox read ",
        "vos ban rm ",
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("{line} was understood"));
        assert!(!matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion), "{line}");
        let told = one_line(&error.render().to_string());
        assert!(told.len() > 10 && !told.ends_with(':') && !told.contains(['\n', '\u{1b}']), "{line}: {told}");
        assert!(!told.contains("For more information") && !told.contains(" tip:"), "{line}: {told}");
    }
}

#[test]
fn a_usage_error_in_json_names_what_is_missing() {
    let error = parse("vos send bob").expect_err("no body");
    let told = one_line(&error.render().to_string());
    assert!(told.contains("required arguments were not provided: <") && told.contains("--file"), "{told}");
}

#[test]
fn json_is_found_among_arguments_that_were_not_understood() {
    let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    assert!(wants_json(&args("vos nope --json")));
    assert!(!wants_json(&args("vos nope")));
    assert!(!wants_json(&args("vos send bob -- --json")));
}

#[test]
fn texts_are_encoded_for_paths_and_queries() {
    assert_eq!(encode("a-Z_0.9~"), "a-Z_0.9~");
    assert_eq!(encode("a/b?c=d&e é%\n"), "a%2Fb%3Fc%3Dd%26e%20%C3%A9%25%0A");
}

#[test]
fn verbosity_wins_over_the_configuration() {
    let level = |line: &str| {
        let context = Context::new(parse(line).expect("understood").global);
        context.log_level("configured").to_owned()
    };
    assert_eq!(level("vos id"), "configured");
    assert_eq!(level("vos id -v"), "info,vos=debug");
    assert_eq!(level("vos id -vvv"), "trace");
    assert_eq!(level("vos id -q"), "warn");
    assert_eq!(level("vos id -qq"), "error");
}

#[test]
fn a_missing_daemon_is_told_with_how_to_start_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let line = format!("vos --data-dir {} status", dir.path().display());
    let cli = parse(&line).expect("understood");
    let error = cli.command.run(&Context::new(cli.global)).expect_err("no daemon");
    assert_eq!(error.exit, Exit::NotRunning);
    assert!(error.message.contains("vos daemon"), "{error}");
}
