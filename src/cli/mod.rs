//! L7: the command line. Every command but `daemon`, `init`, `config`, `testnet`, `completions` and `man` is a client of a
//! running daemon's control API.
//!
//! * `exit.rs` has the one table of exit statuses; `output.rs` is the only place that prints; `cmd/` has one file for
//!   each group of commands.
//! * With `--json` stdout carries exactly one JSON document, or JSON lines for streams, errors and usage errors included.

pub mod cmd;
mod exit;
mod output;
mod progress;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, error::ErrorKind};

use self::{
    exit::{CliError, Exit},
    output::{ColorChoice, Output},
};
use crate::{api::Client, telemetry::LogFormat};

/// Examples and exit statuses at the end of every `--help`.
macro_rules! after_help {
    ($($example:literal),+ $(,)?) => {
        concat!(
            "Examples:\n", $("  ", $example, "\n",)+
            "\nExit status: 0 done, 1 failed, 2 wrong usage or bad input, 3 daemon not running, 4 not found,\n\
             5 offline or unreachable, 6 timed out, 7 refused"
        )
    };
}
pub(crate) use after_help;

/// A headless peer-to-peer overlay node: identity, address book and messages without any server.
#[derive(Debug, Parser)]
#[command(
    name = "vos",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = false,
    after_help = after_help!("vos daemon --name alice", "vos status", "vos send bob 'hello' --wait delivered"),
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: cmd::Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Folder of identity, configuration, store and control socket [default: the platform's data directory].
    #[arg(long, global = true, value_name = "DIR", env = "VOS_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,
    /// Print one JSON document (JSON lines for streams) on stdout, and nothing else there.
    #[arg(long, global = true)]
    json: bool,
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Log only warnings, show no progress; twice for errors only.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    quiet: u8,
    /// Colors.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// How log lines look [default: log.format of the configuration, text].
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// What every command gets.
#[derive(Clone, Debug)]
pub struct Context {
    /// Options of every command.
    global: Global,
    /// How to talk.
    out: Output,
}

impl Context {
    fn new(global: Global) -> Self {
        let out = Output::new(global.json, global.color, global.quiet > 0);
        Self { global, out }
    }

    /// The data directory.
    fn data_dir(&self) -> Result<PathBuf, CliError> {
        if let Some(dir) = &self.global.data_dir {
            if dir.as_os_str().is_empty() {
                return Err(CliError::usage("the data directory is empty: name one with --data-dir"));
            }
            return Ok(dir.clone());
        }
        let dirs = directories::ProjectDirs::from("", "", "vos");
        let none = || CliError::usage("there is no home directory: name a data directory with --data-dir");
        dirs.map(|d| d.data_dir().to_owned()).ok_or_else(none)
    }

    /// A client of the daemon on the data directory.
    fn client(&self) -> Result<Client, CliError> {
        Ok(Client::unix(&self.data_dir()?.join("api.sock")))
    }

    /// The level of logs: `-q` and `-v` win over the configuration.
    fn log_level<'a>(&self, configured: &'a str) -> &'a str {
        match (self.global.quiet, self.global.verbose) {
            (0, 0) => configured,
            (0, 1) => "info,vos=debug",
            (0, _) => "trace",
            (1, _) => "warn",
            (_, _) => "error",
        }
    }
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let exit = match Cli::try_parse_from(&args) {
        Ok(cli) => {
            let context = Context::new(cli.global);
            match cli.command.run(&context) {
                Ok(()) => Exit::Done,
                Err(error) => {
                    context.out.error(&error);
                    error.exit
                }
            }
        }
        Err(error) => usage(&error, &args),
    };
    // `Exit` is `repr(u8)`, so the cast is its number.
    ExitCode::from(exit as u8)
}

/// Help and version on stdout; mistakes on stderr, or as JSON.
fn usage(error: &clap::Error, args: &[OsString]) -> Exit {
    let kind = error.kind();
    let out = Output { json: wants_json(args), color: false, quiet: false };
    let incomplete = kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) || (incomplete && !out.json) {
        // On the stream that fits; a closed pipe is no error.
        let _ = error.print();
        return if incomplete { Exit::Usage } else { Exit::Done };
    }
    let text = error.render().to_string();
    let what = if incomplete { "the command is not complete; see --help".to_owned() } else { one_line(&text) };
    out.error(&CliError::new(Exit::Usage, "usage", what));
    if let Some(line) = text.lines().find(|line| line.starts_with("Usage:") && !out.json) {
        out.note(&format!("{line} (more with --help)"));
    }
    Exit::Usage
}

/// What is wrong, without the usage text that follows it.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect::<Vec<_>>();
    let told = told.join(" ").replace(" tip: ", "; ");
    told.strip_prefix("error: ").unwrap_or(&told).to_owned()
}

/// Whether `--json` is among the options; the arguments were not understood, so this is all we can know.
fn wants_json(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// The command tree, for completions and man pages.
fn command() -> clap::Command {
    Cli::command()
}

/// Runs a client command: one thread is enough.
fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| CliError::io("starting", &e))?;
    let result = runtime.block_on(future);
    // A read of standard input that nobody ends would keep the command, and what it has to say, for ever.
    runtime.shutdown_background();
    result
}

/// Percent-encodes a text for a path segment or a query value.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A path for people.
fn shown(path: &Path) -> String {
    output::escape(&path.display().to_string())
}

#[cfg(test)]
mod tests;
