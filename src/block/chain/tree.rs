//! The tree of blocks above the committed one: every valid candidate, not one for each height. Headers only; bodies are in the store.
//!
//! Each node knows the weight of the heaviest path through it and the height that it comes to, so a step of the walk to the best leaf
//! looks at the children of one node. An insertion costs the depth of the tree, which is the commit depth and a little.
//!
//! # What may be final elsewhere
//! At a fork a branch whose first block has the commit depth on top of it comes before one whose first block has not, whatever the rule
//! thinks of them: nodes that know nothing of the other branch have made it final. Without that a node that a better block reached
//! and its network did not would stay on that block for ever. Between two such branches, and between two others, the rule decides.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::fork_choice::{Branch, ForkChoice};
use crate::{
    block::{Header, Point},
    primitives::Hash,
};

/// Candidates at one height: more producers than that do not help anybody.
pub(super) const MAX_PER_HEIGHT: usize = 64;
/// Nodes in all.
pub(super) const MAX_NODES: usize = 1024;
/// Bytes of the bodies behind the nodes.
pub(super) const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;

#[derive(Debug)]
struct Node {
    header: Arc<Header>,
    children: Vec<Hash>,
    /// Of the path from where the tree began to this block.
    weight: u128,
    /// Of the heaviest path through this block.
    best: u128,
    /// Height of the highest block that builds on this one, or its own.
    top: u64,
}

/// The tree. Its root is the committed block and no candidate itself.
#[derive(Debug)]
pub(super) struct Tree {
    root: Hash,
    /// The commit depth.
    depth: u64,
    nodes: HashMap<Hash, Node>,
    heights: BTreeMap<u64, usize>,
    body_bytes: usize,
}

impl Tree {
    pub(super) fn new(root: Hash, header: Arc<Header>, depth: u64) -> Self {
        let top = header.height;
        let node = Node { header, children: Vec::new(), weight: 0, best: 0, top };
        Self { root, depth, nodes: HashMap::from([(root, node)]), heights: BTreeMap::new(), body_bytes: 0 }
    }

    pub(super) fn root(&self) -> Point {
        Point { height: self.nodes[&self.root].header.height, hash: self.root }
    }

    /// The header of a node, the root included.
    pub(super) fn header(&self, hash: &Hash) -> Option<&Arc<Header>> {
        self.nodes.get(hash).map(|n| &n.header)
    }

    /// All nodes, the root included.
    pub(super) fn headers(&self) -> impl Iterator<Item = (Hash, &Arc<Header>)> {
        self.nodes.iter().map(|(hash, node)| (*hash, &node.header))
    }

    /// Candidates, the root not counted.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Adds a block whose parent is in the tree and which is not.
    pub(super) fn insert(&mut self, hash: Hash, header: Arc<Header>, choice: &dyn ForkChoice) {
        debug_assert!(!self.nodes.contains_key(&hash));
        let Some(parent) = self.nodes.get_mut(&header.parent) else {
            debug_assert!(false, "the parent is in the tree");
            return;
        };
        parent.children.push(hash);
        let weight = parent.weight + u128::from(choice.weight(&header));
        let (mut at, top) = (header.parent, header.height);
        *self.heights.entry(header.height).or_default() += 1;
        self.body_bytes += header.body_bytes as usize; // at most 4 MiB
        self.nodes.insert(hash, Node { header, children: Vec::new(), weight, best: weight, top });
        while let Some(node) = self.nodes.get_mut(&at) {
            if node.best >= weight && node.top >= top {
                break;
            }
            (node.best, node.top) = (node.best.max(weight), node.top.max(top));
            at = node.header.parent;
        }
    }

    /// Whether a branch that begins with this block may be final for somebody who knows no other.
    fn is_deep(&self, first: &Node) -> bool {
        first.top - first.header.height >= self.depth
    }

    /// The way from the root, which is not part of it, to the best leaf.
    pub(super) fn best_path(&self, choice: &dyn ForkChoice) -> Vec<Point> {
        let (mut path, mut at) = (Vec::new(), &self.nodes[&self.root]);
        loop {
            let branch = |hash| {
                let node: &Node = self.nodes.get(hash)?;
                Some((Branch { hash, first: &node.header, weight: node.best - at.weight }, node))
            };
            let best = at.children.iter().filter_map(branch).max_by(|(a, first), (b, second)| {
                self.is_deep(first).cmp(&self.is_deep(second)).then_with(|| choice.compare(a, b))
            });
            let Some((branch, node)) = best else { return path };
            path.push(Point { height: node.header.height, hash: *branch.hash });
            at = node;
        }
    }

    /// Makes a child of the root the new root. Returns what is not under it: to be dropped.
    pub(super) fn commit(&mut self, next: Hash) -> Vec<Arc<Header>> {
        let mut dropped = Vec::new();
        if let Some(old) = self.nodes.remove(&self.root) {
            for child in old.children.into_iter().filter(|c| *c != next) {
                self.remove_subtree(child, &mut dropped);
            }
        }
        self.root = next;
        if let Some(node) = self.nodes.get(&next) {
            let header = node.header.clone();
            self.uncount(&header);
        }
        dropped.into_iter().map(|(_, header)| header).collect()
    }

    /// Whether a limit is passed at `height` or in all.
    pub(super) fn overflows(&self, height: u64) -> bool {
        self.heights.get(&height).is_some_and(|n| *n > MAX_PER_HEIGHT)
            || self.len() > MAX_NODES
            || self.body_bytes > MAX_BODY_BYTES
    }

    /// Removes what is worst and does not stay: at `height` when there are too many, else anywhere. A leaf when there is one, else the
    /// worst branch at that height, all of it. Empty when everything stays.
    pub(super) fn evict(&mut self, height: u64, stays: impl Fn(&Hash) -> bool, choice: &dyn ForkChoice) -> Vec<Point> {
        let crowded = self.heights.get(&height).is_some_and(|n| *n > MAX_PER_HEIGHT);
        let branch = |(hash, node): (&Hash, &Node)| {
            let fits = if crowded { node.header.height == height } else { node.children.is_empty() };
            (fits && *hash != self.root && !stays(hash))
                .then(|| (*hash, node.header.clone(), node.children.is_empty(), self.is_deep(node), node.best))
        };
        let all: Vec<_> = self.nodes.iter().filter_map(branch).collect();
        // Among leaves of different heights the lowest goes first: if nothing was built on it so far, hardly anything will be.
        let worst = all.into_iter().min_by(|(ha, a, leaf_a, deep_a, best_a), (hb, b, leaf_b, deep_b, best_b)| {
            let of = |hash, first, weight| Branch { hash, first, weight };
            let order = leaf_b.cmp(leaf_a).then(a.height.cmp(&b.height)).then(deep_a.cmp(deep_b));
            order.then_with(|| choice.compare(&of(ha, a, *best_a), &of(hb, b, *best_b)))
        });
        let Some((hash, header, ..)) = worst else { return Vec::new() };
        let mut removed = Vec::new();
        self.remove_subtree(hash, &mut removed);
        if let Some(parent) = self.nodes.get_mut(&header.parent) {
            parent.children.retain(|c| *c != hash);
        }
        self.count_again(header.parent);
        removed.into_iter().map(|(hash, header)| Point { height: header.height, hash }).collect()
    }

    /// After a child of `at` has gone.
    fn count_again(&mut self, mut at: Hash) {
        while let Some(node) = self.nodes.get(&at) {
            let children = || node.children.iter().filter_map(|c| self.nodes.get(c));
            let best = children().map(|c| c.best).max().unwrap_or(0).max(node.weight);
            let top = children().map(|c| c.top).max().unwrap_or(0).max(node.header.height);
            if (best, top) == (node.best, node.top) {
                break;
            }
            let parent = node.header.parent;
            if let Some(node) = self.nodes.get_mut(&at) {
                (node.best, node.top) = (best, top);
            }
            at = parent;
        }
    }

    fn remove_subtree(&mut self, top: Hash, removed: &mut Vec<(Hash, Arc<Header>)>) {
        let mut stack = vec![top];
        while let Some(hash) = stack.pop() {
            if let Some(node) = self.nodes.remove(&hash) {
                self.uncount(&node.header);
                stack.extend(node.children);
                removed.push((hash, node.header));
            }
        }
    }

    fn uncount(&mut self, header: &Header) {
        self.body_bytes -= header.body_bytes as usize;
        if let Some(n) = self.heights.get_mut(&header.height) {
            *n -= 1;
            if *n == 0 {
                self.heights.remove(&header.height);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{
        chain::{Longest, Norn},
        kit,
        tests::{Random, bush},
    };

    /// The same tree, made at once of what is left.
    fn fresh(tree: &Tree, choice: &dyn ForkChoice) -> Tree {
        let mut again = Tree::new(tree.root, tree.nodes[&tree.root].header.clone(), tree.depth);
        let mut left: Vec<_> = tree.headers().filter(|(hash, _)| *hash != tree.root).collect();
        left.sort_by_key(|(hash, header)| (header.height, *hash));
        for (hash, header) in left {
            again.insert(hash, header.clone(), choice);
        }
        again
    }

    #[test]
    fn after_evictions_and_commits_the_tree_is_as_if_the_rest_had_come_alone() {
        let genesis = kit::genesis();
        let mut evictions = 0;
        for (seed, choice) in (0..60).zip([&Norn as &dyn ForkChoice, &Longest].into_iter().cycle()) {
            let mut random = Random(seed);
            let depth = 2 + seed % 20;
            let mut tree = Tree::new(genesis.hash(), Arc::new(genesis.header().clone()), depth);
            for block in bush(&mut random, 60, 12) {
                if tree.header(&block.header().parent).is_none() {
                    continue;
                }
                tree.insert(block.hash(), Arc::new(block.header().clone()), choice);
                let path = tree.best_path(choice);
                match random.below(4) {
                    0 => {
                        // A path that is not the best one: any leaf may go.
                        let protected = &path[..random.below(path.len() + 1)];
                        let evicted = tree.evict(u64::MAX, |hash| protected.iter().any(|p| p.hash == *hash), choice);
                        assert!(evicted.iter().all(|e| !protected.contains(e) && tree.header(&e.hash).is_none()));
                        evictions += evicted.len();
                    }
                    1 if random.below(8) == 0 && path.len() > 2 => drop(tree.commit(path[0].hash)),
                    _ => {}
                }
                let again = fresh(&tree, choice);
                assert_eq!(tree.best_path(choice), again.best_path(choice));
                assert_eq!(
                    (&tree.heights, tree.body_bytes, tree.len()),
                    (&again.heights, again.body_bytes, again.len())
                );
            }
        }
        assert!(evictions > 200);
    }

    /// A header that says that it has so many bytes of body.
    fn large(height: u64, parent: Hash, body_bytes: u32) -> (Hash, Arc<Header>) {
        let header = Header { height, parent, body_bytes, ..kit::genesis().header().clone() };
        (header.hash(), Arc::new(header))
    }

    #[test]
    fn bodies_of_256_mib_fit_and_no_byte_more() {
        const LARGEST: u32 = 4 << 20;
        let genesis = kit::genesis();
        let mut tree = Tree::new(genesis.hash(), Arc::new(genesis.header().clone()), 100);
        let mut path = vec![genesis.hash()];
        for height in 1..=64 {
            let (hash, header) = large(height, path[path.len() - 1], LARGEST);
            tree.insert(hash, header, &Norn);
            path.push(hash);
            assert!(!tree.overflows(height), "{height} of them");
        }
        assert_eq!(tree.body_bytes, 256 << 20);
        let (hash, header) = large(1, genesis.hash(), 1);
        tree.insert(hash, header, &Norn);
        assert!(tree.overflows(1) && tree.overflows(64), "wherever one comes in");
        assert_eq!(tree.evict(1, |_| true, &Norn), [], "what stays does so all the same");
        assert_eq!(tree.evict(1, |hash| path.contains(hash), &Norn), [Point { height: 1, hash }]);
        assert_eq!((tree.overflows(1), tree.len()), (false, 64));
        // What is final counts no more.
        assert!(tree.commit(path[1]).is_empty());
        let (hash, header) = large(65, path[64], LARGEST);
        tree.insert(hash, header, &Norn);
        assert_eq!((tree.overflows(65), tree.body_bytes), (false, 256 << 20));
    }
}
