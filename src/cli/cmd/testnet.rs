//! `vos testnet`.

use std::path::PathBuf;

use super::super::{
    Context, block_on,
    exit::{CliError, Exit},
};
use crate::testnet;

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

/// Runs the local network; a step that does not hold is exit status 1.
pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let Args { nodes, topology, once, keep, report } = args;
    let args = testnet::Args { nodes, topology, once, keep, report, json: context.global.json };
    match block_on(async move { Ok(Box::pin(testnet::run(args)).await) })? {
        Ok(true) => Ok(()),
        // The runner has said which step failed.
        Ok(false) => Err(CliError::silent(Exit::Failed)),
        Err(error) if error.is_usage() => Err(CliError::usage(error.to_string())),
        Err(error) => Err(CliError::failed(error.to_string())),
    }
}
