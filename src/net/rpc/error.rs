//! Why a request got no answer, by what the caller can do about it.

use crate::wire::Status;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection and none could be made: the peer is offline, or its addrs are wrong.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Connected, but no answer in time. The request may have been carried out.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke during the exchange. The request may have been carried out.
    #[error("the connection was lost")]
    ConnectionLost,
    /// The peer does not speak this protocol, or is of another network.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// The peer answered with something else than `Ok`.
    #[error("the peer answered: {0}")]
    Status(Status),
    /// The request is over the protocol's limit; nothing was sent.
    #[error("request of {got} bytes, limit {limit}")]
    TooLarge {
        /// Encoded bytes.
        got: usize,
        /// The protocol's cap.
        limit: usize,
    },
    /// The peer's answer was too large or not protobuf.
    #[error("the peer's answer is malformed")]
    Malformed,
    /// Too many requests are waiting here.
    #[error("too many requests are waiting")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl RequestError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout | Self::ConnectionLost | Self::Busy => true,
            Self::Status(status) => matches!(status, Status::Busy | Status::Failed),
            Self::Unsupported | Self::TooLarge { .. } | Self::Malformed | Self::Stopped => false,
        }
    }

    /// Whether the peer broke the protocol and should be penalised.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Malformed)
    }
}
