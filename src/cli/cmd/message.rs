//! `vos send`, `vos inbox`, `vos outbox`.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use futures::{Stream, StreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{
    super::{
        Context, after_help, encode,
        exit::{CliError, Exit},
        output::{Output, ago, escape, size},
        progress::Progress,
        shown,
    },
    events::follow,
    millis, seconds,
};
use crate::{
    api::{
        Client,
        schema::{self, Event, Outgoing, Received, Sent, WaitState},
    },
    message::SendState,
};

/// Pieces of a file on its way to the daemon.
const PIECE: usize = 64 * 1024;
/// Between two looks at the progress of a delivery.
const LOOK: Duration = Duration::from_millis(200);
/// Between two looks when there is no bar to move.
const LOOK_RARELY: Duration = Duration::from_secs(20);
/// Longest file name that a message carries, in bytes.
const MAX_FILE_NAME: usize = 255;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("body").required(true))]
pub struct Send {
    /// The recipient.
    #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
    to: String,
    /// The message; `-` reads it from stdin.
    #[arg(group = "body")]
    text: Option<OsString>,
    /// Send a file; `-` is stdin.
    #[arg(long, value_name = "F|-", group = "body")]
    file: Option<PathBuf>,
    /// Wait until the message is with the recipient's node, held by a friend, or acknowledged by the recipient's signature.
    #[arg(long, value_enum, value_name = "STATE")]
    wait: Option<WaitState>,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    timeout: Duration,
    /// Stop trying to deliver it after so many seconds [default: message.ttl_s].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    ttl: Option<u64>,
}

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Inbox {
    /// List received messages, newest first.
    #[command(after_help = after_help!("vos inbox ls", "vos inbox ls --limit 10 --json"))]
    Ls(List),
    /// Write a message's body to stdout, byte for byte, and mark it read; with --json as text or base64.
    #[command(after_help = after_help!("vos inbox read ID > file", "vos inbox read ID --json"))]
    Read {
        /// The message.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        /// Leave it unread.
        #[arg(long)]
        keep_unread: bool,
    },
    /// Print messages as they arrive, until Ctrl-C; JSON lines with --json.
    #[command(after_help = after_help!("vos inbox watch", "vos inbox watch --json | jq -r .id"))]
    Watch,
    /// Remove a message.
    #[command(after_help = after_help!("vos inbox rm ID"))]
    Rm {
        /// The message.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
}

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Outbox {
    /// List sent messages, newest first.
    #[command(after_help = after_help!("vos outbox ls", "vos outbox ls --json"))]
    Ls(List),
    /// Show where a message is and how it got there.
    #[command(after_help = after_help!("vos outbox show ID"))]
    Show {
        /// The message.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// Take back a message that is not delivered yet.
    #[command(after_help = after_help!("vos outbox cancel ID"))]
    Cancel {
        /// The message.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
}

/// How many.
#[derive(Debug, clap::Args)]
pub struct List {
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub(super) async fn send(context: &Context, args: Send) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    let (body, file_name) = open_body(&client, args.text, args.file.as_deref()).await?;
    let mut path = format!("/v1/messages?to={}", encode(&args.to));
    if let Some(ttl) = args.ttl {
        path += &format!("&ttl_s={ttl}");
    }
    if !file_name.is_empty() {
        path += &format!("&file_name={}", encode(&file_name));
    }
    let started = Instant::now();
    let sent: Sent = client.upload(&path, body, Duration::ZERO).await?;
    let sent = match args.wait {
        Some(wait) => follow_delivery(&client, out, sent, wait, (started, args.timeout)).await?,
        None => sent,
    };
    out.show(&sent, |sent| format!("{} {}", state_name(sent.state), sent.id))
}

/// Looks at the message until it is where it should be, at an end, or the time is over.
async fn follow_delivery(
    client: &Client,
    out: Output,
    sent: Sent,
    wait: WaitState,
    (started, timeout): (Instant, Duration),
) -> Result<Sent, CliError> {
    let bar = Progress::new(out, sent.bytes);
    let pause = if bar.is_shown() { LOOK } else { LOOK_RARELY };
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let step = millis(left.min(pause));
        let path = format!("/v1/outbox/{}?wait={}&timeout_ms={step}", sent.id, wait.as_str());
        let now: Outgoing = client.get(&path).await?;
        bar.set(now.sent_bytes, state_name(now.state));
        if let Some(verdict) = verdict(&now, wait) {
            drop(bar);
            return verdict.map(|()| Sent::from(&now));
        }
        if left.is_zero() {
            drop(bar);
            return Err(still_queued(&now, wait, timeout));
        }
    }
}

/// Whether the message got where it should; `None` while it is on its way.
fn verdict(now: &Outgoing, wait: WaitState) -> Option<Result<(), CliError>> {
    let failed = |exit, code, what: &str| {
        let why = if now.last_error.is_empty() { String::new() } else { format!(": {}", now.last_error) };
        Some(Err(CliError::new(exit, code, format!("message {} {what}{why}", now.id)).with("id", &now.id)))
    };
    match now.state {
        SendState::Refused => failed(Exit::Refused, "refused", "was refused"),
        SendState::Expired => failed(Exit::TimedOut, "expired", "expired before it was delivered"),
        SendState::Cancelled => failed(Exit::Failed, "cancelled", "was cancelled"),
        state => (state >= wait.state()).then_some(Ok(())),
    }
}

fn still_queued(now: &Outgoing, wait: WaitState, timeout: Duration) -> CliError {
    let why = if now.last_error.is_empty() { String::new() } else { format!(" (last try: {})", now.last_error) };
    let message = format!(
        "message {} is not {} after {} s{why}; it stays queued: `vos outbox show {}`",
        now.id,
        wait.as_str(),
        timeout.as_secs_f64(),
        now.id
    );
    CliError::new(Exit::TimedOut, "timed_out", message).with("id", &now.id).with("state", state_name(now.state))
}

/// The body to send, and its file name.
async fn open_body(client: &Client, text: Option<OsString>, file: Option<&Path>) -> Result<(Body, String), CliError> {
    let stdin = file == Some(Path::new("-")) || text.as_ref().is_some_and(|t| t == "-");
    match (text, file) {
        (Some(text), _) if !stdin => Ok((Body::from(text.into_vec()), String::new())),
        (_, Some(path)) if !stdin => {
            let io = |e: io::Error| CliError::usage(format!("cannot read {}: {e}", shown(path)));
            let opened = tokio::fs::File::open(path).await.map_err(io)?;
            let meta = opened.metadata().await.map_err(io)?;
            if meta.is_dir() {
                return Err(CliError::usage(format!("{} is a folder", shown(path))));
            }
            let limit = limit(client).await?;
            if meta.len() > limit {
                return Err(too_large(limit));
            }
            Ok((capped(opened, limit), file_name(path)))
        }
        _ => Ok((capped(tokio::io::stdin(), limit(client).await?), String::new())),
    }
}

/// The largest body the daemon takes: asked first, because a refusal in the middle of a long body may not be heard.
async fn limit(client: &Client) -> Result<u64, CliError> {
    let config: serde_json::Value = client.get("/v1/config").await?;
    Ok(config["message"]["max_bytes"].as_u64().unwrap_or(u64::MAX))
}

fn too_large(limit: u64) -> CliError {
    CliError::new(Exit::Usage, "too_large", format!("the message is larger than {limit} bytes (message.max_bytes)"))
}

/// A body that fails when it turns out longer than `limit`.
fn capped(reader: impl AsyncRead + std::marker::Send + 'static, limit: u64) -> Body {
    Body::from_stream(cap(ReaderStream::with_capacity(reader, PIECE), limit))
}

fn cap(
    pieces: impl Stream<Item = io::Result<Bytes>> + std::marker::Send + 'static,
    limit: u64,
) -> impl Stream<Item = io::Result<Bytes>> + std::marker::Send {
    let mut bytes = 0u64;
    pieces.map(move |piece| {
        let piece = piece?;
        bytes = bytes.saturating_add(piece.len() as u64);
        if bytes > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, too_large(limit).message));
        }
        Ok(piece)
    })
}

/// The last part of a path, cut to what a message carries.
fn file_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut end = name.len().min(MAX_FILE_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

pub(super) async fn inbox(context: &Context, args: Inbox) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match args {
        Inbox::Ls(list) => {
            let inbox: schema::Inbox = client.get(&format!("/v1/inbox?limit={}", list.limit)).await?;
            out.show(&inbox, |inbox| inbox_table(out, &inbox.messages))
        }
        Inbox::Read { id, keep_unread } => {
            let (id, mark) = (encode(&id), !keep_unread);
            if out.json {
                let message: schema::Message = client.get(&format!("/v1/inbox/{id}?mark={mark}")).await?;
                return out.json_line(&message);
            }
            let mut body = client.download(&format!("/v1/inbox/{id}/body?mark={mark}")).await?;
            while let Some(piece) = body.next().await? {
                out.bytes(&piece)?;
            }
            Ok(())
        }
        Inbox::Watch => {
            let line = |event: &Event| match event {
                Event::MessageReceived { message: m } => {
                    let text = format!("{} from {} {} {}", m.id, m.from, size(m.bytes), escape(&m.file_name));
                    Some(format!("{} {}", text.trim_end(), gap(m)).trim_end().to_owned())
                }
                Event::Lagged { source, lost } if source == "messages" => {
                    Some(format!("lagged: {lost} events were lost; see `vos inbox ls`"))
                }
                _ => None,
            };
            follow(context, line).await
        }
        Inbox::Rm { id } => {
            let done: schema::Done = client.delete(&format!("/v1/inbox/{}", encode(&id)), None::<&()>).await?;
            out.show(&done, |_| "removed".into())
        }
    }
}

fn inbox_table(out: Output, messages: &[Received]) -> String {
    let row = |m: &Received| {
        let read = if m.read { "" } else { "new" };
        let received = ago(m.received_at);
        [m.id.clone(), m.from.clone(), received, size(m.bytes), read.to_owned(), gap(m), m.file_name.clone()]
    };
    out.table(["ID", "FROM", "RECEIVED", "SIZE", "", "ORDER", "FILE"], &messages.iter().map(row).collect::<Vec<_>>())
}

/// What is not in order about a message.
fn gap(message: &Received) -> String {
    match (message.late, message.missing) {
        (true, _) => "late".into(),
        (false, 0) => String::new(),
        (false, missing) => format!("{missing} missing before"),
    }
}

pub(super) async fn outbox(context: &Context, args: Outbox) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match args {
        Outbox::Ls(list) => {
            let outbox: schema::Outbox = client.get(&format!("/v1/outbox?limit={}", list.limit)).await?;
            out.show(&outbox, |outbox| outbox_table(out, &outbox.messages))
        }
        Outbox::Show { id } => {
            let outgoing: Outgoing = client.get(&format!("/v1/outbox/{}", encode(&id))).await?;
            out.show(&outgoing, |outgoing| outgoing_detail(out, outgoing))
        }
        Outbox::Cancel { id } => {
            let outgoing: Outgoing = client.delete(&format!("/v1/outbox/{}", encode(&id)), None::<&()>).await?;
            out.show(&outgoing, |outgoing| format!("{} {}", state_name(outgoing.state), outgoing.id))
        }
    }
}

fn outbox_table(out: Output, messages: &[Outgoing]) -> String {
    let row = |m: &Outgoing| {
        [m.id.clone(), m.to.clone(), ago(m.queued_at), size(m.bytes), state_name(m.state).into(), m.last_error.clone()]
    };
    out.table(["ID", "TO", "QUEUED", "SIZE", "STATE", "LAST TRY"], &messages.iter().map(row).collect::<Vec<_>>())
}

fn outgoing_detail(out: Output, m: &Outgoing) -> String {
    let mut fields = vec![
        ("id", m.id.clone()),
        ("to", m.to.clone()),
        ("state", state_name(m.state).to_owned()),
        ("size", size(m.bytes)),
        ("sent", size(m.sent_bytes)),
        ("queued", ago(m.queued_at)),
        ("last error", m.last_error.clone()),
    ];
    fields.extend(m.holders.iter().map(|holder| ("holder", holder.clone())));
    fields.extend(m.refused.iter().map(|by| ("not held by", format!("{}: {}", by.address, by.reason))));
    let step = |s: &schema::Step| ("step", format!("{} {} by {}", state_name(s.state), ago(s.at), s.by));
    fields.extend(m.history.iter().map(step));
    out.fields(&fields)
}

fn state_name(state: SendState) -> &'static str {
    match state {
        SendState::Queued => "queued",
        SendState::Sent => "sent",
        SendState::Stored => "stored",
        SendState::Delivered => "delivered",
        SendState::Expired => "expired",
        SendState::Refused => "refused",
        SendState::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(state: SendState) -> Outgoing {
        Outgoing {
            id: "ab".repeat(32),
            to: String::new(),
            state,
            bytes: 1,
            sent_bytes: 0,
            queued_at: 0,
            expires_at: 0,
            holders: Vec::new(),
            refused: Vec::new(),
            history: Vec::new(),
            last_error: "nobody answers".into(),
        }
    }

    #[test]
    fn waiting_ends_with_zero_only_when_the_state_is_reached() {
        use SendState::*;
        let exit = |state, wait| match verdict(&outgoing(state), wait) {
            None => None,
            Some(Ok(())) => Some(Exit::Done),
            Some(Err(e)) => Some(e.exit),
        };
        for (wait, good) in [
            (WaitState::Sent, &[Sent, Stored, Delivered][..]),
            (WaitState::Stored, &[Stored, Delivered]),
            (WaitState::Delivered, &[Delivered]),
        ] {
            for state in [Queued, Sent, Stored, Delivered] {
                assert_eq!(exit(state, wait), good.contains(&state).then_some(Exit::Done), "{state:?} for {wait:?}");
            }
            assert_eq!(exit(Refused, wait), Some(Exit::Refused));
            assert_eq!(exit(Expired, wait), Some(Exit::TimedOut));
            assert_eq!(exit(Cancelled, wait), Some(Exit::Failed));
        }
    }

    #[test]
    fn running_out_of_time_says_the_id_and_that_the_message_stays() {
        let error = still_queued(&outgoing(SendState::Queued), WaitState::Delivered, Duration::from_secs(5));
        assert_eq!(error.exit, Exit::TimedOut);
        for part in [&"ab".repeat(32), "stays queued", "nobody answers", "5 s"] {
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_name_is_the_last_part_and_fits() {
        assert_eq!(file_name(Path::new("/a/b/report.pdf")), "report.pdf");
        assert_eq!(file_name(Path::new("/")), "");
        let long = file_name(Path::new(&"é".repeat(200)));
        assert!(long.len() == 254 && long.chars().all(|c| c == 'é'));
    }

    #[tokio::test]
    async fn a_body_that_grows_over_the_limit_fails() {
        let pieces = futures::stream::iter((0..3).map(|_| Ok(Bytes::from_static(b"abcd"))));
        let read: Vec<_> = cap(pieces, 8).collect().await;
        assert!(read[0].is_ok() && read[1].is_ok());
        assert_eq!(read[2].as_ref().map_err(io::Error::kind), Err(io::ErrorKind::FileTooLarge));
    }
}
