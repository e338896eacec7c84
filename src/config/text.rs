//! Configuration as TOML text: the documented defaults and the effective values.

use std::fmt::Write;

use super::{Config, ConfigError, SECTIONS};

/// Every key with its documentation and default, commented out, so that a later release may change a default that the
/// operator never chose.
#[must_use]
pub fn default_text() -> String {
    render(&Config::default(), true).expect("defaults are representable")
}

/// Every key with its value in `config`.
///
/// # Errors
/// [`ConfigError::Invalid`] when a number is beyond TOML's range.
pub fn effective_text(config: &Config) -> Result<String, ConfigError> {
    render(config, false)
}

fn render(config: &Config, commented: bool) -> Result<String, ConfigError> {
    let values = toml::Table::try_from(config).map_err(|e| ConfigError::Invalid(e.to_string()))?;
    let mut text = String::from("# Configuration of vos.\n");
    if commented {
        text += "# Remove the '#' before a key to change it. Environment: VOS_SECTION__KEY; command line: --set section.key=value.\n";
    }
    for section in SECTIONS {
        let keys = values.get(section.name).and_then(toml::Value::as_table);
        write!(text, "\n# {}\n[{}]\n", section.doc, section.name).expect("writing to a string");
        for key in section.keys {
            for line in key.doc {
                writeln!(text, "# {}", line.trim()).expect("writing to a string");
            }
            let value = keys.and_then(|keys| keys.get(key.name));
            let mark = if commented { "#" } else { "" };
            // A key without a value in TOML is an `Option` that is `None`.
            match value {
                Some(value) => writeln!(text, "{mark}{} = {value}", key.name),
                None => writeln!(text, "#{} =", key.name),
            }
            .expect("writing to a string");
        }
    }
    Ok(text)
}
