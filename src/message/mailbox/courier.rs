//! Brings receipts to senders whose messages came through a friend, and takes those that others bring.
//!
//! Receipts that we owe are durable first ([`Owe`] is answered then), signed when they are brought, and forgotten when the sender has
//! taken them. A sender that is not reached is tried again when it connects and with growing pauses; meanwhile they are left with its
//! own friends, if it has any and takes us as a contact.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, warn};

use super::{
    Metrics,
    owed::{Errand, Owed, Taken},
    store::Tables,
    wire::{self, Receipts},
};
use crate::{
    message::{
        leaving::Leaver,
        outbox::Now,
        receipt,
        sender::{Command, next},
        shared::Shared,
        wire::BATCH_PARTS,
    },
    net::{
        PeerEvent,
        rpc::{self, RequestError},
    },
    primitives::{MessageId, PeerId, UnixMillis},
    runtime::Stop,
    store::{Batch, StoreError},
    wire::Status,
};

/// Lists to be made durable, waiting.
pub(super) const QUEUE: usize = 64;
/// Receipts of others being taken.
const TAKING: usize = 64;
/// The actor looks around at least this often.
const LOOK: Duration = Duration::from_secs(30);

/// Receipts that we owe from now on.
#[derive(Debug)]
pub(super) struct Owe {
    pub(super) list: Vec<(PeerId, MessageId, UnixMillis)>,
    /// Told when they are durable.
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

enum Done {
    Owed(Owe, Result<(), StoreError>),
    Brought(Errand, Taken),
    Lettered(Errand, Result<(), String>),
    Took,
}

/// What the courier needs.
#[derive(Debug)]
pub(super) struct Deps {
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) tables: Tables,
    pub(super) client: rpc::Client<Receipts>,
    pub(super) leaver: Leaver,
    /// The outbox's actor.
    pub(super) sender: mpsc::Sender<Command>,
}

/// Brings and takes receipts until stopped.
pub(super) struct Courier {
    deps: Deps,
    machine: Owed,
    started: Instant,
    taking: usize,
    tasks: JoinSet<Done>,
}

impl Courier {
    /// Loads what is owed. Blocks.
    pub(super) fn load(deps: Deps) -> Result<Self, StoreError> {
        let mut machine = Owed::new(rand::random());
        deps.tables.owed()?.into_iter().for_each(|(one, left)| machine.add(Duration::ZERO, one, left));
        Ok(Self { deps, machine, started: Instant::now(), taking: 0, tasks: JoinSet::new() })
    }

    pub(super) async fn run(
        mut self,
        mut owe: mpsc::Receiver<Owe>,
        mut inbound: mpsc::Receiver<rpc::Inbound<Receipts>>,
        peers: broadcast::Receiver<PeerEvent>,
        stop: Stop,
    ) {
        let mut peers = Some(peers);
        loop {
            while let Some(errand) = self.machine.next(self.now().mono) {
                self.bring(errand);
            }
            while let Some(errand) = self.machine.next_letter(self.now().mono) {
                self.write(errand);
            }
            let wait = self.machine.next_due().map_or(LOOK, |at| at.saturating_sub(self.now().mono).min(LOOK));
            tokio::select! {
                biased;
                () = stop.wait() => return,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.done(done),
                Some(owe) = owe.recv() => self.owe(owe),
                event = next(&mut peers) => {
                    // Missed ones are made up for by the pauses' ends.
                    if let Ok(PeerEvent::Up(peer)) = event {
                        self.machine.appeared(self.started.elapsed(), &peer);
                    }
                }
                Some(inbound) = inbound.recv(), if self.taking < TAKING => self.take(inbound),
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.deps.shared.now(), mono: self.started.elapsed() }
    }

    fn owe(&mut self, owe: Owe) {
        if !self.machine.has_room() {
            // Receipts are the first to go: the sender gets it by a direct try.
            warn!("too many receipts wait for their senders; some are not kept");
            let _ = owe.reply.send(Ok(()));
            return;
        }
        let mut batch = Batch::new();
        owe.list.iter().for_each(|(sender, id, at)| Tables::put_owed(&mut batch, sender, (id, *at), false));
        let store = self.deps.tables.store.clone();
        self.tasks.spawn(async move {
            let result = store.commit(batch).await;
            Done::Owed(owe, result)
        });
    }

    fn bring(&mut self, errand: Errand) {
        let (client, shared) = (self.deps.client.clone(), self.deps.shared.clone());
        self.tasks.spawn(async move {
            let signed = receipt::sign(&shared.identity, &shared.receipts, &errand.1);
            let answer = client.request(errand.0, wire::receipted(&shared.local, signed)).await;
            let taken = match answer {
                Ok(_) => Taken::Yes,
                Err(RequestError::Status(Status::Refused | Status::Invalid)) => Taken::Never,
                Err(error) => {
                    debug!(sender = %errand.0, %error, "cannot bring a receipt yet");
                    Taken::NotNow
                }
            };
            Done::Brought(errand, taken)
        });
    }

    /// Leaves receipts with friends of their sender.
    fn write(&mut self, errand: Errand) {
        let (leaver, shared) = (self.deps.leaver.clone(), self.deps.shared.clone());
        self.tasks.spawn(async move {
            let signed = receipt::sign(&shared.identity, &shared.receipts, &errand.1);
            let left = leaver.leave_letter(errand.0, signed).await;
            Done::Lettered(errand, left)
        });
    }

    fn lettered(&mut self, errand: &Errand, left: &Result<(), String>) {
        if let Err(error) = left {
            debug!(sender = %errand.0, %error, "cannot leave a receipt with a friend of the sender");
        } else {
            self.deps.metrics.letters_out.inc();
        }
        let remember = self.machine.lettered(self.started.elapsed(), errand, left.is_ok());
        let mut batch = Batch::new();
        remember.iter().for_each(|(id, at)| Tables::put_owed(&mut batch, &errand.0, (id, *at), true));
        // Not synced: what is not remembered is left once more, which does no harm.
        if !batch.is_empty()
            && let Err(error) = self.deps.tables.store.write_unsynced(batch)
        {
            warn!(%error, "cannot note which receipts were left with friends");
        }
    }

    /// A receipt for messages of ours.
    fn take(&mut self, inbound: rpc::Inbound<Receipts>) {
        let shared = self.deps.shared.clone();
        let Some((recipient, receipt)) = wire::read_receipted(inbound.request.clone()) else {
            return inbound.refuse(Status::Invalid);
        };
        let Some(entries) = receipt::verify(&recipient, &shared.receipts, &receipt, BATCH_PARTS) else {
            shared.metrics.forged_receipts.inc();
            return inbound.refuse(Status::Refused);
        };
        self.taking += 1;
        self.deps.metrics.receipts_in.inc_by(entries.len() as u64); // usize fits in u64
        if inbound.peer == recipient {
            // Somebody else may have kept it for years.
            shared.recipients.heard(recipient);
        }
        let sender = self.deps.sender.clone();
        self.tasks.spawn(async move {
            let (reply, taken) = oneshot::channel();
            let ids = entries.into_iter().map(|(id, _)| id).collect();
            let sent = sender.send(Command::Receipted(recipient, ids, reply)).await;
            if sent.is_ok() && taken.await.is_ok() {
                inbound.respond(wire::taken());
            }
            Done::Took
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = self.now();
        match done {
            Ok(Done::Owed(owe, result)) => {
                if result.is_ok() {
                    owe.list.iter().for_each(|one| self.machine.add(now.mono, *one, false));
                }
                // Who asked may have gone away.
                let _ = owe.reply.send(result);
            }
            Ok(Done::Brought(errand, taken)) => {
                if taken == Taken::Yes {
                    self.deps.metrics.receipts_out.inc_by(errand.1.len() as u64); // usize fits in u64
                }
                let gone = self.machine.answered(now, &errand, taken);
                let mut batch = Batch::new();
                gone.iter().for_each(|id| Tables::drop_owed(&mut batch, &errand.0, id));
                // Not synced: one that comes back is brought again, which does no harm.
                if !gone.is_empty()
                    && let Err(error) = self.deps.tables.store.write_unsynced(batch)
                {
                    warn!(%error, "cannot forget receipts that were brought");
                }
            }
            Ok(Done::Lettered(errand, left)) => self.lettered(&errand, &left),
            Ok(Done::Took) => self.taking -= 1,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
}
