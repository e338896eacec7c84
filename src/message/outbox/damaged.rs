//! Parts that are missing or damaged on our disk.

use super::{Item, Now, Outbox};

impl Outbox {
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
}
