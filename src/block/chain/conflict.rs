//! Finality conflicts: what is done about a branch that leaves ours at or below the committed block.
//!
//! Such a branch is never taken silently, and never ignored silently:
//!
//! * Each proof raises the alarm: an event, and how many peers are on the branch.
//! * When at least half of the peers that told their head are on it, and it is long enough to be final there, the chain halts: of a
//!   network that was cut in two, the smaller part stops, the larger one goes on, and halves both stop. A few liars
//!   stop nobody. It goes on by itself when the peers have left that branch or were not heard for ten minutes.
//! * Only peers that are connected count, on both sides of that comparison: whoever comes under one name after another is one at
//!   a time. Who is connected comes with each proof, and counts for all branches until the next one. It is one peer of each
//!   [`Voice`](crate::net::Voice): whoever has many names at one place is one as well.
//! * Of fewer than four peers nobody is believed more than our own chain: there is the alarm and nothing else.
//! * With `deep_reorg_max` the chain switches when at least two thirds of those peers are on the branch, it is better by the rule,
//!   and no more than so many committed blocks are taken back. Then blocks above the fork are candidates again, nothing is
//!   committed for up to two minutes while the other branch is fetched in the usual way, and the rule decides.

use std::collections::{HashMap, HashSet};

use super::core::Rules;
use crate::{
    block::Point,
    primitives::{Hash, PeerId, UnixMillis},
};

/// Branches remembered; the one with fewest peers goes first.
const MAX_RIVALS: usize = 16;
/// Connected peers without which neither a halt nor a deep reorg follows from what they prove: half of three is two, and two are
/// easily of one hand.
const MIN_TOLD: usize = 4;
/// Peers of a branch that are named to people.
const NAMED: usize = 8;
/// How long a peer counts after its last proof.
const FORGET_MS: u64 = 10 * 60 * 1000;
/// How long nothing is committed while a better branch is fetched.
const HOLD_MS: u64 = 2 * 60 * 1000;

/// What one peer proved.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) peer: PeerId,
    /// First block of the branch: it names the branch.
    pub(super) first: Hash,
    pub(super) fork: Point,
    pub(super) tip: Point,
    /// Connected peers that told their head, one of each voice.
    pub(super) told: HashSet<PeerId>,
    /// Better than ours by the rule.
    pub(super) better: bool,
}

/// While it lasts nothing is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// What is final is taken back down to this height.
    pub(super) fork: u64,
    /// It ends when this block is in the tree,
    pub(super) tip: Hash,
    /// or then.
    pub(super) until: UnixMillis,
}

impl Hold {
    /// One that begins now.
    fn new(fork: u64, tip: Hash, now: UnixMillis) -> Self {
        Self { fork, tip, until: UnixMillis(now.0.saturating_add(HOLD_MS)) }
    }

    /// Its time is over; or the clock was set back, so that it would last longer than it may.
    pub(super) fn is_over(&self, now: UnixMillis) -> bool {
        now >= self.until || self.until.0 - now.0 > HOLD_MS
    }
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
    /// Who proved it, and when; only those that are connected count.
    peers: HashMap<PeerId, UnixMillis>,
    tried: Option<UnixMillis>,
    /// Long enough to be final for those who are on it.
    long: bool,
}

impl Rival {
    /// Peers on it that count.
    fn count(&self, told: &HashSet<PeerId>) -> usize {
        self.peers.keys().filter(|peer| told.contains(*peer)).count()
    }

    /// Some of the peers that count, for people.
    fn names(&self, told: &HashSet<PeerId>) -> String {
        let mut peers: Vec<_> = self.peers.keys().filter(|peer| told.contains(*peer)).map(PeerId::to_string).collect();
        peers.sort_unstable();
        let more = peers.len().saturating_sub(NAMED);
        peers.truncate(NAMED);
        let named = peers.join(", ");
        if more > 0 { format!("{named} and {more} more") } else { named }
    }

    fn outvotes(&self, told: &HashSet<PeerId>) -> bool {
        self.long && told.len() >= MIN_TOLD && self.count(told) * 2 >= told.len()
    }
}

/// Branches that contradict what is final here.
#[derive(Default, Debug)]
pub(super) struct Conflicts {
    rivals: HashMap<Hash, Rival>,
    /// The connected peers that told their head, of the last proof.
    told: HashSet<PeerId>,
}

impl Conflicts {
    /// Counts a proof. Returns what to do, and how many peers are on that branch.
    pub(super) fn report(
        &mut self,
        proof: Proof,
        committed: Point,
        rules: &Rules,
        now: UnixMillis,
    ) -> (Decision, usize) {
        self.told = proof.told;
        // Who is gone is not counted, so none is kept that is not connected: of whom there are no more than connections.
        for rival in self.rivals.values_mut() {
            rival.peers.retain(|peer, _| *peer != proof.peer && self.told.contains(peer));
        }
        self.rivals.retain(|first, rival| *first == proof.first || !rival.peers.is_empty());
        let new = || Rival { fork: proof.fork, tip: proof.tip, peers: HashMap::new(), tried: None, long: false };
        let rival = self.rivals.entry(proof.first).or_insert_with(new);
        rival.peers.insert(proof.peer, now);
        if proof.tip.height >= rival.tip.height {
            rival.tip = proof.tip;
        }
        rival.long = rival.tip.height - rival.fork.height > rules.depth;
        let peers = rival.count(&self.told);
        let decision = decide(rival, &self.told, proof.better, (committed, rules), now);
        while self.rivals.len() > MAX_RIVALS {
            let fewest = self.rivals.iter().filter(|(first, _)| **first != proof.first);
            let Some(first) = fewest.min_by_key(|(first, r)| (r.count(&self.told), **first)).map(|(f, _)| *f) else {
                break;
            };
            self.rivals.remove(&first);
        }
        (decision, peers)
    }

    /// Forgets peers that were not heard for long, and branches that are our best chain by now; `best` gives its hash at a height. A clock that
    /// was set back does not make it longer.
    pub(super) fn sweep(&mut self, now: UnixMillis, best: impl Fn(u64) -> Option<Hash>) {
        for rival in self.rivals.values_mut() {
            rival.tried = rival.tried.map(|at| at.min(now));
            rival.peers.retain(|_, at| {
                *at = (*at).min(now);
                now.0 - at.0 <= FORGET_MS
            });
        }
        self.rivals.retain(|first, rival| !rival.peers.is_empty() && best(rival.fork.height + 1) != Some(*first));
    }

    /// What was decided could not be done: the next proof decides again.
    pub(super) fn not_reopened(&mut self) {
        self.rivals.values_mut().for_each(|rival| rival.tried = None);
    }

    /// Whether a branch of at least half of the peers contradicts ours.
    pub(super) fn outvoted(&self) -> bool {
        self.rivals.values().any(|rival| rival.outvotes(&self.told))
    }

    /// Peers on the branch that most are on.
    pub(super) fn most_peers(&self) -> usize {
        self.rivals.values().map(|r| r.count(&self.told)).max().unwrap_or(0)
    }
}

fn decide(
    rival: &mut Rival,
    told: &HashSet<PeerId>,
    better: bool,
    (committed, rules): (Point, &Rules),
    now: UnixMillis,
) -> Decision {
    let undone = committed.height - rival.fork.height;
    let (peers, outvotes, names) = (rival.count(told), rival.outvotes(told), rival.names(told));
    let told = told.len();
    // One that is not long could not replace ours, which is (see `tree.rs`).
    let wanted = better && rival.long && told >= MIN_TOLD && peers * 3 >= told * 2;
    let tried = rival.tried.is_some_and(|at| now.0.saturating_sub(at.0) <= FORGET_MS);
    if wanted && undone <= rules.deep_reorg_max && !tried {
        rival.tried = Some(now);
        return Decision::Reopen(Hold::new(rival.fork.height, rival.tip.hash, now));
    }
    if !outvotes {
        return Decision::Alarm;
    }
    let cannot = if peers * 3 < told * 2 {
        Some("fewer than two thirds of the peers are on it".to_owned())
    } else if !better {
        Some("it is not better by the rule of this chain".to_owned())
    } else if undone <= rules.deep_reorg_max {
        Some(
            "it was tried within the last ten minutes: its blocks did not come, or are refused, as the log says"
                .to_owned(),
        )
    } else {
        let most = rules.deep_reorg_most;
        (undone > most).then(|| format!("{undone} final blocks would be taken back, and {most} are the most here"))
    };
    let follow = match cannot {
        None => format!("restart with chain.deep_reorg_max = {undone} or more"),
        Some(why) => format!(
            "stop the daemon, forget this chain with `vos block reset`, and start again connected to the other side alone \
             (chain.deep_reorg_max does not help: {why})"
        ),
    };
    let (fork, committed) = (rival.fork.height, committed.height);
    Decision::Halt(format!(
        "{peers} of {told} peers are on another branch, which leaves ours after height {fork}, where blocks up to {committed} \
         are final here: {names}. Find out which side is right. To follow the other one, {follow}; to stay on this one, `vos ban add` \
         those peers"
    ))
}
