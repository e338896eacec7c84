//! Liars at a friend's door: whatever a stranger says in the protocols of friendships and mailboxes, what the friend holds stays
//! there, its owner gets it, and memory stays flat.

use std::{collections::BTreeMap, time::Duration};

use tempfile::TempDir;
use vos::{
    message::{
        Body, Draft, SendState, friend,
        mailbox::{Deposit, Desk, Hint, Pull, Receipts},
    },
    net::rpc::{Protocols, RequestError, Wire},
    test_util::{Member, config_of_friend, until},
    wire::Status,
};

use super::{
    hostile::{Bytes, MIB, lying, noise, resident},
    letters::{befriend, lets_in},
    stranger::{Door, Stranger},
};

const WAIT: Duration = Duration::from_secs(30);

lying!(LyingFriend, friend::Protocol, Bytes);
lying!(LyingDeposit, Deposit, Bytes);
lying!(LyingPull, Pull, Bytes);
lying!(LyingDesk, Desk, Bytes);
lying!(LyingHint, Hint, Bytes);
lying!(LyingReceipts, Receipts, Bytes);

fn doors(protocols: &mut Protocols) -> Vec<Door> {
    vec![
        Door::of::<LyingFriend>(protocols),
        Door::of::<LyingDeposit>(protocols),
        Door::of::<LyingPull>(protocols),
        Door::of::<LyingDesk>(protocols),
        Door::of::<LyingHint>(protocols),
        Door::of::<LyingReceipts>(protocols),
    ]
}

/// A friend that holds a message for an owner who is away, and who sent it.
async fn holding() -> (Member, Member, TempDir) {
    let sender = Member::start("sender", config_of_friend(&[])).await;
    let boot = [sender.multiaddr()];
    let friend = Member::start("friend", config_of_friend(&boot)).await;
    let owner = Member::start("owner", config_of_friend(&boot)).await;
    let all = [&sender, &friend, &owner];
    until("all maps are complete", || all.iter().all(|m| m.node.map.stats().records == 3)).await;
    let to = owner.address();
    befriend(&owner, &friend, &sender).await;
    lets_in(&owner, sender.address()).await;
    let dir = owner.stop().await;
    let draft = Draft { to, body: Body::Bytes(b"kept".to_vec()), file_name: String::new(), ttl: None };
    let sent = sender.node.message.send(draft).await.unwrap();
    let stored = sender.node.message.wait(sent.id, SendState::Stored, WAIT).await.unwrap();
    assert_eq!(stored.expect("in time").state, SendState::Stored);
    (sender, friend, dir)
}

async fn held(friend: &Member) -> u64 {
    friend.node.message.mailbox().held().await.unwrap().iter().map(|owner| owner.messages).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_friend_holds_survives_strangers_and_reaches_its_owner() {
    let _turn = super::alone().await;
    let (sender, friend, dir) = holding().await;
    let (stranger, to) = (Stranger::connect(&friend, doors).await, friend.address());
    let mut invalid = BTreeMap::new();
    for seed in 0..100 {
        let length = usize::try_from(seed % 64).unwrap();
        for (door, answer) in stranger.everywhere(to, &noise(seed, length)).await {
            let invalid: &mut u32 = invalid.entry(door).or_default();
            match answer {
                Err(RequestError::Status(Status::Invalid)) => *invalid += 1,
                // Fields that nobody knows are nothing, a stranger has no queue, and what is too often is not looked at.
                Ok(_) | Err(RequestError::Status(Status::Busy | Status::Refused)) => {}
                other => panic!("seed {seed}, {door}: {other:?}"),
            }
        }
    }
    assert!(invalid.values().all(|count| *count > 0), "refused: {invalid:?}");
    // What the owner may do, said by somebody else: a stranger has no queue here.
    let pulled = stranger.ask(LyingPull::NAME, to, b"").await;
    assert_eq!(pulled.unwrap_err(), RequestError::Status(Status::Refused));
    // Half a gigabyte, in frames over every limit.
    let before = resident();
    for _ in 0..10 {
        for (door, answer) in stranger.everywhere(to, &vec![1; 8 * MIB - 64]).await {
            let error = answer.expect_err(door);
            assert!(matches!(error, RequestError::ConnectionLost | RequestError::Status(_)), "{door}: {error:?}");
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB more resident", grown / MIB);
    assert_eq!(held(&friend).await, 1, "what it promised to keep");
    drop(stranger);
    // Only the friend can have it now.
    sender.stop().await;

    let owner = Member::start_in(dir, "owner", config_of_friend(&[friend.multiaddr()])).await;
    until("the message is there", || owner.node.message.stats().inbox == 1).await;
    owner.stop().await;
    friend.stop().await;
}
