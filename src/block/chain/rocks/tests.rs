//! The chain on disk: what survives, what is read together, and what becomes of packs.

use std::process::Command;

use futures::executor::block_on;

use super::*;
use crate::{
    block::{
        Block, Origin,
        chain::{Core, Longest},
        kit::{self, Maker},
        record,
    },
    primitives::ManualClock,
};

/// Blocks of one write: their bodies go into a pack.
const PART: usize = 25;
const DEPTH: u64 = 4;
/// Set in the process that is to end: where its store is.
const DIR: &str = "VOS_TEST_ENDS_IN";
/// How many parts it writes, and whether it ends in the middle of the next one.
const AFTER: &str = "VOS_TEST_ENDS_AFTER";

fn row() -> Vec<Block> {
    let row = Maker::new(1).row(&kit::genesis(), 4 * PART, 100_000);
    let bytes: usize = row[..PART].iter().map(|b| b.body().bytes().len()).sum();
    assert!(bytes >= PACKED_BYTES);
    row
}

fn open(dir: &std::path::Path) -> Rocks {
    Rocks::open(Store::open(dir).unwrap()).unwrap()
}

/// Makes a pack that no row names.
fn pack(rocks: &Rocks, blocks: &[Block]) {
    let blocks: Vec<_> = blocks.iter().collect();
    let begun = rocks.put_in_pack(None, &blocks).unwrap().unwrap();
    Rocks::finish(begun, &blocks).unwrap();
}

/// Ends as a killed process does: nothing is closed.
fn end_after(dir: &std::path::Path, parts: usize, ending: &str) {
    let (rocks, row) = (open(dir), row());
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
    let mut all = row.chunks(PART);
    for part in all.by_ref().take(parts) {
        core.import_segment(part.to_vec(), Origin::File, kit::NOW).unwrap();
    }
    match ending {
        "packed" => pack(&rocks, all.next().unwrap()),
        "begun" => rocks.prepare(all.next().unwrap()),
        // In the middle of [`Rocks::erase`].
        "forgotten" => rocks.store.clear(&[Family::Block, Family::BlockFresh, Family::BlockBody]).unwrap(),
        _ => {}
    }
    std::process::abort();
}

#[test]
fn large_writes_survive_the_end_of_the_process_with_every_body() {
    if let Some(dir) = std::env::var_os(DIR) {
        let after = std::env::var(AFTER).unwrap();
        let (parts, ending) = after.split_once(' ').unwrap();
        return end_after(dir.as_ref(), parts.parse().unwrap(), ending);
    }
    let (row, me) = (row(), std::env::current_exe().unwrap());
    for (parts, ending) in
        [(1, ""), (3, ""), (0, "packed"), (2, "packed"), (0, "begun"), (2, "begun"), (3, "forgotten")]
    {
        let dir = tempfile::tempdir().unwrap();
        let name = "block::chain::rocks::tests::large_writes_survive_the_end_of_the_process_with_every_body";
        let after = format!("{parts} {ending}");
        let mut process = Command::new(&me);
        process.args(["--exact", name]).env(DIR, dir.path()).env(AFTER, after);
        let ended = process.output().unwrap().status;
        assert!(!ended.success() && ended.code().is_none(), "it was ended by a signal: {ended}");
        let there = || std::fs::read_dir(dir.path().join("bodies/block")).unwrap().count();
        assert_eq!(there(), parts + usize::from(matches!(ending, "packed" | "begun")));
        let rocks = open(dir.path());
        let kept = if ending == "forgotten" { 0 } else { parts };
        assert_eq!(there(), kept, "those that nobody names are removed");
        let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
        let height = kept * PART;
        assert_eq!(core.head().height, height as u64);
        assert_eq!(core.committed().height, (height as u64).saturating_sub(DEPTH));
        for block in &row[..height] {
            assert_eq!(rocks.body(&block.hash()).unwrap().as_ref(), Some(block.body().bytes()));
        }
        // And goes on from there.
        let rest = core.import_segment(row[height..].to_vec(), Origin::File, kit::NOW).unwrap().0;
        assert_eq!((rest.held, core.head().height), (row.len() - height, row.len() as u64));
    }
}

#[test]
fn a_forgotten_chain_leaves_nothing_and_another_one_can_begin() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
    // Bodies in packs and in rows, forks, and some that lost.
    let row = row();
    core.import_segment(row.clone(), Origin::File, kit::NOW).unwrap();
    let small = Maker::new(1).row(&row[row.len() - 1], 6, 5000);
    for block in [&small[..], &Maker::new(2).row(&small[0], 3, 5000)].concat() {
        core.import(block, Origin::File, kit::NOW).unwrap();
    }
    let (head, store) = (core.head(), rocks.store.clone());
    store
        .write_unsynced({
            let mut other = Batch::new();
            other.put(Family::Inbox, "mail", "stays");
            other
        })
        .unwrap();
    drop((core, rocks));
    assert_eq!(Rocks::erase(&store).unwrap(), Some(head));
    assert_eq!(Rocks::erase(&store).unwrap(), None);
    for family in [Family::Block, Family::BlockFresh, Family::BlockBody] {
        assert_eq!(store.scan(family, b"", None, 10).unwrap(), []);
    }
    assert_eq!(std::fs::read_dir(dir.path().join("bodies/block")).unwrap().count(), 0);
    assert_eq!(store.get(Family::Inbox, b"mail").unwrap().unwrap(), b"stays");
    let mut rules = kit::rules(DEPTH);
    rules.genesis = crate::block::Genesis { time: kit::NOW, extra: "another".into() }.block();
    let core = Core::open(rules, Arc::new(Rocks::open(store).unwrap()), kit::NOW).unwrap();
    assert_eq!(core.head().height, 0);
}

#[test]
fn many_are_read_as_one_by_one_would_be() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
    // In files and in memory, with bodies in files of their own, next to their keys, and none.
    let large = Maker::new(1).row(&kit::genesis(), PART, 100_000);
    let small = Maker::new(1).row(&large[PART - 1], 10, 100);
    let empty = Maker::new(1).row(&small[9], 10, 0);
    for part in [large, small, empty] {
        core.import_segment(part, Origin::File, kit::NOW).unwrap();
    }
    let mut hashes = rocks.hashes(0, 100).unwrap();
    assert_eq!(hashes.len(), PART + 21);
    hashes.insert(7, Hash::of(b"no such block"));
    hashes.push(hashes[3]);
    hashes.reverse();
    let one_by_one: Vec<_> = hashes.iter().map(|h| rocks.header(h).unwrap()).collect();
    assert_eq!(rocks.headers(&hashes).unwrap(), one_by_one);
    // Rows of every length from every place end where one is missing or there is no more room.
    for from in 0..hashes.len() {
        for max_bytes in [0, 1000, 150_000, 350_000, usize::MAX] {
            let (mut expected, mut bytes) = (Vec::new(), 0_usize);
            for hash in &hashes[from..] {
                let Some(header) = rocks.header(hash).unwrap() else { break };
                let body = rocks.body(hash).unwrap().unwrap_or_default();
                bytes += header.len() + body.len();
                if bytes > max_bytes && !expected.is_empty() {
                    break;
                }
                expected.push((header, body));
            }
            assert_eq!(rocks.blocks(&hashes[from..], max_bytes).unwrap(), expected);
        }
    }
}

#[test]
fn blocks_that_came_together_are_read_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
    let maker = Maker::new(1);
    // Two packs, of which the first has empty bodies too, and then blocks that are in none.
    let mut first = maker.row(&kit::genesis(), PART, 100_000);
    first.extend(maker.row(&first[PART - 1], 3, 0));
    let second = maker.row(&first[PART + 2], PART, 100_000);
    let small = maker.row(&second[PART - 1], 5, 10);
    let all = [first, second, small].concat();
    for part in [&all[..PART + 3], &all[PART + 3..2 * PART + 3], &all[2 * PART + 3..]] {
        core.import_segment(part.to_vec(), Origin::File, kit::NOW).unwrap();
    }
    assert_eq!((packs(&rocks).len(), rocks.counted().values().sum::<u32>()), (2, 2 * PART as u32));
    let ends = [PART + 3, 2 * PART + 3];
    for from in 1..=all.len() {
        for count in [1, 2, 10, 100] {
            for max_bytes in [0, 1000, 150_000, 350_000, usize::MAX] {
                let stretch = rocks.stretch(from as u64, count, max_bytes).unwrap();
                let Some(end) = ends.iter().find(|end| from <= **end) else {
                    assert_eq!(stretch, None, "in no pack");
                    continue;
                };
                let stretch = stretch.expect("in a pack");
                let hashes = rocks.hashes(from as u64, count.min(end - from + 1)).unwrap();
                let expected = rocks.blocks(&hashes, max_bytes).unwrap();
                assert_eq!(record::apart(stretch.bytes), expected, "{count} from {from}");
                let last = &all[from + expected.len() - 2];
                assert_eq!((stretch.count, stretch.last.hash), (expected.len(), last.hash()));
                assert_eq!(stretch.parent, all[from - 1].header().parent);
            }
        }
    }
    assert_eq!(rocks.stretch(0, 10, usize::MAX).unwrap(), None, "the genesis block came alone");
    assert_eq!(rocks.stretch(u64::MAX, 10, usize::MAX).unwrap(), None);
    // Damaged ones are left to who reads them one by one, and says so.
    let path = dir.path().join("bodies/block/0000000000000000");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(rocks.stretch(1, 2, usize::MAX).unwrap(), None, "a header");
    assert!(rocks.stretch(2, 2, usize::MAX).unwrap().is_some());
    assert_eq!(rocks.blocks(&rocks.hashes(1, 2).unwrap(), usize::MAX).unwrap().len(), 2, "which has a row of its own");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(rocks.stretch(2, 2, usize::MAX).unwrap(), None);
}

#[test]
fn packs_of_an_older_store_are_read_and_go_as_they_did() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path()).packing_from(1);
    let row = Maker::new(1).row(&kit::genesis(), 4, 1000);
    // As they were: bodies alone, a count without a height, and no index.
    let bodies: Vec<&[u8]> = row.iter().map(|b| &b.body().bytes()[..]).collect();
    let mut pack = rocks.store.write_pack(0, 1).unwrap();
    let spots = pack.put(&bodies).unwrap();
    pack.finish().unwrap();
    let spots = row.iter().map(Block::hash).zip(spots).collect();
    let old = Packed { number: 0, spots, index: None };
    rocks.put(&add(&row), Some(&old), true).unwrap();
    assert_eq!(rocks.store.get(Family::Block, &by_pack(0)).unwrap().unwrap(), [0, 0, 0, 4]);
    let rocks = Rocks::open(rocks.store.clone()).unwrap().packing_from(1);
    assert_eq!(rocks.stretch(1, 4, usize::MAX).unwrap(), None);
    let hashes: Vec<_> = row.iter().map(Block::hash).collect();
    let expected: Vec<_> = row.iter().map(|b| (Bytes::from(b.header().encode()), b.body().bytes().clone())).collect();
    assert_eq!(rocks.blocks(&hashes, usize::MAX).unwrap(), expected);
    rocks.write(&evict(&row[..3]), true).unwrap();
    assert_eq!(rocks.counted(), HashMap::from([(0, 1)]));
    rocks.write(&evict(&row[3..]), true).unwrap();
    rocks.store.close();
    assert!(packs(&rocks).is_empty());
}

#[test]
fn what_left_the_best_chain_is_not_served_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = Arc::new(open(dir.path()).packing_from(1));
    let clock = Arc::new(ManualClock::new(kit::NOW));
    let rules = kit::rules_with(12, Arc::new(Longest));
    let chain = kit::chain_with(rules, rocks.clone(), clock);
    let old = Maker::new(1).row(&kit::genesis(), 8, 1000);
    let new = Maker::new(2).row(&old[3], 6, 1000);
    let import = |blocks: &[Block]| block_on(chain.import_segment(blocks.to_vec(), Origin::File)).unwrap();
    import(&old);
    let hashes = |from| chain.stretch(from, 100, usize::MAX).unwrap().map(|s| (s.count, s.last.hash));
    assert_eq!(hashes(1), Some((8, old[7].hash())));
    import(&new);
    assert_eq!(chain.status().head.hash, new[5].hash());
    assert_eq!((hashes(1), hashes(5)), (None, None), "the pack of the old branch ends on it");
    let prefix = chain.stretch(1, 4, usize::MAX).unwrap().unwrap();
    assert_eq!((prefix.count, prefix.last.hash), (4, old[3].hash()), "what both branches have");
    assert_eq!(hashes(9), Some((2, new[5].hash())), "above it there is the pack of the new one");
    // Everything is served all the same.
    let all: Vec<_> = chain.range(1, 100, usize::MAX).unwrap().into_iter().map(|b| b.hash).collect();
    assert_eq!(all, points(&[&old[..4], &new].concat()).iter().map(|p| p.hash).collect::<Vec<_>>());
}

fn packs(rocks: &Rocks) -> Vec<u64> {
    rocks.store.body_numbers(Shelf::Block).unwrap()
}

fn points(all: &[Block]) -> Vec<Point> {
    all.iter().map(|b| Point { height: b.header().height, hash: b.hash() }).collect()
}

fn add(all: &[Block]) -> Change {
    Change { added: all.to_vec(), attached: points(all), ..Change::default() }
}

fn evict(all: &[Block]) -> Change {
    Change { evicted: points(all), ..Change::default() }
}

#[test]
fn bodies_of_final_blocks_are_kept_apart_from_those_that_go() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
    let (row, losers) = (Maker::new(1).row(&kit::genesis(), 10, 5000), Maker::new(2).row(&kit::genesis(), 2, 5000));
    let kept = |family| -> Vec<Vec<u8>> {
        let mut keys: Vec<_> =
            rocks.store.scan(family, b"", None, 100).unwrap().into_iter().map(|(key, _)| key).collect();
        keys.sort();
        keys
    };
    let hashes = |blocks: &[Block]| {
        let mut hashes: Vec<_> = blocks.iter().map(|b| b.hash().as_bytes().to_vec()).collect();
        hashes.sort();
        hashes
    };
    for block in [&row[..3], &losers, &row[3..]].concat() {
        core.import(block, Origin::File, kit::NOW).unwrap();
    }
    let last = row.len() - usize::try_from(DEPTH).unwrap();
    assert_eq!(core.committed().height, last as u64);
    assert_eq!(kept(Family::BlockBody), hashes(&row[..last]));
    assert_eq!(kept(Family::BlockFresh), hashes(&[&row[last..], &losers].concat()), "losers are kept for a while");
    let all = rocks.blocks(&row.iter().map(Block::hash).collect::<Vec<_>>(), usize::MAX).unwrap();
    assert!(all.iter().zip(&row).all(|((_, body), b)| body == b.body().bytes()) && all.len() == row.len());
    // More than one write moves stays where it is, and is found there.
    rocks.write(&Change { committed: points(&row[last..]), ..Change::default() }, true).unwrap();
    assert_eq!(kept(Family::BlockBody), hashes(&row));
    let large: Vec<_> = (0..5u64).map(|n| Maker::new(n + 3).row(&row[9], 1, 4_000_000).remove(0)).collect();
    large.iter().for_each(|b| rocks.write(&Change { added: vec![b.clone()], ..Change::default() }, false).unwrap());
    rocks.write(&Change { committed: points(&large), ..Change::default() }, true).unwrap();
    assert_eq!(kept(Family::BlockBody).len(), row.len() + SETTLED_BYTES / 4_000_000);
    assert!(large.iter().all(|b| rocks.body(&b.hash()).unwrap().as_ref() == Some(b.body().bytes())));
    rocks.write(&evict(&large), true).unwrap();
    assert_eq!((kept(Family::BlockBody), kept(Family::BlockFresh)), (hashes(&row), hashes(&losers)));
}

#[test]
fn a_pack_goes_with_the_last_of_its_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path()).packing_from(1);
    let row = Maker::new(1).row(&kit::genesis(), 6, 1000);
    let loser = Maker::new(2).row(&kit::genesis(), 1, 1000);
    rocks.write(&Change { added: [&row[..4], &loser].concat(), ..add(&row[..4]) }, true).unwrap();
    assert!(
        rocks.store.contains(Family::BlockFresh, loser[0].hash().as_bytes()).unwrap(),
        "not for as long as the pack"
    );
    // One is evicted by the write that adds it, and one that was written before.
    let change = Change { evicted: points(&[row[4].clone(), row[0].clone()]), ..add(&row[4..]) };
    rocks.write(&change, true).unwrap();
    assert_eq!(packs(&rocks).len(), 2);
    for (i, block) in row.iter().enumerate() {
        let body = rocks.body(&block.hash()).unwrap();
        assert_eq!(body.as_ref(), Some(block.body().bytes()).filter(|_| ![0, 4].contains(&i)), "{i}");
    }
    drop(rocks);
    let rocks = open(dir.path()).packing_from(1);
    rocks.write(&evict(&row[1..4]), true).unwrap();
    rocks.store.close();
    assert_eq!(packs(&rocks), [1]);
    drop(rocks);
    let rocks = open(dir.path()).packing_from(1);
    rocks.write(&evict(&row[5..]), true).unwrap();
    // All that it adds goes at once.
    rocks.write(&Change { evicted: points(&row[..1]), ..add(&row[..1]) }, true).unwrap();
    rocks.store.close();
    assert!(packs(&rocks).is_empty());
}

#[test]
fn packs_whose_rows_are_not_written_are_removed_with_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let row = row();
    rocks.write(&add(&row[..PART]), true).unwrap();
    // On a full disk nothing is begun.
    rocks.store.pretend_full(true);
    assert!(matches!(rocks.write(&add(&row[PART..2 * PART]), true), Err(StoreError::DiskFull(_))));
    rocks.store.pretend_full(false);
    assert_eq!(packs(&rocks), [0]);
    // As if two writes of rows had failed: one's were written all the same, and one's were not.
    pack(&rocks, &row[PART..2 * PART]);
    let other = packs(&rocks).into_iter().max().unwrap();
    rocks.packs.lock().unwrap().doubtful = vec![0, other];
    rocks.write(&Change::default(), true).unwrap();
    assert!(rocks.packs.lock().unwrap().doubtful.is_empty());
    // A write that does fail after the pack, since nobody commits any more; what was to be removed is.
    rocks.store.close();
    assert_eq!(packs(&rocks), [0]);
    assert_eq!(rocks.write(&add(&row[PART..2 * PART]), true), Err(StoreError::Stopped));
    assert_eq!((packs(&rocks).len(), rocks.packs.lock().unwrap().doubtful.len()), (2, 1));
    drop(rocks);
    let rocks = open(dir.path());
    assert_eq!(packs(&rocks), [0]);
    assert_eq!(rocks.body(&row[3].hash()).unwrap().as_ref(), Some(row[3].body().bytes()));
}

#[test]
fn a_pack_begun_ahead_becomes_that_of_the_write_or_goes() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = open(dir.path());
    let row = row();
    rocks.prepare(&row[..2]);
    assert!(packs(&rocks).is_empty(), "too few");
    for end in [PART, PART + 3, 2 * PART] {
        rocks.prepare(&row[..end]);
        assert_eq!(packs(&rocks), [0]);
    }
    // More may come with the write itself.
    let last = 2 * PART + 5;
    rocks.write(&add(&row[..last]), true).unwrap();
    assert_eq!((packs(&rocks), rocks.counted()), (vec![0], HashMap::from([(0, u32::try_from(last).unwrap())])));
    let stretch = rocks.stretch(1, 2 * PART + 5, usize::MAX).unwrap().expect("in one piece");
    let expected: Vec<_> =
        row[..last].iter().map(|b| (Bytes::from(b.header().encode()), b.body().bytes().clone())).collect();
    assert_eq!((stretch.count, record::apart(stretch.bytes)), (last, expected));
    // Of a write that came otherwise than it was prepared, and of one that did not come.
    rocks.prepare(&row[last..last + PART]);
    rocks.prepare(&row[last + 1..last + 1 + PART]);
    assert_eq!(packs(&rocks).len(), 2, "what was begun for others goes");
    rocks.write(&Change { added: row[last..last + 3].to_vec(), ..Change::default() }, true).unwrap();
    assert_eq!(packs(&rocks), [0]);
    for block in &row[..last + 3] {
        assert_eq!(rocks.body(&block.hash()).unwrap().as_ref(), Some(block.body().bytes()));
    }
    // A full disk is told by the write.
    rocks.store.pretend_full(true);
    rocks.prepare(&row[last..]);
    assert_eq!(packs(&rocks), [0]);
    assert!(matches!(rocks.write(&add(&row[last..]), true), Err(StoreError::DiskFull(_))));
    rocks.store.pretend_full(false);
    rocks.prepare(&row[last..]);
    rocks.write(&add(&row[last..]), true).unwrap();
    assert_eq!(packs(&rocks).len(), 2);
}

#[test]
fn a_body_that_is_damaged_or_missing_in_its_pack_is_an_error_and_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let row = row();
    let rocks = open(dir.path());
    let mut core = Core::open(kit::rules(DEPTH), Arc::new(rocks.clone()), kit::NOW).unwrap();
    core.import_segment(row[..PART].to_vec(), Origin::File, kit::NOW).unwrap();
    let hashes = rocks.hashes(1, PART).unwrap();
    let path = dir.path().join("bodies/block/0000000000000000");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 * 100_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let bad = rocks.blocks(&hashes, usize::MAX).unwrap().len();
    assert!((1..4).contains(&bad), "those before it are served");
    assert!(matches!(rocks.blocks(&hashes[bad..], usize::MAX), Err(StoreError::Damaged(_))));
    assert!(matches!(rocks.body(&hashes[bad]), Err(StoreError::Damaged(_))));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(rocks.blocks(&hashes, usize::MAX), Err(StoreError::Damaged(_))));
    drop((core, rocks));
    let rocks = open(dir.path());
    let opened = Core::open(kit::rules(DEPTH), Arc::new(rocks), kit::NOW);
    assert!(opened.unwrap_err().to_string().contains("body is missing"));
}
