//! Telling contacts to go on, when a friend of ours had to refuse what they left because something was full (spec `mail.md` 3.7).
//!
//! A sender that was refused tries again after pauses that grow to `message.retry_max_s`. We know more than it does: we are there, and
//! we have collected what was in the way. So when a friend has nothing more for us and says whose deposits it refused (its markers),
//! we greet those contacts. Any word from a recipient makes its senders try directly at once. Each refusal leads to one greeting in a
//! run of the node; strangers, who leave messages for work, cannot be told apart and try again by themselves.

use std::{collections::HashMap, time::Duration};

use tracing::debug;

use super::{
    collect::Deps,
    machine::{Marker, MarkerKey, Who},
    wire::{self, DeskWork},
};
use crate::{
    identity::Identity,
    message::contacts::{Pair, deposit_key},
    primitives::{NetworkId, PeerId},
};

/// A friend's markers lead to a greeting of the same contact no more often than this, whatever it counts.
const PAUSE: Duration = Duration::from_secs(600);

/// Refusals that have led to a greeting, and when.
type Told = (u64, Duration);

/// Which refusals have led to a greeting. As many entries as friends send markers: at most 64 for each of them
/// in a page, and pages come seconds apart.
#[derive(Debug, Default)]
pub(super) struct Resume {
    told: HashMap<(PeerId, MarkerKey), Told>,
}

impl Resume {
    /// Takes note of a friend's markers; the deposit keys that were refused since the last time.
    pub(super) fn news(&mut self, now: Duration, friend: PeerId, markers: &[(MarkerKey, Marker)]) -> Vec<[u8; 32]> {
        // One that is gone and comes again is a new one, but not before the pause is over.
        self.told.retain(|(of, key), (_, at)| {
            *of != friend || now < *at + PAUSE || markers.iter().any(|(listed, _)| listed == key)
        });
        let mut news = Vec::new();
        for (key, marker) in markers {
            let Who::Contact(contact) = key.0 else { continue };
            let told = self.told.get(&(friend, *key));
            if told.is_some_and(|(count, at)| marker.count <= *count || now < *at + PAUSE) {
                continue;
            }
            self.told.insert((friend, *key), (marker.count, now));
            if !news.contains(&contact) {
                news.push(contact);
            }
        }
        news
    }

    /// Forgets friends that are no more.
    pub(super) fn keep(&mut self, friends: &[PeerId]) {
        self.told.retain(|(friend, _), _| friends.contains(friend));
    }
}

/// The contacts whose deposit keys at `friend` these are. Some 30 us for each contact.
pub(super) fn whose<'a>(
    us: &Identity,
    network: &NetworkId,
    friend: PeerId,
    contacts: impl Iterator<Item = &'a PeerId>,
    keys: &[[u8; 32]],
) -> Vec<PeerId> {
    let key = |contact: PeerId| deposit_key(us, network, Pair { owner: us.address(), contact, holder: friend });
    let named = |contact: &&PeerId| key(**contact).is_some_and(|key| keys.contains(&key.public_key()));
    contacts.filter(named).copied().collect()
}

/// Greets the contacts whose deposits a friend refused.
pub(super) async fn greet(deps: &Deps, friend: PeerId, keys: Vec<[u8; 32]>) {
    let (us, network) = (deps.shared.identity.clone(), deps.network.clone());
    let book = deps.shared.contacts.book();
    let find = move || whose(&us, &network, friend, book.contacts.keys(), &keys);
    let Ok(contacts) = tokio::task::spawn_blocking(find).await else { return };
    for contact in contacts {
        // Nothing is asked of it: that we are heard of is enough, so the answer does not matter.
        let answer = deps.desk.request(contact, wire::desk(&DeskWork::default())).await;
        debug!(%contact, %friend, reached = answer.is_ok(), "a contact that a friend refused is told that we are here");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::UnixMillis;

    fn markers(all: &[(Who, u64)]) -> Vec<(MarkerKey, Marker)> {
        all.iter().map(|(who, count)| ((*who, 7), Marker { count: *count, first_at: UnixMillis(1) })).collect()
    }

    #[test]
    fn each_refusal_is_news_once_and_strangers_never_are() {
        let (mut resume, friend, other) = (Resume::default(), PeerId::random(), PeerId::random());
        let ([a, b], mut now) = ([[1; 32], [2; 32]], Duration::ZERO);
        let all = markers(&[(Who::Contact(a), 2), (Who::Contact(b), 1), (Who::Open, 5)]);
        assert_eq!(resume.news(now, friend, &all), [a, b]);
        assert_eq!(resume.news(now, other, &all), [a, b], "another friend refused them too");
        let more = markers(&[(Who::Contact(a), 3), (Who::Contact(b), 1)]);
        assert!(resume.news(now, friend, &more).is_empty(), "too soon for more");
        now += PAUSE;
        assert_eq!(resume.news(now, friend, &more), [a], "refused again");
        assert!(resume.news(now + PAUSE, friend, &more).is_empty(), "told already");
        now += PAUSE;
        assert!(resume.news(now, friend, &[]).is_empty());
        assert_eq!(resume.news(now, friend, &more), [a, b], "their markers were gone meanwhile");
        resume.keep(&[other]);
        assert_eq!(resume.news(now, friend, &more), [a, b], "a friend anew");
        assert!(resume.news(now, other, &all).is_empty());
    }

    #[test]
    fn markers_without_end_are_not_kept_without_end() {
        let (mut resume, friend) = (Resume::default(), PeerId::random());
        for n in 0..100 {
            let contact = Who::Contact([n; 32]);
            resume.news(PAUSE * u32::from(n), friend, &markers(&[(contact, u64::from(n) + 1)]));
            assert!(resume.told.len() <= 2);
        }
    }

    #[test]
    fn a_refused_key_names_its_contact_at_that_friend_alone() {
        let (us, network) = (Identity::generate(), NetworkId::default());
        let [friend, other] = [(); 2].map(|()| Identity::generate().address());
        let contacts = [(); 3].map(|()| Identity::generate().address());
        let pair = Pair { owner: us.address(), contact: contacts[1], holder: friend };
        let key = deposit_key(&us, &network, pair).unwrap().public_key();
        assert_eq!(whose(&us, &network, friend, contacts.iter(), &[key]), [contacts[1]]);
        assert!(whose(&us, &network, other, contacts.iter(), &[key]).is_empty());
        assert!(whose(&us, &network, friend, contacts.iter(), &[[9; 32]]).is_empty());
    }
}
