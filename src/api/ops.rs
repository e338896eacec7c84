//! What operators and their monitoring ask: `/healthz`, `/readyz`, `/metrics`.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use super::{Deps, routes, serve::serve};
use crate::{
    runtime::Stop,
    telemetry::{Registry, encode},
};

#[derive(Clone, Debug)]
pub(super) struct Ops {
    pub(super) metrics: Arc<Registry>,
    pub(super) ready: watch::Receiver<bool>,
}

/// Serves the operations endpoints until stopped.
///
/// # Errors
/// None; the type fits [`crate::runtime::Supervisor::spawn`].
pub async fn serve_ops(listener: TcpListener, deps: Deps, stop: Stop) -> Result<(), Infallible> {
    serve(listener, router(Ops { metrics: deps.metrics, ready: deps.ready }), &stop).await;
    Ok(())
}

pub(super) fn router(ops: Ops) -> Router {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ops);
    routes::with_rules(router)
}

async fn readyz(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    if *ops.ready.borrow() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &ops.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the metrics: {e}\n")).into_response(),
    }
}
