//! Bootstrap nodes from files: every `*.toml` of a folder with the keys `network` and `nodes`.

use std::{fs, io, path::PathBuf};

use serde::Deserialize;

use crate::{
    config::is_bootstrap,
    primitives::{Multiaddr, NetworkId},
};

/// Longest file read; a node takes about 120 bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Why a bootstrap file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The folder or a file cannot be read.
    #[error("cannot read bootstrap nodes from {path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    network: NetworkId,
    nodes: Vec<Multiaddr>,
}

/// The nodes of all files for our network; an empty folder name means none.
pub(super) fn load(folder: &str, network: &NetworkId) -> Result<Vec<Multiaddr>, BootstrapError> {
    let mut nodes = Vec::new();
    if folder.is_empty() {
        return Ok(nodes);
    }
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |source| BootstrapError::Io { path, source }
    };
    let folder = PathBuf::from(folder);
    for entry in fs::read_dir(&folder).map_err(io(&folder))? {
        let path = entry.map_err(io(&folder))?.path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let malformed = |why: String| BootstrapError::Malformed { path: path.clone(), why };
        if fs::metadata(&path).map_err(io(&path))?.len() > MAX_FILE {
            return Err(malformed(format!("longer than {MAX_FILE} bytes")));
        }
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        let file: File = toml::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        if let Some(addr) = file.nodes.iter().find(|addr| !is_bootstrap(addr)) {
            let why = format!("{addr} does not end in /p2p/<address>, so nobody could check who answers there");
            return Err(malformed(why));
        }
        if file.network == *network {
            nodes.extend(file.nodes);
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "/p2p/12D3KooWBFV128jUxuc2mFTYWSczG3MtGvZnB3x3oEfTkg2KUf4J";

    #[test]
    fn files_of_our_network_count_and_broken_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap();
        let write = |name: &str, network: &str, addr: &str| {
            fs::write(dir.path().join(name), format!("network = \"{network}\"\nnodes = [\"{addr}\"]")).unwrap();
        };
        let addr = format!("/ip4/192.0.2.1/tcp/4001{NODE}");
        write("a.toml", "main", &addr);
        write("b.toml", "other", &format!("/ip4/192.0.2.2/tcp/4001{NODE}"));
        fs::write(dir.path().join("notes.txt"), "not toml").unwrap();
        let nodes = load(folder, &NetworkId::default()).unwrap();
        assert_eq!(nodes, [addr.parse::<Multiaddr>().unwrap()]);
        for wrong in ["nonsense", "/ip4/192.0.2.1/tcp/4001"] {
            write("c.toml", "main", wrong);
            let error = load(folder, &NetworkId::default()).unwrap_err().to_string();
            assert!(error.contains("c.toml"), "{error}");
        }
        assert!(load("", &NetworkId::default()).unwrap().is_empty());
    }

    #[test]
    fn the_files_of_this_repository_can_be_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/bootstrap/networks");
        assert!(load(folder, &NetworkId::default()).is_ok());
    }
}
