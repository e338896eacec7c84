//! What to do next to catch up: a pure machine. It knows what peers claim, cuts what is missing into batches, chooses whom to ask,
//! hands blocks to the chain in order, and finds out where chains part. Requests are its outputs, their ends its inputs, and
//! nothing is taken that was not asked for (N8, N17).
//!
//! ```text
//!            a greeting                 far behind               near
//!  NoPeers ─────────────▶ Syncing ◀───────────────▶ CatchingUp ───────▶ Synced
//!     ▲                      │  no block for 30 s        │                 │ a third of the peers (two at least), or
//!     │ last peer gone       ▼                          ▼                 │ blocks of one, say that we are behind
//!   (any)                 Stalled ── a block ──▶ Syncing, CatchingUp ◀────┘
//! ```
//!
//! Where peers are counted against each other, all that are one [`Voice`] are one: names cost nothing.
//!
//! Of what no more peers say than there are whose heads are here only the blocks count that they give: liars that are always busy neither
//! put a node out of step nor keep it from it.
//!
//! No state is terminal (N12), and being in step is that no wanted head is missing, never that two heights are equal (N15). Who
//! was not in step comes into it only when the heads of at least half of the peers are here, and not before a few peers have told
//! them or a second has passed: that all of them are cut says nothing but that nobody gave us blocks. Peers that proved that they are on
//! another branch are not counted there, nor, while others are in step, those that had the time to show what they say and did not. When half
//! a minute of trying brought little, nobody is given that time for ten minutes, or names that come anew would have it each time.

mod pull;

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use self::pull::Pace;
use super::{
    claims::{CUT, Claim, Claims},
    plan::{Failure, Imported, Output, Place, Pulled, State, View},
    run::{Handover, Load, Mismatch, Run, Size},
    search::{Search, Step},
    wire::{Greeting, Ladder, Span},
};
use crate::{
    block::{Header, Point, chain::Outcome, penalty::Offence},
    net::Voice,
    primitives::PeerId,
};

/// A pull that took less shows that our line bears more: twice as much would still come in the time that a pull may take.
const EASY: Duration = Duration::from_secs(4);
/// Without a block for this long we are stalled.
const STALL: Duration = Duration::from_secs(30);
/// Between tries when stalled, and before a run begins with a peer whose blocks most others contradicted.
const PROBE: Duration = Duration::from_secs(10);
/// Imports under way: what they hold is bounded by bytes and blocks, which 32 answers at most come to when they are full. Half of the
/// chain's queue is left to others.
pub(super) const IMPORTS: usize = 32;
/// Headers of one proof that a branch contradicts what is final: all that the chain looks at.
const MAX_PROOF: u32 = 1024;
/// How long peers are given to tell their heads before any of them proves that we are wrong: of few, a liar is many.
const HEARD: Duration = Duration::from_secs(10);
/// How long a first run, and being in step, waits for more than a few peers to tell where they are: what a lone one sends becomes
/// final.
const SETTLE: Duration = Duration::from_secs(1);
/// Voices without which it waits.
const FEW: usize = 3;
/// A pull that was lost after so long hung somewhere.
const HANGS: Duration = Duration::from_secs(9);
/// After a run that came to nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// What peers say is tried for so long, but for [`ENOUGH`] new blocks that came; then only what comes counts for [`DISTRUST`].
const TRIED: Duration = STALL;
const DISTRUST: Duration = Duration::from_secs(600);
/// More than one who is quickest with each new block gives in that time, so that a few others are believed. So many bytes count as a block.
const ENOUGH: usize = 32;
const LARGE: usize = 256 * 1024;
/// From one look to the next no more than this counts.
const LOOKS: Duration = Duration::from_secs(1);
/// A search for where a peer's chain leaves ours, with the proof that follows, ends after this.
const SEARCH: Duration = Duration::from_secs(30);
/// A run to which nobody sends anything ends after this, which is twice what a pull may take: there is one run at a time, and what
/// others have may not wait for somebody who is busy for ever.
const IDLE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Flight {
    peer: PeerId,
    span: Span,
    run: u64,
    since: Instant,
    /// The answer is here and is being checked: the peer has nothing to do with it any more.
    answered: bool,
}

#[derive(Debug)]
struct Importing {
    id: u64,
    run: u64,
    from: Vec<(PeerId, usize)>,
    load: Load,
    /// The block at each place: where the run is when that many are held.
    points: Vec<Point>,
}

/// For how long what peers say was tried, and how many new blocks came.
#[derive(Debug)]
struct Tried {
    time: Duration,
    looked: Instant,
    came: usize,
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Planner {
    depth: u64,
    claims: Claims,
    state: State,
    /// Where our head was at the last look.
    head: u64,
    run: Option<Run>,
    runs: u64,
    /// When anything came for the run.
    moved: Instant,
    /// Because of whom it began.
    cause: Option<PeerId>,
    search: Option<(u64, Search)>,
    /// A peer whose chain is to be compared with ours, and a height where they differ.
    suspect: Option<(PeerId, u64)>,
    proving: Option<(u64, PeerId, Point)>,
    /// When the search began, or the one before the proof.
    searching_since: Instant,
    /// When a batch did not fit: the next one that does not fit begins a search.
    missed: Option<Instant>,
    /// What came of what peers say, while we are not in step.
    tried: Option<Tried>,
    /// Peers that show nothing are as good as none.
    solitary: bool,
    /// What is with the chain, in the order in which it was handed over.
    importing: VecDeque<Importing>,
    flights: HashMap<u64, Flight>,
    last_id: u64,
    size: Size,
    pace: Pace,
    /// Pulls under way at most: half of it when one ran out of time, one more for each that came quickly.
    window: usize,
    /// No run begins before.
    pause_until: Option<Instant>,
    progress: Instant,
    /// The height up to which two voices of the run say that they have blocks.
    twice: u64,
    /// The first SHAKEHAND since nobody was there.
    first_heard: Option<Instant>,
    out: Vec<Output>,
}

impl Planner {
    /// `depth`: blocks that are not final yet. `solitary`: whether peers of whom none shows any of what they say are as good as none.
    pub(super) fn new(depth: u64, solitary: bool, now: Instant) -> Self {
        Self {
            depth,
            solitary,
            claims: Claims::default(),
            state: State::NoPeers,
            head: 0,
            run: None,
            runs: 0,
            moved: now,
            cause: None,
            search: None,
            suspect: None,
            proving: None,
            searching_since: now,
            missed: None,
            tried: None,
            importing: VecDeque::new(),
            flights: HashMap::new(),
            last_id: 0,
            size: Size::default(),
            pace: Pace::default(),
            window: pull::IN_FLIGHT,
            pause_until: None,
            progress: now,
            twice: 0,
            first_heard: None,
            out: Vec::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// A SHAKEHAND of a peer with our genesis block, from either side.
    pub(super) fn on_greeting(&mut self, peer: PeerId, greeting: &Greeting, now: Instant) {
        self.first_heard.get_or_insert(now);
        self.claims.greet(peer, greeting, now);
    }

    /// Whose voice a peer is that greeted.
    pub(super) fn on_place(&mut self, peer: &PeerId, voice: Voice) {
        self.claims.place(peer, voice);
    }

    /// What an announcement says.
    pub(super) fn on_claim(&mut self, peer: &PeerId, head: Point) {
        self.claims.raise(peer, head);
    }

    /// The peer is gone, banned or of another chain. Requests to it still end.
    pub(super) fn on_gone(&mut self, peer: &PeerId, now: Instant) {
        self.claims.remove(peer, now);
        self.pace.forget(peer);
        if self.claims.is_empty() {
            self.first_heard = None;
        }
    }

    /// The answer to a pull came, and is being checked. Its peer can be asked for more meanwhile.
    pub(super) fn on_answered(&mut self, id: u64) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.answered = true;
        }
    }

    /// A pull ended.
    pub(super) fn on_pulled(&mut self, id: u64, result: Result<Pulled, Failure>, now: Instant) {
        let Some(Flight { peer, span, run, since, .. }) = self.flights.remove(&id) else { return };
        let current = run == self.runs;
        match result {
            Ok(Pulled { blocks, bytes }) => {
                self.size.saw(blocks.len(), bytes);
                let took = now.saturating_duration_since(since);
                // What is quick and brings little says nothing. Of a peer that is gone nothing is kept.
                let says = blocks.len() * 2 >= span.count as usize || took >= pull::SLOW; // u32 fits in usize
                if says && self.claims.get(&peer).is_some() {
                    self.pace.saw(peer, took);
                }
                if took < EASY && !self.size.double() {
                    self.window = (self.window + 1).min(pull::IN_FLIGHT);
                }
                self.claims.silent(&peer, false);
                let outvoted = self.claims.outvote(&peer, &blocks, now);
                let Some(run) = self.run.as_mut().filter(|_| current) else { return };
                if blocks.last().is_some_and(|last| last.header().height > self.head) {
                    self.moved = now;
                }
                if outvoted {
                    // Neither punished nor cut: it may be on the smaller side of a network that was cut in two, or may be right.
                    run.excluded.insert(peer);
                    self.claims.pass(&peer, now + PROBE);
                    if !run.on_nothing(span, peer, true) {
                        self.give_up(now);
                    }
                } else {
                    run.on_blocks(span, peer, blocks, bytes);
                }
            }
            Err(failure) => {
                let fault = self.on_failure(peer, failure, now);
                // Whoever lets a stream hang before it takes a request is no better.
                if failure == Failure::Lost && now.saturating_duration_since(since) >= HANGS {
                    self.claims.silent(&peer, true);
                }
                if failure == Failure::Timeout {
                    self.claims.silent(&peer, true);
                    // All of them share our line: with fewer and smaller ones each may come in time. A liar that lets pulls run out of
                    // time is outweighed by each one that comes.
                    let window = self.window.min(self.under_way_in_all() + 1);
                    if window > pull::LEAST_IN_FLIGHT {
                        self.window = (window / 2).max(pull::LEAST_IN_FLIGHT);
                    } else if !self.size.shrink() {
                        // Two large blocks at once may take longer than both of them one after the other may.
                        self.window = 1;
                    }
                }
                let Some(run) = self.run.as_mut().filter(|_| current) else { return };
                if matches!(failure, Failure::Wrong | Failure::Invalid) {
                    run.excluded.insert(peer);
                }
                if !run.on_nothing(span, peer, fault) {
                    self.give_up(now);
                }
            }
        }
    }

    /// Counts a failure; whether it counts as a try.
    fn on_failure(&mut self, peer: PeerId, failure: Failure, now: Instant) -> bool {
        match failure {
            Failure::Busy(pause) => {
                self.claims.busy(&peer, pause, now);
                return false;
            }
            Failure::NotFound(height) => self.claims.lower(&peer, height, now),
            Failure::Pruned(earliest) => {
                self.claims.prune(&peer, earliest);
                // No fault; but who says so again and again is no reason to be behind.
                self.claims.fail(&peer, now);
                return false;
            }
            Failure::Lost => self.claims.lost(&peer, now),
            Failure::Timeout => {
                self.claims.fail(&peer, now);
                self.report(peer, Offence::Timeout);
            }
            Failure::Wrong => {
                self.claims.fail(&peer, now);
                self.report(peer, Offence::WrongData);
            }
            Failure::Invalid => {
                self.claims.cut(&peer, now + CUT);
                self.report(peer, Offence::InvalidBlock);
            }
        }
        true
    }

    fn report(&mut self, peer: PeerId, offence: Offence) {
        self.out.push(Output::Report { peer, offence });
    }

    fn give_up(&mut self, now: Instant) {
        self.run = None;
        self.pause_until = Some(now + if self.state == State::Stalled { PROBE } else { PAUSE });
    }

    /// Headers came, or did not.
    pub(super) fn on_headers(&mut self, id: u64, result: Result<Vec<Header>, Failure>, view: &impl View, now: Instant) {
        let Some((_, mut search)) = self.search.take_if(|(running, _)| *running == id) else { return };
        let peer = search.peer();
        let step = match result {
            Ok(headers) => search.on_headers(&headers, |height| view.hash_at(height)),
            Err(failure) => {
                self.on_failure(peer, failure, now);
                // Or two that never answer would have all searches, and nobody else could prove a conflict.
                self.claims.pass(&peer, now);
                return self.give_up(now);
            }
        };
        match step {
            Step::Ask(ladder) => self.ask(search, ladder),
            Step::Gone => {
                self.claims.fail(&peer, now);
                self.give_up(now);
            }
            Step::Lies => {
                self.claims.cut(&peer, now + CUT);
                self.report(peer, Offence::WrongData);
                self.give_up(now);
            }
            Step::Fork(height) => self.on_fork(peer, height, view, now),
        }
    }

    fn on_fork(&mut self, peer: PeerId, height: u64, view: &impl View, now: Instant) {
        let Place { committed, halted, .. } = view.place();
        let head = self.claims.get(&peer).map_or(0, |c| c.head.height);
        let Some(hash) = view.hash_at(height) else { return self.give_up(now) };
        let fork = Point { height, hash };
        if height >= committed.height && halted {
            // Nothing is taken now; what contradicts the final blocks is still looked for, at the others first. When the chain takes blocks
            // again, this one's are wanted.
            self.claims.pass(&peer, now + PROBE);
            self.give_up(now);
        } else if height >= committed.height {
            self.begin(Run::new(fork, Some(peer)), peer, now);
        } else if let Some(soon) = self.first_heard.map(|t| t + HEARD).filter(|t| now < *t) {
            self.claims.cut(&peer, soon);
            self.give_up(now);
        } else if head > height {
            let count = u32::try_from(head - height).unwrap_or(u32::MAX).min(MAX_PROOF);
            let (id, told) = (self.id(), self.claims.told(&peer));
            self.proving = Some((id, peer, fork));
            self.out.push(Output::Prove { id, peer, span: Span { start: height + 1, count }, fork, told });
        } else {
            self.give_up(now);
        }
    }

    /// The conflict was shown to the chain, or could not be proven.
    pub(super) fn on_proven(&mut self, id: u64, result: Result<(), Failure>, view: &impl View, now: Instant) {
        let Some((_, peer, fork)) = self.proving.take_if(|(running, ..)| *running == id) else { return };
        let lost = matches!(result, Err(Failure::Lost | Failure::Timeout | Failure::Busy(_)));
        match result {
            Ok(()) => self.claims.contradict(&peer, now),
            Err(failure) => drop(self.on_failure(peer, failure, now)),
        }
        if view.place().committed.height <= fork.height {
            // The chain opened itself for the branch.
            return self.begin(Run::new(fork, Some(peer)), peer, now);
        }
        // Its blocks do not fit on ours now. It is looked at again, and counted again, when the cut ends. The next one may prove the
        // same soon, also when we are stalled: it takes many. What was lost on the way may come soon.
        match lost {
            true => self.claims.pass(&peer, now + PROBE),
            false => self.claims.cut(&peer, now + CUT),
        }
        self.run = None;
        self.pause_until = Some(now + PAUSE);
    }

    fn ask(&mut self, search: Search, ladder: Ladder) {
        let (id, peer) = (self.id(), search.peer());
        self.search = Some((id, search));
        self.out.push(Output::Headers { id, peer, ladder });
    }

    fn begin(&mut self, run: Run, cause: PeerId, now: Instant) {
        self.runs += 1;
        (self.run, self.moved, self.cause) = (Some(run), now, Some(cause));
    }

    /// Ends a run to which nothing comes. Somebody else's head is the reason for the next one.
    fn end_idle(&mut self, now: Instant) {
        let idle = self.importing.is_empty() && now.saturating_duration_since(self.moved) >= IDLE;
        if self.run.is_none() || !idle {
            return;
        }
        // What is here waits for others that would vouch for it, and they had their time.
        if let Some(run) = self.run.as_mut().filter(|run| run.alone.is_none())
            && let Some(sender) = run.next_sender()
        {
            (run.alone, self.moved) = (Some(run.voice(&sender)), now);
            return;
        }
        // Who cannot be asked for what is next says nothing of it.
        let next = self.run.as_ref().map_or(0, |run| run.anchor.height + 1);
        let useless: Vec<_> = self.claims.iter().filter(|(_, c)| c.earliest > next).map(|(peer, _)| *peer).collect();
        useless.iter().for_each(|peer| self.claims.fail(peer, now));
        if let Some(peer) = self.cause {
            tracing::debug!(%peer, "nobody sends what a peer says there is");
            match self.run.as_ref().is_some_and(|run| run.branch == Some(peer)) {
                // It showed us where its branch begins, and then nothing of it.
                true => self.claims.cut(&peer, now + CUT),
                false => self.claims.pass(&peer, now + PROBE),
            }
        }
        self.give_up(now);
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The chain took blocks, or did not.
    pub(super) fn on_imported(&mut self, id: u64, result: Imported, now: Instant) {
        let Some(at) = self.importing.iter().position(|i| i.id == id) else { return };
        let Some(importing) = self.importing.remove(at) else { return };
        let (held, new, stopped) = match result {
            Imported::Held { held, new, stopped } => (held.min(importing.points.len()), new, stopped),
            Imported::Refused => {
                self.importing.retain(|i| i.run != importing.run);
                if importing.run == self.runs {
                    self.give_up(now);
                }
                return;
            }
        };
        let mut index = 0;
        for (peer, count) in &importing.from {
            let of_it = held.saturating_sub(index).min(*count);
            if let Some(last) = of_it.checked_sub(1).and_then(|i| importing.points.get(index + i)) {
                self.claims.prove(peer, last.height);
                // What was here before comes first.
                let known = held.saturating_sub(new).saturating_sub(index).min(of_it);
                self.claims.gave(peer, of_it - known, now);
            }
            index += count;
        }
        let current = importing.run == self.runs;
        if let Some(last) = held.checked_sub(1).and_then(|i| importing.points.get(i)) {
            if new > 0 {
                (self.progress, self.moved) = (now, now);
            }
            if let Some(tried) = &mut self.tried {
                // Of large ones there are few.
                tried.came += new + if new > 0 { importing.load.bytes / LARGE } else { 0 };
            }
            if let Some(run) = self.run.as_mut().filter(|_| current) {
                run.advance(*last);
            }
        }
        let Some(why) = stopped else { return };
        // What was handed over after it does not fit on anything either. How that ends says nothing.
        self.importing.retain(|i| i.run != importing.run);
        let sender = Handover::sender(&importing.from, held);
        match (why, sender) {
            (Outcome::Invalid(why), Some(peer)) => {
                tracing::debug!(%peer, %why, "a peer sent an invalid block");
                self.on_failure(peer, Failure::Invalid, now);
            }
            // A branch that may not be followed (it is too long, or leaves below what was committed meanwhile) is no crime.
            (_, Some(peer)) => self.claims.fail(&peer, now),
            (_, None) => {}
        }
        if current {
            match self.run.as_mut().filter(|r| r.progressed) {
                Some(run) => run.again(),
                None => self.give_up(now),
            }
        }
    }

    /// Looks at everything and says what is to be done now. `random` gives numbers uniform in `0.0..1.0`.
    pub(super) fn poll(&mut self, view: &impl View, now: Instant, random: &mut impl FnMut() -> f64) -> Vec<Output> {
        let place = view.place();
        self.head = place.head.height;
        for peer in self.claims.refresh(now, |hash| view.held(hash)) {
            self.report(peer, Offence::WrongData);
        }
        self.doubt(&place, now);
        self.decide(&place, now);
        self.end_idle(now);
        self.end_search(now);
        if !place.halted {
            self.import(now);
        }
        self.start(&place, now);
        self.pull(&place, now, random);
        std::mem::take(&mut self.out)
    }

    /// Looks whether anything comes of what peers say.
    fn doubt(&mut self, place: &Place, now: Instant) {
        if self.state == State::Synced || place.halted {
            self.tried = None;
            return;
        }
        let tried = self.tried.get_or_insert(Tried { time: Duration::ZERO, looked: now, came: 0 });
        let passed = now.saturating_duration_since(std::mem::replace(&mut tried.looked, now));
        // While nobody is there to show anything nothing is tried.
        if self.claims.some_missing() {
            tried.time += passed.min(LOOKS);
        }
        if let Some(Tried { came, .. }) = self.tried.take_if(|tried| tried.time >= TRIED)
            && came < ENOUGH
        {
            tracing::debug!(
                came,
                "peers say that there is more, and show little of it: only what they show counts now"
            );
            self.claims.distrust(now + DISTRUST);
        }
    }

    fn decide(&mut self, place: &Place, now: Instant) {
        let base = place.head.height;
        let target = self.claims.target(base, now);
        let gap = target.map_or(0, |t| t.height.saturating_sub(base));
        // What a few peers say puts nobody out of step, however often: only blocks that they gave do, as many as broadcast does not
        // bring in that time.
        let believed = self.claims.mostly_missing(now);
        let credible = target.is_some_and(|t| t.backed && believed || t.given > self.depth + 2);
        let near = gap <= self.depth + 2;
        let distrusts = self.claims.distrusts(now);
        let tried = distrusts || target.is_none_or(|t| !t.backed || t.long);
        let doubtful = target.is_some_and(|t| t.doubtful);
        let in_step = self.state == State::Synced || (self.is_settled(now) && self.claims.mostly_held(now));
        let next = match self.state {
            _ if place.halted => State::Stalled,
            _ if self.claims.is_empty() || self.solitary && self.claims.all_idle(now) => State::NoPeers,
            _ if target.is_none() && in_step => State::Synced,
            // Others may tell of more in a moment.
            _ if target.is_none() && !self.is_settled(now) => self.state,
            _ if target.is_none() => State::Stalled,
            State::Synced if !near && credible => State::Syncing,
            // Some blocks behind: broadcast is on its way, unless it had its time or we are pulling already.
            State::Synced if gap >= 3 && credible && self.run.is_some() => State::CatchingUp,
            State::Synced => State::Synced,
            // Nor does it keep anybody from being in step: of few peers it is believed for a while, of more not at all.
            // What a third says is tried before anybody is in step who was not, but not for ever.
            _ if in_step && !credible && (self.claims.held() >= FEW && tried || doubtful) => State::Synced,
            // A lone head that is not higher than ours is fetched, but we are not behind.
            _ if gap == 0 && in_step => State::Synced,
            State::Stalled if now.saturating_duration_since(self.progress) >= STALL => State::Stalled,
            State::Syncing | State::CatchingUp if now.saturating_duration_since(self.progress) >= STALL => {
                State::Stalled
            }
            _ if near => State::CatchingUp,
            _ => State::Syncing,
        };
        if next != self.state {
            if next.is_behind() && !self.state.is_behind() && self.state != State::Stalled {
                self.progress = now;
            }
            tracing::debug!(from = self.state.name(), to = next.name(), head = base, gap, "sync state");
            self.state = next;
        }
        if target.is_none() || place.halted {
            self.run = None;
        }
    }

    /// Whether enough voices told where they are, or had the time to.
    fn is_settled(&self, now: Instant) -> bool {
        self.claims.voices() >= FEW || self.first_heard.is_none_or(|t| t + SETTLE <= now)
    }

    /// Hands finished batches to the chain.
    fn import(&mut self, now: Instant) {
        while self.importing.len() < IMPORTS {
            let Some(run) = &mut self.run else { return };
            let with_chain = self.importing.iter().fold(Load::default(), |load, i| load.plus(i.load));
            let Handover { blocks, from, load, more } = match run.take(self.twice, with_chain) {
                Ok(Some(handover)) => handover,
                Ok(None) => return,
                Err(Mismatch { peer, on }) => return self.on_mismatch(peer, on, now),
            };
            let id = self.id();
            let points = blocks.iter().map(|b| Point { height: b.header().height, hash: b.hash() }).collect();
            let peer = from[0].0;
            self.importing.push_back(Importing { id, run: self.runs, from, load, points });
            self.out.push(Output::Import { id, peer, blocks, more });
        }
    }

    /// What a peer sent does not fit on what we have: either its chain leaves ours, or it lies. Its headers tell, when it is the second time in a
    /// while: to look for the place takes long, with a liar as long as there is patience, and nothing is pulled meanwhile.
    fn on_mismatch(&mut self, peer: PeerId, on: Point, now: Instant) {
        let branch = self.run.as_ref().and_then(|r| r.branch);
        let before = self.missed.replace(now);
        let first = branch.is_none() && before.is_none_or(|at| now.saturating_duration_since(at) >= CUT);
        if let Some(run) = self.run.as_mut().filter(|_| first) {
            let other = |(other, c): (&PeerId, &Claim)| {
                let asked = *other != peer && !run.excluded.contains(other);
                asked && !c.is_silent() && !c.is_cut(now) && c.head.height > on.height && c.earliest <= on.height + 1
            };
            if self.claims.iter().any(other) {
                run.excluded.insert(peer);
                return;
            }
        }
        self.run = None;
        if self.claims.get(&peer).is_none() {
            return self.give_up(now);
        }
        if branch == Some(peer) {
            // It showed us the fork itself a moment ago.
            self.claims.fail(&peer, now);
        }
        self.suspect = Some((peer, on.height));
    }

    /// Begins a run or a search when something is missing and nothing is under way.
    fn start(&mut self, place: &Place, now: Instant) {
        if let Some((peer, high)) = self.suspect.take() {
            return self.search(Search::new(peer, place.committed.height, high), now);
        }
        let idle = self.run.is_none() && self.search.is_none() && self.proving.is_none() && self.importing.is_empty();
        if !idle || !self.is_settled(now) || self.pause_until.is_some_and(|t| now < t) {
            return;
        }
        let base = place.head.height;
        let urgent = self.state != State::Synced;
        let wanted = self.claims.iter().filter(|(_, c)| !c.is_passed(now));
        let wanted = wanted.filter(|(_, c)| if urgent { c.is_wanted(now) } else { c.is_overdue(now) });
        // Whoever was passed over comes after all others. Of those the highest first, and of equals whoever was left alone for
        // longest: all of them get their turn to prove a conflict.
        let order = |(peer, c): &(&PeerId, &Claim)| {
            (Reverse(c.passed_until()), c.height(base, now), Reverse(c.cut_until()), **peer)
        };
        let Some((peer, claim)) = wanted.filter(|(_, c)| !c.is_busy(now)).max_by_key(order) else { return };
        let (peer, height) = (*peer, claim.height(base, now));
        if self.state == State::Stalled {
            self.pause_until = Some(now + PROBE);
        }
        if height > base && !place.halted {
            self.begin(Run::new(place.head, None), peer, now);
        } else {
            // A head that is not higher than ours and not here: another branch.
            self.search(Search::new(peer, place.committed.height, claim.head.height.min(base + 1)), now);
        }
    }

    fn search(&mut self, search: Search, now: Instant) {
        self.searching_since = now;
        let ladder = search.first();
        self.ask(search, ladder);
    }

    /// Ends a search, or the proof that followed, that takes long: nothing else begins meanwhile.
    fn end_search(&mut self, now: Instant) {
        let with = self.search.as_ref().map(|(_, s)| s.peer()).or(self.proving.map(|(_, peer, _)| peer));
        let Some(peer) = with.filter(|_| now.saturating_duration_since(self.searching_since) >= SEARCH) else { return };
        tracing::debug!(%peer, "to find where its chain leaves ours takes too long");
        (self.search, self.proving, self.run) = (None, None, None);
        self.claims.cut(&peer, now + CUT);
        self.pause_until = Some(now + PAUSE);
    }
}
