//! Nodes that announce a block once they have it all, and pull it whole from whoever announced it first.

use std::{collections::HashSet, sync::Arc};

use tokio::task::JoinSet;
use vos::{
    block::{Block, Header, Origin, chain::Event, kit, purpose},
    net::{
        pubsub::{Mesh, Topics},
        rpc::{Protocols, Wire},
    },
    primitives::Hash,
    store::Store,
};

use super::{MIB, Peer, dialler, memory_chain, swarm};

#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(bytes = "bytes", tag = "1")]
    header: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    body: bytes::Bytes,
}

struct Whole;

impl Wire for Whole {
    const NAME: &'static str = "bench/whole/1";
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 4 * MIB + 1024;
    const QUEUE: usize = 1024;
    const RATE: u32 = 100_000;
    type Request = Question;
    type Response = Answer;
}

pub(super) async fn node(store: &Store) -> Peer {
    let wire = |p: &mut Protocols, t: &mut Topics| (p.add::<Whole>(), t.add("bench/hash/1", Mesh::everybody(300)));
    let (net, addrs, registry, supervisor, ((client, mut asked), (publisher, mut heard))) = swarm(store, wire).await;
    let (chain, purpose) = (memory_chain(), Arc::new(purpose(&kit::network())));
    let ours = chain.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut events = ours.events();
        let mut seen = HashSet::new();
        loop {
            tokio::select! {
                Ok(event) = events.recv() => {
                    let Event::Imported { point, .. } = event else { continue };
                    seen.insert(point.hash);
                    // Each announcement is another message, as announcements of one's own are.
                    let mut news = point.hash.0.to_vec();
                    news.extend(rand::random::<[u8; 8]>());
                    let publisher = publisher.clone();
                    tokio::spawn(async move { publisher.publish(news).await });
                }
                Some(asked) = asked.recv() => {
                    let hash = Hash(asked.request.hash[..].try_into().unwrap());
                    let stored = ours.block(&hash).unwrap().unwrap();
                    asked.respond(Answer { header: stored.header, body: stored.body });
                }
                Some(news) = heard.recv() => {
                    let hash = Hash(news.data[..32].try_into().unwrap());
                    if !seen.insert(hash) {
                        continue;
                    }
                    let (client, ours, purpose, source) = (client.clone(), ours.clone(), purpose.clone(), news.source);
                    tokio::spawn(async move {
                        let answer = client.request(source, Question { hash: hash.0.to_vec() }).await.unwrap();
                        let check = move || {
                            let header = Header::decode(&answer.header).unwrap();
                            Block::check(header, answer.body, 4 * MIB, &purpose).unwrap()
                        };
                        let block = tokio::task::spawn_blocking(check).await.unwrap();
                        ours.import(block, Origin::Peer(source)).await.unwrap();
                    });
                }
            }
        }
    });
    let keep = Box::new((tasks, supervisor));
    Peer { addr: addrs[0].clone(), chain, registry, dial: dialler(net), _keep: keep }
}
