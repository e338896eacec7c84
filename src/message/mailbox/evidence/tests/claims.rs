//! The machine of claims, and the lists that it needs.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    super::{
        super::Refusal,
        claims::{BATCH, Claims, Settle},
        kept,
    },
    identity, receipt,
};
use crate::{
    message::mailbox::proof,
    primitives::{NetworkId, PeerId},
    store::{Batch, Family, Store},
};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn everything_is_settled_once_with_pauses_and_nothing_waits_behind_what_cannot_be() {
    let (mut claims, owner) = (Claims::new(1), PeerId::random());
    for seq in 1..=100 {
        assert!(claims.add(at(0), owner, seq, Settle::DELIVERED));
    }
    let first = claims.next(at(0)).unwrap();
    assert_eq!((first.1.len(), first.1[0]), (BATCH, (1, Settle::DELIVERED)));
    assert_eq!(claims.next(at(0)), None, "one at a time");
    claims.answered(at(0), &first, false);
    assert_eq!(claims.next(at(0)), None, "a pause");
    let due = claims.next_due().unwrap();
    assert!(due > at(0) && due <= at(10), "{due:?}");
    let second = claims.next(due).unwrap();
    assert_eq!(second.1[0].0, 65, "the others come first");
    assert_eq!(second.1.len(), 64);
    claims.answered(due, &second, true);
    claims.appeared(due, &owner);
    let rest = claims.next(due).unwrap();
    assert_eq!(rest.1.len(), 36);
    // What is added meanwhile is done too.
    claims.add(due, owner, rest.1[0].0, Settle::TAKEN_BACK);
    claims.add(due, owner, 1000, Settle::COLLECTED);
    claims.add(due, owner, 1000, Settle::TAKEN_BACK);
    claims.answered(due, &rest, true);
    let last = claims.next(due).unwrap();
    assert_eq!(last.1, [(1000, Settle::DELIVERED)], "both wishes");
    claims.answered(due, &last, true);
    assert_eq!((claims.next(at(99_999)), claims.next_due()), (None, None));
}

proptest! {
    #[test]
    fn nothing_is_forgotten_before_it_is_done(
        steps in proptest::collection::vec((0_u8..4, 0_usize..12, 0_u64..40, any::<bool>()), 1..300),
    ) {
        let owners: Vec<PeerId> = (0..12).map(|_| PeerId::random()).collect();
        let (mut claims, mut now, mut open) = (Claims::new(7), Duration::ZERO, std::collections::BTreeSet::new());
        let mut flying = Vec::new();
        for (step, owner, seq, ok) in steps {
            match step {
                0 | 1 => {
                    claims.add(now, owners[owner], seq, Settle::DELIVERED);
                    open.insert((owners[owner], seq));
                }
                2 => {
                    flying.extend(claims.next(now));
                    now += Duration::from_secs(seq);
                }
                _ if flying.is_empty() => {}
                _ => {
                    let errand: (PeerId, Vec<(u64, Settle)>) = flying.remove(owner % flying.len());
                    claims.answered(now, &errand, ok);
                    if ok {
                        open.retain(|(owner, seq)| *owner != errand.0 || errand.1.iter().all(|(done, _)| done != seq));
                    }
                }
            }
        }
        flying.iter().for_each(|errand| claims.answered(now, errand, false));
        while let Some(due) = claims.next_due() {
            now = now.max(due);
            let errand = claims.next(now).expect("it is due");
            prop_assert!(!errand.1.is_empty() && errand.1.len() <= BATCH);
            claims.answered(now, &errand, true);
            open.retain(|(owner, seq)| *owner != errand.0 || errand.1.iter().all(|(done, _)| done != seq));
        }
        prop_assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn a_list_is_kept_once_until_the_last_message_of_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (friend, owner, purpose) = (identity(1), identity(2).address(), proof::stored_purpose(&NetworkId::default()));
    let sign = |list: &[_]| proof::sign(&friend, &purpose, &owner, list);
    // Two requests: parts of messages 1, 1, 2, one of them refused, and 2.
    let lists = [sign(&[receipt(1), receipt(3)]), sign(&[receipt(4)])];
    let answers = [Ok(receipt(1)), Err(Refusal::Busy), Ok(receipt(3)), Ok(receipt(4))];
    let keep = || {
        let mut batch = Batch::new();
        kept::keep(&mut batch, &friend.address(), &[1, 1, 2, 2], &answers, &lists);
        store.write_unsynced(batch).unwrap();
    };
    keep();
    keep();
    assert_eq!(kept::all(&store).unwrap().into_iter().collect::<Vec<_>>(), [1, 2]);
    let mut found = kept::of(&store, &[1, 2]).unwrap();
    found.sort_by_key(|left| left.parts.clone());
    let parts: Vec<_> = found.iter().map(|left| (left.signed.clone(), left.parts.clone())).collect();
    assert_eq!(parts, [(lists[0].clone(), vec![(1, 0), (2, 1)]), (lists[1].clone(), vec![(2, 0)])]);
    assert!(found.iter().all(|left| left.holder == friend.address()));
    let lists_kept = || store.scan(Family::Outbox, b"R", None, 10).unwrap().len();
    assert_eq!(lists_kept(), 2);
    kept::forget(&store, &[1]).unwrap();
    assert_eq!((lists_kept(), kept::of(&store, &[1]).unwrap().len()), (2, 0), "message 2 needs both");
    assert_eq!(kept::of(&store, &[2]).unwrap().len(), 2);
    kept::forget(&store, &[2, 3]).unwrap();
    assert_eq!(store.scan(Family::Outbox, b"", None, 10).unwrap(), [], "nothing is left");
}
