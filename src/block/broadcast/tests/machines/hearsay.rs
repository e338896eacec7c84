//! Blocks that are known by word only.

use super::*;

#[test]
fn who_announces_a_block_as_what_it_is_not_is_blamed_and_out_whether_its_header_came_before_or_after() {
    let (now, all) = (Instant::now(), peers(5));
    let (header, content, _) = block(GENESIS, 2 * PIECE_BYTES, 1);
    let truth = Announcement::of(header.header(), header.hash());
    let higher = Announcement { point: Point { height: 7, ..truth.point }, ..truth };
    let longer = Announcement { body_bytes: truth.body_bytes + 1, ..truth };
    let blamed = |core: &mut Core| {
        let outputs = core.take_outputs();
        let blamed = |o: &Output| if let Output::Blame(peer, Fault::WrongData) = o { Some(*peer) } else { None };
        outputs.iter().filter_map(blamed).collect::<HashSet<_>>()
    };
    let mut core = Core::new(1);
    for (peer, said) in all.iter().zip([higher, longer, truth]) {
        assert!(core.on_announced(now, *peer, said));
    }
    assert!(blamed(&mut core).is_empty(), "nobody knows");
    core.on_block(now, all[3], header, content).unwrap();
    assert_eq!(blamed(&mut core), HashSet::from([all[0], all[1]]));
    assert!(core.on_announced(now, all[4], longer));
    assert_eq!(blamed(&mut core), HashSet::from([all[4]]));
    // Whoever told the truth is a source, and they are not, though all else fails.
    let mut asked = HashSet::new();
    for i in 0..200 {
        core.tick(now + ms(500 * i));
        let outputs = core.take_outputs();
        asked.extend(outputs.iter().filter_map(|o| if let Output::Ask { peer, .. } = o { Some(*peer) } else { None }));
    }
    assert_eq!(asked, HashSet::from([all[2], all[3]]));
}

#[test]
fn hashes_that_nobody_has_shown_to_exist_give_way_to_a_header_and_whoever_is_always_busy_keeps_no_place() {
    let (mut fetcher, now, liars) = (Fetcher::new(1), Instant::now(), peers(MAX_ENTRIES / FETCHES_PER_PEER));
    for (i, liar) in (0..).zip(&liars) {
        let (from, to) = (i * FETCHES_PER_PEER as u64, (i + 1) * FETCHES_PER_PEER as u64);
        assert!((from..to).all(|n| fetcher.announced(now, *liar, news(n))));
    }
    let honest = peers(1)[0];
    assert_eq!(fetcher.len(), MAX_ENTRIES);
    for n in 0..50 {
        assert!(!fetcher.announced(now, honest, news(1_000_000 + n)), "there is no room for one more hash");
    }
    for n in 0..FETCHES_PER_PEER as u64 {
        assert!(fetcher.header(now, honest, hash(2_000_000 + n), 2), "but for a block");
    }
    assert_eq!(fetcher.len(), MAX_ENTRIES);
    assert!(
        !fetcher.take_effects().iter().any(|e| matches!(e, Effect::Blame(..))),
        "nobody flooded us but those who did"
    );
    // One that is asked and always busy.
    let mut fetcher = Fetcher::new(1);
    assert!(fetcher.announced(now, liars[0], news(1)));
    let mut at = now;
    for _ in 0..90 {
        at += ms(500);
        fetcher.tick(at);
        for (id, ..) in asks(&fetcher.take_effects()) {
            fetcher.failed(at, id, Failure::Busy);
        }
    }
    assert!(fetcher.is_empty() && at < now + MAX_AGE / 2);
}
