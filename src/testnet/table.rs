//! What people see: on a terminal a table that is redrawn in place with the steps above it, elsewhere plain lines.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use serde_json::Value;

use crate::api::{Client, ClientError};

/// Time between two drawings.
const REDRAW: Duration = Duration::from_millis(500);

/// Rows drawn at most, so that the table fits on a small terminal; the others are counted in one line.
const MAX_ROWS: usize = 16;

/// A node to ask for its row.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub name: String,
    pub client: Client,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    address: String,
    peers: String,
    map: String,
    state: &'static str,
}

impl Row {
    fn of(name: &str, status: &Result<Value, ClientError>) -> Self {
        let dash = || "-".to_owned();
        let (address, peers, map, state) = match status {
            Ok(status) => {
                let complete = status["map"]["complete"].as_bool().unwrap_or(false);
                let number = |v: &Value| v.as_u64().map_or_else(dash, |n| n.to_string());
                let address = status["address"].as_str().map_or_else(dash, str::to_owned);
                let state = if complete { "complete" } else { "joining" };
                (address, number(&status["peers"]), number(&status["map"]["records"]), state)
            }
            Err(ClientError::NotRunning { .. }) => (dash(), dash(), dash(), "down"),
            Err(_) => (dash(), dash(), dash(), "no answer"),
        };
        Self { name: name.into(), address, peers, map, state }
    }
}

/// The terminal. All writing goes through its lock, so that table and steps do not mix.
#[derive(Debug)]
pub(super) struct Screen {
    /// Lines go to stderr, because stdout is for one JSON document.
    json: bool,
    live: bool,
    /// Lines of the table on the screen, to be overwritten.
    drawn: Mutex<usize>,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let live = if json { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        Self { json, live, drawn: Mutex::new(0) }
    }

    /// Whether there is a table.
    fn is_live(&self) -> bool {
        self.live
    }

    /// A line that stays, above the table.
    pub(super) fn line(&self, text: &str) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&format!("{}{text}\n", erase(*drawn)));
        *drawn = 0;
    }

    /// A line for those who have no table.
    pub(super) fn detail(&self, text: &str) {
        if !self.live {
            self.line(text);
        }
    }

    /// Leaves the last table where it is.
    pub(super) fn end_table(&self) {
        *self.drawn.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    /// The one document of `--json`.
    pub(super) fn document(&self, text: &str) {
        // A reader that went away does not make the scenario fail.
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }

    fn table(&self, rows: &[Row]) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = render(rows);
        self.write(&format!("{}{}\n", erase(*drawn), lines.join("\n")));
        *drawn = lines.len();
    }

    fn write(&self, text: &str) {
        // As above: nobody reads it any more.
        let _ = if self.json {
            io::stderr().lock().write_all(text.as_bytes())
        } else {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}

/// Up over the last table, and everything below away.
fn erase(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\x1b[J") }
}

fn render(rows: &[Row]) -> Vec<String> {
    let line = |name: &str, address: &str, peers: &str, map: &str, state: &str| {
        format!("{name:<24} {address:<52} {peers:>5} {map:>6}  {state}").trim_end().to_owned()
    };
    let mut lines = vec![line("node", "address", "peers", "map", "state")];
    lines.extend(rows.iter().take(MAX_ROWS).map(|r| line(&r.name, &r.address, &r.peers, &r.map, r.state)));
    if let Some(rest) = rows.get(MAX_ROWS..).filter(|rest| !rest.is_empty()) {
        let complete = rest.iter().filter(|r| r.state == "complete").count();
        lines.push(format!("and {} more nodes, {complete} of them complete", rest.len()));
    }
    lines
}

/// Draws the table until it is dropped. Does nothing where there is no terminal.
pub(super) async fn watch(screen: Arc<Screen>, nodes: Vec<Watched>) {
    if !screen.is_live() {
        return;
    }
    let mut tick = tokio::time::interval(REDRAW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let rows: Vec<Row> = stream::iter(nodes.clone())
            .map(|node| async move { Row::of(&node.name, &node.client.get("/v1/status").await) })
            .buffered(8)
            .collect()
            .await;
        screen.table(&rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_show_what_the_daemon_says() {
        let status = serde_json::json!({"address": "12D3", "peers": 7, "map": {"records": 8, "complete": true}});
        let up = Row::of("node1", &Ok(status));
        let gone = ClientError::NotRunning { place: "api.sock".into(), source: io::ErrorKind::NotFound.into() };
        let down = Row::of("node2", &Err(gone));
        let odd = Row::of("node3", &Ok(Value::Null));
        let lines = render(&[up, down, odd]);
        let words = |i: usize| lines[i].split_ascii_whitespace().collect::<Vec<_>>();
        assert_eq!(words(0), ["node", "address", "peers", "map", "state"]);
        assert_eq!(words(1), ["node1", "12D3", "7", "8", "complete"]);
        assert_eq!(words(2), ["node2", "-", "-", "-", "down"]);
        assert_eq!(words(3), ["node3", "-", "-", "-", "joining"]);
    }

    #[test]
    fn a_large_network_does_not_scroll_the_table_away() {
        let row = |i: usize| Row {
            name: format!("node{i}"),
            address: "a".into(),
            peers: "1".into(),
            map: "50".into(),
            state: if i == 49 { "joining" } else { "complete" },
        };
        let lines = render(&(0..50).map(row).collect::<Vec<_>>());
        assert_eq!(lines.len(), MAX_ROWS + 2);
        assert_eq!(lines[MAX_ROWS + 1], "and 34 more nodes, 33 of them complete");
    }
}
