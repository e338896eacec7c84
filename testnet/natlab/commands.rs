//! Runs `ip`, `nft` and their like to their end.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Runs a command, with `input` on its standard input. Returns its output.
///
/// # Errors
/// The whole command line and what it said.
pub(super) fn try_run(line: &[&str], input: &str) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("`{}`: {why}", line.join(" "));
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    // A command that ends without reading says why by its status.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&format!("{}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same for what has to succeed. Arguments are the words of `line`.
#[track_caller]
pub(super) fn run(line: &str, input: &str) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    try_run(&words, input).unwrap_or_else(|e| panic!("{e}"))
}
