//! Full disks: new data is refused a little before the disk is full.
//!
//! A write that finds no space puts RocksDB into an error state in which it refuses everything, removals too. It leaves
//! that state by itself, within seconds, once one write buffer's worth of disk is free again; nobody has to restart. The
//! reserve keeps it from getting there: while other programs leave some space, messages can be read, cancelled and
//! removed, and the first commit after space was made succeeds at once.

use std::path::{Path, PathBuf};

use super::StoreError;

/// Free bytes below which nothing new is stored: one write buffer being flushed (4 MiB) and its log, laid out in advance.
const RESERVE: u64 = 8 * 1024 * 1024;
/// The same for small writes: receipts, states, records. Twice as patient, because what they follow was accepted.
const SMALL_RESERVE: u64 = RESERVE / 2;
/// Bytes up to which a write is small.
const SMALL: usize = 16 * 1024;

/// The disk that the store is on.
#[derive(Debug)]
pub(super) struct Space {
    path: PathBuf,
    #[cfg(any(test, feature = "test-util"))]
    pretended: std::sync::Mutex<Option<u64>>,
}

impl Space {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            #[cfg(any(test, feature = "test-util"))]
            pretended: std::sync::Mutex::default(),
        }
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn pretend_free(&self, free: Option<u64>) {
        *self.pretended.lock().expect("no panic while held") = free;
    }

    /// Whether `bytes` more may be written: one system call of about a microsecond. Removals need not ask.
    pub(super) fn check(&self, bytes: usize) -> Result<(), StoreError> {
        #[cfg(any(test, feature = "test-util"))]
        if let Some(free) = *self.pretended.lock().expect("no panic while held") {
            return if allows(free, bytes) { Ok(()) } else { Err(full(free)) };
        }
        // A disk that cannot be asked is not full for that; the write itself will tell.
        let Some(free) = self.free() else { return Ok(()) };
        if allows(free, bytes) { Ok(()) } else { Err(full(free)) }
    }

    /// Free bytes; `None` when the disk cannot be asked.
    pub(super) fn free(&self) -> Option<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.path).ok()?;
        #[allow(clippy::useless_conversion, reason = "the counts have 32 bits on macOS")]
        let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
        Some(free)
    }
}

fn allows(free: u64, bytes: usize) -> bool {
    let reserve = if bytes <= SMALL { SMALL_RESERVE } else { RESERVE };
    free.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX)) >= reserve
}

fn full(free: u64) -> StoreError {
    StoreError::DiskFull(format!("{} KiB are left, {} are kept in reserve", free / 1024, RESERVE / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_disk_takes_small_writes_longer_than_large_ones() {
        let mib = |n: u64| n * 1024 * 1024;
        assert!(allows(mib(100), 1024 * 1024));
        assert!(!allows(mib(8), 1024 * 1024), "a body must leave the reserve");
        assert!(allows(mib(8), 1024));
        assert!(allows(mib(5), 1024));
        assert!(!allows(mib(4), 1024));
        assert!(!allows(0, 1));
    }

    #[test]
    fn a_folder_that_is_gone_is_not_a_full_disk() {
        assert_eq!(Space::new(Path::new("/no/such/folder")).check(1), Ok(()));
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Space::new(dir.path()).check(usize::MAX), Err(StoreError::DiskFull(_))));
    }
}
