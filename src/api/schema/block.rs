//! Shapes of block exchange.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    block::{Handle, Held, Point, chain::Status, segment, sync},
    primitives::Hash,
};

/// A place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockPoint {
    /// Height.
    pub height: u64,
    /// Hash of the block there, hex.
    pub hash: String,
}

impl From<Point> for BlockPoint {
    fn from(point: Point) -> Self {
        Self { height: point.height, hash: point.hash.to_string() }
    }
}

/// Where the chain stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BlockHead {
    /// The best block.
    pub head: BlockPoint,
    /// When it was made, by its producer's clock.
    pub head_at: u64,
    /// The newest block that is final here.
    pub committed: BlockPoint,
    /// `no_peers`, `syncing`, `catching_up`, `synced`, `stalled`, or `halted`.
    pub state: String,
    /// Hash of the genesis block, hex.
    pub genesis: String,
    /// Lowest height after the genesis block that can be read here.
    pub earliest: u64,
    /// Why no block is taken any more, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// Connected peers that proved a branch which contradicts what is final here: when it is not 0 the network is split, or
    /// somebody is lying.
    #[serde(default)]
    pub conflicting_peers: usize,
    /// Files with bodies of blocks that are gone or damaged here: not 0 means that some blocks cannot be served. `vos block reset` forgets the
    /// chain, to fetch it anew.
    #[serde(default)]
    pub damaged_files: usize,
    /// Connected peers of this chain.
    pub peers: usize,
    /// How far the clocks of peers are ahead of ours in the median, in milliseconds; `null` with fewer than three peers.
    pub clock_offset_ms: Option<i64>,
}

impl From<&Handle> for BlockHead {
    fn from(block: &Handle) -> Self {
        let (status, progress) = (block.status(), block.progress().borrow().clone());
        let state = if status.halted.is_some() { "halted" } else { progress.state.name() };
        Self {
            head: status.head.into(),
            head_at: status.head_time.0,
            committed: status.committed.into(),
            state: state.to_owned(),
            genesis: status.genesis.to_string(),
            earliest: status.earliest,
            halted: status.halted,
            conflicting_peers: status.conflicting_peers,
            damaged_files: status.damaged_files,
            peers: progress.peers,
            clock_offset_ms: progress.clock_offset_ms,
        }
    }
}

/// What a block says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockHeader {
    /// Height.
    pub height: u64,
    /// Its hash, hex.
    pub hash: String,
    /// Its parent's hash, hex.
    pub parent: String,
    /// When it was made, by its producer's clock, in Unix milliseconds.
    pub timestamp: u64,
    /// Address of its producer; empty for the genesis block.
    pub producer: String,
    /// How many transactions.
    pub transactions: u32,
    /// Bytes of its body.
    pub bytes: u32,
    /// BLAKE3 of its body, hex.
    pub body_root: String,
    /// Data of the chain's own consensus, hex.
    pub extra: String,
    /// The producer's signature, hex.
    pub signature: String,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Block {
    /// Its header.
    pub header: BlockHeader,
    /// Its transactions, base64.
    pub transactions: Vec<String>,
    /// Their hashes (BLAKE3 of their bytes), hex, in the same order: what `submit` answered.
    #[serde(default)]
    pub transaction_hashes: Vec<String>,
    /// Whether it is part of the best chain.
    pub best: bool,
    /// Whether it is final here.
    pub committed: bool,
}

impl From<Held> for Block {
    fn from(held: Held) -> Self {
        let header = BlockHeader {
            height: held.header.height,
            hash: held.hash.to_string(),
            parent: held.header.parent.to_string(),
            timestamp: held.header.time.0,
            producer: held.header.producer_address().map_or_else(String::new, |a| a.to_string()),
            transactions: held.header.transactions,
            bytes: held.header.body_bytes,
            body_root: held.header.body_root.to_string(),
            extra: hex::encode(&held.header.extra),
            signature: hex::encode(held.header.signature),
        };
        let transactions = held.body.transactions().map(|t| STANDARD.encode(t)).collect();
        let transaction_hashes = held.body.transactions().map(|t| Hash::of(t).to_string()).collect();
        Self { header, transactions, transaction_hashes, best: held.best, committed: held.committed }
    }
}

/// A transaction that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// Its hash (BLAKE3 of its bytes), hex.
    pub transaction: String,
}

impl From<Hash> for Submitted {
    fn from(hash: Hash) -> Self {
        Self { transaction: hash.to_string() }
    }
}

/// How far the chain is in step with the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BlockSync {
    /// As in `head`.
    pub state: String,
    /// Our best block's height.
    pub height: u64,
    /// The height to reach, as far as peers can be believed; our own when nothing is missing.
    pub target: u64,
    /// Blocks a second by which the height rose in the last seconds.
    pub rate: f64,
    /// Connected peers of this chain.
    pub peers: usize,
    /// Pulls under way.
    pub in_flight: usize,
    /// Blocks pulled and checked since the start.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// As in `head`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// Whether what halted the chain is tried again by itself, every few seconds: a store that failed.
    #[serde(default)]
    pub retrying: bool,
}

impl BlockSync {
    /// From what sync shows, unless the chain is halted.
    #[must_use]
    pub fn new(progress: &sync::Progress, status: Status) -> Self {
        Self {
            state: if status.halted.is_some() { "halted" } else { progress.state.name() }.to_owned(),
            height: progress.height,
            target: progress.target,
            rate: progress.rate,
            peers: progress.peers,
            in_flight: progress.in_flight,
            blocks: progress.blocks,
            bytes: progress.bytes,
            retrying: status.halted.is_some() && status.retrying,
            halted: status.halted,
        }
    }
}

/// Which heights to export.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SegmentOptions {
    /// First height; 1 by default.
    pub from: Option<u64>,
    /// Last height; the head by default.
    pub to: Option<u64>,
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedSegment {
    /// The lowest height in the file.
    pub first: u64,
    /// The highest one: the next file begins above it.
    pub last: u64,
    /// How many blocks that are.
    pub blocks: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportedSegment {
    /// Blocks in the segment.
    pub blocks: u64,
    /// Of them, those that were here already.
    pub skipped: u64,
    /// The best block now.
    pub head: BlockPoint,
}

impl ImportedSegment {
    /// What was done, and where the chain stands after it.
    #[must_use]
    pub fn new(done: segment::Progress, head: Point) -> Self {
        Self { blocks: done.blocks, skipped: done.skipped, head: head.into() }
    }
}

/// What comes on `/v1/block/trace`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Traced {
    /// A message that came or went.
    Exchange(Exchange),
    /// The subscriber was too slow.
    Lagged(TraceLagged),
}

/// Exchanges that a subscriber of `/v1/block/trace` did not get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceLagged {
    /// `lagged`.
    pub event: String,
    /// `blocks`.
    pub source: String,
    /// How many.
    pub lost: u64,
}

/// One message about blocks that came or went, in the JSON form of the protocol's first description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Exchange {
    /// When.
    pub at: u64,
    /// `sent` or `received`.
    pub direction: String,
    /// Address of the other side; `null` for what was published to all who listen.
    pub peer: Option<String>,
    /// `SHAKEHAND`, `PULL_BLOCK`, `PUSH_BLOCK`, `NEW_BLOCK`, `NEW_BLOCK_HASH`, `GET_BLOCK` or `BLOCK_KNOWN`.
    pub code: String,
    /// What it carries: an object, a height or a hash. A `PUSH_BLOCK` without a block has a `status`: `not_found` with the sender's `head`,
    /// `pruned` with the `earliest` height that it holds, or `busy` with `retry_ms`.
    #[schema(value_type = Value)]
    pub data: serde_json::Value,
    /// With `PULL_BLOCK`: how many blocks from the height in `data` up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}
