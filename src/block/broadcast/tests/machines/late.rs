//! Bodies that are late: a source that drips, and who is asked besides.

use super::*;

/// Whom a body was fetched from, and when it was whole: a source of `drips` brings a piece just before it would lose its turn, the
/// others each of theirs within 50 ms. All but the first have announced it after 100 ms if `announced`.
fn fetch(pieces: usize, drips: &[PeerId], quick: &[PeerId], announced: bool) -> (Duration, HashMap<PeerId, usize>) {
    let (mut fetcher, start) = (Fetcher::new(1), Instant::now());
    fetcher.header(start, drips[0], hash(1), pieces);
    if announced {
        for peer in drips[1..].iter().chain(quick) {
            assert!(fetcher.announced(start + ms(100), *peer, news(1)));
        }
    }
    let mut open: Vec<(AskId, PeerId, Instant)> = Vec::new();
    let mut dripped: HashMap<PeerId, Instant> = HashMap::new();
    let (mut now, mut brought): (Instant, HashMap<PeerId, usize>) = (start, HashMap::new());
    while brought.values().sum::<usize>() < pieces && now < start + MAX_AGE {
        for effect in fetcher.take_effects() {
            match effect {
                Effect::Ask { id, peer, .. } => {
                    dripped.entry(peer).or_insert(now);
                    open.push((id, peer, now));
                }
                Effect::Cancel(id) => open.retain(|(i, ..)| *i != id),
                other => panic!("nobody is to blame: {other:?}"),
            }
        }
        now += ms(10);
        fetcher.tick(now);
        let due = |(_, peer, at): &&(AskId, PeerId, Instant)| match drips.contains(peer) {
            true => now >= dripped[peer] + ms(550),
            false => now >= *at + ms(50),
        };
        if let Some((id, peer, _)) = open.iter().find(due).copied() {
            open.retain(|(i, ..)| *i != id);
            dripped.insert(peer, now);
            // It may have been cancelled in this very tick.
            if fetcher.piece(now, id) {
                *brought.entry(peer).or_default() += 1;
            }
        }
    }
    (now - start, brought)
}

#[test]
fn a_source_that_drips_does_not_hold_up_a_body_that_somebody_has_announced() {
    let all = peers(5);
    // Nobody else is known to have it: there is no better than to wait.
    let (alone, brought) = fetch(WINDOW, &all[..1], &all[1..2], false);
    assert!(alone >= ms(550 * WINDOW as u64) && brought[&all[0]] == WINDOW, "{alone:?}");
    for pieces in [2, WINDOW, 3 * WINDOW] {
        // When it is late, by what is promised, and a piece each 10 ms.
        let (late, rest) = (ms(1000 + 66 * pieces as u64), ms(600 + 20 * pieces as u64));
        let (took, brought) = fetch(pieces, &all[..1], &all[1..2], true);
        assert!(took <= late + rest || pieces == 2, "{pieces}: {took:?}");
        assert!(took <= ms(550 * pieces as u64 + 100), "{pieces}: {took:?}");
        // Nor do several that announce it and drip: one more is asked each time that it is late.
        let (took, _) = fetch(pieces, &all[..3], &all[3..4], true);
        assert!(took <= late * 3 + rest, "{pieces}: {took:?}");
        assert!(brought.values().sum::<usize>() == pieces);
    }
}

#[test]
fn who_announced_a_body_that_is_late_is_asked_before_others() {
    for seed in 0..20 {
        let (mut fetcher, now, all) = (Fetcher::new(seed), Instant::now(), peers(3));
        // One has a child of it, one sent its header, one has it.
        fetcher.want(now, all[0], hash(1));
        fetcher.header(now, all[1], hash(1), 4);
        fetcher.announced(now, all[2], news(1));
        let late = ms(1000 + 66 * 4);
        let mut drip = asks(&fetcher.take_effects()).into_iter().filter(|(_, peer, _)| *peer == all[1]);
        for at in [ms(500), ms(1000)] {
            assert!(fetcher.piece(now + at, drip.next().unwrap().0));
            assert_eq!(fetcher.take_effects(), []);
        }
        fetcher.tick(now + late);
        let asked = asks(&fetcher.take_effects());
        assert!(asked.len() == 1 && asked[0].1 == all[2], "seed {seed}: {asked:?}");
    }
}
