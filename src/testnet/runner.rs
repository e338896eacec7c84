//! The processes: one `vos daemon` for each node, with its data directory, its log and its control socket.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Take},
    process::{Child, ChildStdout, Command},
};

use super::{
    Error,
    table::{Screen, Watched},
    topology::{NodeSpec, Topology},
};
use crate::{
    api::Client,
    primitives::{Multiaddr, PeerId, multiaddr::Protocol},
};

/// How long a daemon may take to answer a request that asks for nothing long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A daemon opens its store and listens within this, even when two cores start fifty at once.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A daemon stops within 5 s; one second more before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(6);

/// A path of a Unix socket: 108 bytes with its end.
const MAX_SOCKET_PATH: usize = 107;

/// Bytes of stdout we read for the ready line: 16 multiaddrs of 320 bytes and an address.
const MAX_READY_BYTES: u64 = 16 * 1024;

/// Nodes of a network whose blocks come twice a second.
const SMALL: usize = 16;

/// Lines of its log shown for a node that did not start.
const LOG_TAIL: usize = 8;

/// What a daemon says when it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub address: PeerId,
    pub listen: Vec<Multiaddr>,
}

impl Ready {
    /// Reads `ready <address> <listen multiaddr>...`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("ready") {
            return None;
        }
        let address = words.next()?.parse().ok()?;
        let listen = words.map(|w| w.parse().ok()).collect::<Option<Vec<_>>>()?;
        (!listen.is_empty()).then_some(Self { address, listen })
    }

    /// Where it listens with TCP, without its address.
    pub(super) fn tcp(&self) -> Option<Multiaddr> {
        let tcp = |a: &&Multiaddr| a.iter().any(|p| matches!(p, Protocol::Tcp(_)));
        self.listen.iter().find(tcp).map(|a| a.iter().filter(|p| !matches!(p, Protocol::P2p(_))).collect())
    }

    /// Where others bootstrap from it.
    fn bootstrap(&self) -> Option<Multiaddr> {
        self.tcp().map(|addr| addr.with(Protocol::P2p(self.address)))
    }
}

/// How to start a node this time.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    /// Settings beside those of the topology.
    pub set: Vec<String>,
    /// Without any bootstrap node: it has to find back from its saved map.
    pub alone: bool,
    /// TCP addr to listen on; `None`: any free port.
    pub listen: Option<Multiaddr>,
}

/// A running daemon. Dropping it kills the process.
#[derive(Debug)]
struct Process {
    child: Child,
    ready: Ready,
    /// Kept open: a daemon that writes to a closed pipe would fail.
    _stdout: Take<BufReader<ChildStdout>>,
}

/// One node, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub name: String,
    pub client: Client,
    spec: NodeSpec,
    data_dir: PathBuf,
    process: Option<Process>,
    /// From its last start; an address never changes.
    last: Option<Ready>,
}

impl Node {
    /// Its address. Known once it was started.
    pub(super) fn address(&self) -> String {
        self.last.as_ref().map_or_else(String::new, |r| r.address.to_string())
    }

    /// The TCP addr it listens or last listened on.
    pub(super) fn tcp(&self) -> Option<Multiaddr> {
        self.last.as_ref().and_then(Ready::tcp)
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Id of its process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(|p| p.child.id())
    }
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Network {
    pub nodes: Vec<Node>,
    topology: Topology,
    id: String,
    place: PathBuf,
    binary: PathBuf,
}

/// A stopped node with its data directory below `place`.
fn node(spec: &NodeSpec, place: &Path) -> Result<Node, Error> {
    let data_dir = place.join(&spec.name);
    let socket = data_dir.join("api.sock");
    let len = socket.as_os_str().len();
    if len > MAX_SOCKET_PATH {
        return Err(Error::PathTooLong(socket, len));
    }
    std::fs::create_dir_all(&data_dir).map_err(|e| Error::Io(data_dir.clone(), e))?;
    let client = Client::unix(&socket).patience(PATIENCE);
    Ok(Node { name: spec.name.clone(), client, spec: spec.clone(), data_dir, process: None, last: None })
}

impl Network {
    /// A network of stopped nodes with their data directories below `place`.
    pub(super) fn new(topology: Topology, place: &Path) -> Result<Self, Error> {
        let nodes = topology.nodes.iter().map(|spec| node(spec, place)).collect::<Result<_, _>>()?;
        let id = format!("testnet-{:08x}", rand::random::<u32>());
        Ok(Self { nodes, topology, id, place: place.to_owned(), binary: std::env::current_exe()? })
    }

    /// Adds a stopped node that bootstraps from where the last one does, and returns its place.
    pub(super) fn add(&mut self, name: &str) -> Result<usize, Error> {
        let bootstrap = self.nodes.last().map(|n| n.spec.bootstrap.clone()).unwrap_or_default();
        let spec = NodeSpec { name: name.to_owned(), roles: Vec::new(), bootstrap, set: Vec::new() };
        self.nodes.push(node(&spec, &self.place)?);
        Ok(self.nodes.len() - 1)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Time from one block to the next: longer in a large network, where all nodes share a few cores.
    pub(super) fn block_interval(&self) -> Duration {
        if self.planned() <= SMALL { Duration::from_millis(500) } else { Duration::from_secs(2) }
    }

    /// Nodes of the topology: without those that were added later.
    pub(super) fn planned(&self) -> usize {
        self.topology.nodes.len()
    }

    /// The nodes everybody bootstraps from.
    pub(super) fn roots(&self) -> Vec<usize> {
        self.topology.roots()
    }

    /// What the table needs.
    pub(super) fn watched(&self) -> Vec<Watched> {
        self.nodes.iter().map(|n| Watched { name: n.name.clone(), client: n.client.clone() }).collect()
    }

    /// Starts everybody, bootstrap nodes first, four for each core at once: starting is mostly waiting for the disk.
    pub(super) async fn start_all(&mut self, screen: &Screen) -> Result<(), Error> {
        let at_once = std::thread::available_parallelism().map_or(8, |n| n.get() * 4);
        for wave in self.topology.waves()? {
            let this: &Self = self;
            let started: Vec<(usize, Process)> = stream::iter(wave)
                .map(|i| async move { Ok::<_, Error>((i, this.spawn(i, &Start::default()).await?)) })
                .buffer_unordered(at_once)
                .inspect_ok(|(i, process)| {
                    screen.detail(&format!("{} is ready: {}", this.nodes[*i].name, process.ready.address));
                })
                .try_collect()
                .await?;
            started.into_iter().for_each(|(i, process)| self.adopt(i, process));
        }
        Ok(())
    }

    /// Starts one stopped node.
    pub(super) async fn start(&mut self, i: usize, how: &Start) -> Result<(), Error> {
        let process = self.spawn(i, how).await?;
        self.adopt(i, process);
        Ok(())
    }

    /// Starts what is not running, as at first.
    pub(super) async fn start_missing(&mut self) -> Result<(), Error> {
        for i in 0..self.len() {
            if self.nodes[i].process.as_mut().is_some_and(|p| matches!(p.child.try_wait(), Ok(None))) {
                continue;
            }
            self.nodes[i].process = None;
            self.start(i, &Start::default()).await?;
        }
        Ok(())
    }

    /// SIGKILL: no goodbye, nothing flushed.
    pub(super) async fn kill(&mut self, i: usize) {
        if let Some(mut process) = self.nodes[i].process.take() {
            // An error means that it is gone already.
            let _ = process.child.kill().await;
        }
    }

    /// An orderly stop, with SIGKILL for one that does not.
    pub(super) async fn stop(&mut self, i: usize) {
        if let Some(process) = self.nodes[i].process.take() {
            end(process).await;
        }
    }

    /// Stops everybody at once.
    pub(super) async fn stop_all(&mut self) {
        let processes: Vec<_> = self.nodes.iter_mut().filter_map(|n| n.process.take()).collect();
        stream::iter(processes).for_each_concurrent(None, end).await;
    }

    /// The commands to talk to the running network.
    pub(super) fn hints(&self) -> Vec<String> {
        let vos = self.binary.display();
        let command = |n: &Node, rest: &str| format!("  {vos} --data-dir {} {rest}", n.data_dir.display());
        let (first, last) = (&self.nodes[0], &self.nodes[self.len() - 1]);
        vec![
            "the network is up; in another terminal:".into(),
            command(first, "status"),
            command(first, "map ls"),
            command(first, &format!("online {}", last.address())),
            command(first, &format!("send {} hello --wait delivered", last.address())),
            command(last, "inbox ls"),
            format!("every node's data directory and daemon.log: {}", first.data_dir.with_file_name("*").display()),
            "Ctrl-C stops every node".into(),
        ]
    }

    fn adopt(&mut self, i: usize, process: Process) {
        self.nodes[i].last = Some(process.ready.clone());
        self.nodes[i].process = Some(process);
    }

    async fn spawn(&self, i: usize, how: &Start) -> Result<Process, Error> {
        let node = &self.nodes[i];
        let failed = |why: String| Error::Start { node: node.name.clone(), why };
        let log_path = node.data_dir.join("daemon.log");
        let log =
            File::options().create(true).append(true).open(&log_path).map_err(|e| Error::Io(log_path.clone(), e))?;
        let mut command = self.command(node, how);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).process_group(0);
        let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stdout = BufReader::new(stdout).take(MAX_READY_BYTES);
        let ready = match tokio::time::timeout(READY_WITHIN, ready_line(&mut stdout)).await {
            Ok(Ok(ready)) => Ok(ready),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("not ready within {} s", READY_WITHIN.as_secs())),
        };
        match ready {
            Ok(ready) => Ok(Process { child, ready, _stdout: stdout }),
            Err(why) => {
                // It may be on its way out with a reason in its log, or stuck: either way it must be gone.
                let status = match tokio::time::timeout(Duration::from_secs(1), child.wait()).await {
                    Ok(Ok(status)) => status.to_string(),
                    _ => {
                        let _ = child.kill().await;
                        "killed".into()
                    }
                };
                Err(failed(format!("{why} ({status})\n{}", tail(&log_path))))
            }
        }
    }

    fn command(&self, node: &Node, how: &Start) -> Command {
        let mut command = Command::new(&self.binary);
        // The network must be the same whatever the caller's shell has set for a daemon of its own.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("VOS_") || key == "NOTIFY_SOCKET" {
                command.env_remove(key);
            }
        }
        let any_port = || "/ip4/127.0.0.1/tcp/0".to_owned();
        command.arg("--data-dir").arg(&node.data_dir).arg("daemon");
        command.args(["--network", &self.id, "--name", &node.name, "--http", "127.0.0.1:0"]);
        command.args(["--listen", &how.listen.as_ref().map_or_else(any_port, ToString::to_string)]);
        command.args(["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
        if !how.alone {
            for from in &node.spec.bootstrap {
                let from = self.nodes.iter().find(|n| n.name == *from).and_then(|n| n.last.as_ref());
                if let Some(addr) = from.and_then(Ready::bootstrap) {
                    command.args(["--bootstrap", &addr.to_string()]);
                }
            }
        }
        // Many daemons share this machine's memory: glibc would keep some for each of a daemon's threads.
        if std::env::var_os("GLIBC_TUNABLES").is_none() {
            command.env("GLIBC_TUNABLES", "glibc.malloc.arena_max=2");
        }
        // What is held here is thrown away in the end: a small disk is enough.
        command.args(["--set", "friend.reserve_bytes=0"]);
        // Blocks come faster than in earnest, or the steps about many of them would take minutes.
        let interval = self.block_interval().as_millis();
        command.args(["--set", &format!("block.interval_ms={interval}")]);
        // A third: nodes of one machine have one clock, and two producers take turns as it comes.
        command.args(["--set", &format!("chain.spacing_ms={}", interval / 3)]);
        for setting in node.spec.settings().iter().chain(&how.set) {
            command.args(["--set", setting]);
        }
        command
    }
}

async fn ready_line(stdout: &mut Take<BufReader<ChildStdout>>) -> Result<Ready, String> {
    let mut line = String::new();
    loop {
        line.clear();
        match stdout.read_line(&mut line).await {
            Ok(0) => return Err("it ended or said too much before it was ready".into()),
            Ok(_) => {
                if let Some(ready) = Ready::parse(&line) {
                    return Ok(ready);
                }
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

async fn end(mut process: Process) {
    // A pid is positive and fits; `id` is `None` once the process was waited for, so no other one can be hit.
    let pid = process.child.id().and_then(|id| i32::try_from(id).ok());
    let asked = pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
    if !asked || tokio::time::timeout(STOP_WITHIN, process.child.wait()).await.is_err() {
        // An error means that it is gone already.
        let _ = process.child.kill().await;
    }
}

fn tail(log: &Path) -> String {
    let text: Result<Vec<u8>, io::Error> = std::fs::read(log);
    let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn the_ready_line_names_address_and_addrs() {
        let address = Identity::generate().address();
        let line = format!("ready {address} /ip4/127.0.0.1/udp/9/quic-v1/p2p/{address} /ip4/127.0.0.1/tcp/7\n");
        let ready = Ready::parse(&line).unwrap();
        assert_eq!(ready.address, address);
        assert_eq!(ready.listen.len(), 2);
        assert_eq!(ready.tcp().unwrap().to_string(), "/ip4/127.0.0.1/tcp/7");
        assert_eq!(ready.bootstrap().unwrap().to_string(), format!("/ip4/127.0.0.1/tcp/7/p2p/{address}"));
    }

    #[test]
    fn other_lines_are_not_ready() {
        let address = Identity::generate().address();
        for line in ["", "ready", "already there", "ready nobody /ip4/1.2.3.4/tcp/1", &format!("ready {address}")] {
            assert_eq!(Ready::parse(line), None, "{line}");
        }
        assert_eq!(Ready::parse(&format!("ready {address} nonsense")), None);
    }

    #[test]
    fn a_folder_too_deep_for_a_socket_is_bad_input() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(90));
        let error = Network::new(Topology::behind_one(2).unwrap(), &deep).unwrap_err();
        assert!(matches!(error, Error::PathTooLong(..)) && error.is_usage(), "{error}");
    }
}
