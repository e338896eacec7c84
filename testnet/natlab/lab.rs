//! The namespaces of one test, and the removal of them.
//!
//! Namespaces are named after the process that made them and the time it started. Dropping a [`Lab`] kills what runs in its
//! namespaces and deletes them, also when a test panics. A run that was killed leaves its own behind; the next run
//! finds that their process is gone and does the same for them.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use super::commands::{run, try_run};
use crate::process::daemon::{Daemon, Home, eventually, wait_at_most};

/// Every namespace of any run begins with this.
const PREFIX: &str = "vosnl";

/// The port of every node: each is alone in its namespace.
const PORT: u16 = 4001;

/// The namespaces of one test, with the bridge that all routers and public hosts are connected to.
#[derive(Debug)]
pub(super) struct Lab {
    number: u32,
    ports: u32,
    /// The bridge `br0` is in it.
    internet: String,
    namespaces: Vec<String>,
}

/// A namespace with a name for people.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) netns: String,
    /// The addr of its `eth0`, without a mask.
    pub(super) ip: String,
}

/// Which outer port a router uses for a connection from inside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ports {
    /// The same as inside when it is free: connections can be punched.
    Kept,
    /// Another one for each connection: nobody can tell where the next one will be seen.
    Random,
}

/// A router: `wan` in the internet, `lan` at 192.168.1.1.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) netns: String,
    pub(super) ip: String,
    hosts: u32,
}

impl Lab {
    /// A lab with an empty internet; `None`, said once in one line, where there can be none.
    ///
    /// # Panics
    /// Instead of `None` when `VOS_NATLAB=1`.
    pub(super) fn new() -> Option<Self> {
        static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
        static LABS: AtomicU32 = AtomicU32::new(0);
        let usable = USABLE.get_or_init(|| {
            let usable = usable();
            if usable.is_ok() {
                remove_leftovers();
            }
            usable
        });
        if let Err(why) = usable {
            skip("all NAT tests", why);
            return None;
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self { number, ports: 0, internet: String::new(), namespaces: Vec::new() };
        lab.internet = lab.namespace("internet");
        run(&format!("ip -n {} link add br0 up type bridge", lab.internet), "");
        Some(lab)
    }

    fn namespace(&mut self, name: &str) -> String {
        let name = format!("{}-{}-{name}", own_prefix(), self.number);
        // First, so that it is removed whatever fails below.
        self.namespaces.push(name.clone());
        run(&format!("ip netns add {name}"), "");
        run(&format!("ip -n {name} link set lo up"), "");
        name
    }

    /// Connects `eth` of a namespace to a bridge.
    fn connect(&mut self, netns: &str, eth: &str, ip: &str, bridge: (&str, &str)) {
        let (other, bridge) = bridge;
        self.ports += 1;
        let port = format!("port{}", self.ports);
        run(&format!("ip link add {eth} netns {netns} type veth peer name {port} netns {other}"), "");
        run(&format!("ip -n {other} link set {port} up master {bridge}"), "");
        run(&format!("ip -n {netns} link set {eth} up"), "");
        run(&format!("ip -n {netns} address add {ip}/24 dev {eth}"), "");
    }

    /// A host with a public addr.
    pub(super) fn public(&mut self, name: &str, ip: &str) -> Host {
        let netns = self.namespace(name);
        self.connect(&netns, "eth0", ip, (&self.internet.clone(), "br0"));
        Host { netns, ip: ip.to_owned() }
    }

    /// A router that lets nothing in that was not asked for.
    pub(super) fn router(&mut self, name: &str, ip: &str, ports: Ports) -> Router {
        let netns = self.namespace(name);
        self.connect(&netns, "wan", ip, (&self.internet.clone(), "br0"));
        run(&format!("ip -n {netns} link add lan up type bridge"), "");
        run(&format!("ip -n {netns} address add 192.168.1.1/24 dev lan"), "");
        run(&format!("ip netns exec {netns} tee /proc/sys/net/ipv4/ip_forward"), "1");
        run(&format!("ip netns exec {netns} nft -f -"), &rules(ports));
        Router { netns, ip: ip.to_owned(), hosts: 1 }
    }

    /// A host behind a router.
    pub(super) fn behind(&mut self, router: &mut Router, name: &str) -> Host {
        let mut host = Host { netns: self.namespace(name), ip: String::new() };
        self.plug_in(&mut host, router);
        host
    }

    /// Takes a host out of its network and connects it to a router's.
    pub(super) fn carry_behind(&mut self, host: &mut Host, router: &mut Router) {
        run(&format!("ip -n {} link delete eth0", host.netns), "");
        self.plug_in(host, router);
    }

    fn plug_in(&mut self, host: &mut Host, router: &mut Router) {
        router.hosts += 1;
        host.ip = format!("192.168.1.{}", router.hosts);
        self.connect(&host.netns, "eth0", &host.ip, (&router.netns, "lan"));
        run(&format!("ip -n {} route add default via 192.168.1.1", host.netns), "");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.namespaces.iter().for_each(|name| remove(name));
    }
}

impl Host {
    /// A data directory whose daemon runs here and listens on all addrs; `args` go to each daemon that is started in it.
    pub(super) fn home(&self, args: &[&str]) -> Home {
        let quic = format!("/ip4/0.0.0.0/udp/{PORT}/quic-v1");
        let args = [&["--listen", &quic], args].concat();
        Home::in_netns(&self.netns, &format!("/ip4/0.0.0.0/tcp/{PORT}"), &args)
    }

    /// Where others find the daemon that runs here.
    pub(super) fn addr(&self, daemon: &Daemon) -> String {
        addr_at(&self.ip, daemon)
    }
}

/// The addr of a daemon that is seen at an IP.
pub(super) fn addr_at(ip: &str, daemon: &Daemon) -> String {
    format!("/ip4/{ip}/tcp/{PORT}/p2p/{}", daemon.address)
}

/// Says in one line, whatever captures the output of tests, that something is not tested.
///
/// # Panics
/// When `VOS_NATLAB=1` demands it.
pub(super) fn skip(what: &str, why: &str) {
    static SAID: OnceLock<()> = OnceLock::new();
    assert!(std::env::var_os("VOS_NATLAB").is_none_or(|v| v != "1"), "VOS_NATLAB=1, but: {why}");
    SAID.get_or_init(|| drop(writeln!(io::stderr(), "NAT lab, skipped: {what}: {why}")));
}

/// The chains named after miniupnpd are where it puts its mappings; without it they stay empty.
fn rules(ports: Ports) -> String {
    let random = match ports {
        Ports::Kept => "",
        Ports::Random => "fully-random",
    };
    let mut rules = String::new();
    // Dropped, not refused: that is what most home routers do, and the harder case.
    write!(
        rules,
        r#"table inet filter {{
            chain miniupnpd {{ }}
            chain miniupnpd_pre {{ }}
            chain miniupnpd_post {{ }}
            chain input {{
                type filter hook input priority filter; policy drop;
                iifname {{ "lo", "lan" }} accept
                ct state established,related accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname "lan" accept
                jump miniupnpd
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                jump miniupnpd_pre
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                jump miniupnpd_post
                oifname "wan" masquerade {random}
            }}
        }}"#
    )
    .unwrap();
    rules
}

/// Whether this machine lets us make namespaces and filter packets in them.
fn usable() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("it needs root".into());
    }
    let name = format!("{}-probe", own_prefix());
    try_run(&["ip", "netns", "add", &name], "")?;
    let filtered = try_run(&["ip", "netns", "exec", &name, "nft", "-f", "-"], &rules(Ports::Random))
        .and_then(|_| try_run(&["ip", "-n", &name, "link", "add", "br0", "type", "bridge"], ""))
        .and_then(|_| try_run(&["ip", "-n", &name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"], ""));
    remove(&name);
    filtered.map(drop)
}

/// What the names of this process begin with.
fn own_prefix() -> String {
    let pid = std::process::id();
    format!("{PREFIX}-{pid}-{}", started(pid).unwrap())
}

/// When a process started, in ticks since boot: a process id alone may have a new owner. `None`: it does not run.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may contain anything, in parentheses; this is the twentieth after it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Removes namespaces of runs that are gone.
fn remove_leftovers() {
    let listed = run("ip netns list", "");
    for name in listed.lines().filter_map(|l| l.split_ascii_whitespace().next()) {
        let mut parts = name.split('-');
        if parts.next() != Some(PREFIX) {
            continue;
        }
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (Some(pid), Some(ticks)) = (number().and_then(|p| u32::try_from(p).ok()), number()) else { continue };
        if started(pid) != Some(ticks) {
            remove(name);
        }
    }
}

/// Kills what runs in a namespace and deletes it. Errors mean that it is gone already.
fn remove(name: &str) {
    let pids = try_run(&["ip", "netns", "pids", name], "").unwrap_or_default();
    for pid in pids.lines().filter_map(|p| p.trim().parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = try_run(&["ip", "netns", "delete", name], "");
}

#[test]
fn what_a_killed_run_left_is_removed_and_what_runs_is_not() {
    let Some(lab) = Lab::new() else { return };
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    let name = format!("{PREFIX}-{}-1-0-left", gone.id());
    gone.wait().unwrap();
    run(&format!("ip netns add {name}"), "");
    let mut left = std::process::Command::new("ip").args(["netns", "exec", &name, "sleep", "600"]).spawn().unwrap();
    let inside = || run(&format!("ip netns pids {name}"), "").contains(&left.id().to_string());
    eventually("it runs in there", || inside().then_some(()));
    remove_leftovers();
    wait_at_most(&mut left, std::time::Duration::from_secs(10));
    let listed = run("ip netns list", "");
    assert!(!listed.contains(&name), "{listed}");
    assert!(listed.contains(&lab.internet), "{listed}");
}
