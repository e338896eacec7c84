//! Traps of gossipsub, one test each, under the very configuration that we run. The numbers are those of the design of block exchange;
//! the table with all of them is in `block/tests/defects.rs`.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::SelectAll};
use libp2p::{
    Swarm, SwarmBuilder, gossipsub,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use tokio::sync::mpsc;

use crate::{
    identity::Identity,
    net::{
        behaviour, pubsub,
        pubsub::{MAX_PAYLOAD, Mesh, PublishError, Publisher, Received, Topics, Verdict},
        raw::{Link, Raw, frame},
        transport,
    },
    primitives::NetworkId,
    telemetry::Registry,
    test_util::{Node, node, until},
};

const NEWS: &str = "news/1";

fn name() -> String {
    NetworkId::default().name(NEWS)
}

fn id(data: &[u8]) -> Vec<u8> {
    let message = gossipsub::Message {
        source: None,
        data: data.to_vec(),
        sequence_number: None,
        topic: gossipsub::IdentTopic::new(name()).hash(),
    };
    let mut topics = Topics::new(NetworkId::default());
    drop(topics.add(NEWS, Mesh::default()));
    behaviour::gossip_config(&topics).unwrap().message_id(&message).0
}

async fn start(mesh: Mesh) -> (Node, Publisher, mpsc::Receiver<Received>) {
    let (node, (publisher, received)) = node(Node::config(), |_, topics| topics.add(NEWS, mesh)).await;
    (node, publisher, received)
}

async fn next(received: &mut mpsc::Receiver<Received>) -> Received {
    tokio::time::timeout(Duration::from_secs(30), received.recv()).await.expect("in time").expect("open")
}

/// Two nodes that listen to each other.
async fn two(mesh: Mesh) -> [(Node, Publisher, mpsc::Receiver<Received>); 2] {
    let both = [start(mesh).await, start(mesh).await];
    both[0].0.handle.connect(both[1].0.addrs[0].clone()).await.unwrap();
    let ids = [both[0].0.handle.local(), both[1].0.handle.local()];
    until("they listen", || both[0].1.reaches(&ids[1]) && both[1].1.reaches(&ids[0])).await;
    both
}

/// A peer that listens to the topic, with the stream on which it sends and the one on which it is sent to.
async fn listener(node: &Node, publisher: &Publisher) -> (Raw, Link, Link) {
    let (mut raw, ()) = Raw::dial(&node.addrs[0], |_| ());
    let out = raw.open(frame::subscribe(&name())).await.unwrap();
    let into = raw.accept().await;
    until("it listens", || publisher.reaches(&raw.id)).await;
    (raw, out, into)
}

#[tokio::test]
async fn l1_a_peer_that_takes_nothing_is_noticed_and_not_counted_on() {
    let (node, publisher, _received) = start(Mesh::default()).await;
    let (mute, _out, _into) = listener(&node, &publisher).await;
    let (_keen, _keen_out, mut keen_into) = listener(&node, &publisher).await;
    let reader = async {
        loop {
            keen_into.receive().await;
        }
    };
    // What its link takes, and then what its queue takes.
    let flood = async {
        let mut sent = 0_u64;
        while publisher.reaches(&mute.id) {
            let data = [&sent.to_be_bytes()[..], &[0; MAX_PAYLOAD - 8]].concat();
            match publisher.publish(data).await {
                Ok(()) => sent += 1,
                Err(PublishError::Busy) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
        sent
    };
    let sent = tokio::select! {
        sent = tokio::time::timeout(Duration::from_secs(60), flood) => sent.expect("it is noticed"),
        () = reader => unreachable!("it ends with the test"),
    };
    assert!(sent > 10, "it was not slow from the start");
    assert!(node.handle.peers().iter().any(|p| p.address == mute.id), "its connection carries other things and stays");
}

#[tokio::test]
async fn l1_a_frame_over_the_limit_costs_its_stream_and_nothing_else() {
    let (node, publisher, mut received) = start(Mesh::default()).await;
    let (mut raw, mut out, mut into) = listener(&node, &publisher).await;
    let (_honest, mut honest_out, mut honest_into) = listener(&node, &publisher).await;
    let wrong =
        [frame::publish(&name(), &vec![7; 4 * MAX_PAYLOAD]), frame::claiming(1 << 30), frame::claiming(usize::MAX)];
    for (n, frame) in (0_u8..).zip(wrong) {
        out.offer(&frame).await;
        honest_out.send(&frame::publish(&name(), &[n, 1])).await;
        assert_eq!(next(&mut received).await.data, [n, 1], "others are heard");
        // The library may open five on a connection (L14).
        out = raw.open(frame::publish(&name(), &[n, 2])).await.expect("another stream");
        assert_eq!(next(&mut received).await.data, [n, 2], "and so is who sent it, on a new stream");
    }
    publisher.publish(b"to all".to_vec()).await.unwrap();
    into.receive_with(b"to all").await;
    honest_into.receive_with(b"to all").await;
}

#[tokio::test]
async fn l2_l3_a_payload_as_large_as_can_be_arrives_whatever_comes_right_behind_it() {
    let [(_a, from_a, _), (_b, _, mut at_b)] = two(Mesh::default()).await;
    const PAIRS: u8 = 60;
    // The limit is one of payloads, so what is put around them must fit, and the start of the next frame too: all are in the queue at
    // once, so each follows right behind the one before.
    let pairs = (0..PAIRS).flat_map(|i| [MAX_PAYLOAD, 6000].map(|bytes| [vec![i], vec![0; bytes - 1]].concat()));
    for published in futures::future::join_all(pairs.map(|data| from_a.publish(data))).await {
        published.unwrap();
    }
    let mut seen = HashSet::new();
    while seen.len() < 2 * usize::from(PAIRS) {
        let received = next(&mut at_b).await;
        seen.insert((received.data[0], received.data.len()));
    }
    // So on a topic of its own size.
    let [(_c, from_c, _), (_d, _, mut at_d)] = two(Mesh::default().with_max_payload(100)).await;
    assert_eq!(from_c.publish(vec![1; 101]).await, Err(PublishError::TooLarge));
    assert_eq!(from_c.publish(vec![1; 100]).await, Ok(()));
    assert_eq!(next(&mut at_d).await.data.len(), 100);
}

#[test]
fn l4_gossipsub_is_given_numbers_for_every_topic_and_they_fit_together() {
    for i in 0..200 {
        let mut topics = Topics::new(NetworkId::default());
        let given =
            [Mesh::root_of(i), Mesh::everybody(i), Mesh::of_degree(i).with_max_payload(i * 10), Mesh::default()];
        for (n, mesh) in given.iter().enumerate() {
            drop(topics.add(&format!("topic/{n}"), *mesh));
        }
        let built = topics.built();
        assert!(built.iter().map(|(_, mesh)| mesh).eq(&given), "{built:?}");
        for (topic, mesh) in built {
            let [n, low, high, outbound, _] = mesh.numbers();
            assert!(outbound <= low && low <= n && n <= high && 2 * outbound <= n, "{topic}: {mesh:?}");
        }
    }
}

#[tokio::test]
async fn l5_l7_bytes_that_differ_at_their_end_only_are_two_messages_and_garbage_keeps_nothing_out() {
    let [(_a, from_a, _), (_b, _, mut at_b)] = two(Mesh::default()).await;
    let message = |last: u8| [vec![7; 5000], vec![last]].concat();
    for last in 0..4 {
        from_a.publish(message(last)).await.unwrap();
        let received = next(&mut at_b).await;
        assert_eq!(received.data, message(last));
        // Its id is remembered, whatever is said of it.
        received.judge(if last % 2 == 0 { Verdict::Reject } else { Verdict::Ignore });
    }
    assert_eq!(from_a.publish(message(0)).await, Err(PublishError::Duplicate));
}

#[tokio::test]
async fn l6_a_promise_that_is_not_kept_keeps_nobody_else_from_helping_out() {
    let (node, publisher, mut received) = start(Mesh::default()).await;
    let (_liar, mut liar_out, mut liar_into) = listener(&node, &publisher).await;
    let (honest, mut honest_out, mut honest_into) = listener(&node, &publisher).await;
    let (data, topic) = (b"what the liar never had", name());
    let id = id(data);
    liar_out.send(&frame::ihave(&topic, &id)).await;
    liar_into.receive_with(&id).await;
    // It is asked of nobody else meanwhile; but then it is.
    let offer = async {
        loop {
            honest_out.send(&frame::ihave(&topic, &id)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        _ = honest_into.receive_with(&id) => {}
        () = offer => unreachable!("it goes on until it is asked"),
    }
    honest_out.send(&frame::publish(&topic, data)).await;
    let received = next(&mut received).await;
    assert_eq!((received.source, &received.data[..]), (honest.id, &data[..]));
}

#[test]
fn l11_what_waits_for_one_peer_is_bounded() {
    let mut topics = Topics::new(NetworkId::default());
    drop(topics.add(NEWS, Mesh::default()));
    let config = behaviour::gossip_config(&topics).unwrap();
    assert!(config.connection_handler_queue_len() * (MAX_PAYLOAD + pubsub::ENVELOPE) <= 17 << 20);
    // L2: headroom for more than the piece of the next frame that may be in the buffer.
    assert!(config.max_transmit_size() >= MAX_PAYLOAD + pubsub::ENVELOPE + (16 << 10));
}

fn swarm() -> Swarm<behaviour::Gated> {
    let mut topics = Topics::new(NetworkId::default());
    drop(topics.add(NEWS, Mesh::everybody(20)));
    let gossip = behaviour::gossip(&topics, &mut Registry::default()).unwrap();
    let identity = Identity::generate();
    SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_other_transport(|keypair| transport::build(keypair, None).unwrap())
        .unwrap()
        .with_behaviour(|_| gossip)
        .unwrap()
        .build()
}

#[tokio::test]
async fn l12_an_honest_peer_of_a_quiet_topic_on_the_same_host_is_not_held_to_be_bad() {
    // Penalties for too few messages begin after five seconds in the mesh, those for too many peers of one host with the eleventh.
    const PEERS: usize = 13;
    const LASTS: Duration = Duration::from_secs(8);
    let mut hub = swarm();
    hub.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = hub.select_next_some().await {
            break address;
        }
    };
    let mut others: Vec<_> = (0..PEERS).map(|_| swarm()).collect();
    let peers: Vec<_> = others.iter().map(|o| *o.local_peer_id()).collect();
    for other in &mut others {
        other.dial(DialOpts::unknown_peer_id().address(addr.clone()).build()).unwrap();
    }
    let mut others: SelectAll<_> = others.into_iter().collect();
    let topic = gossipsub::IdentTopic::new(name());
    let (mut complete, mut published, mut lowest) = (None::<Instant>, 0_u32, 0.0_f64);
    let mut round = tokio::time::interval(Duration::from_millis(100));
    let all = async {
        loop {
            tokio::select! {
                _ = hub.select_next_some() => {}
                _ = others.select_next_some() => {}
                _ = round.tick() => {
                    if complete.is_none() && hub.behaviour().mesh_peers(&topic.hash()).count() == PEERS {
                        complete = Some(Instant::now());
                    }
                    let Some(since) = complete.map(|at| at.elapsed()) else { continue };
                    // One block each two seconds.
                    if since >= Duration::from_secs(2) * published {
                        published += 1;
                        hub.behaviour_mut().publish(topic.clone(), published.to_be_bytes()).unwrap();
                    }
                    for peer in &peers {
                        let score = hub.behaviour().peer_score(peer).expect("L6: nothing works without scores");
                        lowest = lowest.min(score);
                    }
                    if since >= LASTS {
                        break;
                    }
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the mesh in time");
    assert!(lowest >= 0.0, "{lowest}");
    assert_eq!(hub.behaviour().mesh_peers(&topic.hash()).count(), PEERS, "and nobody is let go");
    // Nothing else grows with time: no weight hangs on how much comes.
    let scores = hub.behaviour().get_topic_params(&topic).unwrap();
    assert_eq!((scores.mesh_message_deliveries_weight, scores.mesh_failure_penalty_weight), (0.0, 0.0));
    assert!(scores.invalid_message_deliveries_weight < 0.0, "but invalid messages count");
}

#[tokio::test]
async fn l13_a_flood_of_what_a_peer_does_not_want_stops_nothing() {
    let (node, publisher, mut received) = start(Mesh::default()).await;
    let (_flooder, mut flood_out, mut flood_into) = listener(&node, &publisher).await;
    let (_other, mut other_out, mut other_into) = listener(&node, &publisher).await;
    flood_out.send(&frame::graft(&name())).await;
    // As many again as are remembered, each as long as a frame's control messages may be.
    let message = |n: u8| vec![n; 8 * 1024];
    flood_out.send(&frame::idontwant(&id(&message(1)))).await;
    for n in 0..20_000_u32 {
        let long = if n % 100 == 0 { 15 * 1024 } else { 100 };
        let id = [&n.to_be_bytes()[..], &vec![0; long]].concat();
        flood_out.send(&frame::idontwant(&id)).await;
    }
    // What it did not want first is forgotten, and it is sent what others are sent.
    flood_out.send(&frame::publish(&name(), b"heard")).await;
    assert_eq!(next(&mut received).await.data, b"heard");
    other_out.send(&frame::graft(&name())).await;
    while publisher.publish(message(1)).await == Err(PublishError::Busy) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    flood_into.receive_with(&message(1)).await;
    other_into.receive_with(&message(1)).await;
}

#[tokio::test]
async fn l14_a_peer_whose_gossip_is_off_for_good_is_served_again_on_a_new_connection() {
    let (node, publisher, mut received) = start(Mesh::default()).await;
    let (mut raw, mut out, _into) = listener(&node, &publisher).await;
    out.send(&frame::publish(&name(), b"first")).await;
    assert_eq!(next(&mut received).await.data, b"first");
    drop(out);
    let mut links = Vec::new();
    // After so many streams the library hears no gossip on this connection any more.
    for _ in 0..8 {
        links.push(raw.open(frame::publish(&name(), b"again")).await);
    }
    assert!(links.iter().any(Option::is_none), "the trap is there");
    assert!(node.handle.peers().iter().any(|p| p.address == raw.id), "and the connection stays");
    let gone = raw.id;
    drop(raw);
    until("it is gone", || !publisher.reaches(&gone)).await;
    let (_raw, mut out, mut into) = listener(&node, &publisher).await;
    out.send(&frame::publish(&name(), b"second")).await;
    loop {
        if next(&mut received).await.data == b"second" {
            break;
        }
    }
    publisher.publish(b"third".to_vec()).await.unwrap();
    into.receive_with(b"third").await;
}

#[tokio::test]
async fn l15_an_author_tells_its_neighbours_not_to_send_its_own_block_back() {
    let (node, publisher, _received) = start(Mesh::default()).await;
    let (_raw, mut out, mut into) = listener(&node, &publisher).await;
    out.send(&frame::graft(&name())).await;
    let large = vec![7; 16 * 1024];
    publisher.publish(large.clone()).await.unwrap();
    // IDONTWANT names the message, and the message itself does not.
    let told = into.receive_with(&id(&large)).await;
    assert!(told.len() < 100, "{} bytes", told.len());
    assert!(into.receive_with(&large).await.len() > large.len(), "and then the message");
}

#[tokio::test]
async fn l15_nor_does_a_neighbour_send_a_message_to_whoever_said_that_it_does_not_want_it() {
    let (node, publisher, mut received) = start(Mesh::default()).await;
    let (_source, mut source_out, _source_into) = listener(&node, &publisher).await;
    let (_author, mut author_out, mut author_into) = listener(&node, &publisher).await;
    author_out.send(&frame::graft(&name())).await;
    let message = |n: u8| vec![n; 16 * 1024];
    author_out.send(&frame::idontwant(&id(&message(1)))).await;
    // It is heard before what comes behind it on the same stream.
    author_out.send(&frame::publish(&name(), b"heard")).await;
    assert_eq!(next(&mut received).await.data, b"heard");
    for n in [1, 2] {
        source_out.send(&frame::publish(&name(), &message(n))).await;
        let got = next(&mut received).await;
        assert_eq!(got.data, message(n));
        got.judge(Verdict::Accept);
    }
    loop {
        let frame = author_into.receive().await;
        assert!(!frame.windows(100).any(|w| w == &message(1)[..100]), "it said that it has it");
        if frame.windows(100).any(|w| w == &message(2)[..100]) {
            break;
        }
    }
}

#[tokio::test]
async fn an_offer_of_many_messages_is_never_more_than_a_peer_takes() {
    // gossipsub takes 16 KiB of control messages in one frame and ends the stream with more, yet it would offer 5000 ids at once:
    // more than some hundred messages within six seconds would have cost every link that is not in the mesh.
    let (node, publisher, _received) = start(Mesh::of_degree(1)).await;
    let (_raw, mut out, mut into) = listener(&node, &publisher).await;
    // It stays out of the mesh, so messages are offered to it.
    out.send(&frame::prune(&name())).await;
    let (_other, _other_out, mut other_into) = listener(&node, &publisher).await;
    let reader = async {
        loop {
            other_into.receive().await;
        }
    };
    let first = id(&0_u32.to_be_bytes());
    let work = async {
        for i in 0..1000_u32 {
            while publisher.publish(i.to_be_bytes().to_vec()).await == Err(PublishError::Busy) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        loop {
            let frame = into.receive().await;
            // An offer of many: the topic's name, and ids of 20 bytes.
            if frame.len() > 5000 {
                break frame.len();
            }
        }
    };
    let offered = tokio::select! {
        offered = tokio::time::timeout(Duration::from_secs(40), work) => offered.expect("an offer in time"),
        () = reader => unreachable!("it ends with the test"),
    };
    assert_eq!(first.len(), 20);
    assert!(offered <= 16 * 1024, "{offered} bytes");
}
