//! Fixed inputs and golden bytes: what other implementations must produce.

use bytes::Bytes;

use super::super::{
    envelope::{BUCKETS, BodyId, Envelopes, Inner, Kind, PART_BYTES, id_of, part_len, parts_of},
    handle::{SendState, Step},
    order::Rank,
    outbox::{Header, Left},
    receipt,
    wire::{self, Code},
};
use crate::{
    identity::Identity,
    primitives::{Hash, MessageId, NetworkId, PeerId, StreamId, UnixMillis},
};

fn identity(seed: u8) -> Identity {
    Identity::from_keypair(libp2p::identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap())
}

fn inner(body: Bytes) -> Inner {
    Inner {
        kind: Kind::Message,
        sender: identity(1).address(),
        recipient: identity(2).address(),
        stream: StreamId([3; 16]),
        seq: 4,
        rank: Rank { number: 6, floor: 5 },
        sent_at: UnixMillis(1_700_000_000_000),
        expires_at: UnixMillis(1_700_000_060_000),
        key_id: [5; 8],
        file_name: "a.txt".into(),
        total: body.len() as u64,
        body,
        index: 0,
        body_id: BodyId::default(),
    }
}

#[test]
fn the_id_is_blake3_over_the_prefix_and_the_whole_part() {
    let golden = "29438083172f35b9e8ba37058af10bcf441dfc1f128bc7ad0f31b557800dbe9a";
    assert_eq!(id_of(b"sealed").to_string(), golden);
}

#[test]
fn the_plain_part_is_signature_length_inner_and_zeros() {
    let envelopes = Envelopes::new(identity(1), &NetworkId::default());
    let plain = envelopes.plain(&inner(Bytes::from_static(b"hello")));
    assert_eq!(plain.len(), 1024);
    let length = u32::from_be_bytes(plain[64..68].try_into().unwrap()) as usize;
    assert!(plain[68 + length..].iter().all(|b| *b == 0));
    assert_eq!(Hash::of(&plain).to_string(), "eaf87310ca7beb9b2adf047e3ff05dd3fd4d58fcda080c1db001fdd9d0b65217");
    let opened = envelopes.check(&plain.into(), &[5; 8]).unwrap();
    assert_eq!(opened, inner(Bytes::from_static(b"hello")));
}

#[test]
fn a_plain_part_with_any_change_is_refused() {
    let envelopes = Envelopes::new(identity(1), &NetworkId::default());
    let plain = envelopes.plain(&inner(Bytes::from_static(b"hello")));
    for at in 0..plain.len() {
        let mut altered = plain.clone();
        altered[at] ^= 1;
        assert_eq!(envelopes.check(&altered.into(), &[5; 8]), Err(Code::Bad), "byte {at}");
    }
    assert_eq!(envelopes.check(&plain.clone().into(), &[6; 8]), Err(Code::Bad), "another key id");
    assert_eq!(envelopes.check(&Bytes::copy_from_slice(&plain[..1023]), &[5; 8]), Err(Code::Bad), "not a bucket");
    let other = Envelopes::new(identity(1), &"other".parse().unwrap());
    assert_eq!(other.check(&plain.into(), &[5; 8]), Err(Code::Bad), "another network");
}

#[test]
fn a_body_is_padded_to_the_smallest_bucket_that_holds_it() {
    let envelopes = Envelopes::new(identity(1), &NetworkId::default());
    let size = |n: usize| envelopes.plain(&inner(vec![1; n].into())).len();
    assert_eq!(size(0), BUCKETS[0]);
    assert_eq!(size(1024), BUCKETS[1]);
    assert_eq!(size(60_000), BUCKETS[3]);
    let mut largest = inner(vec![1; PART_BYTES].into());
    largest.file_name = "n".repeat(255);
    (largest.seq, largest.total, largest.sent_at) = (u64::MAX, u64::MAX / 2, UnixMillis(u64::MAX));
    largest.rank = Rank { number: u64::MAX - 1, floor: u64::MAX - 1 };
    (largest.expires_at, largest.index) = (UnixMillis(u64::MAX), u32::MAX);
    assert_eq!(envelopes.plain(&largest).len(), BUCKETS[4], "with everything at its largest");
}

#[test]
fn the_number_and_length_of_parts_follow_from_the_total() {
    let part = PART_BYTES as u64;
    for (total, parts) in [(0, 1), (1, 1), (part, 1), (part + 1, 2), (part * 2, 2), (16 << 20, 65)] {
        assert_eq!(parts_of(total), parts, "{total}");
        let sum: usize = (0..parts).map(|i| part_len(total, i).unwrap()).sum();
        assert_eq!(sum as u64, total);
        assert_eq!(part_len(total, parts), None);
    }
    assert_eq!(parts_of(u64::MAX), u32::MAX);
}

#[test]
fn several_parts_carry_the_same_id_of_their_body_and_a_single_one_none() {
    use prost::Message as _;
    let mut first = inner(vec![1; PART_BYTES].into());
    (first.total, first.body_id) = (PART_BYTES as u64 + 1, BodyId([6; 32]));
    let proto = wire::inner_to_proto(&first);
    assert_eq!((proto.part_count, &proto.body_id[..]), (2, &[6; 32][..]));
    assert_eq!(wire::inner_from_bytes(proto.encode_to_vec().into()).unwrap(), first);
    let with = |body_id: &'static [u8], proto: &crate::wire::proto::message::Inner| {
        let other = crate::wire::proto::message::Inner { body_id: Bytes::from_static(body_id), ..proto.clone() };
        wire::inner_from_bytes(other.encode_to_vec().into())
    };
    assert_eq!(with(b"", &proto), Err(Code::Bad));
    assert_eq!(with(&[6; 31], &proto), Err(Code::Bad));
    let single = wire::inner_to_proto(&inner(Bytes::from_static(b"hello")));
    assert!(single.body_id.is_empty());
    assert_eq!(with(&[6; 32], &single), Err(Code::Bad));
    assert_eq!(BodyId::draw(1), BodyId::default());
    assert_ne!(BodyId::draw(2), BodyId::draw(2));
}

#[test]
fn a_receipt_is_its_entries_and_a_signature() {
    let purpose = receipt::purpose(&NetworkId::default());
    let entries = [(MessageId([7; 32]), UnixMillis(8)), (MessageId([9; 32]), UnixMillis(10))];
    let signed = receipt::sign(&identity(2), &purpose, &entries);
    let golden = format!("{}{:016x}{}{:016x}", "07".repeat(32), 8, "09".repeat(32), 10);
    assert_eq!(hex::encode(&signed.entries), golden);
    assert_eq!(
        Hash::of(&signed.signature).to_string(),
        "f844a7c9fbccf624be2c65ffc6a5bab897839c2d8b914424d7333b9c9aeae72e"
    );
    let owner = identity(2).address();
    assert_eq!(receipt::verify(&owner, &purpose, &signed, 2).unwrap(), entries);
    assert_eq!(receipt::verify(&owner, &purpose, &signed, 1), None, "more than asked for");
    assert_eq!(receipt::verify(&identity(1).address(), &purpose, &signed, 2), None);
    let mut cut = signed.clone();
    cut.entries.truncate(79);
    assert_eq!(receipt::verify(&owner, &purpose, &cut, 2), None);
    let empty = receipt::sign(&identity(2), &purpose, &[]);
    assert_eq!(receipt::verify(&owner, &purpose, &empty, 2), None);
}

#[test]
fn codes_keep_their_numbers_and_unknown_ones_mean_later() {
    let numbers: Vec<_> = Code::ALL.into_iter().map(Code::to_wire).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert!(Code::ALL.into_iter().all(|c| Code::from_wire(c.to_wire()) == c));
    assert_eq!((Code::from_wire(0), Code::from_wire(99)), (Code::Busy, Code::Busy));
    let texts: std::collections::HashSet<_> = Code::ALL.into_iter().map(Code::text).collect();
    assert_eq!(texts.len(), Code::ALL.len(), "each says something else");
}

#[test]
fn an_outgoing_message_survives_the_store_in_every_state() {
    let (to, me) = (identity(2).address(), identity(1).address());
    for state in [SendState::Sent, SendState::Stored, SendState::Delivered, SendState::Refused, SendState::Cancelled] {
        let at = UnixMillis(1);
        let history = vec![Step { state: SendState::Queued, at, by: me }, Step { state, at: UnixMillis(2), by: to }];
        let header = Header {
            seq: u64::MAX,
            stream: StreamId([8; 16]),
            number: u64::MAX - 1,
            ids: vec![MessageId([1; 32]), MessageId([2; 32])],
            to,
            state,
            bytes: 1,
            parts: 1,
            sealed_bytes: 1089,
            key_id: [3; 8],
            queued_at: at,
            expires_at: UnixMillis(9),
            history,
            left: vec![Left {
                holder: to,
                id: MessageId([2; 32]),
                grant: Hash([4; 32]),
                at: UnixMillis(3),
                until: UnixMillis(9),
                refused: "full".into(),
                never: true,
            }],
            last_error: "why".into(),
        };
        assert_eq!(wire::decode_outgoing(&wire::encode_outgoing(&header)).unwrap(), header);
    }
    assert!(wire::decode_outgoing(b"").is_none());
    assert!(wire::decode_received(b"").is_none());
    assert!(wire::decode_assembly(0, b"").is_none());
    assert!(PeerId::from_bytes(&[]).is_err());
}
