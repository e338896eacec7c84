//! The `[chain]` and `[block]` sections.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    DEFAULT_MAX_BODY_BYTES, Genesis, GenesisError,
    chain::{
        Anything, DEFAULT_COMMIT_DEPTH, ForkChoice, Listed, Longest, MAX_BRANCH_BYTES, MAX_DEEP_REORG, Norn, Rules,
        Validator,
    },
};
use crate::{
    identity,
    primitives::{NetworkId, PeerId},
};

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
    /// What all nodes of a network need the same, or their chains part; but for `deep_reorg_max`, which is each node's own.
    pub struct ChainConfig {
        /// Addresses of those who may produce blocks. Empty: everybody in the network may, and so may fill its disks: name them
        /// wherever not all nodes are trusted.
        pub producers: Vec<String> = Vec::new(),
        /// Genesis file (TOML: `time` in Unix milliseconds, `extra` text); a relative name begins where the daemon is started. Empty: the
        /// built-in one of the network. Nodes with different genesis blocks do not exchange blocks.
        pub genesis: String = String::new(),
        /// Which branch is better: `norn` (at each fork more transactions, then earlier, then smaller hash) or `longest`.
        pub fork_choice: ForkRule = ForkRule::Norn,
        /// Milliseconds from a block to the next one, at least, by their producers' clocks: or whoever may produce could put enough on the
        /// head at once to make it final in one part of a network before the others hear of it. 0 to 3600000.
        pub spacing_ms: u64 = 500,
        /// Blocks on top of a block before it is final here. 1 to 256; with `deep_reorg_max`, times `max_bytes`, at most 128 MiB.
        pub commit_depth: u64 = DEFAULT_COMMIT_DEPTH,
        /// Final blocks that may be taken back when two thirds of the peers prove a better branch. 0: never, the chain halts and
        /// reports when half of the peers, of four or more, are on another branch. At most 256.
        pub deep_reorg_max: u64 = 0,
        /// Bytes of transactions in one block. 131072 to 4194304 (4 MiB).
        pub max_bytes: usize = DEFAULT_MAX_BODY_BYTES,
    }
}

crate::config_section! {
    /// This node's part in block exchange.
    pub struct Config {
        /// Whether this node holds the network's chain, passes blocks on, and serves them.
        pub enabled: bool = true,
        /// Neighbours that a new block is passed on to. 0: the square root of `net.target_peers`, rounded up. At most 64.
        pub degree: usize = 0,
        /// Whether it produces blocks from submitted transactions, for networks without a consensus of their own. Where `chain.producers`
        /// names who may, it has to be one of them.
        pub produce: bool = false,
        /// Whether it also produces while it is connected to nobody, or only to peers that say they have more blocks and show none for half a
        /// minute. For the first node of a new network; on others a pulled cable
        /// would end in a chain of their own, which is final after `chain.commit_depth` blocks.
        pub produce_alone: bool = false,
        /// Milliseconds between two blocks that are produced, empty ones too. 100 to 3600000.
        pub interval_ms: u64 = 2000,
        /// Transactions that wait to be produced, at most. 1 to 10000000.
        pub pool_transactions: usize = 20_000,
        /// Bytes of transactions that wait to be produced, at most. 65536 to 1073741824 (1 GiB).
        pub pool_bytes: usize = 32 * 1024 * 1024,
    }
}

impl ChainConfig {
    /// The most that `deep_reorg_max` can be: two branches that are not final have to fit in the chain's tree, or it would drop one before
    /// the rule decides.
    #[must_use]
    pub fn deep_reorg_most(&self) -> u64 {
        let blocks = MAX_BRANCH_BYTES / self.max_bytes.max(1);
        u64::try_from(blocks).unwrap_or(u64::MAX).saturating_sub(self.commit_depth).min(MAX_DEEP_REORG)
    }

    /// Who may produce, as [`ChainConfig::producers`] says.
    ///
    /// # Errors
    /// The first text that is not the address of an Ed25519 key.
    pub fn validator(&self) -> Result<Arc<dyn Validator>, String> {
        if self.producers.is_empty() {
            return Ok(Arc::new(Anything));
        }
        let key = |text: &String| {
            let address: Option<PeerId> = text.parse().ok();
            let key = address.and_then(|a| identity::public_key_of(&a)).and_then(|k| k.try_into_ed25519().ok());
            key.map(|k| k.to_bytes()).ok_or_else(|| text.clone())
        };
        let keys = self.producers.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Listed::new(keys)))
    }

    /// Whether the node with this address is one of [`ChainConfig::producers`], or everybody may produce.
    #[must_use]
    pub fn may_produce(&self, address: &PeerId) -> bool {
        self.producers.is_empty()
            || self.producers.iter().any(|p| p.parse().is_ok_and(|producer: PeerId| producer == *address))
    }

    /// The genesis file's content, or the built-in genesis of the network.
    ///
    /// # Errors
    /// [`GenesisError`].
    pub fn read_genesis(&self, network: &NetworkId) -> Result<Genesis, GenesisError> {
        match self.genesis.as_str() {
            "" => Ok(Genesis::of(network)),
            path => Genesis::read(Path::new(path)),
        }
    }

    /// What the chain goes by. Reads the genesis file. The numbers were checked before.
    ///
    /// # Errors
    /// [`GenesisError`].
    pub fn rules(&self, network: &NetworkId, validator: Arc<dyn Validator>) -> Result<Rules, GenesisError> {
        let genesis = self.read_genesis(network)?;
        let choice: Arc<dyn ForkChoice> = match self.fork_choice {
            ForkRule::Norn => Arc::new(Norn),
            ForkRule::Longest => Arc::new(Longest),
        };
        Ok(Rules {
            genesis: genesis.block(),
            depth: self.commit_depth,
            deep_reorg_max: self.deep_reorg_max,
            deep_reorg_most: self.deep_reorg_most(),
            network: Some(network.clone()),
            choice,
            validator,
        })
    }
}
