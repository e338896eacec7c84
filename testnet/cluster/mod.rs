//! Whole nodes in one process: what only shows when map, network and store work together.

mod chain;
mod hostile;
mod letters;
mod map;
mod order;
mod own_chain;
mod raw;
mod stranger;
mod strangers;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// All tests share one process, so a test that measures its memory has to be alone in it.
static TURN: RwLock<()> = RwLock::const_new(());

/// For a test that measures the memory of this process.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

/// For any other test of whole nodes in this process.
async fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}
