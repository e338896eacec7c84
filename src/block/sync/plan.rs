//! The words that the planner and the service talk in: what is to be done, and how it ended.

use std::{collections::HashSet, time::Duration};

use super::wire::{Ladder, Span};
use crate::{
    block::{Block, Point, chain::Outcome, penalty::Offence},
    primitives::{Hash, PeerId},
};

/// How far this node is in step with its network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum State {
    /// Nobody of our chain is connected.
    #[default]
    NoPeers,
    /// Far behind: pulls batches from several peers, and no broadcast could help.
    Syncing,
    /// Behind by hardly more than is not final yet: pulls the gap, and takes part in broadcast.
    CatchingUp,
    /// Holds every head that is known.
    Synced,
    /// Behind, and nobody gives us the blocks; or the chain is halted.
    Stalled,
}

impl State {
    /// Its name in status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPeers => "no_peers",
            Self::Syncing => "syncing",
            Self::CatchingUp => "catching_up",
            Self::Synced => "synced",
            Self::Stalled => "stalled",
        }
    }

    /// Whether SHAKEHANDs go out at the faster pace.
    #[must_use]
    pub fn is_behind(self) -> bool {
        matches!(self, Self::Syncing | Self::CatchingUp)
    }
}

/// Where our chain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) head: Point,
    pub(super) committed: Point,
    pub(super) halted: bool,
}

/// What the planner reads of the chain.
pub(super) trait View {
    fn place(&self) -> Place;
    /// The height of a block that is here, on whichever branch.
    fn held(&self, hash: &Hash) -> Option<u64>;
    /// The hash on our best chain.
    fn hash_at(&self, height: u64) -> Option<Hash>;
}

/// What is to be done. Each with an `id` ends with the call that carries it.
#[derive(Debug)]
pub(super) enum Output {
    /// PULL_BLOCK, for an answer of at most `bytes` or one block; ends with [`Planner::on_pulled`].
    Pull { id: u64, peer: PeerId, span: Span, bytes: usize },
    /// Headers by height; ends with [`Planner::on_headers`].
    Headers { id: u64, peer: PeerId, ladder: Ladder },
    /// Consecutive headers on `fork`, to be checked and shown to the chain as a conflict; ends with [`Planner::on_proven`]. `told`:
    /// connected peers that told their head, one of each voice.
    Prove { id: u64, peer: PeerId, span: Span, fork: Point, told: HashSet<PeerId> },
    /// Blocks for the chain, each time those on what was handed over before; ends with [`Planner::on_imported`], in this order. `more`:
    /// others will follow.
    Import { id: u64, peer: PeerId, blocks: Vec<Block>, more: bool },
    /// For the penalties.
    Report { peer: PeerId, offence: Offence },
}

/// Why a pull or a question for headers brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No answer in time.
    Timeout,
    /// The connection, or the peer's disk; no fault of its.
    Lost,
    /// Too much to do.
    Busy(Duration),
    /// Its head is here.
    NotFound(u64),
    /// It holds bodies from here on.
    Pruned(u64),
    /// Not what was asked for.
    Wrong,
    /// A block that breaks a rule by itself.
    Invalid,
}

/// Checked blocks that follow one another.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) blocks: Vec<Block>,
    pub(super) bytes: usize,
}

/// How an import ended.
#[derive(Debug)]
pub(super) enum Imported {
    /// As many from the first are held, so many of those were not before; what stopped the next one.
    Held {
        /// From the first.
        held: usize,
        /// Of those: blocks that are not new prove nothing.
        new: usize,
        /// At the next one.
        stopped: Option<Outcome>,
    },
    /// It takes no blocks now.
    Refused,
}
