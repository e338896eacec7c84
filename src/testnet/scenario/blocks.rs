//! Steps about the chain: two nodes produce, one in each half of the network.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Deadline, Outcome, ask, each, partition};
use crate::testnet::runner::{Network, Node, Start};

/// A new block is everywhere within this.
const EVERYWHERE: Duration = Duration::from_secs(2);
/// Blocks that are followed.
const FOLLOWED: usize = 5;
/// Blocks that a node misses.
const MISSED: u64 = 30;
/// Nodes up to which everybody is connected to everybody: `net.target_peers`.
const ALL_CONNECTED: usize = 16;
/// `chain.commit_depth` of the nodes: the default.
const DEPTH: u64 = crate::block::chain::DEFAULT_COMMIT_DEPTH;

/// Whoever produces: the last node of either half of the network as it was at first.
fn producers(network: &Network) -> [usize; 2] {
    [split(network) - 1, network.planned() - 1]
}

/// Where the halves meet.
fn split(network: &Network) -> usize {
    network.planned() / 2
}

async fn restart(network: &mut Network, which: [usize; 2], set: &[&str]) -> Result<(), String> {
    for i in which {
        // On its old port, so that nobody has to look for it.
        let listen = network.nodes[i].tcp();
        network.stop(i).await;
        let set = set.iter().map(|s| (*s).to_owned()).collect();
        network.start(i, &Start { set, listen, ..Start::default() }).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// A place in a node's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    height: u64,
    hash: String,
}

fn place(value: &Value) -> Result<Place, String> {
    let hash = value["hash"].as_str().ok_or_else(|| format!("no hash in {value}"))?.to_owned();
    Ok(Place { height: value["height"].as_u64().ok_or_else(|| format!("no height in {value}"))?, hash })
}

async fn head(node: &Node) -> Result<Place, String> {
    place(&ask(node, "block/head").await?["head"])
}

async fn committed(node: &Node) -> Result<Place, String> {
    place(&ask(node, "block/head").await?["committed"])
}

/// Whether `node` has a block in its best chain.
async fn has(node: &Node, block: &Place) -> Result<(), String> {
    let found = ask(node, &format!("block/blocks/{}", block.hash)).await?;
    match found["best"] == true {
        true => Ok(()),
        false => Err(format!("{} has block {} on a side branch", node.name, block.height)),
    }
}

/// A block of the node that is higher than `above`.
async fn next(node: &Node, above: u64, deadline: Deadline) -> Result<Place, String> {
    deadline
        .until("a new block", async || {
            let head = head(node).await?;
            if head.height > above { Ok(head) } else { Err(format!("{} is at height {}", node.name, head.height)) }
        })
        .await
}

/// Waits until all of `which` have one chain: some node's head is in the best chain of each.
async fn one_chain(network: &Network, which: std::ops::Range<usize>, deadline: Deadline) -> Result<Place, String> {
    let first = &network.nodes[which.start];
    deadline
        .until("one chain", async || {
            let block = head(first).await?;
            each(network, which.clone(), |n| async { has(n, &block).await.map_err(|e| format!("{}: {e}", n.name)) })
                .await?;
            Ok(block)
        })
        .await
}

/// Two nodes begin to produce. A transaction that is put in at a third one is in a block everywhere, and each block is soon everywhere.
pub(super) async fn reach_everybody(network: &mut Network, deadline: Deadline) -> Outcome {
    let producers = producers(network);
    restart(network, producers, &["block.produce=true"]).await?;
    let network = &*network;
    let transaction = b"a transaction of the local network";
    let node = &network.nodes[0];
    let submitted: Value = node
        .client
        .upload("/v1/block/transactions", transaction.to_vec().into(), Duration::ZERO)
        .await
        .map_err(|e| format!("{}: POST transactions: {e}", node.name))?;
    let hash = submitted["transaction"].as_str().unwrap_or_default().get(..12).unwrap_or_default().to_owned();
    one_chain(network, 0..network.len(), deadline).await?;
    let (mut slowest, mut height, mut followed) = (Duration::ZERO, 0, 0);
    while followed < FOLLOWED {
        let block = next(&network.nodes[producers[1]], height, deadline).await?;
        let since = Instant::now();
        let soon = Deadline { at: deadline.at.min(since + EVERYWHERE), ..deadline };
        // Another branch may win meanwhile: then that one's block is looked for.
        let everywhere = async || {
            each(network, 0..network.len(), |n| async {
                has(n, &block).await.map_err(|e| format!("{} after {:?}: {e}", n.name, since.elapsed()))
            })
            .await
        };
        match soon.until("a block everywhere", everywhere).await {
            Ok(()) => (slowest, followed) = (slowest.max(since.elapsed()), followed + 1),
            Err(missing) if has(&network.nodes[producers[1]], &block).await.is_ok() => return Err(missing),
            Err(_) => {}
        }
        height = block.height;
    }
    let included = deadline.until("the transaction", async || find(network, transaction).await).await?;
    Ok(format!(
        "transaction {hash} is in block {included}; {FOLLOWED} blocks were on {} nodes within {slowest:.0?}",
        network.len()
    ))
}

/// The height of the block that holds a transaction, at a node that did not get it first.
async fn find(network: &Network, transaction: &[u8]) -> Result<u64, String> {
    let (node, wanted) = (&network.nodes[network.len() - 2], STANDARD.encode(transaction));
    let top = head(node).await?.height;
    for height in 1..=top {
        let block = ask(node, &format!("block/blocks/{height}")).await?;
        if block["transactions"].as_array().into_iter().flatten().any(|t| *t == *wanted) {
            return Ok(height);
        }
    }
    Err(format!("it is in none of {top} blocks"))
}

/// A node is killed, misses 30 blocks, and has them soon after it is back.
pub(super) async fn caught_up(network: &mut Network, deadline: Deadline) -> Outcome {
    let [_, producer] = producers(network);
    let victim = network.planned() - 2;
    let before = head(&network.nodes[victim]).await?.height;
    network.kill(victim).await;
    next(&network.nodes[producer], before + MISSED - 1, deadline).await?;
    network.start(victim, &Start::default()).await.map_err(|e| e.to_string())?;
    let since = Instant::now();
    let goal = head(&network.nodes[producer]).await?.height;
    let now = next(&network.nodes[victim], goal - 1, deadline).await?;
    let took = since.elapsed();
    one_chain(network, 0..network.len(), deadline).await?;
    let name = &network.nodes[victim].name;
    Ok(format!("{name} was gone from height {before} on and was at {} {took:.0?} after its start", now.height))
}

/// A node that never was there fetches the whole chain.
pub(super) async fn from_zero(network: &mut Network, deadline: Deadline) -> Outcome {
    let [_, producer] = producers(network);
    let goal = head(&network.nodes[producer]).await?.height;
    let new = network.add("newcomer").map_err(|e| e.to_string())?;
    let since = Instant::now();
    network.start(new, &Start::default()).await.map_err(|e| e.to_string())?;
    let now = next(&network.nodes[new], goal - 1, deadline).await?;
    let took = since.elapsed();
    one_chain(network, 0..network.len(), deadline).await?;
    let first = ask(&network.nodes[new], "block/blocks/1").await?;
    if first["committed"] != true {
        return Err(format!("the first block is not final at {}: {first}", network.nodes[new].name));
    }
    Ok(format!("{} was at height {} {took:.0?} after it was started", network.nodes[new].name, now.height))
}

/// Waits until both halves have made so many blocks after the cut, and says where each stands.
async fn grow(network: &Network, from: u64, deadline: Deadline) -> Result<[Place; 2], String> {
    let [left, right] = producers(network);
    Ok([next(&network.nodes[left], from, deadline).await?, next(&network.nodes[right], from, deadline).await?])
}

/// Cut for some blocks, both halves go on; when they meet again they agree on one branch.
pub(super) async fn cut_short(network: &mut Network, deadline: Deadline) -> Outcome {
    let (network, middle) = (&*network, split(network));
    let start = one_chain(network, 0..network.len(), deadline).await?;
    partition::cut(network, middle, deadline).await?;
    let at = head(&network.nodes[middle - 1]).await?.height;
    let [left, right] = grow(network, at + 3, deadline).await?;
    let [a, b] = producers(network).map(|i| &network.nodes[i]);
    if at_height(a, at + 3).await? == at_height(b, at + 3).await? {
        return Err("both halves have the same block: the network was not cut".into());
    }
    partition::heal(network, middle).await?;
    let since = Instant::now();
    let block = one_chain(network, 0..network.len(), deadline).await?;
    let took = since.elapsed();
    Ok(format!(
        "parted after height {}, at {} and {} when healed, one chain at {} {took:.1?} later",
        start.height, left.height, right.height, block.height
    ))
}

/// Cut until both halves have final blocks that contradict each other. Nobody gives them up, and it does not go unnoticed: whoever has a
/// peer on the other side says so, and whoever has half of its peers there halts. In a small network of even halves that is everybody.
pub(super) async fn cut_long(network: &mut Network, deadline: Deadline) -> Outcome {
    let (told, heights) = {
        let (network, middle) = (&*network, split(network));
        one_chain(network, 0..network.len(), deadline).await?;
        partition::cut(network, middle, deadline).await?;
        let at = head(&network.nodes[middle - 1]).await?.height;
        grow(network, at + DEPTH + 3, deadline).await?;
        let contested = at + 3;
        let is_final = async || {
            each(network, 0..network.len(), |n| async {
                let height = committed(n).await?.height;
                if height >= contested { Ok(()) } else { Err(format!("{} has committed {height}", n.name)) }
            })
            .await
        };
        deadline.until("blocks that are final on both sides", is_final).await?;
        let [left, right] = producers(network).map(|i| &network.nodes[i]);
        let (on_left, on_right) = (at_height(left, contested).await?, at_height(right, contested).await?);
        if on_left == on_right {
            return Err("both halves have the same final block: the network was not cut".into());
        }
        partition::heal(network, middle).await?;
        let told = deadline.until("nodes that say that the chain is split", async || noticed(network).await).await?;
        for (i, node) in network.nodes.iter().enumerate() {
            let (kept, expected) = (at_height(node, contested).await?, if i < middle { &on_left } else { &on_right });
            if kept != *expected {
                return Err(format!("{} gave up a block that was final", node.name));
            }
        }
        (told, [head(left).await?.height, head(right).await?.height])
    };
    restart(network, producers(network), &[]).await?;
    let [left, right] = told;
    Ok(format!(
        "two final branches, at heights {} and {}: {} and {} nodes are told of the other one, {} and {} of them halted and say why, \
         nobody gave anything up",
        heights[0], heights[1], left.told, right.told, left.halted, right.halted
    ))
}

/// What the nodes of one side know of the other one.
#[derive(Clone, Copy, Debug, Default)]
struct Noticed {
    /// Nodes that have a peer there, and raised the alarm.
    told: usize,
    /// Of these, nodes that halted.
    halted: usize,
}

/// Looks whether everybody who has a peer on the other side says so, and on both sides there is one. When all are connected to all, and
/// the sides are even, everybody has halted.
async fn noticed(network: &Network) -> Result<[Noticed; 2], String> {
    let middle = split(network);
    let all = network.len() <= ALL_CONNECTED && network.planned().is_multiple_of(2);
    let mut sides = [Noticed::default(); 2];
    for (i, node) in network.nodes.iter().enumerate() {
        let other = partition::across(network, node, middle).await?;
        let status = ask(node, "block/head").await?;
        let halted = status["state"] == "halted" && status["halted"].is_string();
        if all && !halted {
            return Err(format!("{} is {}", node.name, status["state"]));
        }
        match other {
            Some(_) if halted || status["conflicting_peers"].as_u64() > Some(0) => {}
            Some(other) => return Err(format!("{} says nothing of {}, which is its peer", node.name, other.name)),
            None => continue,
        }
        let side = &mut sides[usize::from(i >= middle)];
        (side.told, side.halted) = (side.told + 1, side.halted + usize::from(halted));
    }
    match sides.iter().all(|side| side.told > 0) {
        true => Ok(sides),
        false => Err("nobody has a peer on the other side".into()),
    }
}

/// The hash of a node's block at a height.
async fn at_height(node: &Node, height: u64) -> Result<Value, String> {
    Ok(ask(node, &format!("block/blocks/{height}")).await?["header"]["hash"].clone())
}
