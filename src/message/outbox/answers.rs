//! What became of requests to recipients.

use std::collections::HashMap;

use super::{Answer, Due, Flight, Item, Now, Outbox, Output, PartState, Settle};
use crate::{
    message::{SendState, wire::Code},
    primitives::{MessageId, PeerId, UnixMillis},
};

impl Outbox {
    /// The answer to [`Output::Send`].
    pub(in crate::message) fn answered(&mut self, now: Now, flight: u64, answer: Answer) {
        let Some((peer, items)) = self.landed(flight) else { return };
        match answer {
            Ok((codes, receipted)) if codes.len() == items.len() => {
                self.away.remove(&peer);
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.backoff.reset();
                    state.next_try = state.next_try.min(now.mono);
                }
                let times: HashMap<MessageId, UnixMillis> = receipted.into_iter().collect();
                let mut forged = false;
                for (((seq, index), sealing), code) in items.into_iter().zip(codes) {
                    forged |= self.part_answered(now, (seq, index), sealing, code, &times);
                }
                if forged {
                    self.outputs.push_back(Output::NoReceipt(peer));
                }
            }
            Ok(_) => self.failed(now, peer, &items, "the recipient's answer is malformed"),
            Err(why) => self.failed(now, peer, &items, &why),
        }
        self.pump(now, peer);
    }

    /// A request was not sent, since some of its parts cannot be read: their messages wait, and the others go on.
    pub(in crate::message) fn unreadable(&mut self, now: Now, flight: u64, damaged: &[Item]) {
        let Some((peer, items)) = self.landed(flight) else { return };
        for (item, _) in items {
            let durable = self.entries.get(&item.0).is_some_and(|entry| entry.durable);
            if durable && damaged.contains(&item) {
                self.hold(now, item, "a part of its body is missing or damaged on our disk");
            } else {
                self.put_back(item);
            }
        }
        self.pump(now, peer);
    }

    /// A request has ended: who was asked, and what for.
    fn landed(&mut self, flight: u64) -> Option<(PeerId, Vec<(Item, u32)>)> {
        let Flight { peer, silent_at, items } = self.flights.remove(&flight)?;
        if let Some(at) = silent_at {
            self.due.remove(&(at, Due::Silent(flight)));
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.flights -= 1;
        }
        Some((peer, items))
    }

    /// Whether a promised receipt was missing.
    fn part_answered(
        &mut self,
        now: Now,
        item: Item,
        sealing: u32,
        code: Code,
        times: &HashMap<MessageId, UnixMillis>,
    ) -> bool {
        let (seq, index) = item;
        let Some(entry) = self.entries.get_mut(&seq) else { return false };
        let to = entry.header.to;
        match code {
            _ if !entry.durable && code != Code::Stored => self.keep_back(item),
            Code::Delivered if entry.header.ids.iter().any(|id| times.contains_key(id)) => {
                entry.header.enter(SendState::Sent, now.wall, self.local);
                self.settle(seq, Settle::DELIVERED);
                self.end(now, seq, SendState::Delivered, to);
            }
            Code::Delivered => {
                self.hold(now, item, "the recipient sent no good receipt");
                return true;
            }
            Code::Stored => self.part_stored(now, item),
            Code::NeedReseal if sealing != entry.sealing => self.put_back(item),
            Code::NeedReseal => {
                entry.header.last_error = code.text().to_owned();
                entry.parts[index as usize] = PartState::Held; // in range: it is one of the entry's parts
                let start = !std::mem::replace(&mut entry.resealing, true);
                self.peer(to).held.insert(seq);
                self.pause(seq);
                if start {
                    self.outputs.push_back(Output::Reseal(seq));
                }
            }
            Code::TooLarge | Code::Bad | Code::Expired => {
                code.text().clone_into(&mut entry.header.last_error);
                self.settle(seq, Settle::TAKEN_BACK);
                self.end(now, seq, SendState::Refused, to);
            }
            Code::InboxFull | Code::DiskFull | Code::Busy | Code::Clock => self.hold(now, item, code.text()),
        }
        false
    }

    fn part_stored(&mut self, now: Now, (seq, index): Item) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        let part = &mut entry.parts[index as usize]; // in range: it is one of the entry's parts
        if *part != PartState::Acked {
            *part = PartState::Acked;
            entry.acked += 1;
        }
        entry.backoff.reset();
        if !entry.durable {
            return; // nobody knows of it yet
        }
        if entry.acked < entry.header.parts {
            self.outputs.push_back(Output::Changed { seq, durable: false });
            return;
        }
        // All parts are there, but no receipt came: start again after a pause; what is there is answered at once.
        entry.header.enter(SendState::Sent, now.wall, self.local);
        entry.acked = 0;
        entry.parts.fill(PartState::Held);
        self.outputs.push_back(Output::Changed { seq, durable: true });
        self.hold(now, (seq, index), "the recipient has all parts but sent no receipt yet");
    }
}
