//! The simulator's claims: what holders signed, what they say later, and what the owner makes of it.

use std::time::Duration;

use super::{
    super::super::{
        StoredReceipt,
        evidence::{self, Fate as Said, Why, judge},
        machine::{Known, Machine, Stored},
        store::Gone,
    },
    Event, HOLDERS, QUIET, START, World, Write, seeds,
};
use crate::primitives::{Hash, MessageId, UnixMillis};

/// What a holder signed for.
#[derive(Clone, Copy)]
pub(super) struct Promise {
    pub(super) holder: usize,
    pub(super) stored: Stored,
    pub(super) preimage: [u8; 32],
    /// Accounts that were given before.
    pub(super) asked: u32,
}

/// What the owner shows with an acknowledgement.
pub(super) fn token(holder: usize, id: &MessageId) -> [u8; 32] {
    Hash::of(&[&[holder as u8], &id.0[..]].concat()).0
}

impl World {
    /// The holder accounts for what is durable there.
    pub(super) fn claim(&mut self, promise: Promise) {
        let holder = &self.holders[promise.holder];
        let id = promise.stored.id;
        let says = match (holder.disk.known.get(&id), holder.disk.gone.get(&id)) {
            (Some(Known::Held(_)), _) => Said::Held,
            (_, Some(Gone::Acked(token))) => Said::Acked(*token),
            (_, Some(Gone::Withdrawn(preimage))) => Said::Withdrawn(*preimage),
            (_, Some(Gone::Never)) => Said::Never,
            _ => Said::Unknown,
        };
        let (at, given) = (START.plus(Duration::from_millis(self.now + holder.skew)), self.now);
        self.later(300, Event::Account(promise, says, at, given));
    }

    pub(super) fn show(&mut self, promise: Promise, given: u64) {
        let Promise { holder, stored, asked, .. } = promise;
        let there = self.holders[holder].disk.queue.get(&stored.seq).is_some_and(|s| s.id == stored.id);
        if there {
            self.judged.entry((holder, stored.id)).or_insert((None, given));
        } else if asked < 2 {
            self.later(500, Event::Claim(Promise { asked: asked + 1, ..promise }));
        } else {
            self.judged.entry((holder, stored.id)).or_insert((Some(Why::Withheld), given));
        }
    }

    /// A copy of the holder's disk is put back.
    pub(super) fn restore(&mut self, at: usize) {
        self.holders[at].disk = self.holders[at].copy.clone();
        let known = &self.holders[at].disk.known;
        let lost = self.signed.iter().filter(|(holder, id)| *holder == at && !known.contains_key(id));
        for place in lost {
            self.lost.insert(*place, self.now);
            self.again.remove(place);
        }
        self.crash(at);
    }

    pub(super) fn account(&mut self, promise: Promise, says: Said, at: UnixMillis, given: u64) {
        let Promise { holder, stored, .. } = promise;
        let receipt = StoredReceipt::of(&stored, false);
        let now = START.plus(Duration::from_millis(self.now));
        let verdict = match judge(&receipt, says, (at, now), |shown| *shown == token(holder, &stored.id)) {
            evidence::Verdict::Show => return self.later(300, Event::Show(promise, given)),
            evidence::Verdict::Excused => None,
            evidence::Verdict::Strike => panic!("the end is days away"),
            evidence::Verdict::Broken(why) => Some(why),
        };
        self.judged.entry((holder, stored.id)).or_insert((verdict, given));
    }

    /// A sender takes back what it delivered another way; sometimes before it claims.
    pub(super) fn withdraw(&mut self, Promise { holder: at, stored, preimage, .. }: Promise) {
        if !self.inbox.contains(&stored.id) {
            return;
        }
        let (owner, now) = (self.owner, START.plus(Duration::from_millis(self.now + self.holders[at].skew)));
        let known = self.known(at, &stored.id);
        let holder = &mut self.holders[at];
        if Machine::may_withdraw(known, &preimage)
            && let Some(until) = holder.machine.ack(now, &owner, stored.id, known)
        {
            holder.writes.push(Write::Gone(stored.id, until, Gone::Withdrawn(preimage)));
            self.begin(at);
        }
    }
}

#[test]
fn holders_that_restore_an_older_copy_are_blamed_for_what_they_lost_and_for_nothing_else() {
    let (mut blamed, mut kept) = (0, 0);
    for seed in seeds(1500) {
        println!("SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..4 {
            let holder = world.random.below(HOLDERS as u64) as usize;
            let (copy, restore) = (world.random.below(QUIET), world.random.below(QUIET * 2));
            world.at(copy, Event::Copy(holder));
            world.at(restore.max(copy), Event::Restore(holder));
        }
        world.run();
        for (place, (why, given)) in &world.judged {
            let lost = world.lost.get(place);
            assert!(why.is_none() || lost.is_some(), "SEED={seed}: {why:?} of an honest holder");
            let must = lost.is_some_and(|at| at < given) && !world.again.contains(place);
            assert!(why.is_some() || !must, "SEED={seed}: what was lost is not found out");
            *if why.is_some() { &mut blamed } else { &mut kept } += 1;
        }
    }
    println!("{blamed} promises broken, {kept} not");
    assert!(seeds(2).len() == 1 || blamed > 100 && kept > 1000);
}
