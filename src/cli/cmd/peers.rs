//! Connections: `vos peers`, `ping`, `online`, `connect`, `disconnect`, `listen`, `ban`.

use std::time::Duration;

use clap::{Subcommand, builder::NonEmptyStringValueParser};

use super::{
    super::{
        Context, after_help, encode,
        exit::{CliError, Exit},
        output::{ago, rtt, short},
    },
    millis, seconds,
};
use crate::{api::schema, map::State, primitives::Multiaddr};

/// Whom to probe.
#[derive(Debug, clap::Args)]
pub struct Probe {
    /// The node.
    #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
    target: String,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    timeout: Duration,
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Dial {
    /// The addr; an ADDRESS after /p2p/ at its end is checked.
    #[arg(value_name = "MULTIADDR")]
    addr: Multiaddr,
}

/// Which node.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The node.
    #[arg(value_name = "ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    address: String,
}

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Listen {
    /// List the addrs.
    #[command(after_help = after_help!("vos listen ls"))]
    Ls,
    /// Listen on one more addr.
    #[command(after_help = after_help!("vos listen add /ip4/0.0.0.0/tcp/0"))]
    Add(Dial),
    /// Stop listening on an addr; connections stay.
    #[command(after_help = after_help!("vos listen rm /ip4/127.0.0.1/tcp/4001"))]
    Rm(Dial),
}

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Ban {
    /// List banned nodes.
    #[command(after_help = after_help!("vos ban ls"))]
    Ls,
    /// Close connections to a node and refuse new ones for 90 days, also after a restart.
    #[command(after_help = after_help!("vos ban add 12D3KooW..."))]
    Add(Target),
    /// Lift a ban.
    #[command(after_help = after_help!("vos ban rm 12D3KooW..."))]
    Rm(Target),
}

pub(super) async fn peers(context: &Context) -> Result<(), CliError> {
    let peers: schema::Peers = context.client()?.get("/v1/peers").await?;
    context.out.show(&peers, |peers| {
        let row = |p: &schema::Peer| {
            let direction = serde_json::to_value(p.direction).ok();
            [
                p.address.clone(),
                p.path.clone(),
                p.transport.clone(),
                direction.and_then(|d| d.as_str().map(ToOwned::to_owned)).unwrap_or_default(),
                rtt(p.rtt_ms),
                short(Duration::from_secs(p.connected_s)),
                p.agent.clone(),
                p.addr.clone(),
            ]
        };
        let rows: Vec<_> = peers.peers.iter().map(row).collect();
        context.out.table(["ADDRESS", "PATH", "TRANSPORT", "DIRECTION", "RTT", "UP", "AGENT", "ADDR"], &rows)
    })
}

pub(super) async fn ping(context: &Context, args: Probe) -> Result<(), CliError> {
    let asked = schema::Probe { target: args.target, timeout_ms: Some(millis(args.timeout)) };
    let pong: schema::Pong = context.client()?.post("/v1/ping", &asked, args.timeout * 2).await?;
    context.out.show(&pong, |pong| {
        let path = pong.path.as_deref().unwrap_or("-");
        context.out.fields(&[
            ("address", pong.address.clone()),
            ("rtt", rtt(Some(pong.rtt_ms))),
            ("path", path.to_owned()),
        ])
    })
}

pub(super) async fn online(context: &Context, args: Probe) -> Result<(), CliError> {
    let asked = schema::Probe { target: args.target, timeout_ms: Some(millis(args.timeout)) };
    let found: schema::Online = context.client()?.post("/v1/online", &asked, args.timeout * 2).await?;
    context.out.show(&found, |found| {
        let mut text = format!("{} {}", found.address, context.out.state(found.state));
        if let Some(path) = &found.path {
            text += &format!(", {path}, {}", rtt(found.rtt_ms));
        }
        match found.last_seen_at {
            Some(at) if found.state != State::Online => text + &format!(", last seen {}", ago(at)),
            _ => text,
        }
    })?;
    match found.state {
        State::Online => Ok(()),
        State::Offline | State::Unknown => Err(CliError::silent(Exit::Unreachable)),
    }
}

pub(super) async fn connect(context: &Context, args: Dial) -> Result<(), CliError> {
    let asked = schema::Addr { addr: args.addr.to_string() };
    let peer: schema::Address = context.client()?.post("/v1/connect", &asked, Duration::ZERO).await?;
    context.out.show(&peer, |peer| format!("connected to {}", peer.address))
}

pub(super) async fn disconnect(context: &Context, args: Target) -> Result<(), CliError> {
    let asked = schema::Address { address: args.address };
    let peer: schema::Address = context.client()?.post("/v1/disconnect", &asked, Duration::ZERO).await?;
    context.out.show(&peer, |peer| format!("disconnected from {}", peer.address))
}

pub(super) async fn listen(context: &Context, args: Listen) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    let asked = |dial: &Dial| schema::Addr { addr: dial.addr.to_string() };
    match args {
        Listen::Ls => {
            let listen: schema::Listen = client.get("/v1/listen").await?;
            out.show(&listen, |listen| listen.listen.join("\n"))
        }
        Listen::Add(dial) => {
            let addr: schema::Addr = client.post("/v1/listen", &asked(&dial), Duration::ZERO).await?;
            out.show(&addr, |addr| format!("listening on {}", addr.addr))
        }
        Listen::Rm(dial) => {
            let done: schema::Done = client.delete("/v1/listen", Some(&asked(&dial))).await?;
            out.show(&done, |_| format!("not listening on {} any more", dial.addr))
        }
    }
}

pub(super) async fn ban(context: &Context, args: Ban) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match args {
        Ban::Ls => {
            let bans: schema::Bans = client.get("/v1/bans").await?;
            out.show(&bans, |bans| bans.bans.join("\n"))
        }
        Ban::Add(target) => {
            let asked = schema::Address { address: target.address };
            let peer: schema::Address = client.post("/v1/bans", &asked, Duration::ZERO).await?;
            out.show(&peer, |peer| format!("banned {}", peer.address))
        }
        Ban::Rm(target) => {
            let path = format!("/v1/bans/{}", encode(&target.address));
            let done: schema::Done = client.delete(&path, None::<&()>).await?;
            out.show(&done, |_| "ban lifted".into())
        }
    }
}
