//! Steps about nodes that die and come back.

use super::{Deadline, Outcome, all, each, maps::probe, maps_equal, record};
use crate::{
    primitives::Multiaddr,
    testnet::runner::{Network, Start},
};

/// Tries for a port that is not the old one: the kernel may hand out the same once.
const PORT_TRIES: usize = 5;

/// A node is killed; another one notices without being asked to look, and a probe says so too.
pub(super) async fn killed(network: &mut Network, deadline: Deadline) -> Outcome {
    let victim = network.len() - 1;
    let address = network.nodes[victim].address();
    network.kill(victim).await;
    let witness = deadline
        .until("noticed", async || {
            let mut seen = String::new();
            for node in network.nodes.iter().filter(|n| n.is_running()) {
                let state = record(node, &address).await?["state"].clone();
                if state == "offline" {
                    return Ok(node.name.clone());
                }
                seen = format!("{} says {state}", node.name);
            }
            Err(seen)
        })
        .await?;
    let asker = &network.nodes[0];
    let answer = deadline
        .until("a probe", async || {
            let answer = probe(asker, &address).await?;
            if answer["state"] == "offline" { Ok(answer) } else { Err(format!("{} says {answer}", asker.name)) }
        })
        .await?;
    let name = network.nodes[victim].name.clone();
    network.start(victim, &Start::default()).await.map_err(|e| e.to_string())?;
    deadline.until("back", async || maps_equal(network, all(network)).await).await?;
    Ok(format!("{witness} noticed that {name} was gone; a probe says {}, and it is back", answer["state"]))
}

/// A node comes back on another port, and soon nobody has the old addr.
pub(super) async fn restarted(network: &mut Network, deadline: Deadline) -> Outcome {
    let node = network.len() - 1;
    let before = network.nodes[node].tcp().ok_or("it never listened on TCP")?;
    for _ in 0..PORT_TRIES {
        network.stop(node).await;
        network.start(node, &Start::default()).await.map_err(|e| e.to_string())?;
        if network.nodes[node].tcp().as_ref() != Some(&before) {
            break;
        }
    }
    let after = network.nodes[node].tcp().filter(|after| *after != before).ok_or("it got its old port each time")?;
    let address = network.nodes[node].address();
    let moved = async || each(network, 0..network.len(), |n| knows_addr(n, &address, &after, &before)).await;
    deadline.until("the new addr", moved).await?;
    Ok(format!("{} moved from {before} to {after}, known to {} nodes", network.nodes[node].name, network.len()))
}

/// Every bootstrap node is killed, and another node is started without any: its saved map is enough.
pub(super) async fn without_bootstrap(network: &mut Network, deadline: Deadline) -> Outcome {
    let roots = network.roots();
    let Some(node) = (0..network.len()).rev().find(|i| !roots.contains(i)) else {
        return Ok("skipped: every node is a bootstrap node".into());
    };
    let rest: Vec<usize> = (0..network.len()).filter(|i| *i != node && !roots.contains(i)).collect();
    if rest.is_empty() {
        return Ok("skipped: nobody is left besides the bootstrap nodes".into());
    }
    let before = network.nodes[node].tcp().ok_or("it never listened on TCP")?;
    let addrs: Vec<(usize, Option<Multiaddr>)> = roots.iter().map(|&i| (i, network.nodes[i].tcp())).collect();
    for &root in &roots {
        network.kill(root).await;
    }
    network.stop(node).await;
    network.start(node, &Start { alone: true, ..Start::default() }).await.map_err(|e| e.to_string())?;
    let (address, after) = (network.nodes[node].address(), network.nodes[node].tcp().unwrap_or_else(Multiaddr::empty));
    // Its new addr reached the others and it has their records: it is one of them again.
    deadline
        .until("rejoined", async || {
            each(network, rest.iter().copied(), |n| knows_addr(n, &address, &after, &before)).await?;
            maps_equal(network, all(network)).await
        })
        .await?;
    // On their old ports, so that what others were told about them stays true.
    for (root, listen) in addrs {
        network.start(root, &Start { alone: true, listen, ..Start::default() }).await.map_err(|e| e.to_string())?;
    }
    deadline.until("whole again", async || maps_equal(network, all(network)).await).await?;
    let name = &network.nodes[node].name;
    Ok(format!("{} bootstrap nodes killed, {name} found {} others from its saved map", roots.len(), rest.len()))
}

/// Whether `node` knows that `address` is at `after` and no longer at `before`.
async fn knows_addr(
    node: &crate::testnet::runner::Node,
    address: &str,
    after: &Multiaddr,
    before: &Multiaddr,
) -> Result<(), String> {
    let record = record(node, address).await?;
    let addrs: Vec<&str> = record["addrs"].as_array().into_iter().flatten().filter_map(|a| a.as_str()).collect();
    // With or without the address at its end.
    let has = |addr: &Multiaddr| {
        let text = addr.to_string();
        addrs
            .iter()
            .any(|a| a.strip_prefix(text.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("/p2p/")))
    };
    if has(after) && (before == after || !has(before)) {
        Ok(())
    } else {
        Err(format!("{} has it at {}", node.name, addrs.join(", ")))
    }
}
