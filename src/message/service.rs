//! The service: puts the parts together and runs them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
};

use super::{
    Config, Handle, Metrics,
    contacts::Contacts,
    desk,
    envelope::Envelopes,
    friend,
    inbox::{Inbox, Limits},
    intake::{self, cost},
    keys::Keys,
    lanes::{self, Lanes},
    leaving::{self, Leaver},
    mailbox::{
        self,
        evidence::{self, Claimant},
    },
    missed, receipt,
    receiver::{Receiver, Turns},
    recipients::{Directory, Recipients},
    sender::{self, Sender},
    shared::{Counts, Sessions, Shared},
    store::Tables,
    stream::{self, Sequence},
    wire::{Deliver, Missing},
};
use crate::{
    identity::Identity,
    map,
    net::{self, PeerEvent, rpc},
    primitives::{Clock, NetworkId},
    runtime::Stop,
    store::{Batch, Store, StoreError},
};

/// Events kept for a slow subscriber.
const EVENTS: usize = 1024;

/// What messages need.
#[derive(Debug)]
pub struct Deps {
    /// Who we are.
    pub identity: Identity,
    /// Part of every signature and key agreement.
    pub network: NetworkId,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where messages are kept.
    pub store: Store,
    /// Who connects.
    pub net: net::Handle,
    /// Keys of recipients.
    pub map: map::Handle,
    /// Grants of their friends.
    pub friend: friend::Handle,
    /// Who may leave messages with our friends.
    pub contacts: Contacts,
    /// Asks others to take messages.
    pub deliver: rpc::Client<Deliver>,
    /// What others want us to take.
    pub inbound: mpsc::Receiver<rpc::Inbound<Deliver>>,
    /// Asks senders for what is missing, and what others miss of ours.
    pub missing: (rpc::Client<Missing>, mpsc::Receiver<rpc::Inbound<Missing>>),
    /// Counters, registered by the node.
    pub metrics: Metrics,
    /// Mailboxes: what may be kept, protocols, counters.
    pub mailbox: (friend::Config, mailbox::Ends, mailbox::Metrics),
}

/// The same with narrow doors, for tests.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) identity: Identity,
    pub(super) network: NetworkId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Store,
    pub(super) peers: broadcast::Receiver<PeerEvent>,
    pub(super) recipients: Arc<dyn Recipients>,
    pub(super) contacts: Contacts,
    pub(super) deliver: rpc::Client<Deliver>,
    pub(super) inbound: mpsc::Receiver<rpc::Inbound<Deliver>>,
    pub(super) missing: (rpc::Client<Missing>, mpsc::Receiver<rpc::Inbound<Missing>>),
    pub(super) metrics: Metrics,
    pub(super) mailbox: (friend::Config, mailbox::Ends, mailbox::Metrics),
}

/// Why the service ended before it was asked to: a bug, reported with the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a part of the message service ended: {0}")]
pub struct ServiceError(String);

/// Runs messages. Made by [`Service::new`], run by the node's supervisor.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    pending: Vec<super::outbox::Header>,
    inbox: (Inbox, Turns),
    peers: broadcast::Receiver<PeerEvent>,
    deliver: rpc::Client<Deliver>,
    inbound: mpsc::Receiver<rpc::Inbound<Deliver>>,
    missing: (rpc::Client<Missing>, mpsc::Receiver<rpc::Inbound<Missing>>),
    small: mpsc::Receiver<intake::Job>,
    large: mpsc::Receiver<intake::Job>,
    commands: (mpsc::Sender<sender::Command>, mpsc::Receiver<sender::Command>),
    leaver: Leaver,
    claimant: Claimant,
    desk: mpsc::Receiver<desk::Command>,
    mailbox: mailbox::Service,
    collected: mpsc::Receiver<rpc::Inbound<Deliver>>,
}

/// What an earlier run left.
struct Loaded {
    pending: Vec<super::outbox::Header>,
    inbox: (Inbox, Turns),
    counts: Counts,
    lanes: Lanes,
}

impl Loaded {
    fn load(tables: &Tables, config: &Config) -> Result<Self, StoreError> {
        let pending = tables.pending()?;
        tables.clear_bodies()?;
        let (totals, next_slot) = tables.inbox_totals()?;
        let limits = Limits { max_bytes: config.max_bytes, inbox_max_bytes: config.inbox_max_bytes };
        let mut inbox = Inbox::new(limits, next_slot);
        let mut surplus = Batch::new();
        for old in tables.assemblies()?.into_iter().filter_map(|assembly| inbox.load(assembly)) {
            Tables::drop_assembly(&mut surplus, &old);
        }
        tables.store.write_unsynced(surplus)?;
        let lanes = Lanes::default();
        for header in &pending {
            let stored = lanes::stored(&lanes, &header.lane(), |lane| tables.our_next(lane))?;
            lanes.load(header.lane(), (header.number, header.seq), stored);
        }
        let counts = Counts::default();
        counts.outbox_pending.store(pending.len() as u64, Ordering::Relaxed); // usize fits in u64
        let waiting = pending.iter().map(|h| cost(h.bytes, h.parts)).sum();
        counts.outbox_bytes.store(waiting, Ordering::Relaxed);
        counts.inbox.store(totals.messages, Ordering::Relaxed);
        counts.unread.store(totals.unread, Ordering::Relaxed);
        counts.inbox_bytes.store(totals.cost, Ordering::Relaxed);
        Ok(Self { pending, inbox: (inbox, Turns::load(tables)?), counts, lanes })
    }
}

impl Service {
    /// Loads what is pending. Blocks while it reads; call it before the node serves.
    ///
    /// # Errors
    /// The store's error.
    pub fn new(config: Config, deps: Deps) -> Result<(Self, Handle), StoreError> {
        let Deps {
            identity,
            network,
            clock,
            store,
            net,
            map,
            friend,
            contacts,
            deliver,
            inbound,
            missing,
            metrics,
            mailbox,
        } = deps;
        let recipients = Arc::new(Directory { map, friend });
        let peers = net.subscribe();
        let parts = Parts {
            identity,
            network,
            clock,
            store,
            peers,
            recipients,
            contacts,
            deliver,
            inbound,
            missing,
            metrics,
            mailbox,
        };
        Self::with(config, parts)
    }

    pub(super) fn with(config: Config, parts: Parts) -> Result<(Self, Handle), StoreError> {
        let Parts {
            identity,
            network,
            clock,
            store,
            peers,
            recipients,
            contacts,
            deliver,
            inbound,
            missing,
            metrics,
            mailbox: (mailbox_config, ends, mailbox_metrics),
        } = parts;
        let local = identity.address();
        let tables = Tables::new(&store)?;
        let envelopes = Envelopes::new(identity.clone(), &network);
        let keys = Keys::load(store.clone(), clock.clone(), envelopes.context(), local)?;
        let sequence = Sequence::load(&tables, *recipients.signed_elsewhere().borrow())?;
        let Loaded { pending, inbox, counts, lanes } = Loaded::load(&tables, &config)?;
        let shared = Arc::new(Shared {
            config,
            receipts: receipt::purpose(&network),
            withdrawals: leaving::purpose(&network),
            identity,
            local,
            clock,
            tables,
            keys,
            envelopes,
            recipients,
            contacts,
            metrics,
            events: broadcast::channel(EVENTS).0,
            counts,
            sessions: Sessions::default(),
            sequence,
            lanes: Arc::new(lanes),
            collecting: AtomicBool::new(false),
        });
        let [(small_sender, small), (large_sender, large)] = [(); 2].map(|()| mpsc::channel(intake::QUEUE));
        let commands = mpsc::channel(sender::QUEUE);
        let (desk_sender, desk) = mpsc::channel(desk::QUEUE);
        let deps = mailbox::Deps {
            shared: shared.clone(),
            network: network.clone(),
            metrics: mailbox_metrics,
            peers: peers.resubscribe(),
            ends,
            sender: commands.0.clone(),
        };
        let (mailbox, mailbox_handle, collected) = mailbox::Service::load(&mailbox_config, deps)?;
        let leaver = Leaver::new(shared.clone(), network.clone(), mailbox_handle.depositor().clone());
        let claimant = mailbox_handle.claimant(shared.clone(), leaver.clone())?;
        let handle = Handle {
            mailbox: mailbox_handle,
            shared: shared.clone(),
            small: small_sender,
            large: large_sender,
            sender: commands.0.clone(),
            desk: desk_sender,
        };
        let service = Self {
            shared,
            pending,
            inbox,
            peers,
            deliver,
            inbound,
            missing,
            small,
            large,
            commands,
            leaver,
            claimant,
            desk,
            mailbox,
            collected,
        };
        Ok((service, handle))
    }

    /// Runs until stopped; what is being committed then is finished.
    ///
    /// # Errors
    /// [`ServiceError`] when a part of it fails, which is a bug.
    pub async fn run(self, stop: Stop) -> Result<(), ServiceError> {
        let Self {
            shared,
            pending,
            inbox,
            peers,
            deliver,
            inbound,
            missing,
            small,
            large,
            commands,
            leaver,
            claimant,
            desk,
            mailbox,
            collected,
        } = self;
        let (command_sender, commands) = commands;
        // A key before anything else: nothing can be opened without one.
        if let Err(error) = shared.keys.rotate().await {
            tracing::warn!(%error, "cannot store an encryption key yet");
        }
        let (settle, ended) = mpsc::channel(evidence::QUEUE);
        let sender = Sender::new(shared.clone(), deliver, (leaver, settle), pending);
        let receiver = Receiver::new(shared.clone(), inbox, command_sender.clone(), missing.0);
        let mut tasks = JoinSet::new();
        let keys_shared = shared.clone();
        let keys_stop = stop.clone();
        tasks.spawn(async move { keys_shared.keys.run(&*keys_shared.recipients, keys_stop).await });
        let (stream_shared, stream_stop) = (shared.clone(), stop.clone());
        let elsewhere = shared.recipients.signed_elsewhere();
        tasks.spawn(async move { stream::run(&stream_shared, elsewhere, stream_stop).await });
        tasks.spawn(missed::run(shared.clone(), missing.1, command_sender.clone(), stop.clone()));
        // The sender ends after the intakes, which hand it what they made durable.
        let intakes = stop.child();
        tasks.spawn(intake::run(shared.clone(), small, command_sender.clone(), intake::SMALL, intakes.clone()));
        tasks.spawn(intake::run(shared.clone(), large, command_sender, intake::LARGE, intakes));
        tasks.spawn(claimant.run(ended, peers.resubscribe(), stop.clone()));
        tasks.spawn(sender.run(commands, peers, stop.clone()));
        tasks.spawn(receiver.run(inbound, collected, stop.clone()));
        mailbox.spawn(&mut tasks, &stop);
        tasks.spawn(desk::run(shared, desk, stop.clone()));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                return Err(ServiceError(error.to_string()));
            }
            if !stop.is_stopped() {
                return Err(ServiceError("before it was asked to".into()));
            }
        }
        Ok(())
    }
}
