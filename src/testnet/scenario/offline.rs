//! Steps about messages that friends keep: sender and recipient are never there at one time.
//!
//! ```text
//!  recipient = last node, first friend = the one before it, second friend = the one before that, sender = the next
//! ```

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Deadline, Outcome, ask,
    messages::{self, received},
    record,
};
use crate::{
    primitives::Hash,
    testnet::runner::{Network, Node, Start},
};

/// How long a daemon may take to sign an offer or an answer.
const WAIT: Duration = Duration::from_secs(10);
/// How long we look whether a state is wrong.
const LOOK: Duration = Duration::from_secs(2);

/// The four roles in a network of at least four nodes.
#[derive(Clone, Copy, Debug)]
struct Roles {
    sender: usize,
    friends: [usize; 2],
    recipient: usize,
}

impl Roles {
    fn of(network: &Network) -> Self {
        let last = network.len() - 1;
        Self { sender: last - 3, friends: [last - 1, last - 2], recipient: last }
    }
}

/// The recipient asks two nodes to hold its messages, both say yes, both let the sender in as a contact, and the sender reads of
/// them in the recipient's record.
pub(super) async fn agreed(network: &mut Network, deadline: Deadline) -> Outcome {
    let roles = Roles::of(network);
    let owner = &network.nodes[roles.recipient];
    for (priority, friend) in (1..).zip(roles.friends.map(|i| &network.nodes[i])) {
        agree(owner, friend, priority, deadline).await?;
    }
    let (sender, address) = (&network.nodes[roles.sender], owner.address());
    post(owner, "contacts", &json!({ "target": sender.address() })).await?;
    deadline
        .until("the friends let the sender in", async || {
            let mailbox = ask(owner, "mailbox").await?;
            let known = mailbox["held_by"].as_array().into_iter().flatten().filter(|f| f["contacts"] == 1).count();
            if known == 2 { Ok(()) } else { Err(format!("{known} of 2 do")) }
        })
        .await?;
    deadline.until("the record", async || reads(sender, &address, 2).await).await?;
    let [first, second] = roles.friends.map(|i| network.nodes[i].name.clone());
    Ok(format!("{first} and {second} hold messages for {}, and {} knows it", owner.name, sender.name))
}

/// Recipient killed, message stored with both friends, sender killed, recipient back and reads, sender back: delivered.
pub(super) async fn by_both(network: &mut Network, deadline: Deadline) -> Outcome {
    let roles = Roles::of(network);
    network.kill(roles.recipient).await;
    let message = send(network, roles, "stored").await?;
    let holders =
        deadline.until("both hold it", async || held_by(network, roles, &message.id, &roles.friends).await).await?;
    story(network, roles, deadline, &message).await?;
    Ok(format!("{holders}, sender and recipient never up together, read once, receipt of the recipient"))
}

/// The same when the first friend is dead.
pub(super) async fn by_the_second(network: &mut Network, deadline: Deadline) -> Outcome {
    let roles = Roles::of(network);
    let [first, second] = roles.friends;
    network.kill(first).await;
    network.kill(roles.recipient).await;
    let message = send(network, roles, "stored").await?;
    let holders =
        deadline.until("the second holds it", async || held_by(network, roles, &message.id, &[second]).await).await?;
    story(network, roles, deadline, &message).await?;
    network.start(first, &Start::default()).await.map_err(|e| e.to_string())?;
    Ok(format!("{} dead, {holders}, read once, receipt of the recipient", network.nodes[first].name))
}

/// With both dead the message waits with its sender and is never called stored; it is when one is back.
pub(super) async fn by_none(network: &mut Network, deadline: Deadline) -> Outcome {
    let roles = Roles::of(network);
    let [first, second] = roles.friends;
    for node in [first, second, roles.recipient] {
        network.kill(node).await;
    }
    let message = send(network, roles, "queued").await?;
    let sender = &network.nodes[roles.sender];
    tokio::time::sleep(LOOK).await;
    let shown = ask(sender, &format!("outbox/{}", message.id)).await?;
    if shown["state"] != "queued" {
        return Err(format!("nobody can have it, and {} says {}", sender.name, shown["state"]));
    }
    network.start(second, &Start::default()).await.map_err(|e| e.to_string())?;
    let holders =
        deadline.until("the second holds it", async || held_by(network, roles, &message.id, &[second]).await).await?;
    story(network, roles, deadline, &message).await?;
    network.start(first, &Start::default()).await.map_err(|e| e.to_string())?;
    Ok(format!("queued while both were dead, then {holders}, read once, receipt of the recipient"))
}

/// The sender has a friend, too, and learns from it what its recipient has got: the two are never there at one time from the sending
/// to the receipt.
pub(super) async fn by_letter(network: &mut Network, deadline: Deadline) -> Outcome {
    let roles = Roles::of(network);
    let own = roles.friends[1];
    let (sender, friend) = (&network.nodes[roles.sender], &network.nodes[own]);
    agree(sender, friend, 1, deadline).await?;
    let (recipient, address) = (&network.nodes[roles.recipient], sender.address());
    deadline.until("the record", async || reads(recipient, &address, 1).await).await?;
    network.kill(roles.recipient).await;
    let message = send(network, roles, "stored").await?;
    let sender = &network.nodes[roles.sender];
    deadline
        .until("the friend lets the recipient in", async || {
            let mailbox = ask(sender, "mailbox").await?;
            let known = mailbox["held_by"][0]["contacts"].as_u64().unwrap_or(0);
            if known > 0 { Ok(()) } else { Err("it does not yet".into()) }
        })
        .await?;
    back_and_read(network, roles, deadline, &message).await?;
    let friend = &network.nodes[own];
    deadline
        .until("the receipt is left", async || {
            let mailbox = ask(friend, "mailbox").await?;
            let owners = mailbox["holding_for"].as_array().cloned().unwrap_or_default();
            let held = owners.iter().find(|o| o["address"] == address).map(|o| o["messages"].clone());
            if held == Some(1.into()) { Ok(()) } else { Err(format!("{} holds {held:?} parts", friend.name)) }
        })
        .await?;
    network.kill(roles.recipient).await;
    receipt(network, roles, deadline, &message).await?;
    network.start(roles.recipient, &Start::default()).await.map_err(|e| e.to_string())?;
    Ok(format!(
        "{} told its owner what was delivered, who was never there together with the recipient",
        network.nodes[own].name
    ))
}

struct Message {
    id: String,
    hash: Hash,
}

/// Sends some bytes and waits until they are `state`.
async fn send(network: &Network, roles: Roles, state: &str) -> Result<Message, String> {
    let (from, to) = (&network.nodes[roles.sender], &network.nodes[roles.recipient]);
    let body: Bytes = (0..128).flat_map(|_| rand::random::<u64>().to_le_bytes()).collect();
    let hash = Hash::of(&body);
    let id = messages::send(from, &format!("to={}", to.address()), body, state).await?;
    Ok(Message { id, hash })
}

/// Kills the sender, brings the recipient back, who reads, brings the sender back, who has the recipient's receipt.
async fn story(network: &mut Network, roles: Roles, deadline: Deadline, message: &Message) -> Result<(), String> {
    back_and_read(network, roles, deadline, message).await?;
    receipt(network, roles, deadline, message).await?;
    // Whoever held a copy does not bring it a second time.
    let from = network.nodes[roles.sender].address();
    received(&network.nodes[roles.recipient], &message.id, &from, message.hash).await
}

/// Kills the sender and brings the recipient back, who reads.
async fn back_and_read(
    network: &mut Network,
    roles: Roles,
    deadline: Deadline,
    message: &Message,
) -> Result<(), String> {
    let from = network.nodes[roles.sender].address();
    network.kill(roles.sender).await;
    network.start(roles.recipient, &Start::default()).await.map_err(|e| e.to_string())?;
    let recipient = &network.nodes[roles.recipient];
    deadline.until("the inbox", async || received(recipient, &message.id, &from, message.hash).await).await
}

/// Brings the sender back, who gets the recipient's receipt.
async fn receipt(network: &mut Network, roles: Roles, deadline: Deadline, message: &Message) -> Result<(), String> {
    let to = network.nodes[roles.recipient].address();
    network.start(roles.sender, &Start::default()).await.map_err(|e| e.to_string())?;
    let sender = &network.nodes[roles.sender];
    deadline
        .until("the receipt", async || {
            let shown = ask(sender, &format!("outbox/{}", message.id)).await?;
            let last = shown["history"].as_array().and_then(|steps| steps.last().cloned()).unwrap_or_default();
            let told = last["state"] == "delivered" && last["by"] == *to;
            if told { Ok(()) } else { Err(format!("{} says {last}", sender.name)) }
        })
        .await
}

/// Asks a node to hold messages of another, which says yes.
async fn agree(owner: &Node, friend: &Node, priority: u32, deadline: Deadline) -> Result<(), String> {
    let offer = json!({ "to": friend.address(), "priority": priority });
    let offered = post(owner, "friends/offer", &offer).await?;
    let grant = offered["grant_id"].as_str().unwrap_or_default().to_owned();
    deadline.until("the offer", async || in_state(friend, "holding_for", &grant, "offered").await).await?;
    post(friend, "friends/accept", &json!({ "target": grant })).await?;
    deadline.until("the answer", async || in_state(owner, "held_by", &grant, "active").await).await
}

/// Whether a node reads of so many friends in a record.
async fn reads(node: &Node, owner: &str, friends: usize) -> Result<(), String> {
    let record = record(node, owner).await?;
    let listed = record["friends"].as_array().map_or(0, Vec::len);
    if listed == friends { Ok(()) } else { Err(format!("{} reads of {listed} friends", node.name)) }
}

/// Whether these friends, and no others, hold it by the sender's book; their names.
async fn held_by(network: &Network, roles: Roles, id: &str, friends: &[usize]) -> Result<String, String> {
    let shown = ask(&network.nodes[roles.sender], &format!("outbox/{id}")).await?;
    let holders: Vec<&str> = shown["holders"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let all = friends.iter().all(|i| holders.contains(&network.nodes[*i].address().as_str()));
    let names: Vec<_> = friends.iter().map(|i| network.nodes[*i].name.as_str()).collect();
    if all && holders.len() == friends.len() && shown["state"] == "stored" {
        return Ok(format!("stored with {}", names.join(" and ")));
    }
    Err(format!("{} with {} holders instead of {}", shown["state"], holders.len(), names.join(" and ")))
}

async fn post(node: &Node, path: &str, asked: &Value) -> Result<Value, String> {
    let answer = node.client.post(&format!("/v1/{path}"), asked, WAIT).await;
    answer.map_err(|e| format!("{}: POST {path}: {e}", node.name))
}

/// Whether a friendship is in a state at one of its sides.
async fn in_state(node: &Node, side: &str, grant: &str, state: &str) -> Result<(), String> {
    let friends = ask(node, "friends").await?;
    let found = friends[side].as_array().into_iter().flatten().find(|f| f["grant_id"] == *grant);
    match found {
        Some(friend) if friend["state"] == *state => Ok(()),
        Some(friend) => Err(format!("{} says {}", node.name, friend["state"])),
        None => Err(format!("{} has not heard of it", node.name)),
    }
}
