//! The `[mailbox]` section.

crate::config_section! {
    /// What this node keeps for others, and how it collects what others keep for it.
    pub struct Config {
        /// Bytes kept for all owners together; beyond it deposits are refused, whatever was granted.
        pub max_bytes: u64 = 1024 * 1024 * 1024,
        /// Free bytes that deposits leave on the disk.
        pub disk_reserve_bytes: u64 = 256 * 1024 * 1024,
        /// How often our friends are asked for mail that nobody told us of, in seconds. At least 10; spread by up to half of it.
        pub poll_s: u64 = 300,
    }
}
