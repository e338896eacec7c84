//! Branches that contradict what is final: their proof is checked, and what was decided is done. See [`super::super::conflict`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Core, Halt};
use crate::{
    block::{
        Block, Body, Header, Point, VerifiedHeader,
        chain::{
            Branch, ChainError, Event, MAX_CONFLICT_HEADERS, Verdict,
            conflict::{Decision, Hold, Proof},
            judge, start,
            store::read_header,
            tree::Tree,
        },
    },
    primitives::{Hash, PeerId, UnixMillis},
    store::StoreError,
};

impl Core {
    /// Takes the proof of a branch that leaves ours at or below the committed block; `told` are the connected peers that have told
    /// their head, and `peer` is one of them. See [`crate::block::chain::conflict`] for what follows from it.
    ///
    /// # Errors
    /// [`ChainError::NoConflict`] when the headers prove none, [`ChainError::NoBranch`] when they never could, or the store's.
    pub fn conflict(
        &mut self,
        peer: PeerId,
        headers: &[VerifiedHeader],
        told: HashSet<PeerId>,
        now: UnixMillis,
    ) -> Result<Vec<Event>, ChainError> {
        let committed = self.tree.root();
        let fork = self.conflict_fork(headers)?;
        let tip = headers.last().map_or(fork, |h| Point { height: h.header().height, hash: h.hash() });
        let better = self.is_better(headers, fork)?;
        let proof = Proof { peer, first: headers[0].hash(), fork, tip, told, better };
        let before = self.conflicts.most_peers();
        let (decision, peers) = self.conflicts.report(proof, committed, &self.rules, now);
        if self.conflicts.most_peers() > before {
            tracing::warn!(
                peers,
                fork = fork.height,
                committed = committed.height,
                "peers are on a branch that contradicts what is final here"
            );
        }
        let mut events = vec![Event::Conflict { fork, tip, peers }];
        match decision {
            Decision::Alarm => {}
            Decision::Halt(why) => {
                if self.halted.is_none() {
                    tracing::error!(%why, "the chain is halted");
                    self.halted = Some(Halt::Conflict(why));
                }
            }
            // Nothing can be written now: the next proof decides again.
            Decision::Reopen(_) if self.is_broken() => self.conflicts.not_reopened(),
            Decision::Reopen(hold) if self.hold.is_none() => {
                let before = self.halted.take_if(|halt| matches!(halt, Halt::Conflict(_)));
                let reopened = self.refuse_when_halted().and_then(|()| self.reopen(fork, hold, now));
                // What the rules refuse they would refuse again, and what is damaged stays so: it is not tried for a while, and halts like any
                // other conflict.
                if matches!(reopened, Err(ChainError::Store(StoreError::Failed(_) | StoreError::DiskFull(_)))) {
                    self.conflicts.not_reopened();
                }
                if reopened.is_err() && self.halted.is_none() {
                    self.halted = before;
                }
                events.extend(reopened?);
            }
            Decision::Reopen(_) => {}
        }
        Ok(events)
    }

    /// Checks that the headers are one branch that leaves our final blocks, and where.
    fn conflict_fork(&self, headers: &[VerifiedHeader]) -> Result<Point, ChainError> {
        let none = |why: &str| Err(ChainError::NoConflict(why.to_owned()));
        let Some(first) = headers.first() else { return none("no headers") };
        if headers.len() > MAX_CONFLICT_HEADERS {
            return none("too many headers");
        }
        let committed = self.tree.root().height;
        let (height, hash) = (first.header().height, first.header().parent);
        let Some(fork) = height.checked_sub(1).filter(|h| *h < committed) else {
            return none("the branch leaves ours above the committed block");
        };
        if self.store.hash_at(fork)? != Some(hash) || self.store.hash_at(height)? == Some(first.hash()) {
            return none("the branch does not leave our chain there");
        }
        let Some(mut parent) = read_header(self.store.as_ref(), &hash)? else {
            return none("the fork is not held");
        };
        let mut parent_hash = hash;
        for next in headers {
            let links = next.header().parent == parent_hash && judge::links(next.header(), &parent).is_none();
            if !links {
                return Err(ChainError::NoBranch("a header does not build on the one before it".into()));
            }
            let validator = &self.rules.validator;
            for verdict in [validator.header(next.header()), validator.contextual(next.header(), &parent)] {
                match verdict {
                    Verdict::Accept => {}
                    Verdict::Ignore(why) => return Err(ChainError::NoConflict(why)),
                    Verdict::Invalid(why) => return Err(ChainError::NoBranch(why)),
                }
            }
            (parent, parent_hash) = (next.header().clone(), next.hash());
        }
        Ok(Point { height: fork, hash })
    }

    /// Whether the proven branch is better than ours by the rule, both taken from the fork.
    fn is_better(&self, headers: &[VerifiedHeader], fork: Point) -> Result<bool, ChainError> {
        let choice = self.rules.choice.as_ref();
        let theirs = headers.iter().map(|h| u128::from(choice.weight(h.header()))).sum();
        let count = usize::try_from(self.head().height - fork.height).unwrap_or(usize::MAX);
        // A longer one of ours is never taken back, so its weight need not be known.
        let known = self.store.hashes(fork.height + 1, count.min(MAX_CONFLICT_HEADERS))?;
        let (mut ours, mut first) = (0, None);
        for hash in &known {
            let Some(header) = read_header(self.store.as_ref(), hash)? else { continue };
            ours += u128::from(choice.weight(&header));
            first.get_or_insert((*hash, header));
        }
        let Some((hash, first)) = first else { return Ok(false) };
        let ours = Branch { hash: &hash, first: &first, weight: ours };
        let their_hash = headers[0].hash();
        let theirs = Branch { hash: &their_hash, first: headers[0].header(), weight: theirs };
        Ok(choice.compare(&theirs, &ours).is_gt())
    }

    /// Brings the chain's own rules back to `fork` and from there to all blocks above: those of `tree`, along `path`, and `candidates`,
    /// lowest first. Returns the candidates that cannot stay.
    ///
    /// # Errors
    /// The store's, and [`ChainError::Halted`] when the rules cannot go back, or do not take what is final.
    fn resume_at(
        &self,
        fork: Point,
        tree: &Tree,
        path: &[Point],
        candidates: &[(Hash, Arc<Header>)],
    ) -> Result<HashSet<Hash>, ChainError> {
        let failed = |why: String| ChainError::Halted(format!("the chain's rules cannot go back: {why}"));
        start::resume(&self.rules, self.store.as_ref(), fork).map_err(|error| failed(error.to_string()))?;
        let mut good: HashMap<Hash, Arc<Header>> =
            tree.headers().map(|(hash, header)| (hash, header.clone())).collect();
        let judge = |header: &Header, parent: &Header| -> Result<bool, StoreError> {
            let bytes = self.store.body(&header.hash())?.unwrap_or_default();
            let body =
                Body::decode(bytes).map_err(|_| StoreError::Damaged("a stored body is not what was written".into()))?;
            Ok(self.rules.validator.full(&Block::trusted(header.clone(), body), parent) == Verdict::Accept)
        };
        for point in path {
            let header = &good[&point.hash];
            if !judge(header, &good[&header.parent])? {
                return Err(failed(format!("they refuse the final block at height {}", point.height)));
            }
        }
        let mut invalid = HashSet::new();
        for (hash, header) in candidates {
            match good.get(&header.parent) {
                Some(parent) if judge(header, parent)? => drop(good.insert(*hash, header.clone())),
                _ => drop(invalid.insert(*hash)),
            }
        }
        Ok(invalid)
    }

    /// Takes back what is final above `fork`: it becomes the tree's best branch, and the rule decides when the other one is here.
    fn reopen(&mut self, fork: Point, hold: Hold, now: UnixMillis) -> Result<Vec<Event>, ChainError> {
        let told = self.told.clone();
        let mut events = self.flush()?;
        let count = usize::try_from(self.tree.root().height - fork.height).unwrap_or(usize::MAX);
        let restored = self.store.hashes(fork.height + 1, count)?;
        let missing = || StoreError::Damaged("a final block is missing".into());
        let read = |hash: &Hash| read_header(self.store.as_ref(), hash)?.ok_or_else(missing);
        let root = Arc::new(read(&fork.hash)?);
        let mut tree = Tree::new(fork.hash, root, self.rules.depth);
        let mut path = Vec::new();
        for hash in restored {
            let header = Arc::new(read(&hash)?);
            path.push(Point { height: header.height, hash });
            tree.insert(hash, header, self.rules.choice.as_ref());
        }
        let mut candidates: Vec<_> = self.tree.headers().map(|(hash, header)| (hash, header.clone())).collect();
        candidates.retain(|(_, header)| header.height > self.tree.root().height);
        // What lost above the fork did not lose for good.
        for retired in self.retired.above(fork.height) {
            candidates.push((retired.point.hash, Arc::new(read(&retired.point.hash)?)));
        }
        candidates.sort_by_key(|(hash, header)| (header.height, *hash));
        let invalid = match self.resume_at(fork, &tree, &path, &candidates) {
            Ok(invalid) => invalid,
            Err(error) => {
                // The rules are somewhere between there and here: reading all of it again brings them back.
                tracing::error!(%error, fork = fork.height, "final blocks cannot be taken back");
                self.halted = Some(Halt::Store(match &error {
                    ChainError::Store(store) => store.clone(),
                    other => StoreError::Failed(other.to_string()),
                }));
                return Err(error);
            }
        };
        // Everything is read: from here on nothing fails before the write.
        self.change.revived = self.retired.revive(fork.height);
        self.change.restored.clone_from(&path);
        // When the write fails, what is told then begins at the fork, and with what the write before would have told.
        let first = told.first().map_or(0, |p| p.height);
        let below = std::iter::once(fork).chain(path.iter().copied()).filter(|p| p.height < first);
        self.told = below.chain(told).collect();
        for (hash, header) in candidates {
            match tree.header(&header.parent) {
                Some(_) if !invalid.contains(&hash) => tree.insert(hash, header, self.rules.choice.as_ref()),
                // Or its parent lost as well, and was deleted before it.
                _ => self.change.evicted.push(Point { height: header.height, hash }),
            }
        }
        path.append(&mut self.path);
        tracing::warn!(
            fork = fork.height,
            "most peers proved a better branch: blocks above the fork are not final any more"
        );
        (self.tree, self.path, self.hold) = (tree, path, Some(hold));
        self.follow_best(now);
        events.extend(self.flush()?);
        Ok(events)
    }
}
