//! The door to friendships.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    grant::{Grant, Party, Verifier},
    owner::Request,
    relation::{Fact, Hold, Relation, Side, State, View},
    terms::{Terms, Wanted},
    wire::{self, Answer, Ask, Protocol},
};
use crate::{
    map::{self, MapError},
    net::rpc,
    primitives::{GrantId, Hash, PeerId, UnixMillis, limits::MAX_GRANT_VALIDITY},
    store::StoreError,
};

/// Commands waiting for the service; callers wait for a place.
pub(super) const COMMANDS: usize = 16;

/// A grant that we hold or held for somebody, for the mailbox. An owner has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Whose messages.
    pub owner: PeerId,
    /// The mailbox. Stays when a grant is renewed, when its terms change, and when the two agree again after an end.
    pub grant_id: GrantId,
    /// Whether deposits are taken, or only pulls, or nothing.
    pub state: Hold,
    /// What we accepted.
    pub terms: Terms,
    /// Until when deposits are taken unless it is renewed.
    pub not_after: UnixMillis,
    /// Rises with every renewal.
    pub epoch: u64,
}

/// A friendship as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Friendship {
    /// Which side we are.
    pub side: Side,
    /// The other node.
    pub address: PeerId,
    /// Where it is.
    pub state: State,
    /// The mailbox.
    pub grant_id: GrantId,
    /// Rises with every offer and end.
    pub epoch: u64,
    /// Accepted terms, or the offered ones before there are any.
    pub terms: Terms,
    /// Terms of an offer that waits for an answer.
    pub offered: Option<Terms>,
    /// When the grant or offer ends.
    pub expires_at: UnixMillis,
    /// Of our friends: smaller is asked first.
    pub priority: u32,
    /// What is owed to stored messages; `None` before a grant.
    pub hold: Option<Hold>,
    /// The double-signed grant, also after its end.
    pub grant: Option<Grant>,
    /// Why it ended or its last offer was declined, in words; else empty.
    pub reason: &'static str,
    /// Whether the other side has what we signed last.
    pub told: bool,
    /// Why the last try to tell it failed; empty: it did not.
    pub last_error: String,
    /// When something changed.
    pub changed_at: UnixMillis,
    /// When one of the two ended it last, also when they agreed again after that.
    pub ended_at: Option<UnixMillis>,
    /// Measured by whoever moves the mail.
    pub figure: Figure,
}

impl Friendship {
    /// `None` for what was never offered here.
    pub(super) fn of(side: Side, address: PeerId, r: &Relation, now: UnixMillis, figure: Figure) -> Option<Self> {
        let offer = r.pending(now).or_else(|| r.grant.as_ref().map(|g| &g.offer)).or(r.offer.as_ref())?;
        let state = r.state(now)?;
        let counts = r.active(now).or_else(|| r.grant.as_ref().filter(|_| state != State::Offered));
        let reason = match state {
            State::Offered => "",
            // Other terms may have been declined meanwhile.
            State::Active | State::Declined => r.reason().map_or("", super::grant::Reason::text),
            State::Expired => "not renewed in time",
            State::Revoked => match r.last_end().map(|end| end.by) {
                Some(Party::Friend) => "the friend resigned",
                _ => "revoked by the owner",
            },
        };
        Some(Self {
            side,
            address,
            state,
            grant_id: counts.map_or(offer.grant_id, |g| g.offer.grant_id),
            epoch: r.epoch(),
            terms: counts.map_or(offer.terms, |g| g.terms),
            offered: r.pending(now).map(|o| o.terms),
            expires_at: counts.map_or(offer.not_after, |g| g.offer.not_after),
            priority: r.local.priority,
            hold: r.hold(now),
            grant: r.grant.clone(),
            reason,
            told: r.local.told,
            last_error: r.local.last_error.clone(),
            changed_at: r.local.changed_at,
            ended_at: r.last_end().map(|end| end.at),
            figure,
        })
    }
}

/// What the mailbox measures of a friendship.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figure {
    /// Bytes stored under the grant; `None`: not known.
    pub used_bytes: Option<u64>,
    /// How the friend keeps what it promises.
    pub score: Score,
}

/// Promises of a friend to keep messages that were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Score {
    /// Kept.
    pub kept: u64,
    /// Broken.
    pub broken: u64,
    /// Not accounted for, though the friend was there.
    pub refused: u64,
}

impl Score {
    /// All that were checked.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.kept.saturating_add(self.broken).saturating_add(self.refused)
    }

    /// How many of those were kept, rounded down; `None`: none was checked.
    #[must_use]
    pub fn percent(&self) -> Option<u8> {
        let percent = self.kept.saturating_mul(100).checked_div(self.checked())?;
        u8::try_from(percent).ok()
    }
}

/// Whom a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The other node.
    Address(PeerId),
    /// The mailbox.
    Grant(GrantId),
}

/// A friendship changed: its state, or a grant was renewed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event(pub Box<Friendship>);

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FriendError {
    /// A bad argument.
    #[error("{0}")]
    Invalid(String),
    /// Nothing is known about such a friendship.
    #[error("no such friendship; see `vos friend ls`")]
    NotFound,
    /// It is in a state where this makes no sense.
    #[error("the friendship is {}", state_name(*.0))]
    TooLate(State),
    /// The node is our friend, and we are its friend; or two nodes use the same grant id.
    #[error("this fits two friendships: name the grant by its id, or the node by its address")]
    Ambiguous,
    /// No room for one more.
    #[error("{0}")]
    Full(String),
    /// Nobody gave the grant.
    #[error("{0}")]
    Unreachable(String),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// The word for a state.
#[must_use]
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Offered => "offered",
        State::Active => "active",
        State::Declined => "declined",
        State::Revoked => "revoked",
        State::Expired => "expired",
    }
}

/// Answers to one friendship.
pub(super) type Reply = oneshot::Sender<Result<Friendship, FriendError>>;

/// What the service is asked.
#[derive(Debug)]
pub(super) enum Command {
    Offer(Request, Reply),
    Accept(Target, Wanted, Reply),
    Decline(Target, Reply),
    Revoke(Target, Option<Side>, Option<Duration>, Reply),
    List(oneshot::Sender<Result<Vec<Friendship>, FriendError>>),
}

/// Makes, ends and shows friendships. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) held: watch::Receiver<Arc<Vec<Held>>>,
    pub(super) figures: Figures,
    pub(super) map: map::Handle,
    pub(super) client: rpc::Client<Protocol>,
    pub(super) verifier: Verifier,
}

/// Figures by side and address.
pub(super) type Figures = Arc<Mutex<HashMap<(Side, PeerId), Figure>>>;

impl Handle {
    /// Asks a node to hold messages for us, or offers other terms to one that does. Durable when this returns; the node
    /// is told as soon as it can be reached. `validity`: at most 90 days, which is the default; it is renewed by
    /// itself.
    ///
    /// # Errors
    /// [`FriendError`]; nothing was offered then.
    pub async fn offer(
        &self,
        friend: PeerId,
        terms: Terms,
        validity: Option<Duration>,
        priority: u32,
    ) -> Result<Friendship, FriendError> {
        let request = Request { friend, terms, validity: validity.unwrap_or(MAX_GRANT_VALIDITY), priority };
        self.ask(|reply| Command::Offer(request, reply)).await
    }

    /// Waits until our offer to a node is answered or ended. `None`: `timeout` passed first.
    ///
    /// # Errors
    /// [`FriendError::NotFound`], [`FriendError::Stopped`].
    pub async fn answered(&self, friend: PeerId, timeout: Duration) -> Result<Option<Friendship>, FriendError> {
        let mut events = self.subscribe();
        let wait = async {
            loop {
                let found = self.list().await?.into_iter().find(|f| f.side == Side::HeldBy && f.address == friend);
                let now = found.ok_or(FriendError::NotFound)?;
                if now.offered.is_none() {
                    return Ok(now);
                }
                // Lost events are a reason to look, too.
                if matches!(events.recv().await, Err(broadcast::error::RecvError::Closed)) {
                    return Err(FriendError::Stopped);
                }
            }
        };
        tokio::time::timeout(timeout, wait).await.map_or(Ok(None), |result| result.map(Some))
    }

    /// Accepts an offer, maybe with lower quotas; durable when this returns.
    ///
    /// # Errors
    /// [`FriendError`]; nothing was signed then.
    pub async fn accept(&self, target: Target, wanted: Wanted) -> Result<Friendship, FriendError> {
        self.ask(|reply| Command::Accept(target, wanted, reply)).await
    }

    /// Declines an offer; durable when this returns.
    ///
    /// # Errors
    /// [`FriendError`]; nothing was signed then.
    pub async fn decline(&self, target: Target) -> Result<Friendship, FriendError> {
        self.ask(|reply| Command::Decline(target, reply)).await
    }

    /// Ends a friendship from either side: the owner revokes, the friend resigns. No deposits from now on; what is
    /// stored can be collected for `drain` (default and least for a friend: 7 days; at most 30). Durable when this
    /// returns.
    ///
    /// # Errors
    /// [`FriendError`]; nothing was signed then.
    pub async fn revoke(
        &self,
        target: Target,
        side: Option<Side>,
        drain: Option<Duration>,
    ) -> Result<Friendship, FriendError> {
        self.ask(|reply| Command::Revoke(target, side, drain, reply)).await
    }

    /// All friendships, those that ended lately included.
    ///
    /// # Errors
    /// [`FriendError::Stopped`].
    pub async fn list(&self) -> Result<Vec<Friendship>, FriendError> {
        self.ask(Command::List).await
    }

    /// All grants that we hold for others, for the mailbox: the whole list whenever it changes. An owner that is not in
    /// it any more is owed nothing, like one that is [`Hold::Ended`].
    #[must_use]
    pub fn held(&self) -> watch::Receiver<Arc<Vec<Held>>> {
        self.held.clone()
    }

    /// The friends that a recipient's record lists, the first to ask first; asks Kademlia for the record when the map
    /// does not have it. What an expired record says is never returned.
    ///
    /// # Errors
    /// [`MapError::NotFound`] when nobody knows the recipient.
    pub async fn friends_of(&self, recipient: PeerId) -> Result<Vec<map::Friend>, MapError> {
        let mut friends = self.map.resolve(recipient).await?.friends;
        friends.sort_by_key(|f| (f.priority, f.address));
        Ok(friends)
    }

    /// Fetches the grant behind a friend that `owner`'s record lists, from the friend or else from the owner, and
    /// verifies it.
    ///
    /// # Errors
    /// [`FriendError::Unreachable`] when neither gave it, [`FriendError::Invalid`] when what it gave is not that grant.
    pub async fn fetch(&self, owner: PeerId, friend: PeerId, hash: Hash) -> Result<Grant, FriendError> {
        let ask = wire::request(&Ask::Get(hash));
        let mut why = FriendError::NotFound;
        for peer in [friend, owner].into_iter().filter(|peer| *peer != self.map.local()) {
            let answer = match self.client.request(peer, ask.clone()).await {
                Ok(response) => wire::read_response(&self.verifier, &response),
                Err(error) => {
                    why = FriendError::Unreachable(format!("{peer}: {error}"));
                    continue;
                }
            };
            match answer {
                Ok(Answer::View(View::Fact(Fact::Grant(grant))))
                    if grant.hash() == hash && (grant.offer.owner, grant.offer.friend) == (owner, friend) =>
                {
                    return Ok(grant);
                }
                Ok(Answer::View(View::Unknown)) => why = FriendError::Unreachable(format!("{peer} has no such grant")),
                Ok(_) => why = FriendError::Invalid(format!("{peer} gave something else than that grant")),
                Err(error) => why = FriendError::Invalid(format!("{peer} gave a bad grant: {error}")),
            }
        }
        Err(why)
    }

    /// What the mailbox measured, for people to see.
    pub fn report(&self, side: Side, address: PeerId, figure: Figure) {
        self.figures.lock().expect("no panic while held").insert((side, address), figure);
    }

    /// Changes from now on. A slow receiver loses the oldest (`Lagged`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, FriendError>>) -> Command,
    ) -> Result<T, FriendError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| FriendError::Stopped)?;
        answer.await.map_err(|_| FriendError::Stopped)?
    }
}
