//! TCP, QUIC, WebSocket and DNS under Noise and Yamux; with a private-network key TCP and WebSocket only.

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
type TcpWithDns = dns::tokio::Transport<tcp::tokio::Transport>;

/// QUIC streams of one connection at once; further ones wait for a free slot.
const QUIC_STREAMS: u32 = 512;
/// yamux streams of one connection at once, both directions together; one more ends the connection, so it is well
/// above what our own limits allow (192 inbound, as many outbound, some for gossip and Kademlia).
const YAMUX_STREAMS: usize = 1024;

/// Everything but the relay transport.
pub(super) fn build(keypair: &Keypair, private: Option<PreSharedKey>) -> Result<Muxed, StartError> {
    let setup = |e: &dyn std::fmt::Display| StartError::Setup(e.to_string());
    let noise = noise::Config::new(keypair).map_err(|e| setup(&e))?;
    let tcp = tcp_with_dns().map_err(|e| setup(&e))?;
    let ws = websocket::Config::new(tcp_with_dns().map_err(|e| setup(&e))?);
    let Some(key) = private else {
        let tcp = tcp.upgrade(Version::V1Lazy).authenticate(noise.clone()).multiplex(yamux_config()).boxed();
        let ws = ws.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux_config()).boxed();
        let mut config = quic::Config::new(keypair);
        config.max_concurrent_stream_limit = QUIC_STREAMS;
        let quic = dns::tokio::Transport::system(quic::tokio::Transport::new(config)).map_err(|e| setup(&e))?;
        return Ok(quic
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .or_transport(ws.or_transport(tcp).map(|either, _| either.into_inner()))
            .map(|either, _| either.into_inner())
            .boxed());
    };
    // QUIC cannot be wrapped in the key and would bypass it, so it is not there at all.
    let wrap = PnetConfig::new(key);
    let tcp = tcp
        .and_then(move |socket, _| wrap.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux_config())
        .boxed();
    let ws = ws
        .and_then(move |socket, _| wrap.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux_config())
        .boxed();
    Ok(ws.or_transport(tcp).map(|either, _| either.into_inner()).boxed())
}

/// Yamux with our stream limit; also for relayed connections.
pub(super) fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(YAMUX_STREAMS);
    config
}

fn tcp_with_dns() -> std::io::Result<TcpWithDns> {
    dns::tokio::Transport::system(tcp::tokio::Transport::new(tcp::Config::default()))
}
