//! Taking announced transactions from those who have them.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::wire::{self, GetTransaction};
use crate::{
    net::{
        pubsub::Received,
        rpc::{Client, RequestError},
    },
    primitives::{Hash, PeerId},
};

/// Transactions on their way: 4 MiB at most.
const FETCHING: usize = 64;
/// Of them from one neighbour's announcements: one that serves slowly does not keep out the others. It begins with [`AT_FIRST`]; what comes
/// in time makes it one more, what does not makes it half as many, since all who are near it share its line.
const PER_SOURCE: usize = 16;
/// See [`PER_SOURCE`].
const AT_FIRST: usize = 4;
/// How often a source may be asked for one transaction when it does not answer in time. What comes so late is kept and not passed on: gossip
/// has forgotten that it was told of it.
const TRIES: u32 = 3;
/// Announcements that wait for their turn, some 200 bytes each: gossip tells each news once, so what is not kept is lost.
const WAITING: usize = 4096;
/// Of them from one neighbour.
const WAITING_PER_SOURCE: usize = 1024;
/// Others that are asked when the one who announced it does not deliver. Gossip tells each news once, so nobody else announces it:
/// without them a neighbour could keep transactions from us by being the first to name them.
pub(super) const OTHERS: usize = 2;
/// Failures that are remembered by their transaction: what a block brings soon after was no failure.
const BLAMED: usize = 1024;
/// Announcements of one neighbour that it did not deliver itself, of late ([`Fetches::forgive`]), after which no more are looked at: each
/// of them makes us ask others, and whoever names what does not exist could have us ask without end.
const FAILURES: u32 = 16;

/// How a fetch ended.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The announcement, which waits for its verdict.
    pub(super) received: Received,
    pub(super) hash: Hash,
    pub(super) transaction: Option<Bytes>,
    /// Who answered with something else.
    pub(super) liars: Vec<PeerId>,
    /// Whether it came from whoever announced it.
    delivered: bool,
    /// Whether whoever announced it did not answer in time.
    late: bool,
    others: Vec<PeerId>,
    tries: u32,
}

/// An announcement whose transaction is to be fetched.
#[derive(Debug)]
struct Wanted {
    received: Received,
    hash: Hash,
    others: Vec<PeerId>,
    /// How often its source was asked.
    tries: u32,
}

/// The fetches under way, and those that wait.
#[derive(Debug)]
pub(super) struct Fetches {
    client: Client<GetTransaction>,
    jobs: JoinSet<Fetched>,
    /// Under way, and because of whom.
    flying: HashMap<Hash, PeerId>,
    waiting: VecDeque<Wanted>,
    /// Of late.
    failures: HashMap<PeerId, u32>,
    /// What they are for, newest last.
    blamed: VecDeque<(Hash, PeerId)>,
    /// How many may be under way, of those for whom it is not [`AT_FIRST`].
    windows: HashMap<PeerId, usize>,
}

impl Fetches {
    pub(super) fn new(client: Client<GetTransaction>) -> Self {
        Self {
            client,
            jobs: JoinSet::new(),
            flying: HashMap::new(),
            waiting: VecDeque::new(),
            failures: HashMap::new(),
            blamed: VecDeque::new(),
            windows: HashMap::new(),
        }
    }

    /// Asks whoever announced it, and then `others`; when its turn has come. Gives the announcement back when it is asked for already,
    /// its source named too much that it did not deliver, or too many wait.
    #[must_use]
    pub(super) fn begin(&mut self, received: Received, hash: Hash, others: Vec<PeerId>) -> Option<Received> {
        let source = received.source;
        let waits = self.waiting.iter().any(|waits| waits.hash == hash);
        if self.is_dishonest(&source) || self.flying.contains_key(&hash) || waits {
            return Some(received);
        }
        let wanted = Wanted { received, hash, others, tries: 0 };
        if self.has_room(&source) {
            self.start(wanted);
            return None;
        }
        let of_source = self.waiting_of(&source);
        if of_source >= WAITING_PER_SOURCE || (self.waiting.len() >= WAITING && !self.make_room(of_source)) {
            return Some(wanted.received);
        }
        self.waiting.push_back(wanted);
        None
    }

    fn waiting_of(&self, source: &PeerId) -> usize {
        self.waiting.iter().filter(|waits| waits.received.source == *source).count()
    }

    /// The newest announcement of the neighbour with most of them goes, if it has more than `than`.
    fn make_room(&mut self, than: usize) -> bool {
        let mut counts: HashMap<PeerId, usize> = HashMap::new();
        for waits in &self.waiting {
            *counts.entry(waits.received.source).or_default() += 1;
        }
        let most = counts.into_iter().filter(|(_, count)| *count > than + 1).max_by_key(|(_, count)| *count);
        let last = most.and_then(|(peer, _)| self.waiting.iter().rposition(|waits| waits.received.source == peer));
        // Dropped, it is ignored.
        last.and_then(|at| self.waiting.remove(at)).is_some()
    }

    fn window(&self, source: &PeerId) -> usize {
        self.windows.get(source).copied().unwrap_or(AT_FIRST)
    }

    fn has_room(&self, source: &PeerId) -> bool {
        self.flying.len() < FETCHING && self.flying.values().filter(|s| *s == source).count() < self.window(source)
    }

    fn is_dishonest(&self, source: &PeerId) -> bool {
        self.failures.get(source).is_some_and(|failures| *failures >= FAILURES)
    }

    /// A block has these: whoever announced them may have had the block before us, and its transactions no more.
    pub(super) fn excuse(&mut self, included: impl Fn(&Hash) -> bool) {
        let failures = &mut self.failures;
        self.blamed.retain(|(hash, source)| {
            let excused = included(hash);
            if excused && let Some(count) = failures.get_mut(source) {
                *count = count.saturating_sub(1);
            }
            !excused
        });
    }

    /// A quarter of what was not delivered is forgotten; to be called every few seconds. Whoever fills its places with what never comes is
    /// over the limit all the time.
    pub(super) fn forgive(&mut self) {
        let active: HashSet<PeerId> =
            self.flying.values().copied().chain(self.waiting.iter().map(|waits| waits.received.source)).collect();
        self.windows.retain(|peer, _| active.contains(peer));
        self.failures.retain(|_, failures| {
            *failures -= failures.div_ceil(4);
            *failures > 0
        });
        // What is forgotten needs no excuse.
        self.blamed.retain(|(_, source)| self.failures.contains_key(source));
    }

    fn start(&mut self, Wanted { received, hash, others, tries }: Wanted) {
        self.flying.insert(hash, received.source);
        let client = self.client.clone();
        self.jobs.spawn(async move {
            let (mut transaction, mut liars, mut delivered, mut late) = (None, Vec::new(), false, false);
            for peer in std::iter::once(&received.source).chain(&others) {
                // It may not have it any more, since a block has it, or may be gone: that is nobody's fault.
                let answer = match client.request(*peer, wire::request(&hash)).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        late |= *peer == received.source && matches!(error, RequestError::Timeout);
                        continue;
                    }
                };
                if Hash::of(&answer.transaction) == hash {
                    (transaction, delivered) = (Some(answer.transaction), *peer == received.source);
                    break;
                }
                liars.push(*peer);
            }
            Fetched { received, hash, transaction, liars, delivered, late, others, tries: tries + 1 }
        });
    }

    /// Of those that wait and may be started, the oldest one of the neighbour with fewest under way; of those who did not deliver of late only
    /// when there is no other, since any number of names may have one under way each.
    fn next_in_turn(&self) -> Option<usize> {
        if self.flying.len() >= FETCHING {
            return None;
        }
        let mut flying: HashMap<PeerId, usize> = HashMap::new();
        self.flying.values().for_each(|source| *flying.entry(*source).or_default() += 1);
        let of = |source: &PeerId| flying.get(source).copied().unwrap_or(0);
        let waiting = self.waiting.iter().enumerate().filter_map(|(at, waits)| {
            let count = of(&waits.received.source);
            let failed = self.failures.contains_key(&waits.received.source);
            (count < self.window(&waits.received.source)).then_some((failed, count, at))
        });
        waiting.min().map(|(.., at)| at)
    }

    /// The next one that ended, to be given to [`Fetches::settle`]. Pending while there is none; cancel-safe.
    pub(super) async fn next(&mut self) -> Fetched {
        match self.jobs.join_next().await {
            Some(Ok(fetched)) => fetched,
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }

    /// Counts how one ended, and lets others have its place. What is `known` meanwhile, in the pool or by a block that was quicker, is
    /// nobody's failure and needs no fetch: whoever has the block may not have its transactions any more. `None` when it is tried again.
    pub(super) fn settle(&mut self, ended: Fetched, known: impl Fn(&Hash) -> bool) -> Option<Fetched> {
        self.flying.remove(&ended.hash);
        let (source, window) = (ended.received.source, self.window(&ended.received.source));
        let (known_now, mut over) = (known(&ended.hash), None);
        if ended.delivered {
            self.windows.insert(source, (window + 1).min(PER_SOURCE));
        } else if ended.late && window > 1 && !known_now {
            // Too much at once for its line, and no failure before it is asked for one thing at a time.
            self.windows.insert(source, window / 2);
        } else if !known_now {
            *self.failures.entry(source).or_default() += 1;
            if self.blamed.len() >= BLAMED {
                self.blamed.pop_front();
            }
            self.blamed.push_back((ended.hash, source));
        }
        if ended.late && ended.transaction.is_none() && !known_now && ended.tries < TRIES {
            let Fetched { received, hash, others, tries, .. } = ended;
            self.waiting.push_back(Wanted { received, hash, others, tries });
        } else {
            over = Some(ended);
        }
        while let Some(at) = self.next_in_turn() {
            let Some(wanted) = self.waiting.remove(at) else { break };
            // Dropped, it is ignored.
            if !known(&wanted.hash) {
                self.start(wanted);
            }
        }
        over
    }
}
