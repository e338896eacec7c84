//! A router that opens ports when it is asked to.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    commands::{run, try_run},
    lab::{Lab, Ports, Router, addr_at, skip},
    view::{addrs, delivers, external, path, reachability},
};
use crate::process::daemon::{eventually, shown};

/// miniupnpd on a router. Dropping it kills the process.
struct Miniupnpd {
    child: Child,
    _dir: TempDir,
}

impl Miniupnpd {
    /// `None`, said once, where the program is missing.
    fn start(router: &Router) -> Option<Self> {
        if let Err(why) = try_run(&["miniupnpd", "--version"], "") {
            skip("UPnP", &why);
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("miniupnpd.conf");
        // The tables and chains are those of the router's rules.
        fs::write(
            &config,
            "ext_ifname=wan\n\
             listening_ip=lan\n\
             enable_upnp=yes\n\
             enable_natpmp=no\n\
             secure_mode=yes\n\
             upnp_table_name=filter\n\
             upnp_nat_table_name=filter\n\
             upnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=miniupnpd_pre\n\
             upnp_nat_postrouting_chain=miniupnpd_post\n\
             uuid=00000000-0000-0000-0000-000000000001\n\
             allow 1024-65535 192.168.1.0/24 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n",
        )
        .unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &router.netns, "miniupnpd", "-d", "-f"]).arg(config);
        // Beside the configuration, so that no other daemon of this machine sees it.
        command.arg("-P").arg(dir.path().join("pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Self { child: command.spawn().unwrap(), _dir: dir };
        let sockets = format!("ip netns exec {} cat /proc/net/udp", router.netns);
        // 1900 is the port for searches: nodes ask once, when they start.
        eventually("miniupnpd listens", || run(&sockets, "").contains(":076C ").then_some(()));
        Some(daemon)
    }
}

impl Drop for Miniupnpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_router_with_upnp_makes_a_node_public_until_it_stops() {
    let Some(mut lab) = Lab::new() else { return };
    let mut router = lab.router("nat", "11.0.0.2", Ports::Kept);
    let Some(_miniupnpd) = Miniupnpd::start(&router) else { return };
    let inside = lab.behind(&mut router, "a");
    let (place, outside) = (lab.public("hub", "11.0.0.1"), lab.public("outside", "11.0.0.4"));
    let hub = place.home(&[]);
    let at_hub = hub.start(&["--name", "hub"]);
    let node = inside.home(&["--bootstrap", &place.addr(&at_hub), "--set", "net.upnp=true"]);
    let at_node = node.start(&["--name", "alice"]);
    let mapped = ["/ip4/11.0.0.2/tcp/4001", "/ip4/11.0.0.2/udp/4001/quic-v1"];
    eventually("both ports are mapped", || {
        let external = external(&node);
        mapped.iter().all(|addr| external.iter().any(|e| e.starts_with(addr))).then_some(())
    });
    assert_eq!(reachability(&node), "public");
    eventually("the record says it", || {
        let addrs = addrs(&hub, &at_node.address);
        mapped.iter().all(|addr| addrs.iter().any(|a| a.starts_with(addr))).then_some(())
    });
    // A node that nobody inside ever spoke to.
    let stranger = outside.home(&[]);
    let _at_stranger = stranger.start(&["--name", "stranger"]);
    let dialled = stranger.run(&["connect", &addr_at(&router.ip, &at_node)]);
    assert!(dialled.status.success(), "{}", shown(&dialled));
    assert_eq!(path(&stranger, &at_node.address), "direct");
    delivers(&stranger, &at_node.address, "knock knock");
    // It leaves no open door behind.
    assert!(at_node.terminate().0.success());
    let chain = format!("ip netns exec {} nft list chain inet filter miniupnpd_pre", router.netns);
    assert!(!run(&chain, "").contains("4001"), "{}", run(&chain, ""));
}

#[test]
fn a_node_that_is_carried_to_another_router_is_mapped_there() {
    let Some(mut lab) = Lab::new() else { return };
    let mut routers = [lab.router("nat-a", "11.0.0.2", Ports::Kept), lab.router("nat-b", "11.0.0.3", Ports::Kept)];
    let Some(_at_a) = Miniupnpd::start(&routers[0]) else { return };
    let Some(_at_b) = Miniupnpd::start(&routers[1]) else { return };
    let mut inside = lab.behind(&mut routers[0], "a");
    let place = lab.public("hub", "11.0.0.1");
    let hub = place.home(&[]);
    let at_hub = hub.start(&["--name", "hub"]);
    let node = inside.home(&["--bootstrap", &place.addr(&at_hub), "--set", "net.upnp=true"]);
    let at_node = node.start(&["--name", "alice"]);
    let only_at = |ip: &str| {
        let addrs = addrs(&hub, &at_node.address);
        let public: Vec<_> = addrs.iter().filter(|a| a.starts_with("/ip4/11.")).collect();
        // TCP and QUIC.
        (public.len() == 2 && public.iter().all(|a| a.contains(ip))).then_some(())
    };
    eventually("mapped by the first router", || only_at("/11.0.0.2/"));
    lab.carry_behind(&mut inside, &mut routers[1]);
    eventually("mapped by the second router and no more by the first", || only_at("/11.0.0.3/"));
    // It may have a connection to the old place for some seconds.
    eventually("reached", || (path(&hub, &at_node.address) == "direct").then_some(()));
}
