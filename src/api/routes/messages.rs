//! Outbox and inbox.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{
    super::{
        App,
        error::ApiError,
        extract::{Params, Segment, message_id, target},
        schema::{
            Done, ErrorBody, Inbox, Limit, Message, Octets, Outbox, Outgoing, ReadOptions, Received, SendOptions, Sent,
            WaitOptions, WaitState,
        },
        spool,
    },
    turn,
};
use crate::{message::Draft, primitives::MessageId};

/// Messages listed at most.
const MAX_LIST: usize = 1000;
/// Messages listed by default.
const LIST: usize = 100;
/// Bytes of a file name, as file systems have it.
const MAX_FILE_NAME: usize = 255;
/// Default time to wait for a state.
const WAIT_MS: u64 = 60_000;
/// Longest time to wait in one request.
const MAX_WAIT_MS: u64 = 3_600_000;

/// Queues a message; the request's body is the message. The answer's state may be short of `wait` when the time is over:
/// the message stays queued then.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages", params(SendOptions),
    request_body(content = inline(Octets), content_type = "application/octet-stream"),
    responses((status = 200, body = Sent), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn send(
    State(app): State<App>,
    Params(options): Params<SendOptions>,
    request: Request,
) -> Result<Json<Sent>, ApiError> {
    let file_name = options.file_name.unwrap_or_default();
    if file_name.len() > MAX_FILE_NAME {
        return Err(ApiError::invalid(format!("the file name has {} bytes, at most {MAX_FILE_NAME}", file_name.len())));
    }
    if options.ttl_s == Some(0) {
        return Err(ApiError::invalid("ttl_s must be at least 1"));
    }
    let to = target(&app, &options.to).await?;
    let queued = {
        let _turn = turn(&app.uploads, "message bodies").await?;
        let (body, _file) = spool::take(request, &app.deps.spool_dir, app.deps.info.max_message_bytes).await?;
        let ttl = options.ttl_s.map(Duration::from_secs);
        app.deps.message.send(Draft { to, body, file_name, ttl }).await?
    };
    let wait = options.wait.unwrap_or_default();
    let outgoing = wait_for(&app, queued.id, wait, options.timeout_ms).await?.unwrap_or(queued.into());
    Ok(Json(Sent::from(&outgoing)))
}

/// Waits for a state; `None` when there was nothing to wait for.
async fn wait_for(
    app: &App,
    id: MessageId,
    wait: WaitState,
    timeout_ms: Option<u64>,
) -> Result<Option<Outgoing>, ApiError> {
    if wait == WaitState::Queued {
        return Ok(None);
    }
    let timeout = Duration::from_millis(timeout_ms.unwrap_or(WAIT_MS).min(MAX_WAIT_MS));
    let reached = tokio::select! {
        reached = app.deps.message.wait(id, wait.state(), timeout) => reached?,
        () = app.deps.stop.wait() => None,
    };
    match reached {
        Some(outgoing) => Ok(Some(outgoing.into())),
        None => Ok(Some(app.deps.message.outgoing(id).await?.into())),
    }
}

/// Outgoing messages.
#[utoipa::path(
    get, path = "/v1/outbox", tag = "messages", params(Limit),
    responses((status = 200, body = Outbox), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn outbox(State(app): State<App>, Params(limit): Params<Limit>) -> Result<Json<Outbox>, ApiError> {
    let limit = limit.limit.unwrap_or(LIST).clamp(1, MAX_LIST);
    let messages = app.deps.message.outbox(limit).await?;
    Ok(Json(Outbox { messages: messages.into_iter().map(Into::into).collect() }))
}

/// One outgoing message, at once or when it reached a state.
#[utoipa::path(
    get, path = "/v1/outbox/{id}", tag = "messages",
    params(("id" = String, Path, description = "The message's id"), WaitOptions),
    responses((status = 200, body = Outgoing), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn outgoing(
    State(app): State<App>,
    Segment(id): Segment,
    Params(options): Params<WaitOptions>,
) -> Result<Json<Outgoing>, ApiError> {
    let id = message_id(&id)?;
    match wait_for(&app, id, options.wait.unwrap_or_default(), options.timeout_ms).await? {
        Some(outgoing) => Ok(Json(outgoing)),
        None => Ok(Json(app.deps.message.outgoing(id).await?.into())),
    }
}

/// Takes back a message that is not delivered yet.
#[utoipa::path(
    delete, path = "/v1/outbox/{id}", tag = "messages", params(("id" = String, Path, description = "The message's id")),
    responses((status = 200, body = Outgoing), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn cancel(State(app): State<App>, Segment(id): Segment) -> Result<Json<Outgoing>, ApiError> {
    Ok(Json(app.deps.message.cancel(message_id(&id)?).await?.into()))
}

/// Received messages.
#[utoipa::path(
    get, path = "/v1/inbox", tag = "messages", params(Limit),
    responses((status = 200, body = Inbox), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn inbox(State(app): State<App>, Params(limit): Params<Limit>) -> Result<Json<Inbox>, ApiError> {
    let limit = limit.limit.unwrap_or(LIST).clamp(1, MAX_LIST);
    let messages = app.deps.message.inbox(limit).await?;
    Ok(Json(Inbox { messages: messages.into_iter().map(Into::into).collect() }))
}

/// A received message as JSON, with its body as text or base64.
#[utoipa::path(
    get, path = "/v1/inbox/{id}", tag = "messages",
    params(("id" = String, Path, description = "The message's id"), ReadOptions),
    responses((status = 200, body = Message), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn read(
    State(app): State<App>,
    Segment(id): Segment,
    Params(options): Params<ReadOptions>,
) -> Result<Response, ApiError> {
    let place = turn(&app.bodies, "message bodies").await?;
    let (received, body) = app.deps.message.read(message_id(&id)?, options.mark).await?;
    let (text, base64) = match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(e) => (None, Some(STANDARD.encode(e.as_bytes()))),
    };
    let message = Message { received: Received::from(received), text, base64 };
    let json = serde_json::to_vec(&message).map_err(|e| ApiError::io("encoding", &e.into()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], spool::give(json.into(), place)).into_response())
}

/// A received message's body, byte for byte.
#[utoipa::path(
    get, path = "/v1/inbox/{id}/body", tag = "messages",
    params(("id" = String, Path, description = "The message's id"), ReadOptions),
    responses(
        (status = 200, body = inline(Octets), content_type = "application/octet-stream"),
        (status = "4XX", body = ErrorBody)
    )
)]
pub(super) async fn body(
    State(app): State<App>,
    Segment(id): Segment,
    Params(options): Params<ReadOptions>,
) -> Result<Response, ApiError> {
    let place = turn(&app.bodies, "message bodies").await?;
    let (_, body) = app.deps.message.read(message_id(&id)?, options.mark).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, body.len().to_string()),
        // A browser must not guess that a stranger's bytes are a page.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, spool::give(Bytes::from(body), place)).into_response())
}

/// Removes a received message.
#[utoipa::path(
    delete, path = "/v1/inbox/{id}", tag = "messages", params(("id" = String, Path, description = "The message's id")),
    responses((status = 200, body = Done), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn remove(State(app): State<App>, Segment(id): Segment) -> Result<Json<Done>, ApiError> {
    app.deps.message.remove(message_id(&id)?).await?;
    Ok(Json(Done { done: true }))
}
