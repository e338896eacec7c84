//! The one mapping of feature errors to HTTP status and stable code.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::schema::{ErrorBody, ErrorDetail, Record};
use crate::{
    block::{chain::ChainError, pool::PoolError, producer::SubmitError, segment::SegmentError},
    map::MapError,
    message::{MessageError, contacts::ContactError, friend::FriendError, mailbox},
    net::CommandError,
    store::StoreError,
};

/// A failed request: status, stable code, and a text for people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// With `ambiguous` only.
    pub(crate) owners: Vec<Record>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), owners: Vec::new() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "unreachable", message)
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message)
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the node is stopping")
    }

    pub(crate) fn disk_full(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "refused", message)
    }

    fn store(message: String) -> Self {
        tracing::warn!(error = %message, "the store failed a request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", message)
    }

    /// For errors of the file system while spooling.
    pub(crate) fn io(doing: &str, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", format!("{doing}: the disk is full"))
            }
            _ => Self::store(format!("{doing}: {error}")),
        }
    }

    /// A name that several nodes have.
    pub(crate) fn ambiguous(name: &str, owners: Vec<Record>) -> Self {
        let message = format!("{} nodes have the name {name:?}: use an address", owners.len());
        Self { owners, ..Self::new(StatusCode::CONFLICT, "ambiguous", message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorDetail { code: self.code.to_owned(), message: self.message, owners: self.owners };
        (self.status, Json(ErrorBody { error })).into_response()
    }
}

impl From<ChainError> for ApiError {
    fn from(error: ChainError) -> Self {
        let text = error.to_string();
        match error {
            ChainError::Store(StoreError::DiskFull(_)) => Self::disk_full(text),
            ChainError::Store(StoreError::Failed(_) | StoreError::Damaged(_)) => Self::store(text),
            ChainError::Store(StoreError::Stopped) | ChainError::Stopped => Self::stopping(),
            ChainError::Halted(_) => Self::new(StatusCode::CONFLICT, "halted", text),
            ChainError::NoConflict(_) | ChainError::NoBranch(_) => Self::invalid(text),
            ChainError::Busy => Self::busy(text),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let text = error.to_string();
        match error {
            SubmitError::Pool(PoolError::Empty) => Self::invalid(text),
            SubmitError::Pool(PoolError::TooLarge) => Self::too_large(text),
            SubmitError::Pool(PoolError::Full) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", text),
            SubmitError::Pool(PoolError::Known | PoolError::Included) => {
                Self::new(StatusCode::CONFLICT, "duplicate", text)
            }
            SubmitError::Refused(_) => Self::refused(text),
            SubmitError::Halted(_) => Self::new(StatusCode::CONFLICT, "halted", text),
            SubmitError::Stopped => Self::stopping(),
        }
    }
}

impl From<SegmentError> for ApiError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Io(error) => Self::io("the segment", &error),
            SegmentError::Chain(error) => error.into(),
            SegmentError::NoSuchRange { .. } | SegmentError::Above { .. } | SegmentError::Empty => {
                Self::not_found(error.to_string())
            }
            SegmentError::Changed { .. } => Self::new(StatusCode::CONFLICT, "changed", error.to_string()),
            other => Self::invalid(other.to_string()),
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let text = error.to_string();
        match error {
            CommandError::Unreachable(_) => Self::unreachable(text),
            CommandError::Timeout => Self::timed_out(text),
            CommandError::Invalid(_) => Self::invalid(text),
            CommandError::NotFound(_) => Self::not_found(text),
            CommandError::Banned(_) => Self::new(StatusCode::FORBIDDEN, "banned", text),
            CommandError::Full(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", text),
            CommandError::Store(StoreError::DiskFull(_)) => Self::disk_full(text),
            CommandError::Store(StoreError::Failed(_) | StoreError::Damaged(_)) => Self::store(text),
            CommandError::Busy => Self::busy(text),
            CommandError::Store(StoreError::Stopped) | CommandError::Stopped => Self::stopping(),
        }
    }
}

impl From<MapError> for ApiError {
    fn from(error: MapError) -> Self {
        let text = error.to_string();
        match error {
            MapError::NotFound => Self::not_found("not found: neither the map nor Kademlia knows it"),
            MapError::InvalidName(_) => Self::invalid(text),
            MapError::Store(StoreError::DiskFull(_)) => Self::disk_full(text),
            MapError::Store(StoreError::Failed(_) | StoreError::Damaged(_)) => Self::store(text),
            MapError::Store(StoreError::Stopped) | MapError::Stopped => Self::stopping(),
        }
    }
}

impl From<MessageError> for ApiError {
    fn from(error: MessageError) -> Self {
        let text = error.to_string();
        match error {
            MessageError::TooLarge { .. } => Self::too_large(text),
            MessageError::UnknownRecipient(_) => Self::new(StatusCode::NOT_FOUND, "unknown_recipient", text),
            MessageError::NotFound => Self::not_found(text),
            MessageError::Full(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", text),
            MessageError::TooLate(_) => Self::new(StatusCode::CONFLICT, "too_late", text),
            MessageError::Invalid(_) => Self::invalid(text),
            MessageError::DiskFull(_) => Self::disk_full(text),
            MessageError::Store(_) => Self::store(text),
            MessageError::Stopped => Self::stopping(),
        }
    }
}

impl From<ContactError> for ApiError {
    fn from(error: ContactError) -> Self {
        let text = error.to_string();
        match error {
            ContactError::Invalid => Self::invalid(text),
            ContactError::NotFound => Self::not_found(text),
            ContactError::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", text),
            ContactError::Store(StoreError::DiskFull(_)) => Self::disk_full(text),
            ContactError::Store(StoreError::Failed(_) | StoreError::Damaged(_)) => Self::store(text),
            ContactError::Store(StoreError::Stopped) => Self::stopping(),
        }
    }
}

impl From<mailbox::Stopped> for ApiError {
    fn from(_: mailbox::Stopped) -> Self {
        Self::stopping()
    }
}

impl From<FriendError> for ApiError {
    fn from(error: FriendError) -> Self {
        let text = error.to_string();
        match error {
            FriendError::Invalid(_) => Self::invalid(text),
            FriendError::NotFound => Self::not_found(text),
            FriendError::TooLate(_) => Self::new(StatusCode::CONFLICT, "too_late", text),
            FriendError::Ambiguous => Self::new(StatusCode::CONFLICT, "ambiguous", text),
            FriendError::Full(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", text),
            FriendError::Unreachable(_) => Self::unreachable(text),
            FriendError::Store(StoreError::DiskFull(_)) => Self::disk_full(text),
            FriendError::Store(StoreError::Failed(_) | StoreError::Damaged(_)) => Self::store(text),
            FriendError::Store(StoreError::Stopped) | FriendError::Stopped => Self::stopping(),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large("the request body is larger than 64 KiB"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send JSON with `content-type: application/json`",
            ),
            _ => Self::invalid(rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::SendState, primitives::PeerId};

    #[test]
    fn every_feature_error_has_its_status_and_code() {
        let peer = PeerId::random();
        let cases: Vec<(ApiError, u16, &str)> = vec![
            (CommandError::Unreachable("x".into()).into(), 502, "unreachable"),
            (CommandError::Timeout.into(), 504, "timed_out"),
            (CommandError::Invalid("x".into()).into(), 400, "invalid"),
            (CommandError::NotFound("x".into()).into(), 404, "not_found"),
            (CommandError::Banned(peer).into(), 403, "banned"),
            (CommandError::Full("x".into()).into(), 507, "full"),
            (CommandError::Busy.into(), 503, "busy"),
            (CommandError::Stopped.into(), 503, "stopping"),
            (MapError::NotFound.into(), 404, "not_found"),
            (MapError::InvalidName("x".into()).into(), 400, "invalid"),
            (MapError::Store(StoreError::DiskFull("x".into())).into(), 507, "disk_full"),
            (MapError::Store(StoreError::Failed("x".into())).into(), 500, "store_failed"),
            (MapError::Stopped.into(), 503, "stopping"),
            (MessageError::TooLarge { got: 2, limit: 1 }.into(), 413, "too_large"),
            (MessageError::UnknownRecipient(peer).into(), 404, "unknown_recipient"),
            (MessageError::NotFound.into(), 404, "not_found"),
            (MessageError::Full("x".into()).into(), 507, "full"),
            (MessageError::TooLate(SendState::Delivered).into(), 409, "too_late"),
            (MessageError::Invalid("x".into()).into(), 400, "invalid"),
            (MessageError::DiskFull("x".into()).into(), 507, "disk_full"),
            (MessageError::Store("x".into()).into(), 500, "store_failed"),
            (MessageError::Stopped.into(), 503, "stopping"),
            (FriendError::Invalid("x".into()).into(), 400, "invalid"),
            (FriendError::NotFound.into(), 404, "not_found"),
            (FriendError::TooLate(crate::message::friend::State::Active).into(), 409, "too_late"),
            (FriendError::Ambiguous.into(), 409, "ambiguous"),
            (FriendError::Full("x".into()).into(), 507, "full"),
            (FriendError::Unreachable("x".into()).into(), 502, "unreachable"),
            (FriendError::Store(StoreError::DiskFull("x".into())).into(), 507, "disk_full"),
            (FriendError::Stopped.into(), 503, "stopping"),
            (ApiError::io("x", &std::io::ErrorKind::StorageFull.into()), 507, "disk_full"),
        ];
        for (error, status, code) in cases {
            assert_eq!((error.status.as_u16(), error.code), (status, code), "{}", error.message);
            assert!(!error.message.is_empty());
        }
    }
}
