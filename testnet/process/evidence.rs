//! A friend whose data directory was restored from an old copy is proven wrong.

use std::{fs, path::Path};

use super::{
    daemon::{eventually, shown},
    offline::Story,
};

/// Puts the files of one directory into another, empty one.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_friend_that_restored_a_copy_from_before_is_proven_wrong_by_what_it_signed() {
    let mut story = Story::start(1);
    let friend = story.held[0].as_ref().unwrap().address.clone();
    assert!(story.b.run(&["friend", "evidence"]).status.success(), "nothing was checked yet");
    story.bob.take().unwrap().terminate();
    story.held[0].take().unwrap().terminate();
    let backup = tempfile::tempdir().unwrap();
    copy(&story.friends[0].file("db"), &backup.path().join("db"));
    story.held[0] = Some(story.friends[0].start(&["--bootstrap", &story.bootstrap()]));
    let id = story.store("signed for, and lost");
    story.held[0].take().unwrap().kill();
    fs::remove_dir_all(story.friends[0].file("db")).unwrap();
    copy(&backup.path().join("db"), &story.friends[0].file("db"));
    story.held[0] = Some(story.friends[0].start(&["--bootstrap", &story.bootstrap()]));
    // The sender still has it and delivers it, then tells what the friend signed.
    story.back();
    story.arrived(&id, "signed for, and lost");
    let shows = || {
        let found = story.b.run(&["--json", "friend", "evidence", &friend]);
        let all: serde_json::Value = serde_json::from_slice(&found.stdout).ok()?;
        all["friends"][0]["broken"][0].is_object().then(|| (found.status.code(), all["friends"][0].clone()))
    };
    let (status, found) = eventually("the broken promise", shows);
    assert_eq!(status, Some(1), "{found}");
    assert_eq!((&found["address"], &found["score"]), (&friend.as_str().into(), &0.into()), "{found}");
    assert_eq!((&found["promises"]["checked"], &found["promises"]["broken"]), (&1.into(), &1.into()), "{found}");
    let broken = &found["broken"][0];
    assert_eq!((&broken["id"], &broken["why"]), (&id.as_str().into(), &"lost".into()), "{broken}");
    assert_eq!((&broken["verified"], &broken["proof"]), (&true.into(), &true.into()), "{broken}");
    assert_eq!(broken["promise"]["queue_number"], 1, "{broken}");
    let listed = eventually("the score is listed", || {
        let listed = story.b.json(&["friend", "ls"])["held_by"][0].clone();
        (listed["promises"]["broken"] == 1).then_some(listed)
    });
    assert_eq!((&listed["score"], &listed["state"]), (&0.into(), &"active".into()), "to drop it is for people");
    let table = story.b.run(&["friend", "ls"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("0 of 1 (0 %)"), "{}", shown(&table));
    // It is still there after a restart, and is shown to people.
    story.bob.take().unwrap().kill();
    story.back();
    let text = story.b.run(&["friend", "evidence"]);
    let out = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in [&friend, &id, "it knows nothing of it", "to anybody", "good"] {
        assert!(out.contains(part), "{part}: {}", shown(&text));
    }
}
