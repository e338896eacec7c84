//! One fetch's next step.

use std::time::{Duration, Instant};

use super::{
    Asked, BLIND, BLOCK_TIMEOUT, CROWD, Effect, Entry, FIRST, Failure, Fetcher, LATE, MAX_AGE, MAX_SOURCES, NO_SOURCE,
    STALL, Slot, Source, Turn, WINDOW,
};
use crate::{
    block::broadcast::wire::Wanted,
    primitives::{Hash, PeerId},
};

/// Who failed as often in a row is asked only when there is nobody else.
const DOUBTFUL: u32 = 2;
/// With this many failures, two sources are asked at once.
const BOTH: u32 = 2;

impl Entry {
    fn stall(&self) -> Duration {
        let pieces = self.slots.as_ref().map_or(0, Vec::len);
        match self.pace.is_zero() {
            true => STALL.0 + FIRST * u32::try_from(pieces).unwrap_or(0),
            // Sources that are asked at once share our line.
            false => {
                let sources = u32::try_from(self.active().count()).unwrap_or(u32::MAX).max(1);
                self.pace.saturating_mul(3 * sources).clamp(STALL.0, STALL.1 * sources)
            }
        }
    }

    /// How long its body may take, once somebody has said that it is there to be had.
    fn term(&self) -> Option<Duration> {
        let pieces = u32::try_from(self.slots.as_ref()?.len()).unwrap_or(u32::MAX);
        self.sources.iter().any(Source::announced).then(|| LATE.0 + LATE.1.saturating_mul(pieces))
    }

    /// How often its body could have come since its header did.
    fn lateness(&self, now: Instant) -> u32 {
        let Some(term) = self.term() else { return 0 };
        let terms = now.saturating_duration_since(self.header_at).as_nanos() / term.as_nanos().max(1);
        u32::try_from(terms).unwrap_or(u32::MAX)
    }

    /// When it is late once more, if that makes a difference.
    fn late_at(&self, now: Instant) -> Option<Instant> {
        let next = self.lateness(now).saturating_add(1);
        let matters = usize::try_from(next).is_ok_and(|n| n < CROWD);
        self.term().filter(|_| matters).map(|term| self.header_at + term.saturating_mul(next))
    }

    /// Sources to be asked at once.
    fn crowd(&self, now: Instant) -> usize {
        let tried = if self.tries >= BOTH { 2 } else { 1 };
        let late = usize::try_from(self.lateness(now)).unwrap_or(CROWD).saturating_add(1);
        tried.max(late.min(CROWD))
    }

    fn active(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|s| s.turn.is_active())
    }

    fn missing(&self) -> usize {
        self.slots.as_ref().map_or(0, |s| s.iter().filter(|s| **s != Slot::Held).count())
    }

    /// Whether somebody could be asked now, were it its turn.
    fn has_idle(&self, now: Instant) -> bool {
        self.tries < self.budget && self.sources.iter().any(|s| matches!(s.turn, Turn::Idle(at) if at <= now))
    }
}

impl Fetcher {
    /// Does what is due for one block, and notes when to look again.
    pub(super) fn drive(&mut self, now: Instant, hash: &Hash) {
        let Some(entry) = self.entries.get(hash) else { return };
        if now >= entry.began + MAX_AGE {
            return self.lose(hash);
        }
        match entry.slots.is_some() {
            true => self.drive_body(now, hash),
            false => self.drive_header(now, hash),
        }
        let Some(entry) = self.entries.get_mut(hash) else { return };
        let idle_at = entry.sources.iter().filter_map(|s| match s.turn {
            Turn::Idle(at) => Some(at),
            _ => None,
        });
        let asking = entry.active().next().is_some() || !entry.asks.is_empty();
        let hopeless = !asking && (entry.tries >= entry.budget || idle_at.clone().next().is_none());
        if !hopeless {
            entry.alone = None;
        } else if now >= *entry.alone.get_or_insert(now) + NO_SOURCE {
            return self.lose(hash);
        }
        let wake = self.wake(now, hash);
        let Some(entry) = self.entries.get_mut(hash) else { return };
        self.wakes.remove(&(entry.wake, *hash));
        entry.wake = wake;
        self.wakes.insert((wake, *hash));
    }

    fn wake(&self, now: Instant, hash: &Hash) -> Instant {
        let Some(entry) = self.entries.get(hash) else { return now };
        let mut wake = entry.began + MAX_AGE;
        if let Some(alone) = entry.alone {
            return wake.min(alone + NO_SOURCE);
        }
        if let Some(late) = entry.late_at(now) {
            wake = wake.min(late);
        }
        for source in &entry.sources {
            match source.turn {
                // Looked at again when it may have stalled, and from then on at times, for others may have come meanwhile.
                Turn::Active(progress) => {
                    let stalled = progress + entry.stall();
                    wake = wake.min(if stalled > now { stalled } else { now + STALL.0 });
                }
                Turn::Idle(at) => {
                    let at = at.max(entry.not_before);
                    wake = wake.min(if at > now { at } else { now + STALL.0 });
                }
                Turn::Out => {}
            }
        }
        for (_, asked) in self.asked_of(hash).filter(|(_, a)| a.wanted == Wanted::Block) {
            wake = wake.min((asked.at + BLOCK_TIMEOUT).max(now + Duration::from_millis(1)));
        }
        wake
    }

    fn lose(&mut self, hash: &Hash) {
        self.forget(hash);
        self.effects.push(Effect::Lost(*hash));
    }

    fn drive_header(&mut self, now: Instant, hash: &Hash) {
        let late: Vec<_> = self.asked_of(hash).map(|(_, a)| (a.peer, a.at)).collect();
        for (peer, at) in &late {
            if now >= *at + BLOCK_TIMEOUT {
                self.fail(now, hash, peer, Failure::NoAnswer);
            }
        }
        let Some(entry) = self.entries.get(hash) else { return };
        if !entry.asks.is_empty() || now < entry.not_before {
            return;
        }
        if let Some(peer) = self.choose(now, hash) {
            self.activate(now, hash, &peer);
            self.ask(now, *hash, peer, Wanted::Block, false);
        }
    }

    fn drive_body(&mut self, now: Instant, hash: &Hash) {
        let Some(entry) = self.entries.get(hash) else { return };
        let stall = entry.stall();
        let stalled: Vec<_> = entry
            .active()
            .filter(|s| matches!(s.turn, Turn::Active(progress) if now >= progress + stall))
            .map(|s| s.peer)
            .collect();
        for peer in stalled {
            if self.asked_from(hash, &peer).next().is_none() {
                // Others had it all: it was not asked, and owes nothing.
                self.rest(hash, &peer, now);
                continue;
            }
            // With nobody else to ask it is better to go on waiting than to begin anew.
            if self.entries.get(hash).is_some_and(|e| e.has_idle(now)) || self.ask_blindly(now, hash) {
                self.fail(now, hash, &peer, Failure::NoAnswer);
                if let Some(entry) = self.entries.get_mut(hash) {
                    entry.not_before = entry.not_before.max(now);
                }
            }
        }
        loop {
            let Some(entry) = self.entries.get(hash) else { return };
            if entry.active().count() >= entry.crowd(now) || now < entry.not_before {
                break;
            }
            let nobody = entry.active().next().is_none();
            let good = |s: &Source| {
                matches!(s.turn, Turn::Idle(at) if at <= now)
                    && self.loads.get(&s.peer).is_none_or(|l| l.failures < DOUBTFUL)
            };
            if nobody && !entry.sources.iter().any(good) {
                self.ask_blindly(now, hash);
            }
            let Some(peer) = self.choose(now, hash) else { break };
            self.activate(now, hash, &peer);
        }
        self.fill(now, hash);
    }

    /// Asks the active sources for what is missing, lowest piece first, so that all who pass it on have the same ones.
    fn fill(&mut self, now: Instant, hash: &Hash) {
        let Some(entry) = self.entries.get(hash) else { return };
        let active: Vec<_> = entry.active().map(|s| s.peer).collect();
        let share = WINDOW.min(entry.missing().div_ceil(active.len().max(1)));
        let late = entry.lateness(now) > 0;
        for peer in active {
            let of_block = self.asked_from(hash, &peer).count();
            for _ in of_block..share {
                if self.loads.get(&peer).is_some_and(|l| l.in_flight >= WINDOW) {
                    break;
                }
                let slots = self.entries.get(hash).and_then(|e| e.slots.as_ref());
                let missing = slots.and_then(|s| s.iter().position(|s| *s == Slot::Missing));
                let (index, taken_over) = match missing {
                    Some(index) => (index, false),
                    None if late => match self.take_over(now, hash, &peer) {
                        Some(index) => (index, true),
                        None => break,
                    },
                    None => return,
                };
                if self.asked_from(hash, &peer).next().is_none() {
                    // It had nothing to bring until now.
                    self.activate(now, hash, &peer);
                }
                self.ask(now, *hash, peer, Wanted::Piece(index), taken_over);
            }
        }
    }

    /// Frees a piece that others were asked for long ago, so that `peer` may be: the last one of whoever has most to bring. Only of
    /// those who have brought something since: who brings nothing loses its turn, and is the worse for it.
    fn take_over(&mut self, now: Instant, hash: &Hash, peer: &PeerId) -> Option<usize> {
        let entry = self.entries.get(hash)?;
        let drips = |a: &Asked| {
            let source = entry.sources.iter().find(|s| s.peer == a.peer);
            source.is_some_and(|s| matches!(s.turn, Turn::Active(progress) if progress > a.at))
        };
        let old = |a: &Asked| a.peer != *peer && !a.taken_over && now >= a.at + STALL.0 && drips(a);
        let (id, wanted, _) = self
            .asked_of(hash)
            .filter(|(_, asked)| old(asked))
            .map(|(id, asked)| (id, asked.wanted, self.asked_from(hash, &asked.peer).count()))
            .max_by_key(|(id, _, most)| (*most, *id))?;
        let Wanted::Piece(index) = wanted else { return None };
        self.drop_ask(id);
        Some(index)
    }

    fn ask(&mut self, now: Instant, hash: Hash, peer: PeerId, wanted: Wanted, taken_over: bool) {
        self.next += 1;
        let id = self.next;
        if let (Some(entry), Wanted::Piece(index)) = (self.entries.get_mut(&hash), wanted)
            && let Some(slot) = entry.slots.as_mut().and_then(|s| s.get_mut(index))
        {
            *slot = Slot::Asked(id);
        }
        self.loads.entry(peer).or_default().in_flight += 1;
        self.asked.insert(id, Asked { hash, peer, wanted, at: now, taken_over });
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.asks.push(id);
        }
        self.effects.push(Effect::Ask { id, peer, hash, wanted });
    }

    fn activate(&mut self, now: Instant, hash: &Hash, peer: &PeerId) {
        let source = self.entries.get_mut(hash).and_then(|e| e.sources.iter_mut().find(|s| s.peer == *peer));
        if let Some(source) = source {
            source.turn = Turn::Active(now);
        }
    }

    /// The next source: the one that failed least, then, for a body that is late, one that announced it, then the one that is asked
    /// least, then by chance. The one that sent the header is asked first: what it has not got yet, it will have before the others.
    fn choose(&mut self, now: Instant, hash: &Hash) -> Option<PeerId> {
        let entry = self.entries.get(hash)?;
        if entry.tries >= entry.budget {
            return None;
        }
        let first = entry.slots.is_some() && entry.tries == 0;
        let free = |s: &&Source| self.loads.get(&s.peer).is_none_or(|l| l.in_flight < WINDOW);
        let late = entry.lateness(now) > 0;
        let mut best: Vec<(u32, (bool, usize), PeerId)> = entry
            .sources
            .iter()
            .filter(|s| matches!(s.turn, Turn::Idle(at) if at <= now))
            .filter(free)
            .map(|s| {
                let load = self.loads.get(&s.peer);
                // Who does not have all of it may get it as slowly as we do.
                let order = (late && !s.announced(), load.map_or(0, |l| l.in_flight));
                (s.failures + load.map_or(0, |l| l.failures), order, s.peer)
            })
            .collect();
        let origin = entry.origin;
        let sound = |(failures, _, peer): &&(u32, (bool, usize), PeerId)| *failures < DOUBTFUL && Some(*peer) == origin;
        if first && let Some((.., peer)) = best.iter().find(sound) {
            return Some(*peer);
        }
        let least = best.iter().map(|(failures, order, _)| (*failures, *order)).min()?;
        best.retain(|(failures, order, _)| (*failures, *order) == least);
        let pick = self.below(best.len());
        best.get(pick).map(|(.., peer)| *peer)
    }

    /// Makes a source of a neighbour that never spoke of the block.
    fn ask_blindly(&mut self, now: Instant, hash: &Hash) -> bool {
        let Some(entry) = self.entries.get(hash) else { return false };
        if entry.blind >= BLIND || entry.tries >= entry.budget {
            return false;
        }
        let others: Vec<_> =
            self.neighbours.iter().filter(|p| entry.sources.iter().all(|s| s.peer != **p)).copied().collect();
        if others.is_empty() || entry.sources.len() >= MAX_SOURCES && !self.displace(hash, true) {
            return false;
        }
        let pick = self.below(others.len());
        let (Some(peer), Some(entry)) = (others.get(pick), self.entries.get_mut(hash)) else { return false };
        entry.blind += 1;
        entry.sources.push(Source { peer: *peer, said: None, failures: 0, busy: 0, turn: Turn::Idle(now) });
        self.loads.entry(*peer).or_default().entries += 1;
        true
    }

    /// A number below `n`: xorshift, since nothing hangs on its quality and the machine stays pure.
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % (n.max(1) as u64)).unwrap_or(0)
    }
}
