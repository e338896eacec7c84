//! Asking: idle streams first, else a new one through the swarm. The exchange runs in the caller's task.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Phantom, RequestError, Wire,
    behaviour::{Open, OpenError},
    server::SHARED,
};
use crate::{
    primitives::{PeerId, StreamProtocol},
    wire::{self, FrameError, Status},
};

/// For dialling and negotiating a new stream: all addrs of a peer are tried within it (spec `mail.md` 3.5: 5 s for a try,
/// and as much again for a relayed path).
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle streams are closed after this; shorter than the server's patience, so that a stream is rarely found dead.
pub(super) const CLIENT_IDLE: Duration = Duration::from_secs(30);

/// A negotiated stream and what it hangs on.
pub(in crate::net) struct Opened {
    pub(super) stream: libp2p::Stream,
    /// Cancelled when the connection closes: a yamux read may otherwise hang (rust-yamux issue 216).
    pub(super) closed: CancellationToken,
    pub(super) relayed: bool,
}

#[derive(Default)]
struct PerPeer {
    idle: Vec<(Opened, Instant)>,
    turns: Weak<Semaphore>,
}

/// Idle streams of one protocol by peer.
pub(super) struct Pool {
    peers: Mutex<HashMap<PeerId, PerPeer>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    fn take(&self, peer: &PeerId) -> Option<Opened> {
        let mut peers = self.peers.lock().expect("no panic while held");
        let idle = &mut peers.get_mut(peer)?.idle;
        while let Some((opened, since)) = idle.pop() {
            if since.elapsed() < CLIENT_IDLE && !opened.closed.is_cancelled() {
                return Some(opened);
            }
        }
        None
    }

    fn give_back(&self, peer: PeerId, opened: Opened, keep: usize) {
        let mut peers = self.peers.lock().expect("no panic while held");
        let idle = &mut peers.entry(peer).or_default().idle;
        if idle.len() < keep && !opened.closed.is_cancelled() {
            idle.push((opened, Instant::now()));
        }
    }

    fn turns(&self, peer: PeerId, concurrency: usize) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().expect("no panic while held");
        let slot = &mut peers.entry(peer).or_default().turns;
        slot.upgrade().unwrap_or_else(|| {
            let turns = Arc::new(Semaphore::new(concurrency));
            *slot = Arc::downgrade(&turns);
            turns
        })
    }

    /// Drops streams that are idle for too long or whose connection is gone, and forgets peers without any.
    pub(super) fn sweep(&self) {
        let mut peers = self.peers.lock().expect("no panic while held");
        peers.retain(|_, p| {
            p.idle.retain(|(o, since)| since.elapsed() < CLIENT_IDLE && !o.closed.is_cancelled());
            !p.idle.is_empty() || p.turns.strong_count() > 0
        });
    }

    /// Drops idle relayed streams to a peer: there is a direct connection now.
    pub(super) fn prefer_direct(&self, peer: &PeerId) {
        let mut peers = self.peers.lock().expect("no panic while held");
        if let Some(p) = peers.get_mut(peer) {
            p.idle.retain(|(o, _)| !o.relayed);
        }
    }
}

enum Channel<W: Wire> {
    Swarm {
        name: StreamProtocol,
        opens: mpsc::Sender<Open>,
        pool: Arc<Pool>,
    },
    #[cfg(any(test, feature = "test-util"))]
    Loopback {
        from: PeerId,
        board: super::Loopback<W>,
    },
    #[cfg(not(any(test, feature = "test-util")))]
    #[allow(dead_code, reason = "keeps the type parameter when the loopback is not compiled")]
    Never(std::convert::Infallible, Phantom<W>),
}

/// Asks peers by protocol `W`. Cheap to clone.
pub struct Client<W: Wire> {
    channel: Arc<Channel<W>>,
    protocol: Phantom<W>,
}

impl<W: Wire> Clone for Client<W> {
    fn clone(&self) -> Self {
        Self { channel: self.channel.clone(), protocol: self.protocol }
    }
}

impl<W: Wire> std::fmt::Debug for Client<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&W::NAME).finish()
    }
}

impl<W: Wire> Client<W> {
    pub(super) fn over_swarm(name: StreamProtocol, opens: mpsc::Sender<Open>) -> (Self, Arc<Pool>) {
        let pool = Arc::new(Pool { peers: Mutex::default() });
        let channel = Arc::new(Channel::Swarm { name, opens, pool: pool.clone() });
        (Self { channel, protocol: Phantom::<W>::default() }, pool)
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn over_loopback(from: PeerId, board: super::Loopback<W>) -> Self {
        Self { channel: Arc::new(Channel::Loopback { from, board }), protocol: Phantom::<W>::default() }
    }

    /// Asks `peer`, dialling it when there is no connection; but a request whose connection is closed under way fails. Waits for its turn when [`Wire::CONCURRENCY`] requests to this
    /// peer are under way. Dropping the future abandons the exchange; the peer may still carry it out.
    ///
    /// # Errors
    /// [`RequestError`]; a status other than `Ok` is one too.
    pub async fn request(&self, peer: PeerId, request: W::Request) -> Result<W::Response, RequestError> {
        self.request_encoded(peer, &[request.encode_to_vec().into()]).await
    }

    /// The same with a request that is encoded already, in pieces that follow each other, so that large ones need no copy.
    ///
    /// # Errors
    /// [`RequestError`], as [`Client::request`].
    pub async fn request_encoded(&self, peer: PeerId, pieces: &[Bytes]) -> Result<W::Response, RequestError> {
        let got: usize = pieces.iter().map(Bytes::len).sum();
        if got > W::MAX_REQUEST {
            return Err(RequestError::TooLarge { got, limit: W::MAX_REQUEST });
        }
        match &*self.channel {
            Channel::Swarm { name, opens, pool } => {
                let turns = pool.turns(peer, W::CONCURRENCY);
                let _turn = turns.acquire().await.map_err(|_| RequestError::Stopped)?;
                let mut dial = true;
                if let Some(mut idle) = pool.take(&peer) {
                    match exchange::<W>(&mut idle, pieces).await {
                        // The stream may have died while idle: once more on a new one (protocols are idempotent). But when its connection
                        // was closed somebody wanted that, and to dial would bring it back.
                        Err(RequestError::ConnectionLost) => dial = !idle.closed.is_cancelled(),
                        result => return finish::<W>(pool, peer, idle, result),
                    }
                }
                let mut opened = open(peer, name, dial, opens).await?;
                let result = exchange::<W>(&mut opened, pieces).await;
                finish::<W>(pool, peer, opened, result)
            }
            #[cfg(any(test, feature = "test-util"))]
            Channel::Loopback { from, board } => {
                let request = W::Request::decode(&*pieces.concat()).map_err(|_| RequestError::Malformed)?;
                board.request(*from, peer, request).await
            }
            #[cfg(not(any(test, feature = "test-util")))]
            Channel::Never(never, _) => match *never {},
        }
    }
}

fn finish<W: Wire>(
    pool: &Pool,
    peer: PeerId,
    opened: Opened,
    result: Result<W::Response, RequestError>,
) -> Result<W::Response, RequestError> {
    // After a complete exchange the stream is at a frame boundary; after any other failure it is dropped.
    if matches!(result, Ok(_) | Err(RequestError::Status(_))) {
        pool.give_back(peer, opened, W::CONCURRENCY);
    }
    result
}

async fn open(
    peer: PeerId,
    name: &StreamProtocol,
    dial: bool,
    opens: &mpsc::Sender<Open>,
) -> Result<Opened, RequestError> {
    let (reply, answer) = oneshot::channel();
    opens.try_send(Open { peer, name: name.clone(), dial, reply }).map_err(|e| match e {
        mpsc::error::TrySendError::Full(_) => RequestError::Busy,
        mpsc::error::TrySendError::Closed(_) => RequestError::Stopped,
    })?;
    match tokio::time::timeout(OPEN_TIMEOUT, answer).await {
        Err(_) => Err(RequestError::Unreachable("no connection in time".into())),
        Ok(Err(_)) => Err(RequestError::ConnectionLost),
        Ok(Ok(Ok(opened))) => Ok(opened),
        Ok(Ok(Err(error))) => Err(match error {
            OpenError::Busy => RequestError::Busy,
            OpenError::Dial(why) => RequestError::Unreachable(why),
            OpenError::Unsupported => RequestError::Unsupported,
            OpenError::Io => RequestError::ConnectionLost,
        }),
    }
}

async fn exchange<W: Wire>(opened: &mut Opened, pieces: &[Bytes]) -> Result<W::Response, RequestError> {
    let Opened { stream, closed, .. } = opened;
    let talk = async {
        let pieces: Vec<&[u8]> = pieces.iter().map(|p| &**p).collect();
        wire::write_frame(stream, &pieces, W::MAX_REQUEST).await?;
        // One more byte than the response: the status in front of it.
        wire::read_frame(stream, W::MAX_RESPONSE + 1, W::TRUSTED).await
    };
    let frame = tokio::select! {
        biased;
        result = tokio::time::timeout(W::TIMEOUT, talk) => result.map_err(|_| RequestError::Timeout)?,
        () = closed.cancelled() => return Err(RequestError::ConnectionLost),
    };
    let frame = match frame {
        Ok(Some(frame)) => frame,
        Ok(None) | Err(FrameError::Truncated | FrameError::Io(_)) => return Err(RequestError::ConnectionLost),
        Err(FrameError::TooLarge { .. }) => return Err(RequestError::Malformed),
    };
    let (status, body) = frame.split_first().ok_or(RequestError::Malformed)?;
    match Status::from_byte(*status) {
        // The bytes of a large answer are shared by what is decoded from it, those of a small one copied, as in the server.
        Status::Ok if frame.len() > SHARED => W::Response::decode(Bytes::from(frame).slice(1..)),
        Status::Ok => W::Response::decode(body),
        status => return Err(RequestError::Status(status)),
    }
    .map_err(|_| RequestError::Malformed)
}
