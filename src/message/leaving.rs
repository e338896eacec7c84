//! Leaving messages with friends of their recipient: carries out what the outbox machine decides about deposits.

mod letters;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracing::{debug, warn};

use super::{
    contacts::{Pair, deposit_key},
    envelope::wire_of_stored,
    friend::POLICY_CONTACTS,
    mailbox::{Account, Depositor, Part, Place, Refusal, WORK_BITS, evidence::keep},
    outbox::{Deposited, Friend, Item},
    recipients::Granted,
    shared::Shared,
};
use crate::{
    identity::Purpose,
    primitives::{Hash, MessageId, NetworkId, PeerId, UnixMillis},
    store::Batch,
};

/// Grants that are remembered, 200 bytes each.
const GRANTS: usize = 1024;
/// The most work that is done for one part, in bits: half a minute or so. A friend that asks for more gets nothing.
const MOST_WORK: u64 = 26;
/// How often one request is made again with more work: what is asked for rises while others leave messages, too.
const ROUNDS: usize = 3;
/// How long work is done instead of trying our deposit key again after a friend did not know it.
const STRANGER: Duration = Duration::from_secs(600);

/// The purpose of the signatures that secrets of withdrawals are made of.
pub(super) fn purpose(network: &NetworkId) -> Purpose {
    Purpose::new("vos-withdraw/1", network)
}

/// The secret that takes a part back. It is made again whenever it is needed: nobody else can, and nothing is stored for it.
fn secret(shared: &Shared, id: &MessageId) -> [u8; 32] {
    Hash::of(&shared.identity.sign(&shared.withdrawals, &id.0)).0
}

/// What is needed to leave messages. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Leaver {
    shared: Arc<Shared>,
    depositor: Depositor,
    network: NetworkId,
    grants: Arc<Mutex<HashMap<(PeerId, Friend), Granted>>>,
    /// Owners whose friends did not know our deposit key, and when.
    strange: Arc<Mutex<HashMap<(PeerId, PeerId), Instant>>>,
}

impl Leaver {
    pub(super) fn new(shared: Arc<Shared>, network: NetworkId, depositor: Depositor) -> Self {
        Self { shared, depositor, network, grants: Arc::default(), strange: Arc::default() }
    }

    /// The friends that a recipient's record lists, the best first.
    pub(super) async fn friends(&self, recipient: PeerId) -> Result<Vec<Friend>, String> {
        let mut listed = self.shared.recipients.friends(recipient).await.map_err(|e| e.to_string())?;
        listed.sort_by_key(|f| (f.priority, f.address));
        let named = listed.iter().filter_map(|f| Some(Friend { peer: f.address, grant: Hash(f.grant_hash?) }));
        Ok(named.collect())
    }

    async fn granted(&self, owner: PeerId, friend: Friend) -> Result<Granted, String> {
        let known = self.grants.lock().expect("no panic while held").get(&(owner, friend)).copied();
        if let Some(granted) = known {
            return Ok(granted);
        }
        let granted = self.shared.recipients.granted(owner, friend.peer, friend.grant).await?;
        let mut grants = self.grants.lock().expect("no panic while held");
        if grants.len() >= GRANTS {
            // Any choice will do: they are fetched again.
            grants.clear();
        }
        grants.insert((owner, friend), granted);
        Ok(granted)
    }

    /// Leaves parts with a friend of `owner`. Each part comes with the end of its message's life.
    pub(super) async fn leave(&self, owner: PeerId, friend: Friend, items: Vec<(Item, UnixMillis)>) -> Deposited {
        let granted = self.granted(owner, friend).await?;
        let now = self.shared.now();
        // The friend would say the same, after the work was done.
        if now >= granted.not_after {
            return Ok(vec![Err(Refusal::GrantExpired); items.len()]);
        }
        let seqs: Vec<u64> = items.iter().map(|((seq, _), _)| *seq).collect();
        let worker = self.shared.clone();
        let read = move || -> Result<Vec<Option<Part>>, String> {
            let part = |((seq, index), expires_at): (Item, UnixMillis)| {
                let stored = worker.tables.out_part(seq, index).map_err(|e| e.to_string())?;
                let sealed = stored.as_ref().and_then(wire_of_stored);
                let Some((sealed, id)) = sealed.and_then(|s| super::envelope::part_id(&s).map(|id| (s, id))) else {
                    tracing::error!(seq, index, "a part of an outgoing message is missing or damaged on the disk");
                    return Ok(None);
                };
                let left = u32::try_from(expires_at.since(now).as_secs()).unwrap_or(u32::MAX);
                let ttl_s = left.clamp(1, granted.max_ttl_s.max(1));
                Ok(Some(Part { sealed, ttl_s, withdraw: Hash::of(&secret(&worker, &id)) }))
            };
            items.into_iter().map(part).collect()
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|_| "the node is stopping".to_owned())??;
        let damaged: Vec<bool> = read.iter().map(Option::is_none).collect();
        let (parts, seqs): (Vec<Part>, Vec<u64>) =
            read.into_iter().zip(seqs).filter_map(|(p, s)| Some((p?, s))).unzip();
        let place = Place { holder: friend.peer, owner, grant: granted.id };
        let answers =
            if parts.is_empty() { Vec::new() } else { self.deposit(place, granted.policy, (&parts, &seqs)).await? };
        // What the friend would say if it got them as they are.
        let mut answers = answers.into_iter();
        Ok(damaged.into_iter().map_while(|d| if d { Some(Err(Refusal::IdMismatch)) } else { answers.next() }).collect())
    }

    /// Deposits: as a contact, and where we are none with work, if the owner lets strangers in.
    async fn deposit(&self, place: Place, policy: u32, (parts, seqs): (&[Part], &[u64])) -> Deposited {
        if policy == POLICY_CONTACTS || !self.is_stranger(place) {
            let pair = Pair { owner: place.owner, contact: self.shared.local, holder: place.holder };
            let (us, network) = (self.shared.clone(), self.network.clone());
            let key = tokio::task::spawn_blocking(move || deposit_key(&us.identity, &network, pair)).await;
            let key = key.ok().flatten().ok_or("the recipient has no key")?;
            let answers = self.leave_as(place, &Account::Key(Box::new(key)), (parts, seqs)).await?;
            if policy == POLICY_CONTACTS || !answers.contains(&Err(Refusal::BadAuth)) {
                return Ok(answers);
            }
            self.mark_stranger(place);
        }
        self.deposit_with_work(place, (parts, seqs)).await
    }

    fn is_stranger(&self, place: Place) -> bool {
        let strange = self.strange.lock().expect("no panic while held");
        strange.get(&(place.owner, place.holder)).is_some_and(|at| at.elapsed() < STRANGER)
    }

    fn mark_stranger(&self, place: Place) {
        let mut strange = self.strange.lock().expect("no panic while held");
        if strange.len() >= GRANTS {
            strange.clear();
        }
        strange.insert((place.owner, place.holder), Instant::now());
    }

    /// `seqs`: the message of each part. What the friend signs is kept before anybody is told that it has them.
    async fn leave_as(&self, place: Place, account: &Account, (parts, seqs): (&[Part], &[u64])) -> Deposited {
        let bytes: usize = parts.iter().map(|part| Bytes::len(&part.sealed)).sum();
        self.shared.metrics.bytes_out.inc_by(bytes as u64); // usize fits in u64
        let deposited = self.depositor.deposit(place, account, parts.to_vec()).await;
        let (answers, signed) = deposited.map_err(|e| e.to_string())?;
        let mut batch = Batch::new();
        keep(&mut batch, &place.holder, seqs, &answers, &signed);
        // Synced with the state that says that the friend has it.
        if let Err(error) = self.shared.tables.store.write_unsynced(batch) {
            warn!(%error, "cannot keep what a friend signed; it cannot be proven wrong about this");
        }
        Ok(answers)
    }

    /// Deposits, and does more work where it is asked for.
    async fn deposit_with_work(&self, place: Place, (parts, seqs): (&[Part], &[u64])) -> Deposited {
        let mut answers = vec![Err(Refusal::NeedPow(u64::from(WORK_BITS))); parts.len()];
        for _ in 0..ROUNDS {
            let asked = |answer: &Result<_, Refusal>| match answer {
                Err(Refusal::NeedPow(bits)) if *bits <= MOST_WORK => u32::try_from(*bits).ok(),
                _ => None,
            };
            let open: Vec<usize> = (0..parts.len()).filter(|at| asked(&answers[*at]).is_some()).collect();
            let Some(bits) = open.iter().filter_map(|at| asked(&answers[*at])).max() else { break };
            let again: Vec<_> = open.iter().map(|at| parts[*at].clone()).collect();
            let of: Vec<_> = open.iter().map(|at| seqs[*at]).collect();
            let new = self.leave_as(place, &Account::Work(bits.max(WORK_BITS)), (&again, &of)).await?;
            for (at, answer) in open.into_iter().zip(new) {
                answers[at] = answer;
            }
        }
        Ok(answers)
    }

    /// Tells a friend that it need not keep these parts; tried once.
    pub(super) async fn withdraw(&self, owner: PeerId, holder: PeerId, ids: Vec<MessageId>) {
        for id in ids {
            let secret = secret(&self.shared, &id);
            match self.depositor.withdraw(holder, owner, id, secret).await {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => debug!(%holder, %id, %refusal, "a friend did not give a part up"),
                Err(error) => return debug!(%holder, %error, "cannot tell a friend that it need not keep a message"),
            }
        }
    }
}
