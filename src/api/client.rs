//! The other side of the control API, for the command line and tests. One connection for each request: a command makes few.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinSet,
};

use super::schema::{ErrorBody, ErrorDetail, Event};
use crate::primitives::Redacted;

/// For a connection to a local socket: anything longer is a daemon that hangs.
const CONNECT: Duration = Duration::from_secs(5);
/// For the head of an answer, unless set otherwise and besides the time that the request itself may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest JSON answer: a 16 MiB body in base64 is 22 MiB, in escaped text up to 96 MiB.
const MAX_ANSWER: usize = 128 * 1024 * 1024;
/// Longest line of the event stream: a message's history and a record are a few KiB.
const MAX_EVENT: usize = 1024 * 1024;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("the daemon is not running or not reachable at {place} ({source}): start it with `vos daemon`")]
    NotRunning {
        /// Socket path or address.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{}", .detail.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Code and text.
        detail: Box<ErrorDetail>,
    },
    /// No answer in time.
    #[error("the daemon did not answer in time")]
    TimedOut,
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Broken(String),
    /// Not an answer of this API: another program, or another version.
    #[error("unexpected answer: {0}; is the daemon of another version?")]
    Unexpected(String),
    /// The body to send cannot be read.
    #[error("cannot read the body: {0}")]
    Body(io::Error),
}

#[derive(Clone, Debug)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr, Redacted<String>),
}

impl ClientError {
    /// Whether the daemon said that the thing is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// Asks a daemon.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
    answer: Duration,
}

/// A body coming in piece by piece.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    /// Keeps the connection driven; ends with it.
    _driver: JoinSet<()>,
}

impl Download {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the body ends early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| ClientError::Broken(e.to_string()))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Events coming in.
#[derive(Debug)]
pub struct Events {
    download: Download,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event as it was sent; `None` when the daemon ended the stream. Events of an unknown kind are passed on too.
    ///
    /// # Errors
    /// [`ClientError`] when the connection breaks or the stream is not one of events.
    pub async fn next_value(&mut self) -> Result<Option<serde_json::Value>, ClientError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // Comments, names and blank lines: the data has everything.
                if let Some(data) = line.strip_prefix(b"data:") {
                    let value = serde_json::from_slice(data);
                    return value.map(Some).map_err(|e| ClientError::Unexpected(e.to_string()));
                }
            }
            match self.download.next().await? {
                None => return Ok(None),
                Some(piece) if self.buffer.len() + piece.len() > MAX_EVENT => {
                    return Err(ClientError::Unexpected(format!("an event of more than {MAX_EVENT} bytes")));
                }
                Some(piece) => self.buffer.extend_from_slice(&piece),
            }
        }
    }

    /// The next event of a known kind.
    ///
    /// # Errors
    /// As [`Events::next_value`].
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        while let Some(value) = self.next_value().await? {
            if let Ok(event) = serde_json::from_value(value) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// Asks over a Unix socket.
    #[must_use]
    pub fn unix(socket: &Path) -> Self {
        Self { place: Place::Unix(socket.to_owned()), answer: ANSWER }
    }

    /// Waits this long for the head of an answer.
    #[must_use]
    pub fn patience(self, answer: Duration) -> Self {
        Self { answer, ..self }
    }

    /// Asks over TCP with the token.
    #[must_use]
    pub fn tcp(addr: SocketAddr, token: Redacted<String>) -> Self {
        Self { place: Place::Tcp(addr, token), answer: ANSWER }
    }

    /// Reads `path` (with its query).
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, None::<&()>, Duration::ZERO).await
    }

    /// Posts JSON; the answer may take `time` longer than usual.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        time: Duration,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, path, Some(body), time).await
    }

    /// Puts JSON.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.json(Method::PUT, path, Some(body), Duration::ZERO).await
    }

    /// Deletes, with JSON if given.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        self.json(Method::DELETE, path, body, Duration::ZERO).await
    }

    /// Posts bytes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, bytes: Vec<u8>) -> Result<T, ClientError> {
        self.raw(path, Body::from(bytes), tokio::time::sleep(self.answer)).await
    }

    /// Posts a body that comes from somewhere, for as long as it does; the answer may take `time` longer than usual after that.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, body: Body, time: Duration) -> Result<T, ClientError> {
        let (sent, end) = oneshot::channel::<()>();
        // The sender goes with the body: when all of it was taken, or the connection has ended.
        let body = Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _ = &sent;
        }));
        let wait = self.answer.saturating_add(time);
        let limit = async move {
            let _ = end.await;
            tokio::time::sleep(wait).await;
        };
        self.raw(path, body, limit).await
    }

    async fn raw<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Body,
        limit: impl Future<Output = ()>,
    ) -> Result<T, ClientError> {
        let request = self.request(Method::POST, path).header(header::CONTENT_TYPE, "application/octet-stream");
        let (response, driver) = self.send(request.body(body), limit).await?;
        decode(Download { body: response.into_body(), _driver: driver }).await
    }

    /// Reads a raw body of up to 128 MiB into memory.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn read(&self, path: &str) -> Result<Bytes, ClientError> {
        collect(self.download(path).await?).await
    }

    /// Reads a raw body piece by piece.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn download(&self, path: &str) -> Result<Download, ClientError> {
        let request = self.request(Method::GET, path).body(Body::empty());
        let (response, driver) = self.send(request, tokio::time::sleep(self.answer)).await?;
        Ok(Download { body: response.into_body(), _driver: driver })
    }

    /// Events from now on: whatever happens after this returns is not missed.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn events(&self) -> Result<Events, ClientError> {
        self.stream("/v1/events").await
    }

    /// Server-sent events of another route.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn stream(&self, path: &str) -> Result<Events, ClientError> {
        Ok(Events { download: self.download(path).await?, buffer: Vec::new() })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        time: Duration,
    ) -> Result<T, ClientError> {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => {
                let bytes = serde_json::to_vec(body).map_err(|e| ClientError::Unexpected(e.to_string()))?;
                request.header(header::CONTENT_TYPE, "application/json").body(Body::from(bytes))
            }
            None => request.body(Body::empty()),
        };
        let (response, driver) = self.send(request, tokio::time::sleep(self.answer.saturating_add(time))).await?;
        decode(Download { body: response.into_body(), _driver: driver }).await
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(path);
        match &self.place {
            Place::Unix(_) => request.header(header::HOST, "localhost"),
            Place::Tcp(addr, token) => request
                .header(header::HOST, addr.to_string())
                .header(header::AUTHORIZATION, format!("Bearer {}", token.expose())),
        }
    }

    /// Sends and waits for the head of a good answer, until `limit` is over; a bad one becomes an error.
    async fn send(
        &self,
        request: Result<Request<Body>, hyper::http::Error>,
        limit: impl Future<Output = ()>,
    ) -> Result<(Response<Incoming>, JoinSet<()>), ClientError> {
        let request = request.map_err(|e| ClientError::Unexpected(e.to_string()))?;
        let mut driver = JoinSet::new();
        let mut sender = self.connect(&mut driver).await?;
        let response = tokio::select! {
            biased;
            response = sender.send_request(request) => response.map_err(broken)?,
            () = limit => return Err(ClientError::TimedOut),
        };
        if response.status().is_success() {
            return Ok((response, driver));
        }
        let status = response.status();
        Err(refusal(status, Download { body: response.into_body(), _driver: driver }).await)
    }

    async fn connect(&self, driver: &mut JoinSet<()>) -> Result<SendRequest<Body>, ClientError> {
        let (place, connected) = match &self.place {
            Place::Unix(path) => {
                let stream = tokio::time::timeout(CONNECT, UnixStream::connect(path)).await;
                (path.display().to_string(), stream.map(|s| s.map(|s| Box::new(s) as Box<dyn Io>)))
            }
            Place::Tcp(addr, _) => {
                let stream = tokio::time::timeout(CONNECT, TcpStream::connect(addr)).await;
                (addr.to_string(), stream.map(|s| s.map(|s| Box::new(s) as Box<dyn Io>)))
            }
        };
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|source| ClientError::NotRunning { place, source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        driver.spawn(async move {
            // The request's own future reports what matters.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[allow(clippy::needless_pass_by_value, reason = "used in map_err")]
fn broken(error: hyper::Error) -> ClientError {
    use std::error::Error;
    // The body's error lies below one or two wrappers of the libraries between.
    let mut cause = error.source();
    while let Some(wrapper) = cause.filter(|e| !e.is::<io::Error>()) {
        cause = wrapper.source();
    }
    match cause.and_then(|e| e.downcast_ref::<io::Error>()) {
        Some(source) if error.is_user() => ClientError::Body(io::Error::new(source.kind(), source.to_string())),
        _ => ClientError::Broken(error.to_string()),
    }
}

async fn collect(download: Download) -> Result<Bytes, ClientError> {
    let Download { body, _driver } = download;
    let whole = tokio::time::timeout(ANSWER, Limited::new(body, MAX_ANSWER).collect()).await;
    let whole = whole.map_err(|_| ClientError::TimedOut)?;
    whole.map(http_body_util::Collected::to_bytes).map_err(|e| ClientError::Broken(e.to_string()))
}

async fn decode<T: DeserializeOwned>(download: Download) -> Result<T, ClientError> {
    serde_json::from_slice(&collect(download).await?).map_err(|e| ClientError::Unexpected(e.to_string()))
}

async fn refusal(status: StatusCode, download: Download) -> ClientError {
    let bytes = match collect(download).await {
        Ok(bytes) => bytes,
        Err(e) => return e,
    };
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => ClientError::Refused { status: status.as_u16(), detail: Box::new(body.error) },
        Err(_) => ClientError::Unexpected(format!("status {status}")),
    }
}
