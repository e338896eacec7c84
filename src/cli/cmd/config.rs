//! `vos config`, and the options that every command which loads a configuration has.

use std::path::PathBuf;

use clap::Subcommand;

use super::super::{Context, after_help, exit::CliError, shown};
use crate::config::{self, Sources};

/// Where configuration comes from besides the data directory's file and the environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Configuration file [default: config.toml in the data directory].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a key of the configuration; repeatable.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

impl Options {
    /// All layers below the dedicated flags.
    pub(super) fn sources(&self, context: &Context) -> Result<Sources, CliError> {
        let default = || context.data_dir().map(|dir| dir.join("config.toml"));
        Ok(Sources {
            file_required: self.config.is_some(),
            file: Some(self.config.clone().map_or_else(default, Ok)?),
            // Names that are not Unicode are not ours; a value that is not cannot mean anything.
            env: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
                .collect(),
            set: self.set.clone(),
        })
    }
}

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print every key with its documentation, unit and default, as a configuration file.
    #[command(after_help = after_help!("vos config default > config.toml"))]
    Default,
    /// Print the effective configuration: file, environment and `--set` together.
    #[command(after_help = after_help!("vos config show", "VOS_NET__UPNP=true vos config show --json"))]
    Show(Options),
    /// Check a configuration file without starting anything.
    #[command(after_help = after_help!("vos config check", "vos config check config.toml"))]
    Check {
        /// The file [default: config.toml in the data directory].
        file: Option<PathBuf>,
    },
}

pub(super) fn run(context: &Context, args: Config) -> Result<(), CliError> {
    let out = context.out;
    match args {
        Config::Default if out.json => out.json_line(&config::Config::default()),
        Config::Default => out.text(&config::default_text()),
        Config::Show(options) => {
            let config = config::Config::load(&options.sources(context)?, |_| {})?;
            if out.json { out.json_line(&config) } else { out.text(&config::effective_text(&config)?) }
        }
        Config::Check { file } => {
            let file = file.map_or_else(|| context.data_dir().map(|dir| dir.join("config.toml")), Ok)?;
            let config = config::Config::check_file(&file)?;
            // The one file that it names and a daemon reads at its start.
            config.chain.read_genesis(&config.node.network).map_err(|e| CliError::usage(e.to_string()))?;
            let answer = serde_json::json!({ "file": file.display().to_string(), "valid": true });
            out.show(&answer, |_| format!("{}: valid", shown(&file)))
        }
    }
}
