//! Reconciliation of two maps: both sides end with the merge of both, and only what differs travels. No I/O.
//!
//! The initiator asks for the digests of a range's 16 parts, goes down into those that differ, lists the items of small or
//! lowest ranges, then gets what the other has newer and pushes what it has newer itself. A healthy pair costs one
//! exchange of some 700 bytes. The answering side keeps no state.

use std::{collections::VecDeque, sync::Arc};

use super::{
    digest::{Digest, FAN, Range},
    record::Key,
    state::Map,
};
use crate::primitives::Hash;

/// Ranges in one request for digests: 16 digests of 42 bytes each, 172 KiB of answer.
pub(super) const MAX_DIGEST_RANGES: usize = 256;
/// Ranges in one request for items.
pub(super) const MAX_ITEM_RANGES: usize = 1024;
/// Items in one answer, some 80 bytes each: 160 KiB.
pub(super) const MAX_ITEMS: usize = 2048;
/// Keys in one request: 17 KiB.
pub(super) const MAX_KEYS: usize = 512;
/// Bytes of envelopes in one answer.
pub(super) const MAX_ANSWER_BYTES: usize = 224 * 1024;
/// Bytes of envelopes in one push.
pub(super) const MAX_PUSH_BYTES: usize = 56 * 1024;
/// Envelopes in one push: what the other side verifies at once, some 10 ms.
pub(super) const MAX_PUSH: usize = 128;
/// A differing range with at most so many records on either side is listed instead of divided further.
const FEW: u32 = 64;
/// Exchanges in one run: 10000 unknown records take some 40; a peer that always differs ends here.
const MAX_ASKS: usize = 2000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The digests of each range's 16 parts.
    Digests(Vec<Range>),
    /// What is in the ranges; in the first one after a key.
    Items { ranges: Vec<Range>, after: Option<Key> },
    /// Records.
    Get(Vec<Key>),
    /// Takes these.
    Push(Vec<Arc<[u8]>>),
}

/// A record by its standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// For each range asked, 16 digests.
    Digests(Vec<[Digest; FAN as usize]>),
    /// In the order of the ranges asked; `more` when they did not all fit.
    Items { items: Vec<Item>, more: bool },
    /// Envelopes for the first `answered` keys, those unknown left out.
    Records { envelopes: Vec<Vec<u8>>, answered: usize },
    /// How many were new to the other side.
    Pushed(u32),
}

/// Answers anything but a push, which needs verification first. `None` for a request that makes no sense.
pub(super) fn respond(map: &mut Map, ask: &Ask) -> Option<Answer> {
    match ask {
        Ask::Digests(ranges) => {
            if ranges.len() > MAX_DIGEST_RANGES || ranges.iter().any(|r| r.is_leaf()) {
                return None;
            }
            Some(Answer::Digests(ranges.iter().map(|r| digests(map, *r)).collect()))
        }
        Ask::Items { ranges, after } => {
            if ranges.len() > MAX_ITEM_RANGES {
                return None;
            }
            let first = ranges.first().copied();
            let skipped = |range: Range, key: &Key| Some(range) == first && after.is_some_and(|a| *key <= a);
            let all = ranges.iter().flat_map(|r| map.range(*r).filter(move |(k, _)| !skipped(*r, k)));
            let mut items: Vec<_> =
                all.take(MAX_ITEMS + 1).map(|(key, s)| Item { key: *key, seq: s.seq, hash: s.hash }).collect();
            let more = items.len() > MAX_ITEMS;
            items.truncate(MAX_ITEMS);
            Some(Answer::Items { items, more })
        }
        Ask::Get(keys) => {
            if keys.len() > MAX_KEYS {
                return None;
            }
            let (mut envelopes, mut bytes, mut answered) = (Vec::new(), 0, 0);
            for key in keys {
                if let Some(slot) = map.slot(key) {
                    bytes += slot.envelope.len() + 4;
                    if bytes > MAX_ANSWER_BYTES {
                        break;
                    }
                    envelopes.push(slot.envelope.to_vec());
                }
                answered += 1;
            }
            Some(Answer::Records { envelopes, answered })
        }
        Ask::Push(_) => None,
    }
}

fn digests(map: &mut Map, range: Range) -> [Digest; FAN as usize] {
    let mut all = [Digest::default(); FAN as usize];
    for (place, child) in all.iter_mut().zip(range.children()) {
        *place = map.digest(child);
    }
    all
}

/// The other side broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's answer does not fit the question")]
pub(super) struct Nonsense;

/// The asking side.
#[derive(Debug)]
pub(super) struct Initiator {
    ranges: VecDeque<Range>,
    listing: VecDeque<Range>,
    after: Option<Key>,
    wanted: VecDeque<Item>,
    offered: VecDeque<Key>,
    remote_full: bool,
    asks: usize,
    missing: usize,
}

impl Default for Initiator {
    fn default() -> Self {
        Self {
            ranges: [Range::ALL].into(),
            listing: VecDeque::new(),
            after: None,
            wanted: VecDeque::new(),
            offered: VecDeque::new(),
            remote_full: false,
            asks: 0,
            missing: 0,
        }
    }
}

impl Initiator {
    /// The next question; `None` at the end.
    pub(super) fn next(&mut self, map: &Map) -> Option<Ask> {
        self.asks += 1;
        if self.asks > MAX_ASKS {
            return None;
        }
        if !self.ranges.is_empty() {
            let n = self.ranges.len().min(MAX_DIGEST_RANGES);
            return Some(Ask::Digests(self.ranges.iter().take(n).copied().collect()));
        }
        if !self.listing.is_empty() {
            let ranges = self.listing.iter().take(MAX_ITEM_RANGES).copied().collect();
            return Some(Ask::Items { ranges, after: self.after });
        }
        // Others may have brought some of it meanwhile.
        self.wanted.retain(|i| map.wants(&i.key, i.seq, &i.hash));
        if !self.wanted.is_empty() {
            return Some(Ask::Get(self.wanted.iter().take(MAX_KEYS).map(|i| i.key).collect()));
        }
        let (mut push, mut bytes) = (Vec::new(), 0);
        while let Some(key) = self.offered.front()
            && push.len() < MAX_PUSH
        {
            if let Some(slot) = map.slot(key) {
                bytes += slot.envelope.len() + 4;
                if bytes > MAX_PUSH_BYTES {
                    break;
                }
                push.push(slot.envelope.clone());
            }
            self.offered.pop_front();
        }
        (!push.is_empty()).then_some(Ask::Push(push))
    }

    /// Takes the answer to the last question; returns envelopes to verify and merge before the next one.
    ///
    /// # Errors
    /// [`Nonsense`] when the answer does not fit; the run is over then.
    pub(super) fn on_answer(
        &mut self,
        map: &mut Map,
        ask: &Ask,
        answer: Answer,
        remote_full: bool,
    ) -> Result<Vec<Vec<u8>>, Nonsense> {
        self.remote_full = remote_full;
        match (ask, answer) {
            (Ask::Digests(asked), Answer::Digests(theirs)) if asked.len() == theirs.len() => {
                for (range, theirs) in asked.iter().zip(theirs) {
                    self.ranges.pop_front();
                    self.compare(map, *range, &theirs);
                }
                Ok(Vec::new())
            }
            (Ask::Items { ranges, .. }, Answer::Items { items, more }) => {
                self.on_items(map, ranges, &items, more)?;
                Ok(Vec::new())
            }
            (Ask::Get(keys), Answer::Records { envelopes, answered })
                if (1..=keys.len()).contains(&answered) && envelopes.len() <= answered =>
            {
                self.missing += answered - envelopes.len();
                self.wanted.drain(..answered);
                Ok(envelopes)
            }
            (Ask::Push(_), Answer::Pushed(_)) => Ok(Vec::new()),
            _ => Err(Nonsense),
        }
    }

    fn compare(&mut self, map: &mut Map, range: Range, theirs: &[Digest; FAN as usize]) {
        for (child, theirs) in range.children().zip(theirs) {
            let ours = map.digest(child);
            if ours.hash == theirs.hash {
                continue;
            }
            if child.is_leaf() || ours.count.max(theirs.count) <= FEW {
                self.listing.push_back(child);
            } else {
                self.ranges.push_back(child);
            }
        }
    }

    fn on_items(&mut self, map: &Map, asked: &[Range], items: &[Item], more: bool) -> Result<(), Nonsense> {
        let after = self.after;
        let mut items = items.iter().peekable();
        let last = if more { Some(items.clone().last().ok_or(Nonsense)?.key) } else { None };
        for range in asked {
            let start = if Some(range) == asked.first() { after } else { None };
            // What the answer says about this range ends at its last item, when it was cut off there.
            let cut = last.filter(|key| range.contains(key));
            let mut theirs = Vec::new();
            while let Some(item) = items.next_if(|i| range.contains(&i.key)) {
                let rising = theirs.last().is_none_or(|l: &&Item| l.key < item.key);
                if !rising || start.is_some_and(|s| item.key <= s) {
                    return Err(Nonsense);
                }
                theirs.push(item);
            }
            self.compare_items(map, *range, start, cut, &theirs);
            if cut.is_some() {
                self.after = cut;
                return if items.next().is_none() { Ok(()) } else { Err(Nonsense) };
            }
            self.listing.pop_front();
            self.after = None;
        }
        if items.next().is_none() && !more { Ok(()) } else { Err(Nonsense) }
    }

    fn compare_items(&mut self, map: &Map, range: Range, start: Option<Key>, cut: Option<Key>, theirs: &[&Item]) {
        for item in theirs {
            if map.wants(&item.key, item.seq, &item.hash) {
                self.wanted.push_back(**item);
            }
        }
        let ours =
            map.range(range).filter(|(key, _)| start.is_none_or(|s| **key > s) && cut.is_none_or(|c| **key <= c));
        for (key, slot) in ours {
            match theirs.binary_search_by_key(key, |i| i.key) {
                Ok(i) if (slot.seq, slot.hash) > (theirs[i].seq, theirs[i].hash) => self.offered.push_back(*key),
                Err(_) if !self.remote_full => self.offered.push_back(*key),
                _ => {}
            }
        }
    }

    /// Whether it went through to the end and everything the other side announced was handed over.
    pub(super) fn found_everything(&self) -> bool {
        self.missing == 0
            && self.ranges.is_empty()
            && self.listing.is_empty()
            && self.wanted.is_empty()
            && self.offered.is_empty()
    }
}
