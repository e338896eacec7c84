//! What is written is read; what no honest peer writes is refused before it costs anything.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::stored;
use crate::{
    block::{
        Point,
        chain::{Stored, Stretch},
        kit::{self, Maker},
        sync::wire::{self, *},
    },
    primitives::{Hash, PeerId, UnixMillis},
    wire::proto::block_sync as pb,
};

fn greeting(address: PeerId) -> Greeting {
    let point = |height: u64| Point { height, hash: Hash::of(&height.to_be_bytes()) };
    Greeting {
        genesis: Hash::of(b"genesis"),
        timestamp: UnixMillis(1_790_000_000_123),
        committed: point(88),
        head: point(100),
        earliest: 1,
        address,
    }
}

#[test]
fn a_greeting_comes_back_and_no_other_is_taken() {
    let peer = PeerId::random();
    let raw = greeting(peer).to_wire();
    assert_eq!(Greeting::read(&raw, peer), Some(greeting(peer)));
    assert_eq!(Greeting::read(&raw, PeerId::random()), None, "somebody else's");
    let changes: [fn(&mut pb::Shakehand); 7] = [
        |r| r.version = 2,
        |r| r.genesis = Bytes::from_static(b"short"),
        |r| r.head_hash = vec![0; 33].into(),
        |r| r.committed_hash = Bytes::new(),
        |r| r.address = vec![7; 4000].into(),
        |r| r.head_height = 87,
        |r| r.earliest = 102,
    ];
    for change in changes {
        let mut wrong = raw.clone();
        change(&mut wrong);
        assert_eq!(Greeting::read(&wrong, peer), None, "{wrong:?}");
    }
    assert!(raw.encoded_len() < 512);
}

#[test]
fn pulls_are_within_limits() {
    let read = |start, count, max_bytes| wire::read_pull_request(&pb::PullBlock { start, count, max_bytes });
    assert_eq!(read(5, 128, 0), Some((Span { start: 5, count: 128 }, SOFT_BYTES)));
    assert_eq!(read(5, 1, 100), Some((Span { start: 5, count: 1 }, 100)));
    assert_eq!(read(5, 1, u32::MAX).unwrap().1, SOFT_BYTES);
    assert_eq!((read(5, 0, 0), read(5, 129, 0), read(u64::MAX, 1, 0)), (None, None, None));
    assert!(read(u64::MAX - 1, 1, 0).is_some());
    let read = |start, count, stride| wire::read_headers_request(&pb::GetHeaders { start, count, stride });
    assert!(read(0, 512, 1 << 40).is_some() && read(u64::MAX, 1, 1).is_some());
    assert_eq!((read(0, 0, 1), read(0, 513, 1), read(0, 1, 0)), (None, None, None));
    assert_eq!((read(0, 3, u64::MAX), read(u64::MAX, 2, 1)), (None, None));
}

fn encode(push: &Push<Stored>, count: u32) -> Vec<u8> {
    wire::push_response(push, count).concat()
}

fn decode(bytes: Vec<u8>, span: Span) -> Option<Push<RawBlock>> {
    wire::read_push_response(pb::PushBlock::decode(Bytes::from(bytes)).ok()?, span)
}

#[test]
fn blocks_come_back_in_one_piece_and_share_its_bytes() {
    let row = Maker::new(1).row(&kit::genesis(), 5, 3000);
    let push = Push::Blocks(row.iter().map(stored).collect());
    let span = Span { start: 1, count: 5 };
    let pieces = wire::push_response(&push, 5);
    assert!(row.iter().all(|b| pieces.iter().any(|p| p.as_ptr() == b.body().bytes().as_ptr())), "no copy");
    let bytes: Bytes = encode(&push, 5).into();
    let raw = pb::PushBlock::decode(bytes.clone()).unwrap();
    assert_eq!(raw.status(), pb::push_block::Status::Ok);
    assert_eq!(Bytes::from(raw.encode_to_vec()), bytes, "as prost itself would write it");
    let Some(Push::Blocks(read)) = wire::read_push_response(raw, span) else { panic!("not read") };
    for (read, block) in read.iter().zip(&row) {
        assert_eq!((&read.header[..], &read.body), (&block.header().encode()[..], block.body().bytes()));
        assert!(bytes.as_ptr_range().contains(&read.body.as_ptr()), "no copy");
    }
    let partial = encode(&push, 9);
    assert!(matches!(decode(partial.clone(), Span { start: 1, count: 9 }), Some(Push::Blocks(b)) if b.len() == 5));
    assert_eq!(decode(partial, span), None, "all of them are not a part");
    assert_eq!(decode(bytes.to_vec(), Span { start: 1, count: 4 }), None, "more than was asked for");
    assert_eq!(decode(bytes.to_vec(), Span { start: 1, count: 6 }), None, "fewer, and called all");
}

#[test]
fn a_stretch_goes_out_as_its_blocks_would() {
    let row = Maker::new(1).row(&kit::genesis(), 5, 3000);
    let blocks = |range: std::ops::Range<usize>| {
        let push = Push::Blocks(row[range.clone()].iter().map(stored).collect());
        let pushed = pb::PushBlock::decode(Bytes::from(encode(&push, 9))).unwrap();
        let (parent, last) = (row[range.start].header().parent, &row[range.end - 1]);
        let last = Point { height: last.header().height, hash: last.hash() };
        Stretch { bytes: pushed.blocks, count: range.len(), parent, last }
    };
    let all = Push::Blocks(row.iter().map(stored).collect());
    for count in [5, 9] {
        let stretches = [blocks(0..2), blocks(2..5)];
        let pieces = wire::stretch_response(&stretches, count);
        assert_eq!(pieces.concat(), encode(&all, count));
        assert!(stretches.iter().all(|s| pieces.iter().any(|p| p.as_ptr() == s.bytes.as_ptr())), "no copy");
    }
}

#[test]
fn the_other_answers_come_back_and_nonsense_does_not() {
    let span = Span { start: 100, count: 5 };
    let there = |push: Push<_>| decode(encode(&push, 5), span);
    assert_eq!(there(Push::NotFound(99)), Some(Push::NotFound(99)));
    assert_eq!(there(Push::NotFound(100)), None, "it says that it has it");
    assert_eq!(there(Push::Pruned(101)), Some(Push::Pruned(101)));
    assert_eq!(there(Push::Pruned(100)), None);
    assert_eq!(there(Push::Busy(Duration::from_millis(7))), Some(Push::Busy(Duration::from_millis(7))));
    assert_eq!(there(Push::Busy(Duration::from_secs(100_000))), Some(Push::Busy(Duration::from_secs(10))));
    assert_eq!(there(Push::Blocks(Vec::new())), None, "nothing is no answer");
    let status = pb::PushBlock { status: 77, ..pb::PushBlock::default() };
    assert_eq!(wire::read_push_response(status, span), None);
    let busy = pb::PushBlock { status: 4, blocks: vec![0; 6].into(), ..pb::PushBlock::default() };
    assert_eq!(wire::read_push_response(busy, span), None);
}

#[test]
fn a_count_of_blocks_costs_no_more_than_its_bytes() {
    let many = |blocks: Vec<u8>| {
        wire::read_push_response(
            pb::PushBlock { blocks: blocks.into(), ..Default::default() },
            Span { start: 0, count: 128 },
        )
    };
    assert_eq!(many(vec![0; 6 * 100_000]), None, "as many empty blocks as fit");
    assert!(matches!(many(vec![0; 6 * 128]), Some(Push::Blocks(b)) if b.len() == 128));
    let mut long = vec![0, 0];
    long.extend(u32::MAX.to_be_bytes());
    assert_eq!(many(long), None, "a length of four gigabytes");
    let half = vec![0; 3 * 1024 * 1024];
    let mut two = Vec::new();
    for _ in 0..2 {
        two.extend([0, 0]);
        two.extend(u32::try_from(half.len()).unwrap().to_be_bytes());
        two.extend(&half);
    }
    let one = two[..two.len() / 2].to_vec();
    let read = |blocks: Vec<u8>, count| {
        wire::read_push_response(
            pb::PushBlock { status: i32::from(count != 1), blocks: blocks.into(), ..Default::default() },
            Span { start: 0, count },
        )
    };
    assert!(read(one, 1).is_some(), "one block may be longer than what was asked for");
    assert_eq!(read(two, 3), None, "two may not");
}

proptest! {
    #[test]
    fn noise_never_panics_and_is_never_more_than_was_asked_for(bytes in proptest::collection::vec(any::<u8>(), 0..400), count in 1u32..20) {
        if let Some(Push::Blocks(blocks)) = decode(bytes.clone(), Span { start: 1, count }) {
            prop_assert!(blocks.len() <= count as usize);
        }
        let raw = pb::PushBlock { blocks: bytes.clone().into(), ..Default::default() };
        let _ = wire::read_push_response(raw, Span { start: 1, count });
        if let Some(headers) = wire::read_headers_response(pb::Headers { headers: bytes.into() }, count) {
            prop_assert!(headers.len() <= count as usize);
        }
    }

    #[test]
    fn a_cut_answer_is_refused(cut in any::<prop::sample::Index>()) {
        let row = Maker::new(1).row(&kit::genesis(), 3, 200);
        let bytes = encode(&Push::Blocks(row.iter().map(stored).collect()), 3);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode(bytes[..cut].to_vec(), Span { start: 1, count: 3 }), None);
        let headers: Vec<_> = row.iter().map(|b| Bytes::from(b.header().encode())).collect();
        let raw = wire::headers_response(&headers);
        prop_assert_eq!(wire::read_headers_response(raw.clone(), 3), Some(headers));
        prop_assert_eq!(wire::read_headers_response(raw, 2), None);
    }
}
