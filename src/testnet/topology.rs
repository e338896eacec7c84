//! Who there is in the local network. A TOML file, or N nodes that bootstrap from the first.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

/// Processes at most: two hundred daemons of 40 MiB are 8 GiB.
pub(super) const MAX_NODES: usize = 200;

/// Bytes of a node's name: it is a folder and part of a socket's path.
const MAX_NAME_BYTES: usize = 24;

/// Why a topology is not usable. Each text names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Not TOML, or an unknown key.
    #[error("topology: {0}")]
    Syntax(String),
    /// Too few or too many.
    #[error("a local network has 2 to {MAX_NODES} nodes, not {0}")]
    Count(usize),
    /// A name that cannot be a folder.
    #[error("topology: {0:?} is no name for a node: 1 to {MAX_NAME_BYTES} of a-z, 0-9, - and _")]
    Name(String),
    /// Two nodes of one name.
    #[error("topology: two nodes are called {0}")]
    Twice(String),
    /// A bootstrap node that is not there.
    #[error("topology: {node} bootstraps from {from}, which is not there")]
    Missing {
        /// Who.
        node: String,
        /// From whom.
        from: String,
    },
    /// Nodes that wait for each other.
    #[error("topology: {0} waits for itself: follow its bootstrap nodes")]
    Circle(String),
    /// A role nobody knows.
    #[error("topology: {node} has the unknown role {role}: known are bootstrap and relay")]
    Role {
        /// Who.
        node: String,
        /// What.
        role: String,
    },
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeSpec {
    /// Its name and the name of its folder.
    pub name: String,
    /// `relay` switches the relay server on; `bootstrap` is for the reader.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Names of the nodes it bootstraps from; none: it waits for others.
    #[serde(default)]
    pub bootstrap: Vec<String>,
    /// Keys of its configuration, as `section.key=value`.
    #[serde(default)]
    pub set: Vec<String>,
}

impl NodeSpec {
    /// Everything for `--set`.
    pub(super) fn settings(&self) -> Vec<String> {
        let relay = self.roles.iter().any(|r| r == "relay").then(|| "net.relay_server=true".to_owned());
        relay.into_iter().chain(self.set.iter().cloned()).collect()
    }
}

/// A checked topology: names are unique, bootstrap nodes exist, and everybody can be started after them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topology {
    #[serde(rename = "node", default)]
    pub nodes: Vec<NodeSpec>,
}

impl Topology {
    /// `node1` to `nodeN`; all but the first bootstrap from the first.
    pub(super) fn behind_one(count: usize) -> Result<Self, TopologyError> {
        if !(2..=MAX_NODES).contains(&count) {
            return Err(TopologyError::Count(count));
        }
        let nodes = (1..=count).map(|i| NodeSpec {
            name: format!("node{i}"),
            roles: if i == 1 { vec!["bootstrap".into()] } else { Vec::new() },
            bootstrap: if i == 1 { Vec::new() } else { vec!["node1".into()] },
            set: Vec::new(),
        });
        Ok(Self { nodes: nodes.collect() })
    }

    /// Reads and checks a file's text.
    pub(super) fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text).map_err(|e| TopologyError::Syntax(e.to_string()))?;
        if !(2..=MAX_NODES).contains(&topology.nodes.len()) {
            return Err(TopologyError::Count(topology.nodes.len()));
        }
        let mut names = HashSet::new();
        for node in &topology.nodes {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            if node.name.is_empty() || node.name.len() > MAX_NAME_BYTES || !node.name.bytes().all(fits) {
                return Err(TopologyError::Name(node.name.clone()));
            }
            if !names.insert(node.name.as_str()) {
                return Err(TopologyError::Twice(node.name.clone()));
            }
            if let Some(role) = node.roles.iter().find(|r| !matches!(r.as_str(), "bootstrap" | "relay")) {
                return Err(TopologyError::Role { node: node.name.clone(), role: role.clone() });
            }
        }
        for node in &topology.nodes {
            if let Some(from) = node.bootstrap.iter().find(|from| !names.contains(from.as_str())) {
                return Err(TopologyError::Missing { node: node.name.clone(), from: from.clone() });
            }
        }
        topology.waves()?;
        Ok(topology)
    }

    /// Indices in the order of starting: each wave bootstraps from the waves before it.
    pub(super) fn waves(&self) -> Result<Vec<Vec<usize>>, TopologyError> {
        let mut wave_of: HashMap<&str, usize> = HashMap::new();
        let mut waves = Vec::new();
        while wave_of.len() < self.nodes.len() {
            let ready = |n: &NodeSpec| n.bootstrap.iter().all(|from| wave_of.contains_key(from.as_str()));
            let wave: Vec<usize> = (0..self.nodes.len())
                .filter(|&i| !wave_of.contains_key(self.nodes[i].name.as_str()) && ready(&self.nodes[i]))
                .collect();
            if wave.is_empty() {
                let stuck = self.nodes.iter().find(|n| !wave_of.contains_key(n.name.as_str()));
                return Err(TopologyError::Circle(stuck.map_or_else(String::new, |n| n.name.clone())));
            }
            wave_of.extend(wave.iter().map(|&i| (self.nodes[i].name.as_str(), waves.len())));
            waves.push(wave);
        }
        Ok(waves)
    }

    /// Nodes that others start from and that start from nobody.
    pub(super) fn roots(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|&i| self.nodes[i].bootstrap.is_empty())
            .filter(|&i| self.nodes.iter().any(|n| n.bootstrap.contains(&self.nodes[i].name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_starts_after_its_bootstrap_nodes() {
        let topology = Topology::parse(
            r#"
            [[node]]
            name = "c"
            bootstrap = ["b", "a"]
            set = ["map.full_limit=2"]
            [[node]]
            name = "a"
            roles = ["bootstrap", "relay"]
            [[node]]
            name = "b"
            bootstrap = ["a"]
            "#,
        )
        .unwrap();
        assert_eq!(topology.waves().unwrap(), [vec![1], vec![2], vec![0]]);
        assert_eq!(topology.roots(), [1]);
        assert_eq!(topology.nodes[1].settings(), ["net.relay_server=true"]);
        assert_eq!(topology.nodes[0].settings(), ["map.full_limit=2"]);
    }

    #[test]
    fn the_default_has_one_bootstrap_node() {
        let topology = Topology::behind_one(3).unwrap();
        assert_eq!(topology.waves().unwrap(), [vec![0], vec![1, 2]]);
        assert_eq!(topology.roots(), [0]);
        assert_eq!(Topology::behind_one(1), Err(TopologyError::Count(1)));
        assert_eq!(Topology::behind_one(MAX_NODES + 1), Err(TopologyError::Count(MAX_NODES + 1)));
    }

    #[test]
    fn bad_files_are_refused_with_the_node() {
        let two = |a: &str, b: &str| Topology::parse(&format!("[[node]]\n{a}\n[[node]]\n{b}\n")).unwrap_err();
        assert_eq!(two("name='a'", "name='a'"), TopologyError::Twice("a".into()));
        assert_eq!(two("name='a'", "name='../b'"), TopologyError::Name("../b".into()));
        assert_eq!(
            two("name='a'", "name='b'\nbootstrap=['z']"),
            TopologyError::Missing { node: "b".into(), from: "z".into() }
        );
        assert_eq!(two("name='a'\nbootstrap=['b']", "name='b'\nbootstrap=['a']"), TopologyError::Circle("a".into()));
        assert_eq!(
            two("name='a'", "name='b'\nroles=['king']"),
            TopologyError::Role { node: "b".into(), role: "king".into() }
        );
        assert!(matches!(two("name='a'", "name='b'\ncolour='red'"), TopologyError::Syntax(_)));
        assert_eq!(Topology::parse("").unwrap_err(), TopologyError::Count(0));
    }

    #[test]
    fn the_files_of_this_repository_are_valid() {
        let folder = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("testnet/topology");
        let files: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            Topology::parse(&std::fs::read_to_string(&file).unwrap()).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        }
    }
}
