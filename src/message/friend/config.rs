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
    /// Holding messages for other nodes as their Friend VOS.
    pub struct Config {
        /// Offers of other nodes: `ask` (wait for `vos friend accept`), `contacts` (accept from `friend.contacts` and
        /// from nodes that hold messages for us, decline others), `all` (accept while there is room), `none` (decline).
        pub accept: Accept = Accept::Ask,
        /// Addresses whose offers are accepted with `accept = "contacts"`. At most 1024.
        pub contacts: Vec<String> = Vec::new(),
        /// Bytes promised to all owners together. An offer beyond it is accepted with a smaller quota, or not at all.
        pub max_bytes: u64 = 4 * 1024 * 1024 * 1024,
        /// Owners for whom messages are held at most. At most 100000.
        pub max_grants: usize = 64,
        /// Bytes that stay free on the disk when everything promised is used; nothing more is promised beyond it.
        pub reserve_bytes: u64 = 1024 * 1024 * 1024,
    }
}
