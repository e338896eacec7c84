//! `net::rpc` against bare `libp2p-request-response`: serial latency and the rate with 64 in flight, 256-byte bodies,
//! two nodes on loopback TCP with Noise and Yamux in one process. Defends: at least 0.8 of the bare one.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
use libp2p_request_response as rr;
use tokio::sync::{mpsc, oneshot};
use vos::{
    net::rpc::{Client, Wire},
    test_util::{Node, node},
};

use crate::measure::{median, median_f, report};

const BODY: usize = 256;
const SERIAL: usize = 2000;
const BATCH: usize = 8000;
pub(crate) const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
}

struct Echo;

impl Wire for Echo {
    const NAME: &'static str = "bench/echo/1";
    const MAX_REQUEST: usize = 4096;
    const MAX_RESPONSE: usize = 4096;
    const QUEUE: usize = 1024;
    const CONCURRENCY: usize = 64;
    const RATE: u32 = 1_000_000;
    type Request = Text;
    type Response = Text;
}

/// Something that can be asked many times at once.
pub(crate) trait Ask: Clone + Send + 'static {
    fn ask(&self) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
struct Ours {
    client: Client<Echo>,
    peer: PeerId,
}

impl Ask for Ours {
    async fn ask(&self) {
        let answer = self.client.request(self.peer, Text { body: vec![7; BODY] }).await.expect("answered");
        assert_eq!(answer.body.len(), BODY);
    }
}

async fn ours() -> (Ours, [Node; 2]) {
    let (a, (client, _)) = node(Node::config(), |p, _| p.add::<Echo>()).await;
    let (b, (_, mut inbound)) = node(Node::config(), |p, _| p.add::<Echo>()).await;
    a.book.set(b.handle.local(), b.addrs.clone());
    let peer = b.handle.local();
    tokio::spawn(async move {
        while let Some(asked) = inbound.recv().await {
            let body = asked.request.body.clone();
            asked.respond(Text { body });
        }
    });
    (Ours { client, peer }, [a, b])
}

/// Length-prefixed bytes: what any user of request-response would write first.
#[derive(Clone, Default)]
struct Codec;

async fn read<T: futures::AsyncRead + Unpin + Send>(io: &mut T) -> std::io::Result<Vec<u8>> {
    let mut header = [0; 4];
    io.read_exact(&mut header).await?;
    let mut body = vec![0; (u32::from_be_bytes(header) as usize).min(4096)];
    io.read_exact(&mut body).await?;
    Ok(body)
}

async fn write<T: futures::AsyncWrite + Unpin + Send>(io: &mut T, body: Vec<u8>) -> std::io::Result<()> {
    let mut frame = u32::try_from(body.len()).expect("a short body").to_be_bytes().to_vec();
    frame.extend(body);
    io.write_all(&frame).await
}

impl rr::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: futures::AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<Vec<u8>> {
        read(io).await
    }

    async fn read_response<T: futures::AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<Vec<u8>> {
        read(io).await
    }

    async fn write_request<T: futures::AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Vec<u8>,
    ) -> std::io::Result<()> {
        write(io, body).await
    }

    async fn write_response<T: futures::AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Vec<u8>,
    ) -> std::io::Result<()> {
        write(io, body).await
    }
}

#[derive(Clone)]
pub(crate) struct Bare(mpsc::Sender<oneshot::Sender<()>>);

impl Ask for Bare {
    async fn ask(&self) {
        let (done, answered) = oneshot::channel();
        self.0.send(done).await.expect("the swarm runs");
        answered.await.expect("answered");
    }
}

fn swarm() -> libp2p::Swarm<rr::Behaviour<Codec>> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("tcp")
        .with_behaviour(|_| {
            let protocols = [(StreamProtocol::new("/bench/echo/1"), rr::ProtocolSupport::Full)];
            rr::Behaviour::with_codec(Codec, protocols, rr::Config::default())
        })
        .expect("no error is possible")
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// A bare pair: one swarm asks as told, the other echoes.
pub(crate) async fn bare() -> Bare {
    let (mut a, mut b) = (swarm(), swarm());
    let peer = *b.local_peer_id();
    b.listen_on("/ip4/127.0.0.1/tcp/0".parse::<Multiaddr>().expect("a constant")).expect("loopback");
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = b.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(rr::Event::Message {
                message: rr::Message::Request { request, channel, .. },
                ..
            }) = b.select_next_some().await
            {
                b.behaviour_mut().send_response(channel, request).expect("the asker waits");
            }
        }
    });
    a.dial(addr).expect("dials");
    while !a.is_connected(&peer) {
        a.select_next_some().await;
    }
    let (asks, mut queue) = mpsc::channel::<oneshot::Sender<()>>(256);
    tokio::spawn(async move {
        let mut waiting = std::collections::HashMap::new();
        loop {
            tokio::select! {
                Some(done) = queue.recv() => {
                    let id = a.behaviour_mut().send_request(&peer, vec![7; BODY]);
                    waiting.insert(id, done);
                }
                event = a.select_next_some() => match event {
                    SwarmEvent::Behaviour(rr::Event::Message { message: rr::Message::Response { request_id, .. }, .. }) => {
                        let _ = waiting.remove(&request_id).expect("asked").send(());
                    }
                    SwarmEvent::Behaviour(rr::Event::OutboundFailure { error, .. }) => panic!("{error}"),
                    _ => {}
                }
            }
        }
    });
    Bare(asks)
}

async fn serial(asker: &impl Ask) -> Duration {
    let mut times = Vec::with_capacity(SERIAL);
    for _ in 0..SERIAL {
        let start = Instant::now();
        asker.ask().await;
        times.push(start.elapsed());
    }
    median(times)
}

/// Requests a second with [`IN_FLIGHT`] at once.
pub(crate) async fn rate(asker: &impl Ask, total: usize) -> f64 {
    let start = Instant::now();
    let mut workers = FuturesUnordered::new();
    for _ in 0..IN_FLIGHT {
        let asker = asker.clone();
        workers.push(tokio::spawn(async move {
            for _ in 0..total / IN_FLIGHT {
                asker.ask().await;
            }
        }));
    }
    while let Some(done) = workers.next().await {
        done.expect("no panic");
    }
    total as f64 / start.elapsed().as_secs_f64()
}

pub(crate) async fn run() {
    let (ours, _nodes) = ours().await;
    let bare = bare().await;
    // Warm both up: connections, streams, windows.
    rate(&ours, 1024).await;
    rate(&bare, 1024).await;
    let mut latency = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        latency.push((serial(&ours).await, serial(&bare).await));
        rates.push((rate(&ours, BATCH).await, rate(&bare, BATCH).await));
    }
    let (a, b) = (median(latency.iter().map(|l| l.0).collect()), median(latency.iter().map(|l| l.1).collect()));
    let ratio = b.as_secs_f64() / a.as_secs_f64();
    report("rpc, one at a time, p50 (bare libp2p-request-response)", &format!("{a:?}"), &format!("{b:?}"), ratio, 0.8);
    let (a, b) = (median_f(rates.iter().map(|r| r.0).collect()), median_f(rates.iter().map(|r| r.1).collect()));
    report("rpc, 64 in flight (bare libp2p-request-response)", &format!("{a:.0}/s"), &format!("{b:.0}/s"), a / b, 0.8);
}
