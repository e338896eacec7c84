//! All routes, each documented where it is registered.

mod blocks;
mod contacts;
mod friends;
mod mailbox;
mod map;
mod messages;
mod node;
mod peers;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, Deps, error::ApiError, events};

/// Largest JSON request body.
pub(super) const MAX_JSON_BYTES: usize = 64 * 1024;

/// For a place among what is moved at once.
const TURN: Duration = Duration::from_secs(10);

/// A place among what is moved at once; after a while the answer is that others move too many `what`.
async fn turn(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, ApiError> {
    match tokio::time::timeout(TURN, places.clone().acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(ApiError::busy(format!("too many {what} are being moved; try again"))),
    }
}

/// The documented routes, without state.
fn documented() -> OpenApiRouter<App> {
    let info = utoipa::openapi::InfoBuilder::new()
        .title("vos control API")
        .version(crate::telemetry::VERSION)
        .description(Some(
            "Served on the Unix socket `<data-dir>/api.sock`, and on loopback TCP with a bearer token when asked. \
             Keys may be added to answers, never renamed.",
        ))
        .build();
    OpenApiRouter::with_openapi(utoipa::openapi::OpenApiBuilder::new().info(info).build())
        .routes(routes!(node::id))
        .routes(routes!(node::status))
        .routes(routes!(node::config))
        .routes(routes!(node::document))
        .routes(routes!(node::set_name))
        .routes(routes!(events::events))
        .routes(routes!(peers::peers))
        .routes(routes!(peers::ping))
        .routes(routes!(peers::connect))
        .routes(routes!(peers::disconnect))
        .routes(routes!(peers::listen_list, peers::listen_add, peers::listen_remove))
        .routes(routes!(peers::ban_list, peers::ban_add))
        .routes(routes!(peers::ban_remove))
        .routes(routes!(map::list))
        .routes(routes!(map::get))
        .routes(routes!(map::online))
        .routes(routes!(messages::send))
        .routes(routes!(messages::outbox))
        .routes(routes!(messages::outgoing, messages::cancel))
        .routes(routes!(messages::inbox))
        .routes(routes!(messages::read, messages::remove))
        .routes(routes!(messages::body))
        .routes(routes!(friends::list))
        .routes(routes!(friends::offer))
        .routes(routes!(friends::accept))
        .routes(routes!(friends::decline))
        .routes(routes!(friends::revoke))
        .routes(routes!(friends::show))
        .routes(routes!(friends::listed))
        .routes(routes!(friends::evidence))
        .routes(routes!(mailbox::stats))
        .routes(routes!(contacts::list, contacts::add))
        .routes(routes!(contacts::remove))
        .routes(routes!(blocks::head))
        .routes(routes!(blocks::get))
        .routes(routes!(blocks::submit))
        .routes(routes!(blocks::sync))
        .routes(routes!(blocks::trace))
        .routes(routes!(blocks::export, blocks::import))
}

/// The OpenAPI document of all routes.
#[must_use]
pub fn openapi() -> OpenApi {
    documented().into_openapi()
}

/// The service of all routes.
pub(super) fn router(deps: Deps) -> Router {
    with_rules(documented().split_for_parts().0.with_state(App::new(deps)))
}

/// What holds for every router of ours: bounded bodies, errors of one shape.
pub(super) fn with_rules(router: Router) -> Router {
    router.fallback(no_route).method_not_allowed_fallback(no_method).layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
}

async fn no_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_route", "no such route; see /v1/openapi.json")
}

async fn no_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "no_method", "this route has other methods; see /v1/openapi.json")
}
