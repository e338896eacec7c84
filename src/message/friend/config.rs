//! The `[friend]` section.

use serde::{Deserialize, Serialize};

/// What happens to offers of other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// A person decides.
    Ask,
    /// Contacts are accepted, others declined.
    Contacts,
    /// Everybody is accepted while there is room.
    All,
    /// Everybody is declined.
    None,
}

crate::config_section! {
    /// Friend VOS: holding messages for other nodes, and collecting what they hold for us.
    pub struct Config {
        /// Offers of other nodes: `ask` (wait for `vos friend accept`), `contacts` (accept from contacts and from nodes that
        /// hold messages for us, decline others), `all` (accept while there is room), `none` (decline).
        pub accept: Accept = Accept::Ask,
        /// Whether a node becomes a contact when we write to it: contacts may leave messages with our friends.
        pub contact_on_send: bool = true,
        /// Bytes promised to all owners together. An offer beyond it is accepted with a smaller quota, or not at all. What is
        /// held never exceeds it either, whatever was promised before it was lowered.
        pub max_bytes: u64 = 4 * 1024 * 1024 * 1024,
        /// Owners for whom messages are held at most. At most 100000.
        pub max_grants: usize = 64,
        /// Bytes that stay free on the disk when everything promised is used; nothing more is promised, and no message is
        /// taken, beyond it.
        pub reserve_bytes: u64 = 1024 * 1024 * 1024,
        /// How often our friends are asked for mail that nobody told us of, in seconds, spread by up to half of it. 10 to 86400.
        pub poll_s: u64 = 300,
    }
}
