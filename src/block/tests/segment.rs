//! Files of blocks: there and back, in parts, and what is wrong with bad ones.

use std::io::Read;

use crate::block::{
    Block, DEFAULT_MAX_BODY_BYTES, Genesis, Origin,
    chain::Chain,
    kit::{self, Maker},
    purpose,
    segment::{self, Progress, SegmentError},
};

/// Runs what blocks away from the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn export(chain: &Chain, from: u64, to: impl Into<Option<u64>>) -> Result<Vec<u8>, SegmentError> {
    let (chain, to) = (chain.clone(), to.into());
    blocking(move || {
        let mut file = Vec::new();
        segment::export(&chain, from, to, &mut file, |_| {}).map(|_| file)
    })
    .await
}

async fn import(chain: &Chain, file: &[u8]) -> Result<Progress, SegmentError> {
    let (chain, file) = (chain.clone(), file.to_vec());
    let network = purpose(&kit::network());
    blocking(move || segment::import(&chain, &file[..], DEFAULT_MAX_BODY_BYTES, &network, |_| {})).await
}

/// A chain of 600 blocks, some with bodies.
async fn filled() -> (Chain, Vec<Block>) {
    let chain = kit::chain();
    let maker = Maker::new(1);
    let mut blocks = maker.row(&kit::genesis(), 300, 0);
    blocks.extend(maker.row(&blocks[299], 300, 50));
    chain.import_segment(blocks.clone(), Origin::File).await.unwrap();
    (chain, blocks)
}

#[tokio::test]
async fn a_chain_goes_into_a_file_and_out_of_it_in_parts_and_again() {
    let (source, blocks) = filled().await;
    let target = kit::chain();
    let first = export(&source, 0, 400).await.unwrap();
    let second = export(&source, 380, 600).await.unwrap();
    let gap = import(&target, &second).await.unwrap_err();
    assert!(matches!(gap, SegmentError::Gap { first: 380, head: 0 }), "{gap}");
    let done = import(&target, &first).await.unwrap();
    assert_eq!(done, Progress { next: 401, last: 400, blocks: 400, skipped: 0 });
    let done = import(&target, &second).await.unwrap();
    assert_eq!((done.blocks, done.skipped), (221, 21));
    assert_eq!(target.status(), source.status());
    let again = import(&target, &first).await.unwrap();
    assert_eq!((again.blocks, again.skipped), (400, 400));
    let whole = export(&target, 1, 600).await.unwrap();
    assert_eq!(whole, export(&source, 0, 600).await.unwrap());
    assert_eq!(target.block(&blocks[450].hash()).unwrap().unwrap().body, blocks[450].body().bytes());
    let none = export(&source, 5, 601).await.unwrap_err();
    assert!(matches!(none, SegmentError::NoSuchRange { to: 601, head: 600, .. }), "{none}");
    let none = export(&source, 601, None).await.unwrap_err();
    assert!(matches!(none, SegmentError::Above { from: 601, head: 600 }), "{none}");
    assert!(matches!(export(&source, 6, 5).await, Err(SegmentError::Backwards { from: 6, to: 5 })));
    assert!(matches!(export(&kit::chain(), 1, None).await, Err(SegmentError::Empty)));
    assert_eq!(export(&source, 1, None).await.unwrap(), whole);
    // Two files in one: the second one is not lost without a word.
    let empty = kit::chain();
    let both = [export(&source, 1, 400).await.unwrap(), export(&source, 401, 600).await.unwrap()].concat();
    assert!(matches!(import(&empty, &both).await, Err(SegmentError::Trailing { last: 400 })));
    assert_eq!(empty.status().head.height, 400);
}

#[tokio::test]
async fn an_import_that_was_cut_off_goes_on_with_the_whole_file() {
    let (source, _) = filled().await;
    let file = export(&source, 1, 600).await.unwrap();
    let target = kit::chain();
    assert!(matches!(import(&target, &file[..60]).await, Err(SegmentError::Truncated { height: 1 })));
    let mut last = 0;
    for cut in [5_000, 70_000, 100_000, file.len() - 40, file.len() - 3] {
        let error = import(&target, &file[..cut]).await.unwrap_err();
        assert!(matches!(error, SegmentError::Truncated { .. } | SegmentError::Unended { .. }), "at {cut}: {error}");
        let head = target.status().head.height;
        let whole = if let SegmentError::Truncated { height } = error { height - 1 } else { 600 };
        assert_eq!(head, whole, "every whole block is taken, and nothing comes later");
        assert!(head > last || cut == file.len() - 3);
        last = head;
    }
    assert_eq!(last, 600);
    let done = import(&target, &file).await.unwrap();
    assert_eq!(done.skipped, 600);
}

#[tokio::test]
async fn every_changed_byte_is_found_and_nothing_bad_is_taken() {
    let (source, blocks) = filled().await;
    let file = export(&source, 290, 310).await.unwrap();
    for at in (0..file.len()).step_by(37) {
        let target = kit::chain();
        target.import_segment(blocks[..289].to_vec(), Origin::File).await.unwrap();
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        let error = import(&target, &bad).await.expect_err("it is found");
        assert!(!error.to_string().is_empty(), "byte {at}");
        let head = target.status().head;
        assert_eq!(source.hash_at(head.height).unwrap(), Some(head.hash), "byte {at}: {error}");
    }
}

#[tokio::test]
async fn foreign_files_are_refused_in_clear_words() {
    let (source, blocks) = filled().await;
    let file = export(&source, 1, 50).await.unwrap();
    let text = async |chain: &Chain, file: &[u8]| import(chain, file).await.unwrap_err().to_string();
    let empty = kit::chain();
    assert!(text(&empty, b"").await.contains("no file of blocks"));
    assert!(text(&empty, b"something else, long enough for a start of a file of blocks").await.contains("no file"));
    let mut newer = file.clone();
    newer[7] = 9;
    assert!(text(&empty, &newer).await.contains("version 9"));
    let mut rules = kit::rules(12);
    rules.genesis = Genesis::of(&"other".parse().unwrap()).block();
    let store = std::sync::Arc::new(crate::block::chain::Memory::default());
    let clock = std::sync::Arc::new(crate::primitives::ManualClock::new(kit::NOW));
    let other = kit::chain_with(rules, store, clock);
    assert!(text(&other, &file).await.contains("genesis"));
    let rival = kit::chain();
    let branch = Maker::new(2).row(&blocks[4], 60, 0);
    rival.import_segment(blocks[..5].to_vec(), Origin::File).await.unwrap();
    rival.import_segment(branch, Origin::File).await.unwrap();
    let error = import(&rival, &file).await.unwrap_err();
    assert!(matches!(error, SegmentError::OtherBranch { height: 6 }), "{error}");
    // One whose first block builds on what is not here is not bad: the two parted below.
    let late = export(&source, 55, 60).await.unwrap();
    let error = import(&rival, &late).await.unwrap_err();
    let from = rival.status().committed.height + 1;
    assert!(matches!(error, SegmentError::Unlinked { height: 55, from: f } if f == from), "{error}");
    // A count that nobody can hold is read as far as it goes.
    let mut endless = file.clone();
    endless[48..56].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(import(&empty, &endless).await.is_err());
    endless[48..56].copy_from_slice(&(u64::MAX / 2).to_be_bytes());
    assert!(matches!(import(&empty, &endless).await, Err(SegmentError::Block { height: 51, .. })));
}

/// Gives few bytes at a time.
struct Slow<R>(R);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = into.len().min(7);
        self.0.read(&mut into[..n])
    }
}

#[tokio::test]
async fn a_slow_file_is_read_as_well_and_progress_is_told() {
    let (source, _) = filled().await;
    let file = export(&source, 1, 600).await.unwrap();
    let target = kit::chain();
    let (chain, network) = (target.clone(), purpose(&kit::network()));
    let told = blocking(move || {
        let mut told = Vec::new();
        segment::import(&chain, Slow(&file[..]), DEFAULT_MAX_BODY_BYTES, &network, |p| told.push(p.blocks)).unwrap();
        told
    })
    .await;
    assert!(told.len() >= 3 && told.is_sorted() && told.last() == Some(&600), "{told:?}");
    assert_eq!(target.status().head, source.status().head);
}
