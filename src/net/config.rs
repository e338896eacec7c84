//! The `[net]` section.

use serde::{Deserialize, Serialize};

use crate::primitives::Multiaddr;

/// Whether we answer Kademlia queries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtMode {
    /// Server, unless others found that they cannot dial us.
    #[default]
    Auto,
    /// Always.
    Server,
    /// Never: we only ask.
    Client,
}

fn default_listen() -> Vec<Multiaddr> {
    ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"].iter().map(|a| a.parse().expect("a constant")).collect()
}

/// What we believe about being reachable from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReachabilityMode {
    /// What others find when they dial us back.
    #[default]
    Auto,
    /// Others can dial us, whatever they say.
    Public,
    /// Nobody can: reserve a place at relays at once.
    Private,
}

crate::config_section! {
    /// Addrs, peers and limits of the network.
    pub struct Config {
        /// Addrs to listen on. Port 0 takes any free port. TCP, QUIC (`/udp/P/quic-v1`) and WebSocket (`/tcp/P/ws`).
        pub listen: Vec<Multiaddr> = default_listen(),
        /// Addrs that others can reach us at although we cannot see them here (port forwarding, public IP of a cloud host).
        pub external: Vec<Multiaddr> = Vec::new(),
        /// Nodes to join the network at, as multiaddrs ending in `/p2p/<address>`, or as `/dnsaddr/<name>`.
        pub bootstrap: Vec<Multiaddr> = Vec::new(),
        /// Folder of `*.toml` files with more bootstrap nodes (`network`, `nodes`); empty: none.
        pub bootstrap_dir: String = String::new(),
        /// Peers we try to stay connected to.
        pub target_peers: usize = 16,
        /// Connected peers above which the least useful connections are closed.
        pub high_water: usize = 96,
        /// Connections at most, in both directions together.
        pub max_connections: u32 = 300,
        /// Connections at most with one peer (relayed, direct in both directions, one being punched).
        pub max_connections_per_peer: u32 = 4,
        /// Inbound connections at most from one IP address (of IPv6: from one /64). Loopback is exempt.
        pub max_connections_per_ip: u32 = 64,
        /// Megabytes of resident memory above which new connections are refused. 0: no limit.
        pub max_memory_mib: u64 = 512,
        /// Seconds after which a connection that nothing uses is closed.
        pub idle_timeout_s: u64 = 60,
        /// Kademlia: `auto`, `server` or `client`.
        pub dht: DhtMode = DhtMode::Auto,
        /// Kademlia records of others kept for the network.
        pub dht_max_records: usize = 50_000,
        /// Serve as a relay for nodes behind NAT, and answer their reachability tests. Only for public nodes.
        pub relay_server: bool = false,
        /// Relayed connections at once, when serving as a relay.
        pub relay_max_circuits: usize = 256,
        /// Use relays and hole punching when we are behind NAT.
        pub relay_client: bool = true,
        /// Whether others can dial us: `auto` (tested with their help), `public` or `private`.
        pub reachability: ReachabilityMode = ReachabilityMode::Auto,
        /// Ask the router for a port (UPnP).
        pub upnp: bool = false,
        /// Find nodes of the same local network (mDNS).
        pub mdns: bool = false,
        /// File with a pre-shared key (`/key/swarm/psk/1.0.0/` format): only nodes that have it can connect. QUIC is off then,
        /// because it cannot carry the key. Empty: none.
        pub private_key_file: String = String::new(),
    }
}
