//! Whom to ask for what is missing, and whom else when the answer that everything waits for is late.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    super::{
        claims::Claim,
        plan::{Output, Place},
        run::Wanted,
        wire::Span,
    },
    Flight, Planner,
};
use crate::primitives::PeerId;

/// Pulls under way with one peer. One that has proven nothing gets one when half of all places are taken: peers that never answer may
/// not keep everybody waiting.
const PER_PEER: usize = 2;
/// Pulls under way in all, with those whose answers are being checked.
pub(super) const IN_FLIGHT: usize = 16;
/// The least that it becomes on a slow line, so that one that hangs does not keep everybody waiting; but for single blocks that two at
/// once do not come in time.
pub(super) const LEAST_IN_FLIGHT: usize = 2;
/// A pull is late after this, and after [`SLOWER`] times what pulls take: on a slow line all of them take long, and to ask
/// twice would make it slower.
const LATE: Duration = Duration::from_secs(2);
const SLOWER: u32 = 3;
/// Peers that are asked for one batch at once, one more each time that it is late.
const AT_ONCE: usize = 3;
/// Pulls from one peer from which is known how long they take.
const LAST: usize = 7;
/// A peer is slow whose pulls take so long, and [`SLOW_TIMES`] what those of the quickest one take.
pub(super) const SLOW: Duration = Duration::from_secs(1);
const SLOW_TIMES: u32 = 4;
/// Pulls under way with all slow peers together: the rest is for the others. It is not less, since what is slow here may be the size of what
/// comes, and since others vouch for what the quick ones send.
const WITH_SLOW: usize = IN_FLIGHT / 2;

/// How long pulls that brought most of what was asked for took of late, by peer: what brings little says nothing.
#[derive(Debug, Default)]
pub(super) struct Pace(HashMap<PeerId, VecDeque<Duration>>);

impl Pace {
    /// A pull brought blocks after so long.
    pub(super) fn saw(&mut self, peer: PeerId, took: Duration) {
        let last = self.0.entry(peer).or_default();
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(took);
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// What a pull from this peer takes: the median, so that one that was lost on the way says nothing.
    fn usual(&self, peer: &PeerId) -> Option<Duration> {
        let mut all: Vec<_> = self.0.get(peer)?.iter().copied().collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }

    fn quickest(&self) -> Option<Duration> {
        self.0.keys().filter_map(|peer| self.usual(peer)).min()
    }

    /// When a pull is late: by the quickest peer, however many slow ones there are.
    fn late(&self) -> Duration {
        self.quickest().map_or(LATE, |usual| (usual * SLOWER).max(LATE))
    }

    fn is_slow(&self, peer: &PeerId) -> bool {
        let usual = self.usual(peer).filter(|usual| *usual >= SLOW);
        usual.is_some_and(|usual| self.quickest().is_some_and(|quickest| usual >= quickest * SLOW_TIMES))
    }
}

/// A peer that may be asked in this run, the height up to which, and what it says.
type Asked<'a> = (PeerId, u64, &'a Claim);

impl Planner {
    /// Asks peers for what is missing.
    pub(super) fn pull(&mut self, place: &Place, now: Instant, random: &mut impl FnMut() -> f64) {
        let base = place.head.height;
        let Some(run) = &mut self.run else { return };
        let lead = run.branch.and_then(|lead| self.claims.get(&lead)).map(|c| c.head.hash);
        // On the branch that is our best chain now, everybody can help.
        if run.progressed && run.anchor == place.head {
            run.branch = None;
        }
        let asked: Vec<Asked<'_>> = self
            .claims
            .iter()
            .filter(|(peer, c)| {
                let on_branch = run.branch.is_none_or(|lead_peer| **peer == lead_peer || Some(c.head.hash) == lead);
                on_branch && !run.excluded.contains(*peer)
            })
            .map(|(peer, c)| (*peer, c.height(base.max(run.anchor.height), now), c))
            .collect();
        let top = asked.iter().map(|(_, height, _)| *height).max().unwrap_or(0);
        let next = run.anchor.height + 1;
        // Who let the last pull run out of time vouches for nothing, nor who cannot be asked for what is next.
        let vouches = |c: &Claim| !c.is_silent() && c.earliest <= next;
        let mut heights: Vec<_> =
            asked.iter().filter(|(.., c)| vouches(c)).map(|(_, height, c)| (*height, c.voice)).collect();
        heights.sort_unstable();
        let first = heights.last().map(|(_, voice)| *voice);
        self.twice = heights.iter().rev().find(|(_, voice)| Some(*voice) != first).map_or(0, |(height, _)| *height);
        run.cut(top, self.size.count());
        let nobody = asked.iter().all(|(_, height, c)| *height < next || c.earliest > next);
        if self.importing.is_empty() && !run.is_flying() && nobody {
            // Those that have it and not what comes before it are of no use.
            let useless: Vec<_> =
                asked.iter().filter(|(_, height, _)| *height >= next).map(|(peer, ..)| *peer).collect();
            useless.iter().for_each(|peer| self.claims.fail(peer, now));
            return self.give_up(now);
        }
        let (late, missing) = (run.awaited(), run.missing());
        let slow: HashSet<PeerId> =
            asked.iter().map(|(peer, ..)| *peer).filter(|peer| self.pace.is_slow(peer)).collect();
        let mut started = Vec::new();
        if let Some(late) = late.filter(|w| self.is_late(w.span, now))
            && let Some(peer) = self.another(&late, &asked, now, random)
        {
            started.push((late.span, peer));
        }
        for wanted in missing {
            if let Some((span, peer)) = self.best(&wanted, (&asked, &slow), &started, now, random) {
                started.push((span, peer));
            }
        }
        for (span, peer) in started {
            if let Some(run) = &mut self.run {
                run.fly(span, peer);
                run.place(peer, self.claims.voice(&peer));
            }
            let id = self.id();
            self.flights.insert(id, Flight { peer, span, run: self.runs, since: now, answered: false });
            self.out.push(Output::Pull { id, peer, span, bytes: self.size.bytes() });
        }
    }

    fn asked_for(&self, span: Span) -> impl Iterator<Item = &Flight> {
        self.flights.values().filter(move |f| f.run == self.runs && f.span.start == span.start)
    }

    /// Whether the last one that was asked for these takes longer than others do, and no answer is being checked.
    fn is_late(&self, span: Span, now: Instant) -> bool {
        if self.asked_for(span).any(|f| f.answered) {
            return false;
        }
        let last = self.asked_for(span).map(|f| f.since).max();
        let late = last.is_some_and(|since| now.saturating_duration_since(since) >= self.pace.late());
        // Beyond the others, or slow peers that have all places would keep everybody waiting; but not on a line that is slow itself.
        let doubtful = |f: &Flight| self.claims.get(&f.peer).is_none_or(|c| c.is_silent() || c.proven == 0);
        late && (self.window > LEAST_IN_FLIGHT || self.asked_for(span).all(doubtful))
            && self.asked_for(span).count() < AT_ONCE
            && self.flights.len() < IN_FLIGHT + AT_ONCE
    }

    /// Somebody else to be asked for all of these: whoever has proven most.
    fn another(
        &self,
        Wanted { span, before, .. }: &Wanted,
        asked: &[Asked<'_>],
        now: Instant,
        random: &mut impl FnMut() -> f64,
    ) -> Option<PeerId> {
        let free = asked.iter().filter(|asked| {
            self.is_free(asked, &[], span.start, now)
                && asked.1 + 1 >= span.end()
                && self.asked_for(*span).all(|f| f.peer != asked.0)
        });
        let best = free.min_by_key(|(_, _, c)| {
            (self.is_among(before, c), c.failures(), c.is_silent(), c.proven == 0, (random() * 1024.0) as u32) // below 1024
        });
        best.map(|(peer, ..)| *peer)
    }

    /// Whom to ask for what is missing, and for how much of it.
    fn best(
        &self,
        Wanted { span, before, beside }: &Wanted,
        (asked, slow): (&[Asked<'_>], &HashSet<PeerId>),
        started: &[(Span, PeerId)],
        now: Instant,
        random: &mut impl FnMut() -> f64,
    ) -> Option<(Span, PeerId)> {
        if self.under_way_in_all() + started.len() >= self.window {
            return None;
        }
        // Or slow ones would have all places in the end: those of the others are free again sooner.
        let with_slow = self.flights.values().map(|f| f.peer).chain(started.iter().map(|(_, peer)| *peer));
        let full = with_slow.filter(|peer| slow.contains(peer)).count() >= WITH_SLOW && slow.len() < asked.len();
        let free = asked.iter().filter(|asked| self.is_free(asked, started, span.start, now));
        let free = free.filter(|(peer, ..)| !(full && slow.contains(peer)));
        // Somebody else for each try, not who was silent, and somebody else than for the neighbours, so that batches vouch for each
        // other; then whoever failed least and has least to do.
        let (peer, height, _) = free.min_by_key(|(peer, _, c)| {
            let tried = before.iter().filter(|p| self.claims.voice(p) == c.voice).count();
            let busy = self.under_way(peer, started);
            let rank = (tried, c.is_silent(), self.is_among(beside, c), c.failures(), c.proven == 0, busy);
            (rank, (random() * 1024.0) as u32) // below 1024
        })?;
        let count = u32::try_from(height - span.start + 1).unwrap_or(u32::MAX).min(span.count).min(self.size.count());
        Some((Span { start: span.start, count }, *peer))
    }

    /// Whether one of these is of the same voice.
    fn is_among(&self, peers: &[PeerId], claim: &Claim) -> bool {
        peers.iter().any(|peer| self.claims.voice(peer) == claim.voice)
    }

    /// Pulls from peers that are still there.
    pub(super) fn under_way_in_all(&self) -> usize {
        self.flights.values().filter(|f| self.claims.get(&f.peer).is_some()).count()
    }

    fn under_way(&self, peer: &PeerId, started: &[(Span, PeerId)]) -> usize {
        self.flights.values().filter(|f| f.peer == *peer && !f.answered).count()
            + started.iter().filter(|(_, p)| p == peer).count()
    }

    /// Whether a peer has the block at `start`, and time for one more pull.
    fn is_free(&self, (peer, height, c): &Asked<'_>, started: &[(Span, PeerId)], start: u64, now: Instant) -> bool {
        let idle = self.flights.len() + started.len() < IN_FLIGHT / 2;
        let limit = if c.proven > 0 || idle { PER_PEER } else { 1 };
        *height >= start && c.earliest <= start && !c.is_busy(now) && self.under_way(peer, started) < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_follows_what_the_quickest_takes() {
        let mut pace = Pace::default();
        assert_eq!(pace.late(), LATE);
        let [a, b, c] = std::array::from_fn(|_| PeerId::random());
        (0..10).for_each(|_| pace.saw(a, Duration::from_millis(50)));
        assert_eq!((pace.late(), pace.is_slow(&a)), (LATE, false));
        for peer in [b, c] {
            (0..7).for_each(|_| pace.saw(peer, Duration::from_secs(9)));
        }
        assert_eq!(pace.late(), LATE, "two of three are slow");
        assert_eq!([&a, &b, &c].map(|peer| pace.is_slow(peer)), [false, true, true]);
        pace.forget(&a);
        pace.saw(b, Duration::from_secs(4));
        assert_eq!(pace.late(), Duration::from_secs(27), "all are slow");
        assert!(!pace.is_slow(&b) && !pace.is_slow(&c));
        (0..4).for_each(|_| pace.saw(b, Duration::from_secs(4)));
        assert_eq!(pace.late(), Duration::from_secs(12), "what it was of late");
    }
}
