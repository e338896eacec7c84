//! Receipts that are owed: brought once, left once, and never more letters than allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    super::owed::{Errand, LETTER_AFTER, LETTER_PAUSE, LETTERS_A_DAY, Owed, Taken},
    DAY, START,
};
use crate::{
    message::outbox::Now,
    primitives::{MessageId, PeerId, UnixMillis},
};

fn id(n: u64) -> MessageId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    MessageId(id)
}

fn at(mono: Duration) -> Now {
    Now { wall: START.plus(mono), mono }
}

/// Tries a sender that is away; the errand.
fn away(owed: &mut Owed, now: Duration) -> Errand {
    let errand = owed.next(now).expect("a try is due");
    assert_eq!(owed.answered(at(now), &errand, Taken::NotNow), []);
    errand
}

#[test]
fn a_sender_that_is_away_gets_one_letter_for_what_gathered_and_the_rest_after_a_pause() {
    let (mut owed, sender, zero) = (Owed::new(1), PeerId::random(), Duration::ZERO);
    (0..100).for_each(|n| owed.add(zero, (sender, id(n), START), n == 99));
    assert_eq!(owed.next_letter(DAY), None, "a direct try comes first");
    away(&mut owed, zero);
    assert_eq!(owed.next_letter(LETTER_AFTER - Duration::from_millis(1)), None);
    let first = owed.next_letter(LETTER_AFTER).unwrap();
    assert_eq!((first.0, first.1.len()), (sender, 64));
    assert_eq!(owed.next_letter(DAY), None, "one at a time");
    assert_eq!(owed.lettered(LETTER_AFTER, &first, true), first.1);
    assert_eq!(owed.next_letter(LETTER_AFTER + LETTER_PAUSE - Duration::from_millis(1)), None);
    let second = owed.next_letter(LETTER_AFTER + LETTER_PAUSE).unwrap();
    assert_eq!(second.1.len(), 35, "not those that were left before, also in an earlier run");
    assert!(owed.lettered(LETTER_AFTER * 2 + LETTER_PAUSE, &second, false).is_empty(), "no friend took it");
    let retry = owed.next_due().unwrap();
    assert!(owed.next_letter(retry.min(LETTER_PAUSE)).is_none());
    // Whatever is left is still owed until the sender has taken it.
    let errand = owed.next(DAY).unwrap();
    assert_eq!(owed.answered(at(DAY), &errand, Taken::Yes).len(), 64);
    assert_eq!(owed.next_letter(DAY * 2), None, "it is there");
    let errand = owed.next(DAY).unwrap();
    assert_eq!(owed.answered(at(DAY), &errand, Taken::Never).len(), 36);
    assert_eq!((owed.next(DAY), owed.next_due()), (None, None));
}

#[test]
fn letters_have_a_quota_of_their_own_and_a_full_friend_is_left_alone() {
    let (mut owed, sender) = (Owed::new(1), PeerId::random());
    let (mut now, mut letters, mut n) = (Duration::ZERO, 0, 0);
    // One receipt more each minute for a day.
    while now < DAY {
        owed.add(now, (sender, id(n), START), false);
        n += 1;
        while let Some(errand) = owed.next(now) {
            owed.answered(at(now), &errand, Taken::NotNow);
        }
        while let Some(letter) = owed.next_letter(now) {
            letters += 1;
            owed.lettered(now, &letter, true);
        }
        now += Duration::from_secs(60);
    }
    assert!((30..=LETTERS_A_DAY).contains(&letters), "{letters}");
    let (mut owed, mut tries) = (Owed::new(1), 0);
    let mut now = Duration::ZERO;
    owed.add(now, (sender, id(0), START), false);
    while now < DAY {
        while let Some(errand) = owed.next(now) {
            owed.answered(at(now), &errand, Taken::NotNow);
        }
        while let Some(letter) = owed.next_letter(now) {
            tries += 1;
            owed.lettered(now, &letter, false);
        }
        now += Duration::from_secs(30);
    }
    assert!((5..=20).contains(&tries), "{tries} tries in a day");
}

proptest! {
    #[test]
    fn whatever_happens_nothing_owed_is_forgotten_before_it_is_taken(
        steps in proptest::collection::vec((0_u8..8, 0_u64..40, 0_u8..3), 1..200),
    ) {
        let senders = [PeerId::random(), PeerId::random(), PeerId::random()];
        let mut owed = Owed::new(7);
        let mut now = Duration::ZERO;
        let mut model: BTreeMap<(PeerId, MessageId), UnixMillis> = BTreeMap::new();
        let mut left = BTreeSet::new();
        let (mut trips, mut letters): (Vec<Errand>, Vec<Errand>) = (Vec::new(), Vec::new());
        for (step, n, who) in steps {
            let sender = senders[usize::from(who)];
            match step {
                0 | 1 => {
                    owed.add(now, (sender, id(n), START), false);
                    model.insert((sender, id(n)), START);
                }
                2 => owed.appeared(now, &sender),
                3 => now += Duration::from_secs(n * n),
                4 => if let Some(errand) = trips.pop() {
                    let taken = [Taken::Yes, Taken::Never, Taken::NotNow][usize::from(who)];
                    for gone in owed.answered(at(now), &errand, taken) {
                        prop_assert!(taken != Taken::NotNow);
                        prop_assert!(model.remove(&(errand.0, gone)).is_some());
                        left.remove(&(errand.0, gone));
                    }
                },
                5 => if let Some(letter) = letters.pop() {
                    for (id, _) in owed.lettered(now, &letter, who > 0) {
                        prop_assert!(model.contains_key(&(letter.0, id)) && left.insert((letter.0, id)), "once");
                    }
                },
                6 => if let Some(errand) = owed.next(now) {
                    prop_assert!(!errand.1.is_empty() && trips.iter().all(|t| t.0 != errand.0));
                    trips.push(errand);
                },
                _ => if let Some(letter) = owed.next_letter(now) {
                    prop_assert!(!letter.1.is_empty() && letters.iter().all(|l| l.0 != letter.0));
                    prop_assert!(letter.1.iter().all(|(id, _)| !left.contains(&(letter.0, *id))));
                    letters.push(letter);
                },
            }
        }
        for trip in trips.drain(..) {
            owed.answered(at(now), &trip, Taken::NotNow);
        }
        for letter in letters.drain(..) {
            owed.lettered(now, &letter, false);
        }
        // Everybody comes back.
        senders.iter().for_each(|sender| owed.appeared(now, sender));
        while let Some(errand) = owed.next(now) {
            for gone in owed.answered(at(now), &errand, Taken::Yes) {
                prop_assert!(model.remove(&(errand.0, gone)).is_some());
            }
        }
        prop_assert!(model.is_empty());
        prop_assert_eq!(owed.next_due(), None);
    }
}
