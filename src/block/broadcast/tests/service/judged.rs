//! What is said of headers that are signed and wrong, of those that are early, and of announcements far from the head.

use super::*;
use crate::{
    block::{Header, chain::Outcome},
    primitives::UnixMillis,
};

/// Signed, linked to what is here, and wrong: of a height that is not its parent's plus one, not later than its parent, on a block that is
/// invalid.
async fn wrong(rig: &Rig) -> [Block; 3] {
    let genesis = kit::genesis();
    let good = rig.block(&genesis, 100, 1);
    let (header, body) = (good.header(), good.body());
    let sign = |header: Header| rig.maker.sign(header, body.clone());
    let high = sign(Header { height: 2, ..header.clone() });
    let still = sign(Header { time: genesis.header().time, ..header.clone() });
    let invalid = sign(Header { extra: vec![1], ..still.header().clone() });
    let outcome = rig.chain.import(invalid.clone(), Origin::File).await.unwrap();
    assert!(matches!(outcome, Outcome::Invalid(_)), "{outcome:?}");
    [high, still, rig.block(&invalid, 100, 2)]
}

#[tokio::test]
async fn a_header_that_is_signed_and_wrong_is_rejected_once() {
    let rig = Rig::start();
    for (i, block) in wrong(&rig).await.into_iter().enumerate() {
        let (liar, other) = (rig.peer(), rig.peer());
        assert_eq!(next(&mut rig.gossip(&liar, topic(&block)).await).await, Verdict::Reject, "{i}");
        assert!(rig.penalties.points(&liar.id) > 40.0, "{i}");
        assert_eq!(rig.metrics.rejected.get(), i as u64 + 1);
        // By its hash alone: nobody has to look at it again.
        assert_eq!(next(&mut rig.gossip(&other, topic(&block)).await).await, Verdict::Ignore, "{i}");
        assert_eq!(rig.penalties.points(&other.id), 0.0, "{i}");
        assert_eq!(rig.metrics.rejected.get(), i as u64 + 1);
        assert_eq!(rig.notify(&other, announcement(&block)).await, NotifyAnswer::Ignored, "{i}");
    }
    assert_eq!(rig.metrics.forwarded.get(), 0);
}

#[tokio::test]
async fn who_answers_with_the_header_that_was_asked_for_is_not_to_blame_for_what_it_says() {
    let rig = Rig::start();
    for (i, block) in wrong(&rig).await.into_iter().enumerate() {
        let mut peer = rig.peer();
        rig.announce(&peer, &block).await;
        serve(next(&mut peer.asked).await, &block);
        until("it is found out", || rig.metrics.rejected.get() == i as u64 + 1).await;
        assert_eq!(rig.notify(&peer, announcement(&block)).await, NotifyAnswer::Ignored, "{i}");
        assert_eq!(rig.penalties.points(&peer.id), 0.0, "{i}");
    }
}

/// A block whose time is so much later than the clock's.
fn ahead(rig: &Rig, ms: u64) -> Block {
    let (genesis, body) = (kit::genesis(), super::super::body(100, ms));
    let header = rig.maker.header(&genesis, kit::NOW.0 + ms - genesis.header().time.0, &body);
    rig.maker.sign(header, body)
}

#[tokio::test]
async fn a_header_that_is_early_is_held_until_its_time_and_goes_on_then() {
    let rig = Rig::start();
    let peer = rig.peer();
    // Two seconds are nobody's fault, and eight more are waited for.
    let (soon, last) = (ahead(&rig, 3000), ahead(&rig, 10_000));
    let mut held = rig.gossip(&peer, topic(&soon)).await;
    let mut longest = rig.gossip(&peer, topic(&last)).await;
    for ms in [10_001, 11_000, 17_001] {
        assert_eq!(next(&mut rig.gossip(&peer, topic(&ahead(&rig, ms))).await).await, Verdict::Ignore, "{ms}");
    }
    // Timers alone do nothing: it is the clock that counts.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(held.try_recv().is_err() && longest.try_recv().is_err());
    rig.clock.set(UnixMillis(kit::NOW.0 + 1000));
    assert_eq!(next(&mut held).await, Verdict::Accept);
    assert!(longest.try_recv().is_err());
    tokio::time::resume();
    rig.held(&soon).await;
    assert_eq!(rig.metrics.forwarded.get(), 1);
    assert_eq!(rig.penalties.points(&peer.id), 0.0);
}

#[tokio::test]
async fn announcements_far_from_the_head_or_of_too_much_are_of_no_use() {
    // What `Rig` allows.
    const LARGEST: u32 = 2 * 1024 * 1024;
    let rig = Rig::start();
    let peer = rig.peer();
    let row = rig.maker.row(&kit::genesis(), 40, 0);
    assert_eq!(rig.chain.import_segment(row, Origin::File).await.unwrap().held, 40);
    let cases = [
        (32, 100, NotifyAnswer::Ignored),
        (33, 100, NotifyAnswer::WillAsk),
        (72, LARGEST, NotifyAnswer::WillAsk),
        (73, 100, NotifyAnswer::Ignored),
        (41, LARGEST + 1, NotifyAnswer::Ignored),
    ];
    for (height, body_bytes, expected) in cases {
        let point = Point { height, hash: Hash::of(format!("{height}").as_bytes()) };
        let answer = rig.notify(&peer, Announcement { point, body_bytes }).await;
        assert_eq!(answer, expected, "{body_bytes} bytes at {height}");
    }
    assert_eq!(rig.metrics.announcements_refused.get(), 0, "not because there are so many");
}
