//! The VOS Map.

use axum::{Json, extract::State};

use super::super::{
    App,
    error::ApiError,
    extract::{Body, Params, Segment, address, owners, strict_address},
    schema::{ErrorBody, MapPage, Online, Probe, Record, Records},
};

/// Records on one page: about 2.5 MB of JSON with records of usual size.
const MAX_PAGE: usize = 1000;

/// Records by address, one page at a time.
#[utoipa::path(
    get, path = "/v1/map", tag = "map", params(MapPage),
    responses((status = 200, body = Records), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn list(State(app): State<App>, Params(page): Params<MapPage>) -> Result<Json<Records>, ApiError> {
    let limit = page.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let after = page.after.as_deref().map(strict_address).transpose()?;
    let entries = app.deps.map.page(after, limit);
    let next = entries.last().filter(|_| entries.len() == limit).map(|entry| entry.address.to_string());
    Ok(Json(Records { records: entries.into_iter().map(Into::into).collect(), next }))
}

/// The record of an address, or those of all owners of a name; asks Kademlia when the map does not have it. Routes that
/// need one node answer a name with several owners with the error `ambiguous`, which lists them.
#[utoipa::path(
    get, path = "/v1/map/{target}", tag = "map", params(("target" = String, Path, description = "Address or name")),
    responses((status = 200, body = Records), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn get(State(app): State<App>, Segment(text): Segment) -> Result<Json<Records>, ApiError> {
    let entries = match address(&text)? {
        Some(peer) => vec![app.deps.map.resolve(peer).await?],
        None => owners(&app, &text).await?,
    };
    let records = entries.into_iter().map(|entry| {
        let proof = app.deps.map.equivocation(&entry.address);
        Record::from(entry).with_proof(proof)
    });
    Ok(Json(Records { records: records.collect(), next: None }))
}

/// Probes a node: a real round trip, dialling it when needed.
#[utoipa::path(
    post, path = "/v1/online", tag = "map", request_body = Probe,
    responses((status = 200, body = Online), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn online(State(app): State<App>, Body(asked): Body<Probe>) -> Result<Json<Online>, ApiError> {
    Ok(Json(super::peers::probe(&app, &asked).await?.into()))
}
