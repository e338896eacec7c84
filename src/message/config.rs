//! The `[message]` section.

crate::config_section! {
    /// Limits and times of messages.
    pub struct Config {
        /// Largest body in bytes, sent or received. At most 16777216 (16 MiB).
        pub max_bytes: u64 = 16 * 1024 * 1024,
        /// How long an undelivered message is tried, in seconds, unless the sender says otherwise. At most 2592000 (30 days).
        pub ttl_s: u64 = 14 * 24 * 3600,
        /// Bytes of all undelivered outgoing bodies together; beyond it `send` is refused.
        pub outbox_max_bytes: u64 = 1024 * 1024 * 1024,
        /// Bytes of all received bodies together, a quarter of them for contacts alone; beyond it senders are told to wait.
        pub inbox_max_bytes: u64 = 1024 * 1024 * 1024,
        /// Longest pause between two tries for an offline recipient, in seconds; tries start at one second and double.
        /// A recipient that connects is tried at once.
        pub retry_max_s: u64 = 900,
    }
}
