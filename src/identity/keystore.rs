//! The identity key's file: the libp2p protobuf form of the key pair (68 bytes), mode 0600.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use libp2p::identity::{KeyType, Keypair};
use zeroize::Zeroizing;

use super::Identity;

/// Longest key file we read: an Ed25519 key pair is 68 bytes; anything longer is another kind of file.
const MAX_KEY_FILE: u64 = 1024;

/// Why the identity key cannot be used. Each text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// Others than the owner may read the key.
    #[error(
        "{path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`, and make a new identity if others had access"
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key of ours.
    #[error("{path} is not an Ed25519 identity key: restore it from a backup, or move it away to get a new identity")]
    Malformed {
        /// The key's file.
        path: PathBuf,
    },
    /// There is no key where there was one.
    #[error(
        "{path} is missing, and {store} is of a node that had one: restore the key from a backup (or mount what holds it), use another \
         --data-dir, or move that folder away to begin with a new identity"
    )]
    Missing {
        /// The key's file.
        path: PathBuf,
        /// The node's store beside it.
        store: PathBuf,
    },
    /// A link to the key leads nowhere.
    #[error(
        "{path} is a link that leads nowhere: mount or restore what it leads to, or remove it to get a new identity"
    )]
    Dangling {
        /// The link.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the identity key.
///
/// # Errors
/// [`KeystoreError`] when it is missing, readable by others, or not an Ed25519 key.
pub fn load(path: &Path) -> Result<Identity, KeystoreError> {
    let io = |source| KeystoreError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeystoreError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(128));
    file.take(MAX_KEY_FILE).read_to_end(&mut bytes).map_err(io)?;
    match Keypair::from_protobuf_encoding(&bytes) {
        Ok(keypair) if keypair.key_type() == KeyType::Ed25519 => Ok(Identity::from_keypair(keypair)),
        _ => Err(KeystoreError::Malformed { path: path.to_owned() }),
    }
}

/// Reads the identity key, or makes one when the file does not exist and nobody ever ran here. A new key is on disk, synced, before
/// this returns; of two who make one at once both get the same.
///
/// # Errors
/// [`KeystoreError`] as [`load`], or when the new key cannot be written, or when a store beside it or a link say that there was one.
pub fn load_or_create(path: &Path) -> Result<Identity, KeystoreError> {
    match load(path) {
        Err(KeystoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    if path.is_symlink() {
        return Err(KeystoreError::Dangling { path: path.to_owned() });
    }
    let store = folder(path).join("db");
    if store.join("CURRENT").exists() {
        return Err(KeystoreError::Missing { path: path.to_owned(), store });
    }
    create(path)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn create(path: &Path) -> Result<Identity, KeystoreError> {
    let identity = Identity::generate();
    let bytes = Zeroizing::new(identity.keypair().to_protobuf_encoding().expect("Ed25519 keys can be encoded"));
    let dir = folder(path);
    // Under a name of its own, readable by nobody else, until it is whole.
    let write = || -> io::Result<bool> {
        let mut file = tempfile::Builder::new().prefix(".identity-").suffix(".new").tempfile_in(dir)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e.error),
        }
        File::open(dir)?.sync_all()?;
        Ok(true)
    };
    match write().map_err(|source| KeystoreError::Io { path: path.to_owned(), source })? {
        true => Ok(identity),
        // Somebody else was quicker.
        false => load(path),
    }
}
