//! Properties: noise does no harm; quotas hold whatever happens and whatever fails.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{
        machine::{Known, Limits, MESSAGE_COST, Machine, Proof, Stored, Verdict, Who},
        proof,
        refusal::Refusal,
        store::{decode_contact, decode_stored},
        wire::{self, RawDeposit, RawItem, RawProof},
    },
    START, offer, open_grant,
};
use crate::{
    identity::Identity,
    message::friend::Terms,
    primitives::{GrantId, Hash, MessageId, NetworkId, PeerId},
    wire::proto::mailbox as proto,
};

fn item() -> impl Strategy<Value = RawItem> {
    let proof = prop_oneof![
        Just(RawProof::None),
        (any::<[u8; 32]>(), any::<u8>()).prop_map(|(key, s)| RawProof::Key(key, [s; 64])),
        any::<u64>().prop_map(RawProof::Nonce),
    ];
    let part = proptest::collection::vec(any::<u8>(), 0..200);
    (any::<[u8; 32]>(), any::<u32>(), any::<[u8; 32]>(), proof, part).prop_map(|(id, ttl_s, withdraw, proof, part)| {
        RawItem { id: MessageId(id), ttl_s, withdraw: Hash(withdraw), proof, part: part.into() }
    })
}

proptest! {
    #[test]
    fn noise_is_refused_by_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..3000), after in any::<u64>()) {
        let bytes = Bytes::from(bytes);
        let me = Identity::generate();
        let owner = Bytes::from(me.address().to_bytes());
        let grant_id = Bytes::from_static(&[1; 16]);
        if let Some(raw) = wire::read_deposit(&proto::Deposit { grant_id, owner: owner.clone(), items: bytes.clone() }) {
            prop_assert!(raw.items.len() <= wire::DEPOSIT_ITEMS);
        }
        let page = proto::Pulled { items: bytes.clone(), head: 1, more: true, markers: Bytes::new() };
        if let Some(page) = wire::read_pulled(page, after) {
            prop_assert!(page.items.windows(2).all(|w| w[0].seq < w[1].seq) && !(page.more && page.items.is_empty()));
        }
        let _ = wire::read_pulled(proto::Pulled { markers: bytes.clone(), ..proto::Pulled::default() }, 0);
        for field in 0..5 {
            let mut desk = proto::Desk { owner: owner.clone(), ..proto::Desk::default() };
            *[&mut desk.acked, &mut desk.contacts, &mut desk.revoked, &mut desk.seen, &mut desk.withdraw][field] = bytes.clone();
            if let Some(work) = wire::read_desk(desk) {
                prop_assert!(work.acked.len() <= wire::DESK_ITEMS && work.contacts.len() <= wire::DESK_ITEMS);
            }
        }
        let signed = proof::SignedReceipts { entries: bytes.clone(), signature: bytes.clone() };
        let purpose = proof::stored_purpose(&NetworkId::default());
        prop_assert!(proof::verify((&me.address(), &me.address()), &purpose, &signed, 64).is_none());
        let _ = decode_stored(1, &bytes);
        let _ = decode_contact(&bytes);
        let _ = wire::decode_grants(&bytes);
        let _ = wire::decode_markers(&bytes);
    }

    #[test]
    fn deposits_are_read_as_they_were_written(items in proptest::collection::vec(item(), 1..=64)) {
        let deposit = RawDeposit { grant: GrantId([7; 16]), owner: PeerId::random(), items };
        prop_assert_eq!(wire::fitting(&deposit.items), deposit.items.len());
        prop_assert_eq!(wire::read_deposit(&wire::deposit(&deposit)).unwrap(), deposit);
    }

    #[test]
    fn quotas_hold_and_numbers_have_no_gap_whatever_happens(
        steps in proptest::collection::vec((0_u8..8, 0_u64..24, 0_usize..600, any::<bool>()), 1..200),
    ) {
        let (owner, key) = (PeerId::random(), [9; 32]);
        let mut grant = open_grant(1);
        grant.terms = Terms { quota_bytes: 8000, quota_msgs: 9, per_contact_msgs: 4, per_contact_bytes_day: 3000, ..grant.terms };
        let mut machine = Machine::new(Limits { max_bytes: 7500, max_msgs: 8 });
        machine.grant(owner, grant, START).unwrap();
        prop_assert!(machine.register(&owner, &[(key, 3, 2000)]));
        // What the store has, and what this turn will make of it.
        let mut disk: HashMap<MessageId, Known> = HashMap::new();
        let mut turn: Vec<(MessageId, Option<Known>)> = Vec::new();
        let (mut numbers, mut reserved, mut day) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (step, n, extra, ok) in steps {
            let id = offer(n, 0, 1).id;
            let known = |machine: &Machine, id: &MessageId| machine.fresh(&owner, id).or_else(|| disk.get(id).copied());
            match step {
                0..=4 => {
                    let mut offer = offer(n, 0, 3600);
                    // Same id, any length: the machine does not hash.
                    offer.part = Bytes::from(vec![0; 100 + extra]);
                    if step < 2 {
                        offer.proof = Proof::Key(key, true);
                    }
                    let before = known(&machine, &id);
                    match machine.plan((START, true), &owner, &grant.id, &offer, before) {
                        Verdict::Store(stored) => {
                            prop_assert!(before.is_none());
                            prop_assert!(reserved.insert(stored.seq) && !numbers.contains(&stored.seq));
                            if stored.who == Who::Contact(key) { day += u64::from(stored.len); }
                            turn.push((id, Some(Known::Held(stored))));
                        }
                        Verdict::Again(stored) => prop_assert_eq!(before, Some(Known::Held(stored))),
                        Verdict::Refuse(Refusal::AlreadyDelivered) => prop_assert!(matches!(before, Some(Known::Gone(_)))),
                        Verdict::Refuse(_) => prop_assert!(before.is_none()),
                    }
                }
                5 => {
                    let before = known(&machine, &id);
                    if let Some(until) = machine.ack(START, &owner, id, before) {
                        turn.push((id, Some(Known::Gone(until))));
                    }
                }
                _ => {
                    machine.finish(ok);
                    if ok {
                        numbers.append(&mut reserved);
                        disk.extend(turn.drain(..).filter_map(|(id, known)| Some((id, known?))));
                    } else {
                        for (_, known) in turn.drain(..) {
                            if let Some(Known::Held(Stored { who: Who::Contact(_), len, .. })) = known { day -= u64::from(len); }
                        }
                        reserved.clear();
                    }
                    let head = machine.queue(&owner).unwrap().durable;
                    prop_assert_eq!(numbers.last().copied().unwrap_or(0), head);
                    prop_assert_eq!(numbers.len() as u64, head, "no gap");
                    let held: Vec<_> = disk.values().filter_map(|k| if let Known::Held(s) = k { Some(*s) } else { None }).collect();
                    let bytes: u64 = held.iter().map(|s| u64::from(s.len) + MESSAGE_COST).sum();
                    prop_assert_eq!(machine.totals(), (held.len() as u64, bytes));
                    prop_assert!(bytes <= 7500 && held.len() <= 8);
                    prop_assert!(held.iter().filter(|s| s.who == Who::Contact(key)).count() <= 3);
                    prop_assert!(day <= 2000, "{day} bytes of one contact in a day");
                }
            }
        }
    }
}
