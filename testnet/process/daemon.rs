//! A daemon in a temporary data directory, and commands to it. Dropping it kills the process.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// A daemon is ready within this, even when all tests run at once on two cores.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// Anything between two nodes on one machine happens within this.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The program without anything of the caller's environment that would change it.
pub(crate) fn vos() -> Command {
    vos_in(None)
}

/// The same in a network namespace.
fn vos_in(netns: Option<&str>) -> Command {
    let program = env!("CARGO_BIN_EXE_vos");
    let mut command = Command::new(if netns.is_some() { "ip" } else { program });
    if let Some(netns) = netns {
        // It becomes the program: the process id stays.
        command.args(["netns", "exec", netns, program]);
    }
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("VOS_") || key == "NOTIFY_SOCKET" || key == "RUST_LOG" {
            command.env_remove(key);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command of a data directory to its end.
pub(crate) fn run(data_dir: &Path, args: &[&str]) -> Output {
    vos().arg("--data-dir").arg(data_dir).args(args).output().unwrap()
}

/// The exit status and both outputs, for messages of failed tests.
pub(crate) fn shown(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Checks the exit status, that there is a reason on stderr, and that nothing panicked. Returns the reason.
#[track_caller]
pub(crate) fn fails(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{}", shown(output));
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!reason.trim().is_empty(), "no reason on stderr: {}", shown(output));
    assert!(!reason.contains("panicked at"), "{reason}");
    reason
}

/// Looks until `look` finds something; the deadline is a failure that says what was waited for.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ends a child within `limit`, or kills it and fails.
#[track_caller]
pub(crate) fn wait_at_most(child: &mut Child, limit: Duration) -> ExitStatus {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the process did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A data directory that a daemon uses, or used.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
    args: Vec<String>,
    /// The network namespace of its daemons; `None`: ours. Commands go over a socket in the directory and need none.
    netns: Option<String>,
    /// Where the first daemon listened: the next ones listen there again, as nodes with a configured port do. Two nodes
    /// that both move at once could not find each other.
    listen: OnceLock<String>,
}

/// A loopback address of its own for each data directory, so that no other socket of the machine can take the port while
/// a daemon restarts.
fn own_address() -> String {
    static HOMES: AtomicU32 = AtomicU32::new(0);
    let home = HOMES.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    format!("/ip4/127.{}.{}.{}/tcp/0", 1 + process % 250, process / 250 % 250, 1 + home % 250)
}

impl Home {
    /// An empty one; `args` go to each daemon that is started in it.
    pub(crate) fn new(args: &[&str]) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Self { dir: tempfile::tempdir().unwrap(), args, netns: None, listen: OnceLock::new() }
    }

    /// An empty one whose daemons run in a network namespace and listen there.
    pub(crate) fn in_netns(netns: &str, listen: &str, args: &[&str]) -> Self {
        let home = Self { netns: Some(netns.to_owned()), ..Self::new(args) };
        home.listen.set(listen.to_owned()).unwrap();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A command to the daemon of this directory.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        run(self.path(), args)
    }

    /// A command that has to succeed, with its JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", shown(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", shown(&output)))
    }

    /// A daemon's command line that listens on any port of this machine.
    pub(crate) fn daemon(&self, more: &[&str]) -> Command {
        let mut command = vos_in(self.netns.as_deref());
        command.arg("--data-dir").arg(self.path()).args(["daemon", "--network", "process-test", "--http", "off"]);
        let listen = self.listen.get().cloned().unwrap_or_else(own_address);
        command.args(["--listen", &listen]).args(&self.args).args(more);
        command
    }

    /// A daemon that has to fail before it is ready.
    #[track_caller]
    pub(crate) fn daemon_fails(&self, more: &[&str]) -> Output {
        let mut child = self.daemon(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = wait_at_most(&mut child, READY);
        let output = child.wait_with_output().unwrap();
        assert!(!status.success(), "{}", shown(&output));
        output
    }

    /// A running daemon, ready.
    #[track_caller]
    pub(crate) fn start(&self, more: &[&str]) -> Daemon {
        let log = File::options().create(true).append(true).open(self.file("daemon.log")).unwrap();
        let mut child = self.daemon(more).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        match first_line(stdout) {
            Some((line, stdout)) if line.starts_with("ready ") => {
                let words: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
                self.listen.get_or_init(|| words[2].split("/p2p/").next().unwrap().to_owned());
                Daemon { child, address: words[1].clone(), listen: words[2..].to_vec(), _stdout: stdout }
            }
            other => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(self.file("daemon.log")).unwrap_or_default();
                panic!("not ready: {:?}\n{log}", other.map(|(line, _)| line));
            }
        }
    }
}

/// The first line, within the time a daemon has. The reader is in a thread, because a pipe has no deadline.
fn first_line(mut stdout: BufReader<ChildStdout>) -> Option<(String, BufReader<ChildStdout>)> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut line = String::new();
        if stdout.read_line(&mut line).is_ok() {
            let _ = sender.send((line, stdout));
        }
    });
    receiver.recv_timeout(READY).ok()
}

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: String,
    pub(crate) listen: Vec<String>,
    _stdout: BufReader<ChildStdout>,
}

impl Daemon {
    /// A multiaddr that others can bootstrap from.
    pub(crate) fn bootstrap(&self) -> String {
        let addr = &self.listen[0];
        if addr.contains("/p2p/") { addr.clone() } else { format!("{addr}/p2p/{}", self.address) }
    }

    /// SIGTERM; how long it took and how it ended.
    pub(crate) fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let status = wait_at_most(&mut self.child, Duration::from_secs(20));
        (status, started.elapsed())
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that does not outlive its test.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that prints a line of JSON for each thing that happens, until it is dropped.
pub(crate) struct Following {
    lines: mpsc::Receiver<String>,
    _process: Killed,
}

impl Following {
    /// It misses nothing from when this returns.
    #[track_caller]
    pub(crate) fn start(home: &Home, args: &[&str]) -> Self {
        let mut command = vos();
        command.arg("--data-dir").arg(home.path()).arg("--json").args(args);
        let mut process = Killed(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let mut note = String::new();
        BufReader::new(process.0.stderr.take().unwrap()).read_line(&mut note).unwrap();
        assert!(note.contains("listening"), "{note}");
        let stdout = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let (sender, lines) = mpsc::sync_channel(1024);
        // A pipe has no deadline.
        thread::spawn(move || stdout.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { lines, _process: process }
    }

    #[track_caller]
    pub(crate) fn next(&self) -> Value {
        let line = self.lines.recv_timeout(SOON).expect("another line in time");
        serde_json::from_str(&line).unwrap()
    }

    /// The first one whose `key` is `value`; those before it are dropped.
    #[track_caller]
    pub(crate) fn until(&self, key: &str, value: &str) -> Value {
        let mut dropped = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(SOON) else { panic!("no {key} {value} after {dropped:?}") };
            let next: Value = serde_json::from_str(&line).unwrap();
            if next[key] == value {
                return next;
            }
            dropped.push(next);
        }
    }
}

/// Two daemons that know each other.
pub(crate) struct Pair {
    pub(crate) a: Home,
    pub(crate) b: Home,
    pub(crate) at_a: Option<Daemon>,
    pub(crate) at_b: Option<Daemon>,
}

impl Pair {
    /// `b` bootstraps from `a`; both are in both maps when this returns.
    pub(crate) fn start(args: &[&str]) -> Self {
        let (a, b) = (Home::new(args), Home::new(args));
        let at_a = a.start(&["--name", "alice"]);
        let at_b = b.start(&["--name", "bob", "--bootstrap", &at_a.bootstrap()]);
        for home in [&a, &b] {
            eventually("two records in the map", || (home.json(&["status"])["map"]["records"] == 2).then_some(()));
        }
        Self { a, b, at_a: Some(at_a), at_b: Some(at_b) }
    }

    /// The address of `b`.
    pub(crate) fn address_b(&self) -> String {
        self.at_b.as_ref().unwrap().address.clone()
    }
}
