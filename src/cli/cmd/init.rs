//! `vos init`, and the same for a daemon that finds an empty folder.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::super::{Context, exit::CliError, output::escape};
use crate::{
    config::{self, Sources},
    identity::{Identity, load_or_create},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the node: a label that others see, at most 64 bytes.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let dir = context.data_dir()?;
    let file = dir.join("config.toml");
    if args.name.is_some() && file.exists() {
        let file = file.display();
        return Err(CliError::usage(format!(
            "{file} exists: set node.name there, or run `vos name NEW` beside a daemon"
        )));
    }
    if let Some(name) = &args.name {
        // The same check as for every other way to set it, before anything is made.
        let set = vec![format!("node.name={name}")];
        config::Config::load(&Sources { set, ..Sources::default() }, |_| {})?;
    }
    let created = !dir.join("identity.key").exists();
    let identity = prepare(&dir, args.name.as_deref())?;
    let answer = serde_json::json!({
        "address": identity.address().to_string(),
        "data_dir": dir.display().to_string(),
        "created": created,
    });
    context.out.show(&answer, |_| {
        let made = if created { "made in" } else { "were already in" };
        format!("{}\nidentity and configuration {made} {}", identity.address(), escape(&dir.display().to_string()))
    })
}

/// Makes what is missing of data directory (0700), identity (0600) and configuration file.
pub(super) fn prepare(dir: &Path, name: Option<&str>) -> Result<Identity, CliError> {
    let io = |e: &io::Error| CliError::io(&format!("cannot use the data directory {}", dir.display()), e);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(&e))?;
    let identity = load_or_create(&dir.join("identity.key"))?;
    let mut text = config::default_text();
    if let Some(name) = name {
        let line = format!("name = {}\n", toml::Value::String(name.to_owned()));
        text = text.replacen("#name = \"\"\n", &line, 1);
    }
    match write_new(&dir.join("config.toml"), text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io(&e)),
        _ => Ok(identity),
    }
}

/// Writes a file that must not exist yet; after a crash it is there as a whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let temp = path.with_extension("toml.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // Fails when another process made it meanwhile.
    let linked = fs::hard_link(&temp, path);
    fs::remove_file(&temp)?;
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_prepared_folder_is_private_has_the_name_and_is_kept_the_second_time() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = temp.path().join("a/b");
        let first = prepare(&dir, Some("al\"ice")).expect("prepared");
        let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("identity.key"))), (0o700, 0o600));
        assert_eq!(prepare(&dir, Some("other")).expect("prepared again").address(), first.address());
        let config = config::Config::check_file(&dir.join("config.toml")).expect("valid");
        assert_eq!(config.node.name, "al\"ice");
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 2, "no leftovers");
    }
}
