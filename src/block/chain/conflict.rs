//! Finality conflicts: what is done about a branch that leaves ours at or below the committed block.
//!
//! Such a branch is never taken silently, and never ignored silently:
//!
//! * Each proof raises the alarm: an event, and how many peers are on the branch.
//! * When at least half of the peers that told their head are on it, and it is long enough to be final there, the chain halts: of a
//!   network that was cut in two, the smaller part stops, the larger one goes on, and halves both stop. A few liars
//!   stop nobody. It goes on by itself when the peers have left that branch or were not heard for ten minutes.
//! * With `deep_reorg_max` the chain switches when at least two thirds of those peers are on the branch, it is better by the rule,
//!   and no more than so many committed blocks are taken back. Then blocks above the fork are candidates again, nothing is
//!   committed for up to two minutes while the other branch is fetched in the usual way, and the rule decides.

use std::collections::HashMap;

use crate::{
    block::Point,
    primitives::{Hash, PeerId, UnixMillis},
};

/// Branches remembered; the one with fewest peers goes first.
const MAX_RIVALS: usize = 16;
/// Peers counted for one branch.
const MAX_PEERS: usize = 256;
/// How long a peer counts after its last proof.
const FORGET_MS: u64 = 10 * 60 * 1000;
/// How long nothing is committed while a better branch is fetched.
const HOLD_MS: u64 = 2 * 60 * 1000;

/// What one peer proved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    pub(super) peer: PeerId,
    /// First block of the branch: it names the branch.
    pub(super) first: Hash,
    pub(super) fork: Point,
    pub(super) tip: Point,
    /// Peers that told their head.
    pub(super) told: usize,
    /// Better than ours by the rule.
    pub(super) better: bool,
}

/// While it lasts nothing is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// It ends when this block is in the tree,
    pub(super) tip: Hash,
    /// or then.
    pub(super) until: UnixMillis,
}

#[derive(Debug)]
pub(super) enum Decision {
    Alarm,
    Halt(String),
    Reopen(Hold),
}

#[derive(Debug)]
struct Rival {
    fork: Point,
    tip: Point,
    peers: HashMap<PeerId, UnixMillis>,
    told: usize,
    tried: Option<UnixMillis>,
    /// Long enough to be final for those who are on it.
    long: bool,
}

impl Rival {
    fn outvotes(&self) -> bool {
        self.long && !self.peers.is_empty() && self.peers.len() * 2 >= self.told
    }
}

/// Branches that contradict what is final here.
#[derive(Default, Debug)]
pub(super) struct Conflicts {
    rivals: HashMap<Hash, Rival>,
}

impl Conflicts {
    /// Counts a proof. Returns what to do, and how many peers are on that branch. `depth` and `deep_reorg_max` are the rules.
    pub(super) fn report(
        &mut self,
        proof: &Proof,
        committed: Point,
        (depth, deep_reorg_max): (u64, u64),
        now: UnixMillis,
    ) -> (Decision, usize) {
        for rival in self.rivals.values_mut() {
            rival.peers.remove(&proof.peer);
        }
        self.rivals.retain(|first, rival| *first == proof.first || !rival.peers.is_empty());
        let new =
            || Rival { fork: proof.fork, tip: proof.tip, peers: HashMap::new(), told: 0, tried: None, long: false };
        let rival = self.rivals.entry(proof.first).or_insert_with(new);
        if rival.peers.len() < MAX_PEERS {
            rival.peers.insert(proof.peer, now);
        }
        if proof.tip.height >= rival.tip.height {
            rival.tip = proof.tip;
        }
        rival.told = proof.told.max(rival.peers.len());
        rival.long = rival.tip.height - rival.fork.height > depth;
        let peers = rival.peers.len();
        let decision = decide(rival, proof.better, committed, deep_reorg_max, now);
        while self.rivals.len() > MAX_RIVALS {
            let fewest = self.rivals.iter().filter(|(first, _)| **first != proof.first);
            let Some(first) = fewest.min_by_key(|(first, r)| (r.peers.len(), **first)).map(|(f, _)| *f) else { break };
            self.rivals.remove(&first);
        }
        (decision, peers)
    }

    /// Forgets peers that were not heard for long.
    pub(super) fn sweep(&mut self, now: UnixMillis) {
        for rival in self.rivals.values_mut() {
            rival.peers.retain(|_, at| now.0.saturating_sub(at.0) <= FORGET_MS);
        }
        self.rivals.retain(|_, rival| !rival.peers.is_empty());
    }

    /// Whether a branch of at least half of the peers contradicts ours.
    pub(super) fn outvoted(&self) -> bool {
        self.rivals.values().any(Rival::outvotes)
    }

    /// Peers on the branch that most are on.
    pub(super) fn most_peers(&self) -> usize {
        self.rivals.values().map(|r| r.peers.len()).max().unwrap_or(0)
    }
}

fn decide(rival: &mut Rival, better: bool, committed: Point, deep_reorg_max: u64, now: UnixMillis) -> Decision {
    let undone = committed.height - rival.fork.height;
    let wanted = better && rival.peers.len() * 3 >= rival.told * 2;
    let tried = rival.tried.is_some_and(|at| now.0.saturating_sub(at.0) <= FORGET_MS);
    if wanted && undone <= deep_reorg_max && !tried {
        rival.tried = Some(now);
        return Decision::Reopen(Hold { tip: rival.tip.hash, until: UnixMillis(now.0.saturating_add(HOLD_MS)) });
    }
    if !rival.outvotes() {
        return Decision::Alarm;
    }
    let (fork, peers, told) = (rival.fork, rival.peers.len(), rival.told);
    let committed = committed.height;
    Decision::Halt(format!(
        "{peers} of {told} peers are on another branch, which leaves ours after height {fork}, where blocks up to {committed} \
         are final here. Find out which side is right. To follow the other one, restart with chain.deep_reorg_max = {undone} \
         or more, or with an empty chain; to stay on this one, disconnect those peers",
        fork = fork.height
    ))
}
