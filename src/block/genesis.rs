//! The first block of a chain: built in and derived from the network's name, or from a file. Its hash is known before anything else,
//! since two chains are the same exactly when it is.
//!
//! A genesis file is TOML:
//!
//! ```toml
//! # When the chain begins: milliseconds since 1970, UTC.
//! time = 1767225600000
//! # Whatever distinguishes this chain from others; up to 255 bytes.
//! extra = "our chain"
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Block, Body, Header, MAX_EXTRA_BYTES};
use crate::primitives::{Hash, NetworkId, UnixMillis};

/// Bytes of a genesis file; it has two short keys.
const MAX_FILE_BYTES: u64 = 16 * 1024;
/// Time of the built-in genesis block: the first of January 2026, UTC. Every block is later than its parent.
const TIME: UnixMillis = UnixMillis(1_767_225_600_000);

/// Why a genesis file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// It cannot be read.
    #[error("cannot read the genesis file {0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// It says something else than a genesis file.
    #[error("the genesis file {0} is wrong: {1}")]
    Wrong(PathBuf, String),
}

/// What a genesis file says.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// When the chain begins.
    pub time: UnixMillis,
    /// Up to [`MAX_EXTRA_BYTES`] that make this chain another one than the rest.
    pub extra: String,
}

impl Genesis {
    /// The built-in one of a network.
    #[must_use]
    pub fn of(network: &NetworkId) -> Self {
        Self { time: TIME, extra: network.name("genesis") }
    }

    /// Reads a genesis file.
    ///
    /// # Errors
    /// [`GenesisError`].
    pub fn read(path: &Path) -> Result<Self, GenesisError> {
        let unreadable = |e| GenesisError::Unreadable(path.to_owned(), e);
        let wrong = |text: String| GenesisError::Wrong(path.to_owned(), text);
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
            return Err(wrong(format!("it is longer than {MAX_FILE_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let genesis: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().and_then(|s| text.get(..s.start)).map_or(1, |before| before.matches('\n').count() + 1);
            wrong(format!("line {line}: {}", e.message().replace('\n', " ")))
        })?;
        if genesis.extra.len() > MAX_EXTRA_BYTES {
            return Err(wrong(format!("extra is longer than {MAX_EXTRA_BYTES} bytes")));
        }
        Ok(genesis)
    }

    /// The genesis block: height 0, no parent, no producer, no signature, no transactions.
    ///
    /// # Panics
    /// With more than [`MAX_EXTRA_BYTES`] of extra data.
    #[must_use]
    pub fn block(&self) -> Block {
        let body = Body::default();
        let header = Header {
            height: 0,
            parent: Hash::default(),
            time: self.time,
            producer: [0; 32],
            body_root: body.root(),
            body_bytes: 0,
            transactions: 0,
            extra: self.extra.clone().into_bytes(),
            signature: [0; 64],
        };
        Block::trusted(header, body)
    }
}
