//! Golden bytes and one line for each rule.

use std::time::Duration;

use prost::Message;

use super::{NOW, body, bytes, identity, network, record, rival};
use crate::{
    identity::{EncryptionKey, Purpose, seal_envelope},
    map::{
        Key, RecordError, State, Verifier,
        record::{Body, Departure, Friend, publishable},
        state::{Map, Outcome, PinReason, Source},
    },
    primitives::{Hash, Multiaddr, UnixMillis, limits::MAX_RECORD_BYTES},
    wire::proto::map as pb,
};

fn full_body() -> Body {
    let (of, friend) = (identity(1), identity(2));
    let mut body = body(&of, 42);
    let public = [9; 32];
    let id = Hash::of(&public).0[..8].try_into().unwrap();
    body.keys = vec![EncryptionKey { id, public, not_before: UnixMillis(1), not_after: UnixMillis(2) }];
    body.friends = vec![Friend {
        address: friend.address(),
        addrs: vec!["/dns4/b.example/udp/1/quic-v1".parse().unwrap()],
        grant_hash: Some([5; 32]),
        priority: 3,
    }];
    (body.deposit_policy, body.pow_bits, body.grant_epoch) = (1, 12, 7);
    body.roles = vec!["relay".into()];
    body
}

#[test]
fn a_record_has_these_bytes_for_ever() {
    let record = full_body().seal(&identity(1), &network());
    assert_eq!(record.hash.to_string(), "1b0e64f5122438285f6cdc380ec599876ab8068bf4f8cafe985f522e9f06aa74");
    assert_eq!(
        Hash::of(record.envelope()).to_string(),
        "e027117d8ff786e08dca3a3d028fda642b807633e299dfb73f7b8578c3cefbe6"
    );
}

#[test]
fn what_was_sealed_is_read_back() {
    let sealed = full_body().seal(&identity(1), &network());
    let read = Verifier::new(&network()).verify(sealed.envelope(), NOW).unwrap();
    assert_eq!(read, sealed);
    assert_eq!(crate::map::record::body_of(read.envelope()).unwrap(), full_body());
}

/// The verdict on a body after `change`, signed by its owner.
fn after(change: impl FnOnce(&mut Body)) -> Result<(), RecordError> {
    let mut body = full_body();
    change(&mut body);
    verdict(&bytes(&body.seal(&identity(1), &network())))
}

fn verdict(envelope: &[u8]) -> Result<(), RecordError> {
    Verifier::new(&network()).verify(envelope, NOW).map(drop)
}

/// The verdict on a payload after `change`, signed by its owner.
fn raw(change: impl FnOnce(&mut pb::Record)) -> Result<(), RecordError> {
    let sealed = full_body().seal(&identity(1), &network());
    let envelope = pb::Envelope::decode(&**sealed.envelope()).unwrap();
    let mut record = pb::Record::decode(envelope.payload).unwrap();
    change(&mut record);
    verdict(&seal_envelope(&identity(1), &Purpose::new("vos-record/1", &network()), record.encode_to_vec()))
}

#[test]
fn each_rule_refuses_what_breaks_it() {
    use RecordError as E;
    let secs = Duration::from_secs;
    assert_eq!(after(|_| ()), Ok(()));
    assert_eq!(after(|b| b.name = "x".repeat(65)), Err(E::Limit("name")));
    assert_eq!(after(|b| b.name = "a\nb".into()), Err(E::Name));
    assert_eq!(after(|b| b.seq = 0), Err(E::Seq));
    assert_eq!(after(|b| b.seq = u64::MAX), Err(E::Seq));
    assert_eq!(after(|b| b.seq = NOW.plus(secs(24 * 3600 + 500)).0), Ok(()));
    assert_eq!(after(|b| b.issued_at = NOW.plus(secs(601))), Err(E::FromFuture));
    assert_eq!(after(|b| b.issued_at = NOW.plus(secs(599))), Ok(()));
    assert_eq!(after(|b| b.expires_at = b.issued_at), Err(E::Validity));
    assert_eq!(after(|b| b.expires_at = b.issued_at.plus(secs(7 * 24 * 3600 + 1))), Err(E::Validity));
    assert_eq!(
        after(|b| (b.issued_at, b.expires_at) = (NOW.minus(secs(60)), NOW)),
        Err(E::Expired),
        "a record ends at its time, not after it"
    );
    assert_eq!(after(|b| b.addrs = vec![b.addrs[0].clone(); 17]), Err(E::Limit("addrs")));
    assert_eq!(after(|b| b.friends = vec![b.friends[0].clone(); 9]), Err(E::Limit("friends")));
    assert_eq!(after(|b| b.roles = vec!["Relay".into()]), Err(E::Field("role")));
    assert_eq!(after(|b| b.keys[0].id = [0; 8]), Err(E::Field("key")));
    assert_eq!(after(|b| b.address = identity(2).address()), Err(E::Signer));
    let long = Multiaddr::try_from(format!("/dns4/{}/tcp/1", "a".repeat(320))).unwrap();
    assert_eq!(after(|b| b.addrs = vec![long]), Err(E::Limit("addr")));
    assert_eq!(raw(|r| r.version = 2), Err(E::Version));
    assert_eq!(raw(|r| r.addrs[0] = vec![0xff, 0xff].into()), Err(E::Field("addr")));
    assert_eq!(raw(|r| r.addrs[0] = vec![].into()), Err(E::Field("addr")));
    assert_eq!(raw(|r| r.peer_id = vec![1; 38].into()), Err(E::Signer));
    assert_eq!(raw(|r| r.enc_keys[0].alg = 2), Err(E::Field("key")));
    assert_eq!(raw(|r| r.friends[0].grant_hash = vec![1; 31].into()), Err(E::Field("friend")));
    assert_eq!(verdict(&vec![0; MAX_RECORD_BYTES + 1]), Err(E::TooLarge));
    assert_eq!(verdict(b"noise"), Err(E::Malformed));
}

#[test]
fn a_signature_is_worth_nothing_elsewhere_or_changed() {
    let of = identity(1);
    let other = full_body().seal(&of, &"other".parse().unwrap());
    assert_eq!(verdict(other.envelope()), Err(RecordError::Signature), "of another network");
    let mut changed = bytes(&record(&of, 1));
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(verdict(&changed), Err(RecordError::Signature));
    let forged = full_body().seal(&identity(2), &network());
    assert_eq!(verdict(forged.envelope()), Err(RecordError::Signer), "signed by somebody else");
}

#[test]
fn a_carrier_cannot_make_other_bytes_of_a_record() {
    let good = record(&identity(1), 1);
    let mut longer = bytes(&good);
    longer.extend_from_slice(&[0xf8, 0x01, 0x01]); // an unknown field 31
    assert_eq!(verdict(&longer), Err(RecordError::NotCanonical));
    let envelope = pb::Envelope::decode(&**good.envelope()).unwrap();
    let mut payload = envelope.payload.to_vec();
    payload.extend_from_slice(&[0xf8, 0x01, 0x01]);
    let purpose = Purpose::new("vos-record/1", &network());
    assert_eq!(verdict(&seal_envelope(&identity(1), &purpose, payload)), Err(RecordError::NotCanonical));
}

#[test]
fn the_newest_counts_and_a_rival_is_proof() {
    let (us, of) = (identity(0), identity(1));
    let mut map = Map::new(Key::of(&us.address()).unwrap(), 10);
    let (first, second) = (record(&of, 5), rival(&of, 5));
    assert_eq!(map.merge(&first, Source::News), Outcome::New { evicted: None });
    assert_eq!(map.merge(&first, Source::News), Outcome::Same);
    assert_eq!(map.merge(&record(&of, 4), Source::News), Outcome::Stale);
    let replaced = second.hash > first.hash;
    assert_eq!(map.merge(&second, Source::News), Outcome::Equivocation { replaced, first: true });
    let proof = map.proof(&Key::of(&of.address()).unwrap()).unwrap();
    assert_ne!(proof.kept, proof.other);
    assert_eq!(map.merge(&record(&of, 6), Source::News), Outcome::Newer);
    assert_eq!(map.owners("anna").count(), 1);
    assert_eq!(map.owners("other").count(), 0);
}

#[test]
fn our_own_record_is_made_here_only() {
    let us = identity(0);
    let mut map = Map::new(Key::of(&us.address()).unwrap(), 10);
    assert_eq!(map.merge(&record(&us, 9), Source::News), Outcome::OwnNewer);
    assert_eq!(map.len(), 0);
    map.merge(&record(&us, 10), Source::Own);
    assert_eq!(map.merge(&record(&us, 9), Source::News), Outcome::Stale);
    assert_eq!(map.merge(&rival(&us, 10), Source::News), Outcome::OwnNewer);
}

#[test]
fn a_full_map_gives_up_what_nobody_uses() {
    let us = identity(0);
    let mut map = Map::new(Key::of(&us.address()).unwrap(), 4);
    let others: Vec<_> = (1..=5).map(|i| record(&identity(i), 1)).collect();
    map.merge(&record(&us, 1), Source::Own);
    others[..3].iter().for_each(|r| assert!(map.merge(r, Source::Bulk).is_change()));
    assert_eq!(map.merge(&others[3], Source::Bulk), Outcome::Full);
    map.pin(PinReason::Friend, [others[0].key]);
    map.use_slot(&others[1].key).unwrap();
    assert_eq!(map.merge(&others[3], Source::News), Outcome::New { evicted: Some(others[2].key) });
    assert!(map.slot(&others[0].key).is_some());
    map.pin(PinReason::Contact, [others[0].key, others[1].key, others[3].key]);
    assert_eq!(map.merge(&others[4], Source::News), Outcome::Full, "all are pinned");
    // A contact that is a friend stays, whichever ends first; who is neither any more goes.
    map.pin(PinReason::Contact, [others[1].key, others[3].key]);
    assert_eq!(map.merge(&others[4], Source::News), Outcome::Full, "still a friend");
    map.pin(PinReason::Friend, []);
    assert_eq!(map.merge(&others[4], Source::News), Outcome::New { evicted: Some(others[0].key) });
}

#[test]
fn what_expires_stays_as_a_hint() {
    let us = identity(0);
    let mut map = Map::new(Key::of(&us.address()).unwrap(), 4);
    let r = record(&identity(1), 1);
    map.merge(&r, Source::Bulk);
    assert!(map.sweep(NOW).0.is_empty());
    assert_eq!(map.sweep(r.expires_at).0, [r.key]);
    assert_eq!((map.len(), map.hint(&r.key)), (0, Some(r.envelope())));
    assert_eq!(map.owners("anna").count(), 0);
}

#[test]
fn a_goodbye_counts_once_and_not_after_a_return() {
    let (us, of) = (identity(0), identity(1));
    let key = Key::of(&of.address()).unwrap();
    let verifier = Verifier::new(&network());
    let mut map = Map::new(Key::of(&us.address()).unwrap(), 4);
    map.merge(&record(&of, 5), Source::News);
    map.heard(&key, NOW);
    let envelope = Departure::seal(&of, &network(), 5, NOW);
    let bye = verifier.verify_departure(&envelope, NOW).unwrap();
    assert!(map.depart(&bye));
    assert_eq!(map.slot(&key).unwrap().standing(NOW).1, State::Offline);
    assert!(!map.depart(&bye), "a replay");
    map.merge(&record(&of, 6), Source::News);
    map.heard(&key, NOW);
    assert!(!map.depart(&bye), "a replay after its return");
    assert_eq!(map.slot(&key).unwrap().standing(NOW).1, State::Online);
    let late = NOW.plus(Duration::from_secs(601));
    assert_eq!(verifier.verify_departure(&envelope, late), Err(RecordError::Expired));
    assert!(verifier.verify_departure(record(&of, 1).envelope(), NOW).is_err(), "a record is no goodbye");
}

#[test]
fn nobody_stays_online_because_our_clock_was_ahead() {
    let mut map = Map::new(Key::of(&identity(0).address()).unwrap(), 4);
    let r = record(&identity(1), 5);
    map.merge(&r, Source::News);
    let ahead = NOW.plus(Duration::from_secs(30 * 24 * 3600));
    map.heard(&r.key, ahead);
    assert_eq!(map.slot(&r.key).unwrap().standing(ahead).1, State::Online);
    assert_eq!(map.slot(&r.key).unwrap().standing(NOW).1, State::Unknown, "the clock was set right");
    assert!(!map.heard_lately(&r.key, NOW));
    assert!(map.heard(&r.key, NOW), "heard again: a change");
    assert_eq!(map.slot(&r.key).unwrap().standing(NOW), (Some(NOW), State::Online));
    assert_eq!(map.slot(&r.key).unwrap().standing(NOW.plus(Duration::from_secs(301))).1, State::Unknown);
}

#[test]
fn a_sample_of_the_map_is_bounded_and_goes_round() {
    let mut map = Map::new(Key::of(&identity(0).address()).unwrap(), 100);
    for number in 1..=40 {
        map.merge(&record(&identity(number), 1), Source::Bulk);
    }
    let keys: Vec<Key> = map.after(None).map(|(key, _)| *key).collect();
    let sample = |start, n| map.around(start, n).map(|(key, _)| *key).collect::<Vec<_>>();
    assert_eq!(sample(keys[30], 25), [&keys[30..], &keys[..15]].concat());
    assert_eq!(sample(keys[30], 100), [&keys[30..], &keys[..30]].concat(), "each once");
    assert_eq!(sample(Key::MAX, 3), keys[..3]);
}

#[test]
fn we_publish_what_others_can_use() {
    let addr = |a: &str| a.parse::<Multiaddr>().unwrap();
    let external = [addr("/ip4/1.2.3.4/tcp/1"), addr("/ip4/1.2.3.4/tcp/1")];
    let listen = [addr("/ip4/127.0.0.1/tcp/2"), addr("/ip4/10.0.0.1/tcp/2"), addr("/ip4/0.0.0.0/tcp/2")];
    assert_eq!(publishable(&external, &listen), [external[0].clone(), listen[1].clone()]);
    assert_eq!(publishable(&[], &listen[..1]), listen[..1], "alone on this machine");
    let many: Vec<_> = (1..40).map(|p| addr(&format!("/ip4/10.0.0.1/tcp/{p}"))).collect();
    assert_eq!(publishable(&[], &many).len(), 16);
}
