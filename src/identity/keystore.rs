//! The identity key's file: the libp2p protobuf form of the key pair (68 bytes), mode 0600.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
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

/// Reads the identity key, or makes one when the file does not exist. A new key is on disk, synced, before this returns.
///
/// # Errors
/// [`KeystoreError`] as [`load`], or when the new key cannot be written.
pub fn load_or_create(path: &Path) -> Result<Identity, KeystoreError> {
    match load(path) {
        Err(KeystoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => create(path),
        other => other,
    }
}

fn create(path: &Path) -> Result<Identity, KeystoreError> {
    let identity = Identity::generate();
    let bytes = Zeroizing::new(identity.keypair().to_protobuf_encoding().expect("Ed25519 keys can be encoded"));
    let dir = path.parent().unwrap_or(Path::new("."));
    let temp = path.with_extension("key.new");
    let write = || -> io::Result<()> {
        // A leftover of a crash between write and rename holds a key that nobody has seen.
        match fs::remove_file(&temp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| KeystoreError::Io { path: path.to_owned(), source })?;
    Ok(identity)
}
