//! What everybody may read: the chain as it was written last. One owner publishes it, after the disk has it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock},
};

use tokio::sync::{broadcast, watch};

use super::{
    core::Core,
    handle::{ChainError, Event, Judgement, Known, Status},
    judge,
    store::ChainStore,
    validator::{Validator, Verdict},
};
use crate::{
    block::{Header, Point, VerifiedHeader},
    primitives::{Hash, UnixMillis},
};

/// Events that a slow receiver may be behind: many seconds of broadcast. One write while catching up has more. An event is a hundred
/// bytes, and its ring is laid out at once.
const EVENTS: usize = 1024;

/// One published state.
#[derive(Debug)]
struct View {
    root: Point,
    head: u64,
    path: Vec<Point>,
    /// Of the committed block and of everything above it.
    headers: HashMap<Hash, Arc<Header>>,
    waiting: HashSet<Hash>,
    invalid: Arc<HashMap<Hash, Arc<str>>>,
}

/// Shared by the owner, which publishes, and all handles.
#[derive(Debug)]
pub(super) struct Shared {
    view: RwLock<Arc<View>>,
    status: watch::Sender<Status>,
    events: broadcast::Sender<Event>,
    pub(super) store: Arc<dyn ChainStore>,
    pub(super) validator: Arc<dyn Validator>,
}

fn view(core: &Core) -> View {
    View {
        root: core.committed(),
        head: core.head().height,
        path: core.path.clone(),
        headers: core.tree.headers().map(|(hash, header)| (hash, header.clone())).collect(),
        waiting: core.orphans.hashes(),
        invalid: core.invalid.all(),
    }
}

impl Shared {
    pub(super) fn new(core: &Core, store: Arc<dyn ChainStore>, validator: Arc<dyn Validator>) -> Self {
        let (status, _) = watch::channel(core.status());
        let (events, _) = broadcast::channel(EVENTS);
        Self { view: RwLock::new(Arc::new(view(core))), status, events, store, validator }
    }

    /// Shows what was written, then tells what happened.
    pub(super) fn publish(&self, core: &Core, events: Vec<Event>) {
        *self.view.write().expect("no panic while held") = Arc::new(view(core));
        let (status, halted) = (core.status(), self.status.borrow().halted.clone());
        // The reason may change with each try: that it is halted is news once.
        let moved = (status.halted.is_some() != halted.is_some()).then(|| Event::Halted(status.halted.clone()));
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
        self.tell(events.into_iter().chain(moved));
    }

    /// Shows that the chain is halted, without anything that was not written.
    pub(super) fn publish_halt(&self, status: Status) {
        let Status { halted, retrying, conflicting_peers, damaged_files, .. } = status;
        let told = Event::Halted(halted.clone());
        let mut flipped = false;
        self.status.send_if_modified(|old| {
            let before = old.clone();
            (old.halted, old.retrying) = (halted, retrying);
            (old.conflicting_peers, old.damaged_files) = (conflicting_peers, damaged_files);
            flipped = before.halted.is_some() != old.halted.is_some();
            before != *old
        });
        self.tell(flipped.then_some(told));
    }

    /// Tells events.
    pub(super) fn tell(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            // Nobody listening is fine.
            let _ = self.events.send(event);
        }
    }

    fn view(&self) -> Arc<View> {
        self.view.read().expect("no panic while held").clone()
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(super) fn header(&self, hash: &Hash) -> Option<Arc<Header>> {
        self.view().headers.get(hash).cloned()
    }

    /// Whether a key made the committed block or one of the best chain above it.
    pub(super) fn is_producer(&self, producer: &[u8; 32]) -> bool {
        let view = self.view();
        let blocks = std::iter::once(&view.root).chain(&view.path);
        blocks.filter_map(|p| view.headers.get(&p.hash)).any(|h| h.producer == *producer)
    }

    pub(super) fn known(&self, hash: &Hash) -> Result<Known, ChainError> {
        let view = self.view();
        if let Some(header) = view.headers.get(hash) {
            return Ok(Known::Held(header.height));
        }
        if view.waiting.contains(hash) {
            return Ok(Known::Orphan);
        }
        if view.invalid.contains_key(hash) {
            return Ok(Known::Invalid);
        }
        let header = super::store::read_header(self.store.as_ref(), hash)?;
        Ok(header.map_or(Known::No, |h| Known::Held(h.height)))
    }

    /// The block of the best chain at a height, up to the head.
    pub(super) fn hash_at(&self, height: u64) -> Result<Option<Hash>, ChainError> {
        let view = self.view();
        match height.checked_sub(view.root.height) {
            None => Ok(self.store.hash_at(height)?),
            Some(0) => Ok(Some(view.root.hash)),
            Some(above) => {
                let at = usize::try_from(above - 1).ok();
                Ok(at.and_then(|at| view.path.get(at)).map(|p| p.hash))
            }
        }
    }

    /// The best chain from a height up.
    pub(super) fn hashes(&self, from: u64, count: usize) -> Result<Vec<Hash>, ChainError> {
        let view = self.view();
        let mut hashes = Vec::new();
        if from <= view.root.height {
            let below = usize::try_from(view.root.height - from + 1).unwrap_or(usize::MAX);
            hashes = self.store.hashes(from, count.min(below))?;
            if hashes.len() < below {
                return Ok(hashes);
            }
        }
        let above = view.path.iter().filter(|p| p.height >= from).map(|p| p.hash);
        hashes.extend(above.take(count - hashes.len()));
        Ok(hashes)
    }

    /// Stages 3 to 5 for a header alone.
    pub(super) fn judge(&self, verified: &VerifiedHeader, now: UnixMillis) -> Result<Judgement, ChainError> {
        let (view, hash, header) = (self.view(), verified.hash(), verified.header());
        if view.headers.contains_key(&hash) {
            return Ok(Judgement::Known);
        }
        if let Some(why) = view.invalid.get(&hash) {
            return Ok(Judgement::Invalid(why.to_string()));
        }
        if header.height <= view.root.height || judge::stale(header.height, view.head) {
            let known = self.store.header(&hash)?.is_some();
            return Ok(if known { Judgement::Known } else { Judgement::Stale });
        }
        if view.invalid.contains_key(&header.parent) {
            return Ok(Judgement::Invalid("its parent is invalid".into()));
        }
        if let Some(judgement) = refusal(self.validator.header(header)) {
            return Ok(judgement);
        }
        let Some(parent) = view.headers.get(&header.parent) else { return Ok(without_parent(&view, header)) };
        if let Some(why) = judge::links(header, parent) {
            return Ok(Judgement::Invalid(why.into()));
        }
        let at = judge::earliest(header.time);
        if at > now {
            return Ok(match judge::may_wait(header.time, now) {
                true => Judgement::Early(at),
                false => Judgement::Ignored(
                    "its time is too far ahead of our clock: is the clock of this machine right?".into(),
                ),
            });
        }
        Ok(refusal(self.validator.contextual(header, parent)).unwrap_or(Judgement::Good))
    }
}

fn without_parent(view: &View, header: &Header) -> Judgement {
    if judge::too_far(header.height, view.head) {
        return Judgement::TooFar;
    }
    // The parent of the next height is the committed block and nothing else.
    if header.height == view.root.height + 1 { Judgement::Stale } else { Judgement::Orphan }
}

fn refusal(verdict: Verdict) -> Option<Judgement> {
    match verdict {
        Verdict::Accept => None,
        Verdict::Ignore(why) => Some(Judgement::Ignored(why)),
        Verdict::Invalid(why) => Some(Judgement::Invalid(why)),
    }
}
