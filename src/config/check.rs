//! Ranges of values, and values that must fit each other.

use super::{Config, ConfigError, load::shorten};
use crate::{
    block::{
        MAX_BODY_BYTES,
        chain::{MAX_BRANCH_BYTES, MAX_COMMIT_DEPTH, MAX_DEEP_REORG},
    },
    net,
    primitives::{
        Multiaddr,
        limits::{MAX_ADDR_BYTES, MAX_NAME_BYTES, MAX_RECORD_VALIDITY},
        multiaddr::Protocol,
    },
};

/// Bytes of blocks that are not final, on one branch.
const MOST: u64 = MAX_BRANCH_BYTES as u64; // usize fits in u64
/// Largest body of a message in bytes: what the wire format was sized for.
const MAX_MESSAGE_BYTES: u64 = 16 * 1024 * 1024;
/// 30 days in seconds.
const MAX_MESSAGE_TTL_S: u64 = 30 * 24 * 3600;
/// A year in seconds: longer intervals are mistakes.
const YEAR_S: u64 = 365 * 24 * 3600;
/// An exbibyte: larger budgets are mistakes, and TOML has no larger integers than 2^63 - 1.
const MAX_BYTES: u64 = 1 << 60;
/// Owners for whom one node holds messages: 2 KiB of memory each.
const MAX_GRANTS: u64 = 100_000;

impl Config {
    /// Checks every range; [`Config::load`] calls it.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the first key that is wrong and its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name(&self.node.name).map_err(|problem| ConfigError::Invalid(format!("node.name: {problem}")))?;
        self.check_numbers()?;
        self.check_addrs()?;
        self.check_interval()?;
        self.check_branch()?;
        if let Some(addr) = self.api.tcp.addr()
            && !addr.ip().is_loopback()
        {
            return Err(ConfigError::Invalid(format!(
                "api.tcp: {addr} is not a loopback address; use 127.0.0.1 or [::1]"
            )));
        }
        if let Err(e) = tracing_subscriber::EnvFilter::builder().parse(&self.log.level) {
            return Err(ConfigError::Invalid(format!(
                "log.level: {} is not a log filter: {e}",
                shorten(&self.log.level)
            )));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (net, map, message, friend) = (&self.net, &self.map, &self.message, &self.friend);
        let (chain, block) = (&self.chain, &self.block);
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let ranges = [
            ("net.target_peers", wide(net.target_peers), 1, 10_000),
            ("net.high_water", wide(net.high_water), wide(net.target_peers), 100_000),
            ("net.max_connections", net.max_connections.into(), 1, 1_000_000),
            ("net.max_connections_per_peer", net.max_connections_per_peer.into(), 1, 64),
            ("net.max_connections_per_ip", net.max_connections_per_ip.into(), 1, 1_000_000),
            ("net.max_memory_mib", net.max_memory_mib, 0, 1 << 30),
            ("net.idle_timeout_s", net.idle_timeout_s, 1, YEAR_S),
            ("net.dht_max_records", wide(net.dht_max_records), 1, 100_000_000),
            ("net.relay_max_circuits", wide(net.relay_max_circuits), 1, 1_000_000),
            ("map.full_limit", wide(map.full_limit), 1, 100_000_000),
            ("map.record_ttl_s", map.record_ttl_s, 600, MAX_RECORD_VALIDITY.as_secs()),
            ("map.sync_interval_s", map.sync_interval_s, 1, YEAR_S),
            ("map.dht_interval_s", map.dht_interval_s, 60, YEAR_S),
            ("map.author_rate_per_h", map.author_rate_per_h.into(), 1, 1_000_000),
            ("message.max_bytes", message.max_bytes, 1, MAX_MESSAGE_BYTES),
            ("message.ttl_s", message.ttl_s, 1, MAX_MESSAGE_TTL_S),
            ("message.outbox_max_bytes", message.outbox_max_bytes, 0, MAX_BYTES),
            ("message.inbox_max_bytes", message.inbox_max_bytes, 0, MAX_BYTES),
            ("message.retry_max_s", message.retry_max_s, 1, MAX_MESSAGE_TTL_S),
            ("friend.max_bytes", friend.max_bytes, 0, MAX_BYTES),
            ("friend.max_grants", wide(friend.max_grants), 0, MAX_GRANTS),
            ("friend.reserve_bytes", friend.reserve_bytes, 0, MAX_BYTES),
            ("friend.poll_s", friend.poll_s, 10, 86_400),
            ("chain.spacing_ms", chain.spacing_ms, 0, 3_600_000),
            ("chain.commit_depth", chain.commit_depth, 1, MAX_COMMIT_DEPTH),
            ("chain.deep_reorg_max", chain.deep_reorg_max, 0, MAX_DEEP_REORG),
            ("chain.max_bytes", wide(chain.max_bytes), 131_072, wide(MAX_BODY_BYTES)),
            ("block.degree", wide(block.degree), 0, 64),
            ("block.interval_ms", block.interval_ms, 100, 3_600_000),
            ("block.pool_transactions", wide(block.pool_transactions), 1, 10_000_000),
            ("block.pool_bytes", wide(block.pool_bytes), 65_536, 1 << 30),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Invalid(format!("{key}: {value} is out of range, {min} to {max}")));
            }
        }
        Ok(())
    }

    /// A producer makes no blocks that nobody would take. The ranges are checked.
    fn check_interval(&self) -> Result<(), ConfigError> {
        let (interval, spacing) = (self.block.interval_ms, self.chain.spacing_ms);
        match self.block.produce && interval < spacing {
            true => Err(ConfigError::Invalid(format!(
                "block.interval_ms: blocks every {interval} ms are nearer to each other than chain.spacing_ms = {spacing} lets them be: \
                 raise it, or lower chain.spacing_ms on every node of the network"
            ))),
            false => Ok(()),
        }
    }

    /// Two branches that are not final fit in the chain's tree. The ranges are checked.
    fn check_branch(&self) -> Result<(), ConfigError> {
        let chain = &self.chain;
        let fits = |depth: u64| u64::try_from(chain.max_bytes).unwrap_or(u64::MAX).saturating_mul(depth) <= MOST;
        if !fits(chain.commit_depth) {
            return Err(ConfigError::Invalid(format!(
                "chain: commit_depth = {} blocks of max_bytes = {} come to more than {MOST} bytes: lower one of them, on every node of the \
                 network",
                chain.commit_depth, chain.max_bytes
            )));
        }
        match fits(chain.commit_depth + chain.deep_reorg_max) {
            true => Ok(()),
            false => Err(ConfigError::Invalid(format!(
                "chain.deep_reorg_max: with commit_depth = {} and max_bytes = {} it can be {} at most",
                chain.commit_depth,
                chain.max_bytes,
                chain.deep_reorg_most()
            ))),
        }
    }

    fn check_addrs(&self) -> Result<(), ConfigError> {
        let lists = [
            ("net.listen", &self.net.listen),
            ("net.external", &self.net.external),
            ("net.bootstrap", &self.net.bootstrap),
        ];
        for (key, addrs) in lists {
            for addr in addrs {
                let text = addr.to_string();
                if text.len() > MAX_ADDR_BYTES {
                    return Err(ConfigError::Invalid(format!(
                        "{key}: {} is longer than {MAX_ADDR_BYTES}",
                        shorten(&text)
                    )));
                }
            }
        }
        if let Err(producer) = self.chain.validator() {
            return Err(ConfigError::Invalid(format!(
                "chain.producers: {} is not the address of a node",
                shorten(&producer)
            )));
        }
        match self.net.bootstrap.iter().find(|addr| !is_bootstrap(addr)) {
            Some(addr) => Err(ConfigError::Invalid(format!(
                "net.bootstrap: {addr} does not end in /p2p/<address>, so nobody could check who answers there"
            ))),
            None => Ok(()),
        }
    }
}

/// Whether a node can be joined at. A `/dnsaddr` name resolves to full addrs, so it may leave the address out.
#[must_use]
pub fn is_bootstrap(addr: &Multiaddr) -> bool {
    net::peer_of(addr).is_some() || matches!(addr.iter().next(), Some(Protocol::Dnsaddr(_)))
}

/// Why a text cannot be a node's name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("{} bytes, at most {MAX_NAME_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("{} has control characters", shorten(name)));
    }
    Ok(())
}
