//! `vos completions` and `vos man`.

use std::{fs, path::PathBuf};

use clap_complete::Shell;

use super::super::{Context, command, exit::CliError, shown};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Write a page for each command into this folder, instead of the main page to stdout.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(context: &Context, args: &Completions) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "vos", &mut script);
    context.out.bytes(&script)
}

pub(super) fn man(context: &Context, args: &Man) -> Result<(), CliError> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command()).render(&mut page)?;
        return context.out.bytes(&page);
    };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command(), dir));
    written.map_err(|e| CliError::io(&format!("cannot write into {}", dir.display()), &e))?;
    let answer = serde_json::json!({ "dir": dir.display().to_string() });
    context.out.show(&answer, |_| format!("manual pages written into {}", shown(dir)))
}
