//! Fixed inputs and golden bytes: what other implementations must produce.

use bytes::{Bytes, BytesMut};

use super::super::{
    envelope::{BUCKETS, BodyId, Digests, Envelopes, Inner, Kind, PART_BYTES, id_of, part_len, parts_of},
    handle::{SendState, Step},
    order::Rank,
    outbox::{Header, Left},
    receipt,
    wire::{self, Code},
};
use crate::{
    identity::{Identity, Keyring, OpenError, Opener, SEALED_NOTE, SealSession},
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
fn the_plain_part_is_length_inner_and_zeros() {
    let plain = Envelopes::plain(&inner(Bytes::from_static(b"hello")));
    assert_eq!(plain.len(), 1024);
    let length = u32::from_be_bytes(plain[..4].try_into().unwrap()) as usize;
    assert!(plain[4 + length..].iter().all(|b| *b == 0));
    assert_eq!(wire::inner_from_bytes(Bytes::from(plain.clone()).slice(4..4 + length)).unwrap().body, "hello");
    assert_eq!(Hash::of(&plain).to_string(), "93cfd71ac73afdc3264d0661f6ff26bb360e776c3dc2ddd88aecd009df9fb9a6");
}

/// A part from node 1 to node 2, the key of node 2 that opens it, and what is in it.
fn sealed(network: &NetworkId) -> (Vec<u8>, Opener, Inner) {
    let envelopes = Envelopes::new(identity(1), network);
    let (owner, mut ring) = (identity(2).address(), Keyring::default());
    ring.rotate(UnixMillis(1_700_000_000_000));
    let key = ring.current().unwrap();
    let inner = Inner { key_id: key.id, ..inner(Bytes::from_static(b"hello")) };
    let mut session = SealSession::new(envelopes.context(), &owner, key).unwrap();
    let part = envelopes.seal(&mut session, &inner).unwrap();
    assert_eq!(part.id, id_of(&part.wire()));
    (part.wire().to_vec(), Opener::new(envelopes.context(), owner, ring), inner)
}

fn open(envelopes: &Envelopes, opener: &Opener, part: &[u8]) -> Result<Inner, Code> {
    let opened = envelopes.open(opener, BytesMut::from(part), &Digests::of(part).ok_or(Code::Bad)?)?;
    envelopes.verify(vec![opened]).pop().flatten().ok_or(Code::Bad)
}

#[test]
fn a_part_is_header_sealed_text_and_the_sealed_signature_over_both() {
    let network = NetworkId::default();
    let (part, opener, inner) = sealed(&network);
    assert_eq!(part.len(), 9 + 32 + 8 + 1024 + 16 + 64 + 16);
    assert_eq!(open(&Envelopes::new(identity(2), &network), &opener, &part), Ok(inner.clone()));
    // By hand: what RFC 9180 exports, and what the note says.
    let aad = [&[1], &identity(2).address().to_bytes()[..], &inner.key_id].concat();
    let opened = opener.open(&inner.key_id, &aad, BytesMut::from(&part[9..])).unwrap();
    assert_eq!(opened.plain, Envelopes::plain(&inner));
    let signed = id_of(&part[..part.len() - SEALED_NOTE]);
    let purpose = crate::identity::Purpose::new("vos-part/1", &network);
    assert!(crate::identity::verify(&inner.sender, &purpose, &signed.0, &opened.note));
    assert_eq!(opener.open(&inner.key_id, b"", BytesMut::from(&part[9..])), Err(OpenError::Damaged));
}

#[test]
fn a_part_with_any_change_is_refused() {
    let network = NetworkId::default();
    let (part, opener, _) = sealed(&network);
    let envelopes = Envelopes::new(identity(2), &network);
    for at in 0..part.len() {
        let mut altered = part.clone();
        altered[at] ^= 1;
        let expected = if (1..9).contains(&at) { Code::NeedReseal } else { Code::Bad };
        assert_eq!(open(&envelopes, &opener, &altered), Err(expected), "byte {at}");
        assert_eq!(open(&envelopes, &opener, &part[..at]), Err(Code::Bad), "cut at {at}");
    }
    let other = Envelopes::new(identity(2), &"other".parse().unwrap());
    assert_eq!(open(&other, &opener, &part), Err(Code::Bad), "another network");
    assert_eq!(open(&Envelopes::new(identity(3), &network), &opener, &part), Err(Code::Bad), "another owner");
}

#[test]
fn of_many_parts_those_with_a_wrong_signature_are_refused_and_no_others() {
    let network = NetworkId::default();
    let (part, opener, inner) = sealed(&network);
    let envelopes = Envelopes::new(identity(2), &network);
    // As if something else had been signed.
    let other = [&part[..], &[0]].concat();
    let open = |signed: &[u8]| envelopes.open(&opener, BytesMut::from(&*part), &Digests::of(signed).unwrap()).unwrap();
    let (good, bad) = (|| open(&part), || open(&other));
    let inner = || Some(inner.clone());
    assert_eq!(envelopes.verify((0..20).map(|_| good()).collect()), vec![inner(); 20]);
    assert_eq!(envelopes.verify(vec![good(), bad(), good()]), [inner(), None, inner()]);
    assert_eq!(envelopes.verify(vec![bad()]), [None]);
    assert!(envelopes.verify(Vec::new()).is_empty());
}

#[test]
fn a_part_that_somebody_else_signed_is_refused() {
    // The sealed text is node 1's, whose name is in it; the signature is node 3's.
    let network = NetworkId::default();
    let (owner, mut ring) = (identity(2).address(), Keyring::default());
    ring.rotate(UnixMillis(1_700_000_000_000));
    let key = ring.current().unwrap();
    let inner = Inner { key_id: key.id, ..inner(Bytes::from_static(b"hello")) };
    let forger = Envelopes::new(identity(3), &network);
    let mut session = SealSession::new(forger.context(), &owner, key).unwrap();
    let part = forger.seal(&mut session, &inner).unwrap().wire();
    let opener = Opener::new(forger.context(), owner, ring);
    assert_eq!(open(&Envelopes::new(identity(2), &network), &opener, &part), Err(Code::Bad));
}

#[test]
fn a_body_is_padded_to_the_smallest_bucket_that_holds_it() {
    let size = |n: usize| Envelopes::plain(&inner(vec![1; n].into())).len();
    assert_eq!(size(0), BUCKETS[0]);
    assert_eq!(size(1024), BUCKETS[1]);
    assert_eq!(size(60_000), BUCKETS[3]);
    let mut largest = inner(vec![1; PART_BYTES].into());
    largest.file_name = "n".repeat(255);
    (largest.seq, largest.total, largest.sent_at) = (u64::MAX, u64::MAX / 2, UnixMillis(u64::MAX));
    largest.rank = Rank { number: u64::MAX - 1, floor: u64::MAX - 1 };
    (largest.expires_at, largest.index) = (UnixMillis(u64::MAX), u32::MAX);
    assert_eq!(Envelopes::plain(&largest).len(), BUCKETS[4], "with everything at its largest");
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
