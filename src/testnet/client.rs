//! The little of the control API that the scenario needs: HTTP/1.1 + JSON over `<data-dir>/api.sock`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Bytes of one answer: a body of 16 MiB fits, and 200 records of 4 KiB in JSON do as well.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// How long one request may take unless the caller says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// It does not listen.
    #[error("not running: {0}")]
    NotRunning(#[source] io::Error),
    /// It answered with an error.
    #[error("{status}: {message} ({code})")]
    Refused { status: StatusCode, code: String, message: String },
    /// It did not speak HTTP and JSON, or stopped in the middle.
    #[error("broken answer: {0}")]
    Broken(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl ClientError {
    /// Whether the daemon said that the thing is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }
}

/// Talks to one daemon. Each request has a connection of its own, so a restarted daemon needs nothing special.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon of a data directory.
    pub(super) fn of(data_dir: &Path) -> Self {
        Self { socket: data_dir.join("api.sock") }
    }

    /// GET, JSON back. `path` follows `/v1/`.
    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        json(&self.call(Method::GET, path, None, PATIENCE).await?)
    }

    /// GET, raw bytes back.
    pub(super) async fn get_raw(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(Method::GET, path, None, PATIENCE).await
    }

    /// A JSON document there, JSON back.
    pub(super) async fn send(&self, method: Method, path: &str, document: &Value) -> Result<Value, ClientError> {
        let body = Payload { kind: "application/json", bytes: document.to_string().into() };
        json(&self.call(method, path, Some(body), PATIENCE).await?)
    }

    /// POST of raw bytes, JSON back within `patience`.
    pub(super) async fn post_raw(&self, path: &str, bytes: Bytes, patience: Duration) -> Result<Value, ClientError> {
        let body = Payload { kind: "application/octet-stream", bytes };
        json(&self.call(Method::POST, path, Some(body), patience).await?)
    }

    /// DELETE, whatever comes back.
    pub(super) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, None, PATIENCE).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Payload>,
        patience: Duration,
    ) -> Result<Bytes, ClientError> {
        tokio::time::timeout(patience, self.exchange(method, path, body))
            .await
            .unwrap_or(Err(ClientError::TimedOut(patience)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Payload>) -> Result<Bytes, ClientError> {
        let broken = |e: &dyn std::fmt::Display| ClientError::Broken(e.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(ClientError::NotRunning)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let mut request = Request::builder().method(method).uri(format!("/v1/{path}")).header("host", "vos");
        let bytes = match body {
            Some(Payload { kind, bytes }) => {
                request = request.header("content-type", kind);
                bytes
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|e| broken(&e))?;
        let answer = async {
            let (head, body) = sender.send_request(request).await.map_err(|e| broken(&e))?.into_parts();
            let bytes = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| broken(&e))?.to_bytes();
            if head.status.is_success() { Ok(bytes) } else { Err(refused(head.status, &bytes)) }
        };
        // The connection has to be driven while the answer is read; it may well end first.
        let (answer, connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
        match futures::future::select(answer, connection).await {
            futures::future::Either::Left((answer, _)) => answer,
            futures::future::Either::Right((_, answer)) => answer.await,
        }
    }
}

/// A request's body and its content type.
struct Payload {
    kind: &'static str,
    bytes: Bytes,
}

fn json(bytes: &[u8]) -> Result<Value, ClientError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|e| ClientError::Broken(e.to_string()))
}

fn refused(status: StatusCode, bytes: &[u8]) -> ClientError {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |key: &str| document["error"][key].as_str().unwrap_or("?").to_owned();
    ClientError::Refused { status, code: text("code"), message: text("message") }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// Serves one request with `answer` and returns what was asked.
    async fn serve(listener: &UnixListener, answer: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let mut len = 0;
        loop {
            len += stream.read(&mut asked[len..]).await.unwrap();
            let text = String::from_utf8_lossy(&asked[..len]).into_owned();
            let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap_or("0");
                body.len() >= length.parse().unwrap()
            });
            if complete {
                stream.write_all(answer.as_bytes()).await.unwrap();
                return text;
            }
        }
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn documents_go_and_come() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        let client = Client::of(dir.path());
        let (got, asked) =
            tokio::join!(client.get("status"), async { serve(&listener, &answer("200 OK", r#"{"peers":3}"#)).await });
        assert_eq!(got.unwrap()["peers"], 3);
        assert!(asked.starts_with("GET /v1/status HTTP/1.1\r\n"), "{asked}");

        let document = serde_json::json!({"name": "x"});
        let no_content = answer("200 OK", "");
        let (got, asked) = tokio::join!(client.send(Method::PUT, "name", &document), serve(&listener, &no_content));
        assert_eq!(got.unwrap(), Value::Null);
        assert!(asked.starts_with("PUT /v1/name ") && asked.ends_with(r#"{"name":"x"}"#), "{asked}");
        assert!(asked.contains("content-type: application/json"), "{asked}");
    }

    #[tokio::test]
    async fn errors_keep_their_code_and_a_missing_daemon_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::of(dir.path());
        assert!(matches!(client.get("id").await, Err(ClientError::NotRunning(_))));
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        let body = answer("404 Not Found", r#"{"error":{"code":"not_found","message":"nobody has it"}}"#);
        let (got, _) = tokio::join!(client.get("map/x"), serve(&listener, &body));
        let error = got.unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("nobody has it (not_found)"), "{error}");
        let (got, _) =
            tokio::join!(client.get("id"), serve(&listener, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"));
        assert!(matches!(got, Err(ClientError::Broken(_))), "cut off in the middle: {got:?}");
    }
}
