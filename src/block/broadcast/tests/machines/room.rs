//! Places that a crowd may take, and what is kept.

use super::*;
use crate::block::broadcast::assembly::{DRIPPING, KEPT_BLOCKS};

fn nobody(_: &Hash) -> bool {
    false
}

#[test]
fn empty_blocks_are_kept_by_number_and_make_room_in_no_time() {
    let (mut assembly, now) = (Assembly::default(), Instant::now());
    let body = crate::block::Body::default().bytes().clone();
    let mut hashes = Vec::new();
    // One signature for all: only their hashes count here.
    for n in 0..3 * KEPT_BLOCKS as u64 {
        let (header, ..) = block(Point { height: n, ..GENESIS }, 5, n);
        let mut raw = header.header().clone();
        (raw.body_bytes, raw.transactions, raw.body_root) = (0, 0, crate::block::Body::default().root());
        let header = crate::block::kit::Maker::new(1).sign(raw, crate::block::Body::default());
        let header = VerifiedHeader::new(header.header().clone(), &super::super::signing()).unwrap();
        hashes.push(header.hash());
        assembly.put(now, header, body.clone());
    }
    let here = hashes.iter().filter(|hash| assembly.block(hash).is_some()).count();
    assert_eq!(here, KEPT_BLOCKS);
    assert!(assembly.block(hashes.last().unwrap()).is_some(), "the newest stay");
}

#[test]
fn bodies_of_unknown_producers_that_drip_give_way_to_one_of_the_chains() {
    let (mut assembly, now) = (Assembly::default(), Instant::now());
    let large = |producer: u64| block_by(producer, GENESIS, 8 * PIECE_BYTES, producer);
    let crowd: Vec<_> = (10..10 + PER_HEIGHT as u64).map(large).collect();
    for (header, _, body) in &crowd {
        assembly.open(now, header.clone(), pieces(body), Some(PeerId::random()), false, &|_| true).unwrap();
        assert_eq!(assembly.insert(now, &header.hash(), 0, body.slice(0..PIECE_BYTES)), Inserted::Good);
    }
    let known = large(1);
    let open = |assembly: &mut Assembly, at, proven| {
        assembly.open(at, known.0.clone(), pieces(&known.2), Some(PeerId::random()), proven, &|_| true)
    };
    assert!(open(&mut assembly, now + ms(900), false).is_err(), "all of them are fed, and announced");
    open(&mut assembly, now + ms(900), true).unwrap();
    assert_eq!(assembly.take_evicted().len(), 1);
    // One of the chain's own gives way to nobody while it comes.
    let other = large(2);
    for _ in 0..PER_HEIGHT {
        let _ = assembly.open(now + ms(950), other.0.clone(), pieces(&other.2), None, true, &|_| true);
        assembly.remove(&other.0.hash());
    }
    assert!(assembly.block(&known.0.hash()).is_some());
}

#[test]
fn a_body_that_drips_for_long_gives_way_to_anybody() {
    let (mut assembly, now) = (Assembly::default(), Instant::now());
    let large = |producer: u64| block_by(producer, GENESIS, 8 * PIECE_BYTES, producer);
    let crowd: Vec<_> = (10..10 + PER_HEIGHT as u64).map(large).collect();
    for (header, _, body) in &crowd {
        assembly.open(now, header.clone(), pieces(body), Some(PeerId::random()), false, &nobody).unwrap();
        assert_eq!(assembly.insert(now, &header.hash(), 0, body.slice(0..PIECE_BYTES)), Inserted::Good);
    }
    let late = now + DRIPPING.0 + DRIPPING.1 * 8;
    for (header, _, body) in &crowd {
        let piece = body.slice(PIECE_BYTES..2 * PIECE_BYTES);
        assert_eq!(assembly.insert(late - ms(2), &header.hash(), 1, piece), Inserted::Good);
    }
    let next = large(1);
    let open = |assembly: &mut Assembly, at| assembly.open(at, next.0.clone(), pieces(&next.2), None, false, &nobody);
    assert!(open(&mut assembly, late - ms(1)).is_err());
    open(&mut assembly, late).unwrap();
}

#[test]
fn who_announced_a_phantom_and_failed_stands_for_it_no_more() {
    let (mut core, now, all) = (Core::new(1), Instant::now(), peers(PER_HEIGHT + 1));
    all.iter().for_each(|peer| core.up(*peer));
    let large = |producer: u64| block_by(producer, GENESIS, 8 * PIECE_BYTES, producer);
    for (i, peer) in all[..PER_HEIGHT].iter().enumerate() {
        let (header, content, _) = large(10 + i as u64);
        assert!(core.on_announced(now, *peer, Announcement::of(header.header(), header.hash())));
        core.on_block(now, *peer, header, content).unwrap();
    }
    let (header, content, _) = large(1);
    let honest = all[PER_HEIGHT];
    assert!(core.on_announced(now, honest, Announcement::of(header.header(), header.hash())));
    assert!(core.on_block(now + ms(100), honest, header.clone(), content.clone()).is_err(), "all are promised");
    // They bring nothing: nobody says any more that they exist.
    for output in core.take_outputs() {
        if let Output::Ask { id, peer, .. } = output
            && peer != honest
        {
            core.on_failure(now + ms(200), id, Failure::NoAnswer);
        }
    }
    core.on_block(now + ms(300), honest, header, content).unwrap();
}

#[test]
fn a_whole_body_that_the_chain_dropped_is_given_to_it_again_and_not_fetched() {
    let (mut core, now, all) = (Core::new(1), Instant::now(), peers(2));
    all.iter().for_each(|peer| core.up(*peer));
    for bytes in [100, 8 * PIECE_BYTES] {
        let (header, content, body) = block(GENESIS, bytes, bytes as u64);
        let (hash, said) = (header.hash(), Announcement::of(header.header(), header.hash()));
        let imports = |core: &mut Core| {
            let outputs = core.take_outputs();
            assert!(!outputs.iter().any(|o| matches!(o, Output::Ask { .. })), "{outputs:?}");
            outputs.iter().filter(|o| matches!(o, Output::Import { .. })).count()
        };
        core.put(now, header.clone(), body);
        assert_eq!(imports(&mut core), 0);
        // The chain had no place for it.
        core.abandon(&hash);
        assert!(core.on_announced(now, all[0], said));
        assert_eq!(imports(&mut core), 1);
        // While it is being imported, and right after that, it is not given once more.
        core.want(now + STALE, all[0], hash);
        core.on_import_over(&hash);
        core.abandon(&hash);
        assert!(core.on_announced(now + ms(500), all[1], said));
        assert_eq!(imports(&mut core), 0);
        core.on_block(now + STALE, all[1], header, content).unwrap();
        assert_eq!(imports(&mut core), 1);
    }
}
