//! What holds for every listener, and for the documented routes.

use std::{
    os::unix::fs::{FileTypeExt, PermissionsExt},
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinSet,
};

use super::super::{
    BindError, Client, ClientError, bind_tcp, bind_unix,
    extract::Body,
    ops,
    routes::{self, MAX_JSON_BYTES},
    schema::Name,
    serve::{serve, serve_guarded},
};
use crate::{
    primitives::Redacted,
    runtime::Stop,
    telemetry::{Counter, Registry},
};

const DEADLINE: Duration = Duration::from_secs(20);

fn echo() -> Router {
    async fn echo(Body(name): Body<Name>) -> Json<Name> {
        Json(name)
    }
    routes::with_rules(Router::new().route("/v1/echo", post(echo)))
}

fn name(text: &str) -> Name {
    Name { name: text.to_owned() }
}

async fn ask(client: &Client, body: &Name) -> Result<Name, ClientError> {
    client.post("/v1/echo", body, Duration::ZERO).await
}

fn refused(result: Result<Name, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, detail }) => (status, detail.code.clone()),
        other => panic!("not refused: {other:?}"),
    }
}

/// Serves `echo` on a loopback port behind the token `secret`.
async fn guarded() -> (std::net::SocketAddr, Stop, JoinSet<()>) {
    let listener = bind_tcp("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let (addr, stop) = (listener.local_addr().expect("bound"), Stop::new());
    let mut tasks = JoinSet::new();
    let end = stop.clone();
    tasks.spawn(async move {
        serve_guarded(listener, Redacted::new("secret".into()), echo(), &end).await.expect("served");
    });
    (addr, stop, tasks)
}

/// Sends raw bytes and returns the head of the answer.
async fn raw(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn tcp_serves_holders_of_the_token_only() {
    let (addr, stop, mut tasks) = guarded().await;
    let good = Client::tcp(addr, Redacted::new("secret".into()));
    assert_eq!(ask(&good, &name("x")).await.expect("answered"), name("x"));
    let wrong = Client::tcp(addr, Redacted::new("secreu".into()));
    assert_eq!(refused(ask(&wrong, &name("x")).await), (401, "unauthorized".into()));
    let head = async |lines: &str| {
        let stream = TcpStream::connect(addr).await.expect("connected");
        raw(stream, &format!("GET /v1/echo HTTP/1.1\r\n{lines}\r\nconnection: close\r\n\r\n")).await
    };
    assert!(head(&format!("host: {addr}")).await.starts_with("HTTP/1.1 401"), "no token");
    let foreign = head("host: evil.example\r\nauthorization: Bearer secret").await;
    assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
    stop.stop();
    tokio::time::timeout(DEADLINE, tasks.join_next()).await.expect("stops in time");
}

#[tokio::test]
async fn tcp_refuses_other_addresses_than_loopback() {
    let any = bind_tcp("0.0.0.0:0".parse().expect("an address")).await;
    assert!(matches!(any, Err(BindError::NotLoopback(_))));
}

#[tokio::test]
async fn errors_have_one_shape_whatever_is_wrong_with_the_request() {
    let (addr, _stop, _tasks) = guarded().await;
    let client = Client::tcp(addr, Redacted::new("secret".into()));
    let large = name(&"x".repeat(MAX_JSON_BYTES));
    assert_eq!(refused(ask(&client, &large).await), (413, "too_large".into()));
    assert_eq!(refused(client.post("/v1/nope", &(), Duration::ZERO).await), (404, "no_route".into()));
    assert_eq!(refused(client.get("/v1/echo").await), (405, "no_method".into()));
    assert_eq!(refused(client.post("/v1/echo", &[1], Duration::ZERO).await), (400, "invalid".into()));
    let unknown = serde_json::json!({ "name": "x", "nmae": "y" });
    assert_eq!(refused(client.post("/v1/echo", &unknown, Duration::ZERO).await), (400, "invalid".into()));
    assert_eq!(
        refused(client.upload("/v1/echo", "{}".into(), Duration::ZERO).await),
        (415, "unsupported_media_type".into())
    );
}

#[tokio::test]
async fn the_unix_socket_is_private_replaces_a_stale_one_and_serves() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("api.sock");
    drop(bind_unix(&path).expect("bound"));
    assert!(matches!(ask(&Client::unix(&path), &name("x")).await, Err(ClientError::NotRunning { .. })));
    let listener = bind_unix(&path).expect("bound again");
    let meta = std::fs::metadata(&path).expect("there");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing else is left");
    let stop = Stop::new();
    let mut tasks = JoinSet::new();
    let end = stop.clone();
    tasks.spawn(async move { serve(listener, echo(), &end).await });
    assert_eq!(ask(&Client::unix(&path), &name("ü\u{7}")).await.expect("answered"), name("ü\u{7}"));
    stop.stop();
    tokio::time::timeout(DEADLINE, tasks.join_next()).await.expect("stops in time");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_refused_with_advice() {
    let path = std::path::PathBuf::from(format!("/tmp/{}/api.sock", "d".repeat(120)));
    assert!(matches!(bind_unix(&path), Err(BindError::PathTooLong { .. })));
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("api.sock");
    let listener = bind_unix(&path).expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serve(listener, echo(), &Stop::new()).await });
    let mut held = Vec::new();
    for _ in 0..128 {
        held.push(UnixStream::connect(&path).await.expect("connected"));
    }
    let mut answer = Vec::new();
    let mut last = UnixStream::connect(&path).await.expect("connected");
    tokio::time::timeout(DEADLINE, last.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert!(serde_json::from_str::<serde_json::Value>(body).expect("JSON")["error"]["code"] == "busy");
}

#[tokio::test]
async fn operations_endpoints_show_health_readiness_and_metrics() {
    let mut registry = Registry::default();
    let counter = Counter::<u64>::default();
    registry.register("vos_test_things", "Things", counter.clone());
    counter.inc();
    let (ready, receiver) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let router = ops::router(ops::Ops { metrics: Arc::new(registry), ready: receiver });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serve(listener, router, &Stop::new()).await });
    let get = |path: &'static str| async move {
        let stream = TcpStream::connect(addr).await.expect("connected");
        raw(stream, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
    ready.send_replace(true);
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").await.contains("vos_test_things_total 1"));
    assert!(get("/v1/id").await.starts_with("HTTP/1.1 404"), "the control API is not here");
}

#[test]
fn the_document_has_exactly_the_promised_routes() {
    let document = serde_json::to_value(routes::openapi()).expect("plain data");
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1"));
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(operation["summary"].is_string() || operation["description"].is_string(), "{method} {path}");
            found.push(format!("{method} {path}"));
        }
    }
    found.sort();
    let mut promised: Vec<_> = "get id,get status,get peers,get config,get openapi.json,get events,post ping,post connect,\
        post disconnect,get listen,post listen,delete listen,put name,get bans,post bans,delete bans/{address},get map,\
        get map/{target},post online,post messages,get outbox,get outbox/{id},delete outbox/{id},get inbox,get inbox/{id},\
        get inbox/{id}/body,delete inbox/{id},get friends,post friends/offer,post friends/accept,post friends/decline,\
        post friends/revoke,get friends/with/{target},get friends/of/{target},get friends/evidence,\
        get contacts,post contacts,delete contacts/{target},get mailbox,\
        get block/head,get block/blocks/{id},post block/transactions,get block/sync,get block/trace,get block/segment,\
        post block/segment"
        .split(',')
        .map(|route| route.trim().replacen(' ', " /v1/", 1))
        .collect();
    promised.sort();
    assert_eq!(found, promised);
}

#[test]
fn every_reference_of_the_document_leads_to_a_schema() {
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                found.extend(map.get("$ref").and_then(|r| r.as_str()).map(ToOwned::to_owned));
                map.values().for_each(|v| references(v, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(routes::openapi()).expect("plain data");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    let octets =
        document.pointer("/paths/~1v1~1block~1segment/get/responses/200/content/application~1octet-stream/schema");
    assert_eq!(octets.expect("a schema")["type"], "string", "bytes are no list of numbers");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}
