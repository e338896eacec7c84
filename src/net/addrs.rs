//! Which addrs learnt from others are worth dialling: one rule for what goes to Kademlia and for what map records say.
//!
//! Anybody can claim any addr, and a liar could have the whole network dial an inner host of somebody else. So inner addrs
//! (loopback, private, link-local) count only where they can mean something:
//! * when the peer itself is connected over such a path, which is known for Kademlia;
//! * when nobody is connected yet, as for a record: on a node that listens on no public addr of that family. It is in
//!   a LAN, behind NAT, or alone on this machine, and others there have inner addrs only. A public node has no such neighbours.
//!
//! Names (`/dns4`) cannot be judged before they are resolved, and pass.

use libp2p::multiaddr::Protocol;

use super::is_relayed;
use crate::primitives::{Multiaddr, limits};

/// What makes inner addrs credible.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// The peer is connected over this addr.
    Over(&'a Multiaddr),
    /// It is not connected; we listen on these.
    From(&'a [Multiaddr]),
}

/// The addrs worth dialling, at most as many as a record has.
pub(super) fn usable<'a>(
    addrs: impl IntoIterator<Item = Multiaddr> + 'a,
    seen: Seen<'a>,
) -> impl Iterator<Item = Multiaddr> + 'a {
    let credible = move |addr: &Multiaddr| match (family(addr), seen) {
        (None, _) => true,
        (Some((_, false)), _) => true,
        (_, Seen::Over(remote)) => is_inner(remote),
        (Some((v6, true)), Seen::From(listen)) => {
            // A place at a relay is at the relay's public addr, not ours.
            !listen.iter().any(|l| !is_relayed(l) && family(l) == Some((v6, false)))
        }
    };
    addrs
        .into_iter()
        .filter(move |addr| addr.len() <= limits::MAX_ADDR_BYTES && credible(addr))
        .take(limits::MAX_RECORD_ADDRS)
}

/// Whether an addr leads to an inner host: loopback, private, link-local, or unspecified.
pub(super) fn is_inner(addr: &Multiaddr) -> bool {
    family(addr).is_some_and(|(_, inner)| inner)
}

/// Whether the first host of an addr has IPv6, and whether it, or a later one, is an inner host; `None`: no IP.
fn family(addr: &Multiaddr) -> Option<(bool, bool)> {
    let hosts = addr.iter().filter_map(|p| match p {
        Protocol::Ip4(ip) => Some((false, is_inner_v4(ip))),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => (false, is_inner_v4(ip)),
            None => {
                (true, ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
            }
        }),
        _ => None,
    });
    hosts.reduce(|(v6, inner), (_, next)| (v6, inner || next))
}

fn is_inner_v4(ip: std::net::Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|a| a.parse().unwrap()).collect()
    }

    fn kept(all: &[Multiaddr], seen: Seen<'_>) -> Vec<Multiaddr> {
        usable(all.to_vec(), seen).collect()
    }

    #[test]
    fn inner_addrs_count_over_an_inner_path_or_on_a_node_that_is_not_public() {
        let all = addrs(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.168.1.1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/ip4/198.51.100.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/dns4/example.org/tcp/1",
        ]);
        let (inner, public) = (addrs(&["/ip4/10.0.0.9/tcp/5"]), addrs(&["/ip4/198.51.100.9/tcp/5"]));
        assert_eq!(kept(&all, Seen::Over(&inner[0])), all);
        assert_eq!(kept(&all, Seen::Over(&public[0])), [&all[3..4], &all[5..]].concat());
        assert_eq!(kept(&all, Seen::From(&[])), all, "it listens nowhere");
        assert_eq!(kept(&all, Seen::From(&inner)), all);
        let both = [inner, public].concat();
        assert_eq!(kept(&all, Seen::From(&both)), all[3..], "public in IPv4 only");
        let six = addrs(&["/ip6/2001:db8::9/tcp/5", "/ip4/127.0.0.1/tcp/5"]);
        assert_eq!(kept(&all, Seen::From(&six)), [&all[..4], &all[5..]].concat());
    }

    #[test]
    fn a_public_relay_does_not_hide_an_inner_host_and_lists_are_capped() {
        let peer = crate::primitives::PeerId::random();
        let circuit = format!("/ip4/198.51.100.1/tcp/1/p2p/{peer}/p2p-circuit/ip4/10.0.0.1/tcp/1");
        let public = addrs(&["/ip4/198.51.100.9/tcp/5"]);
        let reserved = addrs(&[&format!("/ip4/198.51.100.1/tcp/1/p2p/{peer}/p2p-circuit")]);
        let inner = addrs(&["/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(kept(&inner, Seen::From(&reserved)), inner, "a place at a relay makes nobody public");
        assert!(kept(&addrs(&[&circuit]), Seen::From(&public)).is_empty());
        let many: Vec<_> = (0..100).map(|i| format!("/ip4/198.51.100.1/tcp/{i}").parse().unwrap()).collect();
        assert_eq!(kept(&many, Seen::From(&public)).len(), limits::MAX_RECORD_ADDRS);
        let long = addrs(&[&format!("/dns4/{}/tcp/1", "a".repeat(400))]);
        assert!(kept(&long, Seen::From(&[])).is_empty());
    }
}
