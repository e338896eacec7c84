//! Properties: noise never panics, order never matters, comparison ends with the merge of both.

use std::{collections::BTreeSet, sync::LazyLock};

use proptest::prelude::*;

use super::{NOW, identity, network, record, rival};
use crate::map::{
    Key, Verifier,
    digest::Range,
    record::Record,
    state::{Map, Source},
    sync::{Answer, Ask, Initiator, MAX_PUSH_BYTES, respond},
    wire::{News, read_sync_request, read_sync_response, sync_request, sync_response},
};

/// 60 authors with records 1 to 3 and a rival of the third.
static RECORDS: LazyLock<Vec<Record>> = LazyLock::new(|| {
    let records = (1..=60).flat_map(|author| {
        let of = identity(author);
        [record(&of, 1), record(&of, 2), record(&of, 3), rival(&of, 3)]
    });
    records.collect()
});

pub(super) fn map_of(number: u64) -> Map {
    Map::new(Key::of(&identity(number).address()).unwrap(), 100_000)
}

/// Envelope bytes to the record, as the service does it by verification.
fn find(envelope: &[u8]) -> Record {
    RECORDS.iter().find(|r| **r.envelope() == *envelope).unwrap().clone()
}

/// Lets `a` compare with `b` over the wire's forms; returns how many records travelled.
fn compare(a: &mut Map, b: &mut Map, find: impl Fn(&[u8]) -> Record) -> usize {
    let (mut run, mut travelled) = (Initiator::default(), 0);
    while let Some(ask) = run.next(a) {
        let ask_b = read_sync_request(sync_request(&ask)).unwrap();
        assert_eq!(ask_b, ask);
        let answer = if let Ask::Push(envelopes) = &ask_b {
            assert!(envelopes.iter().map(|e| e.len()).sum::<usize>() <= MAX_PUSH_BYTES);
            travelled += envelopes.len();
            let new = envelopes.iter().filter(|e| b.merge(&find(e), Source::Bulk).is_change()).count();
            Answer::Pushed(u32::try_from(new).unwrap())
        } else {
            respond(b, &ask_b).unwrap()
        };
        let (answer, full) = read_sync_response(sync_response(answer, b.is_full())).unwrap();
        for envelope in run.on_answer(a, &ask, answer, full).unwrap() {
            travelled += 1;
            a.merge(&find(&envelope), Source::Bulk);
        }
    }
    assert!(run.found_everything());
    travelled
}

fn standing(map: &Map) -> BTreeSet<(Key, u64)> {
    map.after(None).map(|(key, slot)| (*key, slot.seq)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_gives_the_same_map(chosen in proptest::sample::subsequence((0..240).collect::<Vec<usize>>(), 0..240), seed: u64) {
        let mut shuffled = chosen.clone();
        let mut random = super::Random(seed);
        shuffled.sort_by_cached_key(|_| random.next());
        let (mut a, mut b) = (map_of(1000), map_of(1000));
        for i in chosen { a.merge(&RECORDS[i], Source::News); }
        for i in shuffled { b.merge(&RECORDS[i], Source::Bulk); }
        prop_assert_eq!(a.digest(Range::ALL), b.digest(Range::ALL));
        prop_assert_eq!(standing(&a), standing(&b));
    }

    #[test]
    fn comparison_ends_with_the_merge_and_moves_only_differences(
        left in proptest::sample::subsequence((0..240).collect::<Vec<usize>>(), 0..240),
        right in proptest::sample::subsequence((0..240).collect::<Vec<usize>>(), 0..240),
    ) {
        let (mut a, mut b, mut both) = (map_of(1000), map_of(1001), map_of(1002));
        for i in &left { a.merge(&RECORDS[*i], Source::Bulk); both.merge(&RECORDS[*i], Source::Bulk); }
        for i in &right { b.merge(&RECORDS[*i], Source::Bulk); both.merge(&RECORDS[*i], Source::Bulk); }
        let same = a.after(None).filter(|(key, s)| b.slot(key).is_some_and(|o| o.hash == s.hash)).count();
        let travelled = compare(&mut a, &mut b, find);
        prop_assert_eq!(a.digest(Range::ALL), both.digest(Range::ALL));
        prop_assert_eq!(b.digest(Range::ALL), both.digest(Range::ALL));
        prop_assert_eq!(travelled, both.len() - same);
        prop_assert_eq!(compare(&mut b, &mut a, find), 0, "a second one moves nothing");
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..400, flip: u8) {
        use prost::Message;
        use crate::wire::proto::map as pb;
        let verifier = Verifier::new(&network());
        prop_assert!(verifier.verify(&noise, NOW).is_err());
        prop_assert!(verifier.verify_departure(&noise, NOW).is_err());
        let _ = News::decode(&noise);
        let mut map = map_of(1000);
        if let Ok(raw) = pb::SyncRequest::decode(&noise[..]) && let Some(ask) = read_sync_request(raw) {
            let _ = respond(&mut map, &ask);
        }
        if let Ok(raw) = pb::SyncResponse::decode(&noise[..]) && let Some((answer, full)) = read_sync_response(raw) {
            let mut run = Initiator::default();
            let ask = run.next(&map).unwrap();
            let _ = run.on_answer(&mut map, &ask, answer, full);
        }
        let mut damaged = RECORDS[0].envelope().to_vec();
        let at = at % damaged.len();
        damaged[at] ^= flip;
        prop_assert_eq!(verifier.verify(&damaged, NOW).is_ok(), flip == 0);
    }

    #[test]
    fn ranges_part_the_key_space(bytes: [u8; 32], raw: u32) {
        let key = Key(bytes);
        let mut range = Range::ALL;
        loop {
            let (first, last) = range.bounds();
            prop_assert!(range.contains(&key) && first <= key && key <= last);
            prop_assert_eq!(Range::from_wire(range.to_wire()), Some(range));
            if range.is_leaf() { break; }
            let inside: Vec<_> = range.children().filter(|c| c.contains(&key)).collect();
            prop_assert_eq!(inside.len(), 1);
            range = inside[0];
        }
        if let Some(range) = Range::from_wire(raw) {
            prop_assert_eq!(range.to_wire(), raw);
        }
    }
}

#[test]
fn large_maps_compare_within_the_limits_of_messages() {
    use prost::Message;

    use crate::{map::wire::Sync, net::rpc::Wire};
    // Not signed by anybody: the machine never looks.
    let fake = |i: u64| {
        let mut record = RECORDS[0].clone();
        let key = Key(crate::primitives::Hash::of(&i.to_be_bytes()).0);
        (record.key, record.hash) = (key, crate::primitives::Hash::of(&key.0));
        record.envelope = [&key.0[..], &[0; 400]].concat().into();
        record
    };
    let (mut a, mut b) = (map_of(1000), map_of(1001));
    for i in 0..9000 {
        b.merge(&fake(i), Source::Bulk);
    }
    for i in 8500..12_000 {
        a.merge(&fake(i), Source::Bulk);
    }
    let mut run = Initiator::default();
    while let Some(ask) = run.next(&a) {
        assert!(sync_request(&ask).encoded_len() <= Sync::MAX_REQUEST);
        let answer = match &ask {
            Ask::Push(envelopes) => {
                envelopes.iter().for_each(|e| {
                    let key = Key::from_slice(&e[..32]).unwrap();
                    let mut record = fake(0);
                    (record.key, record.hash) = (key, crate::primitives::Hash::of(&key.0));
                    record.envelope = e.clone();
                    b.merge(&record, Source::Bulk);
                });
                Answer::Pushed(0)
            }
            ask => respond(&mut b, ask).unwrap(),
        };
        let response = sync_response(answer, false);
        assert!(response.encoded_len() <= Sync::MAX_RESPONSE);
        let (answer, full) = read_sync_response(response).unwrap();
        for envelope in run.on_answer(&mut a, &ask, answer, full).unwrap() {
            let key = Key::from_slice(&envelope[..32]).unwrap();
            let mut record = fake(0);
            (record.key, record.hash) = (key, crate::primitives::Hash::of(&key.0));
            record.envelope = envelope.into();
            a.merge(&record, Source::Bulk);
        }
    }
    assert!(run.found_everything());
    assert_eq!((a.len(), b.len()), (12_000, 12_000));
    assert_eq!(a.digest(Range::ALL), b.digest(Range::ALL));
}
