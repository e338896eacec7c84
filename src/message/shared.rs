//! What the parts of the service share: configuration, keys, store, counters.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::broadcast;

use super::{
    Config, Event, Metrics, Stats, contacts::Contacts, envelope::Envelopes, keys::Keys, lanes::Lanes,
    recipients::Recipients, store::Tables, stream::Sequence,
};
use crate::{
    identity::{EncryptionKey, Identity, Purpose, SealError, SealSession},
    primitives::{Clock, PeerId, UnixMillis},
};

/// Key agreements with recipients that are kept, 300 bytes each.
const SESSIONS: usize = 1024;

/// Counters that the handle shows.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) outbox_pending: AtomicU64,
    pub(super) outbox_bytes: AtomicU64,
    pub(super) inbox: AtomicU64,
    pub(super) unread: AtomicU64,
    pub(super) inbox_bytes: AtomicU64,
}

impl Counts {
    pub(super) fn stats(&self) -> Stats {
        Stats {
            outbox_pending: self.outbox_pending.load(Ordering::Relaxed),
            inbox: self.inbox.load(Ordering::Relaxed),
            unread: self.unread.load(Ordering::Relaxed),
        }
    }
}

/// Takes from a counter what was added to it before.
pub(super) fn subtract(counter: &AtomicU64, n: u64) {
    let before = counter.fetch_sub(n, Ordering::Relaxed);
    debug_assert!(before >= n, "counted down more than up");
}

/// Shared by all parts of the service.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) local: PeerId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tables: Tables,
    pub(super) keys: Keys,
    pub(super) envelopes: Envelopes,
    pub(super) receipts: Purpose,
    pub(super) withdrawals: Purpose,
    pub(super) recipients: Arc<dyn Recipients>,
    pub(super) contacts: Contacts,
    pub(super) metrics: Metrics,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) counts: Counts,
    pub(super) sessions: Sessions,
    pub(super) sequence: Sequence,
    /// Numbers of our messages.
    pub(super) lanes: Arc<Lanes>,
    /// Whether friends are being asked what they keep for us.
    pub(super) collecting: AtomicBool,
}

impl Shared {
    pub(super) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// Tells subscribers; built only when there are any.
    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.events.receiver_count() > 0 {
            // An error means that the last subscriber left meanwhile.
            let _ = self.events.send(event());
        }
    }
}

type Session = Arc<Mutex<SealSession>>;

/// Key agreements with recipients, one for many messages.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<PeerId, (EncryptionKey, Session)>>);

impl Sessions {
    /// The session with this key of this recipient.
    pub(super) fn get(&self, context: &str, to: PeerId, key: EncryptionKey) -> Result<Session, SealError> {
        let known = self.0.lock().expect("no panic while held").get(&to).cloned();
        if let Some((_, session)) = known.filter(|(k, _)| *k == key) {
            return Ok(session);
        }
        let session = Arc::new(Mutex::new(SealSession::new(context, &to, key)?));
        let mut all = self.0.lock().expect("no panic while held");
        if all.len() >= SESSIONS {
            // Any choice will do: an agreement is made again in 50 us.
            all.clear();
        }
        all.insert(to, (key, session.clone()));
        Ok(session)
    }
}
