//! Steps about messages.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::{Deadline, Outcome, ask};
use crate::{
    primitives::Hash,
    testnet::runner::{Network, Node},
};

/// A file of several sealed parts.
const FILE_BYTES: usize = 1024 * 1024;

/// How long the daemon may wait for the receipt before it answers.
const WAIT: Duration = Duration::from_secs(30);

/// A file goes from one node to another; its hash is the same there, and the receipt is the recipient's.
pub(super) async fn file(network: &mut Network, deadline: Deadline) -> Outcome {
    // Not the bootstrap node where others are: two nodes that have only met through it.
    let from = &network.nodes[usize::from(network.len() > 2)];
    let to = &network.nodes[network.len() - 1];
    let recipient = to.address();
    let body: Bytes = (0..FILE_BYTES / 8).flat_map(|_| rand::random::<u64>().to_le_bytes()).collect();
    let hash = Hash::of(&body);
    let id = send(from, &format!("to={recipient}&file_name=testnet.bin"), body, "delivered").await?;
    deadline.until("the inbox", async || received(to, &id, &from.address(), hash).await).await?;
    deadline
        .until("the receipt", async || {
            let outgoing = ask(from, &format!("outbox/{id}")).await?;
            let history = outgoing["history"].as_array().map_or(&[][..], Vec::as_slice);
            let receipt = history.iter().find(|step| step["state"] == "delivered");
            match receipt {
                Some(step) if step["by"] == *recipient => Ok(()),
                Some(step) => Err(format!("delivered by {} and not by {recipient}", step["by"])),
                None => Err(format!("no receipt: {}", outgoing["history"])),
            }
        })
        .await?;
    Ok(format!("{FILE_BYTES} bytes from {} to {}, blake3 {}, receipt of {}", from.name, to.name, short(hash), to.name))
}

/// Sends `body` and waits until it is `state`; its id.
pub(super) async fn send(from: &Node, query: &str, body: Bytes, state: &str) -> Result<String, String> {
    // A message is queued when it was accepted: nothing to wait for.
    let wait = match state {
        "queued" => String::new(),
        state => format!("&wait={state}&timeout_ms={}", WAIT.as_millis()),
    };
    let path = format!("/v1/messages?{query}{wait}");
    let sent = from.client.upload::<Value>(&path, body.into(), WAIT);
    let sent = tokio::time::timeout(WAIT + Duration::from_secs(5), sent).await;
    let sent = sent.map_err(|_| format!("{}: POST messages: no answer", from.name))?;
    let sent = sent.map_err(|e| format!("{}: {e}", from.name))?;
    if sent["state"] != *state {
        return Err(format!("the message is {} instead of {state} after {} s", sent["state"], WAIT.as_secs()));
    }
    let id = sent["id"].as_str().ok_or_else(|| format!("{} gave no id: {sent}", from.name))?;
    Ok(id.to_owned())
}

/// Exactly one message of this id, from whom it should be, and with every byte.
pub(super) async fn received(node: &Node, id: &str, from: &str, hash: Hash) -> Result<(), String> {
    let inbox = ask(node, "inbox").await?;
    let messages = inbox["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let copies: Vec<_> = messages.iter().filter(|m| m["id"] == *id).collect();
    let [message] = copies[..] else {
        return Err(format!("{} has {} copies of {id}", node.name, copies.len()));
    };
    if message["from"] != *from {
        return Err(format!("{} says it is from {}", node.name, message["from"]));
    }
    let path = format!("/v1/inbox/{id}/body");
    let body = node.client.read(&path).await.map_err(|e| format!("{}: GET {path}: {e}", node.name))?;
    let found = Hash::of(&body);
    if found == hash { Ok(()) } else { Err(format!("{} bytes came with blake3 {}", body.len(), short(found))) }
}

fn short(hash: Hash) -> String {
    hash.to_string().chars().take(12).collect()
}
