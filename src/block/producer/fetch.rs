//! Taking announced transactions from those who have them.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::wire::{self, GetTransaction};
use crate::{
    net::{pubsub::Received, rpc::Client},
    primitives::{Hash, PeerId},
};

/// Transactions on their way: 4 MiB at most.
const FETCHING: usize = 64;
/// Of them from one neighbour's announcements: one that serves slowly does not keep out the others.
const PER_SOURCE: usize = 16;
/// Announcements that wait for their turn, some 200 bytes each: gossip tells each news once, so what is not kept is lost.
const WAITING: usize = 4096;
/// Of them from one neighbour.
const WAITING_PER_SOURCE: usize = 1024;
/// Others that are asked when the one who announced it does not deliver. Gossip tells each news once, so nobody else announces it:
/// without them a neighbour could keep transactions from us by being the first to name them.
pub(super) const OTHERS: usize = 2;
/// Announcements of one neighbour that it did not deliver itself, until [`Fetches::forgive`], after which no more are looked at: each
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
}

/// The fetches under way, and those that wait.
#[derive(Debug)]
pub(super) struct Fetches {
    client: Client<GetTransaction>,
    jobs: JoinSet<Fetched>,
    /// Under way, and because of whom.
    flying: HashMap<Hash, PeerId>,
    waiting: VecDeque<(Received, Hash, Vec<PeerId>)>,
    /// Of late.
    failures: HashMap<PeerId, u32>,
}

impl Fetches {
    pub(super) fn new(client: Client<GetTransaction>) -> Self {
        Self {
            client,
            jobs: JoinSet::new(),
            flying: HashMap::new(),
            waiting: VecDeque::new(),
            failures: HashMap::new(),
        }
    }

    /// Asks whoever announced it, and then `others`; when its turn has come. Gives the announcement back when it is asked for already,
    /// its source named too much that it did not deliver, or too many wait.
    #[must_use]
    pub(super) fn begin(&mut self, received: Received, hash: Hash, others: Vec<PeerId>) -> Option<Received> {
        let source = received.source;
        let waits = self.waiting.iter().any(|(_, known, _)| *known == hash);
        if self.is_dishonest(&source) || self.flying.contains_key(&hash) || waits {
            return Some(received);
        }
        if self.has_room(&source) {
            self.start(received, hash, others);
            return None;
        }
        let of_source = self.waiting.iter().filter(|(waits, ..)| waits.source == source).count();
        if self.waiting.len() >= WAITING || of_source >= WAITING_PER_SOURCE {
            return Some(received);
        }
        self.waiting.push_back((received, hash, others));
        None
    }

    fn has_room(&self, source: &PeerId) -> bool {
        self.flying.len() < FETCHING && self.flying.values().filter(|s| *s == source).count() < PER_SOURCE
    }

    fn is_dishonest(&self, source: &PeerId) -> bool {
        self.failures.get(source).is_some_and(|failures| *failures >= FAILURES)
    }

    /// What was not delivered is forgotten; to be called every few seconds.
    pub(super) fn forgive(&mut self) {
        self.failures.clear();
    }

    fn start(&mut self, received: Received, hash: Hash, others: Vec<PeerId>) {
        self.flying.insert(hash, received.source);
        let client = self.client.clone();
        self.jobs.spawn(async move {
            let (mut transaction, mut liars, mut delivered) = (None, Vec::new(), false);
            for peer in std::iter::once(received.source).chain(others) {
                // It may not have it any more, since a block has it, or may be gone: that is nobody's fault.
                let Ok(answer) = client.request(peer, wire::request(&hash)).await else { continue };
                if Hash::of(&answer.transaction) == hash {
                    (transaction, delivered) = (Some(answer.transaction), peer == received.source);
                    break;
                }
                liars.push(peer);
            }
            Fetched { received, hash, transaction, liars, delivered }
        });
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
    /// nobody's failure and needs no fetch: whoever has the block may not have its transactions any more.
    pub(super) fn settle(&mut self, ended: &Fetched, known: impl Fn(&Hash) -> bool) {
        self.flying.remove(&ended.hash);
        if !ended.delivered && !known(&ended.hash) {
            *self.failures.entry(ended.received.source).or_default() += 1;
        }
        while let Some(at) = self.waiting.iter().position(|(waits, ..)| self.has_room(&waits.source)) {
            let Some((received, hash, others)) = self.waiting.remove(at) else { break };
            // Dropped, it is ignored.
            if !self.is_dishonest(&received.source) && !known(&hash) {
                self.start(received, hash, others);
            }
        }
    }
}
