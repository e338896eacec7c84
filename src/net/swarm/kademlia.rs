//! Kademlia queries under way and who waits for them.

use std::{collections::HashMap, num::NonZeroUsize, time::Instant};

use libp2p::kad::{self, Quorum, Record};

use crate::{
    net::dht::{Answer, DhtError, Query, RecordStore},
    primitives::{Clock, PeerId, SystemClock},
};

/// Distinct values collected for one key.
const VALUES: usize = 20;
/// Providers collected for one key.
const PROVIDERS: usize = 100;

enum Waiting {
    Put(Answer<()>),
    Get(Answer<Vec<Vec<u8>>>, Vec<Vec<u8>>),
    Provide(Answer<()>),
    Providers(Answer<Vec<PeerId>>, Vec<PeerId>),
}

#[derive(Default)]
pub(super) struct Pending(HashMap<kad::QueryId, Waiting>);

impl Pending {
    pub(super) fn start(&mut self, query: Query, kad: &mut kad::Behaviour<RecordStore>) {
        match query {
            Query::Put { key, value, expires_at, answer } => {
                // Others read the end from the signed value itself; this only tells them how long to cache.
                let left = expires_at.since(SystemClock.now());
                let expires = Instant::now().checked_add(left);
                let record = Record { expires, ..Record::new(key, value) };
                match kad.put_record(record, Quorum::N(NonZeroUsize::MIN)) {
                    Ok(id) => drop(self.0.insert(id, Waiting::Put(answer))),
                    // Our own store keeps a newer one already.
                    Err(_) => drop(answer.send(Err(DhtError::NoPeers))),
                }
            }
            Query::Get { key, answer } => {
                drop(self.0.insert(kad.get_record(key.into()), Waiting::Get(answer, Vec::new())));
            }
            Query::Provide { key, answer } => match kad.start_providing(key.into()) {
                Ok(id) => drop(self.0.insert(id, Waiting::Provide(answer))),
                Err(_) => drop(answer.send(Err(DhtError::Busy))),
            },
            Query::Unprovide { key, answer } => {
                kad.stop_providing(&key.into());
                let _ = answer.send(Ok(()));
            }
            Query::Providers { key, answer } => {
                drop(self.0.insert(kad.get_providers(key.into()), Waiting::Providers(answer, Vec::new())));
            }
        }
    }

    pub(super) fn on_progress(
        &mut self,
        id: kad::QueryId,
        result: kad::QueryResult,
        last: bool,
        kad: &mut kad::Behaviour<RecordStore>,
    ) {
        let Some(waiting) = self.0.get_mut(&id) else { return };
        let mut failed = false;
        match (waiting, result) {
            (Waiting::Get(_, values), kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found)))) => {
                if !values.contains(&found.record.value) {
                    values.push(found.record.value);
                }
                if values.len() >= VALUES
                    && let Some(mut query) = kad.query_mut(&id)
                {
                    query.finish();
                }
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
        if last && let Some(waiting) = self.0.remove(&id) {
            let done = if failed { Err(DhtError::NoPeers) } else { Ok(()) };
            // A caller that went away needs no answer.
            let _ = match waiting {
                Waiting::Put(answer) | Waiting::Provide(answer) => answer.send(done).is_ok(),
                Waiting::Get(answer, values) => answer.send(Ok(values)).is_ok(),
                Waiting::Providers(answer, all) => answer.send(Ok(all)).is_ok(),
            };
        }
    }
}
