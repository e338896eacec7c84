//! The commands, one file for each group.

mod block;
mod config;
mod contact;
mod daemon;
mod events;
mod evidence;
mod friend;
mod generate;
mod init;
mod mailbox;
mod map;
mod message;
mod node;
mod peers;
pub mod testnet;

use std::time::Duration;

use clap::Subcommand;

use super::{Context, after_help, exit::CliError};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create identity and configuration; `daemon` does it by itself when they are missing.
    #[command(after_help = after_help!("vos init", "vos init --name alice --data-dir ./alice"))]
    Init(init::Args),
    /// Run a node until SIGTERM or Ctrl-C. When it is ready it prints `ready ADDRESS MULTIADDR...`.
    #[command(after_help = after_help!(
        "vos daemon --name alice",
        "vos daemon --listen /ip4/0.0.0.0/tcp/4001 --bootstrap /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...",
        "vos daemon --network test --http off --set map.full_limit=500",
    ))]
    Daemon(daemon::Args),
    /// Show the address and keys of this node.
    #[command(after_help = after_help!("vos id", "vos id --json"))]
    Id,
    /// Show the state of this node.
    #[command(after_help = after_help!("vos status", "vos status --json"))]
    Status,
    /// List connected peers.
    #[command(after_help = after_help!("vos peers", "vos peers --json"))]
    Peers,
    /// Measure a round trip to a node, dialling it when needed.
    #[command(after_help = after_help!("vos ping 12D3KooW...", "vos ping bob --timeout 3"))]
    Ping(peers::Probe),
    /// Dial an addr and wait for the connection.
    #[command(after_help = after_help!("vos connect /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..."))]
    Connect(peers::Dial),
    /// Close all connections to a node.
    #[command(after_help = after_help!("vos disconnect 12D3KooW..."))]
    Disconnect(peers::Target),
    /// Change the addrs this node listens on, until it stops.
    #[command(subcommand, after_help = after_help!("vos listen ls", "vos listen add /ip4/0.0.0.0/tcp/0"))]
    Listen(peers::Listen),
    /// Refuse connections with nodes.
    #[command(subcommand, after_help = after_help!("vos ban add 12D3KooW...", "vos ban ls"))]
    Ban(peers::Ban),
    /// Change this node's name; others learn it at once.
    #[command(after_help = after_help!("vos name alice", "vos name ''"))]
    Name(node::Name),
    /// Look into the VOS Map: every known node.
    #[command(subcommand, after_help = after_help!("vos map ls", "vos map get bob", "vos map watch --json"))]
    Map(map::Map),
    /// Probe whether a node is there: exit status 0 online, 5 not.
    #[command(after_help = after_help!("vos online bob", "vos online 12D3KooW... --timeout 3 --json"))]
    Online(peers::Probe),
    /// Send a message or a file, also to a node that is offline now: it stays queued and goes out when the node returns.
    #[command(override_usage = "vos send [OPTIONS] <ADDRESS_OR_NAME> [TEXT|-] [--file <F|->]", after_help = after_help!(
        "vos send bob 'hello'",
        "vos send bob --file report.pdf --wait delivered --timeout 30",
        "tar c docs | vos send 12D3KooW... --file -",
    ))]
    Send(message::Send),
    /// Read received messages.
    #[command(subcommand, after_help = after_help!("vos inbox ls", "vos inbox read ID > file", "vos inbox watch"))]
    Inbox(message::Inbox),
    /// Look after messages that were sent.
    #[command(subcommand, after_help = after_help!("vos outbox ls", "vos outbox show ID", "vos outbox cancel ID"))]
    Outbox(message::Outbox),
    /// Have other nodes hold messages for this one while it is offline, and hold messages for others.
    #[command(subcommand, after_help = after_help!(
        "vos friend offer bob --wait",
        "vos friend ls",
        "vos friend accept 12D3KooW... --quota 16MiB",
    ))]
    Friend(friend::Friend),
    /// Say who may leave messages with friends of this node while it is offline.
    #[command(subcommand, after_help = after_help!("vos contact add alice", "vos contact ls", "vos contact rm alice"))]
    Contact(contact::Contact),
    /// Look into mailboxes: what is held here for others, and what friends hold for this node.
    #[command(subcommand, after_help = after_help!("vos mailbox stats", "vos mailbox stats --json"))]
    Mailbox(mailbox::Mailbox),
    /// Look into the network's chain, put transactions in, move parts of it to and from files.
    #[command(subcommand, after_help = after_help!(
        "vos block head",
        "vos block get 12",
        "echo hello | vos block submit -",
        "vos block sync --wait",
    ))]
    Block(block::Blocks),
    /// Print everything that happens as JSON lines, until Ctrl-C.
    #[command(after_help = after_help!("vos events", "vos events | jq 'select(.event == \"peer_up\")'"))]
    Events,
    /// Run a network of local daemons and check it.
    #[command(after_help = after_help!("vos testnet", "vos testnet --nodes 20 --once --report report.json"))]
    Testnet(testnet::Args),
    /// Show or check the configuration.
    #[command(subcommand, after_help = after_help!("vos config default > config.toml", "vos config check config.toml"))]
    Config(config::Config),
    /// Print a shell's completions.
    #[command(after_help = after_help!("vos completions bash > /etc/bash_completion.d/vos"))]
    Completions(generate::Completions),
    /// Print the manual page, or write all of them into a folder.
    #[command(after_help = after_help!("vos man | man -l -", "vos man /usr/local/share/man/man1"))]
    Man(generate::Man),
}

impl Command {
    /// Carries it out.
    ///
    /// # Errors
    /// What went wrong, with its exit status.
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        use super::block_on;
        match self {
            Self::Init(args) => init::run(context, &args),
            Self::Daemon(args) => daemon::run(context, args),
            Self::Id => block_on(node::id(context)),
            Self::Status => block_on(node::status(context)),
            Self::Peers => block_on(peers::peers(context)),
            Self::Ping(args) => block_on(peers::ping(context, args)),
            Self::Connect(args) => block_on(peers::connect(context, args)),
            Self::Disconnect(args) => block_on(peers::disconnect(context, args)),
            Self::Listen(args) => block_on(peers::listen(context, args)),
            Self::Ban(args) => block_on(peers::ban(context, args)),
            Self::Name(args) => block_on(node::name(context, args)),
            Self::Map(args) => block_on(map::run(context, args)),
            Self::Online(args) => block_on(peers::online(context, args)),
            Self::Send(args) => block_on(message::send(context, args)),
            Self::Inbox(args) => block_on(message::inbox(context, args)),
            Self::Outbox(args) => block_on(message::outbox(context, args)),
            Self::Friend(args) => block_on(friend::run(context, args)),
            Self::Contact(args) => block_on(contact::run(context, args)),
            Self::Mailbox(args) => block_on(mailbox::run(context, args)),
            Self::Block(args) => block_on(block::run(context, args)),
            Self::Events => block_on(events::run(context)),
            Self::Testnet(args) => testnet::run(context, args),
            Self::Config(args) => config::run(context, args),
            Self::Completions(args) => generate::completions(context, &args),
            Self::Man(args) => generate::man(context, &args),
        }
    }
}

/// A number of seconds, with a fraction if wanted: more than 0, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("out of range: more than 0, at most 86400 seconds".into())
    }
}

/// Milliseconds, at least one.
fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX).max(1)
}
