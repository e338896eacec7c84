//! Why a node does not run.

use std::net::SocketAddr;

use super::{DataDirError, bootstrap};
use crate::{api, block, identity::KeystoreError, map, net, primitives::PeerId, runtime::Ended, store};

/// Why a node could not start, or ended by itself. Each text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The identity key cannot be used.
    #[error(transparent)]
    Identity(#[from] KeystoreError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The store failed while starting.
    #[error(transparent)]
    StoreFailed(#[from] store::StoreError),
    /// The network cannot start.
    #[error(transparent)]
    Net(#[from] net::StartError),
    /// A bootstrap file is wrong.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::BootstrapError),
    /// The chain cannot be used.
    #[error(transparent)]
    Chain(#[from] block::chain::OpenError),
    /// A producer of the chain is no address.
    #[error("chain.producers: {0} is not the address of a node")]
    Producer(String),
    /// It is to produce and may not.
    #[error(
        "block.produce is set, but this node is none of chain.producers, so nobody would take its blocks: add {0} to \
         chain.producers on every node, or turn block.produce off"
    )]
    NotProducer(PeerId),
    /// The genesis file cannot be used.
    #[error(transparent)]
    Genesis(#[from] block::GenesisError),
    /// The map cannot start.
    #[error("map: {0}")]
    Map(#[from] map::MapError),
    /// A listener of the API cannot be made.
    #[error(transparent)]
    Api(#[from] api::BindError),
    /// The API's token cannot be used.
    #[error(transparent)]
    Token(#[from] api::TokenError),
    /// The operations endpoints cannot be served.
    #[error("cannot serve health and metrics on {0}: {1}; set --http to another address, or to off")]
    Http(SocketAddr, std::io::Error),
    /// Signals cannot be handled.
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
    /// A task ended that should not.
    #[error("the node stopped: {0}")]
    Ended(#[from] Ended),
}

impl Error {
    /// Whether what the user wrote is wrong, in the configuration or a file that it names.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Bootstrap(_) | Self::Producer(_) | Self::NotProducer(_) | Self::Genesis(_) => true,
            Self::Chain(error) => {
                use block::chain::OpenError::{Genesis, Network};
                matches!(error, Genesis { .. } | Network(_))
            }
            _ => false,
        }
    }
}
