//! Memory of requests and answers under way, over all peers. A request counts as its bytes come, a few times what is here already, so that
//! a length that is announced costs next to nothing. An answer counts from when the feature is asked, as the largest that there may be,
//! until its size is known.
//!
//! When it is used up, whoever needs some waits a moment, since most exchanges end within one. After that the peer that holds most makes
//! room, if it holds more than the one that asks would, or more than that one does and for long: its oldest exchange that is being read or
//! written is cut off. So peers that send and read slowly, on purpose or not, under however many names, do not keep others waiting.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::primitives::PeerId;

/// How long exchanges may take to end by themselves before one is cut off, and before the next one is.
const PATIENCE: Duration = Duration::from_millis(250);
/// From one time that room is made to the next, for all who wait.
const BETWEEN: Duration = Duration::from_millis(10);
/// Who could not because of that tries again after this.
const SOON: Duration = Duration::from_millis(50);
/// How long somebody waits for whom there is no room: less than whoever asks waits for us. What is held for longer is held for long.
const LONGEST: Duration = Duration::from_secs(2);

/// Nothing was free for too long, and nobody holds more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

#[derive(Debug)]
struct Held {
    peer: PeerId,
    bytes: usize,
    begun: Instant,
    /// A feature has its request: to cut it off would free nothing.
    asked: bool,
    cut: CancellationToken,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// By age: the first one is the oldest.
    held: BTreeMap<u64, Held>,
    next: u64,
    /// When somebody had others make room last. Those who wait do not each look through all that is held: there may be thousands of both.
    made_room: Option<Instant>,
}

impl State {
    fn take(&mut self, id: u64, bytes: usize) -> bool {
        let Some(held) = self.held.get_mut(&id).filter(|_| bytes <= self.free) else { return false };
        held.bytes += bytes;
        self.free -= bytes;
        true
    }

    fn give_back(&mut self, id: u64) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.free += held.bytes;
        Some(held)
    }

    /// Whether nobody did a moment ago.
    fn may_make_room(&self) -> bool {
        self.made_room.is_none_or(|at| Instant::now() >= at + BETWEEN)
    }

    /// Cuts off exchanges until there is room for `bytes` more of `peer`, or nobody holds more than it would. Whether any was.
    fn make_room(&mut self, peer: PeerId, bytes: usize) -> bool {
        self.made_room = Some(Instant::now());
        let mut sums: HashMap<PeerId, usize> = HashMap::new();
        for held in self.held.values() {
            *sums.entry(held.peer).or_default() += held.bytes;
        }
        let has = sums.get(&peer).copied().unwrap_or(0);
        let (mut gone, mut free) = (BTreeSet::new(), self.free);
        while free < bytes {
            let yields = |h: &Held| {
                let sum = sums[&h.peer];
                let more = sum > has + bytes || (sum > has && h.begun.elapsed() >= LONGEST);
                more && h.bytes > 0 && !h.asked
            };
            let open = self.held.iter().filter(|(id, h)| yields(h) && !gone.contains(*id));
            let oldest_of_most = open.max_by_key(|(id, h)| (sums[&h.peer], h.peer, Reverse(**id)));
            // Nobody is cut off for what would not be enough.
            let Some((id, held)) = oldest_of_most else { return false };
            gone.insert(*id);
            free += held.bytes;
            *sums.entry(held.peer).or_default() -= held.bytes;
        }
        for held in gone.into_iter().filter_map(|id| self.give_back(id)) {
            tracing::debug!(peer = %held.peer, bytes = held.bytes, "memory is used up: its oldest exchange is cut off");
            held.cut.cancel();
        }
        true
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// One of those who wait looks again, and then the next one while there is enough; all of them do when their patience ends. To wake
    /// all each time would cost most when there are most.
    freed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// The memory of a server. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Shared>);

/// What one exchange holds of it; given back on drop.
#[derive(Debug)]
pub(super) struct Hold {
    budget: Budget,
    id: u64,
    peer: PeerId,
    cut: CancellationToken,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let state = State { free: bytes, held: BTreeMap::new(), next: 0, made_room: None };
        Self(Arc::new(Shared { state: Mutex::new(state), freed: Notify::new() }))
    }

    /// An exchange begins; it holds nothing yet.
    pub(super) fn begin(&self, peer: PeerId) -> Hold {
        let cut = CancellationToken::new();
        let mut state = self.0.state();
        let id = state.next;
        state.next += 1;
        state.held.insert(id, Held { peer, bytes: 0, begun: Instant::now(), asked: false, cut: cut.clone() });
        drop(state);
        Hold { budget: self.clone(), id, peer, cut }
    }
}

impl Hold {
    /// Takes `bytes` more, with patience.
    ///
    /// # Errors
    /// [`Full`]; also when the exchange was cut off.
    pub(super) async fn grow(&self, bytes: usize) -> Result<(), Full> {
        let shared = &self.budget.0;
        let begun = Instant::now();
        let mut patience = begun + PATIENCE;
        loop {
            // What is given back from here on may wake it.
            let mut freed = std::pin::pin!(shared.freed.notified());
            freed.as_mut().enable();
            if shared.state().take(self.id, bytes) {
                // There may be enough for the next one too.
                shared.freed.notify_one();
                return Ok(());
            }
            if self.cut.is_cancelled() || begun.elapsed() >= LONGEST {
                shared.freed.notify_one();
                return Err(Full);
            }
            if tokio::time::timeout_at(patience, freed).await.is_err() {
                let mut state = shared.state();
                // When somebody else did a moment ago it is tried again soon.
                let may = state.may_make_room();
                patience += if may { PATIENCE } else { SOON };
                // Whoever made room has it, and others wait for what is left.
                let made = may && state.make_room(self.peer, bytes);
                let taken = made && state.take(self.id, bytes);
                drop(state);
                if made {
                    shared.freed.notify_one();
                }
                if taken {
                    return Ok(());
                }
            }
        }
    }

    /// Gives back all but `bytes` of it.
    pub(super) fn shrink_to(&self, bytes: usize) {
        let mut state = self.budget.0.state();
        let Some(held) = state.held.get_mut(&self.id).filter(|held| held.bytes > bytes) else { return };
        let back = std::mem::replace(&mut held.bytes, bytes) - bytes;
        state.free += back;
        drop(state);
        self.budget.0.freed.notify_one();
    }

    /// A feature is asked, or has answered: meanwhile it is not cut off.
    pub(super) fn asked(&self, asked: bool) {
        if let Some(held) = self.budget.0.state().held.get_mut(&self.id) {
            held.asked = asked;
        }
    }

    /// Waits until it is cut off. Cancel-safe.
    pub(super) async fn cut_off(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = self.budget.0.state().give_back(self.id);
        if held.is_some_and(|held| held.bytes > 0) {
            self.budget.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[tokio::test]
    async fn what_ends_in_time_is_waited_for_and_nobody_is_cut_off() {
        let (budget, a, b) = (Budget::new(100 * KIB), PeerId::random(), PeerId::random());
        let first = budget.begin(a);
        first.grow(90 * KIB).await.unwrap();
        let second = budget.begin(b);
        let grown = async { second.grow(50 * KIB).await };
        let ends = async {
            tokio::task::yield_now().await;
            assert!(!first.cut.is_cancelled());
            drop(first);
        };
        let (grown, ()) = tokio::join!(grown, ends);
        assert_eq!(grown, Ok(()));
        assert_eq!(budget.0.state().free, 50 * KIB);
        drop(second);
        let state = budget.0.state();
        assert_eq!((state.free, state.held.len()), (100 * KIB, 0));
    }

    #[tokio::test]
    async fn others_that_come_and_go_do_not_put_off_what_has_to_make_room() {
        let budget = Budget::new(100 * KIB);
        let slow: Vec<_> = (0..3).map(|_| budget.begin(PeerId::random())).collect();
        for hold in &slow {
            hold.grow(33 * KIB).await.unwrap();
        }
        let wants = budget.begin(PeerId::random());
        let wanted = async {
            wants.grow(20 * KIB).await.unwrap();
            assert_eq!(slow.iter().filter(|hold| hold.cut.is_cancelled()).count(), 1);
        };
        // Each of them wakes whoever waits.
        let coming = async {
            loop {
                let small = budget.begin(PeerId::random());
                small.grow(100).await.unwrap();
                drop(small);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { () = wanted => {}, () = coming => {} }
    }

    #[tokio::test]
    async fn what_a_feature_has_is_not_cut_off_and_what_it_does_not_need_is_given_back() {
        let budget = Budget::new(100 * KIB);
        let (busy, reading) = (budget.begin(PeerId::random()), budget.begin(PeerId::random()));
        busy.grow(60 * KIB).await.unwrap();
        busy.asked(true);
        reading.grow(40 * KIB).await.unwrap();
        let other = budget.begin(PeerId::random());
        other.grow(10 * KIB).await.unwrap();
        assert_eq!((busy.cut.is_cancelled(), reading.cut.is_cancelled()), (false, true));
        assert_eq!(budget.begin(PeerId::random()).grow(50 * KIB).await, Err(Full), "nobody else can make room");
        busy.shrink_to(KIB);
        assert_eq!(budget.0.state().free, 89 * KIB);
        busy.shrink_to(2 * KIB);
        busy.shrink_to(0);
        drop((busy, reading, other));
        let state = budget.0.state();
        assert_eq!((state.free, state.held.len()), (100 * KIB, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_something_for_long_makes_room_for_who_holds_nothing() {
        let budget = Budget::new(64 * KIB);
        let slow: Vec<_> = (0..16).map(|_| budget.begin(PeerId::random())).collect();
        for hold in &slow {
            hold.grow(4 * KIB).await.unwrap();
        }
        // More than each of them has: nobody yields at once, and two do when they have had it for long.
        let newcomer = budget.begin(PeerId::random());
        let early = tokio::time::timeout(LONGEST - Duration::from_millis(1), newcomer.grow(5 * KIB)).await;
        assert!(early.is_err() && slow.iter().all(|hold| !hold.cut.is_cancelled()));
        newcomer.grow(5 * KIB).await.unwrap();
        assert_eq!(slow.iter().filter(|hold| hold.cut.is_cancelled()).count(), 2);
        // Nor does it get more and more so.
        assert_eq!(newcomer.grow(5 * KIB).await, Err(Full));
        assert_eq!(slow.iter().filter(|hold| hold.cut.is_cancelled()).count(), 2);
    }

    #[tokio::test]
    async fn who_holds_most_makes_room_for_who_wants_less_and_for_nobody_else() {
        let budget = Budget::new(100 * KIB);
        let (hog, others): (PeerId, Vec<_>) = (PeerId::random(), (0..6).map(|_| PeerId::random()).collect());
        let held: Vec<_> = (0..4).map(|_| budget.begin(hog)).collect();
        for hold in &held {
            hold.grow(10 * KIB).await.unwrap();
        }
        let slow: Vec<_> = others.iter().map(|peer| budget.begin(*peer)).collect();
        for hold in &slow {
            hold.grow(10 * KIB).await.unwrap();
        }
        assert_eq!(budget.0.state().free, 0);
        let small = budget.begin(PeerId::random());
        small.grow(KIB).await.unwrap();
        let cut: Vec<_> = held.iter().map(|hold| hold.cut.is_cancelled()).collect();
        assert_eq!(cut, [true, false, false, false], "its oldest");
        assert!(slow.iter().all(|hold| !hold.cut.is_cancelled()));
        assert_eq!(held[0].grow(1).await, Err(Full), "what was cut off is over");
        // Another one that wants as much as anybody has is told so, in the end.
        let large = budget.begin(PeerId::random());
        large.grow(15 * KIB).await.unwrap();
        assert_eq!(held.iter().filter(|hold| hold.cut.is_cancelled()).count(), 2, "as many as it takes");
        let last = budget.begin(PeerId::random());
        assert_eq!(last.grow(101 * KIB).await, Err(Full), "nobody is cut off for what cannot be");
        assert_eq!(held.iter().filter(|hold| hold.cut.is_cancelled()).count(), 2);
        drop((held, slow, small, large, last));
        assert_eq!(budget.0.state().free, 100 * KIB);
    }
}
