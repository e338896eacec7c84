//! What is believed, and for how long.

use super::*;
use crate::block::kit::Maker;

fn point(height: u64) -> Point {
    Point { height, hash: Hash::of(&height.to_be_bytes()) }
}

fn told(claims: &Claims, base: u64, now: Instant) -> Option<(u64, bool)> {
    claims.target(base, now).map(|t| (t.height, t.backed))
}

fn greeting(height: u64) -> Greeting {
    Greeting {
        genesis: Hash::default(),
        timestamp: Default::default(),
        committed: point(0),
        head: point(height),
        earliest: 1,
        address: PeerId::random(),
    }
}

fn claims(heights: &[u64], now: Instant) -> (Claims, Vec<PeerId>) {
    let mut claims = Claims::default();
    // In the same order in every run.
    let peers: Vec<_> = (0..heights.len() as u64).map(|n| Maker::new(n).address()).collect();
    for (peer, height) in peers.iter().zip(heights) {
        claims.greet(*peer, &greeting(*height), now);
    }
    claims.refresh(now, |_| None);
    (claims, peers)
}

#[test]
fn what_a_peer_gave_speaks_for_it_for_a_while_and_without_it_there_is_doubt_soon() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[1 << 62], now);
    let shown = |claims: &Claims, at| claims.target(100, at).map(|t| (t.given, t.doubtful));
    assert_eq!(shown(&claims, now), Some((0, false)));
    assert_eq!(shown(&claims, now + DOUBT), Some((0, true)));
    claims.gave(&peers[0], 128, now);
    assert_eq!(shown(&claims, now), Some((128, false)));
    assert_eq!(shown(&claims, now + HALF), Some((64, false)));
    assert_eq!(shown(&claims, now + DOUBT * 3), Some((0, true)));
    // The first with every block, for an hour.
    let (mut claims, peers) = self::claims(&[1 << 62], now);
    for second in (0..3600).step_by(2) {
        let at = now + Duration::from_secs(second);
        claims.gave(&peers[0], 1, at);
        assert!(shown(&claims, at).is_some_and(|(given, _)| given <= 4));
    }
}

#[test]
fn the_target_is_what_two_say_and_one_alone_only_a_hint() {
    let now = Instant::now();
    let (claims, _) = claims(&[1 << 62, 500, 400], now);
    assert_eq!(told(&claims, 100, now), Some((500, true)));
    let (claims, peers) = self::claims(&[1 << 62], now);
    assert_eq!(told(&claims, 100, now), Some((100 + AHEAD, false)), "N7");
    let mut claims = claims;
    (0..FAILURES).for_each(|_| claims.fail(&peers[0], now));
    assert_eq!(claims.target(100, now), None, "it is cut to what it proved");
    assert_eq!(told(&claims, 100, now + CUT), Some((100 + AHEAD, false)));
}

#[test]
fn two_of_many_back_nothing() {
    let now = Instant::now();
    let mut heights = [100; 9];
    (heights[0], heights[1]) = (1 << 62, 1 << 62);
    let (mut claims, _) = claims(&heights, now);
    claims.refresh(now, |h| (*h == point(100).hash).then_some(100));
    assert_eq!(told(&claims, 100, now), Some((100 + AHEAD, false)));
    heights[2] = 150;
    let (mut claims, _) = self::claims(&heights, now);
    claims.refresh(now, |h| (*h == point(100).hash).then_some(100));
    assert_eq!(told(&claims, 100, now), Some((150, true)), "three of nine do");
}

#[test]
fn a_block_of_another_height_proves_nothing_and_is_a_lie() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[500], now);
    let lie = Greeting { head: Point { height: u64::MAX, hash: point(3).hash }, ..greeting(0) };
    for _ in 0..2 {
        claims.greet(peers[0], &lie, now);
        assert_eq!(claims.refresh(now, |_| Some(3)), peers, "each time that it says so");
        assert!(claims.refresh(now, |_| Some(3)).is_empty());
    }
    for later in [now, now + CUT * 2] {
        assert_eq!((claims.get(&peers[0]).unwrap().height(10, later), claims.target(10, later)), (0, None));
    }
    assert!(!claims.mostly_held(now));
    // A head that became lower since is no lie, whenever its block comes.
    claims.greet(peers[0], &greeting(500), now);
    claims.lower(&peers[0], 498, now);
    assert!(claims.refresh(now, |_| Some(500)).is_empty());
    assert_eq!(claims.get(&peers[0]).unwrap().proven, 498);
}

#[test]
fn who_proved_another_branch_does_not_count_as_ahead_of_us() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[500, 600, 700], now);
    let here = |h: &Hash| (*h == point(500).hash).then_some(500);
    claims.refresh(now, here);
    peers.iter().for_each(|p| claims.cut(p, now + CUT));
    assert!(!claims.mostly_held(now), "one of three, cut or not");
    claims.contradict(&peers[1], now);
    assert!(claims.mostly_held(now), "one of two");
    claims.remove(&peers[1], now);
    claims.greet(peers[1], &greeting(601), now);
    claims.refresh(now, here);
    assert!(claims.mostly_held(now), "also when it comes again");
    claims.refresh(now, |h| (*h == point(601).hash).then_some(601));
    claims.greet(peers[1], &greeting(602), now);
    claims.refresh(now, here);
    assert!(!claims.mostly_held(now), "its head was here: it is on our branch again");
}

#[test]
fn a_cut_lasts_when_the_peer_comes_again() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[500], now);
    claims.cut(&peers[0], now + CUT);
    claims.remove(&peers[0], now);
    claims.greet(peers[0], &greeting(600), now);
    claims.refresh(now, |_| None);
    assert_eq!(claims.target(100, now), None);
    assert!(claims.target(100, now + CUT).is_some());
    for _ in 0..CUTS + 9 {
        let peer = PeerId::random();
        claims.greet(peer, &greeting(500), now);
        claims.cut(&peer, now + CUT);
        claims.remove(&peer, now);
    }
    assert_eq!(claims.cuts.len(), CUTS);
    claims.cut(&peers[0], now + CUT * 3);
    claims.remove(&peers[0], now + CUT * 2);
    assert_eq!(claims.cuts.len(), 1, "those that ended are forgotten");
}

#[test]
fn what_is_held_is_proven_and_wanted_no_more() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[500, 600], now);
    claims.refresh(now, |h| (*h == point(500).hash).then_some(500));
    assert_eq!(claims.get(&peers[0]).unwrap().proven, 500);
    assert_eq!(told(&claims, 500, now), Some((600, false)));
    claims.refresh(now, |h| [500, 600].into_iter().find(|height| point(*height).hash == *h));
    assert_eq!(claims.target(500, now), None);
}

#[test]
fn a_failure_after_a_proof_starts_the_count_again_and_busy_is_patience_with_an_end() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[500], now);
    (0..FAILURES - 1).for_each(|_| claims.fail(&peers[0], now));
    claims.prove(&peers[0], 128);
    claims.fail(&peers[0], now);
    assert!(!claims.get(&peers[0]).unwrap().is_cut(now));
    let busies = usize::from(BUSIES) * usize::from(FAILURES);
    let (mut now, second) = (now, Duration::from_secs(1));
    for _ in 0..busies - 1 {
        // Several of one moment are one.
        (0..5).for_each(|_| claims.busy(&peers[0], second, now));
        now += second;
    }
    assert!(!claims.get(&peers[0]).unwrap().is_busy(now));
    claims.busy(&peers[0], second, now);
    assert!(claims.get(&peers[0]).unwrap().is_busy(now));
    assert_eq!(claims.get(&peers[0]).unwrap().height(0, now), 128, "busy for ever is no answer");
}

#[test]
fn announcements_raise_and_only_greetings_lower() {
    let now = Instant::now();
    let (mut claims, peers) = claims(&[500], now);
    claims.raise(&peers[0], point(400));
    assert_eq!(claims.get(&peers[0]).unwrap().head, point(500));
    claims.raise(&peers[0], point(501));
    assert_eq!(claims.get(&peers[0]).unwrap().head, point(501));
    claims.greet(peers[0], &greeting(3), now);
    assert_eq!(claims.get(&peers[0]).unwrap().head, point(3));
    claims.raise(&PeerId::random(), point(9));
    assert_eq!(claims.len(), 1, "whose genesis is not known says nothing");
}

#[test]
fn a_head_that_does_not_come_is_overdue_even_when_it_goes_on_moving() {
    let start = Instant::now();
    let (mut claims, peers) = claims(&[500], start);
    let late = start + PATIENCE * 2;
    claims.refresh(late, |_| Some(500));
    for second in 0..PATIENCE.as_secs() {
        let now = late + Duration::from_secs(second);
        claims.greet(peers[0], &greeting(501 + second), now);
        claims.refresh(now, |_| None);
        assert!(!claims.get(&peers[0]).unwrap().is_overdue(now), "broadcast has its time");
    }
    assert!(claims.get(&peers[0]).unwrap().is_overdue(late + PATIENCE), "L1");
}
