//! `vos friend evidence`.

use std::time::{Duration, SystemTime};

use super::super::{
    exit::{CliError, Exit},
    output::{Output, ago},
};
use crate::api::schema::{BrokenPromise, Evidence, FriendEvidence, Promises};

/// In milliseconds since 1970.
const YEAR_10000: u64 = 253_402_300_800_000;

/// Such as `118 of 120 (98 %)`.
pub(super) fn score(percent: Option<u8>, promises: &Promises) -> String {
    percent.map_or("-".into(), |percent| format!("{} of {} ({percent} %)", promises.kept, promises.checked))
}

/// Prints all of it; exit status 1 when a promise was broken.
pub(super) fn show(out: Output, evidence: &Evidence) -> Result<(), CliError> {
    out.show(evidence, |evidence| match evidence.friends.as_slice() {
        [] => "no promise of a friend was checked yet".to_owned(),
        friends => friends.iter().map(|friend| text(out, friend)).collect::<Vec<_>>().join("\n\n"),
    })?;
    let broken = evidence.friends.iter().any(|friend| friend.promises.broken > 0);
    if broken { Err(CliError::silent(Exit::Failed)) } else { Ok(()) }
}

fn text(out: Output, friend: &FriendEvidence) -> String {
    let Promises { checked, kept, broken, refused } = friend.promises;
    let head = out.fields(&[
        ("friend", friend.address.clone()),
        ("score", score(friend.score, &friend.promises)),
        ("checked", checked.to_string()),
        ("kept", kept.to_string()),
        ("broken", broken.to_string()),
        ("not accounted", refused.to_string()),
        ("changed", ago(friend.changed_at)),
    ]);
    let all = friend.broken.iter().map(|broken| one(out, broken));
    [head].into_iter().chain(all).collect::<Vec<_>>().join("\n\n")
}

fn one(out: Output, broken: &BrokenPromise) -> String {
    let mut fields = vec![("broken promise", broken.text.clone()), ("message part", broken.id.clone())];
    if let Some(promise) = &broken.promise {
        let (from, until) = (when(promise.stored_at), when(promise.expires_at));
        fields.push(("signed", format!("{from}: kept until {until}, as number {}", promise.queue_number)));
    }
    fields.push(("answered", format!("{}: {}", when(broken.answered_at), broken.answer)));
    fields.push(("found out", when(broken.at)));
    let proves = if broken.proof { "to anybody" } else { "to this node only" };
    let good = if broken.verified { "good".to_owned() } else { format!("bad: {}", broken.problem) };
    fields.push(("proves it", proves.to_owned()));
    fields.push(("signatures", good));
    out.fields(&fields)
}

/// A time as people write it, in UTC.
fn when(at: u64) -> String {
    // Years of more than four digits cannot be written so, and mean nothing here.
    if at >= YEAR_10000 {
        return format!("{at} ms");
    }
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(at)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_scores_are_written_for_people_whatever_a_friend_signed() {
        assert_eq!(when(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(when(u64::MAX), format!("{} ms", u64::MAX));
        let promises = Promises { checked: 120, kept: 118, broken: 1, refused: 1 };
        assert_eq!(score(Some(98), &promises), "118 of 120 (98 %)");
        assert_eq!(score(None, &Promises::default()), "-");
    }
}
