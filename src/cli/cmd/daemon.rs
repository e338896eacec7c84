//! `vos daemon`.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    super::{Context, exit::CliError},
    config::Options,
    init,
};
use crate::{
    api::Endpoint,
    config::Config,
    node,
    primitives::{Multiaddr, NetworkId},
    telemetry,
};

/// For calls that block to end, when everything has been stopped.
const BLOCKED: Duration = Duration::from_millis(200);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Addr to listen on instead of net.listen; repeatable.
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// Node to join the network at, ending in /p2p/ADDRESS, instead of net.bootstrap; repeatable.
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<Multiaddr>,
    /// Name of this node (node.name).
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Network id (node.network).
    #[arg(long, value_name = "ID")]
    network: Option<NetworkId>,
    /// Where health, readiness and metrics are served (node.http): an IP address with a port, or `off`.
    #[arg(long, value_name = "ADDR|off")]
    http: Option<Endpoint>,
    #[command(flatten)]
    options: Options,
}

impl Args {
    /// The dedicated flags win over everything else.
    fn apply(&self, config: &mut Config) {
        if !self.listen.is_empty() {
            config.net.listen.clone_from(&self.listen);
        }
        if !self.bootstrap.is_empty() {
            config.net.bootstrap.clone_from(&self.bootstrap);
        }
        if let Some(name) = &self.name {
            config.node.name.clone_from(name);
        }
        if let Some(network) = &self.network {
            config.node.network = network.clone();
        }
        if let Some(http) = self.http {
            config.node.http = http;
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "every command takes its arguments by value")]
pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let data_dir = context.data_dir()?;
    let mut config = Config::load(&args.options.sources(context)?, |config| args.apply(config))?;
    if let Some(format) = context.global.log_format {
        config.log.format = format;
    }
    telemetry::init(context.log_level(&config.log.level), config.log.format, log_color(context));
    init::prepare(&data_dir, None)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| CliError::io("starting", &e))?;
    let (sender, ready) = oneshot::channel();
    let name = Some(config.node.name.clone()).filter(|name| !name.is_empty());
    let network = config.node.network.clone();
    let options = node::Options { data_dir, config, name, network, ready: sender };
    let node = Box::pin(node::run(options));
    let ended = runtime.block_on(serve(context, node, ready));
    // What hangs on a disk that does not answer may not keep the process.
    runtime.shutdown_timeout(BLOCKED);
    ended
}

/// Runs the node, and says once when it is ready.
async fn serve(
    context: &Context,
    mut node: impl Future<Output = Result<(), node::Error>> + Unpin,
    ready: oneshot::Receiver<node::Ready>,
) -> Result<(), CliError> {
    tokio::select! {
        ended = &mut node => return Ok(ended?),
        Ok(ready) = ready => {
            // A daemon outlives whoever read its first line: a broken pipe does not stop it.
            if let Err(error) = announce(context, &ready) {
                tracing::warn!(%error, "could not print the ready line");
            }
        }
    }
    Ok(node.await?)
}

fn announce(context: &Context, ready: &node::Ready) -> Result<(), CliError> {
    // With the address at the end, each can be given to `--bootstrap` or `vos connect` as it is.
    let full = |addr: &Multiaddr| addr.clone().with_p2p(ready.address).unwrap_or_else(|addr| addr).to_string();
    let listen: Vec<_> = ready.listen.iter().map(full).collect();
    if context.out.json {
        let http = ready.http.map(|addr| addr.to_string());
        let address = ready.address.to_string();
        let line = serde_json::json!({ "event": "ready", "address": address, "listen": listen, "http": http });
        return context.out.json_line(&line);
    }
    context.out.text(&format!("ready {} {}", ready.address, listen.join(" ")))?;
    if let Some(http) = ready.http {
        context.out.note(&format!("health and metrics at http://{http}/healthz, /readyz, /metrics"));
    }
    Ok(())
}

fn log_color(context: &Context) -> bool {
    use std::io::IsTerminal;

    use super::super::output::ColorChoice;
    match context.global.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    }
}
