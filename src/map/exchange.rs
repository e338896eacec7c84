//! Talking maps with one peer: paging the whole of it when we know nobody, comparing otherwise; and when to do it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};

use super::{
    mirror::{Mirror, Taken},
    record::Key,
    sync::{Ask, Initiator, Nonsense},
    wire::{Page, Sync, page_request, read_page_response, read_sync_response, sync_request},
};
use crate::{
    net::rpc::{Client, RequestError},
    primitives::PeerId,
    wire::Status,
};

/// Exchanges at once.
const RUNNING: usize = 4;
/// Peers waiting for their turn; the periodic comparison finds those dropped.
const WAITING: usize = 256;
/// Between two exchanges with one peer.
const PAUSE: Duration = Duration::from_secs(2);
/// For one exchange: 10000 records take some 3 s, a slow line more; beyond it another peer may do better.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// Pages from one peer: 10000 records of 4 KiB are 160.
const MAX_PAGES: usize = 1000;

/// Who is next.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    waiting: VecDeque<PeerId>,
    running: HashSet<PeerId>,
    last: HashMap<PeerId, Instant>,
}

impl Schedule {
    /// Asks for an exchange with `peer` as soon as may be.
    pub(super) fn want(&mut self, peer: PeerId) {
        if self.waiting.len() < WAITING && !self.waiting.contains(&peer) {
            self.waiting.push_back(peer);
        }
    }

    /// The next peer, if one may be started now.
    pub(super) fn start(&mut self, now: Instant) -> Option<PeerId> {
        if self.running.len() >= RUNNING {
            return None;
        }
        self.last.retain(|_, at| now.duration_since(*at) < PAUSE);
        let place = self.waiting.iter().position(|p| !self.last.contains_key(p) && !self.running.contains(p))?;
        let peer = self.waiting.remove(place)?;
        self.running.insert(peer);
        Some(peer)
    }

    /// An exchange ended.
    pub(super) fn done(&mut self, peer: PeerId, now: Instant) {
        self.running.remove(&peer);
        self.last.insert(peer, now);
    }
}

/// Why an exchange broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
    #[error("took too long")]
    Timeout,
}

/// How an exchange went.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Records that were new here.
    pub(super) pulled: u32,
    /// Records offered to the peer.
    pub(super) pushed: u32,
    /// Everything that the peer has, we have.
    pub(super) complete: bool,
}

/// What an exchange needs.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) mirror: Mirror,
    pub(super) page: Client<Page>,
    pub(super) sync: Client<Sync>,
}

/// Where paging stopped, to go on with the next peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// After this key.
    At(Option<Key>),
    /// All pages were read once.
    Done,
}

/// Pages the map of `peer` from `cursor` on. Verifies one page while the next one travels.
pub(super) async fn page(context: &Context, peer: PeerId, mut cursor: Option<Key>) -> (Join, u32) {
    let (mut pulled, mut verifying): (u32, Option<JoinHandle<Taken>>) = (0, None);
    let mut join = Join::At(cursor);
    for _ in 0..MAX_PAGES {
        let response = context.page.request(peer, page_request(cursor)).await;
        // The cursor moves only past pages that were taken in.
        if let Some(handle) = verifying.take() {
            let Ok(taken) = handle.await else { return (join, pulled) };
            pulled = pulled.saturating_add(taken.accepted);
            join = Join::At(cursor);
        }
        let page = match response.map(read_page_response) {
            Ok(Some(page)) => page,
            Ok(None) => return (join, pulled),
            Err(error) => {
                tracing::debug!(%peer, %error, "paging broke off");
                return (join, pulled);
            }
        };
        let mirror = context.mirror.clone();
        verifying = Some(tokio::task::spawn_blocking(move || mirror.take_in(&page.envelopes, false)));
        match page.next {
            // A cursor that does not move would go on for ever.
            Some(next) if cursor.is_none_or(|c| next > c) && !context.mirror.read().is_full() => cursor = Some(next),
            _ => {
                if let Some(Ok(taken)) = match verifying.take() {
                    Some(handle) => Some(handle.await),
                    None => None,
                } {
                    pulled = pulled.saturating_add(taken.accepted);
                }
                return (Join::Done, pulled);
            }
        }
    }
    (join, pulled)
}

/// Compares maps with `peer`; both sides have the merge of both after it.
pub(super) async fn compare(context: &Context, peer: PeerId) -> Result<Report, ExchangeError> {
    tokio::time::timeout(TIMEOUT, compare_all(context, peer)).await.map_err(|_| ExchangeError::Timeout)?
}

async fn compare_all(context: &Context, peer: PeerId) -> Result<Report, ExchangeError> {
    let (mut run, mut report) = (Initiator::default(), Report::default());
    loop {
        let next = run.next(&context.mirror.read());
        let Some(ask) = next else { break };
        let response = match (context.sync.request(peer, sync_request(&ask)).await, &ask) {
            // Some of it was broken, and the rest was taken.
            (Err(RequestError::Status(Status::Invalid)), Ask::Push(_)) => continue,
            (response, _) => response?,
        };
        let (answer, full) = read_sync_response(response).ok_or(Nonsense)?;
        let envelopes = run.on_answer(&mut context.mirror.write(), &ask, answer, full)?;
        if let Ask::Push(pushed) = &ask {
            report.pushed = report.pushed.saturating_add(u32::try_from(pushed.len()).unwrap_or(u32::MAX));
        }
        if !envelopes.is_empty() {
            let mirror = context.mirror.clone();
            let taking = tokio::task::spawn_blocking(move || mirror.take_in(&envelopes, false));
            let Ok(taken) = taking.await else { break };
            report.pulled = report.pulled.saturating_add(taken.accepted);
        }
    }
    report.complete = run.found_everything();
    Ok(report)
}
