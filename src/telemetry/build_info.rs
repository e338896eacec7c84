//! What this build is.

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What identify tells other nodes.
#[must_use]
pub fn agent() -> String {
    format!("vos/{VERSION}")
}
