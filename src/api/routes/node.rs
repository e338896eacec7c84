//! The node itself.

use std::{path::Path, sync::OnceLock};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::super::{
    App,
    error::ApiError,
    extract::Body,
    schema::{DiskStatus, ErrorBody, Id, MapStatus, MessageStatus, Name, NatStatus, Status},
};
use crate::{
    primitives::{Clock, SystemClock},
    telemetry::VERSION,
};

/// Our address and keys.
#[utoipa::path(get, path = "/v1/id", tag = "node", responses((status = 200, body = Id)))]
pub(super) async fn id(State(app): State<App>) -> Json<Id> {
    let info = &app.deps.info;
    let now = SystemClock.now();
    let keys = app.deps.map.get(&info.address).map(|entry| entry.keys).unwrap_or_default();
    // Of the keys that senders may use now, they take the newest.
    let key = keys.iter().filter(|k| k.not_before <= now).max_by_key(|k| k.not_before);
    Json(Id {
        address: info.address.to_string(),
        public_key: hex::encode(info.public_key),
        encryption_key_id: key.map(|k| hex::encode(k.id)).unwrap_or_default(),
    })
}

/// State of the node.
#[utoipa::path(get, path = "/v1/status", tag = "node", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<App>) -> Json<Status> {
    let deps = &app.deps;
    let info = &deps.info;
    let nat = deps.net.nat().borrow().clone();
    let (map, messages) = (deps.map.stats(), deps.message.stats());
    let store = deps.store.clone();
    let store_bytes = tokio::task::spawn_blocking(move || store.disk_bytes()).await.unwrap_or(0);
    let full =
        |addr: &crate::primitives::Multiaddr| addr.clone().with_p2p(info.address).unwrap_or_else(|a| a).to_string();
    Json(Status {
        address: info.address.to_string(),
        name: deps.map.get(&info.address).map(|entry| entry.name).unwrap_or_default(),
        network: info.network.to_string(),
        version: VERSION.to_owned(),
        ready: *deps.ready.borrow(),
        uptime_s: info.started.elapsed().as_secs(),
        pid: std::process::id(),
        listen: nat.listen.iter().map(full).collect(),
        external: nat.external.iter().map(full).collect(),
        http: info.http.map(|a| a.to_string()),
        api_tcp: info.api_tcp.map(|a| a.to_string()),
        peers: deps.net.peer_count(),
        map: MapStatus { records: map.records, complete: map.complete, digest: hex::encode(map.digest) },
        nat: NatStatus { reachability: nat.reachability },
        messages: MessageStatus {
            outbox_pending: messages.outbox_pending,
            inbox: messages.inbox,
            unread: messages.unread,
        },
        block: deps.block.as_ref().map(Into::into),
        disk: DiskStatus { store_bytes, free_bytes: free_bytes(&deps.spool_dir) },
    })
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}

/// The running configuration; secrets are in files, so none is here.
#[utoipa::path(get, path = "/v1/config", tag = "node", responses((status = 200, body = serde_json::Value)))]
pub(super) async fn config(State(app): State<App>) -> Json<serde_json::Value> {
    Json(app.deps.info.config.clone())
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "node", responses((status = 200, body = serde_json::Value)))]
pub(super) async fn document() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| super::openapi().to_json().expect("the document is plain data"));
    ([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// Changes our name; others learn it at once.
#[utoipa::path(
    put, path = "/v1/name", tag = "node", request_body = Name,
    responses((status = 200, body = Name), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn set_name(State(app): State<App>, Body(new): Body<Name>) -> Result<Json<Name>, ApiError> {
    app.deps.map.set_name(new.name.clone()).await?;
    Ok(Json(new))
}
