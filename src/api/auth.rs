//! Who may use the API over TCP: holders of the token, and not by way of a web page.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use rand::Rng;

use super::error::ApiError;
use crate::primitives::{Hash, Redacted};

/// Random bytes of a token: beyond guessing.
const TOKEN_BYTES: usize = 32;

/// Why the token cannot be used. Each text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Others may read it.
    #[error("{path} can be read by others (mode {mode:04o}): remove it, the next start makes a new one")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a token of ours.
    #[error("{path} is not a token: remove it, the next start makes a new one")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the token for TCP callers, or makes one (64 hex digits, mode 0600).
///
/// # Errors
/// [`TokenError`] when others can read it, it is malformed, or the file cannot be read or written.
pub fn load_or_create_token(path: &Path) -> Result<Redacted<String>, TokenError> {
    let io = |source| TokenError::Io { path: path.to_owned(), source };
    match File::open(path) {
        Ok(file) => load(path, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(path).map_err(io),
        Err(e) => Err(io(e)),
    }
}

fn load(path: &Path, file: File) -> Result<Redacted<String>, TokenError> {
    let io = |source| TokenError::Io { path: path.to_owned(), source };
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    // A token, a newline, and one byte more to see that the file is longer.
    file.take(2 * TOKEN_BYTES as u64 + 2).read_to_end(&mut bytes).map_err(io)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let token = text.trim_end();
    if token.len() != 2 * TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(TokenError::Malformed { path: path.to_owned() });
    }
    Ok(Redacted::new(token.to_owned()))
}

fn create(path: &Path) -> io::Result<Redacted<String>> {
    let mut bytes = [0; TOKEN_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let token = hex::encode(bytes);
    // A rename makes the file appear whole.
    let temp = path.with_extension("token.new");
    match fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    Ok(Redacted::new(token))
}

/// What the guard of a TCP listener knows.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    token: Arc<Redacted<String>>,
    local: SocketAddr,
}

impl Guard {
    pub(super) fn new(token: Redacted<String>, local: SocketAddr) -> Self {
        Self { token: Arc::new(token), local }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let forbidden = |code, message| Err(ApiError::new(StatusCode::FORBIDDEN, code, message));
        // Host and origin first: a web page must not learn whether a guessed token was right.
        if !only(headers, &header::HOST).is_some_and(|host| self.is_ours(host)) {
            return forbidden("foreign_host", "the Host header must name this listener on loopback");
        }
        if headers.contains_key(header::ORIGIN) {
            let origin = only(headers, &header::ORIGIN).and_then(|o| o.strip_prefix("http://"));
            if !origin.is_some_and(|host| self.is_ours(host)) {
                return forbidden("foreign_origin", "pages of other origins may not use this API");
            }
        }
        let given = only(headers, &header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match given {
            Some(token) if same(token, self.token.expose()) => Ok(()),
            _ => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send `Authorization: Bearer <token>` with the token of <data-dir>/api.token",
            )),
        }
    }

    /// Whether `host[:port]` names this listener by a loopback name.
    fn is_ours(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // An IPv6 literal has its colons in brackets.
            Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()),
            _ => (host, Some(80)),
        };
        let known = ["localhost", "127.0.0.1", "[::1]"].iter().any(|n| n.eq_ignore_ascii_case(name));
        let bound = match self.local {
            SocketAddr::V4(addr) => addr.ip().to_string(),
            SocketAddr::V6(addr) => format!("[{}]", addr.ip()),
        };
        (known || name == bound) && port == Some(self.local.port())
    }
}

/// The value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Compares in a time that says nothing about where the texts differ: their hashes do not help to guess a byte, and
/// hash equality is checked in constant time.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Hash::of(a.as_bytes()), Hash::of(b.as_bytes()));
    blake3::Hash::from(a.0) == blake3::Hash::from(b.0)
}

pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let guard = Guard::new(Redacted::new("s3cret".into()), "127.0.0.1:4000".parse().expect("an address"));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::try_from(*name).expect("a name"), value.parse().expect("a value"));
        }
        guard.check(&map).map_err(|e| e.code)
    }

    #[test]
    fn only_a_local_caller_with_the_token_passes() {
        let token = ("authorization", "Bearer s3cret");
        for host in ["127.0.0.1:4000", "localhost:4000", "LOCALHOST:4000", "[::1]:4000"] {
            assert_eq!(verdict(&[("host", host), token]), Ok(()), "{host}");
        }
        let host = ("host", "127.0.0.1:4000");
        assert_eq!(verdict(&[host, token, ("origin", "http://localhost:4000")]), Ok(()));
        for foreign in ["evil.example:4000", "127.0.0.1:4001", "127.0.0.1", "127.0.0.1.evil.example:4000", "[::1]", ""]
        {
            assert_eq!(verdict(&[("host", foreign), token]), Err("foreign_host"), "{foreign}");
        }
        assert_eq!(verdict(&[token]), Err("foreign_host"));
        assert_eq!(verdict(&[host, host, token]), Err("foreign_host"), "two hosts");
        for foreign in ["http://evil.example", "https://localhost:4000", "null"] {
            assert_eq!(verdict(&[host, token, ("origin", foreign)]), Err("foreign_origin"), "{foreign}");
        }
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Bearer", "Basic s3cret", "s3cret", "Bearer "] {
            assert_eq!(verdict(&[host, ("authorization", wrong)]), Err("unauthorized"), "{wrong}");
        }
        assert_eq!(verdict(&[host]), Err("unauthorized"));
    }

    #[test]
    fn a_token_is_made_once_kept_private_and_refused_when_exposed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("api.token");
        let token = load_or_create_token(&path).expect("made");
        assert_eq!(token.expose().len(), 64);
        assert_eq!(load_or_create_token(&path).expect("read").expose(), token.expose());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(matches!(load_or_create_token(&path), Err(TokenError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        fs::write(&path, "short").expect("written");
        assert!(matches!(load_or_create_token(&path), Err(TokenError::Malformed { .. })));
    }
}
