//! Reading the layers of a configuration, each with errors that say where the mistake is.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{Table, Value, de::DeTable};

use super::{Config, SECTIONS};

/// Longest file read: the documented defaults are about 10 KiB; thousands of bootstrap nodes still fit.
const MAX_FILE: u64 = 1024 * 1024;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A mistake in one place.
    #[error("{place}: {problem}")]
    At {
        /// File and line, environment variable or flag.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// Values that are each well-formed but out of range, or do not fit each other.
    #[error("{0}")]
    Invalid(String),
}

/// Where configuration comes from, besides the built-in defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if any.
    pub file: Option<PathBuf>,
    /// Whether a missing file is an error (it was named by the user).
    pub file_required: bool,
    /// The environment; only variables of the form `VOS_SECTION__KEY` count.
    pub env: Vec<(String, String)>,
    /// `section.key=value` texts.
    pub set: Vec<String>,
}

impl Config {
    /// Loads all layers, applies the dedicated flags by `flags`, and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`], which says where the mistake is.
    pub fn load(sources: &Sources, flags: impl FnOnce(&mut Self)) -> Result<Self, ConfigError> {
        let mut table = match &sources.file {
            Some(path) => read_file(path, sources.file_required)?,
            None => Table::new(),
        };
        let kinds = Table::try_from(Self::default()).map_err(|e| ConfigError::Invalid(e.to_string()))?;
        for (name, value) in &sources.env {
            if let Some((section, key)) = env_key(name) {
                overlay(&mut table, &kinds, name, (&section, &key), value)?;
            }
        }
        for text in &sources.set {
            let place = format!("--set {}", shorten(text));
            let parts = text.split_once('=').and_then(|(path, value)| Some((path.trim().split_once('.')?, value)));
            let Some(((section, key), value)) = parts else {
                return Err(at(&place, "expected section.key=value".into()));
            };
            overlay(&mut table, &kinds, &place, (section, key), value)?;
        }
        let mut config = Self::deserialize(table).map_err(|e| ConfigError::Invalid(e.message().to_owned()))?;
        flags(&mut config);
        config.validate()?;
        Ok(config)
    }

    /// Reads one file alone, with the checks of [`Config::load`].
    ///
    /// # Errors
    /// [`ConfigError`] with the line of the mistake.
    pub fn check_file(path: &Path) -> Result<Self, ConfigError> {
        let sources = Sources { file: Some(path.to_owned()), file_required: true, ..Sources::default() };
        Self::load(&sources, |_| {})
    }
}

fn read_file(path: &Path, required: bool) -> Result<Table, ConfigError> {
    let fail = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(Table::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut bytes = Vec::new();
    // One byte more tells a file at the limit from a longer one.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fail)?;
    let name = path.display().to_string();
    if bytes.len() as u64 > MAX_FILE {
        return Err(at(&name, format!("longer than {MAX_FILE} bytes: not a configuration file")));
    }
    let text = String::from_utf8(bytes).map_err(|_| at(&name, "not UTF-8 text".into()))?;
    parse(&name, &text)
}

/// Parses a file's text; mistakes are reported with their line.
pub(super) fn parse(name: &str, text: &str) -> Result<Table, ConfigError> {
    let place = |start: usize| format!("{name}:{}", 1 + text.bytes().take(start).filter(|b| *b == b'\n').count());
    let located =
        |e: &toml::de::Error| at(&e.span().map_or(name.to_owned(), |s| place(s.start)), one_line(e.message()));
    let spanned = DeTable::parse(text).map_err(|e| located(&e))?;
    for (section, value) in spanned.get_ref() {
        let line = || place(section.span().start);
        let known = known_section(section.get_ref()).map_err(|problem| at(&line(), problem))?;
        let Some(keys) = value.get_ref().as_table() else {
            return Err(at(&line(), format!("{known} is a section: write [{known}]")));
        };
        for key in keys.keys() {
            known_key(known, key.get_ref()).map_err(|problem| at(&place(key.span().start), problem))?;
        }
    }
    // Types and forms of values, while the spans are at hand.
    toml::from_str::<Config>(text).map_err(|e| located(&e))?;
    toml::from_str(text).map_err(|e| located(&e))
}

/// `VOS_MAP__FULL_LIMIT` is `map`, `full_limit`; other variables are not ours.
fn env_key(name: &str) -> Option<(String, String)> {
    let (section, key) = name.strip_prefix("VOS_")?.split_once("__")?;
    Some((section.to_ascii_lowercase(), key.to_ascii_lowercase()))
}

/// Sets one key from text. The type of the key's default says how to read it.
fn overlay(
    table: &mut Table,
    kinds: &Table,
    place: &str,
    (section, key): (&str, &str),
    text: &str,
) -> Result<(), ConfigError> {
    let known = known_section(section).and_then(|section| known_key(section, key)).map_err(|p| at(place, p))?;
    let value = value_of(kinds.get(section).and_then(|s| s.get(known)), text).map_err(|p| at(place, p))?;
    let keys = Table::from_iter([(known.to_owned(), value.clone())]);
    let alone = Table::from_iter([(section.to_owned(), Value::Table(keys))]);
    Config::deserialize(alone).map_err(|e| at(place, one_line(e.message())))?;
    if let Value::Table(keys) = table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
        keys.insert(known.to_owned(), value);
    }
    Ok(())
}

fn value_of(default: Option<&Value>, text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let literal = || {
        let document = toml::from_str::<Table>(&format!("value = {trimmed}")).ok()?;
        // A newline in the text could smuggle in more keys.
        (document.len() == 1).then(|| document.get("value").cloned()).flatten()
    };
    match default {
        Some(Value::String(_)) | None => Ok(Value::String(text.to_owned())),
        Some(Value::Array(_)) if trimmed.starts_with('[') => {
            literal().filter(Value::is_array).ok_or_else(|| format!("not a list: {}", shorten(text)))
        }
        Some(Value::Array(_)) => {
            let items = trimmed.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        Some(kind) => literal()
            .filter(|value| value.same_type(kind))
            .ok_or_else(|| format!("expected {} {}, got {}", article(kind), kind.type_str(), shorten(text))),
    }
}

fn article(kind: &Value) -> &'static str {
    if kind.is_integer() { "an" } else { "a" }
}

fn known_section(name: &str) -> Result<&'static str, String> {
    if let Some(section) = SECTIONS.iter().find(|s| s.name == name) {
        return Ok(section.name);
    }
    let everywhere = SECTIONS.iter().filter(|s| s.keys.iter().any(|k| k.name == name)).map(|s| s.name);
    let homes: BTreeSet<_> = everywhere.collect();
    let hint = match homes.first() {
        Some(home) => format!("; did you mean {home}.{name}?"),
        None => {
            nearest(name, SECTIONS.iter().map(|s| s.name)).map_or(String::new(), |n| format!("; did you mean {n}?"))
        }
    };
    Err(format!("unknown section {}{hint}", word(name)))
}

fn known_key(section: &str, name: &str) -> Result<&'static str, String> {
    let keys = SECTIONS.iter().find(|s| s.name == section).map_or(&[][..], |s| s.keys);
    if let Some(key) = keys.iter().find(|k| k.name == name) {
        return Ok(key.name);
    }
    let home = SECTIONS.iter().find(|s| s.keys.iter().any(|k| k.name == name));
    let hint = match home {
        Some(home) => format!("; did you mean {}.{name}?", home.name),
        None => nearest(name, keys.iter().map(|k| k.name)).map_or_else(
            || format!("; see `vos config default` for the keys of [{section}]"),
            |n| format!("; did you mean {section}.{n}?"),
        ),
    };
    Err(format!("unknown key {section}.{}{hint}", word(name)))
}

/// The most similar name, if it is similar at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The comparison takes time in the product of the lengths; no key is longer than this.
    if name.len() > 64 {
        return None;
    }
    let scored = known.map(|k| (strsim::jaro_winkler(name, k), k));
    scored.filter(|(score, _)| *score > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

/// Quotes a hostile text, at most 64 characters of it.
pub(super) fn shorten(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

/// A key as it was written when it looks like one, else quoted.
fn word(name: &str) -> String {
    let plain = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain && !name.is_empty() { name.to_owned() } else { shorten(name) }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

fn at(place: &str, problem: String) -> ConfigError {
    ConfigError::At { place: place.to_owned(), problem }
}
