//! Blocks that are known by word only: whose word is broken by the header, and which give way.

use super::{Announcement, Effect, Entry, Fault, Fetcher, Source, Turn};
use crate::primitives::Hash;

impl Fetcher {
    /// What a block is, now that its header is here: who announced something else under its hash lied, and is out.
    pub(in crate::block::broadcast) fn compare(&mut self, truth: Announcement) {
        let hash = truth.point.hash;
        let Some(entry) = self.entries.get_mut(&hash) else { return };
        let lied = |s: &&mut Source| s.turn != Turn::Out && s.said.is_some_and(|said| said != truth);
        let mut liars = Vec::new();
        for source in entry.sources.iter_mut().filter(lied) {
            source.turn = Turn::Out;
            liars.push(source.peer);
        }
        for liar in liars {
            self.release(&hash, &liar);
            self.effects.push(Effect::Blame(liar, Fault::WrongData));
        }
    }

    /// Of the blocks of which there is no header, one of the peer that announces most.
    pub(super) fn least_wanted(&self) -> Option<Hash> {
        let most = |e: &Entry| e.sources.iter().filter_map(|s| self.loads.get(&s.peer)).map(|l| l.entries).max();
        let bare = self.entries.iter().filter(|(_, e)| e.slots.is_none());
        bare.max_by_key(|(hash, e)| (most(e), **hash)).map(|(hash, _)| *hash)
    }
}
