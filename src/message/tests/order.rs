//! The order machine and the numbers of our own messages: any order of arrival, losses, restarts, and senders that lie.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::super::{
    handle::Received,
    lanes::{Lanes, Missed},
    order::{ALL, ASK_AFTER, HOLD, LONGEST, Lane, Numbers, Order, PER_LANE, RANGES, Rank, Settled},
    wire::StoredMessage,
};
use crate::primitives::{MessageId, PeerId, StreamId, UnixMillis};

fn lane() -> Lane {
    Lane { peer: PeerId::random(), stream: StreamId([1; 16]) }
}

fn message(lane: Lane, number: u64) -> StoredMessage {
    let received = Received {
        id: MessageId([0; 32]),
        from: lane.peer,
        sent_at: UnixMillis(0),
        received_at: UnixMillis(0),
        bytes: number,
        read: false,
        file_name: String::new(),
        missing: 0,
        late: false,
    };
    StoredMessage { received, slot: number, parts: 1, held: Some((lane.stream, number)) }
}

/// A range, also where a list of one would look like a list of what is in it.
pub(super) fn numbers(from: u64, to: u64) -> Numbers {
    from..to
}

/// Number, how many are missing before it, late.
type Line = (u64, u64, bool);

fn lines(settled: &Settled) -> Vec<Line> {
    let line = |m: &StoredMessage| (m.received.bytes, m.received.missing, m.received.late);
    settled.shown.iter().map(|shown| line(&shown.message)).collect()
}

/// The machine with what it wrote.
#[derive(Default)]
struct Desk {
    order: Order,
    shown: Vec<Line>,
    held: BTreeSet<u64>,
    next: Option<u64>,
}

impl Desk {
    fn arrive(&mut self, now: Duration, lane: Lane, number: u64, floor: u64) {
        self.order.arrive(now, lane, Rank { number, floor }, message(lane, number));
        self.settle(now);
    }

    fn settle(&mut self, now: Duration) {
        if !self.order.is_touched() {
            return;
        }
        let (batch, settled) = self.order.settle(now);
        self.shown.extend(lines(&settled));
        for shown in &settled.shown {
            assert_eq!(self.held.remove(&shown.message.slot), shown.was_held);
            assert_eq!(shown.message.held, None);
        }
        self.held.extend(settled.held.iter().map(|held| held.slot));
        self.next = settled.next.last().map(|(_, next)| *next).or(self.next);
        self.order.committed(batch);
    }

    fn tick(&mut self, now: Duration) {
        self.order.tick(now, false);
        self.settle(now);
    }

    /// What a crash leaves is the same.
    fn restart(&mut self, now: Duration, lane: Lane) {
        self.order = Order::default();
        if let Some(next) = self.next {
            self.order.load(lane, next);
        }
        for number in &self.held {
            self.order.load_held(now, lane, *number, message(lane, *number));
        }
        self.settle(now);
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_early_message_waits_for_what_is_missing_and_for_no_longer_than_it_must() {
    let (lane, mut desk, zero) = (lane(), Desk::default(), Duration::ZERO);
    desk.arrive(zero, lane, 1, 1);
    desk.arrive(zero, lane, 3, 1);
    desk.arrive(zero, lane, 4, 1);
    assert_eq!((desk.shown.as_slice(), desk.held.len()), (&[(1, 0, false)][..], 2));
    assert_eq!(desk.order.question(zero), None, "requests may have overtaken each other");
    assert_eq!(desk.order.question(ASK_AFTER), Some((lane, vec![numbers(2, 3)])));
    assert_eq!(desk.order.question(ASK_AFTER), None, "once");
    desk.arrive(ASK_AFTER, lane, 2, 1);
    assert_eq!(desk.shown, [(1, 0, false), (2, 0, false), (3, 0, false), (4, 0, false)]);
    assert_eq!((desk.held.len(), desk.order.next_due()), (0, None));
    // The floor says that 5 and 6 have ended.
    desk.arrive(SECOND, lane, 7, 7);
    assert_eq!(desk.shown.last(), Some(&(7, 2, false)));
    // Nobody says anything of 8: what came first is waited for no longer by what comes later.
    desk.arrive(SECOND, lane, 10, 7);
    desk.arrive(SECOND * 9, lane, 9, 7);
    desk.tick(SECOND + HOLD - Duration::from_millis(1));
    assert_eq!(desk.shown.last(), Some(&(7, 2, false)));
    assert!(desk.order.next_due().unwrap() <= SECOND + HOLD);
    desk.tick(SECOND + HOLD);
    assert_eq!(desk.shown[5..], [(9, 1, false), (10, 0, false)]);
    desk.arrive(SECOND * 20, lane, 8, 7);
    assert_eq!(desk.shown.last(), Some(&(8, 0, true)));
}

#[test]
fn a_sender_that_answers_ends_the_waiting_and_one_that_does_not_is_asked_three_times() {
    let (lane, mut desk) = (lane(), Desk::default());
    let mut now = Duration::ZERO;
    for number in [1, 4, 6, 9] {
        desk.arrive(now, lane, number, 1);
    }
    now += ASK_AFTER;
    assert_eq!(desk.order.question(now), Some((lane, vec![2..4, 5..6, 7..9])));
    desk.order.answered(lane, Some(&[5..6, 2..4]));
    desk.settle(now);
    assert_eq!(desk.shown[1..], [(4, 2, false), (6, 1, false)], "what never comes is not waited for");
    let mut asked = 0;
    while desk.shown.len() < 4 {
        now += Duration::from_millis(100);
        while let Some(question) = desk.order.question(now) {
            assert_eq!(question, (lane, vec![numbers(7, 9)]));
            asked += 1;
            desk.order.answered(lane, None);
            desk.settle(now);
        }
        desk.tick(now);
    }
    assert_eq!((asked, desk.shown.last()), (3, Some(&(9, 2, false))));
    assert!(now <= HOLD + SECOND);
}

#[test]
fn while_friends_are_asked_it_is_waited_longer_but_not_for_ever() {
    let (lane, mut desk) = (lane(), Desk::default());
    desk.arrive(Duration::ZERO, lane, 1, 1);
    desk.arrive(Duration::ZERO, lane, 3, 1);
    let mut now = Duration::ZERO;
    while desk.shown.len() < 2 {
        now = desk.order.next_due().unwrap().max(now);
        while desk.order.question(now).is_some() {
            desk.order.answered(lane, None);
        }
        desk.order.tick(now, true);
        desk.settle(now);
    }
    assert!(now >= LONGEST && now < LONGEST + SECOND * 2, "{now:?}");
}

#[test]
fn whoever_numbers_badly_costs_a_bounded_amount_and_harms_nobody_else() {
    let (honest, mut order, zero) = (lane(), Order::default(), Duration::ZERO);
    order.arrive(zero, honest, Rank { number: 1, floor: 1 }, message(honest, 1));
    let mut liars: Vec<Lane> = Vec::new();
    for number in 0..u64::try_from(ALL).unwrap() + 100 {
        if number % (PER_LANE as u64 / 2) == 0 {
            liars.push(lane());
        }
        let liar = *liars.last().unwrap();
        let rank = Rank { number: u64::MAX / 2 + number * 2, floor: 1 };
        order.arrive(zero, liar, Rank { number: 1, floor: 1 }, message(liar, 1));
        order.arrive(zero, liar, rank, message(liar, rank.number));
        order.settle(zero);
        assert!(order.held() <= ALL);
    }
    order.arrive(zero, honest, Rank { number: 2, floor: 1 }, message(honest, 2));
    assert_eq!(lines(&order.settle(zero).1), [(2, 0, false)]);
    // The same number twice, and the last one there is.
    let liar = lane();
    let mut desk = Desk::default();
    for number in [1, 5, 5, u64::MAX - 1] {
        desk.order.arrive(zero, liar, Rank { number, floor: 1 }, message(liar, number));
    }
    let (_, settled) = desk.order.settle(zero);
    assert_eq!((lines(&settled).len(), settled.held.len()), (2, 2));
    desk.order.answered(liar, Some(&[2..5, 6..u64::MAX]));
    assert_eq!(lines(&desk.order.settle(zero).1), [(5, 3, false), (u64::MAX - 1, u64::MAX - 7, false)]);
    desk.order.arrive(zero, liar, Rank { number: 7, floor: 7 }, message(liar, 7));
    assert_eq!(lines(&desk.order.settle(zero).1), [(7, 0, true)]);
    // A question has a limit, too.
    let sparse = self::lane();
    for number in (1..1000).step_by(2) {
        order.arrive(zero, sparse, Rank { number: number + 1, floor: 1 }, message(sparse, number + 1));
    }
    order.settle(zero);
    let mut longest = 0;
    while let Some((_, ranges)) = order.question(SECOND) {
        longest = longest.max(ranges.len());
    }
    assert!(longest <= RANGES);
}

proptest! {
    #[test]
    fn in_any_order_with_losses_and_restarts_each_is_shown_once_in_order_with_true_marks(
        fates in proptest::collection::vec(0_u8..8, 1..40),
        order in proptest::collection::vec(any::<u32>(), 40),
        pauses in proptest::collection::vec((0_u64..4000, any::<bool>(), any::<bool>()), 40),
        spread in prop_oneof![Just(0_u32), Just(3), Just(u32::MAX)],
    ) {
        let lane = lane();
        // Of every eight numbers one never comes.
        let never: BTreeSet<u64> = (1..).zip(&fates).filter(|(_, fate)| **fate == 0).map(|(n, _)| n).collect();
        let mut coming: Vec<u64> = (1..=fates.len() as u64).filter(|n| !never.contains(n)).collect();
        let at = |n: u64| n * 4 + u64::from(order[n as usize - 1] % spread.max(1)) * 4;
        coming.sort_by_key(|n| (at(*n), *n));
        let (mut desk, mut now) = (Desk::default(), Duration::ZERO);
        let (mut restarted, mut came) = (false, Vec::new());
        for (number, (pause, crash, answer)) in coming.iter().copied().zip(pauses.iter().copied()) {
            // What its sender knows to have ended when it is sealed: a run of lost ones right before it, as far as it knows.
            desk.arrive(now, lane, number, 1);
            came.push((number, now));
            if crash && pause % 5 == 0 {
                restarted = true;
                desk.restart(now, lane);
            }
            while let Some((_, missing)) = desk.order.question(now) {
                let lost = |range: &Numbers| range.clone().filter(|n| never.contains(n)).map(|n| n..n + 1).collect::<Vec<_>>();
                let answers: Vec<Numbers> = missing.iter().flat_map(lost).collect();
                desk.order.answered(lane, answer.then_some(answers.as_slice()));
                desk.settle(now);
            }
            now += Duration::from_millis(pause);
            desk.tick(now);
            if !restarted {
                for (number, at) in came.iter().filter(|(_, at)| *at + HOLD <= now) {
                    prop_assert!(desk.shown.iter().any(|l| l.0 == *number), "{} waits since {:?}", number, at);
                }
            }
        }
        let quick = now < HOLD && never.is_empty();
        now += HOLD;
        desk.tick(now);
        let mut numbers: Vec<u64> = desk.shown.iter().map(|line| line.0).collect();
        let mut next = 1;
        for (number, missing, late) in &desk.shown {
            if *late {
                prop_assert!(*number < next);
            } else {
                prop_assert_eq!(number.checked_sub(next), Some(*missing));
                next = number + 1;
            }
            prop_assert!(!quick || (!late && *missing == 0), "nothing is lost, and all came in time");
        }
        numbers.sort_unstable();
        coming.sort_unstable();
        prop_assert_eq!(numbers, coming);
        prop_assert!(desk.held.is_empty());
    }

    #[test]
    fn what_a_recipient_misses_is_either_to_come_or_will_never(
        ended in proptest::collection::vec(any::<bool>(), 1..200),
        asked in proptest::collection::vec((0_u64..250, 1_u64..40), 1..4),
    ) {
        let (lanes, lane) = (Arc::new(Lanes::default()), lane());
        let mut numbers: Vec<_> = (0..ended.len() as u64).map(|seq| lanes.take(lane, 1000 + seq, Some(1))).collect();
        for (number, over) in numbers.iter_mut().zip(&ended) {
            number.keep();
            if *over {
                lanes.ended(&lane, number.rank.number);
            }
        }
        let asked: Vec<Numbers> = asked.into_iter().map(|(from, n)| from..from + n).collect();
        let Missed { never, pending } = lanes.missed(&lane, &asked, None);
        for number in 0..400_u64 {
            let wanted = asked.iter().any(|range| range.contains(&number));
            let over = ended.get((number as usize).wrapping_sub(1)).copied();
            prop_assert_eq!(never.iter().any(|range| range.contains(&number)), wanted && over == Some(true), "{}", number);
            prop_assert_eq!(pending.contains(&(999 + number)), wanted && over == Some(false), "{}", number);
        }
        prop_assert_eq!(lanes.missed(&self::lane(), &asked, None), Missed::default(), "somebody else is told nothing");
    }
}

#[test]
fn numbers_have_no_holes_and_the_floor_is_the_first_that_is_still_to_come() {
    let (lanes, lane) = (Arc::new(Lanes::default()), lane());
    let take = |seq| lanes.take(lane, seq, Some(8));
    let mut first = take(1);
    assert_eq!(first.rank, Rank { number: 8, floor: 8 });
    first.keep();
    drop(take(2));
    let mut second = take(3);
    assert_eq!(second.rank, Rank { number: 9, floor: 8 }, "what failed gave its number back");
    second.keep();
    lanes.ended(&lane, 8);
    let (hole, mut third) = (take(4), take(5));
    third.keep();
    drop(hole);
    assert_eq!((third.rank, lanes.next(&lane)), (Rank { number: 11, floor: 9 }, Some(12)));
    let missed = lanes.missed(&lane, &[numbers(0, u64::MAX)], None);
    assert_eq!(missed, Missed { never: vec![1..9, 10..11], pending: vec![3, 5] });
    let other = Lane { stream: StreamId([2; 16]), ..lane };
    assert_eq!(lanes.take(other, 6, None).rank, Rank { number: 1, floor: 1 });
    let known = lanes.missed(&Lane { stream: StreamId([3; 16]), ..lane }, &[numbers(1, 9)], Some(5));
    assert_eq!(known, Missed { never: vec![numbers(1, 5)], pending: Vec::new() });
    let many: Vec<Numbers> = (0..200).map(|n| n * 2..n * 2 + 1).collect();
    assert!(lanes.missed(&lane, &many, None).never.len() <= RANGES);
}
