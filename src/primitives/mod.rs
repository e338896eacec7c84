//! L0: the words everybody uses. Sync only: no tokio, no I/O; of libp2p only re-exports.
//!
//! An *address* is a [`PeerId`] in base58 (what users type); an *addr* is a [`Multiaddr`] (where a node can
//! be dialled). See the glossary in the crate root.

mod config_section;
mod hash;
mod ids;
pub mod limits;
mod network;
mod secret;
mod time;

pub use config_section::Key;
pub use hash::Hash;
pub use ids::{GrantId, IdError, MessageId, StreamId};
pub use libp2p::{Multiaddr, PeerId, StreamProtocol, multiaddr};
pub use network::{NetworkId, NetworkIdError};
pub use secret::Redacted;
#[cfg(any(test, feature = "test-util"))]
pub use time::ManualClock;
pub use time::{Clock, SystemClock, UnixMillis};
