//! The `[map]` section.

crate::config_section! {
    /// What the VOS Map keeps and how often it talks.
    pub struct Config {
        /// Records up to which this node keeps the whole map; beyond it, a bounded cache of this many with
        /// friends and contacts pinned, and look-ups through Kademlia. At least 1.
        pub full_limit: usize = 10_000,
        /// Validity of our own record in seconds; it is refreshed after a quarter of it. While a node is offline others send to its
        /// friends for as long as its last record is valid. 600 to 604800 (7 days).
        pub record_ttl_s: u64 = 7 * 24 * 3600,
        /// Seconds between two comparisons of the map with a random peer, with jitter. At least 1.
        pub sync_interval_s: u64 = 30,
        /// Seconds between two publications of our record in Kademlia, with jitter. At least 60.
        pub dht_interval_s: u64 = 3 * 3600,
        /// New records accepted from one author within an hour; more are dropped.
        pub author_rate_per_h: u32 = 120,
    }
}
