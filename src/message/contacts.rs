//! Contacts: the nodes that may leave messages with our friends, and their deposit keys.
//!
//! A contact is whoever was added by hand, and whoever we wrote to (`friend.contact_on_send`): an answer should arrive also when
//! we are gone. For each contact and each friend of ours there is one deposit key (Ed25519) that the contact and we derive from our
//! identities (`deposit_key`), so no key has to be sent: we register its public half with the friend, the contact signs with it.
//! The friend can limit and shut out each contact, and does not learn who it is: the keys of one contact at two friends, or of
//! two contacts, have nothing in common.
//!
//! The design (`mail.md` 3.3) has the owner make a random key for each contact and send it end to end. Derived keys do the same
//! with no message that could be late or lost, and the first message of a new contact finds its key registered. What they cannot
//! do is change while both identities stay; a contact is shut out by taking its key back, and let in again with the same one.
//!
//! Somebody who was removed by hand stays out until added by hand, also when we write to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use tokio::sync::{Mutex, watch};
use tracing::{debug, error, warn};

use crate::{
    identity::{self, Identity},
    primitives::{Clock, NetworkId, PeerId, UnixMillis},
    store::{Batch, Family, Store, StoreError},
};

/// Contacts at most: a friend takes no more deposit keys.
pub const MAX_CONTACTS: usize = 1024;
/// Removed ones that are remembered; the ones removed first go.
const MAX_REMOVED: usize = 4096;
/// Before an address in the family `friend`.
pub(super) const PREFIX: u8 = b'c';

/// How somebody became a contact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// By hand.
    Added,
    /// We wrote to it.
    Written,
}

/// A contact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contact {
    /// How it became one.
    pub origin: Origin,
    /// When.
    pub since: UnixMillis,
}

/// Who is a contact.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Book {
    /// Contacts, at most [`MAX_CONTACTS`].
    pub contacts: BTreeMap<PeerId, Contact>,
    /// Who was one, and when it was removed: their keys are to be taken back.
    pub removed: BTreeMap<PeerId, UnixMillis>,
}

/// Why contacts were not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContactError {
    /// Not a node's address, or our own.
    #[error("not the address of another node")]
    Invalid,
    /// No such contact.
    #[error("no such contact")]
    NotFound,
    /// Too many.
    #[error("there are {MAX_CONTACTS} contacts already; remove one with `vos contact rm`")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The book of contacts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contacts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: PeerId,
    store: Store,
    clock: Arc<dyn Clock>,
    on_send: bool,
    book: watch::Sender<Arc<Book>>,
    changing: Mutex<()>,
}

impl Contacts {
    /// Reads the book. `on_send`: whom we write to becomes a contact. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(store: Store, clock: Arc<dyn Clock>, local: PeerId, on_send: bool) -> Result<Self, StoreError> {
        let mut book = Book::default();
        store.for_each(Family::Friend, &[PREFIX], Bound::Unbounded, |key, value| {
            match PeerId::from_bytes(&key[1..]).ok().zip(decode(value)) {
                Some((address, (Some(origin), since))) => {
                    book.contacts.insert(address, Contact { origin, since });
                }
                Some((address, (None, at))) => {
                    book.removed.insert(address, at);
                }
                None => error!("a stored contact is damaged and was skipped"),
            }
            true
        })?;
        let (book, _) = watch::channel(Arc::new(book));
        Ok(Self { inner: Arc::new(Inner { local, store, clock, on_send, book, changing: Mutex::new(()) }) })
    }

    /// The book as it is now.
    #[must_use]
    pub fn book(&self) -> Arc<Book> {
        self.inner.book.borrow().clone()
    }

    /// The book and its changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Book>> {
        self.inner.book.subscribe()
    }

    /// Makes somebody a contact; durable when this returns. The same again does nothing.
    ///
    /// # Errors
    /// [`ContactError`].
    pub async fn add(&self, address: PeerId) -> Result<Contact, ContactError> {
        self.put(address, Origin::Added).await
    }

    /// Somebody is written to. Never fails: the message goes out whether its recipient becomes a contact or not.
    pub(super) async fn written_to(&self, address: PeerId) {
        let book = self.book();
        let known = book.contacts.contains_key(&address) || book.removed.contains_key(&address);
        if !self.inner.on_send || known {
            return;
        }
        match self.put(address, Origin::Written).await {
            Ok(_) => {}
            Err(ContactError::Full) => debug!(%address, "written to, and not a contact: there is no room"),
            Err(error) => warn!(%address, %error, "written to, and not a contact"),
        }
    }

    async fn put(&self, address: PeerId, origin: Origin) -> Result<Contact, ContactError> {
        if address == self.inner.local || identity::public_key_of(&address).is_none() {
            return Err(ContactError::Invalid);
        }
        let _one = self.inner.changing.lock().await;
        let mut book = Book::clone(&self.book());
        // What was added by hand stays so.
        if let Some(known) = book.contacts.get(&address).filter(|known| known.origin <= origin) {
            return Ok(*known);
        }
        if book.contacts.len() >= MAX_CONTACTS && !book.contacts.contains_key(&address) {
            return Err(ContactError::Full);
        }
        let contact = Contact { origin, since: self.inner.clock.now() };
        let mut batch = Batch::new();
        batch.put(Family::Friend, key(&address), encode(Some(origin), contact.since));
        self.inner.store.commit(batch).await?;
        book.removed.remove(&address);
        book.contacts.insert(address, contact);
        self.inner.book.send_replace(Arc::new(book));
        Ok(contact)
    }

    /// Takes the right to leave messages back. What somebody left stays.
    ///
    /// # Errors
    /// [`ContactError`].
    pub async fn remove(&self, address: PeerId) -> Result<(), ContactError> {
        let _one = self.inner.changing.lock().await;
        let mut book = Book::clone(&self.book());
        if book.contacts.remove(&address).is_none() {
            return Err(ContactError::NotFound);
        }
        let mut batch = Batch::new();
        if book.removed.len() >= MAX_REMOVED
            && let Some(oldest) = book.removed.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address)
        {
            book.removed.remove(&oldest);
            batch.delete(Family::Friend, key(&oldest));
        }
        let now = self.inner.clock.now();
        batch.put(Family::Friend, key(&address), encode(None, now));
        self.inner.store.commit(batch).await?;
        book.removed.insert(address, now);
        self.inner.book.send_replace(Arc::new(book));
        Ok(())
    }
}

fn key(address: &PeerId) -> Vec<u8> {
    [&[PREFIX], address.to_bytes().as_slice()].concat()
}

/// In the store: 1 added, 2 written to, 3 removed; when (8).
fn encode(origin: Option<Origin>, at: UnixMillis) -> Vec<u8> {
    let kind = match origin {
        Some(Origin::Added) => 1,
        Some(Origin::Written) => 2,
        None => 3,
    };
    [&[kind], &at.0.to_be_bytes()[..]].concat()
}

/// `None`: damaged.
fn decode(bytes: &[u8]) -> Option<(Option<Origin>, UnixMillis)> {
    let (kind, at) = bytes.split_first()?;
    let origin = match kind {
        1 => Some(Origin::Added),
        2 => Some(Origin::Written),
        3 => None,
        _ => return None,
    };
    Some((origin, UnixMillis(u64::from_be_bytes(at.try_into().ok()?))))
}

/// Who leaves messages for whom, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pair {
    pub(super) owner: PeerId,
    pub(super) contact: PeerId,
    pub(super) holder: PeerId,
}

/// The deposit key of a contact of an owner at one friend of the owner; `us` is the contact or the owner. 0.1 ms.
pub(super) fn deposit_key(us: &Identity, network: &NetworkId, pair: Pair) -> Option<Identity> {
    let other = if us.address() == pair.owner { pair.contact } else { pair.owner };
    // Addresses of Ed25519 keys have one length, so the parts cannot be shifted.
    let mut info = [pair.owner, pair.contact, pair.holder].map(|address| address.to_bytes()).concat();
    info.extend_from_slice(network.as_str().as_bytes());
    us.shared_with(&other, "vos 2026-11-21 deposit key of a contact", &info)
}

/// The deposit keys of `contacts` at a friend of ours. Blocks for 0.1 ms each.
pub(super) fn deposit_keys(
    us: &Identity,
    network: &NetworkId,
    holder: PeerId,
    contacts: &BTreeSet<PeerId>,
) -> Vec<[u8; 32]> {
    let key = |contact: &PeerId| deposit_key(us, network, Pair { owner: us.address(), contact: *contact, holder });
    contacts.iter().filter_map(key).map(|key| key.public_key()).collect()
}
