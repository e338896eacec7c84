//! Taking announced transactions from those who have them.

use std::collections::HashMap;

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

/// The fetches under way.
#[derive(Debug)]
pub(super) struct Fetches {
    client: Client<GetTransaction>,
    jobs: JoinSet<Fetched>,
    wanted: HashMap<Hash, PeerId>,
    /// Of late.
    failures: HashMap<PeerId, u32>,
}

impl Fetches {
    pub(super) fn new(client: Client<GetTransaction>) -> Self {
        Self { client, jobs: JoinSet::new(), wanted: HashMap::new(), failures: HashMap::new() }
    }

    /// Whether one more can be begun because of an announcement by `source`.
    pub(super) fn has_room(&self, hash: &Hash, source: &PeerId) -> bool {
        let of_source = self.wanted.values().filter(|s| *s == source).count();
        let honest = self.failures.get(source).is_none_or(|failures| *failures < FAILURES);
        honest && self.wanted.len() < FETCHING && of_source < PER_SOURCE && !self.wanted.contains_key(hash)
    }

    /// What was not delivered is forgotten; to be called every few seconds.
    pub(super) fn forgive(&mut self) {
        self.failures.clear();
    }

    /// Asks whoever announced it, and then `others`.
    pub(super) fn begin(&mut self, received: Received, hash: Hash, others: Vec<PeerId>) {
        self.wanted.insert(hash, received.source);
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

    /// The next one that ended. Pending while there is none; cancel-safe.
    pub(super) async fn next(&mut self) -> Fetched {
        loop {
            match self.jobs.join_next().await {
                Some(Ok(fetched)) => {
                    self.wanted.remove(&fetched.hash);
                    if !fetched.delivered {
                        *self.failures.entry(fetched.received.source).or_default() += 1;
                    }
                    return fetched;
                }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => std::future::pending().await,
            }
        }
    }
}
