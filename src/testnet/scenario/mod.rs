//! The scenario: one function for each promise. A step gets the network with every node running and leaves it so.
//!
//! A step that fails does not end the scenario: the next ones start from a repaired network, and a report that shows
//! which promises hold is worth more than one that ends at the first.

mod blocks;
mod failure;
mod maps;
mod messages;
mod offline;
mod partition;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde_json::Value;

use super::{
    report::{Report, Step},
    runner::{Network, Node},
    table::Screen,
};

/// Why a step does not hold, in words: what was wanted and what was seen last.
type Outcome = Result<String, String>;

/// Pause between two looks at a small network. Asking fifty nodes must not be what keeps them busy, so it grows.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_FOR_EACH_NODE: Duration = Duration::from_millis(4);

/// After the step before, until the daemon of the idle step has nothing to do any more: connections come back, maps are compared.
const IDLE_SETTLE: Duration = Duration::from_secs(5);
/// How long it is watched: a tick of the kernel's clock is a tenth of a percent then.
const IDLE_WATCH: Duration = Duration::from_secs(10);

/// Runs every step, telling each one's outcome as soon as it is known.
pub(super) async fn run(network: &mut Network, screen: &Screen, report: &mut Report) {
    let mut steps = Steps { screen, report };
    steps.play(network, "maps complete", 2, 60, maps::complete).await;
    steps.play(network, "name resolved through Kademlia", 4, 60, maps::resolved_by_kademlia).await;
    steps.play(network, "online true and false", 2, 30, maps::online).await;
    steps.play(network, "file delivered and receipted", 2, 60, messages::file).await;
    steps.play(network, "friends agreed", 4, 60, offline::agreed).await;
    steps.play(network, "left with both friends", 4, 60, offline::by_both).await;
    steps.play(network, "left with the second friend", 4, 60, offline::by_the_second).await;
    // Of four nodes two would be up, each at another port than the other knows, and nobody who could tell them.
    steps.play(network, "waits for a friend", 5, 60, offline::by_none).await;
    steps.play(network, "receipt by a friend", 5, 60, offline::by_letter).await;
    steps.play(network, "killed node noticed", 2, 60, failure::killed).await;
    steps.play(network, "restarted on another port", 2, 60, failure::restarted).await;
    steps.play(network, "rejoined without bootstrap", 3, 60, failure::without_bootstrap).await;
    steps.play(network, "network cut and healed", 4, 120, partition::cut_and_healed).await;
    steps.play(network, "idle node", 2, 30, idle).await;
    steps.play(network, "blocks reach everybody", 4, 60, blocks::reach_everybody).await;
    steps.play(network, "caught up after 30 blocks", 4, 90, blocks::caught_up).await;
    steps.play(network, "new node synced from zero", 4, 60, blocks::from_zero).await;
    steps.play(network, "chain cut for less than its depth", 4, 90, blocks::cut_short).await;
    steps.play(network, "chain cut for more than its depth", 4, 120, blocks::cut_long).await;
}

struct Steps<'a> {
    screen: &'a Screen,
    report: &'a mut Report,
}

impl Steps<'_> {
    /// Plays one step when the network has at least `nodes` nodes; it has `seconds`, and half a second more for each node.
    async fn play<S>(&mut self, network: &mut Network, name: &str, nodes: usize, seconds: u64, step: S)
    where
        S: AsyncFnOnce(&mut Network, Deadline) -> Outcome,
    {
        if network.len() < nodes {
            let why = format!("needs {nodes} nodes, there are {}", network.len());
            return self.tell(Step::skipped(name, &why));
        }
        // What a failed step left behind is not the next one's fault.
        let repaired = network.start_missing().await;
        let started = Instant::now();
        let limit =
            Duration::from_secs(seconds) + Duration::from_millis(500) * u32::try_from(network.len()).unwrap_or(0);
        let deadline = Deadline { at: started + limit, pause: pause(network.len()) };
        let outcome = match repaired {
            Ok(()) => step(network, deadline).await,
            Err(error) => Err(error.to_string()),
        };
        self.tell(match outcome {
            Ok(detail) => Step::passed(name, started, detail),
            Err(detail) => Step::failed(name, started, detail),
        });
    }

    fn tell(&mut self, step: Step) {
        self.screen.line(&step.to_string());
        self.report.add(step);
    }
}

fn pause(nodes: usize) -> Duration {
    PAUSE + PAUSE_FOR_EACH_NODE * u32::try_from(nodes).unwrap_or(u32::MAX)
}

/// When a step has to hold, and how often it looks.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    pause: Duration,
}

impl Deadline {
    /// Looks until `check` holds. Its error says what is still missing; the last one is the step's.
    async fn until<T>(self, what: &str, mut check: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
        loop {
            let missing = match tokio::time::timeout_at(self.at.into(), check()).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(missing)) => missing,
                Err(_) => return Err(format!("{what}: the daemons were still answering at the deadline")),
            };
            if Instant::now() + self.pause >= self.at {
                return Err(format!("{what}: {missing}"));
            }
            tokio::time::sleep(self.pause).await;
        }
    }
}

/// GET of `path` under `/v1/`, with the node's name in the error.
async fn ask(node: &Node, path: &str) -> Result<Value, String> {
    node.client.get(&format!("/v1/{path}")).await.map_err(|e| format!("{}: GET {path}: {e}", node.name))
}

/// Asks the nodes of `which`, eight at a time; the first that fails names itself.
async fn each<'a, F>(
    network: &'a Network,
    which: impl IntoIterator<Item = usize>,
    ask: impl Fn(&'a Node) -> F,
) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let mut answers = stream::iter(which).map(|i| ask(&network.nodes[i])).buffer_unordered(8);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

/// The record of `address` in `node`'s answer.
async fn record(node: &Node, address: &str) -> Result<Value, String> {
    let answer = ask(node, &format!("map/{address}")).await?;
    let found = records(&answer).iter().find(|r| r["address"] == *address).cloned();
    found.ok_or_else(|| format!("{} has no record of {address}", node.name))
}

fn records(answer: &Value) -> &[Value] {
    answer["records"].as_array().map_or(&[], Vec::as_slice)
}

/// Every running node has `records` records and all have the same map.
async fn maps_equal(network: &Network, records: u64) -> Result<(), String> {
    let mut digests: Vec<(String, String)> = Vec::new();
    let running: Vec<usize> = (0..network.len()).filter(|&i| network.nodes[i].is_running()).collect();
    let mut answers = stream::iter(running)
        .map(|i| async move { (&network.nodes[i].name, ask(&network.nodes[i], "status").await) })
        .buffer_unordered(8);
    while let Some((name, status)) = answers.next().await {
        let map = &status?["map"];
        let (have, digest) = (map["records"].as_u64().unwrap_or(0), map["digest"].as_str().unwrap_or(""));
        if have != records || digest.is_empty() {
            return Err(format!("{name} has {have} of {records} records"));
        }
        digests.push((name.clone(), digest.to_owned()));
    }
    let other = digests.iter().find(|(_, digest)| *digest != digests[0].1);
    other.map_or(Ok(()), |(name, _)| Err(format!("the maps of {} and {name} differ", digests[0].0)))
}

/// Nodes of a network as a record count.
fn all(network: &Network) -> u64 {
    u64::try_from(network.len()).unwrap_or(u64::MAX)
}

/// Memory and processor time of a daemon that has nothing to do: told, not judged.
async fn idle(network: &mut Network, deadline: Deadline) -> Outcome {
    let node = network.nodes.last().ok_or("no nodes")?;
    let pid = node.pid().ok_or_else(|| format!("{} is not running", node.name))?;
    if !std::path::Path::new("/proc/self/stat").exists() {
        return Ok("not measured: no /proc here".into());
    }
    tokio::time::sleep_until((Instant::now() + IDLE_SETTLE).min(deadline.at).into()).await;
    let before = Usage::of(pid)?;
    let started = Instant::now();
    tokio::time::sleep_until((started + IDLE_WATCH).min(deadline.at).into()).await;
    let (after, elapsed) = (Usage::of(pid)?, started.elapsed());
    // Clock ticks are a hundredth of a second wherever Linux runs; small numbers, exact in a float.
    let percent = after.ticks.saturating_sub(before.ticks) as f64 / elapsed.as_secs_f64();
    let mib = after.resident_kib as f64 / 1024.0;
    Ok(format!("{}: {mib:.1} MiB resident, {percent:.1} % of a core", node.name))
}

/// What the kernel counted for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    ticks: u64,
    resident_kib: u64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self, String> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
        };
        Self::parse(&read("stat")?, &read("status")?).ok_or_else(|| format!("/proc/{pid} reads unlike a process"))
    }

    /// From `/proc/PID/stat` and `/proc/PID/status`. The second field of `stat` is the program's name and may hold spaces.
    fn parse(stat: &str, status: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // utime and stime are fields 14 and 15; the third is the first after the name.
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        Some(Self { ticks, resident_kib: resident.split_ascii_whitespace().next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_past_a_name_with_spaces() {
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20";
        let usage = Usage::parse(stat, "Name:\tx\nVmRSS:\t  2048 kB\n").unwrap();
        assert_eq!(usage, Usage { ticks: 42, resident_kib: 2048 });
        assert_eq!(Usage::parse("12 no", "VmRSS: 1 kB"), None);
    }

    #[test]
    fn our_own_usage_can_be_read() {
        assert!(Usage::of(std::process::id()).unwrap().resident_kib > 0);
    }

    #[tokio::test]
    async fn the_last_thing_missing_is_what_a_failed_step_says() {
        let deadline = Deadline { at: Instant::now() + Duration::from_millis(300), pause: Duration::from_millis(50) };
        let mut looks = 0;
        let found = deadline
            .until("numbers", async || {
                looks += 1;
                if looks < 3 { Err(format!("only {looks}")) } else { Ok(looks) }
            })
            .await;
        assert_eq!(found, Ok(3));
        let deadline = Deadline { at: Instant::now(), pause: Duration::from_millis(50) };
        let never: Result<(), String> = deadline.until("numbers", async || Err("none".into())).await;
        assert_eq!(never, Err("numbers: none".into()));
    }
}
