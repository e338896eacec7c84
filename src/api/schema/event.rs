//! Shapes of events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BlockPoint, Friend, Outgoing, Received, Record};
use crate::{
    block::{Origin, Point, chain},
    map,
    message::{self, friend},
    net,
};

/// An event; the tag is also the name of the server-sent event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first connection to a peer.
    PeerUp {
        /// Who.
        address: String,
    },
    /// The last connection to a peer is gone.
    PeerDown {
        /// Who.
        address: String,
    },
    /// The map changed.
    MapChanged {
        /// Whose record.
        address: String,
        /// `changed`, `removed` or `equivocation` (two records signed with one sequence number).
        change: String,
        /// The record, when it changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<Box<Record>>,
    },
    /// A node's state changed.
    Presence {
        /// Who.
        address: String,
        /// Its state.
        #[schema(value_type = String, example = "offline")]
        state: map::State,
    },
    /// A message is complete in the inbox.
    MessageReceived {
        /// The message.
        #[serde(flatten)]
        message: Received,
    },
    /// An outgoing message made a step or progress.
    Outgoing {
        /// The message.
        #[serde(flatten)]
        message: Box<Outgoing>,
    },
    /// A friendship waits for an answer.
    #[serde(rename = "friend.offered")]
    FriendOffered {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friendship holds, or was renewed.
    #[serde(rename = "friend.active")]
    FriendActive {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// An offer was declined.
    #[serde(rename = "friend.declined")]
    FriendDeclined {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friendship was ended by one of the two.
    #[serde(rename = "friend.revoked")]
    FriendRevoked {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friendship ended with its time.
    #[serde(rename = "friend.expired")]
    FriendExpired {
        /// The friendship.
        #[serde(flatten)]
        friend: Box<Friend>,
    },
    /// A friend did not keep a part of a message that it had signed for; see the evidence.
    #[serde(rename = "friend.broken_promise")]
    FriendBrokenPromise {
        /// The friend.
        address: String,
        /// The sealed part; of a message of one part that is its id.
        id: String,
        /// `lost`, `never_held`, `false_withdrawal`, `false_ack` or `withheld`.
        why: String,
        /// When it was found out.
        at: u64,
    },
    /// A block is held: from now on it can be part of the best chain.
    #[serde(rename = "block.imported")]
    BlockImported {
        /// Which.
        #[serde(flatten)]
        block: BlockPoint,
        /// Address of the peer that it came from; `local` when it was produced here, `file` when it was imported.
        from: String,
        /// Encoded bytes of header and body.
        bytes: usize,
    },
    /// The best chain grew.
    #[serde(rename = "block.head")]
    BlockHead {
        /// The best block.
        #[serde(flatten)]
        block: BlockPoint,
    },
    /// Blocks became final here.
    #[serde(rename = "block.committed")]
    BlockCommitted {
        /// The newest of them.
        #[serde(flatten)]
        block: BlockPoint,
        /// Height of the first of them.
        first: u64,
    },
    /// Another branch is the best one now.
    Reorg {
        /// The best block.
        head: BlockPoint,
        /// Blocks that are no longer part of the best chain, highest first; at most 256 of them.
        detached: Vec<BlockPoint>,
        /// Blocks that are now, lowest first; at most 256 of them.
        attached: Vec<BlockPoint>,
        /// How many left in all: with more than 256 the list is cut off, and the chain itself tells the rest.
        #[serde(default)]
        detached_count: usize,
        /// How many came in all.
        #[serde(default)]
        attached_count: usize,
    },
    /// A peer proved a branch that contradicts what is final here.
    #[serde(rename = "block.conflict")]
    BlockConflict {
        /// The last block that both have.
        fork: BlockPoint,
        /// The other branch's end.
        tip: BlockPoint,
        /// Peers on that branch, as far as we heard.
        peers: usize,
    },
    /// No block is taken from now on, or blocks are taken again.
    #[serde(rename = "block.halted")]
    BlockHalted {
        /// Why, and what to do; `null` when blocks are taken again.
        halted: Option<String>,
    },
    /// The subscriber was too slow: events were lost; read the state again.
    Lagged {
        /// Of which kind: `peers`, `map`, `messages`, `friends` or `blocks`.
        source: String,
        /// How many.
        lost: u64,
    },
}

impl Event {
    /// The name of the server-sent event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PeerUp { .. } => "peer_up",
            Self::PeerDown { .. } => "peer_down",
            Self::MapChanged { .. } => "map_changed",
            Self::Presence { .. } => "presence",
            Self::MessageReceived { .. } => "message_received",
            Self::Outgoing { .. } => "outgoing",
            Self::FriendOffered { .. } => "friend.offered",
            Self::FriendActive { .. } => "friend.active",
            Self::FriendDeclined { .. } => "friend.declined",
            Self::FriendRevoked { .. } => "friend.revoked",
            Self::FriendExpired { .. } => "friend.expired",
            Self::FriendBrokenPromise { .. } => "friend.broken_promise",
            Self::BlockImported { .. } => "block.imported",
            Self::BlockHead { .. } => "block.head",
            Self::BlockCommitted { .. } => "block.committed",
            Self::Reorg { .. } => "reorg",
            Self::BlockHalted { .. } => "block.halted",
            Self::BlockConflict { .. } => "block.conflict",
            Self::Lagged { .. } => "lagged",
        }
    }
}

impl From<net::PeerEvent> for Event {
    fn from(event: net::PeerEvent) -> Self {
        match event {
            net::PeerEvent::Up(peer) => Self::PeerUp { address: peer.to_string() },
            net::PeerEvent::Down(peer) => Self::PeerDown { address: peer.to_string() },
        }
    }
}

impl From<map::Event> for Event {
    fn from(event: map::Event) -> Self {
        let without = |address: String, change: &str| Self::MapChanged { address, change: change.into(), record: None };
        match event {
            map::Event::Changed(entry) => Self::MapChanged {
                address: entry.address.to_string(),
                change: "changed".into(),
                record: Some(Box::new((*entry).into())),
            },
            map::Event::Removed(peer) => without(peer.to_string(), "removed"),
            map::Event::Equivocation(peer) => without(peer.to_string(), "equivocation"),
            map::Event::Presence(peer, state) => Self::Presence { address: peer.to_string(), state },
        }
    }
}

impl From<friend::Event> for Event {
    fn from(friend::Event(friendship): friend::Event) -> Self {
        let (state, friend) = (friendship.state, Box::new(Friend::from(*friendship)));
        match state {
            friend::State::Offered => Self::FriendOffered { friend },
            friend::State::Active => Self::FriendActive { friend },
            friend::State::Declined => Self::FriendDeclined { friend },
            friend::State::Revoked => Self::FriendRevoked { friend },
            friend::State::Expired => Self::FriendExpired { friend },
        }
    }
}

impl From<message::Event> for Event {
    fn from(event: message::Event) -> Self {
        match event {
            message::Event::Received(received) => Self::MessageReceived { message: (*received).into() },
            message::Event::Outgoing(outgoing) => Self::Outgoing { message: Box::new((*outgoing).into()) },
            message::Event::BrokenPromise(broken) => Self::FriendBrokenPromise {
                address: broken.friend.to_string(),
                id: broken.id.to_string(),
                why: broken.why.code().to_owned(),
                at: broken.at.0,
            },
        }
    }
}

/// Blocks that a reorg's event names on either side: an event is a line, and whoever wants more reads the chain.
const MAX_REORG: usize = 256;

impl From<chain::Event> for Event {
    fn from(event: chain::Event) -> Self {
        let points = |all: Vec<Point>| all.into_iter().take(MAX_REORG).map(Into::into).collect();
        match event {
            chain::Event::Imported { point, origin, bytes } => {
                let from = match origin {
                    Origin::Local => "local".to_owned(),
                    Origin::File => "file".to_owned(),
                    Origin::Peer(peer) => peer.to_string(),
                };
                Self::BlockImported { block: point.into(), from, bytes }
            }
            chain::Event::Head { head, detached, .. } if detached.is_empty() => Self::BlockHead { block: head.into() },
            chain::Event::Head { head, detached, attached } => Self::Reorg {
                head: head.into(),
                detached_count: detached.len(),
                attached_count: attached.len(),
                detached: points(detached),
                attached: points(attached),
            },
            chain::Event::Committed { from, to } => Self::BlockCommitted { block: to.into(), first: from },
            chain::Event::Conflict { fork, tip, peers } => {
                Self::BlockConflict { fork: fork.into(), tip: tip.into(), peers }
            }
            chain::Event::Halted(halted) => Self::BlockHalted { halted },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::Hash;

    fn row(from: u64, count: u64) -> Vec<Point> {
        (from..from + count).map(|height| Point { height, hash: Hash::of(&height.to_be_bytes()) }).collect()
    }

    #[test]
    fn a_new_head_that_leaves_blocks_behind_is_a_reorg() {
        let (detached, attached) = (row(8, 2), row(8, 3));
        let head = attached[2];
        let event = |detached, attached| Event::from(chain::Event::Head { head, detached, attached });
        assert_eq!(event(Vec::new(), attached.clone()), Event::BlockHead { block: head.into() });
        let reorg = serde_json::to_value(event(detached, attached)).unwrap();
        assert_eq!((&reorg["event"], &reorg["head"]["height"]), (&"reorg".into(), &10.into()));
        let heights =
            |key: &str| reorg[key].as_array().unwrap().iter().map(|p| p["height"].as_u64().unwrap()).collect();
        assert_eq!((heights("detached"), heights("attached")), (vec![8, 9], vec![8, 9, 10]));
    }

    #[test]
    fn a_reorg_of_many_blocks_is_still_a_line() {
        let many = row(1, 5000);
        let event = Event::from(chain::Event::Head { head: many[4999], detached: many.clone(), attached: many });
        let Event::Reorg { head, detached, attached, detached_count, attached_count } = event else {
            panic!("{event:?}")
        };
        assert_eq!((head.height, detached.len(), attached.len()), (5000, MAX_REORG, MAX_REORG));
        assert_eq!((detached_count, attached_count), (5000, 5000), "a list that is cut off says so");
    }
}
