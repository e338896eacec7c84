//! What peers did wrong with blocks, counted; shared by broadcast and sync, so that a peer cannot spread its faults over both.
//!
//! Points fall away with time: what [`LIMIT`] points are worth is forgotten after [`FORGET`]. A peer above the limit is banned
//! for [`BAN`]: block exchange neither asks nor serves it meanwhile ([`Penalties::is_banned`]), and the owner of the
//! connections is told to close its ones ([`Verdict`]). Bans of the network layer are for months and the operator's to give.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{primitives::PeerId, runtime::now};

/// Points above which a peer is banned: the second invalid block in a row, or the fifth wrong answer.
pub const LIMIT: f64 = 80.0;
/// How long [`LIMIT`] points take to fall to nothing.
pub const FORGET: Duration = Duration::from_secs(600);
/// How long a ban lasts.
pub const BAN: Duration = Duration::from_secs(600);
/// Peers counted. Each costs whoever has it a handshake and an offence; beyond it the one with the fewest points is forgotten.
const PEERS: usize = 4096;
/// Points a minute for announcements that were not served: a relay whose own source failed must not be banned.
const UNSERVED_PER_MINUTE: f64 = 20.0;
/// Points a minute for answers that did not come in time: less than what is forgotten meanwhile, so that a slow line alone bans nobody.
const TIMEOUTS_PER_MINUTE: f64 = 6.0;
/// Verdicts waiting for the owner of the connections. A lost one is harmless: the ban holds without it.
const VERDICTS: usize = 64;

/// What a peer did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Offence {
    /// Sent a block that breaks a rule whatever the chain looks like, and that it had to check itself.
    InvalidBlock,
    /// Answered something else than was asked for.
    WrongData,
    /// Sent much more than it may.
    Flood,
    /// Announced a block and did not have it.
    Unserved,
    /// Did not answer in time.
    Timeout,
}

impl Offence {
    /// What it costs.
    #[must_use]
    pub fn points(self) -> f64 {
        match self {
            Self::InvalidBlock => 50.0,
            Self::WrongData => 20.0,
            Self::Flood | Self::Unserved => 5.0,
            Self::Timeout => 2.0,
        }
    }
}

/// A peer that was just banned: its connections are to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Who.
    pub peer: PeerId,
    /// What it did last.
    pub offence: Offence,
    /// For how long it is banned.
    pub ban: Duration,
}

#[derive(Debug)]
struct Record {
    points: f64,
    at: Instant,
    /// Points of this minute for what has a limit.
    unserved: f64,
    timeouts: f64,
    minute: Instant,
    banned_until: Option<Instant>,
}

impl Record {
    fn new(now: Instant) -> Self {
        Self { points: 0.0, at: now, unserved: 0.0, timeouts: 0.0, minute: now, banned_until: None }
    }

    fn decay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.points = (self.points - passed * LIMIT / FORGET.as_secs_f64()).max(0.0);
        self.at = now;
    }

    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    /// Counts an offence; true when it gets the peer banned.
    fn count(&mut self, offence: Offence, now: Instant) -> bool {
        self.decay(now);
        if now.saturating_duration_since(self.minute) >= Duration::from_secs(60) {
            (self.minute, self.unserved, self.timeouts) = (now, 0.0, 0.0);
        }
        let mut points = offence.points();
        let limited = match offence {
            Offence::Unserved => Some((&mut self.unserved, UNSERVED_PER_MINUTE)),
            Offence::Timeout => Some((&mut self.timeouts, TIMEOUTS_PER_MINUTE)),
            _ => None,
        };
        if let Some((sum, limit)) = limited {
            points = points.min(limit - *sum).max(0.0);
            *sum += points;
        }
        self.points += points;
        let banned = self.points > LIMIT && !self.is_banned(now);
        if banned {
            self.banned_until = Some(now + BAN);
        }
        banned
    }
}

/// The points of all peers. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Penalties {
    records: Arc<Mutex<HashMap<PeerId, Record>>>,
    verdicts: mpsc::Sender<Verdict>,
}

impl Penalties {
    /// Nobody did anything yet. The receiver gets each peer that is banned, once a ban.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Verdict>) {
        let (verdicts, receiver) = mpsc::channel(VERDICTS);
        (Self { records: Arc::default(), verdicts }, receiver)
    }

    /// Counts what `peer` did.
    pub fn report(&self, peer: PeerId, offence: Offence) {
        self.report_at(peer, offence, now());
    }

    fn report_at(&self, peer: PeerId, offence: Offence, now: Instant) {
        tracing::debug!(%peer, ?offence, "a peer misbehaved with blocks");
        let mut records = self.records.lock().expect("no panic while held");
        if records.len() >= PEERS && !records.contains_key(&peer) {
            make_room(&mut records, now);
        }
        let banned = records.entry(peer).or_insert_with(|| Record::new(now)).count(offence, now);
        drop(records);
        if banned && self.verdicts.try_send(Verdict { peer, offence, ban: BAN }).is_err() {
            tracing::debug!(%peer, "nobody takes the verdict; the ban holds");
        }
    }

    /// Whether block exchange has nothing to do with `peer` for now.
    #[must_use]
    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.is_banned_at(peer, now())
    }

    fn is_banned_at(&self, peer: &PeerId, now: Instant) -> bool {
        let records = self.records.lock().expect("no panic while held");
        records.get(peer).is_some_and(|r| r.is_banned(now))
    }

    /// The points of `peer`; 0 for one that did nothing, or whose faults are forgotten.
    #[must_use]
    pub fn points(&self, peer: &PeerId) -> f64 {
        self.points_at(peer, now())
    }

    fn points_at(&self, peer: &PeerId, now: Instant) -> f64 {
        let mut records = self.records.lock().expect("no panic while held");
        records.get_mut(peer).map_or(0.0, |r| {
            r.decay(now);
            r.points
        })
    }
}

/// Forgets whoever has nothing left; if that is nobody, the one with the fewest points that is not banned.
fn make_room(records: &mut HashMap<PeerId, Record>, now: Instant) {
    records.retain(|_, r| {
        r.decay(now);
        r.points > 0.0 || r.is_banned(now)
    });
    if records.len() >= PEERS {
        let least = records
            .iter()
            .min_by(|(_, a), (_, b)| a.is_banned(now).cmp(&b.is_banned(now)).then(a.points.total_cmp(&b.points)));
        if let Some(peer) = least.map(|(peer, _)| *peer) {
            records.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_invalid_blocks_ban_for_ten_minutes_and_are_told_once() {
        let (penalties, mut verdicts) = Penalties::new();
        let mut now = Instant::now();
        let (peer, other) = (PeerId::random(), PeerId::random());
        penalties.report_at(peer, Offence::InvalidBlock, now);
        assert!(!penalties.is_banned_at(&peer, now) && verdicts.try_recv().is_err(), "one may be an accident");
        penalties.report_at(peer, Offence::InvalidBlock, now);
        assert!(penalties.is_banned_at(&peer, now) && !penalties.is_banned_at(&other, now));
        assert_eq!(verdicts.try_recv().unwrap(), Verdict { peer, offence: Offence::InvalidBlock, ban: BAN });
        penalties.report_at(peer, Offence::InvalidBlock, now);
        assert!(verdicts.try_recv().is_err(), "it is banned already");
        now += BAN;
        assert!(!penalties.is_banned_at(&peer, now));
    }

    #[test]
    fn points_are_forgotten_in_ten_minutes() {
        let (penalties, _verdicts) = Penalties::new();
        let mut now = Instant::now();
        let peer = PeerId::random();
        (0..4).for_each(|_| penalties.report_at(peer, Offence::WrongData, now));
        assert!(!penalties.is_banned_at(&peer, now), "80 points are not above the limit");
        now += FORGET / 2;
        assert!((penalties.points_at(&peer, now) - LIMIT / 2.0).abs() < 0.01);
        now += FORGET / 2;
        assert!(penalties.points_at(&peer, now) < 0.01);
        for _ in 0..100 {
            penalties.report_at(peer, Offence::Timeout, now);
            now += Duration::from_secs(16);
        }
        assert!(!penalties.is_banned_at(&peer, now), "a slow line is no crime");
    }

    #[test]
    fn answers_that_do_not_come_in_time_never_add_up_to_a_ban() {
        let (penalties, _verdicts) = Penalties::new();
        let mut now = Instant::now();
        let peer = PeerId::random();
        for _ in 0..3600 {
            penalties.report_at(peer, Offence::Timeout, now);
            now += Duration::from_secs(1);
        }
        assert!(!penalties.is_banned_at(&peer, now));
        // They are not for nothing: a little more is enough.
        (0..5).for_each(|_| penalties.report_at(peer, Offence::WrongData, now));
        assert!(penalties.is_banned_at(&peer, now));
    }

    #[test]
    fn unserved_announcements_cost_at_most_twenty_points_a_minute() {
        let (penalties, _verdicts) = Penalties::new();
        let mut now = Instant::now();
        let peer = PeerId::random();
        (0..1000).for_each(|_| penalties.report_at(peer, Offence::Unserved, now));
        assert!((penalties.points_at(&peer, now) - UNSERVED_PER_MINUTE).abs() < 0.01);
        // What is announced and never served goes on costing: 20 points come in a minute, and 8 are forgotten.
        for _ in 0..8 {
            now += Duration::from_secs(60);
            (0..1000).for_each(|_| penalties.report_at(peer, Offence::Unserved, now));
        }
        assert!(penalties.is_banned_at(&peer, now));
    }

    #[test]
    fn the_number_of_peers_is_bounded_and_the_worst_stay() {
        let (penalties, _verdicts) = Penalties::new();
        let mut now = Instant::now();
        let (banned, bad) = (PeerId::random(), PeerId::random());
        (0..2).for_each(|_| penalties.report_at(banned, Offence::InvalidBlock, now));
        penalties.report_at(bad, Offence::InvalidBlock, now);
        for _ in 0..PEERS + 100 {
            penalties.report_at(PeerId::random(), Offence::Timeout, now);
        }
        assert!(penalties.records.lock().unwrap().len() <= PEERS);
        assert!(penalties.is_banned_at(&banned, now) && penalties.points_at(&bad, now) > 40.0);
        now += Duration::from_secs(60);
        penalties.report_at(PeerId::random(), Offence::Timeout, now);
        assert!(penalties.records.lock().unwrap().len() < 10, "what is forgotten takes no room");
    }
}
