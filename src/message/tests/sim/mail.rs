//! The simulator's mailboxes: friends, what is left with them, and what owners collect.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::super::{
        mailbox::{Refusal, StoredReceipt},
        outbox::Friend,
    },
    COLLECTED, Event, FRIENDS, NODES, Part, World,
};
use crate::primitives::{GrantId, Hash, MessageId, PeerId};

impl World {
    pub(super) fn friends(&mut self, node: usize, recipient: PeerId) {
        let (now, owner) = (self.clock(), self.nodes.iter().position(|n| n.id == recipient).unwrap());
        let friend = |n: usize| Friend { peer: self.nodes[(owner + n) % NODES].id, grant: Hash([owner as u8; 32]) };
        let all: Vec<_> = (1..=FRIENDS).map(friend).collect();
        let found = if self.fault(20) { Err("nobody knows".into()) } else { Ok(all) };
        self.nodes[node].outbox.friends(now, recipient, found);
        self.carry_out(node);
    }

    pub(super) fn deposit(&mut self, from: (usize, u32), flight: u64, owner: usize, holder: usize, parts: Vec<Part>) {
        let now = self.clock().wall;
        let mut answers = Vec::new();
        for part in parts {
            let id = part.0;
            let busy = self.fault(10);
            let disk = &mut self.nodes[holder].disk;
            if disk.collected.contains(&(owner, id)) {
                answers.push(Err(Refusal::AlreadyDelivered));
            } else if busy {
                answers.push(Err(Refusal::QuotaOwner));
            } else {
                let duplicate = disk.mail.insert((owner, id), (from.0, part)).is_some();
                let (grant, expires_at) = (GrantId([1; 16]), now.plus(Duration::from_secs(86_400)));
                let (stored_at, queue_seq, withdraw) = (now, 1, Hash([2; 32]));
                answers.push(Ok(StoredReceipt { id, grant, stored_at, expires_at, queue_seq, duplicate, withdraw }));
            }
        }
        let answer = if self.fault(20) { Err("answer lost".into()) } else { Ok(answers) };
        self.later(200, Event::Deposited { node: from, flight, answer });
    }

    /// Friends need not keep a message any more.
    pub(super) fn take_back(&mut self, (node, seq): (usize, u64), owner: PeerId) {
        let owner = self.nodes.iter().position(|n| n.id == owner).unwrap();
        let ours = |key: &(usize, MessageId), (from, part): &mut (usize, Part)| {
            key.0 == owner && *from == node && part.1.seq == seq
        };
        for holder in &mut self.nodes {
            self.withdrawn += holder.disk.mail.extract_if(.., ours).count() as u64;
        }
    }

    /// An owner takes what one of its friends holds, through the same door as requests.
    pub(super) fn collect(&mut self, node: usize) {
        let holder = (node + 1 + self.random.below(FRIENDS as u64) as usize) % NODES;
        if !self.offline(node) && !self.offline(holder) {
            self.collect_letters(node, holder);
            let mail = &self.nodes[holder].disk.mail;
            let all: Vec<_> = mail.range((node, MessageId([0; 32]))..).take_while(|(k, _)| k.0 == node).collect();
            let mut by_sender: BTreeMap<usize, Vec<Part>> = BTreeMap::new();
            all.into_iter().for_each(|(_, (from, part))| by_sender.entry(*from).or_default().push(part.clone()));
            for (from, parts) in by_sender {
                self.collected += parts.len() as u64;
                self.request((from, COLLECTED), node, 0, parts);
            }
        }
        self.later(10_000, Event::Collect { node });
    }

    /// A receipt is left with a friend of the sender that is away, or nobody takes it.
    pub(super) fn leave_letter(&mut self, sender: usize, recipient: PeerId, ids: Vec<MessageId>) {
        let holder = (sender + 1 + self.random.below(FRIENDS as u64) as usize) % NODES;
        if !self.offline(holder) && !ids.is_empty() {
            self.nodes[holder].disk.letters.push((sender, recipient, ids));
        }
    }

    /// A sender takes the letters that a friend holds for it; what is not acknowledged comes again.
    fn collect_letters(&mut self, node: usize, holder: usize) {
        let letters = self.nodes[holder].disk.letters.clone();
        for (sender, recipient, ids) in letters.into_iter().filter(|(sender, ..)| *sender == node) {
            self.letters += 1;
            self.receipted(sender, recipient, &ids);
        }
        if !self.fault(20) {
            self.nodes[holder].disk.letters.retain(|(sender, ..)| *sender != node);
        }
    }

    pub(super) fn receipted(&mut self, sender: usize, recipient: PeerId, ids: &[MessageId]) {
        let now = self.clock();
        let headers = self.nodes[sender].disk.outbox.values();
        let seqs: Vec<_> = headers.filter(|h| h.ids.iter().any(|id| ids.contains(id))).map(|h| h.seq).collect();
        seqs.into_iter().for_each(|seq| self.nodes[sender].outbox.receipted(now, seq, recipient));
        self.carry_out(sender);
    }
}
