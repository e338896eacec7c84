//! L7: `vos testnet`, a local network of real daemons.
//!
//! ```text
//!   topology.rs  who there is and who bootstraps from whom          (a TOML file, or N nodes behind one)
//!        |
//!   runner.rs    one process for each node: start, kill, restart    api::Client over <data-dir>/api.sock
//!        |                                                              |
//!   scenario/    one step for each promise, with deadline and time -----+
//!        |
//!   report.rs    {nodes, steps: [{name, ok, ms, detail}]}           table.rs   the live table, or plain lines
//! ```
//!
//! # Lifetimes
//! Every process belongs to `runner::Network`. It is stopped on purpose at the end (SIGTERM, SIGKILL after some
//! seconds); any other way out (an error, a panic, a signal) drops the handles, and a dropped handle kills its process.
//! The nodes get a process group of their own, so that Ctrl-C reaches this program alone and the order of stopping is ours.
//!
//! # Waiting
//! A step asks the daemons again and again until its condition holds or its deadline passes. Nothing sleeps for luck,
//! so a time in the report is the time it took.
//!
//! # Limits
//! 2 to `topology::MAX_NODES` nodes; two file descriptors and one process each.

mod report;
mod runner;
mod scenario;
mod table;
mod topology;

use std::{io, path::PathBuf, sync::Arc, time::Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

pub use report::{Report, Step};
use runner::Network;
use table::Screen;
use topology::Topology;
pub use topology::TopologyError;

/// What `vos testnet` was asked to do.
#[derive(Clone, Debug)]
pub struct Args {
    /// Nodes to start, 2 to 200; a topology file overrides it.
    pub nodes: usize,
    /// TOML file that names the nodes, their roles and who bootstraps from whom.
    pub topology: Option<PathBuf>,
    /// End after the scenario instead of keeping the network up.
    pub once: bool,
    /// Folder for the nodes' data directories, kept afterwards; must be empty or missing. `None`: a temporary one.
    pub keep: Option<PathBuf>,
    /// File to write the report to, as JSON.
    pub report: Option<PathBuf>,
    /// The report as one JSON document on stdout, and nothing else there.
    pub json: bool,
}

/// Why the local network could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topology is not usable: bad input.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The folder for `--keep` holds something already: bad input.
    #[error("{0} is not empty: name a new folder with --keep")]
    NotEmpty(PathBuf),
    /// The path of a node's socket is longer than the system allows: bad input.
    #[error("{0} is too long for a Unix socket ({1} bytes, limit 107): choose a shorter folder")]
    PathTooLong(PathBuf, usize),
    /// A node did not start.
    #[error("{node} did not start: {why}")]
    Start {
        /// Its name.
        node: String,
        /// What it said.
        why: String,
    },
    /// A file or folder could not be read or written.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// The system refused a signal handler or the path of this program.
    #[error("cannot prepare the processes: {0}")]
    System(#[from] io::Error),
}

impl Error {
    /// Whether the input was wrong (exit status 2) and not the network (exit status 1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Topology(_) | Self::NotEmpty(_) | Self::PathTooLong(..))
    }
}

/// Starts the network, runs the scenario and, unless asked to end then, keeps it up until SIGINT, SIGTERM or SIGHUP.
/// `true`: every step held. `false`: a step failed, or a signal came before the last one.
///
/// # Errors
/// [`Error`] when the network could not be started or the report not be written. No process is left in any case.
pub async fn run(args: Args) -> Result<bool, Error> {
    let mut interrupted = Interrupted::new()?;
    let topology = match &args.topology {
        Some(path) => Topology::parse(&std::fs::read_to_string(path).map_err(|e| Error::Io(path.clone(), e))?)?,
        None => Topology::behind_one(args.nodes)?,
    };
    let screen = Arc::new(Screen::new(args.json));
    let place = Place::new(args.keep.as_deref())?;
    let mut network = Network::new(topology, place.path())?;
    let mut report = Report::new(network.len());

    // The table lives beside the scenario: it only asks, so it needs no part of the processes.
    let mut watcher = JoinSet::new();
    watcher.spawn(table::watch(screen.clone(), network.watched()));

    let passed = tokio::select! {
        biased;
        () = interrupted.wait() => None,
        done = play(&mut network, &screen, &mut report) => Some(done),
    };
    let outcome = match passed {
        Some(Ok(())) => {
            let passed = report.passed();
            watcher.abort_all();
            screen.end_table();
            screen.line(&report.summary());
            if !args.once {
                network.hints().iter().for_each(|line| screen.line(line));
                watcher.spawn(table::watch(screen.clone(), network.watched()));
                interrupted.wait().await;
            }
            Ok(passed)
        }
        Some(Err(error)) => Err(error),
        None => {
            report.add(Step::failed("scenario", Instant::now(), "interrupted by a signal".into()));
            Ok(false)
        }
    };
    watcher.abort_all();
    screen.end_table();
    screen.line(&format!("stopping {} nodes", network.len()));
    network.stop_all().await;
    if let Some(path) = &args.report {
        std::fs::write(path, report.to_json()).map_err(|e| Error::Io(path.clone(), e))?;
    }
    if args.json && outcome.is_ok() {
        screen.document(&report.to_json());
    }
    place.finish(&screen);
    outcome
}

/// The whole scenario. Starting is its first step.
async fn play(network: &mut Network, screen: &Screen, report: &mut Report) -> Result<(), Error> {
    let started = Instant::now();
    network.start_all(screen).await?;
    let step = Step::passed("nodes started", started, format!("{} processes", network.len()));
    screen.line(&step.to_string());
    report.add(step);
    scenario::run(network, screen, report).await;
    Ok(())
}

/// Where the data directories are.
#[derive(Debug)]
enum Place {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Place {
    fn new(keep: Option<&std::path::Path>) -> Result<Self, Error> {
        let Some(path) = keep else {
            let dir = tempfile::Builder::new().prefix("vos-testnet-").tempdir()?;
            return Ok(Self::Temporary(dir));
        };
        let failed = |e| Error::Io(path.to_owned(), e);
        std::fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        if path.read_dir().map_err(failed)?.next().is_some() {
            return Err(Error::NotEmpty(path));
        }
        Ok(Self::Kept(path))
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }

    fn finish(self, screen: &Screen) {
        match self {
            Self::Temporary(dir) => {
                let path = dir.path().to_owned();
                if let Err(error) = dir.close() {
                    screen.line(&format!("{} could not be removed: {error}", path.display()));
                }
            }
            Self::Kept(path) => screen.line(&format!("data directories and logs are kept in {}", path.display())),
        }
    }
}

/// The signals that end the network.
#[derive(Debug)]
struct Interrupted([tokio::signal::unix::Signal; 3]);

impl Interrupted {
    fn new() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
