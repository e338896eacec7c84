//! Scores and evidence are durable, counted once, and bounded.

use std::collections::HashSet;

use super::{
    super::{
        account::SignedAccount,
        judge::Why,
        ledger::{self, EVIDENCE, Evidence, FRIENDS, Judgement, Ledger},
    },
    HOUR, START, receipt,
};
use crate::{
    message::{
        friend::Score,
        mailbox::{StoredReceipt, proof::SignedReceipts},
    },
    primitives::{MessageId, PeerId},
    store::{Family, Store},
};

fn promise(n: u64) -> StoredReceipt {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    StoredReceipt { id: MessageId(id), ..receipt(1) }
}

fn broken(n: u64) -> Judgement {
    let receipts = SignedReceipts { entries: vec![1].into(), signature: vec![2].into() };
    let (id, account) = (promise(n).id, SignedAccount::default());
    Judgement::Broken(Box::new(Evidence { id, why: Why::Lost, at: START, grant: vec![3], receipts, account }))
}

#[tokio::test]
async fn what_was_judged_is_durable_and_the_earliest_evidence_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (friend, none) = (PeerId::random(), HashSet::new());
    let mut ledger = Ledger::load(&store).unwrap();
    assert!(!ledger.is_judged(&friend, &promise(1).id).unwrap());
    let some = vec![(promise(1), Judgement::Kept), (promise(2), Judgement::Refused), (promise(3), broken(3))];
    ledger.record(friend, START, some, &none).await.unwrap();
    let mut ledger = Ledger::load(&store).unwrap();
    assert!((1..=3).all(|n| ledger.is_judged(&friend, &promise(n).id).unwrap()));
    let many = (10..10 + EVIDENCE + 5).map(|n| (promise(n), broken(n))).collect();
    ledger.record(friend, START, many, &none).await.unwrap();
    let score = Score { kept: 1, broken: EVIDENCE + 6, refused: 1 };
    assert_eq!(ledger::scores(&store).unwrap(), [(friend, score, START)]);
    let kept = ledger::evidence(&store, &friend).unwrap();
    assert_eq!((kept.len() as u64, kept[0].id, kept[1].id), (EVIDENCE, promise(3).id, promise(10).id));
    assert_eq!(score.percent(), Some(1));
    // When the promises have ended nobody can claim them any more.
    assert_eq!(ledger::forget_judged(&store, START.plus(23 * HOUR)).unwrap(), []);
    assert_eq!(ledger::forget_judged(&store, START.plus(24 * HOUR)).unwrap(), [(friend, EVIDENCE + 8)]);
    assert_eq!(store.scan(Family::Mailbox, b"J", None, 1).unwrap(), []);
    assert_eq!(ledger::evidence(&store, &friend).unwrap().len() as u64, EVIDENCE, "evidence stays");
}

#[tokio::test]
async fn of_many_friends_those_that_are_none_any_more_are_forgotten_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut ledger = Ledger::load(&store).unwrap();
    let all: Vec<PeerId> = (0..=FRIENDS).map(|_| PeerId::random()).collect();
    let now = |n: usize| START.plus(std::time::Duration::from_secs(n as u64));
    // The oldest is a friend still.
    let friends = HashSet::from([all[0]]);
    for (n, friend) in all.iter().enumerate() {
        ledger.record(*friend, now(n), vec![(promise(1), broken(1))], &friends).await.unwrap();
    }
    let left: HashSet<PeerId> = ledger::scores(&store).unwrap().into_iter().map(|(friend, ..)| friend).collect();
    assert_eq!(left.len(), FRIENDS);
    assert!(left.contains(&all[0]) && !left.contains(&all[1]) && left.contains(&all[FRIENDS]));
    assert_eq!(ledger::evidence(&store, &all[1]).unwrap(), []);
    assert!(!ledger.is_judged(&all[1], &promise(1).id).unwrap());
}
