//! Kademlia queries under way and who waits for them.

use std::{collections::HashMap, num::NonZeroUsize, time::Instant};

use libp2p::kad::{self, Quorum, Record};

use crate::{
    net::dht::{Answer, DhtError, Query, Rank, RecordStore, SharedPolicy},
    primitives::{Clock, PeerId, SystemClock},
};

/// Values kept for one key, the best ones.
const VALUES: usize = 4;
/// Providers collected for one key.
const PROVIDERS: usize = 100;

enum Waiting {
    Put(Answer<()>),
    Get(Answer<Vec<Vec<u8>>>, Found),
    Provide(Answer<()>),
    Providers(Answer<Vec<PeerId>>, Vec<PeerId>),
}

/// What a query found and the policy accepts, best first. Judged as it comes, so that liars, of whom there may be more than
/// honest peers, take no places. A peer gives one value, and a query asks some 20 to 60 peers: with 50 us for a
/// signature, that is a few milliseconds in all.
#[derive(Default)]
struct Found(Vec<(Rank, Vec<u8>)>);

impl Found {
    fn take(&mut self, policy: &SharedPolicy, key: &[u8], value: Vec<u8>) {
        if self.0.iter().any(|(_, known)| *known == value) {
            return;
        }
        let Some(rank) = policy.rank(key, &value) else { return };
        let at = self.0.partition_point(|(better, _)| *better >= rank);
        self.0.insert(at, (rank, value));
        self.0.truncate(VALUES);
    }

    fn values(self) -> Vec<Vec<u8>> {
        self.0.into_iter().map(|(_, value)| value).collect()
    }
}

pub(super) struct Pending {
    policy: SharedPolicy,
    queries: HashMap<kad::QueryId, Waiting>,
}

impl Pending {
    pub(super) fn new(policy: SharedPolicy) -> Self {
        Self { policy, queries: HashMap::new() }
    }

    pub(super) fn start(&mut self, query: Query, kad: &mut kad::Behaviour<RecordStore>) {
        match query {
            Query::Put { key, value, expires_at, answer } => {
                // Others read the end from the signed value itself; this only tells them how long to cache.
                let left = expires_at.since(SystemClock.now());
                let expires = Instant::now().checked_add(left);
                let record = Record { expires, ..Record::new(key, value) };
                match kad.put_record(record, Quorum::N(NonZeroUsize::MIN)) {
                    Ok(id) => drop(self.queries.insert(id, Waiting::Put(answer))),
                    // Our own store keeps a newer one already.
                    Err(_) => drop(answer.send(Err(DhtError::NoPeers))),
                }
            }
            Query::Get { key, answer } => {
                drop(self.queries.insert(kad.get_record(key.into()), Waiting::Get(answer, Found::default())));
            }
            Query::Provide { key, answer } => match kad.start_providing(key.into()) {
                Ok(id) => drop(self.queries.insert(id, Waiting::Provide(answer))),
                Err(_) => drop(answer.send(Err(DhtError::Busy))),
            },
            Query::Unprovide { key, answer } => {
                kad.stop_providing(&key.into());
                let _ = answer.send(Ok(()));
            }
            Query::Providers { key, answer } => {
                drop(self.queries.insert(kad.get_providers(key.into()), Waiting::Providers(answer, Vec::new())));
            }
        }
    }

    pub(super) fn on_progress(&mut self, id: kad::QueryId, result: kad::QueryResult, last: bool) {
        let Some(waiting) = self.queries.get_mut(&id) else { return };
        let mut failed = false;
        match (waiting, result) {
            (Waiting::Get(_, all), kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found)))) => {
                all.take(&self.policy, found.record.key.as_ref(), found.record.value);
            }
            (
                Waiting::Providers(_, all),
                kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
            ) => {
                for provider in providers {
                    if all.len() < PROVIDERS && !all.contains(&provider) {
                        all.push(provider);
                    }
                }
            }
            (Waiting::Put(_), kad::QueryResult::PutRecord(Err(_)))
            | (Waiting::Provide(_), kad::QueryResult::StartProviding(Err(_))) => failed = true,
            _ => {}
        }
        if last && let Some(waiting) = self.queries.remove(&id) {
            let done = if failed { Err(DhtError::NoPeers) } else { Ok(()) };
            // A caller that went away needs no answer.
            let _ = match waiting {
                Waiting::Put(answer) | Waiting::Provide(answer) => answer.send(done).is_ok(),
                Waiting::Get(answer, found) => answer.send(Ok(found.values())).is_ok(),
                Waiting::Providers(answer, all) => answer.send(Ok(all)).is_ok(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{net::dht::Policy, primitives::UnixMillis};

    /// Values are sequence numbers under the key `k`.
    #[derive(Debug)]
    struct Numbers;

    impl Policy for Numbers {
        fn rank(&self, key: &[u8], value: &[u8]) -> Option<Rank> {
            let seq = std::str::from_utf8(value).ok()?.parse().ok()?;
            (key == b"k").then_some(Rank { seq, tie: [0; 32], expires_at: UnixMillis(1) })
        }
    }

    #[test]
    fn neither_lies_nor_old_values_keep_the_best_one_out() {
        let policy: SharedPolicy = Arc::new(Numbers);
        let mut found = Found::default();
        (0..50).for_each(|i| found.take(&policy, b"k", format!("lie {i}").into_bytes()));
        (0..50).for_each(|i| found.take(&policy, b"k", i.to_string().into_bytes()));
        (0..3).for_each(|_| found.take(&policy, b"k", b"99".to_vec()));
        (50..60).for_each(|i| found.take(&policy, b"k", i.to_string().into_bytes()));
        assert_eq!(found.values(), ["99", "59", "58", "57"].map(|v| v.as_bytes().to_vec()));
        let mut other = Found::default();
        other.take(&policy, b"other", b"5".to_vec());
        assert!(other.values().is_empty(), "not under this key");
    }
}
