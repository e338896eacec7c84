//! `vos testnet`.

use std::path::PathBuf;

use super::super::{Context, exit::CliError};

/// Arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many daemons to start.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub nodes: usize,
    /// TOML file that names nodes, roles and who bootstraps from whom.
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// End after the scenario, with exit status 0 or 1.
    #[arg(long)]
    pub once: bool,
    /// Keep the nodes' data directories in this folder.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Write the result of every step as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Hands over to the local runner.
pub(super) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let _ = (context, args);
    Err(CliError::failed("this build has no local network runner"))
}
