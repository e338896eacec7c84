//! What others tell us, and what we tell them.

use std::time::Duration;

use tokio::time::Instant;

use super::{Done, Errand, Place, Service};
use crate::{
    message::friend::{
        grant::{Grant, Reason},
        holder::Outcome,
        relation::{Conflict, Fact, Side, View},
        wire::{self, Answer, Ask, Protocol, Refused},
    },
    net::rpc::{self, RequestError},
    primitives::{Hash, PeerId},
    runtime::Backoff,
    store::StoreError,
    wire::Status,
};

/// First pause after telling somebody failed.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause. Who connects is told at once.
const RETRY_MAX: Duration = Duration::from_secs(15 * 60);
/// Others told at once.
const FLIGHTS: usize = 16;
/// Between two comparisons of a friendship with the other side, when it connects: what a restored backup forgot comes
/// back.
const COMPARE: Duration = Duration::from_secs(3600);
/// After our record could not be published.
const PUBLISH_RETRY: Duration = Duration::from_secs(10);

impl Service {
    pub(super) async fn on_inbound(&mut self, inbound: rpc::Inbound<Protocol>) {
        let answer = match wire::read_request(&self.verifier, &inbound.request) {
            Ok(Ask::Get(hash)) => Ok(self.grant_of(&hash)),
            Ok(Ask::Tell(fact)) => self.on_told(inbound.peer, fact).await,
            Err(error) => {
                tracing::debug!(peer = %inbound.peer, %error, "a bad statement about a friendship");
                Ok(Answer::Refused(error.into()))
            }
        };
        match answer {
            Ok(answer) => {
                if let Answer::Refused(why) = answer {
                    self.metrics.refuse(why);
                }
                inbound.respond(wire::response(&answer));
            }
            Err(error) => {
                tracing::warn!(%error, "a friendship could not be stored; the other side will try again");
                inbound.refuse(Status::Failed);
            }
        }
    }

    fn grant_of(&self, hash: &Hash) -> Answer {
        let relations = self.owner.friends().values().chain(self.holder.owners().values());
        let grant = relations.filter_map(|r| r.grant.as_ref()).find(|g| g.hash() == *hash);
        Answer::View(grant.map_or(View::Unknown, |g| View::Fact(Fact::Grant(g.clone()))))
    }

    /// What a peer says counts when it is about us and it, and the time is right.
    fn admit(&self, peer: PeerId, fact: &Fact) -> Result<Side, Refused> {
        let local = self.identity.address();
        let side = match fact.parties() {
            (owner, friend) if owner == local && friend == peer => Side::HeldBy,
            (owner, friend) if friend == local && owner == peer => Side::HoldingFor,
            _ => return Err(Refused::Bad),
        };
        let now = self.now();
        match fact {
            Fact::Offer(offer) => offer.check_times(now)?,
            Fact::Grant(grant) => grant.offer.check_times(now)?,
            Fact::Revocation(revocation) => revocation.check_times(now)?,
            Fact::Decline(decline) => decline.check_times(now)?,
        }
        Ok(side)
    }

    async fn on_told(&mut self, peer: PeerId, fact: Fact) -> Result<Answer, StoreError> {
        let side = match self.admit(peer, &fact) {
            Ok(side) => side,
            Err(why) => return Ok(Answer::Refused(why)),
        };
        match self.merge((side, peer), fact).await? {
            Ok(view) => Ok(Answer::View(view)),
            // Late, which is nobody's fault: what is known now is the answer.
            Err(Conflict::Stale) => {
                let now = self.now();
                Ok(Answer::View(self.relation(&(side, peer)).map_or(View::Unknown, |r| r.view(now))))
            }
            Err(Conflict::Equivocation) => Ok(Answer::Refused(Refused::Equivocation)),
        }
    }

    /// Merges what was told; durable before it is answered.
    async fn merge(&mut self, place: Place, fact: Fact) -> Result<Result<View, Conflict>, StoreError> {
        let (now, is_offer) = (self.now(), matches!(fact, Fact::Offer(_)));
        let (side, other) = place;
        let outcome = match side {
            Side::HeldBy => self.owner.on_fact(now, &other, fact).map(|relation| {
                let known = relation.as_ref().or_else(|| self.owner.friends().get(&other));
                let view = known.map_or(View::Unknown, |r| r.view(now));
                Outcome { relation, view }
            }),
            Side::HoldingFor => self.holder.on_fact(now, &other, fact, &self.room()),
        };
        let Outcome { relation, view } = match outcome {
            Ok(outcome) => outcome,
            Err(conflict) => return Ok(Err(conflict)),
        };
        if side == Side::HoldingFor && is_offer {
            let known = self.relation(&place).and_then(|r| r.grant.as_ref()).map(Grant::hash);
            match &view {
                View::Fact(Fact::Grant(grant)) if Some(grant.hash()) != known => self.metrics.accepted.inc(),
                View::Fact(Fact::Decline(d)) if d.reason != Reason::Person => self.metrics.declined.inc(),
                _ => 0,
            };
            if relation.is_some() {
                self.metrics.asked.inc();
            }
        }
        if let Some(relation) = relation {
            self.save(place, relation).await?;
            self.note(place);
        }
        Ok(Ok(view))
    }

    // -- telling others

    /// Has a place told when something is untold.
    pub(super) fn note(&mut self, place: Place) {
        let untold = self.relation(&place).is_some_and(|r| !r.local.told) && self.to_tell(&place).is_some();
        if untold {
            self.errand(place);
        }
    }

    fn errand(&mut self, place: Place) -> &mut Errand {
        self.errands.entry(place).or_insert_with(|| Errand {
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            next: Instant::now(),
            flying: false,
            compared: None,
            again: false,
        })
    }

    /// A person made something new: tried at once, whatever failed before.
    pub(super) fn tell_now(&mut self, place: Place) {
        let errand = self.errand(place);
        errand.backoff.reset();
        errand.next = Instant::now();
    }

    fn to_tell(&self, place: &Place) -> Option<Fact> {
        match place.0 {
            Side::HeldBy => self.owner.to_tell(self.now(), &place.1),
            Side::HoldingFor => self.holder.to_tell(self.now(), &place.1),
        }
    }

    pub(super) fn on_up(&mut self, peer: PeerId) {
        let now = Instant::now();
        for place in [(Side::HeldBy, peer), (Side::HoldingFor, peer)] {
            if self.to_tell(&place).is_none() {
                continue;
            }
            let errand = self.errand(place);
            errand.next = now;
            errand.backoff.reset();
            errand.again |= errand.compared.is_none_or(|at| now - at > COMPARE);
        }
    }

    pub(super) fn start_telling(&mut self) {
        let now = Instant::now();
        let flying = self.errands.values().filter(|e| e.flying).count();
        let due = |e: &Errand| !e.flying && e.next <= now;
        let places: Vec<Place> = self.errands.iter().filter(|(_, e)| due(e)).map(|(place, _)| *place).collect();
        let mut free = FLIGHTS.saturating_sub(flying);
        for place in places {
            let told = self.relation(&place).is_none_or(|r| r.local.told);
            let Some(fact) = self.to_tell(&place) else {
                self.errands.remove(&place);
                continue;
            };
            let errand = self.errand(place);
            if (told && !errand.again) || free == 0 {
                continue;
            }
            free -= 1;
            errand.flying = true;
            let (client, request) = (self.client.clone(), wire::request(&Ask::Tell(fact.clone())));
            self.jobs.spawn(async move { Done::Told(place, fact, client.request(place.1, request).await) });
        }
    }

    pub(super) async fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Told(place, fact, answer)) => {
                if let Some(errand) = self.errands.get_mut(&place) {
                    errand.flying = false;
                }
                if let Err(why) = self.on_answer(place, fact, answer).await {
                    self.try_later(place, &why);
                }
            }
            Ok(Done::Published(result)) => {
                let what = self.publishing.take();
                match result {
                    Ok(()) => self.published = what,
                    Err(error) => {
                        tracing::warn!(%error, "our record with its friends could not be published; trying again");
                        self.publish_at = Instant::now() + PUBLISH_RETRY;
                    }
                }
            }
            Err(error) => tracing::error!(%error, "a job of friendships failed; please report this"),
        }
    }

    /// The other side answered, or did not. `Err`: why it is to be told again later.
    async fn on_answer(
        &mut self,
        place: Place,
        sent: Fact,
        answer: Result<wire::Reply, RequestError>,
    ) -> Result<(), String> {
        let response = answer.map_err(|e| e.to_string())?;
        let answer = wire::read_response(&self.verifier, &response).map_err(|e| format!("its answer is bad: {e}"))?;
        let (mut error, mut theirs) = ("", None);
        match answer {
            Answer::Refused(why @ (Refused::Clock | Refused::Bad)) => return Err(why.text().to_owned()),
            // Telling it again would change nothing.
            Answer::Refused(why) => error = why.text(),
            Answer::View(View::Fact(fact)) => {
                match self.admit(place.1, &fact) {
                    Ok(side) if side == place.0 => {}
                    Ok(_) | Err(Refused::Expired) => return Err("its answer is about something else".into()),
                    Err(why) => return Err(format!("its answer cannot be used: {}", why.text())),
                }
                theirs = Some(fact.clone());
                let merged = self.merge(place, fact).await.map_err(|e| e.to_string())?;
                if merged == Err(Conflict::Equivocation) {
                    error = Refused::Equivocation.text();
                }
            }
            Answer::View(View::Pending | View::Unknown) => {}
        }
        let now = Instant::now();
        let errand = self.errand(place);
        errand.backoff.reset();
        errand.compared = Some(now);
        errand.again = false;
        let Some(mut next) = self.relation(&place).cloned() else { return Ok(()) };
        let before = next.local.clone();
        let ours = if place.0 == Side::HeldBy { &next.revoked } else { &next.resigned };
        next.local.end_told |= matches!(&sent, Fact::Revocation(r) if Some(r) == ours.as_ref());
        next.local.decline_told |= matches!(&sent, Fact::Decline(d) if Some(d) == next.declined.as_ref());
        // Something else may be untold: what was signed meanwhile, or before an end that came first.
        let current = next.told_by(place.0, self.now());
        next.local.told = current.is_none_or(|current| current == sent || theirs == Some(current));
        error.clone_into(&mut next.local.last_error);
        if next.local != before {
            self.save(place, next).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn try_later(&mut self, place: Place, why: &str) {
        self.metrics.retries.inc();
        tracing::debug!(peer = %place.1, why, "telling a friend or owner failed");
        let errand = self.errand(place);
        errand.next = Instant::now() + errand.backoff.next(rand::random());
        if let Some(mut relation) = self.relation(&place).cloned() {
            // For people, and not worth a synced write.
            why.clone_into(&mut relation.local.last_error);
            match place.0 {
                Side::HeldBy => self.owner.apply(place.1, relation),
                Side::HoldingFor => self.holder.apply(place.1, relation),
            }
        }
    }
}
