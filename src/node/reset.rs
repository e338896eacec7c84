//! Forgetting the chain alone: what is left is a data directory whose daemon fetches it again, with its identity, mail, contacts and map.

use std::path::PathBuf;

use super::{DataDir, Error};
use crate::{
    block::{Point, chain::Rocks},
    store::Store,
};

/// Forgets the chain in a data directory. Where its head was; `None` when there was none, or it could not be read. Blocks.
///
/// # Errors
/// [`Error`] when a daemon is running there, or the store cannot be opened or written.
pub fn reset_chain(data_dir: PathBuf) -> Result<Option<Point>, Error> {
    let dir = DataDir::open(data_dir)?;
    let store = Store::open(&dir.db())?;
    let erased = Rocks::erase(&store);
    store.close();
    Ok(erased?)
}
