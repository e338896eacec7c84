//! The baseline for large messages: one libp2p stream over TCP, Noise and Yamux for each transfer, opened through
//! libp2p-request-response, carrying all bytes one way and four back. The sender keeps its memory for the next transfer, and the
//! receiver keeps nothing. Nothing is stored, checked or encrypted twice.

use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, StreamProtocol, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
use libp2p_request_response as rr;
use tokio::sync::{mpsc, oneshot};

/// Writes and reads go in pieces of this size, as a careful user would.
const PIECE: usize = 256 << 10;
const ADDR: &str = "/ip4/127.0.0.1/tcp/0";

#[derive(Clone)]
struct Codec(usize);

impl rr::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = u32;

    async fn read_request<T: futures::AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<Bytes> {
        let mut piece = vec![0; PIECE];
        let mut left = self.0;
        while left > 0 {
            let room = left.min(PIECE);
            match io.read(&mut piece[..room]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => left -= n,
            }
        }
        Ok(Bytes::new())
    }

    async fn read_response<T: futures::AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> std::io::Result<u32> {
        let mut count = [0; 4];
        io.read_exact(&mut count).await?;
        Ok(u32::from_be_bytes(count))
    }

    async fn write_request<T: futures::AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Bytes,
    ) -> std::io::Result<()> {
        for piece in body.chunks(PIECE) {
            io.write_all(piece).await?;
        }
        io.flush().await
    }

    async fn write_response<T: futures::AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        count: u32,
    ) -> std::io::Result<()> {
        io.write_all(&count.to_be_bytes()).await
    }
}

fn swarm(size: usize) -> libp2p::Swarm<rr::Behaviour<Codec>> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .expect("tcp")
        .with_behaviour(|_| {
            let protocols = [(StreamProtocol::new("/bench/bulk/1"), rr::ProtocolSupport::Full)];
            let config = rr::Config::default().with_request_timeout(Duration::from_secs(60));
            rr::Behaviour::with_codec(Codec(size), protocols, config)
        })
        .expect("no error is possible")
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

/// Sends when asked.
pub(crate) struct Bulk {
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

impl Bulk {
    /// Sends all bytes once; returns when the other side said that it has them.
    pub(crate) async fn send(&self) {
        let (done, answered) = oneshot::channel();
        self.asks.send(done).await.expect("the swarm runs");
        answered.await.expect("answered");
    }
}

/// A bare pair that transfers `size` bytes at a time.
pub(crate) async fn start(size: usize) -> Bulk {
    let (mut a, mut b) = (swarm(size), swarm(size));
    let peer = *b.local_peer_id();
    b.listen_on(ADDR.parse::<Multiaddr>().expect("a constant")).expect("loopback");
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = b.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(rr::Event::Message { message: rr::Message::Request { channel, .. }, .. }) =
                b.select_next_some().await
            {
                let count = u32::try_from(size).expect("16 MiB");
                b.behaviour_mut().send_response(channel, count).expect("the asker waits");
            }
        }
    });
    a.dial(addr).expect("dials");
    while !a.is_connected(&peer) {
        a.select_next_some().await;
    }
    let body = Bytes::from(vec![7; size]);
    let (asks, mut queue) = mpsc::channel::<oneshot::Sender<()>>(1);
    tokio::spawn(async move {
        let mut waiting: Option<oneshot::Sender<()>> = None;
        loop {
            tokio::select! {
                Some(done) = queue.recv(), if waiting.is_none() => {
                    a.behaviour_mut().send_request(&peer, body.clone());
                    waiting = Some(done);
                }
                event = a.select_next_some() => match event {
                    SwarmEvent::Behaviour(rr::Event::Message { message: rr::Message::Response { .. }, .. }) => {
                        let _ = waiting.take().expect("asked").send(());
                    }
                    SwarmEvent::Behaviour(rr::Event::OutboundFailure { error, .. }) => panic!("{error}"),
                    _ => {}
                }
            }
        }
    });
    Bulk { asks }
}
