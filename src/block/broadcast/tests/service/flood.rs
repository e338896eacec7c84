//! More than there is room for.

use super::*;

#[tokio::test]
async fn headers_beyond_those_being_checked_are_ignored_and_the_next_one_is_taken() {
    // `CHECKING` in `news.rs`.
    const AT_ONCE: usize = 64;
    const OVER: usize = 16;
    let rig = Rig::start();
    let peer = rig.peer();
    let row = rig.maker.row(&kit::genesis(), 4, 0);
    rig.chain.import_segment(row.clone(), Origin::File).await.unwrap();
    // Some on each, so that the chain has room for all of them.
    let blocks: Vec<_> = (0..AT_ONCE + OVER).map(|i| rig.block(&row[i % row.len()], 100, i as u64)).collect();
    // Nothing else runs until this task waits for something.
    let mut verdicts = Vec::new();
    for block in &blocks {
        let (received, verdict) = Received::watched(peer.id, topic(block));
        rig.new_in.try_send(received).unwrap();
        verdicts.push(verdict);
    }
    let mut said = Vec::new();
    for verdict in &mut verdicts {
        said.push(next(verdict).await);
    }
    let (checked, over) = said.split_at(AT_ONCE);
    assert!(checked.iter().all(|v| *v == Verdict::Accept), "{checked:?}");
    assert!(over.iter().all(|v| *v == Verdict::Ignore), "{over:?}");
    assert_eq!(rig.metrics.overflowed.get(), OVER as u64);
    let again = &blocks[AT_ONCE];
    assert_eq!(next(&mut rig.gossip(&peer, topic(again)).await).await, Verdict::Accept);
    rig.held(again).await;
    assert_eq!(rig.penalties.points(&peer.id), 0.0, "to send much is no offence");
}

#[tokio::test]
async fn one_peer_s_announcements_take_their_places_and_nobody_else_s() {
    // `PER_PEER` in `fetcher.rs`.
    const PLACES: usize = 256;
    const OVER: usize = 44;
    let rig = Rig::start();
    let (flooder, other) = (rig.peer(), rig.peer());
    let phantom = |i: usize| {
        let point = Point { height: 1, hash: Hash::of(&i.to_be_bytes()) };
        Announcement { point, body_bytes: 100 }
    };
    let mut answers = Vec::new();
    for i in 0..PLACES + OVER {
        answers.push(rig.notify(&flooder, phantom(i)).await);
    }
    let (taken, over) = answers.split_at(PLACES);
    assert!(taken.iter().all(|a| *a == NotifyAnswer::WillAsk), "{taken:?}");
    assert!(over.iter().all(|a| *a == NotifyAnswer::Ignored), "{over:?}");
    assert_eq!(rig.metrics.announcements_refused.get(), OVER as u64);
    assert_eq!(rig.notify(&other, phantom(PLACES + OVER)).await, NotifyAnswer::WillAsk);
    // Every eleventh in a row costs 5.
    assert!(rig.penalties.points(&flooder.id) > 14.0);
}

#[tokio::test]
async fn who_answers_no_news_has_few_of_them_under_way_and_is_told_again_when_it_does() {
    let rig = Rig::start();
    let (mut silent, mut listening) = (rig.peer(), rig.peer());
    let row = rig.maker.row(&kit::genesis(), 8, 0);
    let mut told = async |block: &Block| {
        rig.chain.import(block.clone(), Origin::File).await.unwrap();
        let news = next(&mut listening.notified).await;
        assert_eq!(news.request.hash, block.hash().0.to_vec());
        news.respond(NotifyAnswer::Known.to_response());
    };
    for block in &row[..7] {
        told(block).await;
    }
    let mut waiting: Vec<_> = std::iter::from_fn(|| silent.notified.try_recv().ok()).collect();
    assert_eq!(waiting.len(), 4, "and nothing else waits for it");
    waiting.pop().unwrap().respond(NotifyAnswer::WillAsk.to_response());
    told(&row[7]).await;
    assert_eq!(next(&mut silent.notified).await.request.hash, row[7].hash().0.to_vec());
}
