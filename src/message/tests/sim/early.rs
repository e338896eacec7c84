//! The simulator's sealing: messages of several parts of which some go before the message is durable, or never is.

use std::time::Duration;

use super::{Event, NODES, World};
use crate::message::{inbox::IDLE, lanes::Number, outbox::Header};

/// A part is sealed within this time, in milliseconds: some are sent, answered, lost or repeated meanwhile.
const SEALING: u64 = 150;

impl World {
    /// Begins to seal a message. Nothing of it is on the disk but its number.
    pub(super) fn seal(&mut self, node: usize, header: Header, number: Number) {
        let (seq, epoch) = (header.seq, self.nodes[node].epoch);
        self.nodes[node].sealing.insert(seq, (header, number));
        self.later(SEALING, Event::Sealed { node: (node, epoch), seq, index: 0 });
    }

    /// One part more; after the last one the message is durable, unless that fails.
    pub(super) fn sealed(&mut self, node: (usize, u32), seq: u64, index: u32) {
        let now = self.clock();
        let header = self.nodes[node.0].sealing[&seq].0.clone();
        if self.fault(1) {
            self.nodes[node.0].sealing.remove(&seq);
            self.nodes[node.0].outbox.abandon(seq);
            self.abandoned += 1;
            return;
        }
        if index == header.parts {
            let sealed = self.nodes[node.0].sealing.remove(&seq);
            sealed.into_iter().for_each(|(_, mut number)| number.keep());
            self.nodes[node.0].numbered(header.lane());
            self.nodes[node.0].disk.outbox.insert(seq, header.clone());
            self.nodes[node.0].outbox.add(now, header, true);
        } else {
            if index == 0 {
                self.nodes[node.0].outbox.begin(header);
            }
            self.nodes[node.0].outbox.sealed(now, (seq, index));
            self.later(SEALING, Event::Sealed { node, seq, index: index + 1 });
        }
        self.carry_out(node.0);
    }

    /// In the end only what a sender forgot is incomplete, and that goes, too.
    pub(super) fn sweep(&mut self, seed: u64) {
        (0..NODES).for_each(|node| self.crash(node));
        let over = self.clock().wall.plus(IDLE + Duration::from_secs(1));
        for at in 0..NODES {
            for key in self.nodes[at].disk.assemblies.keys() {
                let sender = self.nodes.iter().find(|n| n.id == key.sender).unwrap();
                assert!(!sender.disk.outbox.contains_key(&key.seq), "SEED={seed}: nothing accepted is incomplete");
            }
            let node = &mut self.nodes[at];
            for assembly in node.inbox.sweep(over) {
                assert!(node.disk.assemblies.remove(&assembly.key).is_some());
            }
            assert!(node.disk.assemblies.is_empty(), "SEED={seed}: nothing incomplete is left");
        }
    }
}
