//! One turn of the holder: everything that waits, planned as one batch. See `holder.rs` for what comes before and after.

use std::collections::HashSet;

use tracing::error;

use super::{
    grant::Grant,
    holder::{Checked, Done, Holder, Planned, Turn},
    machine::{GrantError, Known, Machine, Stored, Verdict, Who},
    refusal::Refusal,
    store::{Gone, Tables},
    wire::{self, DeskWork},
};
use crate::{
    identity,
    net::rpc,
    primitives::{MessageId, PeerId, UnixMillis},
    store::{Batch, StoreError},
    wire::Status,
};

/// How much of what has ended is looked over in one turn: messages, owners' tombstones, tombstones of an owner who left.
const SWEEP_ITEMS: usize = 256;
const SWEEP_OWNERS: usize = 64;
const CLEAR: usize = 4096;

impl Holder {
    /// Plans everything that waits as one batch and commits it, unless one is being committed.
    pub(super) fn turn(&mut self) {
        let work = !self.checked.is_empty()
            || !self.waiting_desk.is_empty()
            || !self.waiting_grants.is_empty()
            || self.sweep_due;
        if self.committing || !work {
            return;
        }
        let (now, mut batch, mut turn) = (self.now(), Batch::new(), Turn::default());
        for (owner, grant, reply) in std::mem::take(&mut self.waiting_grants) {
            match self.take_grant(now, owner, grant) {
                Ok(()) => {
                    self.granted.insert(owner);
                    turn.grants.push(reply);
                }
                // Who asked may have gone away.
                Err(why) => drop(reply.send(Err(why))),
            }
        }
        turn.granted = self.granted.drain().collect();
        for owner in &turn.granted {
            if let Some(queue) = self.machine.queue(owner) {
                Tables::put_grants(&mut batch, owner, &queue.grants.values().copied().collect::<Vec<_>>());
            }
        }
        for inbound in std::mem::take(&mut self.waiting_desk) {
            self.desk(now, inbound, &mut batch, &mut turn);
        }
        let free = self.tables.store.free_bytes();
        let room = free.is_none_or(|free| free >= self.config.reserve_bytes);
        for deposit in std::mem::take(&mut self.checked) {
            self.deposit(now, room, deposit, &mut batch, &mut turn);
        }
        self.checked_bytes = 0;
        if std::mem::take(&mut self.sweep_due)
            && let Err(error) = self.sweep(now, &mut batch, &mut turn)
        {
            error!(%error, "cannot look over what is held for others");
        }
        // A refusal alone is not worth a sync: its marker goes with the next change, or the next sweep.
        if turn.swept || !batch.is_empty() {
            for (owner, markers) in self.machine.unsaved() {
                Tables::put_markers(&mut batch, &owner, wire::encode_markers(&markers));
            }
        }
        for owner in &turn.touched {
            if let Some(queue) = self.machine.queue(owner) {
                Tables::put_numbers(&mut batch, owner, queue);
            }
        }
        self.committing = true;
        let store = self.tables.store.clone();
        self.tasks.spawn(async move {
            let result = store.commit(batch).await;
            Done::Committed(Box::new(turn), result)
        });
    }

    fn take_grant(&mut self, now: UnixMillis, owner: PeerId, grant: Grant) -> Result<(), GrantError> {
        if identity::public_key_of(&owner).is_none() {
            return Err(GrantError::BadOwner);
        }
        self.machine.grant(owner, grant, now)
    }

    /// What this turn or the store knows of a message.
    fn known(&self, owner: &PeerId, id: &MessageId) -> Result<Option<Known>, StoreError> {
        match self.machine.fresh(owner, id) {
            Some(known) => Ok(Some(known)),
            None => self.tables.known(owner, id),
        }
    }

    fn deposit(&mut self, now: UnixMillis, room: bool, deposit: Checked, batch: &mut Batch, turn: &mut Turn) {
        let Checked { inbound, owner, grant, offers, .. } = deposit;
        let mut planned = Vec::with_capacity(offers.len());
        for offer in &offers {
            let known = match self.known(&owner, &offer.id) {
                Ok(known) => known,
                Err(error) => {
                    error!(%error, "cannot read what is held for an owner");
                    planned.push(Planned::Refused(Refusal::Busy));
                    continue;
                }
            };
            planned.push(match self.machine.plan((now, room), &owner, &grant, offer, known) {
                Verdict::Refuse(why) => Planned::Refused(why),
                Verdict::Again(stored) => Planned::Stored(stored, true),
                Verdict::Store(stored) => {
                    Tables::put_item(batch, &owner, &stored, &offer.part);
                    self.put_contact(batch, &owner, &stored);
                    turn.touched.insert(owner);
                    turn.added.insert(owner);
                    Planned::Stored(stored, false)
                }
            });
        }
        turn.deposits.push((inbound, owner, planned));
    }

    fn put_contact(&self, batch: &mut Batch, owner: &PeerId, stored: &Stored) {
        let Who::Contact(key) = stored.who else { return };
        if let Some(contact) = self.machine.queue(owner).and_then(|q| q.contacts.get(&key)) {
            Tables::put_contact(batch, owner, &key, contact);
        }
    }

    fn desk(&mut self, now: UnixMillis, inbound: rpc::Inbound<wire::Desk>, batch: &mut Batch, turn: &mut Turn) {
        let Some(work) = wire::read_desk(inbound.request.clone()) else { return inbound.refuse(Status::Invalid) };
        let result = match self.withdraw(now, &work, batch, turn) {
            Ok(()) => self.manage(now, inbound.peer, work, batch, turn),
            Err(error) => Err(error),
        };
        let answer = result.unwrap_or_else(|error| {
            error!(%error, "cannot read what is held for an owner");
            Err(Refusal::Busy)
        });
        turn.desk.push((inbound, answer));
    }

    /// A depositor takes back what its recipient has got another way.
    fn withdraw(
        &mut self,
        now: UnixMillis,
        work: &DeskWork,
        batch: &mut Batch,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        let Some((owner, id, preimage)) = &work.withdraw else { return Ok(()) };
        let known = self.known(owner, id)?;
        if Machine::may_withdraw(known, preimage) {
            self.gone(now, owner, (*id, known, Gone::Withdrawn(*preimage)), batch, turn);
        }
        Ok(())
    }

    /// What an owner wants.
    fn manage(
        &mut self,
        now: UnixMillis,
        owner: PeerId,
        work: DeskWork,
        batch: &mut Batch,
        turn: &mut Turn,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let DeskWork { acked, contacts, revoked, seen, withdraw } = work;
        let none = acked.is_empty() && contacts.is_empty() && revoked.is_empty() && seen.is_empty();
        if none && withdraw.is_some() {
            return Ok(Ok(()));
        }
        if let Err(why) = self.machine.may_pull(&owner, now) {
            return Ok(Err(why));
        }
        for (id, token) in acked {
            let known = self.known(&owner, &id)?;
            let how = if matches!(known, Some(Known::Held(_))) { Gone::Acked(token) } else { Gone::Never };
            turn.acked += u64::from(self.gone(now, &owner, (id, known, how), batch, turn));
        }
        self.machine.revoke(&owner, &revoked);
        revoked.iter().for_each(|key| Tables::drop_contact(batch, &owner, key));
        if !self.machine.register(&owner, &contacts) {
            return Ok(Err(Refusal::QuotaOwner));
        }
        if let Some(queue) = self.machine.queue(&owner) {
            for (key, contact) in contacts.iter().filter_map(|(key, ..)| queue.contacts.get_key_value(key)) {
                Tables::put_contact(batch, &owner, key, contact);
            }
        }
        self.machine.seen(&owner, &seen);
        Ok(Ok(()))
    }

    /// A message goes and leaves a tombstone; whether it was held.
    fn gone(
        &mut self,
        now: UnixMillis,
        owner: &PeerId,
        (id, known, how): (MessageId, Option<Known>, Gone),
        batch: &mut Batch,
        turn: &mut Turn,
    ) -> bool {
        let Some(until) = self.machine.ack(now, owner, id, known) else { return false };
        let held = matches!(known, Some(Known::Held(_)));
        if let Some(Known::Held(stored)) = known {
            Tables::drop_item(batch, owner, &stored);
        }
        Tables::put_tombstone(batch, owner, &id, until, how);
        turn.touched.insert(*owner);
        held
    }

    /// Looks over some of what has ended.
    fn sweep(&mut self, now: UnixMillis, batch: &mut Batch, turn: &mut Turn) -> Result<(), StoreError> {
        turn.swept = true;
        let mut ended = self.tables.expired(now, SWEEP_ITEMS)?;
        for owner in self.machine.over(now) {
            let items = self.tables.items(&owner, SWEEP_ITEMS.saturating_sub(ended.len()))?;
            let held = self.machine.queue(&owner).is_some_and(|q| q.count > 0);
            if !held && items.is_empty() && turn.cleared.is_empty() && !turn.touched.contains(&owner) {
                if self.tables.clear(batch, &owner, CLEAR)? {
                    turn.cleared.push(owner);
                }
                self.sweep_due = true;
            }
            ended.extend(items.into_iter().map(|stored| (owner, stored)));
        }
        // There is more: go on in the next turn.
        self.sweep_due |= ended.len() >= SWEEP_ITEMS;
        // Expired, and of an owner that is over: such a one is in both lists.
        let mut seen = HashSet::new();
        for (owner, stored) in ended {
            if !seen.insert((owner, stored.seq)) {
                continue;
            }
            if self.machine.fresh(&owner, &stored.id).is_none() {
                self.machine.expired(&owner, stored);
                Tables::drop_item(batch, &owner, &stored);
                turn.expired += 1;
            }
        }
        if self.sweeping.is_empty() {
            self.sweeping = self.machine.queues().filter(|(_, q)| q.tombstones > 0).map(|(owner, _)| *owner).collect();
        }
        for _ in 0..SWEEP_OWNERS {
            let Some(owner) = self.sweeping.pop() else { break };
            let count = self.machine.queue(&owner).map_or(0, |q| q.tombstones);
            let dropped = self.tables.drop_tombstones(batch, &owner, (now, count), SWEEP_ITEMS as u64)?;
            if dropped > 0 {
                self.sweep_due |= dropped >= SWEEP_ITEMS as u64; // usize fits in u64
                self.machine.forgot(&owner, dropped);
                turn.touched.insert(owner);
            }
        }
        #[cfg(test)]
        turn.sweepers.append(&mut self.sweepers);
        Ok(())
    }
}
