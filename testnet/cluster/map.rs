//! The VOS Map among real nodes on loopback.

use std::time::Duration;

use vos::{
    map::State,
    test_util::{Member, config, until},
};

async fn cluster(n: usize) -> Vec<Member> {
    let mut all = vec![Member::start("node0", config(&[])).await];
    let bootstrap = [all[0].multiaddr()];
    for i in 1..n {
        all.push(Member::start(&format!("node{i}"), config(&bootstrap)).await);
    }
    all
}

fn complete(all: &[Member], n: usize) -> bool {
    let stats: Vec<_> = all.iter().map(|m| m.node.map.stats()).collect();
    stats.iter().all(|s| s.records == n && s.digest == stats[0].digest)
}

async fn stop(all: Vec<Member>) {
    for member in all {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_map_becomes_complete_from_one_bootstrap_node() {
    let _turn = super::beside_others().await;
    let all = cluster(5).await;
    until("all maps are equal", || complete(&all, 5)).await;
    let found = all[4].node.map.find_name("node2");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].address, all[2].address());
    stop(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_name_reaches_everybody() {
    let _turn = super::beside_others().await;
    let all = cluster(4).await;
    until("all maps are equal", || complete(&all, 4)).await;
    all[3].node.map.set_name("renamed".to_owned()).await.unwrap();
    until("the new name is known", || all.iter().all(|m| m.node.map.find_name("renamed").len() == 1)).await;
    assert!(all[0].node.map.find_name("node3").is_empty());
    stop(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_goodbye_is_offline_and_who_comes_back_without_bootstrap_is_known_again() {
    let _turn = super::beside_others().await;
    let mut all = cluster(4).await;
    until("all maps are equal", || complete(&all, 4)).await;
    let gone = all.pop().unwrap();
    let address = gone.address();
    assert_eq!(all[1].node.map.online(address, Duration::from_secs(10)).await.state, State::Online);
    let dir = gone.stop().await;
    assert_eq!(all[1].node.map.online(address, Duration::from_secs(10)).await.state, State::Offline);
    // The bootstrap node goes too; the saved map is all that is left.
    all.remove(0).stop().await;
    let back = Member::start_in(dir, "node3", config(&[])).await;
    assert_eq!(back.address(), address);
    let port = back.node.info.listen[0].clone();
    until("the new addr is known", || {
        all.iter().all(|m| m.node.map.get(&address).is_some_and(|e| e.addrs.contains(&port)))
    })
    .await;
    all.push(back);
    stop(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_heals_into_equal_maps() {
    let _turn = super::beside_others().await;
    let all = cluster(6).await;
    until("all maps are equal", || complete(&all, 6)).await;
    let (left, right) = all.split_at(3);
    for a in left {
        for b in right {
            a.node.net.ban(b.address()).await.unwrap();
            b.node.net.ban(a.address()).await.unwrap();
        }
    }
    left[1].node.map.set_name("left".to_owned()).await.unwrap();
    right[1].node.map.set_name("right".to_owned()).await.unwrap();
    until("each side knows its own", || {
        left.iter().all(|m| m.node.map.find_name("left").len() == 1)
            && right.iter().all(|m| m.node.map.find_name("right").len() == 1)
    })
    .await;
    assert!(left.iter().all(|m| m.node.map.find_name("right").is_empty()), "the cut leaks");
    for a in left {
        for b in right {
            a.node.net.unban(b.address()).await.unwrap();
            b.node.net.unban(a.address()).await.unwrap();
        }
    }
    until("equal maps with both changes", || {
        complete(&all, 6)
            && all.iter().all(|m| m.node.map.find_name("left").len() == 1 && m.node.map.find_name("right").len() == 1)
    })
    .await;
    stop(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_cache_finds_a_name_through_kademlia() {
    let _turn = super::beside_others().await;
    let mut all = cluster(5).await;
    until("all maps are equal", || complete(&all, 5)).await;
    let mut small = config(&[all[0].multiaddr()]);
    small.map.full_limit = 2;
    let last = Member::start("small", small).await;
    until("it has a peer", || last.node.net.peer_count() > 0).await;
    let missing = (1..5).map(|i| format!("node{i}")).find(|name| last.node.map.find_name(name).is_empty());
    let name = missing.expect("a cache of two lacks one of four");
    // The owner may still be telling Kademlia about its name.
    let found = async {
        loop {
            if let Ok(found) = last.node.map.resolve_name(&name).await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), found).await.unwrap();
    assert_eq!((found.len(), found[0].name.as_str()), (1, name.as_str()));
    assert!(found[0].from_dht);
    all.push(last);
    stop(all).await;
}
