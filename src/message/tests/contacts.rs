//! The book of contacts, and the keys that both sides derive.

use std::{collections::BTreeSet, sync::Arc};

use super::super::contacts::{ContactError, Contacts, MAX_CONTACTS, Origin, Pair, deposit_key, deposit_keys};
use crate::{
    identity::Identity,
    primitives::{ManualClock, NetworkId, PeerId, UnixMillis},
    store::Store,
};

const START: UnixMillis = UnixMillis(1_700_000_000_000);

fn address() -> PeerId {
    Identity::generate().address()
}

fn open(store: &Store, on_send: bool) -> Contacts {
    Contacts::open(store.clone(), Arc::new(ManualClock::new(START)), us(), on_send).unwrap()
}

fn us() -> PeerId {
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
    keypair.public().to_peer_id()
}

#[tokio::test]
async fn who_was_removed_by_hand_stays_out_until_added_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let contacts = open(&store, true);
    let [a, b, c] = [(); 3].map(|()| address());
    contacts.written_to(a).await;
    assert_eq!(contacts.book().contacts[&a].origin, Origin::Written);
    assert_eq!(contacts.add(a).await.unwrap().origin, Origin::Added, "by hand now");
    contacts.written_to(a).await;
    assert_eq!(contacts.book().contacts[&a].origin, Origin::Added);
    contacts.add(b).await.unwrap();
    contacts.remove(b).await.unwrap();
    assert_eq!(contacts.remove(b).await, Err(ContactError::NotFound));
    contacts.written_to(b).await;
    assert!(!contacts.book().contacts.contains_key(&b));
    let after = open(&store, false);
    assert_eq!(*after.book(), *contacts.book(), "kept over a restart");
    after.written_to(c).await;
    assert!(!after.book().contacts.contains_key(&c), "switched off");
    after.add(b).await.unwrap();
    let after = open(&store, true);
    assert!(after.book().contacts.contains_key(&b) && after.book().removed.is_empty());
    for nobody in [us(), PeerId::from_multihash(libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap()).unwrap()] {
        assert_eq!(after.add(nobody).await, Err(ContactError::Invalid));
        after.written_to(nobody).await;
    }
    assert_eq!(after.book().contacts.len(), 2);
}

#[tokio::test]
async fn there_is_an_end_to_contacts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let contacts = open(&store, true);
    let all: Vec<_> = (0..MAX_CONTACTS).map(|_| address()).collect();
    let adding = futures::future::join_all(all.iter().map(|contact| contacts.add(*contact)));
    assert!(adding.await.iter().all(Result::is_ok));
    let one_more = address();
    assert_eq!(contacts.add(one_more).await, Err(ContactError::Full));
    contacts.written_to(one_more).await;
    assert_eq!(contacts.book().contacts.len(), MAX_CONTACTS);
    contacts.remove(all[0]).await.unwrap();
    contacts.add(one_more).await.unwrap();
}

#[test]
fn both_sides_derive_one_key_and_each_friend_another() {
    let [owner, contact] = [(); 2].map(|()| Identity::generate());
    let (network, holder) = (NetworkId::default(), address());
    let pair = Pair { owner: owner.address(), contact: contact.address(), holder };
    let key = deposit_key(&contact, &network, pair).unwrap().public_key();
    assert_eq!(deposit_keys(&owner, &network, holder, &BTreeSet::from([contact.address()])), [key]);
    let back = Pair { owner: pair.contact, contact: pair.owner, holder };
    for other in [Pair { holder: address(), ..pair }, back] {
        assert_ne!(deposit_key(&contact, &network, other).unwrap().public_key(), key);
    }
    let elsewhere = "other".parse().unwrap();
    assert_ne!(deposit_key(&contact, &elsewhere, pair).unwrap().public_key(), key);
}
