//! The network id: part of every protocol name and topic, so that two networks never mix.

use std::{fmt, str::FromStr};

use libp2p::StreamProtocol;
use serde::{Deserialize, Serialize};

/// A network's name: 1 to 32 of `a-z`, `0-9` and `-`, not starting with `-`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkId(String);

/// Why a text is not a network id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network id {0:?} must be 1 to 32 characters of a-z, 0-9 and '-', starting with a letter or digit")]
pub struct NetworkIdError(String);

impl NetworkId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The protocol or topic name `/vos/<network>/<rest>`.
    #[must_use]
    pub fn name(&self, rest: &str) -> String {
        format!("/vos/{}/{rest}", self.0)
    }

    /// The same as a libp2p protocol name.
    #[must_use]
    pub fn protocol(&self, rest: &str) -> StreamProtocol {
        StreamProtocol::try_from_owned(self.name(rest)).expect("the name starts with a slash")
    }
}

impl Default for NetworkId {
    fn default() -> Self {
        Self("main".into())
    }
}

impl FromStr for NetworkId {
    type Err = NetworkIdError;

    fn from_str(text: &str) -> Result<Self, NetworkIdError> {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > 32 || bytes[0] == b'-' || !bytes.iter().all(|c| legal(*c)) {
            return Err(NetworkIdError(text.chars().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for NetworkId {
    type Error = NetworkIdError;

    fn try_from(text: String) -> Result<Self, NetworkIdError> {
        text.parse()
    }
}

impl From<NetworkId> for String {
    fn from(id: NetworkId) -> String {
        id.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
