//! The data directory: made with mode 0700, held by one daemon at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Why the data directory cannot be used. Each text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another daemon holds it.
    #[error("{path} is in use by the daemon with process id {holder}: stop it, or use another --data-dir")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Its process id, or `unknown`.
        holder: String,
    },
    /// It cannot be made, read or written.
    #[error("cannot use the data directory {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A data directory that we hold. The lock is released on drop, and by the system when the process dies.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder when it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError`]
    pub fn open(path: PathBuf) -> Result<Self, DataDirError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let io = |source| DataDirError::Io { path: path.clone(), source };
        made.map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path.join("daemon.lock")).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                return Err(DataDirError::InUse { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // Only for the message above; a full disk must not keep a daemon from starting to read.
        let mut note = || -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        if let Err(error) = note() {
            tracing::warn!(%error, "could not write our process id into daemon.lock");
        }
        Ok(Self { path, _lock: file })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity key's file.
    #[must_use]
    pub fn identity_key(&self) -> PathBuf {
        self.path.join("identity.key")
    }

    /// The store's folder.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.path.join("db")
    }

    /// The control API's socket.
    #[must_use]
    pub fn api_sock(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// The control API's token for TCP.
    #[must_use]
    pub fn api_token(&self) -> PathBuf {
        self.path.join("api.token")
    }

    /// An empty folder for message bodies on their way in. What a crash left in it is removed.
    ///
    /// # Errors
    /// [`DataDirError::Io`]
    pub fn fresh_spool(&self) -> Result<PathBuf, DataDirError> {
        let path = self.path.join("spool");
        let make = || -> io::Result<()> {
            match fs::remove_dir_all(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            fs::DirBuilder::new().mode(0o700).create(&path)
        };
        make().map_err(|source| DataDirError::Io { path: path.clone(), source })?;
        Ok(path)
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // A process id has at most 10 digits.
    match file.take(16).read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/here");
        let first = DataDir::open(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let error = DataDir::open(path.clone()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        DataDir::open(path).unwrap();
    }

    #[test]
    fn what_a_crash_left_in_the_spool_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path().to_owned()).unwrap();
        fs::write(data.fresh_spool().unwrap().join("left"), b"x").unwrap();
        assert_eq!(fs::read_dir(data.fresh_spool().unwrap()).unwrap().count(), 0);
    }
}
