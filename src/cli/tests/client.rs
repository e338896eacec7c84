//! Commands against a daemon that gives prepared answers over a real socket.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex},
    thread,
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{api::bind_unix, primitives::PeerId, runtime::Stop};

type Answers = BTreeMap<&'static str, (u16, Value)>;
/// Method and URL, and the body.
type Asked = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug)]
struct Fake {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Asked>>,
}

/// A daemon that answers each `METHOD /path` with a prepared document; ends with this value.
#[derive(Debug)]
struct Daemon {
    dir: TempDir,
    fake: Fake,
    stop: Stop,
    thread: Option<thread::JoinHandle<()>>,
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let key = format!("{} {}", request.method(), request.uri().path());
    let full = format!("{} {}", request.method(), request.uri());
    let body = to_bytes(request.into_body(), 1 << 26).await.expect("the body");
    fake.asked.lock().expect("no panic while held").push((full, body.to_vec()));
    let (status, json) = fake.answers.get(key.as_str()).cloned().unwrap_or((404, error("no_route")));
    let status = StatusCode::from_u16(status).expect("a status");
    // Strings stand for what is not JSON: an event stream or a body.
    match json {
        Value::String(text) => (status, [(header::CONTENT_TYPE, "text/event-stream")], text).into_response(),
        json => (status, axum::Json(json)).into_response(),
    }
}

fn error(code: &str) -> Value {
    json!({ "error": { "code": code, "message": "because" } })
}

impl Daemon {
    fn start(answers: impl IntoIterator<Item = (&'static str, u16, Value)>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let answers = answers.into_iter().map(|(key, status, json)| (key, (status, json))).collect();
        let fake = Fake { answers: Arc::new(answers), asked: Arc::default() };
        let router = Router::new().fallback(answer).with_state(fake.clone());
        let stop = Stop::new();
        let (end, socket) = (stop.clone(), dir.path().join("api.sock"));
        let (bound, is_bound) = std::sync::mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = bind_unix(&socket).expect("bound");
                bound.send(()).expect("somebody waits");
                let ended = async move { end.wait().await };
                axum::serve(listener, router).with_graceful_shutdown(ended).await.expect("served");
            });
        });
        is_bound.recv().expect("bound");
        Self { dir, fake, stop, thread: Some(thread) }
    }

    fn run(&self, args: &[&str]) -> Result<(), CliError> {
        let dir = self.dir.path().to_str().expect("UTF-8");
        let cli = Cli::try_parse_from(["vos", "--json", "--data-dir", dir].iter().chain(args)).expect("understood");
        cli.command.run(&Context::new(cli.global))
    }

    fn exit(&self, args: &[&str]) -> Exit {
        self.run(args).map_or_else(|e| e.exit, |()| Exit::Done)
    }

    fn asked(&self) -> Asked {
        std::mem::take(&mut self.fake.asked.lock().expect("no panic while held"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn outgoing(state: &str) -> Value {
    json!({ "id": "ab".repeat(32), "to": "x", "state": state, "bytes": 2, "sent_bytes": 0, "queued_at": 1, "expires_at": 2,
        "holders": [], "history": [], "last_error": "" })
}

fn sent(state: &str) -> Value {
    json!({ "id": "ab".repeat(32), "to": "x", "state": state, "bytes": 2 })
}

/// The route of the message that [`sent`] names.
fn waiting() -> &'static str {
    concat!("GET /v1/outbox/", "abababababababababababababababababababababababababababababababab")
}

fn record(address: &str) -> Value {
    json!({ "address": address, "name": "bob", "addrs": [], "roles": [], "friends": [], "seq": 1, "issued_at": 1,
        "expires_at": 2, "state": "online", "last_seen_at": null })
}

#[test]
fn online_exits_with_the_state() {
    for (state, exit) in [("online", Exit::Done), ("offline", Exit::Unreachable), ("unknown", Exit::Unreachable)] {
        let found = json!({ "address": "x", "state": state, "path": null, "rtt_ms": null, "last_seen_at": null });
        let daemon = Daemon::start([("POST /v1/online", 200, found)]);
        assert_eq!(daemon.exit(&["online", "bob", "--timeout", "0.5"]), exit, "{state}");
        let (_, body) = daemon.asked().remove(0);
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(asked, json!({ "target": "bob", "timeout_ms": 500 }));
    }
}

#[test]
fn an_ambiguous_name_exits_with_2_and_lists_its_owners() {
    let owners: Vec<_> = (0..2).map(|_| PeerId::random().to_string()).collect();
    let mut body = error("ambiguous");
    body["error"]["owners"] = owners.iter().map(|o| record(o)).collect();
    let daemon = Daemon::start([("GET /v1/map/bob%20b", 409, body)]);
    let error = daemon.run(&["map", "get", "bob b"]).expect_err("ambiguous");
    assert_eq!(error.exit, Exit::Usage);
    assert_eq!(error.owners.iter().map(|o| &o.address).collect::<Vec<_>>(), owners.iter().collect::<Vec<_>>());
}

#[test]
fn map_ls_asks_for_every_page_once() {
    let address = PeerId::random().to_string();
    let page = json!({ "records": [record(&address)], "next": address });
    // The same page again and again: a daemon that makes no progress must not hold the command for ever.
    let daemon = Daemon::start([("GET /v1/map", 200, page)]);
    assert_eq!(daemon.exit(&["map", "ls"]), Exit::Done);
    let asked = daemon.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].0.ends_with(&format!("?after={address}")));
}

#[test]
fn send_exits_with_what_became_of_the_message() {
    for (state, exit) in
        [("delivered", Exit::Done), ("refused", Exit::Refused), ("expired", Exit::TimedOut), ("sent", Exit::TimedOut)]
    {
        let routes = [("POST /v1/messages", 200, sent("queued")), (waiting(), 200, outgoing(state))];
        let daemon = Daemon::start(routes);
        let args = ["send", "bob", "hi", "--wait", "delivered", "--timeout", "0.05", "--ttl", "9"];
        assert_eq!(daemon.exit(&args), exit, "{state}");
        let asked = daemon.asked();
        assert_eq!(asked[0], ("POST /v1/messages?to=bob&ttl_s=9".to_owned(), b"hi".to_vec()));
        assert!(asked[1].0.contains("?wait=delivered&timeout_ms="), "{}", asked[1].0);
    }
    let daemon = Daemon::start([("POST /v1/messages", 200, sent("queued"))]);
    assert_eq!(daemon.exit(&["send", "bob", "hi"]), Exit::Done, "without --wait, queued is enough");
    let daemon = Daemon::start([("POST /v1/messages", 404, error("unknown_recipient"))]);
    assert_eq!(daemon.exit(&["send", "bob", "hi"]), Exit::NotFound);
}

#[test]
fn a_file_is_sent_byte_for_byte_and_one_over_the_limit_not_at_all() {
    let config = |max: u64| ("GET /v1/config", 200, json!({ "message": { "max_bytes": max } }));
    let bytes: Vec<u8> = (0..300_000u32).map(|n| u8::try_from(n % 251).expect("small")).collect();
    let mut file = tempfile::Builder::new().prefix("ü &").tempfile().expect("a file");
    file.write_all(&bytes).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let daemon = Daemon::start([config(1 << 20), ("POST /v1/messages", 200, sent("queued"))]);
    assert_eq!(daemon.exit(&["send", "bob", "--file", path]), Exit::Done);
    let (url, body) = daemon.asked().pop().expect("asked");
    assert!(url.starts_with("POST /v1/messages?to=bob&file_name=%C3%BC%20%26"), "{url}");
    assert!(body == bytes, "{} bytes came", body.len());
    let daemon = Daemon::start([config(299_999), ("POST /v1/messages", 200, sent("queued"))]);
    let error = daemon.run(&["send", "bob", "--file", path]).expect_err("too large");
    assert_eq!((error.exit, error.code.as_str()), (Exit::Usage, "too_large"));
    assert!(daemon.asked().iter().all(|(url, _)| !url.contains("/v1/messages")), "nothing was sent");
}

#[test]
fn a_stream_of_events_ends_with_the_daemon() {
    let stream = ": listening\n\nevent: peer_up\ndata: {\"event\":\"peer_up\",\"address\":\"x\"}\n\nevent: new\ndata: {\"event\":\"new\"}\n\n";
    let daemon = Daemon::start([("GET /v1/events", 200, Value::String(stream.into()))]);
    for args in [&["events"][..], &["map", "watch"], &["inbox", "watch"]] {
        assert_eq!(daemon.exit(args), Exit::NotRunning, "{args:?}");
    }
}

#[test]
fn an_answer_that_is_not_of_this_api_is_a_failure_and_not_a_panic() {
    for (status, body) in [(200, json!([1])), (500, json!({ "oops": 1 })), (200, Value::String("<html>".into()))] {
        let daemon = Daemon::start([("GET /v1/id", status, body)]);
        assert_eq!(daemon.exit(&["id"]), Exit::Failed);
    }
}
