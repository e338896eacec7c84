//! Connections: peers, listening, bans.

use std::time::Duration;

use axum::{Json, extract::State};

use super::super::{
    App,
    error::ApiError,
    extract::{Body, Segment, multiaddr, strict_address, target},
    schema::{Addr, Address, Bans, Done, ErrorBody, Listen, Online, Peers, Pong, Probe},
};
use crate::{map, net::CommandError};

/// Default time for a probe.
const PROBE: u64 = 10_000;
/// Longest time for a probe.
const MAX_PROBE: u64 = 120_000;

/// Connected peers.
#[utoipa::path(get, path = "/v1/peers", tag = "peers", responses((status = 200, body = Peers)))]
pub(super) async fn peers(State(app): State<App>) -> Json<Peers> {
    Json(Peers { peers: app.deps.net.peers().into_iter().map(Into::into).collect() })
}

/// Measures a round trip; dials the node when needed.
#[utoipa::path(
    post, path = "/v1/ping", tag = "peers", request_body = Probe,
    responses((status = 200, body = Pong), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn ping(State(app): State<App>, Body(asked): Body<Probe>) -> Result<Json<Pong>, ApiError> {
    let peer = target(&app, &asked.target).await?;
    if app.deps.net.bans().contains(&peer) {
        return Err(CommandError::Banned(peer).into());
    }
    let found = probe(&app, &asked).await?;
    let answer = Online::from(found);
    match (answer.state, answer.rtt_ms) {
        (map::State::Online, Some(rtt_ms)) => Ok(Json(Pong { address: answer.address, rtt_ms, path: answer.path })),
        (map::State::Unknown, _) => Err(ApiError::unreachable(format!("no addr of {} is known", answer.address))),
        _ => Err(ApiError::unreachable(format!("{} did not answer", answer.address))),
    }
}

/// Probes a node that is known: connected, in the map, or in Kademlia.
pub(super) async fn probe(app: &App, asked: &Probe) -> Result<map::Presence, ApiError> {
    let timeout = Duration::from_millis(asked.timeout_ms.unwrap_or(PROBE).clamp(1, MAX_PROBE));
    let peer = target(app, &asked.target).await?;
    let (net, map) = (&app.deps.net, &app.deps.map);
    if !net.is_connected(&peer) && map.get(&peer).is_none() {
        let look_up = tokio::time::timeout(timeout, map.resolve(peer));
        look_up.await.map_err(|_| ApiError::timed_out(format!("{peer} was not found in time")))??;
    }
    Ok(map.online(peer, timeout).await)
}

/// Dials an addr and waits for the connection.
#[utoipa::path(
    post, path = "/v1/connect", tag = "peers", request_body = Addr,
    responses((status = 200, body = Address), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn connect(State(app): State<App>, Body(asked): Body<Addr>) -> Result<Json<Address>, ApiError> {
    let peer = app.deps.net.connect(multiaddr(&asked.addr)?).await?;
    Ok(Json(Address { address: peer.to_string() }))
}

/// Closes all connections to a node.
#[utoipa::path(
    post, path = "/v1/disconnect", tag = "peers", request_body = Address,
    responses((status = 200, body = Address), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn disconnect(State(app): State<App>, Body(asked): Body<Address>) -> Result<Json<Address>, ApiError> {
    let peer = target(&app, &asked.address).await?;
    app.deps.net.disconnect(peer).await?;
    Ok(Json(Address { address: peer.to_string() }))
}

/// Addrs we listen on.
#[utoipa::path(get, path = "/v1/listen", tag = "peers", responses((status = 200, body = Listen)))]
pub(super) async fn listen_list(State(app): State<App>) -> Json<Listen> {
    let listen = app.deps.net.nat().borrow().listen.iter().map(ToString::to_string).collect();
    Json(Listen { listen })
}

/// Listens on one more addr, until the node stops; the answer has the port that was chosen.
#[utoipa::path(
    post, path = "/v1/listen", tag = "peers", request_body = Addr,
    responses((status = 200, body = Addr), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn listen_add(State(app): State<App>, Body(asked): Body<Addr>) -> Result<Json<Addr>, ApiError> {
    let addr = app.deps.net.listen(multiaddr(&asked.addr)?).await?;
    Ok(Json(Addr { addr: addr.to_string() }))
}

/// Stops listening on an addr; connections stay.
#[utoipa::path(
    delete, path = "/v1/listen", tag = "peers", request_body = Addr,
    responses((status = 200, body = Done), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn listen_remove(State(app): State<App>, Body(asked): Body<Addr>) -> Result<Json<Done>, ApiError> {
    app.deps.net.unlisten(multiaddr(&asked.addr)?).await?;
    Ok(Json(Done { done: true }))
}

/// Banned nodes.
#[utoipa::path(get, path = "/v1/bans", tag = "peers", responses((status = 200, body = Bans)))]
pub(super) async fn ban_list(State(app): State<App>) -> Json<Bans> {
    Json(Bans { bans: app.deps.net.bans().iter().map(ToString::to_string).collect() })
}

/// Closes connections to a node and refuses new ones for 90 days, also after a restart.
#[utoipa::path(
    post, path = "/v1/bans", tag = "peers", request_body = Address,
    responses((status = 200, body = Address), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn ban_add(State(app): State<App>, Body(asked): Body<Address>) -> Result<Json<Address>, ApiError> {
    let peer = target(&app, &asked.address).await?;
    if peer == app.deps.info.address {
        return Err(ApiError::invalid("that is this node"));
    }
    app.deps.net.ban(peer).await?;
    Ok(Json(Address { address: peer.to_string() }))
}

/// Lifts a ban.
#[utoipa::path(
    delete, path = "/v1/bans/{address}", tag = "peers", params(("address" = String, Path, description = "The node")),
    responses((status = 200, body = Done), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn ban_remove(State(app): State<App>, Segment(text): Segment) -> Result<Json<Done>, ApiError> {
    // Only by address: a banned node's name may have left the map.
    app.deps.net.unban(strict_address(&text)?).await?;
    Ok(Json(Done { done: true }))
}
