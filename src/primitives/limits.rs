//! Limits shared by more than one feature, each with its reason.

use std::time::Duration;

/// A signed map record in its envelope, in bytes. Twenty of them fit beside a Kademlia answer's peers; a
/// record of 16 addrs of 64 bytes, 8 friends and 4 keys is about 2.4 KiB.
pub const MAX_RECORD_BYTES: usize = 4 * 1024;

/// Addrs in one record: more would be a port scan by proxy.
pub const MAX_RECORD_ADDRS: usize = 16;

/// Bytes of one addr. `/dns4/<253>/tcp/65535/ws/p2p/<52>` is about 320 in text and fewer in binary.
pub const MAX_ADDR_BYTES: usize = 320;

/// Friend VOS in one record.
pub const MAX_RECORD_FRIENDS: usize = 8;

/// Bytes of a node's name (UTF-8).
pub const MAX_NAME_BYTES: usize = 64;

/// How wrong another node's clock may be before its signed times are refused.
pub const CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

/// Longest validity of a record; it is refreshed well before.
pub const MAX_RECORD_VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Longest validity of a Friend VOS grant; it is renewed well before.
pub const MAX_GRANT_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

/// Longest time that a message is on its way, and longest drain of a revoked grant.
pub const MAX_MESSAGE_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long an owner may collect from a friend that resigned, and by default from one it revoked.
pub const MIN_DRAIN: Duration = Duration::from_secs(7 * 24 * 3600);
