//! The `[api]` section, and the address form that it shares with `node.http`.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where to serve HTTP over TCP: `off`, or an IP address and port (port 0 takes any free one).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// Not at all.
    #[default]
    Off,
    /// There.
    At(SocketAddr),
}

/// Why a text is not an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `off` or an IP address with a port like 127.0.0.1:0, got {0:?}")]
pub struct EndpointError(String);

impl Endpoint {
    /// The socket address, unless off.
    #[must_use]
    pub fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(addr) => Some(addr),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| EndpointError(text.chars().take(64).collect())),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

crate::config_section! {
    /// The control API besides its Unix socket.
    pub struct Config {
        /// Serve the control API on TCP too: `off`, or a loopback address like `127.0.0.1:0`. Callers need the bearer token of
        /// `<data-dir>/api.token`.
        pub tcp: Endpoint = Endpoint::Off,
    }
}
