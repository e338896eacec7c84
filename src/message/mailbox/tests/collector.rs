//! The collector machine alone: what it pulls when, and how little a friend can make it pull.

use std::{collections::BTreeSet, time::Duration};

use super::super::collector::{Collector, Delivered, Fate, Keys, Output};
use crate::primitives::{MessageId, PeerId};

const POLL: Duration = Duration::from_secs(300);

struct Fixture {
    machine: Collector,
    friend: PeerId,
    now: Duration,
}

impl Fixture {
    fn new() -> Self {
        let friend = PeerId::random();
        let mut machine = Collector::new(POLL, 7);
        machine.set_friends(Duration::ZERO, &[friend]);
        Self { machine, friend, now: Duration::ZERO }
    }

    /// Advances until the next pull, acknowledging on the way; from where it pulls.
    fn pull(&mut self) -> u64 {
        loop {
            while let Some(output) = self.machine.output() {
                match output {
                    Output::Pull { after, .. } => return after,
                    Output::Ack { friend, ids } => self.machine.acked(self.now, friend, &ids, true),
                    Output::Register(keys) => panic!("there are no contacts: {keys:?}"),
                }
            }
            let due = self.machine.next_due().expect("there is a friend");
            self.now = self.now.max(due) + Duration::from_millis(1);
            self.machine.tick(self.now);
        }
    }

    /// The pull without waiting that a hint brings; `None`: nothing is pulled.
    fn hint(&mut self) -> Option<u64> {
        self.machine.hinted(self.now, self.friend);
        match self.machine.output() {
            Some(Output::Pull { after, .. }) => Some(after),
            other => other.map(|other| panic!("{other:?}")),
        }
    }

    fn answer(&mut self, items: &[(u64, Fate)], more: bool, bytes: u64) {
        let items: Vec<_> = items.iter().map(|(seq, fate)| (*seq, id(*seq), *fate)).collect();
        let head = items.last().map_or(0, |(seq, ..)| *seq);
        self.machine.pulled(self.now, self.friend, Some(Delivered { items, head, more, bytes }));
    }
}

fn id(seq: u64) -> MessageId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&seq.to_be_bytes());
    MessageId(id)
}

#[test]
fn what_cannot_be_used_now_hides_nothing_and_does_not_come_with_each_hint() {
    for fate in [Fate::Part, Fate::Busy] {
        let mut f = Fixture::new();
        assert_eq!(f.pull(), 0);
        f.answer(&[(1, fate), (2, fate)], true, 0);
        assert_eq!(f.pull(), 2, "{fate:?}: what comes after it is pulled");
        f.answer(&[(3, fate)], false, 0);
        assert_eq!(f.hint(), Some(3), "{fate:?}: a hint brings what is new");
        f.answer(&[(4, fate)], false, 0);
        let before = f.now;
        assert_eq!(f.pull(), 0, "{fate:?}: all of it again");
        let waited = f.now - before;
        assert!(waited <= if fate == Fate::Busy { Duration::from_secs(20) } else { POLL * 3 / 2 }, "{waited:?}");
        f.answer(&[(1, fate), (2, Fate::Done), (3, fate), (4, fate)], false, 0);
        let before = f.now;
        assert_eq!(f.pull(), 0, "{fate:?}: the missing part may have been among what was done");
        assert!(f.now - before < Duration::from_secs(1));
    }
}

#[test]
fn no_room_stops_the_pass() {
    let mut f = Fixture::new();
    assert_eq!(f.pull(), 0);
    f.answer(&[(1, Fate::Later)], true, 0);
    assert_eq!(f.hint(), None);
    let before = f.now;
    assert_eq!(f.pull(), 0);
    assert!(f.now > before);
}

#[test]
fn a_friend_that_always_has_more_is_pulled_from_ever_more_slowly() {
    let mut f = Fixture::new();
    let (mut seq, mut pulled) = (0, 0);
    while f.now < Duration::from_secs(3600) {
        f.pull();
        seq += 1;
        pulled += 1;
        f.answer(&[(seq, Fate::Done)], true, 1024 * 1024);
    }
    // 512 at once, then one in a second.
    assert!((3000..512 + 3600 + 10).contains(&pulled), "{pulled} MiB in an hour");
}

/// Changes the contacts; what the friend is told then.
fn told(f: &mut Fixture, contacts: &[PeerId], removed: &[PeerId], ok: bool) -> Vec<Keys> {
    let set = |list: &[PeerId]| list.iter().copied().collect::<BTreeSet<_>>();
    f.machine.set_contacts(f.now, set(contacts), set(removed));
    let mut all = Vec::new();
    while let Some(output) = f.machine.output() {
        if let Output::Register(keys) = output {
            f.machine.registered(f.now, &keys, ok);
            all.push(keys);
        }
    }
    all
}

#[test]
fn a_friend_is_told_of_contacts_once_and_again_when_it_may_have_forgotten() {
    let mut f = Fixture::new();
    f.pull();
    f.answer(&[], false, 0);
    let [a, b] = [(); 2].map(|()| PeerId::random());
    let keys = |add: &[PeerId], revoke: &[PeerId]| {
        let [add, revoke] = [add, revoke].map(|list| list.iter().copied().collect());
        Keys { friend: f.friend, add, revoke }
    };
    let (only_a, only_b, b_for_a) = (keys(&[a], &[]), keys(&[b], &[]), keys(&[], &[a]));
    assert_eq!(told(&mut f, &[a], &[], true), [only_a]);
    assert_eq!(told(&mut f, &[a], &[], true), []);
    assert_eq!(told(&mut f, &[a, b], &[], false), std::slice::from_ref(&only_b), "it did not answer");
    assert_eq!(f.machine.friends().next().unwrap().1, 1);
    f.now += POLL;
    assert_eq!(told(&mut f, &[a, b], &[], true), [only_b]);
    assert_eq!(told(&mut f, &[b], &[a], true), [b_for_a]);
    assert_eq!(f.machine.friends().next().unwrap().1, 1);
    // It may have restored a backup: within two hours it is told everything once more.
    let before = f.now;
    let again = loop {
        let due = f.machine.next_due().unwrap();
        f.now = f.now.max(due) + Duration::from_millis(1);
        f.machine.tick(f.now);
        let mut register = None;
        while let Some(output) = f.machine.output() {
            match output {
                Output::Register(keys) => register = Some(keys),
                Output::Pull { .. } => f.machine.pulled(f.now, f.friend, None),
                Output::Ack { .. } => {}
            }
        }
        if let Some(keys) = register {
            break keys;
        }
        assert!(f.now - before < Duration::from_secs(7200));
    };
    assert_eq!((again.add, again.revoke), (BTreeSet::from([b]), BTreeSet::from([a])));
}

#[test]
fn it_is_collecting_until_every_friend_was_asked_once_and_not_for_one_that_is_gone() {
    let mut fixture = Fixture::new();
    assert!(fixture.machine.is_collecting(), "nobody was asked yet");
    assert_eq!(fixture.pull(), 0);
    fixture.answer(&[(1, Fate::Done)], true, 1000);
    assert!(fixture.machine.is_collecting(), "there is more");
    assert_eq!(fixture.pull(), 1);
    fixture.answer(&[(2, Fate::Done)], false, 1000);
    assert!(!fixture.machine.is_collecting());
    while let Some(output) = fixture.machine.output() {
        let Output::Ack { friend, ids } = output else { panic!("{output:?}") };
        fixture.machine.acked(fixture.now, friend, &ids, true);
    }
    assert_eq!(fixture.hint(), Some(2));
    assert!(fixture.machine.is_collecting());
    fixture.machine.pulled(fixture.now, fixture.friend, None);
    assert!(!fixture.machine.is_collecting(), "who does not answer is not waited for");
    fixture.machine.set_friends(fixture.now, &[]);
    assert!(!fixture.machine.is_collecting());
}
