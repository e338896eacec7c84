//! Errors of the network's door.

use crate::primitives::Multiaddr;

/// Why the network could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An addr cannot be listened on.
    #[error("cannot listen on {addr}: {why}")]
    Listen {
        /// The addr.
        addr: Multiaddr,
        /// What the system said.
        why: String,
    },
    /// The transport or a behaviour cannot be made with this configuration.
    #[error("cannot start the network: {0}")]
    Setup(String),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nobody answers there, or somebody else does.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The addr cannot be used, e.g. listened on.
    #[error("{0}")]
    Invalid(String),
    /// There is no such connection, listener or ban.
    #[error("{0}")]
    NotFound(String),
    /// Refused by our own ban list.
    #[error("{0} is banned here")]
    Banned(crate::primitives::PeerId),
    /// No more of these can be kept.
    #[error("{0}")]
    Full(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Too many commands are waiting.
    #[error("the network is busy")]
    Busy,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}
