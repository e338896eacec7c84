//! The network cut in two by bans on both sides, changed on both sides, and healed.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{Deadline, Outcome, all, ask, each, maps_equal, record};
use crate::testnet::runner::{Network, Node};

/// Requests at once: a cut of fifty nodes takes 1250 of them.
const AT_ONCE: usize = 16;

pub(super) async fn cut_and_healed(network: &mut Network, deadline: Deadline) -> Outcome {
    let network = &*network;
    let middle = network.len() / 2;
    let (left, right) = (0..middle, middle..network.len());
    cut(network, middle, deadline).await?;

    // One change on each side, by nodes that are not alone there.
    let (a, b) = (&network.nodes[middle - 1], &network.nodes[network.len() - 1]);
    let (name_a, name_b) = (format!("{}-left", a.name), format!("{}-right", b.name));
    rename(a, &name_a).await?;
    rename(b, &name_b).await?;
    let (addr_a, addr_b) = (a.address(), b.address());
    deadline
        .until("news on both sides", async || {
            each(network, left.clone(), |n| has_name(n, &addr_a, &name_a)).await?;
            each(network, right.clone(), |n| has_name(n, &addr_b, &name_b)).await
        })
        .await?;
    each(network, right.clone(), |n| has_name(n, &addr_a, &a.name)).await.map_err(|e| format!("not cut: {e}"))?;
    each(network, left.clone(), |n| has_name(n, &addr_b, &b.name)).await.map_err(|e| format!("not cut: {e}"))?;

    heal(network, middle).await?;
    deadline
        .until("healed", async || {
            each(network, 0..network.len(), |n| has_name(n, &addr_a, &name_a)).await?;
            each(network, 0..network.len(), |n| has_name(n, &addr_b, &name_b)).await?;
            maps_equal(network, all(network)).await
        })
        .await?;
    let (left, right) = (left.len(), right.len());
    Ok(format!("{left} and {right} nodes apart, {name_a} and {name_b} renamed meanwhile, all maps equal again"))
}

/// Cuts the network in two: the nodes before `middle` and the others.
pub(super) async fn cut(network: &Network, middle: usize, deadline: Deadline) -> Result<(), String> {
    for_pairs(&pairs(network, middle), |(at, whom)| ban(&network.nodes[at], network.nodes[whom].address())).await?;
    let cut = async || each(network, 0..network.len(), |n| apart(network, n, middle)).await;
    deadline.until("cut", cut).await
}

/// Lifts what [`cut`] did; the nodes find each other by themselves.
pub(super) async fn heal(network: &Network, middle: usize) -> Result<(), String> {
    for_pairs(&pairs(network, middle), |(at, whom)| unban(&network.nodes[at], network.nodes[whom].address())).await
}

/// Every two nodes of different sides, in both directions.
fn pairs(network: &Network, middle: usize) -> Vec<(usize, usize)> {
    (0..middle).flat_map(|l| (middle..network.len()).flat_map(move |r| [(l, r), (r, l)])).collect()
}

async fn for_pairs<F>(pairs: &[(usize, usize)], act: impl Fn((usize, usize)) -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    stream::iter(pairs.iter().copied()).map(act).buffer_unordered(AT_ONCE).try_collect().await
}

async fn ban(node: &Node, address: String) -> Result<(), String> {
    let banned = node.client.post::<Value>("/v1/bans", &json!({"address": address}), Duration::ZERO).await;
    banned.map(drop).map_err(|e| format!("{}: POST bans: {e}", node.name))
}

async fn unban(node: &Node, address: String) -> Result<(), String> {
    let lifted = node.client.delete::<Value>(&format!("/v1/bans/{address}"), None::<&()>).await;
    lifted.map(drop).map_err(|e| format!("{}: DELETE bans: {e}", node.name))
}

async fn rename(node: &Node, name: &str) -> Result<(), String> {
    let renamed = node.client.put::<Value>("/v1/name", &json!({"name": name})).await;
    renamed.map(drop).map_err(|e| format!("{}: PUT name: {e}", node.name))
}

async fn has_name(node: &Node, address: &str, name: &str) -> Result<(), String> {
    let found = record(node, address).await?["name"].clone();
    if found == *name { Ok(()) } else { Err(format!("{} knows {name} as {found}", node.name)) }
}

/// Whether no peer of `node` is on the other side.
async fn apart(network: &Network, node: &Node, middle: usize) -> Result<(), String> {
    let crossing = across(network, node, middle).await?;
    crossing.map_or(Ok(()), |n| Err(format!("{} is still connected to {}", node.name, n.name)))
}

/// Some peer of `node` that is on the other side.
pub(super) async fn across<'a>(network: &'a Network, node: &Node, middle: usize) -> Result<Option<&'a Node>, String> {
    let answer = ask(node, "peers").await?;
    let is_left = network.nodes[..middle].iter().any(|n| n.name == node.name);
    let others = if is_left { &network.nodes[middle..] } else { &network.nodes[..middle] };
    let peers = answer["peers"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(others.iter().find(|n| peers.iter().any(|p| p["address"] == n.address())))
}
