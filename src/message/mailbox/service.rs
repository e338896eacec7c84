//! Puts the parts of mailboxes together; the message service runs them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
};

use super::{
    Handle, Metrics,
    collect::{self, Collect},
    courier::{self, Courier},
    depositor::Depositor,
    evidence::{self, Audit, Auditor, Claim, Claimant, Served, Tokens},
    holder::{self, Holder, Queues},
    proof,
    store::Tables,
    wire::{Deposit, Desk, Hint, Pull, Receipts},
};
use crate::{
    message::{friend::Config, leaving::Leaver, sender, shared::Shared, wire::Deliver},
    net::{
        PeerEvent,
        rpc::{Client, Inbound, Protocols, Wire},
    },
    primitives::NetworkId,
    runtime::Stop,
    store::StoreError,
};

/// Pulled batches waiting for the receiver: 1 MiB each at most.
const DOOR: usize = 4;

/// A protocol's client and what others ask of us by it.
pub(in crate::message) type End<W> = (Client<W>, mpsc::Receiver<Inbound<W>>);

/// The ends of all protocols of mailboxes.
#[derive(Debug)]
pub struct Ends {
    pub(in crate::message) deposit: End<Deposit>,
    pub(in crate::message) pull: End<Pull>,
    pub(in crate::message) desk: End<Desk>,
    pub(in crate::message) hint: End<Hint>,
    pub(in crate::message) receipts: End<Receipts>,
    pub(in crate::message) audit: End<Audit>,
    pub(in crate::message) claim: End<Claim>,
}

impl Ends {
    /// Adds the protocols to a node.
    pub fn new(protocols: &mut Protocols) -> Self {
        fn end<W: Wire>(protocols: &mut Protocols) -> End<W> {
            protocols.add()
        }
        Self {
            deposit: end(protocols),
            pull: end(protocols),
            desk: end(protocols),
            hint: end(protocols),
            receipts: end(protocols),
            audit: end(protocols),
            claim: end(protocols),
        }
    }
}

/// What mailboxes need from the message service.
#[derive(Debug)]
pub(in crate::message) struct Deps {
    pub(in crate::message) shared: Arc<Shared>,
    pub(in crate::message) network: NetworkId,
    pub(in crate::message) metrics: Metrics,
    pub(in crate::message) peers: broadcast::Receiver<PeerEvent>,
    pub(in crate::message) ends: Ends,
    pub(in crate::message) sender: mpsc::Sender<sender::Command>,
}

/// Holder, collector and courier, ready to run.
pub(in crate::message) struct Service {
    holder: (Holder, Queues),
    collect: Collect,
    courier: Courier,
    auditor: Auditor,
    commands: mpsc::Receiver<collect::Command>,
    hints: mpsc::Receiver<Inbound<Hint>>,
    receipts: mpsc::Receiver<Inbound<Receipts>>,
    owe: mpsc::Receiver<courier::Owe>,
    claims: mpsc::Receiver<Inbound<Claim>>,
    peers: broadcast::Receiver<PeerEvent>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("mailbox::Service").finish_non_exhaustive()
    }
}

impl Service {
    /// Loads what is held and owed. Blocks. The receiver's end of the door is for the receiver of messages.
    pub(in crate::message) fn load(
        config: &Config,
        deps: Deps,
    ) -> Result<(Self, Handle, mpsc::Receiver<Inbound<Deliver>>), StoreError> {
        let Deps { shared, network, metrics, peers, ends, sender } = deps;
        let Ends { deposit, pull, desk, hint, receipts, audit, claim } = ends;
        let tables = Tables { store: shared.tables.store.clone() };
        let (holder_commands, commands) = mpsc::channel(holder::QUEUE);
        let holder = Holder::load(
            config,
            holder::Deps {
                identity: shared.identity.clone(),
                network: network.clone(),
                clock: shared.clock.clone(),
                store: tables.store.clone(),
                metrics: metrics.clone(),
                peers: peers.resubscribe(),
                deposits: deposit.1,
                pulls: pull.1,
                desk: desk.1,
                hints: hint.0,
                audits: audit.1,
                commands,
            },
        )?;
        let (owed, owe) = mpsc::channel(courier::QUEUE);
        let (door, collected) = mpsc::channel(DOOR);
        let (collect_commands, commands) = mpsc::channel(collect::QUEUE);
        let depositor = Depositor::new(&network, deposit.0, desk.0.clone());
        let leaver = Leaver::new(shared.clone(), network.clone(), depositor.clone());
        let courier = Courier::load(courier::Deps {
            shared: shared.clone(),
            metrics: metrics.clone(),
            tables,
            client: receipts.0,
            leaver,
            sender,
        })?;
        let (pull, desk) = (pull.0, desk.0);
        let (tokens, served) = (Tokens::new(&shared.identity, &network), Served::default());
        let (judged, friends) = evidence::Handle::new(shared.local, &network, shared.tables.store.clone());
        let auditor = Auditor::load(evidence::Deps {
            shared: shared.clone(),
            metrics: metrics.clone(),
            audits: audit.0,
            pulls: pull.clone(),
            tokens: tokens.clone(),
            served: served.clone(),
            friends,
            stored: proof::stored_purpose(&network),
            account: evidence::purpose(&network),
        })?;
        let handle = Handle {
            holder: holder_commands,
            collect: collect_commands,
            desk: desk.clone(),
            depositor,
            evidence: judged,
            claims: (claim.0, metrics.clone()),
        };
        let deps = collect::Deps { shared, network, metrics, pull, desk, tokens, served, door, courier: owed };
        let collect = Collect::new(Duration::from_secs(config.poll_s), deps);
        let (hints, receipts, claims) = (hint.1, receipts.1, claim.1);
        let service = Self { holder, collect, courier, auditor, commands, hints, receipts, owe, claims, peers };
        Ok((service, handle, collected))
    }

    /// Runs its parts among the message service's.
    pub(in crate::message) fn spawn(self, tasks: &mut JoinSet<()>, stop: &Stop) {
        let Self { holder: (holder, queues), collect, courier, auditor, commands, hints, receipts, owe, claims, peers } =
            self;
        tasks.spawn(holder.run(queues, stop.clone()));
        tasks.spawn(collect.run(commands, hints, peers.resubscribe(), stop.clone()));
        tasks.spawn(courier.run(owe, receipts, peers, stop.clone()));
        tasks.spawn(auditor.run(claims, stop.clone()));
    }
}

impl Handle {
    /// The actor that settles what friends of recipients signed. Blocks while it reads.
    pub(in crate::message) fn claimant(&self, shared: Arc<Shared>, leaver: Leaver) -> Result<Claimant, StoreError> {
        let (client, metrics) = self.claims.clone();
        Claimant::load(shared, metrics, client, leaver)
    }
}
