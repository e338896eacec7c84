//! TCP, QUIC, WebSocket and DNS under Noise and Yamux; with a private-network key TCP and WebSocket only.

use std::time::Duration;

use libp2p::{
    Transport,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dns,
    identity::Keypair,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    quic, tcp, websocket, yamux,
};

use super::StartError;
use crate::primitives::PeerId;

type Muxed = Boxed<(PeerId, StreamMuxerBox)>;

/// QUIC streams of one connection at once, each direction; further ones wait for a free slot. All our protocols together ask one peer
/// 80 requests at once, and gossip, ping, identify and some of Kademlia come to that. quinn lays out two tables for so many streams
/// of either side, 40 bytes a place: with 96 they are 5 KiB a connection at first, with 224 they became 21 with the first stream.
const QUIC_STREAMS: u32 = 96;
/// A killed process sends no goodbye over UDP: three lost keep-alives tell.
const QUIC_KEEP_ALIVE: Duration = Duration::from_millis(2500);
/// Silence after which a QUIC connection is dead, in milliseconds.
const QUIC_IDLE_MS: u32 = 7500;
/// yamux streams of one connection at once, both directions together; one more ends the connection, so it is well
/// above what our own limits allow (192 inbound, as many outbound, some for gossip and Kademlia).
const YAMUX_STREAMS: usize = 1024;

/// Everything but the relay transport.
pub(super) fn build(keypair: &Keypair, private: Option<PreSharedKey>) -> Result<Muxed, StartError> {
    let setup = |e: &dyn std::fmt::Display| StartError::Setup(e.to_string());
    let noise = noise::Config::new(keypair).map_err(|e| setup(&e))?;
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default());
    let resolves = resolves();
    // WebSocket comes first and refuses other addrs at once; a DNS transport takes every addr, so it stands last. It has
    // DNS of its own, because a TLS dial needs the host's name.
    let ws = websocket::Config::new(named(tcp(), resolves).map_err(|e| setup(&e))?);
    let Some(key) = private else {
        let ws = ws.upgrade(Version::V1Lazy).authenticate(noise.clone()).multiplex(yamux_config());
        let tcp = tcp().upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux_config());
        let mut config = quic::Config::new(keypair);
        config.max_concurrent_stream_limit = QUIC_STREAMS;
        config.keep_alive_interval = QUIC_KEEP_ALIVE;
        config.max_idle_timeout = QUIC_IDLE_MS;
        let quic = quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let direct = quic.or_transport(tcp.boxed()).map(|either, _| either.into_inner()).boxed();
        let named = named(direct, resolves).map_err(|e| setup(&e))?;
        return Ok(ws.boxed().or_transport(named).map(|either, _| either.into_inner()).boxed());
    };
    // QUIC cannot be wrapped in the key and would bypass it, so it is not there at all.
    let wrap = PnetConfig::new(key);
    let ws = ws
        .and_then(move |socket, _| wrap.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux_config());
    let tcp = tcp()
        .and_then(move |socket, _| wrap.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config());
    let named = named(tcp.boxed(), resolves).map_err(|e| setup(&e))?;
    Ok(ws.boxed().or_transport(named).map(|either, _| either.into_inner()).boxed())
}

/// Whether this machine knows a name server.
fn resolves() -> bool {
    // What fails takes the transport with it, so it is tried without one.
    let tried = dns::tokio::Transport::system(());
    if let Err(error) = &tried {
        tracing::warn!(%error, "no name server is known here: addrs with names cannot be dialled until a restart");
    }
    tried.is_ok()
}

/// A transport that takes names too. A machine that has no name servers yet, or never will, dials numbers.
fn named<T>(inner: T, resolves: bool) -> std::io::Result<dns::tokio::Transport<T>> {
    match resolves {
        true => dns::tokio::Transport::system(inner),
        false => Ok(dns::tokio::Transport::custom(inner, dns::ResolverConfig::default(), dns::ResolverOpts::default())),
    }
}

/// Yamux with our stream limit; also for relayed connections.
pub(super) fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(YAMUX_STREAMS);
    config
}
