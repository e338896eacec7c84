//! The only place that writes to stdout and stderr.
//!
//! # Security
//! Names, agents, file names and errors may come from strangers. Nothing of them reaches a terminal as a control
//! character or a direction override, in tables or in JSON. Only `inbox read` without
//! `--json` writes bytes as they are, and `block export -` where there is no terminal.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use serde::Serialize;

use super::exit::CliError;
use crate::{
    map::State,
    primitives::{Clock, SystemClock, UnixMillis},
};

/// When to use color.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the command talks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON document, or JSON lines, on stdout.
    pub json: bool,
    /// Colors in tables.
    pub color: bool,
    /// No progress bars and no notes.
    pub quiet: bool,
}

impl Output {
    /// Decides about color.
    pub(crate) fn new(json: bool, choice: ColorChoice, quiet: bool) -> Self {
        let color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        Self { json, color: color && !json, quiet }
    }

    /// Prints a JSON document with `--json`, else the text that `human` makes.
    pub(crate) fn show<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if self.json { self.json_line(value) } else { self.text(&human(value)) }
    }

    /// One JSON document on one line.
    pub(crate) fn json_line(self, value: &impl Serialize) -> Result<(), CliError> {
        self.text(&json(value)?)
    }

    /// Text and a newline, unless it ends in one.
    pub(crate) fn text(self, text: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.is_empty() && !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// A remark on stderr, unless `-q`.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// Tells an error: JSON on stdout with `--json`, else one or two lines on stderr.
    pub(crate) fn error(self, error: &CliError) {
        if error.silent {
            return;
        }
        if self.json {
            let mut detail = serde_json::json!({ "code": error.code, "message": error.message });
            if !error.owners.is_empty() {
                detail["owners"] = serde_json::json!(error.owners);
            }
            for (key, value) in &error.extra {
                detail[key] = value.as_str().into();
            }
            // If stdout is gone there is nobody left to tell.
            let _ = self.json_line(&serde_json::json!({ "error": detail }));
            return;
        }
        let mut text = format!("error: {}", escape(&error.message));
        for owner in &error.owners {
            let _ = write!(text, "\n  {}  {}", owner.address, self.state(owner.state));
        }
        to_stderr(&text);
    }

    /// A table with aligned columns; a row may be shorter. Cells are escaped here.
    pub(crate) fn table<const N: usize>(self, head: [&str; N], rows: &[[String; N]]) -> String {
        let rows: Vec<[String; N]> = rows.iter().map(|row| std::array::from_fn(|i| escape(&row[i]))).collect();
        let width = |i: usize| {
            rows.iter().map(|row| row[i].chars().count()).chain([head[i].chars().count()]).max().unwrap_or_default()
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let line = |cells: [&str; N]| {
            let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        let mut text = self.bold(&line(head));
        for row in &rows {
            text.push('\n');
            let plain = line(std::array::from_fn(|i| row[i].as_str()));
            text.push_str(&plain);
        }
        text
    }

    /// Names and values, one a line, values aligned. Values are escaped here.
    pub(crate) fn fields(self, fields: &[(&str, String)]) -> String {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines: Vec<_> = fields
            .iter()
            .map(|(name, value)| {
                let name = self.bold(&format!("{name:width$}"));
                format!("{name}  {}", escape(value)).trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    }

    /// A node's state in its color.
    pub(crate) fn state(self, state: State) -> String {
        match (self.color, state) {
            (true, State::Online) => "\u{1b}[32monline\u{1b}[0m".into(),
            (true, State::Offline) => "\u{1b}[31moffline\u{1b}[0m".into(),
            _ => state_name(state).into(),
        }
    }

    fn bold(self, text: &str) -> String {
        if self.color { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A node's state in a word.
pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Online => "online",
        State::Offline => "offline",
        State::Unknown => "unknown",
    }
}

fn to_stderr(text: &str) {
    // If stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// JSON without characters that a terminal obeys: in JSON they can only stand in strings, where `\u` may replace them.
fn json(value: &impl Serialize) -> Result<String, CliError> {
    let text = serde_json::to_string(value).map_err(|e| CliError::failed(format!("encoding the answer: {e}")))?;
    if !text.chars().any(is_hostile) {
        return Ok(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) {
            // All hostile characters are in the basic plane: one escape each.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

/// Control characters, and those that reorder or hide text.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text that is safe on a terminal: hostile characters as `\n`, `\u{1b}` and so on.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => safe.extend(c.escape_default()),
            c if is_hostile(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// How long ago something was, in the largest fitting unit.
pub(crate) fn ago(at: u64) -> String {
    let passed = SystemClock.now().since(UnixMillis(at));
    format!("{} ago", short(passed))
}

/// A duration in its largest unit.
pub(crate) fn short(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// Bytes with a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    // Tenths, so that integers suffice.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A round-trip time.
pub(crate) fn rtt(ms: Option<f64>) -> String {
    ms.map_or("-".into(), |ms| format!("{ms:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output { json: false, color: false, quiet: false };

    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        let hostile = "a\u{1b}[2J\u{9b}31mb\r\n\u{202e}c\u{200b}d\u{7f}é";
        let safe = escape(hostile);
        assert_eq!(safe, "a\\u{1b}[2J\\u{9b}31mb\\r\\n\\u{202e}c\\u{200b}d\\u{7f}é");
        let table = PLAIN.table(["name"], &[[hostile.into()]]);
        assert!(!table.replace('\n', "").contains(is_hostile));
        assert!(!PLAIN.fields(&[("name", hostile.into())]).contains(is_hostile));
    }

    #[test]
    fn json_has_no_hostile_characters_and_still_means_the_same() {
        let hostile = "a\u{1b}[2J\u{9b}b\u{202e}\u{2028}\u{7f}é\u{1f600}\"\\";
        let text = json(&serde_json::json!({ "name": hostile })).expect("plain data");
        assert!(!text.contains(is_hostile), "{text}");
        let back: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back["name"], hostile);
    }

    #[test]
    fn tables_are_aligned_without_trailing_blanks() {
        let rows = [["é".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(PLAIN.table(["a", "b"], &rows), "a     b\né     1\nlong");
    }

    #[test]
    fn colors_are_used_only_when_asked_for() {
        assert!(!PLAIN.state(State::Online).contains('\u{1b}'));
        assert!(Output::new(false, ColorChoice::Always, false).state(State::Online).contains('\u{1b}'));
        assert!(!Output::new(true, ColorChoice::Always, false).color, "never in JSON");
    }

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(
            [0, 1023, 1024, 1536, 1 << 24, u64::MAX].map(size)[..5],
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "16.0 MiB"]
        );
        assert!(size(u64::MAX).ends_with("TiB"));
        assert_eq!(
            [5, 119, 120, 7200, 172_800].map(|s| short(Duration::from_secs(s))),
            ["5s", "119s", "2m", "2h", "2d"]
        );
    }
}
