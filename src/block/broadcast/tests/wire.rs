//! What is on the wire: one encoding, within its limits, consistent in itself.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    block::{
        MAX_BODY_BYTES, PIECE_BYTES,
        broadcast::wire::{
            Announcement, Carrier, MAX_NEW_BLOCK, MAX_NEW_BLOCK_HASH, Malformed, NewBlock, NotifyAnswer, Wanted,
            block_response, get_request, read_block, read_get_request, read_piece,
        },
    },
    identity::Identity,
    net::{pubsub, rpc::Wire as _},
    primitives::PeerId,
    wire::proto::block as pb,
};

fn message(carrier: Carrier, bytes: usize) -> (Header, pb::NewBlock) {
    let body = body(bytes, 1);
    let header = header(GENESIS, &body, UnixMillis(1));
    let message = NewBlock::encode(carrier, &header, &Pieces::of(body.bytes()), || Some(body.bytes().clone())).unwrap();
    (header, message)
}

#[test]
fn blocks_of_every_size_travel_and_small_ones_bring_their_bodies() {
    for bytes in [5, SMALL_BODY, SMALL_BODY + 1, PIECE_BYTES, PIECE_BYTES + 1, 1024 * 1024, MAX_BODY_BYTES] {
        for carrier in [Carrier::Topic, Carrier::Answer] {
            let (header, message) = message(carrier, bytes);
            let read = NewBlock::read(&message, carrier, MAX_BODY_BYTES).unwrap();
            assert_eq!(read.header, header);
            let limit = if carrier == Carrier::Topic { SMALL_BODY } else { PIECE_BYTES };
            assert_eq!(matches!(read.content, Content::Body(_)), bytes <= limit, "{bytes} {carrier:?}");
            if carrier == Carrier::Topic {
                let encoded = message.encode_to_vec();
                assert!(encoded.len() <= MAX_NEW_BLOCK && MAX_NEW_BLOCK < pubsub::MAX_PAYLOAD);
                assert_eq!(NewBlock::from_topic(&encoded, MAX_BODY_BYTES), Ok(read));
            } else {
                let response = pb::GetResponse { what: Some(pb::get_response::What::Block(message)) };
                let (same, len) = block_response(&header, &Pieces::of(body(bytes, 1).bytes()), || {
                    Some(body(bytes, 1).bytes().clone())
                })
                .unwrap();
                assert_eq!((&same, len), (&response, response.encoded_len()));
                assert!(response.encoded_len() <= crate::block::broadcast::wire::Get::MAX_RESPONSE);
                assert_eq!(read_block(&response, &header.hash(), MAX_BODY_BYTES), Ok(read));
                assert_eq!(read_block(&response, &Hash::of(b"another"), MAX_BODY_BYTES), Err(Malformed));
            }
        }
    }
}

#[test]
fn whatever_is_not_what_its_header_says_is_refused() {
    let (_, small) = message(Carrier::Topic, 1000);
    let (_, large) = message(Carrier::Topic, 300_000);
    let refused = |m: &pb::NewBlock| assert_eq!(NewBlock::read(m, Carrier::Topic, MAX_BODY_BYTES), Err(Malformed));
    let change = |m: &pb::NewBlock, f: fn(&mut pb::NewBlock)| {
        let mut m = m.clone();
        f(&mut m);
        m
    };
    // N4: a body, or the nodes of its tree, may not be swapped.
    refused(&change(&small, |m| m.body = body(1000, 2).bytes().clone()));
    refused(&change(&small, |m| m.body = m.body.slice(1..)));
    refused(&change(&small, |m| m.body.clear()));
    refused(&change(&small, |m| m.nodes = vec![0; 32].into()));
    refused(&change(&large, |m| m.nodes = m.nodes.slice(32..)));
    refused(&change(&large, |m| m.nodes = [&[0; 32], &m.nodes[32..]].concat().into()));
    refused(&change(&large, |m| m.nodes.truncate(31)));
    refused(&change(&large, |m| m.body = vec![1; 10].into()));
    refused(&change(&small, |m| m.header.truncate(m.header.len() - 1)));
    refused(&change(&small, |m| m.header = vec![0; 10_000].into()));
    // N1: nothing decodes to a block of height 0.
    refused(&pb::NewBlock::default());
    assert_eq!(NewBlock::from_topic(&[], MAX_BODY_BYTES), Err(Malformed));
    assert_eq!(NewBlock::from_topic(&[0; 40], MAX_BODY_BYTES), Err(Malformed));
    // The node's own limit, below the protocol's.
    assert_eq!(NewBlock::read(&large, Carrier::Topic, 299_999), Err(Malformed));
    assert!(NewBlock::read(&large, Carrier::Topic, 300_000).is_ok());
}

#[test]
fn genesis_is_never_news() {
    // N2: with a height of 0, whatever its signature.
    let body = body(100, 1);
    let mut header = header(GENESIS, &body, UnixMillis(1));
    header.height = 0;
    let header = header.signed(&Identity::generate(), &signing());
    let message = NewBlock::encode(Carrier::Topic, &header, &Pieces::of(body.bytes()), || Some(body.bytes().clone()));
    assert_eq!(NewBlock::read(&message.unwrap(), Carrier::Topic, MAX_BODY_BYTES), Err(Malformed));
    let point = Point { height: 0, hash: header.hash() };
    let genesis = Announcement { point, body_bytes: 1 };
    assert_eq!(Announcement::from_request(&genesis.to_request()), Err(Malformed));
}

#[test]
fn one_block_has_one_encoding() {
    // L5: many encodings of one block would be as many messages.
    let (_, message) = message(Carrier::Topic, 1000);
    let good = message.encode_to_vec();
    assert!(NewBlock::from_topic(&good, MAX_BODY_BYTES).is_ok());
    let mut unknown_field = good.clone();
    unknown_field.extend([0x78, 1]);
    let empty_field = [&good[..], &[0x1a, 0]].concat();
    let twice = [&good[..], &good[..]].concat();
    let swapped = [
        &pb::NewBlock { header: Bytes::new(), ..message.clone() }.encode_to_vec()[..],
        &pb::NewBlock { header: message.header.clone(), ..pb::NewBlock::default() }.encode_to_vec(),
    ]
    .concat();
    assert_eq!(swapped.len(), good.len());
    for other in [unknown_field, empty_field, twice, swapped] {
        assert_eq!(NewBlock::from_topic(&other, MAX_BODY_BYTES), Err(Malformed));
    }
}

#[test]
fn an_announcement_is_of_the_one_that_sends_it() {
    let (announcer, other) = (Identity::generate().address(), Identity::generate().address());
    let point = Point { height: 9, hash: Hash::of(b"block") };
    let announcement = Announcement { point, body_bytes: 77 };
    let bytes = announcement.to_topic(&announcer);
    assert!(bytes.len() <= MAX_NEW_BLOCK_HASH);
    assert_eq!(Announcement::from_topic(&bytes, &announcer), Ok(announcement));
    assert_eq!(Announcement::from_topic(&bytes, &other), Err(Malformed));
    assert_eq!(Announcement::from_topic(&[&bytes[..], &[0x78, 1]].concat(), &announcer), Err(Malformed));
    let large = Announcement { body_bytes: u32::MAX, ..announcement };
    assert_eq!(Announcement::from_topic(&large.to_topic(&announcer), &announcer), Err(Malformed));
    assert_eq!(Announcement::from_request(&announcement.to_request()), Ok(announcement));
    let short = pb::NotifyRequest { hash: vec![1; 31].into(), height: 1, body_bytes: 1 };
    assert_eq!(Announcement::from_request(&short), Err(Malformed));
    let longest = Announcement { point: Point { height: u64::MAX, ..point }, body_bytes: u32::MAX };
    assert!(longest.to_topic(&announcer).len() <= MAX_NEW_BLOCK_HASH);
    assert!(longest.to_request().encoded_len() <= crate::block::broadcast::wire::Notify::MAX_REQUEST);
}

#[test]
fn answers_and_questions_are_read_as_they_were_written() {
    for answer in [NotifyAnswer::Known, NotifyAnswer::WillAsk, NotifyAnswer::Ignored] {
        assert_eq!(NotifyAnswer::from_response(&answer.to_response()), Ok(answer));
    }
    assert_eq!(NotifyAnswer::from_response(&pb::NotifyResponse { answer: 9 }), Err(Malformed));
    let hash = Hash::of(b"block");
    for wanted in [Wanted::Block, Wanted::Piece(0), Wanted::Piece(63)] {
        let request = get_request(hash, wanted);
        assert!(request.encoded_len() <= crate::block::broadcast::wire::Get::MAX_REQUEST);
        assert_eq!(read_get_request(&request), Ok((hash, wanted)));
    }
    for wanted in [Wanted::Piece(64), Wanted::Piece(usize::MAX - 1)] {
        assert_eq!(read_get_request(&get_request(hash, wanted)), Err(Malformed));
    }
    assert_eq!(read_piece(pb::GetResponse { what: None }), Err(Malformed));
    let long = crate::block::broadcast::wire::piece_response(vec![0; PIECE_BYTES + 1].into());
    assert_eq!(read_piece(long), Err(Malformed));
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let peer = PeerId::random();
        let _ = NewBlock::from_topic(&bytes, MAX_BODY_BYTES);
        let _ = Announcement::from_topic(&bytes, &peer);
        if let Ok(request) = pb::GetRequest::decode(&bytes[..]) {
            let _ = read_get_request(&request);
        }
        if let Ok(response) = pb::GetResponse::decode(&bytes[..]) {
            let _ = read_block(&response, &Hash::of(&bytes), MAX_BODY_BYTES);
            let _ = read_piece(response);
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_is_another_header(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (header, message) = message(Carrier::Topic, 200);
        let mut bytes = message.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = NewBlock::from_topic(&bytes, MAX_BODY_BYTES) {
            prop_assert_ne!(&read.header, &header);
            prop_assert!(read.header.verify(&signing()).is_err());
        }
    }
}
