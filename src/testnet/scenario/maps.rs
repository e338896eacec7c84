//! Steps about the map: complete everywhere, names beyond the local map, presence.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Deadline, Outcome, all, ask, maps_equal, records};
use crate::{
    identity::Identity,
    testnet::runner::{Network, Node, Start},
};

/// Records that the node with the small map may keep.
const SMALL_MAP: usize = 2;

/// Every node has every record, and all maps are the same.
pub(super) async fn complete(network: &mut Network, deadline: Deadline) -> Outcome {
    deadline.until("maps complete", async || maps_equal(network, all(network)).await).await?;
    Ok(format!("{} records on each of {} nodes, all digests equal", network.len(), network.len()))
}

/// A node that may keep two records only is asked for a name that it dropped.
pub(super) async fn resolved_by_kademlia(network: &mut Network, deadline: Deadline) -> Outcome {
    let small = network.len() - 1;
    network.stop(small).await;
    let how = Start { set: vec![format!("map.full_limit={SMALL_MAP}")], ..Start::default() };
    network.start(small, &how).await.map_err(|e| e.to_string())?;
    let found = deadline.until("a dropped name", async || look_up_dropped(network, small).await).await;
    // As it was, whatever came out.
    network.stop(small).await;
    network.start(small, &Start::default()).await.map_err(|e| e.to_string())?;
    let found = found?;
    deadline.until("whole again", async || maps_equal(network, all(network)).await).await?;
    Ok(found)
}

async fn look_up_dropped(network: &Network, small: usize) -> Outcome {
    let asker = &network.nodes[small];
    let listing = ask(asker, "map?limit=1000").await?;
    let local = records(&listing);
    let is_local = |n: &Node| local.iter().any(|r| r["address"] == n.address() || r["name"] == n.name);
    let dropped = network.nodes.iter().enumerate().find(|(i, n)| *i != small && !is_local(n));
    let Some((_, wanted)) = dropped else {
        return Err(format!("{} still has every record ({})", asker.name, local.len()));
    };
    let answer = ask(asker, &format!("map/{}", wanted.name)).await?;
    let Some(found) = records(&answer).iter().find(|r| r["address"] == wanted.address()) else {
        return Err(format!("{} does not find {} ({} answers)", asker.name, wanted.name, records(&answer).len()));
    };
    if found["source"] != "dht" {
        return Err(format!("the record of {} came from {}", wanted.name, found["source"]));
    }
    Ok(format!("{} keeps {} of {} records and found {}", asker.name, local.len(), network.len(), wanted.name))
}

/// A running node is online, with a round-trip time; an address that nobody has is not.
pub(super) async fn online(network: &mut Network, deadline: Deadline) -> Outcome {
    let (asker, there) = (&network.nodes[0], &network.nodes[network.len() - 1]);
    let rtt = deadline
        .until("a running node", async || {
            let answer = probe(asker, &there.address()).await?;
            match (answer["state"].as_str(), answer["rtt_ms"].as_f64()) {
                (Some("online"), Some(rtt)) => Ok(rtt),
                _ => Err(format!("{} says of {}: {answer}", asker.name, there.name)),
            }
        })
        .await?;
    let nobody = Identity::generate().address().to_string();
    let request = json!({"target": nobody, "timeout_ms": 3000});
    let said = match asker.client.post::<Value>("/v1/online", &request, Duration::from_secs(3)).await {
        Ok(answer) if answer["state"] == "unknown" || answer["state"] == "offline" => answer["state"].to_string(),
        Ok(answer) => return Err(format!("{} says of an address that nobody has: {answer}", asker.name)),
        Err(error) if error.is_not_found() => "not found".into(),
        Err(error) => return Err(format!("{}: {error}", asker.name)),
    };
    Ok(format!("{} is online in {rtt:.1} ms, an address that nobody has: {said}", there.name))
}

/// Asks `asker` to probe `target`.
pub(super) async fn probe(asker: &Node, target: &str) -> Result<Value, String> {
    let request = json!({"target": target, "timeout_ms": 5000});
    let answer = asker.client.post("/v1/online", &request, Duration::from_secs(5)).await;
    answer.map_err(|e| format!("{}: POST online: {e}", asker.name))
}
