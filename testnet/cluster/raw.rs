//! A connection without a swarm: streams that say what a test wants and nothing else.

use std::{future::poll_fn, net::SocketAddr, task::Poll, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Multiaddr, Transport,
    core::{
        Endpoint,
        muxing::{StreamMuxerExt, SubstreamBox},
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, tcp, yamux,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// How long a node may take to negotiate one stream.
const NEGOTIATE: Duration = Duration::from_secs(10);

/// A connection; dropping it closes it.
pub(super) struct Raw {
    opens: mpsc::Sender<oneshot::Sender<SubstreamBox>>,
    driver: JoinHandle<()>,
}

impl Raw {
    pub(super) async fn connect(addr: &Multiaddr) -> Self {
        let key = Keypair::generate_ed25519();
        let mut config = yamux::Config::default();
        config.set_max_num_streams(4096);
        let mut transport = tcp::tokio::Transport::new(tcp::Config::default())
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).unwrap())
            .multiplex(config)
            .boxed();
        let addr: Multiaddr = addr.iter().filter(|p| !matches!(p, Protocol::P2p(_))).collect();
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let (_, mut muxer) = transport.dial(addr, options).unwrap().await.unwrap();
        let (opens, mut queue) = mpsc::channel::<oneshot::Sender<SubstreamBox>>(1);
        let driver = tokio::spawn(async move {
            let mut wanted: Option<oneshot::Sender<SubstreamBox>> = None;
            poll_fn(|cx| {
                loop {
                    // What the node opens is dropped; the connection goes on until it fails.
                    while let Poll::Ready(opened) = muxer.poll_inbound_unpin(cx) {
                        if opened.is_err() {
                            return Poll::Ready(());
                        }
                    }
                    while let Poll::Ready(event) = muxer.poll_unpin(cx) {
                        if event.is_err() {
                            return Poll::Ready(());
                        }
                    }
                    if wanted.is_none() {
                        let Poll::Ready(next) = queue.poll_recv(cx) else { return Poll::Pending };
                        wanted = next;
                    }
                    match muxer.poll_outbound_unpin(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Ready(Ok(stream)) => {
                            let Some(wanted) = wanted.take() else { return Poll::Ready(()) };
                            let _ = wanted.send(stream);
                        }
                    }
                }
            })
            .await;
        });
        Self { opens, driver }
    }

    /// A stream on which `protocol` was agreed; `None` when the node refuses.
    pub(super) async fn open(&self, protocol: &str) -> Option<Stream> {
        let open = async {
            let (answer, stream) = oneshot::channel();
            self.opens.send(answer).await.ok()?;
            let mut stream = stream.await.ok()?;
            for line in ["/multistream/1.0.0", protocol] {
                let length = u8::try_from(line.len() + 1).unwrap();
                assert!(length < 128, "one byte of length is enough");
                let mut said = vec![length];
                said.extend_from_slice(line.as_bytes());
                said.push(b'\n');
                stream.write_all(&said).await.ok()?;
                stream.flush().await.ok()?;
                let mut heard = vec![0; said.len()];
                stream.read_exact(&mut heard).await.ok()?;
                (heard == said).then_some(())?;
            }
            Some(Stream { stream })
        };
        tokio::time::timeout(NEGOTIATE, open).await.ok().flatten()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A stream that is never read.
pub(super) struct Stream {
    stream: SubstreamBox,
}

impl Stream {
    /// Says this; the node may have hung up.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }
}

/// Where a node's TCP addr listens.
pub(super) fn socket_of(addr: &Multiaddr) -> SocketAddr {
    let mut parts = addr.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => SocketAddr::from((ip, port)),
        _ => panic!("not a TCP addr: {addr}"),
    }
}
