//! Where a peer's chain leaves ours. Headers at evenly spaced heights narrow the place 500 times with each answer, so it is found
//! in one answer above our committed block, and in three below it however long the chain is. (Stepping back by 1, 2, 4 ... would
//! take one answer a step.)

use super::wire::{Ladder, MAX_HEADERS};
use crate::{
    block::Header,
    primitives::{Hash, PeerId},
};

/// What a search needs or found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Headers at these heights, from the same peer.
    Ask(Ladder),
    /// The last height that both chains share.
    Fork(u64),
    /// The peer contradicts itself, or its genesis block.
    Lies,
    /// The peer has nothing to say any more: its chain became shorter.
    Gone,
}

/// A search with one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Search {
    peer: PeerId,
    /// Both have the same block here, once `confirmed`.
    low: u64,
    /// They differ here.
    high: u64,
    confirmed: bool,
}

impl Search {
    /// Our chain and that of `peer` differ at `high`; above `committed` it matters less. Heights of 0 are the same.
    pub(super) fn new(peer: PeerId, committed: u64, high: u64) -> Self {
        let low = if high > committed { committed } else { 0 };
        Self { peer, low, high: high.max(1), confirmed: low == 0 }
    }

    pub(super) fn peer(&self) -> PeerId {
        self.peer
    }

    /// What to ask first.
    pub(super) fn first(&self) -> Ladder {
        let stride = (self.high - self.low).div_ceil(u64::from(MAX_HEADERS - 1)).max(1);
        let count = (self.high - self.low) / stride + 1;
        Ladder { start: self.low, count: u32::try_from(count).unwrap_or(MAX_HEADERS).min(MAX_HEADERS), stride }
    }

    /// Takes the answer to the last ladder. `ours` is the hash on our chain at a height.
    pub(super) fn on_headers(&mut self, headers: &[Header], ours: impl Fn(u64) -> Option<Hash>) -> Step {
        let asked = self.first();
        let height = |i: usize| asked.start + asked.stride * i as u64; // usize fits in u64
        let in_place = headers.iter().enumerate().all(|(i, h)| h.height == height(i));
        let linked = asked.stride > 1 || headers.windows(2).all(|w| w[1].parent == w[0].hash());
        if headers.len() > asked.count as usize || !in_place || !linked {
            return Step::Lies;
        }
        if headers.is_empty() {
            return Step::Gone;
        }
        // Once they differ they differ for good, so the place can be halved: few of our hashes have to be read.
        let same = headers.partition_point(|h| ours(h.height) == Some(h.hash()));
        if same == 0 {
            if self.low == 0 || self.confirmed {
                return Step::Lies;
            }
            (self.high, self.low, self.confirmed) = (self.low, 0, true);
            return Step::Ask(self.first());
        }
        self.confirmed = true;
        self.low = height(same - 1);
        if same < headers.len() {
            self.high = self.high.min(height(same));
        }
        match self.high.saturating_sub(self.low) {
            // It has more in common with us than it said a moment ago, or nothing above.
            0 | 1 => Step::Fork(self.low),
            // A short answer brings nothing new twice.
            _ if headers.len() < asked.count as usize && same == headers.len() => Step::Fork(self.low),
            _ if asked.stride == 1 => Step::Fork(self.low),
            _ => Step::Ask(self.first()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::primitives::UnixMillis;

    fn header(height: u64, branch: u8) -> Header {
        Header {
            height,
            parent: Hash::default(),
            time: UnixMillis(height),
            producer: [branch; 32],
            body_root: Hash::default(),
            body_bytes: 0,
            transactions: 0,
            extra: Vec::new(),
            signature: [0; 64],
        }
    }

    /// A chain of `length` blocks that leaves branch 0 after `fork`.
    fn at(height: u64, fork: u64, branch: u8) -> Header {
        header(height, if height > fork { branch } else { 0 })
    }

    /// Runs a search to its end: the fork and the number of questions. Strides of one need linked headers, which these are not, so
    /// the last question is answered by its first header only.
    fn run(committed: u64, fork: u64, theirs: u64) -> (Step, usize) {
        let mut search = Search::new(PeerId::random(), committed, theirs);
        let (mut ladder, mut asked) = (search.first(), 1);
        loop {
            assert!(ladder.count >= 1 && ladder.count <= MAX_HEADERS && ladder.stride >= 1);
            let mut headers: Vec<Header> = Vec::new();
            for i in 0..u64::from(ladder.count) {
                let mut next = at(ladder.start + ladder.stride * i, fork, 1);
                if ladder.stride == 1 && i > 0 {
                    next.parent = headers[headers.len() - 1].hash();
                }
                if next.height <= theirs {
                    headers.push(next);
                }
            }
            let first = headers.first().map(|h| h.height).unwrap_or_default();
            // Ours are those of branch 0, linked in the same way.
            let ours = |height: u64| {
                let mut parent: Option<Header> = None;
                let from = if ladder.stride == 1 { first } else { height };
                for h in from..=height {
                    let mut next = header(h, 0);
                    if let Some(parent) = &parent {
                        next.parent = parent.hash();
                    }
                    parent = Some(next);
                }
                parent.map(|h| h.hash())
            };
            match search.on_headers(&headers, ours) {
                Step::Ask(next) => (ladder, asked) = (next, asked + 1),
                step => return (step, asked),
            }
            assert!(asked < 10);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_fork_is_found_in_few_questions(committed in 0u64..3_000_000, above in 1u64..400, back in 1u64..2_000_000) {
            let head = committed + above;
            let fork = head.saturating_sub(back).min(head - 1);
            let (step, asked) = run(committed, fork, head);
            prop_assert_eq!(step, Step::Fork(fork));
            prop_assert!(asked <= 4, "{} questions", asked);
        }
    }

    #[test]
    fn one_answer_is_enough_above_the_committed_block() {
        assert_eq!(run(100, 105, 113), (Step::Fork(105), 1));
        assert_eq!(run(100, 100, 113), (Step::Fork(100), 1));
        assert_eq!(run(100, 50, 90).0, Step::Fork(50), "a head below our committed block");
        assert_eq!(run(0, 0, 5), (Step::Fork(0), 1));
    }

    #[test]
    fn lies_are_seen() {
        let mut search = Search::new(PeerId::random(), 10, 20);
        let ours = |h: u64| Some(header(h, 0).hash());
        assert_eq!(search.clone().on_headers(&[], ours), Step::Gone);
        assert_eq!(search.clone().on_headers(&[header(11, 0)], ours), Step::Lies, "another height");
        assert_eq!(search.clone().on_headers(&[header(10, 0), header(11, 1)], ours), Step::Lies, "no chain");
        assert!(matches!(search.on_headers(&[header(10, 1)], ours), Step::Ask(Ladder { start: 0, .. })));
        assert_eq!(search.on_headers(&[header(0, 1)], ours), Step::Lies, "another genesis block than it said");
    }
}
