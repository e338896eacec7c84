//! L6: the configuration. One section for each feature, which owns its keys, defaults and their documentation; this file
//! only composes, loads and checks them.
//!
//! Order: built-in defaults < file < environment (`VOS_SECTION__KEY`) < `--set section.key=value` < dedicated flags.
//! Unknown sections and keys are refused with the nearest known one. No key holds a secret: keys like
//! `net.private_key_file` name the file that does, so neither the environment nor the command line can carry one.

mod check;
mod load;
mod text;

use serde::{Deserialize, Serialize};

pub use check::is_bootstrap;
pub use load::{ConfigError, Sources};
pub use text::{default_text, effective_text};

use crate::{
    api,
    api::Endpoint,
    block, map,
    message::{self, friend},
    net,
    primitives::{Key, NetworkId},
    telemetry::LogFormat,
};

crate::config_section! {
    /// The node as a whole.
    pub struct NodeConfig {
        /// Name of this node: a label that others see, at most 64 bytes. Empty: none, or the one set by `vos name`.
        pub name: String = String::new(),
        /// Network id: 1 to 32 of a-z, 0-9 and `-`. Nodes of different networks never mix.
        pub network: NetworkId = NetworkId::default(),
        /// Where `/healthz`, `/readyz` and `/metrics` are served: `off`, or an IP address and port. Port 0 takes any free port,
        /// which `vos status` shows.
        pub http: Endpoint = Endpoint::At(([127, 0, 0, 1], 0).into()),
    }
}

crate::config_section! {
    /// Logs, on stderr.
    pub struct LogConfig {
        /// Filter in `RUST_LOG` syntax: error, warn, info, debug, trace, or `target=level` pairs. `RUST_LOG` wins.
        pub level: String = "info".into(),
        /// `text` or `json` (one object a line).
        pub format: LogFormat = LogFormat::Text,
    }
}

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[net]`
    pub net: net::Config,
    /// `[map]`
    pub map: map::Config,
    /// `[message]`
    pub message: message::Config,
    /// `[friend]`
    pub friend: friend::Config,
    /// `[chain]`
    pub chain: block::ChainConfig,
    /// `[block]`
    pub block: block::Config,
    /// `[api]`
    pub api: api::Config,
    /// `[log]`
    pub log: LogConfig,
}

/// One section's name, purpose and keys.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// Every section, in the order of the file.
pub const SECTIONS: &[Section] = &[
    Section { name: "node", doc: "The node as a whole.", keys: NodeConfig::KEYS },
    Section { name: "net", doc: "Addrs, peers and limits of the network.", keys: net::Config::KEYS },
    Section { name: "map", doc: "What the VOS Map keeps and how often it talks.", keys: map::Config::KEYS },
    Section { name: "message", doc: "Limits and times of messages.", keys: message::Config::KEYS },
    Section {
        name: "friend",
        doc: "Friend VOS: messages held for other nodes, and by them for us.",
        keys: friend::Config::KEYS,
    },
    Section {
        name: "chain",
        doc: "What all nodes of a network need the same, or their chains part.",
        keys: block::ChainConfig::KEYS,
    },
    Section { name: "block", doc: "This node's part in block exchange.", keys: block::Config::KEYS },
    Section { name: "api", doc: "The control API besides its Unix socket.", keys: api::Config::KEYS },
    Section { name: "log", doc: "Logs, on stderr.", keys: LogConfig::KEYS },
];

#[cfg(test)]
mod tests;
