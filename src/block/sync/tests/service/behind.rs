//! Nodes that are behind: one that starts again on what it has, and one with a peer that never answers.

use std::sync::Mutex;

use super::*;
use crate::block::chain::Core;

#[tokio::test]
async fn who_starts_again_pulls_only_what_it_does_not_have() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 400, 20);
    let (rules, store) = (kit::rules(chain::DEFAULT_COMMIT_DEPTH), Arc::new(Memory::default()));
    {
        let mut core = Core::open(rules.clone(), store.clone(), NOW).unwrap();
        core.import_segment(row[..300].to_vec(), Origin::File, NOW).unwrap();
    }
    let node = start_on(&boards, rules, store);
    let (raw, mut tasks, pulls) = (Raw::join(&boards), JoinSet::new(), Arc::new(Mutex::new(Vec::new())));
    let (chain, spans) = (row.clone(), pulls.clone());
    node.meets(raw.id);
    raw.play(&mut tasks, head_of(&row), move |asked| {
        spans.lock().unwrap().push(read_pull_request(&asked.request).unwrap().0);
        serve(&chain, asked);
    });
    node.reaches(400).await;
    let spans: Vec<Span> = pulls.lock().unwrap().clone();
    assert_eq!(spans.first().map(|span| span.start), Some(301), "N10: {spans:?}");
    assert!(spans.iter().all(|span| span.start > 300), "N10: {spans:?}");
    node.stop().await;
}

#[tokio::test]
async fn one_that_takes_pulls_and_never_answers_is_named_and_keeps_nobody_from_the_chain() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 400, 50);
    let (old, new) = (start_with(&boards, &row).await, start_with(&boards, &[]).await);
    let (mute, deaf, mut tasks) = (Raw::join(&boards), Raw::join(&boards), JoinSet::new());
    let silent = mute.id;
    new.meets(silent);
    // Nobody ever looks at the SHAKEHANDs that it is sent.
    new.meets(deaf.id);
    mute.keep_silent(&mut tasks, head_of(&row));
    // So that it is asked for something, whatever comes from the other one.
    until("its head is known", || new.handle.progress().borrow().peers == 1).await;
    both_meet(&old, &new);
    new.reaches(400).await;
    until("it is named", || new.penalties.points(&silent) > 0.0).await;
    assert!(!new.penalties.is_banned(&silent), "it may be slow");
    assert!(new.penalties.points(&old.id) < 1.0);
    // That ran out of time long ago: it says nothing of a head, and no more.
    assert!(new.penalties.points(&deaf.id) < 1.0);
    new.stop().await;
    old.stop().await;
}
