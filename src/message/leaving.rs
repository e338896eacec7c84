//! Leaving messages with friends of their recipient: carries out what the outbox machine decides about deposits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tracing::debug;

use super::{
    envelope::wire_of_stored,
    friend::POLICY_CONTACTS,
    mailbox::{Account, Depositor, Part, Place, Refusal, WORK_BITS},
    outbox::{Deposited, Friend, Item},
    recipients::Granted,
    shared::Shared,
};
use crate::{
    identity::Purpose,
    primitives::{Hash, MessageId, NetworkId, PeerId, UnixMillis},
};

/// Grants that are remembered, 200 bytes each.
const GRANTS: usize = 1024;
/// The most work that is done for one part, in bits: half a minute or so. A friend that asks for more gets nothing.
const MOST_WORK: u64 = 26;
/// How often one request is made again with more work: what is asked for rises while others leave messages, too.
const ROUNDS: usize = 3;

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
    grants: Arc<Mutex<HashMap<(PeerId, Friend), Granted>>>,
}

impl Leaver {
    pub(super) fn new(shared: Arc<Shared>, depositor: Depositor) -> Self {
        Self { shared, depositor, grants: Arc::default() }
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
        let no = match granted.policy {
            _ if now >= granted.not_after => Some(Refusal::GrantExpired),
            POLICY_CONTACTS => Some(Refusal::BadAuth),
            _ => None,
        };
        if let Some(refusal) = no {
            return Ok(vec![Err(refusal); items.len()]);
        }
        let worker = self.shared.clone();
        let read = move || -> Result<Vec<Part>, String> {
            let part = |((seq, index), expires_at): (Item, UnixMillis)| {
                let stored = worker.tables.out_part(seq, index).map_err(|e| e.to_string())?;
                let sealed = stored.as_ref().and_then(wire_of_stored).ok_or("a part is missing in the store")?;
                let id = super::envelope::part_id(&sealed).ok_or("a part is damaged in the store")?;
                let left = u32::try_from(expires_at.since(now).as_secs()).unwrap_or(u32::MAX);
                let ttl_s = left.clamp(1, granted.max_ttl_s.max(1));
                Ok(Part { sealed, ttl_s, withdraw: Hash::of(&secret(&worker, &id)) })
            };
            items.into_iter().map(part).collect()
        };
        let parts = tokio::task::spawn_blocking(read).await.map_err(|_| "the node is stopping".to_owned())??;
        let place = Place { holder: friend.peer, owner, grant: granted.id };
        self.deposit(place, parts).await
    }

    /// Deposits, and does more work where it is asked for.
    async fn deposit(&self, place: Place, parts: Vec<Part>) -> Deposited {
        let mut answers = vec![Err(Refusal::NeedPow(u64::from(WORK_BITS))); parts.len()];
        for _ in 0..ROUNDS {
            let asked = |answer: &Result<_, Refusal>| match answer {
                Err(Refusal::NeedPow(bits)) if *bits <= MOST_WORK => u32::try_from(*bits).ok(),
                _ => None,
            };
            let open: Vec<usize> = (0..parts.len()).filter(|at| asked(&answers[*at]).is_some()).collect();
            let Some(bits) = open.iter().filter_map(|at| asked(&answers[*at])).max() else { break };
            let again = open.iter().map(|at| parts[*at].clone()).collect();
            let bytes: usize = open.iter().map(|at| Bytes::len(&parts[*at].sealed)).sum();
            self.shared.metrics.bytes_out.inc_by(bytes as u64); // usize fits in u64
            let answer = self.depositor.deposit(place, &Account::Work(bits.max(WORK_BITS)), again).await;
            let (new, _) = answer.map_err(|e| e.to_string())?;
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
