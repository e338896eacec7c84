//! The actor: puts what both machines decide on disk, then tells. It never awaits a peer: telling runs in its `JoinSet`
//! and comes back as [`Done`].

mod exchange;

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    config::{Accept, Config},
    grant::{Grant, Verifier},
    handle::{COMMANDS, Command, Event, Figures, FriendError, Friendship, Handle, Held, Reply, Target},
    holder::{Holder, Room},
    metrics::Metrics,
    owner::{Listed, Owner, Request},
    relation::{Fact, Relation, Side, State},
    store,
    terms::Wanted,
    wire::{self, Protocol},
};
use crate::{
    identity::Identity,
    map::{self, MapError},
    message::contacts::Contacts,
    net::{
        self, PeerEvent,
        rpc::{self, RequestError},
    },
    primitives::{Clock, GrantId, Hash, NetworkId, PeerId, UnixMillis, limits::MIN_DRAIN},
    runtime::{Backoff, Stop},
    store::{Batch, Store, StoreError},
};

/// How often times are looked at: ends, renewals, retries.
const TICK: Duration = Duration::from_millis(500);
/// Events kept for a slow subscriber.
const EVENTS: usize = 256;
/// Addrs of a friend in our record.
const ADDRS: usize = 4;

/// What friendships need.
#[derive(Debug)]
pub struct Deps {
    /// Who we are.
    pub identity: Identity,
    /// Part of every signature.
    pub network: NetworkId,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where friendships are kept.
    pub store: Store,
    /// Who connects.
    pub net: net::Handle,
    /// Our record, and others'.
    pub map: map::Handle,
    /// Whose offers are accepted with `friend.accept = "contacts"`.
    pub contacts: Contacts,
    /// Tells others.
    pub client: rpc::Client<Protocol>,
    /// What others tell us.
    pub inbound: mpsc::Receiver<rpc::Inbound<Protocol>>,
    /// Counters, registered by the node.
    pub metrics: Metrics,
}

/// One friendship's place.
type Place = (Side, PeerId);

/// How telling goes.
#[derive(Debug)]
struct Errand {
    backoff: Backoff,
    next: Instant,
    flying: bool,
    /// When the two sides were compared last.
    compared: Option<Instant>,
    /// To be told even if it was told before.
    again: bool,
}

/// What a job brought.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "few at once, and none is kept")]
enum Done {
    Told(Place, Fact, Result<wire::Reply, RequestError>),
    Published(Result<(), MapError>),
}

/// The actor of friendships.
#[derive(Debug)]
pub struct Service {
    accept: Accept,
    contacts: Contacts,
    identity: Identity,
    verifier: Verifier,
    clock: Arc<dyn Clock>,
    store: Store,
    net: net::Handle,
    map: map::Handle,
    client: rpc::Client<Protocol>,
    inbound: mpsc::Receiver<rpc::Inbound<Protocol>>,
    metrics: Metrics,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Sender<Event>,
    held: watch::Sender<Arc<Vec<Held>>>,
    figures: Figures,
    owner: Owner,
    holder: Holder,
    errands: HashMap<Place, Errand>,
    jobs: JoinSet<Done>,
    /// What subscribers know.
    shown: HashMap<Place, Shown>,
    /// What our record says, once it says it.
    published: Option<(Vec<Listed>, u64)>,
    publishing: Option<(Vec<Listed>, u64)>,
    publish_at: Instant,
}

/// What of a friendship is news when it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shown {
    state: State,
    grant: Option<Hash>,
    /// The epoch of the offer that waits for an answer: other terms may be declined while the grant stays as it was.
    pending: Option<u64>,
}

impl Service {
    /// Loads friendships. Blocks while it reads; call it before the node serves.
    ///
    /// # Errors
    /// The store's error.
    pub fn new(config: &Config, deps: Deps) -> Result<(Self, Handle), StoreError> {
        let Deps { identity, network, clock, store, net, map, contacts, client, inbound, metrics } = deps;
        let verifier = Verifier::new(&network);
        let mut owner = Owner::new(identity.clone(), verifier.clone());
        let mut holder = Holder::new(identity.clone(), verifier.clone(), config.clone());
        store::load(&store, &verifier, |side, other, relation| match side {
            Side::HeldBy => owner.apply(other, relation),
            Side::HoldingFor => holder.apply(other, relation),
        })?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        // The mailbox must know what it holds before anything is asked of it.
        let (held, held_receiver) = watch::channel(Arc::new(holder.held(clock.now())));
        let figures = Figures::default();
        let handle = Handle {
            commands: sender,
            events: events.clone(),
            held: held_receiver,
            figures: figures.clone(),
            map: map.clone(),
            client: client.clone(),
            verifier: verifier.clone(),
        };
        let mut service = Self {
            accept: config.accept,
            contacts,
            identity,
            verifier,
            clock,
            store,
            net,
            map,
            client,
            inbound,
            metrics,
            commands,
            events,
            held,
            figures,
            owner,
            holder,
            errands: HashMap::new(),
            jobs: JoinSet::new(),
            shown: HashMap::new(),
            published: None,
            publishing: None,
            publish_at: Instant::now(),
        };
        let places: Vec<Place> = service.places().collect();
        for place in places {
            service.note(place);
        }
        Ok((service, handle))
    }

    /// Runs until stopped.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        let mut peers = self.net.subscribe();
        for peer in self.net.peers() {
            self.on_up(peer.address);
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(command) = self.commands.recv() => self.on_command(command).await,
                event = peers.recv() => match event {
                    Ok(PeerEvent::Up(peer)) => self.on_up(peer),
                    Ok(PeerEvent::Down(_)) => {}
                    // Who came is in the peer table.
                    Err(_) => self.net.peers().iter().for_each(|p| self.on_up(p.address)),
                },
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.on_done(done).await,
                _ = tick.tick() => self.on_tick().await,
                // Last: a flood of them must not keep us from anything else.
                Some(inbound) = self.inbound.recv() => self.on_inbound(inbound).await,
            }
            self.refresh();
        }
        self.jobs.shutdown().await;
        Ok(())
    }

    fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let owned = self.owner.friends().keys().map(|friend| (Side::HeldBy, *friend));
        owned.chain(self.holder.owners().keys().map(|owner| (Side::HoldingFor, *owner)))
    }

    fn relation(&self, (side, other): &Place) -> Option<&Relation> {
        match side {
            Side::HeldBy => self.owner.friends().get(other),
            Side::HoldingFor => self.holder.owners().get(other),
        }
    }

    /// Makes a change durable, then lets it count.
    async fn save(&mut self, (side, other): Place, relation: Relation) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        store::put(&mut batch, side, &other, &relation);
        self.store.commit(batch).await?;
        match side {
            Side::HeldBy => self.owner.apply(other, relation),
            Side::HoldingFor => self.holder.apply(other, relation),
        }
        Ok(())
    }

    async fn forget(&mut self, (side, other): Place) {
        let mut batch = Batch::new();
        store::delete(&mut batch, side, &other);
        if let Err(error) = self.store.commit(batch).await {
            tracing::warn!(%error, "an old friendship could not be forgotten; trying again later");
            return;
        }
        match side {
            Side::HeldBy => self.owner.forget(&other),
            Side::HoldingFor => self.holder.forget(&other),
        }
        self.errands.remove(&(side, other));
        self.shown.remove(&(side, other));
        self.figures.lock().expect("no panic while held").remove(&(side, other));
    }

    // -- commands

    async fn on_command(&mut self, command: Command) {
        let (result, reply): (Result<Friendship, FriendError>, Reply) = match command {
            Command::Offer(request, reply) => (self.offer(request).await, reply),
            Command::Accept(target, wanted, reply) => (self.accept(target, &wanted).await, reply),
            Command::Decline(target, reply) => (self.decline(target).await, reply),
            Command::Revoke(target, side, drain, reply) => (self.revoke(target, side, drain).await, reply),
            Command::List(reply) => {
                // The caller may have gone away.
                let _ = reply.send(Ok(self.list()));
                return;
            }
        };
        // The caller may have gone away; what it asked for is done.
        let _ = reply.send(result);
    }

    fn list(&self) -> Vec<Friendship> {
        let mut all: Vec<_> = self.places().filter_map(|place| self.friendship(&place)).collect();
        all.sort_by_key(|f| (f.side, f.state != State::Active, f.priority, f.address));
        all
    }

    fn friendship(&self, place: &Place) -> Option<Friendship> {
        let figure = self.figures.lock().expect("no panic while held").get(place).copied().unwrap_or_default();
        Friendship::of(place.0, place.1, self.relation(place)?, self.now(), figure)
    }

    /// A change that a person made: durable, then told.
    async fn carry_out(&mut self, place: Place, relation: Relation) -> Result<Friendship, FriendError> {
        self.save(place, relation).await?;
        self.tell_now(place);
        self.friendship(&place).ok_or(FriendError::NotFound)
    }

    async fn offer(&mut self, request: Request) -> Result<Friendship, FriendError> {
        let relation = self.owner.offer(self.now(), &request, rand::random())?;
        self.metrics.offered.inc();
        self.carry_out((Side::HeldBy, request.friend), relation).await
    }

    async fn accept(&mut self, target: Target, wanted: &Wanted) -> Result<Friendship, FriendError> {
        let owner = self.find(target, Side::HoldingFor)?;
        let relation = self.holder.accept(self.now(), &owner, wanted, &self.room())?;
        let friendship = self.carry_out((Side::HoldingFor, owner), relation).await?;
        self.metrics.accepted.inc();
        Ok(friendship)
    }

    async fn decline(&mut self, target: Target) -> Result<Friendship, FriendError> {
        let owner = self.find(target, Side::HoldingFor)?;
        let relation = self.holder.decline(self.now(), &owner)?;
        let friendship = self.carry_out((Side::HoldingFor, owner), relation).await?;
        self.metrics.declined.inc();
        Ok(friendship)
    }

    async fn revoke(
        &mut self,
        target: Target,
        side: Option<Side>,
        drain: Option<Duration>,
    ) -> Result<Friendship, FriendError> {
        let now = self.now();
        let place = self.endable(target, side)?;
        let drain = drain.unwrap_or(MIN_DRAIN);
        let relation = match place.0 {
            Side::HeldBy => self.owner.revoke(now, &place.1, drain)?,
            Side::HoldingFor => {
                let asked = self.relation(&place).is_some_and(|r| r.active(now).is_none() && r.pending(now).is_some());
                if asked { self.holder.decline(now, &place.1)? } else { self.holder.resign(now, &place.1, drain)? }
            }
        };
        let friendship = self.carry_out(place, relation).await?;
        self.metrics.ended.inc();
        Ok(friendship)
    }

    /// The node that a target means on one side. An owner chooses the id of its grants and can take another's.
    fn find(&self, target: Target, side: Side) -> Result<PeerId, FriendError> {
        let is = |place: &Place, id: GrantId| self.relation(place).and_then(Relation::grant_id) == Some(id);
        match target {
            Target::Address(address) => self.relation(&(side, address)).map(|_| address).ok_or(FriendError::NotFound),
            Target::Grant(id) => {
                let mut found = self.places().filter(|place| place.0 == side && is(place, id));
                let (_, other) = found.next().ok_or(FriendError::NotFound)?;
                if found.next().is_some() { Err(FriendError::Ambiguous) } else { Ok(other) }
            }
        }
    }

    /// The friendship to end: of two between the same nodes, the one that can be ended.
    fn endable(&self, target: Target, side: Option<Side>) -> Result<Place, FriendError> {
        let now = self.now();
        let sides = [Side::HeldBy, Side::HoldingFor].into_iter().filter(|s| side.is_none_or(|side| side == *s));
        let mut found: Vec<Place> = Vec::new();
        for side in sides {
            match self.find(target, side) {
                Ok(other) => found.push((side, other)),
                Err(FriendError::NotFound) => {}
                Err(ambiguous) => return Err(ambiguous),
            }
        }
        let can_end = |place: &&Place| {
            let state = self.relation(place).and_then(|r| r.state(now));
            matches!(state, Some(State::Active | State::Offered))
        };
        let open: Vec<_> = found.iter().filter(can_end).collect();
        match (open.as_slice(), found.first()) {
            ([place], _) => Ok(**place),
            ([], Some(place)) => Ok(*place),
            ([], None) => Err(FriendError::NotFound),
            _ => Err(FriendError::Ambiguous),
        }
    }

    fn room(&self) -> Room {
        let now = self.now();
        let mut contacts = BTreeSet::new();
        if self.accept == Accept::Contacts {
            let ours = self.owner.friends().iter().filter(|(_, r)| r.active(now).is_some());
            contacts = ours.map(|(friend, _)| *friend).chain(self.contacts.book().contacts.keys().copied()).collect();
        }
        Room { free_bytes: self.store.free_bytes(), contacts }
    }

    // -- time

    async fn on_tick(&mut self) {
        let now = self.now();
        for (friend, relation) in self.owner.renewals(now) {
            match self.save((Side::HeldBy, friend), relation).await {
                Ok(()) => {
                    self.metrics.offered.inc();
                    self.tell_now((Side::HeldBy, friend));
                }
                Err(error) => tracing::warn!(%error, "a renewal could not be stored; trying again"),
            }
        }
        for friend in self.owner.surplus(now) {
            self.forget((Side::HeldBy, friend)).await;
        }
        for owner in self.holder.surplus(now) {
            self.forget((Side::HoldingFor, owner)).await;
        }
    }

    /// What follows from changes and from time: events, what the mailbox knows, our record, who is to be told.
    fn refresh(&mut self) {
        let now = self.now();
        let held = self.holder.held(now);
        self.held.send_if_modified(|known| {
            let changed = **known != held;
            if changed {
                *known = Arc::new(held);
            }
            changed
        });
        self.show(now);
        self.publish(now);
        self.start_telling();
    }

    fn show(&mut self, now: UnixMillis) {
        let mut changed = Vec::new();
        for place in self.places() {
            let Some(relation) = self.relation(&place) else { continue };
            let grant = relation.grant.as_ref().map(Grant::hash);
            let Some(state) = relation.state(now).filter(|_| relation.offer.is_some() || grant.is_some()) else {
                continue;
            };
            let shown = Shown { state, grant, pending: relation.pending(now).map(|o| o.epoch) };
            if self.shown.get(&place) != Some(&shown) {
                changed.push((place, shown));
            }
        }
        for (place, shown) in changed {
            self.shown.insert(place, shown);
            if let Some(friendship) = self.friendship(&place) {
                // An error means that nobody listens.
                let _ = self.events.send(Event(Box::new(friendship)));
            }
        }
        let count =
            |side| self.shown.iter().filter(|((s, _), shown)| *s == side && shown.state == State::Active).count();
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.held_by.set(number(count(Side::HeldBy)));
        self.metrics.holding_for.set(number(count(Side::HoldingFor)));
        self.metrics.promised_bytes.set(i64::try_from(self.holder.promised_to_all(now)).unwrap_or(i64::MAX));
    }

    fn publish(&mut self, now: UnixMillis) {
        let at = Instant::now();
        if self.publishing.is_some() || at < self.publish_at {
            return;
        }
        let listed = self.owner.listed(now);
        if self.published.as_ref() == Some(&listed) {
            return;
        }
        let friend = |l: &Listed| map::Friend {
            address: l.friend,
            addrs: self.map.get(&l.friend).map(|e| e.addrs).unwrap_or_default().into_iter().take(ADDRS).collect(),
            grant_hash: Some(l.grant_hash.0),
            priority: l.priority,
        };
        let (friends, epoch, map) = (listed.0.iter().map(friend).collect(), listed.1, self.map.clone());
        self.publishing = Some(listed);
        self.jobs.spawn(async move { Done::Published(map.set_friends(friends, epoch).await) });
    }
}
