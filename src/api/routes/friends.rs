//! Friend VOS.

use std::time::Duration;

use axum::{Json, extract::State};
use futures::{StreamExt, stream};

use super::super::{
    App,
    error::ApiError,
    extract::{Body, Params, Segment, target},
    schema::{
        AcceptFriend, DeclineFriend, ErrorBody, Evidence, EvidenceOptions, Friend, Friends, ListedFriend,
        ListedFriends, ListedOptions, OfferFriend, RevokeFriend,
    },
};
use crate::{
    map,
    message::friend::{FriendError, Grant, GrantError, Side, Target, Terms},
    primitives::{Clock, GrantId, Hash, PeerId, SystemClock},
};

/// Longest time to wait for an answer in one request.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Grants of one record fetched at once: all of them.
const FETCHES: usize = 8;

/// The friendship that a text means: its id, the other node's address, or its name.
async fn friendship(app: &App, text: &str) -> Result<Target, ApiError> {
    match text.parse::<GrantId>() {
        Ok(id) => Ok(Target::Grant(id)),
        Err(_) => Ok(Target::Address(target(app, text).await?)),
    }
}

/// Friendships in both directions.
#[utoipa::path(get, path = "/v1/friends", tag = "friends", responses((status = 200, body = Friends)))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Friends>, ApiError> {
    Ok(Json(app.deps.friend.list().await?.into()))
}

/// Friendships with one node, at most one in each direction.
#[utoipa::path(
    get, path = "/v1/friends/with/{target}", tag = "friends",
    params(("target" = String, Path, description = "Address, name or grant id")),
    responses((status = 200, body = Friends), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn show(State(app): State<App>, Segment(text): Segment) -> Result<Json<Friends>, ApiError> {
    let target = friendship(&app, &text).await?;
    let mut all = app.deps.friend.list().await?;
    all.retain(|f| target == Target::Address(f.address) || target == Target::Grant(f.grant_id));
    if all.is_empty() { Err(FriendError::NotFound.into()) } else { Ok(Json(all.into())) }
}

/// Asks a node to hold messages for this one, or offers other limits to one that does. It is told as soon as it can be
/// reached; the answer's state may be `offered` when the time is over.
#[utoipa::path(
    post, path = "/v1/friends/offer", tag = "friends", request_body = OfferFriend,
    responses((status = 200, body = Friend), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn offer(State(app): State<App>, Body(asked): Body<OfferFriend>) -> Result<Json<Friend>, ApiError> {
    let to = target(&app, &asked.to).await?;
    let terms = Terms::default().with(&asked.terms.into());
    let valid = asked.valid_s.map(Duration::from_secs);
    let offered = app.deps.friend.offer(to, terms, valid, asked.priority).await?;
    if asked.wait_ms == 0 {
        return Ok(Json(offered.into()));
    }
    let answered = tokio::select! {
        answered = app.deps.friend.answered(to, Duration::from_millis(asked.wait_ms).min(MAX_WAIT)) => answered?,
        () = app.deps.stop.wait() => None,
    };
    Ok(Json(answered.unwrap_or(offered).into()))
}

/// Accepts an offer, maybe with lower limits.
#[utoipa::path(
    post, path = "/v1/friends/accept", tag = "friends", request_body = AcceptFriend,
    responses((status = 200, body = Friend), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn accept(State(app): State<App>, Body(asked): Body<AcceptFriend>) -> Result<Json<Friend>, ApiError> {
    let target = friendship(&app, &asked.target).await?;
    Ok(Json(app.deps.friend.accept(target, asked.terms.into()).await?.into()))
}

/// Declines an offer.
#[utoipa::path(
    post, path = "/v1/friends/decline", tag = "friends", request_body = DeclineFriend,
    responses((status = 200, body = Friend), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn decline(
    State(app): State<App>,
    Body(asked): Body<DeclineFriend>,
) -> Result<Json<Friend>, ApiError> {
    let target = friendship(&app, &asked.target).await?;
    Ok(Json(app.deps.friend.decline(target).await?.into()))
}

/// Ends a friendship from either side, takes an offer back, or declines one. No deposits from now on; what is stored
/// can be collected for a while.
#[utoipa::path(
    post, path = "/v1/friends/revoke", tag = "friends", request_body = RevokeFriend,
    responses((status = 200, body = Friend), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn revoke(State(app): State<App>, Body(asked): Body<RevokeFriend>) -> Result<Json<Friend>, ApiError> {
    let side = match asked.side.as_deref() {
        None => None,
        Some("held_by") => Some(Side::HeldBy),
        Some("holding_for") => Some(Side::HoldingFor),
        Some(_) => return Err(ApiError::invalid("side must be held_by or holding_for")),
    };
    let target = friendship(&app, &asked.target).await?;
    let drain = asked.drain_s.map(Duration::from_secs);
    Ok(Json(app.deps.friend.revoke(target, side, drain).await?.into()))
}

/// The friends that a node's record lists; asks Kademlia for the record when the map does not have it.
#[utoipa::path(
    get, path = "/v1/friends/of/{target}", tag = "friends",
    params(("target" = String, Path, description = "Address or name"), ListedOptions),
    responses((status = 200, body = ListedFriends), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn listed(
    State(app): State<App>,
    Segment(text): Segment,
    Params(options): Params<ListedOptions>,
) -> Result<Json<ListedFriends>, ApiError> {
    let owner = target(&app, &text).await?;
    let listed = app.deps.friend.friends_of(owner).await?;
    let look = |friend: map::Friend| check(&app, owner, friend, options.verify);
    let friends = stream::iter(listed).map(look).buffered(FETCHES).collect().await;
    Ok(Json(ListedFriends { address: owner.to_string(), friends }))
}

/// How friends keep their promises, and what shows that some were broken: of one friend, or of all that were ever checked. All
/// signatures are verified again.
#[utoipa::path(
    get, path = "/v1/friends/evidence", tag = "friends", params(EvidenceOptions),
    responses((status = 200, body = Evidence), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn evidence(
    State(app): State<App>,
    Params(options): Params<EvidenceOptions>,
) -> Result<Json<Evidence>, ApiError> {
    let mut asked = None;
    if let Some(text) = options.friend {
        asked = Some(match friendship(&app, &text).await? {
            Target::Address(address) => address,
            Target::Grant(id) => {
                let all = app.deps.friend.list().await?;
                let found = all.iter().find(|f| f.side == Side::HeldBy && f.grant_id == id);
                found.map(|f| f.address).ok_or(FriendError::NotFound)?
            }
        });
    }
    let stopped = |_| ApiError::from(FriendError::Stopped);
    let standings = app.deps.message.mailbox().evidence().standings(asked).await.map_err(stopped)?;
    Ok(Json(standings.into()))
}

async fn check(app: &App, owner: PeerId, friend: map::Friend, verify: bool) -> ListedFriend {
    let mut shown = ListedFriend {
        address: friend.address.to_string(),
        priority: friend.priority,
        grant_hash: friend.grant_hash.map(hex::encode).unwrap_or_default(),
        verified: None,
        problem: String::new(),
        expires_at: None,
        terms: None,
    };
    if !verify {
        return shown;
    }
    let fetched = match friend.grant_hash {
        Some(hash) => app.deps.friend.fetch(owner, friend.address, Hash(hash)).await,
        None => Err(FriendError::Invalid("the record names no grant".into())),
    };
    let good = |grant: &Grant| grant.offer.check_times(SystemClock.now());
    match fetched.map(|grant| (good(&grant), grant)) {
        Ok((times, grant)) => {
            shown.verified = Some(times.is_ok());
            shown.problem = times.err().map(|e: GrantError| e.to_string()).unwrap_or_default();
            shown.expires_at = Some(grant.offer.not_after.0);
            shown.terms = Some(grant.terms.into());
        }
        Err(error) => (shown.verified, shown.problem) = (Some(false), error.to_string()),
    }
    shown
}
