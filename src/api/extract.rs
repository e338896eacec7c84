//! Extractors whose rejections have the API's own error shape, and the texts that name a node.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::{App, error::ApiError};
use crate::{
    identity::public_key_of,
    map::{Entry, MapError},
    primitives::{MessageId, Multiaddr, PeerId, limits::MAX_NAME_BYTES},
};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(value) = Json::from_request(request, state).await?;
        Ok(Self(value))
    }
}

/// The query of the URL.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

/// The one variable part of the path.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(value) = Path::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
}

/// An address, or `None` when the text is not one and so may be a name.
pub(super) fn address(text: &str) -> Result<Option<PeerId>, ApiError> {
    match text.parse::<PeerId>() {
        Ok(peer) if public_key_of(&peer).is_none() => {
            Err(ApiError::invalid(format!("{peer} is not the address of an Ed25519 key")))
        }
        Ok(peer) => Ok(Some(peer)),
        Err(_) if text.is_empty() => Err(ApiError::invalid("an address or a name is needed, got an empty text")),
        Err(_) if text.len() > MAX_NAME_BYTES => {
            Err(ApiError::invalid("neither an address nor a name (names have at most 64 bytes)"))
        }
        Err(_) if text.chars().any(char::is_control) => {
            Err(ApiError::invalid("neither an address nor a name (names have no control characters)"))
        }
        Err(_) => Ok(None),
    }
}

/// An address where a name is not enough.
pub(super) fn strict_address(text: &str) -> Result<PeerId, ApiError> {
    address(text)?.ok_or_else(|| ApiError::invalid(format!("{text:?} is not an address")))
}

pub(super) fn multiaddr(text: &str) -> Result<Multiaddr, ApiError> {
    let short: String = text.chars().take(64).collect();
    text.parse().map_err(|e| ApiError::invalid(format!("{short:?} is not a multiaddr: {e}")))
}

pub(super) fn message_id(text: &str) -> Result<MessageId, ApiError> {
    text.parse().map_err(|e: crate::primitives::IdError| ApiError::invalid(e.to_string()))
}

/// The address that a text means: itself, or the only node of that name.
pub(super) async fn target(app: &App, text: &str) -> Result<PeerId, ApiError> {
    match address(text)? {
        Some(peer) => Ok(peer),
        None => Ok(only_owner(app, text).await?.address),
    }
}

/// All nodes of a name, at least one.
pub(super) async fn owners(app: &App, name: &str) -> Result<Vec<Entry>, ApiError> {
    let unknown = || ApiError::not_found(format!("no node is known by the name {name:?}"));
    match app.deps.map.resolve_name(name).await {
        Ok(owners) if owners.is_empty() => Err(unknown()),
        Ok(owners) => Ok(owners),
        Err(MapError::NotFound) => Err(unknown()),
        Err(other) => Err(other.into()),
    }
}

/// The only node of a name.
async fn only_owner(app: &App, name: &str) -> Result<Entry, ApiError> {
    let mut owners = owners(app, name).await?;
    match owners.len() {
        1 => Ok(owners.swap_remove(0)),
        _ => Err(ApiError::ambiguous(name, owners.into_iter().map(Into::into).collect())),
    }
}
