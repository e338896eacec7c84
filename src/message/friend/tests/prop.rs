//! Properties: noise does no harm; statements in any order and number end the same; two sides that lose, repeat and
//! reorder messages agree in the end, and no grant's state is ever taken back.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    super::{
        config::Accept,
        grant::Grant,
        holder::Holder,
        owner::Owner,
        relation::{Conflict, Fact, Relation, Side, State, View},
        terms::Wanted,
        wire,
    },
    DAY, START, grant, holder_of, owner_of, request, room, verifier,
};
use crate::{
    identity::Identity,
    primitives::{PeerId, UnixMillis},
    wire::proto::friend as pb,
};

proptest! {
    #[test]
    fn noise_is_refused_by_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let v = verifier();
        prop_assert!(v.offer(&bytes).is_err());
        prop_assert!(v.grant(&bytes, &bytes).is_err());
        prop_assert!(v.grant_from_bytes(&bytes).is_err());
        prop_assert!(v.revocation(&bytes).is_err());
        prop_assert!(v.decline(&bytes).is_err());
        let _ = wire::decode_relation(&v, &bytes);
        use prost::Message;
        if let Ok(request) = pb::Request::decode(&bytes[..]) {
            let read = wire::read_request(&v, &request);
            prop_assert!(matches!(read, Err(_) | Ok(wire::Ask::Get(_))));
        }
        if let Ok(response) = pb::Response::decode(&bytes[..]) {
            let _ = wire::read_response(&v, &response);
        }
    }

    #[test]
    fn a_damaged_grant_is_refused(place in any::<prop::sample::Index>(), bit in 0..8u32) {
        let bytes = KNOWN.with(Grant::to_bytes);
        let mut bad = bytes.clone();
        bad[place.index(bytes.len())] ^= 1 << bit;
        prop_assert!(verifier().grant_from_bytes(&bad).is_err());
    }

    #[test]
    fn statements_in_any_order_and_number_end_the_same(
        steps in proptest::collection::vec(step(), 1..25),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut pair = Pair::new(Accept::All);
        steps.iter().for_each(|step| pair.step(*step, true));
        let facts = pair.said.clone();
        let merge = |facts: &mut dyn Iterator<Item = &Fact>| {
            let mut relation = Relation::default();
            for fact in facts {
                let merged = relation.merge(fact.clone());
                assert_ne!(merged, Err(Conflict::Equivocation), "an honest history has none");
            }
            relation
        };
        let straight = merge(&mut facts.iter());
        let again = order.iter().filter(|_| !facts.is_empty()).map(|i| i.get(&facts));
        let mixed = merge(&mut again.chain(facts.iter().rev()));
        prop_assert_eq!(straight, mixed);
    }

    #[test]
    fn both_sides_agree_whatever_the_network_does(
        ask in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut pair = Pair::new(if ask { Accept::Ask } else { Accept::All });
        for step in &steps {
            pair.step(*step, false);
            pair.check_never_backward();
        }
        pair.settle();
        pair.check_never_backward();
        let now = pair.now;
        let (owner, friend) = (pair.of(Side::HeldBy), pair.of(Side::HoldingFor));
        // How something ended that is over may look different: an offer that was never heard is only known to one side.
        let open = |s: &State| matches!(s, State::Active | State::Offered);
        let state = |r: &Option<Relation>| r.as_ref().and_then(|r| r.state(now)).filter(open);
        prop_assert_eq!(state(&owner), state(&friend));
        let active = |r: &Option<Relation>| r.as_ref().and_then(|r| r.active(now).map(Grant::hash));
        prop_assert_eq!(active(&owner), active(&friend), "the same grant, to the bit");
        let listed = pair.owner.listed(now).0.first().map(|l| l.grant_hash);
        prop_assert_eq!(listed, active(&owner));
    }
}

thread_local! {
    static KNOWN: Grant = grant(&Identity::generate(), &Identity::generate(), START.0);
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    Offer {
        smaller: bool,
    },
    OwnerRevokes,
    FriendAccepts {
        less: bool,
    },
    FriendDeclines,
    FriendResigns,
    /// One side tells, and what was said may be kept for later.
    Tell {
        owner: bool,
        lost: bool,
    },
    /// Something said long ago arrives now, maybe again.
    Late {
        which: usize,
    },
    Days {
        days: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<bool>().prop_map(|smaller| Step::Offer { smaller }),
        1 => Just(Step::OwnerRevokes),
        2 => any::<bool>().prop_map(|less| Step::FriendAccepts { less }),
        1 => Just(Step::FriendDeclines),
        1 => Just(Step::FriendResigns),
        5 => (any::<bool>(), any::<bool>()).prop_map(|(owner, lost)| Step::Tell { owner, lost }),
        4 => (0..1000usize).prop_map(|which| Step::Late { which }),
        1 => (0..20u8).prop_map(|days| Step::Days { days }),
    ]
}

/// An owner, its friend, and the network between them.
struct Pair {
    owner: Owner,
    holder: Holder,
    us: PeerId,
    them: PeerId,
    now: UnixMillis,
    /// Everything ever said.
    said: Vec<Fact>,
    ranks: HashMap<(Side, u64), u8>,
}

thread_local! {
    static TWO: (Identity, Identity) = (Identity::generate(), Identity::generate());
}

impl Pair {
    fn new(accept: Accept) -> Self {
        let (a, b) = TWO.with(Clone::clone);
        let (us, them) = (a.address(), b.address());
        let (owner, holder) = (owner_of(&a), holder_of(&b, accept));
        Self { owner, holder, us, them, now: START, said: Vec::new(), ranks: HashMap::new() }
    }

    fn of(&self, side: Side) -> Option<Relation> {
        let relation = match side {
            Side::HeldBy => self.owner.friends().get(&self.them),
            Side::HoldingFor => self.holder.owners().get(&self.us),
        };
        relation.cloned()
    }

    /// `reliable`: everything arrives at once.
    fn step(&mut self, step: Step, reliable: bool) {
        self.now = UnixMillis(self.now.0 + 1);
        let (now, us, them) = (self.now, self.us, self.them);
        match step {
            Step::Offer { smaller } => {
                let mut asked = request(them);
                if smaller {
                    asked.terms.quota_msgs = 10;
                }
                if let Ok(next) = self.owner.offer(now, &asked, [1; 16]) {
                    self.owner.apply(them, next);
                }
            }
            Step::OwnerRevokes => {
                if let Ok(next) = self.owner.revoke(now, &them, DAY) {
                    self.owner.apply(them, next);
                }
            }
            Step::FriendAccepts { less } => {
                let wanted = Wanted { quota_msgs: less.then_some(5), ..Wanted::default() };
                if let Ok(next) = self.holder.accept(now, &us, &wanted, &room()) {
                    self.holder.apply(us, next);
                }
            }
            Step::FriendDeclines => {
                if let Ok(next) = self.holder.decline(now, &us) {
                    self.holder.apply(us, next);
                }
            }
            Step::FriendResigns => {
                if let Ok(next) = self.holder.resign(now, &us, 8 * DAY) {
                    self.holder.apply(us, next);
                }
            }
            Step::Tell { owner, lost } => {
                let side = if owner { Side::HeldBy } else { Side::HoldingFor };
                self.tell(side, lost && !reliable);
            }
            Step::Late { which } => {
                if let Some(fact) = self.said.get(which % self.said.len().max(1)).cloned() {
                    let to = if which % 2 == 0 { Side::HeldBy } else { Side::HoldingFor };
                    self.arrive(to, fact);
                }
            }
            Step::Days { days } => {
                self.now = now.plus(DAY * u32::from(days));
                for (friend, next) in self.owner.renewals(self.now) {
                    self.owner.apply(friend, next);
                }
            }
        }
        if reliable {
            self.settle();
        }
    }

    /// One exchange; `lost`: neither the statement nor the answer arrives, now.
    fn tell(&mut self, from: Side, lost: bool) {
        let (fact, to) = match from {
            Side::HeldBy => (self.owner.to_tell(self.now, &self.them), Side::HoldingFor),
            Side::HoldingFor => (self.holder.to_tell(self.now, &self.us), Side::HeldBy),
        };
        let Some(fact) = fact else { return };
        self.said.push(fact.clone());
        if lost {
            return;
        }
        let (ended, declined) = (matches!(fact, Fact::Revocation(_)), matches!(fact, Fact::Decline(_)));
        if let View::Fact(answer) = self.arrive(to, fact) {
            self.said.push(answer.clone());
            self.arrive(from, answer);
        }
        if let Some(mut relation) = self.of(from).filter(|_| ended || declined) {
            relation.local.end_told |= ended;
            relation.local.decline_told |= declined;
            match from {
                Side::HeldBy => self.owner.apply(self.them, relation),
                Side::HoldingFor => self.holder.apply(self.us, relation),
            }
        }
    }

    /// As the service does it: times are checked, conflicts are answered with what is known.
    fn arrive(&mut self, at: Side, fact: Fact) -> View {
        let (now, us, them) = (self.now, self.us, self.them);
        let in_time = match &fact {
            Fact::Offer(offer) => offer.check_times(now).is_ok(),
            Fact::Grant(grant) => grant.offer.check_times(now).is_ok(),
            Fact::Revocation(_) | Fact::Decline(_) => true,
        };
        if !in_time {
            return View::Unknown;
        }
        let known = self.of(at).map_or(View::Unknown, |r| r.view(now));
        match at {
            Side::HeldBy => match self.owner.on_fact(now, &them, fact) {
                Ok(Some(next)) => self.owner.apply(them, next),
                Ok(None) | Err(Conflict::Stale) => return known,
                Err(Conflict::Equivocation) => panic!("nobody signed twice"),
            },
            Side::HoldingFor => match self.holder.on_fact(now, &us, fact, &room()) {
                Ok(outcome) => {
                    if let Some(next) = outcome.relation {
                        self.holder.apply(us, next);
                    }
                    return outcome.view;
                }
                Err(Conflict::Stale) => return known,
                Err(Conflict::Equivocation) => panic!("nobody signed twice"),
            },
        }
        self.of(at).map_or(View::Unknown, |r| r.view(now))
    }

    /// The network works for a while.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.tell(Side::HeldBy, false);
            self.tell(Side::HoldingFor, false);
        }
    }

    /// Offered, then active, then ended: every grant on each side only ever goes that way.
    fn check_never_backward(&mut self) {
        for side in [Side::HeldBy, Side::HoldingFor] {
            let Some(r) = self.of(side) else { continue };
            let (ended, declined) = (r.ended(), r.declined.as_ref().map_or(0, |d| d.epoch));
            let granted = r.grant.as_ref().map(|g| g.offer.epoch);
            let offered = r.offer.as_ref().map(|o| o.epoch);
            let known: Vec<u64> = self.ranks.keys().filter(|(s, _)| *s == side).map(|(_, e)| *e).collect();
            for epoch in known.into_iter().chain(granted).chain(offered) {
                let rank = if epoch <= ended {
                    3
                } else if granted == Some(epoch) {
                    1
                } else if granted.is_some_and(|g| g > epoch) || declined == epoch {
                    2
                } else if declined > epoch && granted != Some(epoch) {
                    // Overtaken by a declined one: what became of it is not kept, and does not matter any more.
                    continue;
                } else {
                    0
                };
                let before = self.ranks.insert((side, epoch), rank).unwrap_or(0);
                assert!(rank >= before, "{side:?}: epoch {epoch} went from {before} back to {rank}");
            }
        }
    }
}

#[test]
fn a_stored_friendship_reads_back_as_it_was() {
    let mut pair = Pair::new(Accept::All);
    for step in [
        Step::Offer { smaller: true },
        Step::FriendResigns,
        Step::Offer { smaller: false },
        Step::OwnerRevokes,
        Step::Offer { smaller: true },
        Step::Offer { smaller: false },
    ] {
        pair.step(step, true);
    }
    for side in [Side::HeldBy, Side::HoldingFor] {
        let mut relation = pair.of(side).unwrap();
        relation.local.last_error = "x".into();
        relation.local.priority = 3;
        let bytes = wire::encode_relation(&relation);
        assert_eq!(wire::decode_relation(&verifier(), &bytes), Ok(relation));
    }
}
