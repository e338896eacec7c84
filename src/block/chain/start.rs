//! Reading the chain at the start: what is final must be whole, what is above it is checked and repaired.

use std::sync::Arc;

use super::{
    core::Rules,
    retired::RetiredBlocks,
    store::{ChainStore, Change, Marks, read_header},
    tree::{MAX_NODES, Tree},
    validator::Verdict,
};
use crate::{
    block::{Block, Body, Header, Point, purpose},
    primitives::{Hash, NetworkId},
    store::StoreError,
};

/// Final blocks whose links are checked at the start, from the newest down.
const CHECKED: u64 = 100;

/// Why the chain cannot be used. Each text says what the operator can do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The store holds another chain.
    #[error(
        "the store holds the chain with genesis {found}, the configuration says {expected}: use the right genesis file and \
         network, or another --data-dir, or forget the stored chain with `vos block reset`"
    )]
    Genesis {
        /// In the store.
        found: Hash,
        /// Of the configuration.
        expected: Hash,
    },
    /// The chain was made for another network.
    #[error(
        "the stored chain was signed for another network than {0}: use the right --network, or another --data-dir, or forget the \
         stored chain with `vos block reset`"
    )]
    Network(NetworkId),
    /// What is final does not fit together.
    #[error(
        "the stored chain is damaged at height {height}: {what}. Final blocks cannot be repaired: restore a backup, or forget \
         the chain with `vos block reset`, and it is fetched again"
    )]
    Damaged {
        /// Where.
        height: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The chain's own rules cannot go on from there.
    #[error("the chain's rules cannot go on from height {height}: {why}")]
    Rules {
        /// The committed block's.
        height: u64,
        /// What they say.
        why: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was found, and what has to be written to repair it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) tree: Tree,
    pub(super) retired: RetiredBlocks,
    /// The best chain above the committed block as the store has it.
    pub(super) stored_path: Vec<Point>,
    pub(super) repairs: Change,
}

pub(super) fn load(rules: &Rules, store: &dyn ChainStore) -> Result<Loaded, OpenError> {
    let expected = rules.genesis.hash();
    let Some(marks) = store.marks()? else {
        let genesis = Point { height: rules.genesis.header().height, hash: expected };
        resume(rules, store, genesis)?;
        return Ok(first_start(rules));
    };
    if marks.genesis != expected {
        return Err(OpenError::Genesis { found: marks.genesis, expected });
    }
    let root = Arc::new(check_final(store, &marks)?);
    check_network(rules, store, &marks)?;
    resume(rules, store, marks.committed)?;
    let mut tree = Tree::new(marks.committed.hash, root, rules.depth);
    let mut repairs = Change::default();
    for point in store.candidates()? {
        if point.height <= marks.committed.height {
            match store.hash_at(point.height)? == Some(point.hash) {
                true => repairs.committed.push(point),
                false => repairs.evicted.push(point),
            }
            continue;
        }
        match candidate(rules, store, &tree, point)? {
            Some(header) => {
                tree.insert(point.hash, header, rules.choice.as_ref());
            }
            None => {
                tracing::warn!(height = point.height, hash = %point.hash, "a stored candidate is unusable and is dropped");
                repairs.evicted.push(point);
            }
        }
    }
    let stored_path = stored_path(store, &marks)?;
    let retired = RetiredBlocks::from_stored(store.retired()?);
    Ok(Loaded { tree, retired, stored_path, repairs })
}

pub(super) fn resume(rules: &Rules, store: &dyn ChainStore, committed: Point) -> Result<(), OpenError> {
    let block_at = |height: u64| {
        let hash = store.hash_at(height).ok().flatten().filter(|_| height <= committed.height)?;
        let header = read_header(store, &hash).ok().flatten()?;
        let body = Body::decode(store.body(&hash).ok()?.unwrap_or_default()).ok()?;
        (body.root() == header.body_root).then(|| Block::trusted(header, body))
    };
    let resumed = rules.validator.resume(committed, &block_at);
    resumed.map_err(|why| OpenError::Rules { height: committed.height, why })
}

fn first_start(rules: &Rules) -> Loaded {
    let genesis = &rules.genesis;
    let point = Point { height: genesis.header().height, hash: genesis.hash() };
    let repairs =
        Change { added: vec![genesis.clone()], attached: vec![point], committed: vec![point], ..Change::default() };
    let tree = Tree::new(point.hash, Arc::new(genesis.header().clone()), rules.depth);
    Loaded { tree, retired: RetiredBlocks::default(), stored_path: Vec::new(), repairs }
}

/// Checks the committed block and the links of some below it. Returns its header.
fn check_final(store: &dyn ChainStore, marks: &Marks) -> Result<Header, OpenError> {
    let top = marks.committed.height;
    let from = top.saturating_sub(CHECKED);
    let damaged = |height, what| Err(OpenError::Damaged { height, what });
    if store.hash_at(top)? != Some(marks.committed.hash) {
        return damaged(top, "the committed block is not on the best chain");
    }
    if store.hash_at(0)? != Some(marks.genesis) {
        return damaged(0, "the genesis block is missing");
    }
    let mut below: Option<Hash> = None;
    let mut committed = None;
    for height in from..=top {
        let Some(hash) = store.hash_at(height)? else { return damaged(height, "no block is noted") };
        let Some(bytes) = store.header(&hash)? else { return damaged(height, "the header is missing") };
        let header = match Header::decode(&bytes) {
            Ok(header) if Hash::of(&bytes) == hash && header.height == height => header,
            _ => return damaged(height, "the header is not the one noted"),
        };
        if below.is_some_and(|b| header.parent != b) {
            return damaged(height, "the block does not build on the one below");
        }
        if header.body_bytes > 0 && height == top {
            match store.body(&hash) {
                Ok(None) | Err(StoreError::Damaged(_)) => return damaged(height, "the body is missing"),
                // Nothing is known of it: what cannot be read now may be in a moment.
                body => drop(body?),
            }
        }
        (below, committed) = (Some(hash), Some(header));
    }
    committed.map_or_else(|| damaged(top, "no block is noted"), Ok)
}

/// A genesis file says nothing of the network, and blocks are signed for one.
fn check_network(rules: &Rules, store: &dyn ChainStore, marks: &Marks) -> Result<(), OpenError> {
    let Some(network) = &rules.network else { return Ok(()) };
    let purpose = purpose(network);
    for hash in [marks.committed.hash, marks.head.hash] {
        // Whatever cannot be read is found and told elsewhere.
        let header = read_header(store, &hash).ok().flatten().filter(|h| h.height > 0 && h.hash() == hash);
        if header.is_some_and(|header| header.verify(&purpose).is_err()) {
            return Err(OpenError::Network(network.clone()));
        }
    }
    Ok(())
}

/// Reads and judges a candidate whose parent was judged before; `None` when it cannot stay. One that the rules have no use for now is dropped like one that breaks them:
/// what is held is in the tree.
///
/// # Errors
/// When it cannot be read now: nothing is deleted for that.
fn candidate(
    rules: &Rules,
    store: &dyn ChainStore,
    tree: &Tree,
    point: Point,
) -> Result<Option<Arc<Header>>, OpenError> {
    let header = match read_header(store, &point.hash) {
        Ok(Some(header)) if header.height == point.height && header.hash() == point.hash => header,
        Ok(_) | Err(StoreError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(parent) = tree.header(&header.parent) else { return Ok(None) };
    let bytes = match store.body(&point.hash) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(StoreError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Ok(body) = Body::decode(bytes) else { return Ok(None) };
    if body.root() != header.body_root || super::judge::links(&header, parent).is_some() {
        return Ok(None);
    }
    // By all rules: those of the configuration may have changed since it was taken.
    let (block, validator) = (Block::trusted(header, body), &rules.validator);
    let good = [validator.header(block.header()), validator.body(&block), validator.contextual(block.header(), parent)];
    let good = good.iter().all(|v| *v == Verdict::Accept) && validator.full(&block, parent) == Verdict::Accept;
    Ok(good.then(|| Arc::new(block.header().clone())))
}

/// The noted best chain above the committed block. What does not fit the tree is replaced by what does.
fn stored_path(store: &dyn ChainStore, marks: &Marks) -> Result<Vec<Point>, OpenError> {
    let from = marks.committed.height + 1;
    let last = marks.head.height.min(from.saturating_add(2 * MAX_NODES as u64)); // 2048
    let mut path = Vec::new();
    for height in from..=last {
        path.extend(store.hash_at(height)?.map(|hash| Point { height, hash }));
    }
    Ok(path)
}
