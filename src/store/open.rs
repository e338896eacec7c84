//! Opening, options and versions.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options};

use super::{Db, Family, LAYOUT_VERSION};

/// Why the store could not be opened. Each text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{0} is in use by another process: stop that daemon, or use another --data-dir")]
    Locked(PathBuf),
    /// Written by a newer program.
    #[error(
        "{path} has layout version {found}, this program knows up to {LAYOUT_VERSION}: upgrade vos, or use another --data-dir"
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// The version found in it.
        found: u32,
    },
    /// No room for what the database writes when it is opened, such as the tables that it makes from its log after a crash.
    #[error("the disk of {0} is full: make some MiB of room and start again; nothing is lost")]
    DiskFull(PathBuf),
    /// The disk or the database failed.
    #[error("cannot open the store {0}: {1}")]
    Failed(PathBuf, String),
}

impl OpenError {
    /// From what the system or RocksDB says.
    pub(super) fn new(path: &Path, error: &dyn std::fmt::Display) -> Self {
        match error.to_string() {
            text if text.contains("No space left") => Self::DiskFull(path.to_owned()),
            text => Self::Failed(path.to_owned(), text),
        }
    }
}

/// RocksDB's own column family.
const DEFAULT_FAMILY: &str = "default";
const VERSION_KEY: &[u8] = b"layout_version";

/// Memory for cached blocks, index and filter blocks of all families.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// One family's write buffer; 14 families and at most [`WRITE_BUFFERS_BYTES`] together.
const WRITE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// All write buffers together.
const WRITE_BUFFERS_BYTES: usize = 16 * 1024 * 1024;
/// What is larger goes to its file without another copy: parts of bodies do.
const FILE_BUFFER_BYTES: u64 = 64 * 1024;
/// The same when files are written past the page cache, where a larger write is a faster one.
const DIRECT_BUFFER_BYTES: u64 = 1024 * 1024;
/// Families flushed at once: bodies of blocks and of messages come at the same time.
const FLUSHES: i32 = 2;
/// Values from this size up go to blob files in body families.
const BLOB_BYTES: u64 = 4 * 1024;

/// The database, and whether files beside it can be written past the page cache.
pub(super) fn open(path: &Path) -> Result<(Db, bool), OpenError> {
    let failed = |e: &dyn std::fmt::Display| OpenError::new(path, e);
    // RocksDB makes only the last folder of the path, and the probe needs it.
    std::fs::create_dir_all(path).map_err(|e| failed(&e))?;
    // What is in it is for nobody else, also where the folder around it is open to others.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(|e| failed(&e))?;
    let direct = takes_direct_writes(path);
    let options = database_options(direct);
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    // Families of an unknown name mean a newer program: list them so that the version check below can say so.
    let mut names: Vec<String> = Family::ALL.iter().map(|f| f.name().to_owned()).collect();
    // Nobody uses it, but RocksDB has it anyway, and with its default buffer it would recover from a full disk only when
    // 64 MiB are free again.
    names.push(DEFAULT_FAMILY.to_owned());
    if path.join("CURRENT").exists() {
        let existing = Db::list_cf(&options, path).map_err(|e| failed(&e))?;
        let unknown: Vec<_> = existing.into_iter().filter(|n| !names.contains(n)).collect();
        names.extend(unknown);
    }
    let descriptors = names.iter().map(|name| {
        let family = Family::ALL.into_iter().find(|f| f.name() == name);
        ColumnFamilyDescriptor::new(name, family_options(&cache, family))
    });
    let db = Db::open_cf_descriptors(&options, path, descriptors).map_err(|e| {
        let text = e.to_string();
        if text.contains("lock hold") || text.contains("Resource temporarily unavailable") {
            OpenError::Locked(path.to_owned())
        } else {
            failed(&text)
        }
    })?;
    check_version(&db, path)?;
    Ok((db, direct))
}

fn check_version(db: &Db, path: &Path) -> Result<(), OpenError> {
    let failed = |e: rocksdb::Error| OpenError::new(path, &e);
    let meta = super::handle(db, Family::Meta);
    let found = db.get_cf(&meta, VERSION_KEY).map_err(failed)?;
    let found = match found.as_deref().map(<[u8; 4]>::try_from) {
        None => None,
        Some(Ok(bytes)) => Some(u32::from_be_bytes(bytes)),
        Some(Err(_)) => return Err(OpenError::Failed(path.to_owned(), "the layout version is damaged".into())),
    };
    match found {
        Some(LAYOUT_VERSION) => Ok(()),
        Some(newer) if newer > LAYOUT_VERSION => Err(OpenError::Newer { path: path.to_owned(), found: newer }),
        // An empty store, or version 1: everything in it is read as it is.
        _ => {
            let mut sync = rocksdb::WriteOptions::default();
            sync.set_sync(true);
            db.put_cf_opt(&meta, VERSION_KEY, LAYOUT_VERSION.to_be_bytes(), &sync).map_err(failed)
        }
    }
}

fn database_options(direct: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_total_wal_size(32 * 1024 * 1024);
    options.set_max_open_files(256);
    // Laid out on the disk in advance; RocksDB's 4 MiB is for large databases.
    options.set_manifest_preallocation_size(256 * 1024);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1024 * 1024);
    options.set_stats_dump_period_sec(0);
    options.set_bytes_per_sync(1024 * 1024);
    options.set_use_direct_io_for_flush_and_compaction(direct);
    options.set_writable_file_max_buffer_size(if direct { DIRECT_BUFFER_BYTES } else { FILE_BUFFER_BYTES });
    #[expect(deprecated, reason = "its successor cannot have more flushes without six compactions")]
    options.set_max_background_flushes(FLUSHES);
    options
}

/// Whether files in `path` can be written past the page cache. Large bodies are: they are hardly read again, and putting them into
/// the cache took a quarter of the processor time of a large message.
#[cfg(target_os = "linux")]
fn takes_direct_writes(path: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let probe = path.join(".direct");
    let opened = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_DIRECT.bits())
        .open(&probe);
    let takes = opened.is_ok_and(super::body::takes_direct_write);
    // Some memory and network file systems refuse the flag after they have made the file.
    let _ = std::fs::remove_file(&probe);
    takes
}

#[cfg(not(target_os = "linux"))]
fn takes_direct_writes(_: &Path) -> bool {
    false
}

fn family_options(cache: &Cache, family: Option<Family>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(DBCompressionType::Lz4);
    if family.is_some_and(Family::holds_bodies) {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(BLOB_BYTES);
        options.set_enable_blob_gc(family.is_some_and(Family::collects_bodies));
        // Bodies fill them faster than one is flushed; all together stay within [`WRITE_BUFFERS_BYTES`].
        options.set_max_write_buffer_number(4);
    }
    options
}
