//! The `[block]` section.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    DEFAULT_MAX_BODY_BYTES, Genesis, GenesisError, MAX_BODY_BYTES,
    chain::{DEFAULT_COMMIT_DEPTH, ForkChoice, Longest, MAX_COMMIT_DEPTH, MAX_DEEP_REORG, Norn, Rules, Validator},
};
use crate::primitives::NetworkId;

/// Which branch is the better one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForkRule {
    /// At each fork more transactions, then the earlier block, then the smaller hash.
    #[default]
    Norn,
    /// The longest branch, then as `norn`.
    Longest,
}

crate::config_section! {
    /// The chain, and production of blocks.
    pub struct Config {
        /// Genesis file (TOML: `time` in Unix milliseconds, `extra` text). Empty: the built-in one of the network. Nodes with
        /// different genesis blocks do not exchange blocks.
        pub genesis: String = String::new(),
        /// Which branch is better: `norn` (at each fork more transactions, then earlier, then smaller hash) or `longest`.
        /// The same on all nodes of a network.
        pub fork_choice: ForkRule = ForkRule::Norn,
        /// Blocks on top of a block before it is final here. 1 to 256.
        pub commit_depth: u64 = DEFAULT_COMMIT_DEPTH,
        /// Final blocks that may be taken back when two thirds of the peers prove a better branch. 0: never, the chain halts and
        /// reports when half of the peers are on another branch. At most 256.
        pub deep_reorg_max: u64 = 0,
        /// Bytes of transactions in one block. 65536 to 4194304 (4 MiB). The same on all nodes of a network.
        pub max_bytes: usize = DEFAULT_MAX_BODY_BYTES,
        /// Whether this node produces blocks from submitted transactions.
        pub produce: bool = false,
        /// Milliseconds between two blocks that are produced, empty ones too. 100 to 3600000.
        pub interval_ms: u64 = 2000,
        /// Transactions that wait to be produced, at most. At least 1.
        pub pool_transactions: usize = 20_000,
        /// Bytes of transactions that wait to be produced, at most. At least 65536.
        pub pool_bytes: usize = 32 * 1024 * 1024,
    }
}

/// Why the section cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A number out of its range.
    #[error("block.{key} = {value} is out of range: it must be {range}")]
    Range {
        /// Its name.
        key: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// The genesis file.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
}

impl Config {
    /// Checks every number.
    ///
    /// # Errors
    /// [`ConfigError::Range`] for the first one that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let ranges = [
            ("commit_depth", self.commit_depth, 1..=MAX_COMMIT_DEPTH, "1 to 256"),
            ("deep_reorg_max", self.deep_reorg_max, 0..=MAX_DEEP_REORG, "at most 256"),
            ("max_bytes", wide(self.max_bytes), 65_536..=wide(MAX_BODY_BYTES), "65536 to 4194304"),
            ("interval_ms", self.interval_ms, 100..=3_600_000, "100 to 3600000"),
            ("pool_transactions", wide(self.pool_transactions), 1..=u64::MAX, "at least 1"),
            ("pool_bytes", wide(self.pool_bytes), 65_536..=u64::MAX, "at least 65536"),
        ];
        match ranges.into_iter().find(|(_, value, range, _)| !range.contains(value)) {
            Some((key, value, _, range)) => Err(ConfigError::Range { key, value, range }),
            None => Ok(()),
        }
    }

    /// What the chain goes by. Reads the genesis file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn rules(&self, network: &NetworkId, validator: Arc<dyn Validator>) -> Result<Rules, ConfigError> {
        self.check()?;
        let genesis = match self.genesis.as_str() {
            "" => Genesis::of(network),
            path => Genesis::read(Path::new(path))?,
        };
        let choice: Arc<dyn ForkChoice> = match self.fork_choice {
            ForkRule::Norn => Arc::new(Norn),
            ForkRule::Longest => Arc::new(Longest),
        };
        Ok(Rules {
            genesis: genesis.block(),
            depth: self.commit_depth,
            deep_reorg_max: self.deep_reorg_max,
            choice,
            validator,
        })
    }
}
