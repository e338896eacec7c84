//! Verdicts.

use std::time::Duration;

use super::{
    super::{
        account::Fate,
        judge::{Judged, Verdict, Why, judge},
    },
    HOUR, START, identity, receipt,
};
use crate::{
    message::friend::agreed,
    primitives::{GrantId, UnixMillis},
};

const TOKEN: [u8; 32] = [5; 32];
const MINUTE: Duration = Duration::from_secs(60);

/// What follows when the friend says this at `at`, by its clock, while ours says `now`.
fn says(fate: Fate, at: UnixMillis, now: UnixMillis) -> Verdict {
    judge(&receipt(1), fate, (at, now), |token| *token == TOKEN)
}

#[test]
fn what_can_be_shown_is_no_fault_and_what_cannot_is() {
    let cases = [
        (Fate::Held, Verdict::Show),
        (Fate::Acked(TOKEN), Verdict::Excused),
        (Fate::Acked([6; 32]), Verdict::Broken(Why::FalseAck)),
        (Fate::Withdrawn([1; 32]), Verdict::Excused),
        (Fate::Withdrawn([2; 32]), Verdict::Broken(Why::FalseWithdrawal)),
        (Fate::Never, Verdict::Broken(Why::NeverHeld)),
        (Fate::Unknown, Verdict::Broken(Why::Lost)),
        (Fate::Forgotten, Verdict::Excused),
    ];
    let end = receipt(1).expires_at;
    for (fate, verdict) in cases {
        assert_eq!(says(fate, START, START), verdict, "{fate:?}");
        // Near the end, and past it, nothing is owed any more.
        for at in [UnixMillis(end.0 - 9 * 60_000), end, end.plus(9 * MINUTE)] {
            assert_eq!(says(fate, at, at), Verdict::Excused, "{fate:?} at {at}");
        }
        // A wrong clock is no excuse for what cannot be shown, and no proof either.
        let wrong = says(fate, end.plus(HOUR), START);
        let shown = verdict == Verdict::Excused;
        assert_eq!(wrong, if shown { Verdict::Excused } else { Verdict::Strike }, "{fate:?}");
        // One that is behind only makes the promise longer.
        assert_eq!(says(fate, UnixMillis(START.0 - 3_600_000), START), verdict, "{fate:?}");
        assert_eq!(says(fate, UnixMillis(u64::MAX), START) == Verdict::Strike, !shown, "{fate:?}");
    }
    let proofs = [Why::Lost, Why::NeverHeld, Why::FalseWithdrawal, Why::FalseAck, Why::Withheld].map(Why::is_proof);
    assert_eq!(proofs, [true, true, true, false, false]);
}

#[test]
fn only_what_is_owed_now_under_this_friendship_is_judged() {
    let (owner, friend) = (identity(1), identity(2));
    let grant = agreed(&owner, &friend, GrantId([7; 16]), START);
    let judged = Judged { friend: friend.address(), grant, since: START, until: START.plus(90 * 24 * HOUR) };
    let one = receipt(1);
    let covers = |judged: &Judged, now| judged.covers(&one, now);
    assert!(covers(&judged, START));
    assert!(covers(&judged, UnixMillis(one.expires_at.0 - 11 * 60_000)));
    assert!(!covers(&judged, UnixMillis(one.expires_at.0 - 9 * 60_000)), "nearly over");
    assert!(!covers(&Judged { since: START.plus(MINUTE), ..judged.clone() }, START), "it had ended meanwhile");
    let drained = Judged { until: START.plus(HOUR), ..judged.clone() };
    assert!(covers(&drained, START) && !covers(&drained, START.plus(51 * MINUTE)), "until it has drained");
    let other = agreed(&owner, &friend, GrantId([8; 16]), START);
    assert!(!covers(&Judged { grant: other, ..judged }, START), "another mailbox");
}
