//! The simulator's crashes and lost keys: what a node does again.

use std::time::Duration;

use super::{World, inbox, part_id};
use crate::message::{
    inbox::Assembly,
    outbox::{Outbox, is_end},
};

impl World {
    pub(super) fn reseal(&mut self, node: usize, seq: u64) {
        let now = self.clock();
        let Some((header, _)) = self.nodes[node].outbox.get(seq) else { return };
        let mut header = header.clone();
        let keys = self.nodes.iter().find(|n| n.id == header.to).unwrap().keys;
        let result = if keys.to_be_bytes() == header.key_id || self.fault(20) {
            Err("no other key yet".into())
        } else {
            header.ids.push(part_id(node, seq, header.ids.len(), 0));
            header.key_id = keys.to_be_bytes();
            self.nodes[node].disk.outbox.insert(seq, header.clone());
            Ok(header)
        };
        self.nodes[node].outbox.resealed(now, seq, result);
        self.carry_out(node);
    }

    pub(super) fn crash(&mut self, at: usize) {
        let (now, seed) = (self.clock(), self.random.below(u64::MAX));
        let node = &mut self.nodes[at];
        node.epoch += 1;
        self.forgotten += node.sealing.len() as u64;
        node.sealing.clear();
        node.load_order(now.mono);
        node.outbox = Outbox::new(node.id, Duration::from_secs(30), seed);
        node.inbox = inbox();
        for (assembly, stored) in node.disk.assemblies.values_mut() {
            let mut fresh =
                Assembly::new((assembly.key, assembly.rank), assembly.slot, assembly.total, assembly.body_id);
            (fresh.sent_at, fresh.expires_at) = (assembly.sent_at, assembly.expires_at);
            (fresh.id, fresh.touched_at) = (assembly.id, assembly.touched_at);
            // Parts of large bodies are not synced before the last one came: some of them are lost.
            stored.retain(|_| self.random.below(2) == 0);
            stored.iter().for_each(|index| fresh.found(*index));
            node.inbox.load(fresh);
        }
        let pending: Vec<_> = node.disk.outbox.values().filter(|h| !is_end(h.state)).cloned().collect();
        pending.into_iter().for_each(|header| node.outbox.add(now, header, false));
        self.carry_out(at);
    }
}
