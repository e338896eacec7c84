//! Listeners and connections: bounded in number and time, drained when the node stops.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Router, middleware, serve::Listener};
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

use super::{
    Deps,
    auth::{Guard, guard},
    routes,
};
use crate::{primitives::Redacted, runtime::Stop};

/// Connections of one listener at once. A connection holds at most [`MAX_HEAD`] and a chunk: about 12 MiB for all.
const MAX_CONNECTIONS: usize = 128;
/// For the head of a request, also of the next one on a kept connection.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD: usize = 32 * 1024;
/// For requests in progress when the node stops, out of 5 s for the whole shutdown.
const DRAIN: Duration = Duration::from_secs(1);
/// Longest path of a Unix socket on Linux: 108 bytes with the final zero.
const MAX_SOCKET_PATH: usize = 107;
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 77\r\n\
connection: close\r\n\r\n{\"error\":{\"code\":\"busy\",\"message\":\"too many connections to the control API\"}}";

/// Why a listener could not be made. Each text says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket's path is too long for the system.
    #[error("{path} has {got} bytes, a socket's path at most {MAX_SOCKET_PATH}: use a shorter --data-dir")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        got: usize,
    },
    /// The socket cannot be made.
    #[error("cannot make the socket {path}: {source}")]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not an address of this machine's loopback.
    #[error("the control API is served on loopback only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; use another port, or port 0 for any")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes the Unix socket of the control API with mode 0600, replacing a stale one. The caller holds the data directory's lock,
/// so nobody else serves there.
///
/// # Errors
/// [`BindError`]
pub fn bind_unix(path: &Path) -> Result<UnixListener, BindError> {
    let got = path.as_os_str().len();
    if got > MAX_SOCKET_PATH {
        return Err(BindError::PathTooLong { path: path.to_owned(), got });
    }
    let make = || -> io::Result<UnixListener> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Bound in a folder of mode 0700 and moved when its own mode is right: never reachable by others in between. The
        // temporary path is no longer than `api.sock`.
        let private = tempfile::Builder::new().prefix(".a").rand_bytes(4).tempdir_in(parent)?;
        let temp = private.path().join("s");
        let listener = UnixListener::bind(&temp)?;
        fs::set_permissions(&temp, fs::Permissions::from_mode(0o600))?;
        fs::rename(&temp, path)?;
        Ok(listener)
    };
    make().map_err(|source| BindError::Socket { path: path.to_owned(), source })
}

/// Listens on a loopback address.
///
/// # Errors
/// [`BindError`] when it is not loopback or in use.
pub async fn bind_tcp(addr: SocketAddr) -> Result<TcpListener, BindError> {
    if !addr.ip().is_loopback() {
        return Err(BindError::NotLoopback(addr));
    }
    TcpListener::bind(addr).await.map_err(|source| BindError::Tcp { addr, source })
}

/// [`bind_unix`], then [`serve_unix_on`]; removes the socket at the end.
///
/// # Errors
/// [`BindError`] at the start; none later.
pub async fn serve_unix(path: PathBuf, deps: Deps, stop: Stop) -> Result<(), BindError> {
    let listener = bind_unix(&path)?;
    serve_unix_on(listener, path, deps, stop).await
}

/// Serves the API on a socket of [`bind_unix`] until stopped, then removes it.
///
/// # Errors
/// None; the type fits [`crate::runtime::Supervisor::spawn`].
pub async fn serve_unix_on(listener: UnixListener, path: PathBuf, deps: Deps, stop: Stop) -> Result<(), BindError> {
    serve(listener, routes::router(deps), &stop).await;
    // Only tidiness: a leftover is replaced at the next start.
    let _ = fs::remove_file(&path);
    Ok(())
}

/// [`bind_tcp`], then [`serve_tcp_on`].
///
/// # Errors
/// [`BindError`] at the start; none later.
pub async fn serve_tcp(addr: SocketAddr, token: Redacted<String>, deps: Deps, stop: Stop) -> Result<(), BindError> {
    let listener = bind_tcp(addr).await?;
    serve_tcp_on(listener, token, deps, stop).await
}

/// Serves the API on a listener of [`bind_tcp`] to holders of the token until stopped.
///
/// # Errors
/// [`BindError::Tcp`] when the listener is not usable.
pub async fn serve_tcp_on(
    listener: TcpListener,
    token: Redacted<String>,
    deps: Deps,
    stop: Stop,
) -> Result<(), BindError> {
    serve_guarded(listener, token, routes::router(deps), &stop).await
}

pub(super) async fn serve_guarded(
    listener: TcpListener,
    token: Redacted<String>,
    router: Router,
    stop: &Stop,
) -> Result<(), BindError> {
    let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
    let local = listener.local_addr().map_err(|source| BindError::Tcp { addr: unspecified, source })?;
    let guarded = router.layer(middleware::from_fn_with_state(Guard::new(token, local), guard));
    serve(listener, guarded, stop).await;
    Ok(())
}

/// Accepts until stopped, then lets requests in progress end for a moment.
pub(super) async fn serve<L: Listener>(mut listener: L, router: Router, stop: &Stop) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.wait() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a request to the control API panicked; please report this");
                }
            }
            (io, _) = listener.accept() => {
                if connections.len() < MAX_CONNECTIONS {
                    connections.spawn(connection(io, router.clone(), stop.clone()));
                } else {
                    refuse(io);
                }
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Dropping the set aborts what is left.
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn connection<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I, router: Router, stop: Stop) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    tokio::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stop.wait() => {
            served.as_mut().graceful_shutdown();
            served.as_mut().await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the control API ended badly");
    }
}

/// Says that there is no place. A fresh socket's buffer takes the whole answer at once; if not, the caller gets less of it.
fn refuse<I: AsyncWrite + Unpin>(mut io: I) {
    let _ = io.write(FULL).now_or_never();
}
