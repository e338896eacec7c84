//! NEW_BLOCK and NEW_BLOCK_HASH, in and out.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::{Candidate, Command, Content, Done, NewBlock, NotifyAnswer, Service, now};
use crate::{
    block::{
        Header, Origin, Point, VerifiedHeader,
        broadcast::{
            announcer::NEAR_HEAD,
            hold::{PATIENCE, Until},
            wire::{Announcement, Notify},
        },
        chain::{Event, Judgement, Known},
        penalty::Offence,
        trace::Code,
    },
    net::{
        pubsub::{PublishError, Received, Verdict},
        rpc::{Inbound, Wire},
    },
    primitives::{Hash, PeerId},
    wire::Status,
};

/// Signatures of gossiped headers being checked at once, some 35 us each; more are ignored, and come again by announcement.
const CHECKING: usize = 64;
/// Announcements further below or above the head are of no use.
const BELOW: u64 = 7;
const ABOVE: u64 = 32;
/// A head made longer ago is no news for a peer that just came; SHAKEHAND tells it.
const FRESH: Duration = Duration::from_secs(10);
/// From an import to its announcement, give or take half of it: shorter than anybody's patience with the source it has
/// ([`super::super::fetcher`]), so that it costs no time where it is needed, and long enough to be needed by few.
const PAUSE: Duration = Duration::from_millis(200);
/// Announcements waiting; the oldest go first, since nobody is near the head who needs them.
const WAITING: usize = 64;
/// NOTIFY to one peer that are not answered yet: as many as are sent at once.
const NOTIFYING: usize = Notify::CONCURRENCY;
/// A peer that is so far behind is told of what it lacks; one further behind asks for ranges.
const LAGS: u64 = 2;

impl Service {
    /// NEW_BLOCK on the topic.
    pub(super) fn on_new(&mut self, received: Received) {
        let from = received.source;
        if self.shuns(&from) {
            return;
        }
        let Ok(new) = NewBlock::from_topic(&received.data, self.settings.max_body_bytes) else {
            return self.reject(received, "a malformed block");
        };
        let hash = new.header.hash();
        self.trace.received(from, Code::NewBlock, || json!({ "height": new.header.height, "hash": hash.to_string() }));
        if let Content::Body(body) = &new.content {
            self.metrics.received_bytes.inc_by(body.len() as u64); // usize fits in u64
        }
        self.core.learn(&from, hash);
        // The same hash is the same header, signature included: it was checked when it came first.
        if let Some(header) = self.core.header(&hash).cloned() {
            return self.consider(Candidate { from, gossip: Some(received), header, content: new.content });
        }
        if self.core.is_bad(&hash) || !matches!(self.chain.known(&hash), Ok(Known::No)) {
            self.metrics.ignored.inc();
            return;
        }
        if self.checking >= CHECKING {
            self.metrics.overflowed.inc();
            return;
        }
        self.checking += 1;
        let purpose = self.purpose.clone();
        // A thread of its own would cost more than the signature does; on a worker it is beside the actor, too.
        self.jobs.spawn(async move {
            let NewBlock { header, content } = new;
            Done::Checked(match VerifiedHeader::new(header, &purpose) {
                Ok(header) => Ok(Box::new(Candidate { from, gossip: Some(received), header, content })),
                Err(_) => Err(received),
            })
        });
    }

    fn reject(&self, received: Received, what: &str) {
        tracing::debug!(peer = %received.source, "{what}");
        self.metrics.rejected.inc();
        self.penalties.report(received.source, Offence::InvalidBlock);
        received.judge(Verdict::Reject);
    }

    pub(super) fn on_checked(&mut self, candidate: Result<Box<Candidate>, Received>) {
        self.checking -= 1;
        match candidate {
            Ok(candidate) => self.consider(*candidate),
            Err(received) => self.reject(received, "a header that its producer did not sign"),
        }
    }

    /// What the chain says of a header decides: forward, fetch, hold back, drop. A verdict that is not given is "ignore".
    pub(super) fn consider(&mut self, candidate: Candidate) {
        let hash = candidate.header.hash();
        let height = candidate.header.header().height;
        let (from, point) = (candidate.from, Point { height, hash });
        let Ok(judgement) = self.chain.judge(&candidate.header) else { return };
        match judgement {
            // It would be fetched, not taken, and fetched again with the next one. What is not fetched could not be given to those who
            // would ask us for it, so it goes no further from here.
            Judgement::Good | Judgement::Orphan if self.chain.status().halted.is_some() => {
                self.sync.claim(from, point);
                self.ignore(&hash);
            }
            Judgement::Good => self.take(candidate, Verdict::Accept),
            Judgement::Orphan => self.on_orphan(candidate),
            Judgement::Early(at) => {
                let wait = at.since(self.clock.now());
                let kept = wait <= PATIENCE && self.hold.put(from, Until::Time, now() + wait, candidate).is_ok();
                if !kept {
                    self.ignore(&hash);
                }
            }
            Judgement::TooFar => {
                self.sync.claim(from, point);
                self.ignore(&hash);
            }
            Judgement::Known | Judgement::Stale | Judgement::Ignored(_) => self.ignore(&hash),
            Judgement::Invalid(why) => {
                tracing::debug!(%hash, %why, "an invalid header");
                self.core.condemn(&hash);
                match candidate.gossip {
                    Some(received) => self.reject(received, "an invalid header"),
                    // It was asked for by its hash, and is that: whoever answered may not have judged it.
                    None => drop(self.metrics.rejected.inc()),
                }
            }
        }
    }

    fn ignore(&mut self, hash: &Hash) {
        self.metrics.ignored.inc();
        self.core.abandon(hash);
    }

    /// Begins or joins the fetch of a block, and gives `verdict` if there is room for it.
    fn take(&mut self, candidate: Candidate, verdict: Verdict) {
        let Candidate { from, gossip, header, content } = candidate;
        if self.chain.is_producer(&header.header().producer) {
            self.core.on_producer(header.header().producer);
        }
        if self.core.on_block(now(), from, header, content).is_err() {
            // What we do not fetch we could not give to those who would ask us for it.
            self.metrics.overflowed.inc();
            return;
        }
        if let Some(received) = gossip {
            match verdict {
                Verdict::Accept => self.metrics.forwarded.inc(),
                Verdict::Ignore | Verdict::Reject => self.metrics.ignored.inc(),
            };
            received.judge(verdict);
        }
    }

    fn on_orphan(&mut self, candidate: Candidate) {
        let header = candidate.header.header();
        let (from, parent) = (candidate.from, header.parent);
        let point = Point { height: header.height, hash: candidate.header.hash() };
        if self.core.is_coming(&parent) {
            // It overtook its parent. With no room to wait it comes again when somebody announces it.
            let _ = self.hold.put(from, Until::Parent(parent), now() + PATIENCE, candidate);
            return;
        }
        self.sync.claim(from, point);
        if self.is_syncing() {
            return self.ignore(&point.hash);
        }
        // Nobody is sent what may be a branch from nowhere, but the chain keeps it for a while.
        self.take(candidate, Verdict::Ignore);
        self.core.want(now(), from, parent);
    }

    /// NEW_BLOCK_HASH on the topic: goes no further.
    pub(super) fn on_hash(&mut self, received: Received) {
        let from = received.source;
        if self.shuns(&from) {
            return;
        }
        match Announcement::from_topic(&received.data, &from) {
            Ok(announcement) => drop(self.on_announcement(from, announcement)),
            Err(_) => self.reject(received, "a malformed announcement, or one of somebody else"),
        }
    }

    /// NEW_BLOCK_HASH to us alone.
    pub(super) fn on_notify(&mut self, told: Inbound<Notify>) {
        if self.shuns(&told.peer) {
            return told.refuse(Status::Refused);
        }
        match Announcement::from_request(&told.request) {
            Ok(announcement) => {
                let peer = told.peer;
                let answer = self.on_announcement(peer, announcement);
                let hash = announcement.point.hash;
                match answer {
                    NotifyAnswer::Known => self.trace.sent(peer, Code::BlockKnown, || json!(hash.to_string())),
                    NotifyAnswer::WillAsk => self.trace.sent(peer, Code::GetBlock, || json!(hash.to_string())),
                    NotifyAnswer::Ignored => {}
                }
                told.respond(answer.to_response());
            }
            Err(_) => {
                self.penalties.report(told.peer, Offence::WrongData);
                told.refuse(Status::Invalid);
            }
        }
    }

    fn on_announcement(&mut self, from: PeerId, announcement: Announcement) -> NotifyAnswer {
        let Announcement { point, body_bytes } = announcement;
        self.metrics.announcements.inc();
        self.trace.received(from, Code::NewBlockHash, || point_json(point));
        self.core.learn(&from, point.hash);
        match self.chain.known(&point.hash) {
            Ok(Known::Held(_) | Known::Orphan) => return NotifyAnswer::Known,
            Ok(Known::No) => {}
            Ok(Known::Invalid) | Err(_) => return NotifyAnswer::Ignored,
        }
        let status = self.chain.status();
        let head = status.head.height;
        if point.height > head {
            self.sync.claim(from, point);
        }
        // What a halted chain does not take would be fetched again for everybody who announces it.
        let useful = status.halted.is_none()
            && point.height > status.committed.height
            && point.height.saturating_add(BELOW) >= head
            && point.height <= head.saturating_add(ABOVE)
            && body_bytes as usize <= self.settings.max_body_bytes; // u32 fits in usize on every supported target
        if !useful || self.is_syncing() || self.core.is_bad(&point.hash) {
            return NotifyAnswer::Ignored;
        }
        match self.core.on_announced(now(), from, announcement) {
            true => NotifyAnswer::WillAsk,
            false => {
                self.metrics.announcements_refused.inc();
                NotifyAnswer::Ignored
            }
        }
    }

    /// The chain moved.
    pub(super) fn on_event(&mut self, event: &Result<Event, RecvError>) {
        match event {
            Ok(Event::Imported { point, origin, .. }) => {
                let point = *point;
                self.core.on_imported(&point.hash);
                self.reconsider(&point.hash);
                if *origin == Origin::Local {
                    self.publish_own(point.hash);
                } else {
                    self.announce_soon(point);
                }
            }
            // The newest is what matters.
            Err(RecvError::Lagged(_)) => self.announce(self.chain.status().head),
            Ok(_) | Err(RecvError::Closed) => {}
        }
    }

    /// Sync has caught up, or fell behind: from now on what is new here is news again, beginning with the head.
    pub(super) fn on_state(&mut self) {
        let head = self.chain.status().head;
        if head.height > 0 {
            self.announce(head);
        }
    }

    /// Announces a block in a while: who gets it by its header needs no announcement, and whoever announces it to us meanwhile needs
    /// none from us.
    fn announce_soon(&mut self, point: Point) {
        let head = self.chain.status().head.height;
        if self.is_syncing() || point.height.saturating_add(NEAR_HEAD) < head {
            return;
        }
        if self.announcements.len() >= WAITING {
            self.announcements.pop_front();
        }
        self.announcements.push_back((now() + PAUSE.mul_f64(0.5 + rand::random::<f64>()), point));
    }

    pub(super) fn announce_due(&mut self) {
        let now = now();
        let due: Vec<_> = self.announcements.iter().filter(|(at, _)| *at <= now).map(|(_, point)| *point).collect();
        self.announcements.retain(|(at, _)| *at > now);
        due.into_iter().for_each(|point| self.announce(point));
    }

    /// Tells everybody who may lack it of a block in the chain.
    fn announce(&mut self, point: Point) {
        let head = self.chain.status().head.height;
        if self.is_syncing() || point.height.saturating_add(NEAR_HEAD) < head {
            return;
        }
        let Some(announcement) = self.announcement(point) else { return };
        let topic = self.hashes.clone();
        let announce = self.core.announce(now(), point.hash, |peer| topic.reaches(peer));
        for peer in announce.notify {
            self.send_notify(peer, announcement);
        }
        if announce.topic {
            self.metrics.announced.inc();
            self.trace.published(Code::NewBlockHash, || point_json(point));
            let bytes = announcement.to_topic(&self.net.local());
            self.jobs.spawn(async move {
                published(topic.publish(bytes).await);
                Done::Nothing
            });
        }
    }

    fn announcement(&self, point: Point) -> Option<Announcement> {
        let header = self.chain.header(&point.hash).ok().flatten()?;
        Some(Announcement::of(&header, point.hash))
    }

    fn send_notify(&mut self, peer: PeerId, announcement: Announcement) {
        if self.shuns(&peer) {
            return;
        }
        let (client, hash) = (self.notify.clone(), announcement.point.hash);
        // Whoever answers nothing is told of what comes when it has; by SHAKEHAND, or by reminders, it hears of the rest.
        let waiting = self.notifying.entry(peer).or_default();
        if *waiting >= NOTIFYING {
            return self.core.unlearn(&peer, &hash);
        }
        *waiting += 1;
        self.metrics.notified.inc();
        self.trace.sent(peer, Code::NewBlockHash, || point_json(announcement.point));
        self.jobs.spawn(async move {
            let answer = client.request(peer, announcement.to_request()).await;
            let answer = answer.ok().and_then(|a| NotifyAnswer::from_response(&a).ok());
            Done::Notified(peer, hash, answer)
        });
    }

    pub(super) fn on_notified(&mut self, peer: PeerId, hash: Hash, answer: Option<NotifyAnswer>) {
        if let Some(waiting) = self.notifying.get_mut(&peer) {
            *waiting -= 1;
            if *waiting == 0 {
                self.notifying.remove(&peer);
            }
        }
        match answer {
            Some(NotifyAnswer::Known) => {
                self.core.learn(&peer, hash);
                self.trace.received(peer, Code::BlockKnown, || json!(hash.to_string()));
            }
            Some(NotifyAnswer::WillAsk) => self.trace.received(peer, Code::GetBlock, || json!(hash.to_string())),
            Some(NotifyAnswer::Ignored) => {}
            None => self.core.unlearn(&peer, &hash),
        }
    }

    pub(super) fn on_command(&mut self, command: Command) {
        let Command::Head(peer, theirs) = command;
        let ours = self.chain.status().head.height;
        if ours <= theirs.height || ours - theirs.height > LAGS {
            return;
        }
        for height in theirs.height + 1..=ours {
            if let Ok(Some(hash)) = self.chain.hash_at(height) {
                self.remind(peer, Point { height, hash });
            }
        }
    }

    /// A peer that just came: what was published while nobody listened is told now.
    pub(super) fn tell_head(&mut self, peer: PeerId) {
        let status = self.chain.status();
        if status.head.height > 0 && self.clock.now().since(status.head_time) <= FRESH {
            self.remind(peer, status.head);
        }
    }

    fn remind(&mut self, peer: PeerId, point: Point) {
        if self.is_syncing() {
            return;
        }
        if let Some(announcement) = self.announcement(point)
            && self.core.remind(now(), &peer, point.hash)
        {
            self.send_notify(peer, announcement);
        }
    }

    /// A block was made here: read back what the store holds, since that is what others will get.
    fn publish_own(&mut self, hash: Hash) {
        let (chain, purpose) = (self.chain.clone(), self.purpose.clone());
        self.jobs.spawn(async move {
            let stored = chain.block(&hash).ok().flatten();
            let block = stored.and_then(|stored| {
                let header = VerifiedHeader::new(Header::decode(&stored.header).ok()?, &purpose).ok()?;
                Some(Box::new((header, stored.body)))
            });
            Done::Own(block)
        });
    }

    pub(super) fn on_own(&mut self, block: Option<Box<(VerifiedHeader, Bytes)>>) {
        let Some(block) = block else { return };
        let (header, body) = *block;
        let point = Point { height: header.header().height, hash: header.hash() };
        // Whoever gets the header asks for the body at once.
        self.core.put(now(), header.clone(), body.clone());
        self.metrics.published.inc();
        self.trace.published(Code::NewBlock, || point_json(point));
        let (topic, message) = (self.new.clone(), NewBlock::to_topic(header.header(), &body));
        self.jobs.spawn(async move {
            published(topic.publish(message).await);
            Done::Nothing
        });
        self.announce_soon(point);
    }
}

fn published(result: Result<(), PublishError>) {
    match result {
        // Alone: whoever comes is told of the head.
        Ok(()) | Err(PublishError::NoPeers | PublishError::Duplicate | PublishError::Stopped) => {}
        Err(error) => tracing::warn!(%error, "a block could not be published; others will hear of it by SHAKEHAND"),
    }
}

fn point_json(point: Point) -> serde_json::Value {
    json!({ "height": point.height, "hash": point.hash.to_string() })
}
