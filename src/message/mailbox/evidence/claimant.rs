//! The sender's actor around the [`Claims`] machine: tells recipients what their friends signed, then takes parts back.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, warn};

use super::{
    super::Metrics,
    claims::{Claims, Errand, Settle},
    kept::{self, Left},
    wire::{self, Claim, RawClaim},
};
use crate::{
    message::{SendState, leaving::Leaver, outbox::is_end, sender::next, shared::Shared},
    net::{
        PeerEvent,
        rpc::{self, RequestError},
    },
    primitives::PeerId,
    runtime::Stop,
    store::StoreError,
    wire::Status,
};

/// Ended messages waiting for the actor; the outbox keeps what does not fit.
pub(in crate::message) const QUEUE: usize = 256;
/// The actor looks around at least this often.
const LOOK: Duration = Duration::from_secs(30);

/// A message that ended: its recipient, its number, what to do.
pub(in crate::message) type Ended = (PeerId, u64, Settle);

struct Done(Errand, bool);

#[derive(Debug)]
struct Deps {
    shared: Arc<Shared>,
    metrics: Metrics,
    client: rpc::Client<Claim>,
    leaver: Leaver,
}

/// Settles until stopped.
pub(in crate::message) struct Claimant {
    deps: Arc<Deps>,
    machine: Claims,
    started: Instant,
    tasks: JoinSet<Done>,
}

impl std::fmt::Debug for Claimant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimant").finish_non_exhaustive()
    }
}

impl Claimant {
    /// Loads what an earlier run did not settle. Blocks.
    pub(in crate::message::mailbox) fn load(
        shared: Arc<Shared>,
        metrics: Metrics,
        client: rpc::Client<Claim>,
        leaver: Leaver,
    ) -> Result<Self, StoreError> {
        let mut machine = Claims::new(rand::random());
        let mut over = Vec::new();
        for seq in kept::all(&shared.tables.store)? {
            let Some(header) = shared.tables.outgoing(seq)? else {
                over.push(seq);
                continue;
            };
            let settle = match header.state {
                // It may have been collected: taking it back then does no harm.
                SendState::Delivered => Settle::DELIVERED,
                SendState::Cancelled => Settle::TAKEN_BACK,
                state if is_end(state) => Settle::OVER,
                _ => continue,
            };
            machine.add(Duration::ZERO, header.to, seq, settle);
        }
        kept::forget(&shared.tables.store, &over)?;
        let deps = Arc::new(Deps { shared, metrics, client, leaver });
        Ok(Self { deps, machine, started: Instant::now(), tasks: JoinSet::new() })
    }

    pub(in crate::message) async fn run(
        mut self,
        mut ended: mpsc::Receiver<Ended>,
        peers: broadcast::Receiver<PeerEvent>,
        stop: Stop,
    ) {
        let mut peers = Some(peers);
        loop {
            while let Some(errand) = self.machine.next(self.started.elapsed()) {
                let deps = self.deps.clone();
                self.tasks.spawn(async move {
                    let done = settle(&deps, &errand).await;
                    Done(errand, done)
                });
            }
            let wait = self.machine.next_due().map_or(LOOK, |at| at.saturating_sub(self.started.elapsed()).min(LOOK));
            tokio::select! {
                biased;
                () = stop.wait() => return,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(Done(errand, done)) => self.machine.answered(self.started.elapsed(), &errand, done),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some((owner, seq, settle)) = ended.recv() => {
                    if !self.machine.add(self.started.elapsed(), owner, seq, settle) {
                        debug!(seq, "what friends signed for a message is settled after the next start");
                    }
                }
                event = next(&mut peers) => {
                    // Missed ones are made up for by the pauses' ends.
                    if let Ok(PeerEvent::Up(peer)) = event {
                        self.machine.appeared(self.started.elapsed(), &peer);
                    }
                }
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
        }
    }
}

/// Claims, takes back, forgets; whether all of it is done.
async fn settle(deps: &Arc<Deps>, (owner, batch): &Errand) -> bool {
    let seqs: Vec<u64> = batch.iter().map(|(seq, _)| *seq).collect();
    let (store, wanted) = (deps.shared.tables.store.clone(), seqs.clone());
    let lists = match tokio::task::spawn_blocking(move || kept::of(&store, &wanted)).await {
        Ok(Ok(lists)) => lists,
        Ok(Err(error)) => {
            warn!(%error, "cannot read what friends signed for messages of ours");
            return false;
        }
        Err(_) => return false,
    };
    let wants = |which: fn(&Settle) -> bool| -> Vec<u64> {
        batch.iter().filter(|(_, settle)| which(settle)).map(|(seq, _)| *seq).collect()
    };
    let (claimed, withdrawn) = (wants(|settle| settle.claim), wants(|settle| settle.withdraw));
    // A friend that cannot be asked now is not asked for each list, and does not keep others from being asked.
    let mut late = HashSet::new();
    for list in &lists {
        if late.contains(&list.holder) {
            continue;
        }
        match claim(deps, *owner, list, &claimed).await {
            Ok(true) => {}
            Ok(false) => {
                late.insert(list.holder);
            }
            Err(Unreachable) => return false,
        }
    }
    if !late.is_empty() {
        return false;
    }
    for Left { holder, signed, parts } in &lists {
        let receipts = signed.read();
        let ids = parts.iter().filter(|(seq, _)| withdrawn.contains(seq));
        let ids: Vec<_> = ids.filter_map(|(_, place)| Some(receipts.get(usize::from(*place))?.id)).collect();
        if !ids.is_empty() {
            deps.leaver.withdraw(*owner, *holder, ids).await;
        }
    }
    let store = deps.shared.tables.store.clone();
    match tokio::task::spawn_blocking(move || kept::forget(&store, &seqs)).await {
        Ok(Ok(())) => true,
        // The same again at the next start.
        Ok(Err(error)) => {
            warn!(%error, "cannot forget what friends signed for messages of ours");
            true
        }
        Err(_) => false,
    }
}

/// The recipient was not reached.
struct Unreachable;

/// Tells a recipient what one of its friends signed; whether it needs no more.
async fn claim(deps: &Deps, owner: PeerId, list: &Left, seqs: &[u64]) -> Result<bool, Unreachable> {
    let (receipts, now) = (list.signed.read(), deps.shared.now());
    let owed = |place: &u8| receipts.get(usize::from(*place)).is_some_and(|receipt| receipt.expires_at > now);
    let mut places: Vec<u8> =
        list.parts.iter().filter(|(seq, _)| seqs.contains(seq)).map(|(_, place)| *place).collect();
    places.retain(owed);
    places.sort_unstable();
    places.dedup();
    if places.is_empty() {
        return Ok(true);
    }
    deps.metrics.claims_out.inc();
    let raw = RawClaim { holder: list.holder, signed: list.signed.clone(), places };
    match deps.client.request(owner, wire::claim(&raw)).await {
        Ok(answer) => Ok(answer.done),
        Err(RequestError::Status(Status::Refused | Status::Invalid)) => Ok(true),
        Err(RequestError::Status(_)) => Ok(false),
        Err(error) => {
            debug!(%owner, %error, "cannot tell a recipient what its friends signed");
            Err(Unreachable)
        }
    }
}
