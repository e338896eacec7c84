//! Block exchange.

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::header,
    response::{
        IntoResponse, Response,
        sse::{self, Sse},
    },
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http_body_util::LengthLimitError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream, errors::BroadcastStreamRecvError::Lagged};

use super::{
    super::{
        App,
        error::ApiError,
        events,
        extract::{Params, Segment},
        schema::{
            Block, BlockHead, BlockSync, ErrorBody, ImportedSegment, Octets, SegmentOptions, Submitted, TraceLagged,
            Traced,
        },
        spool,
    },
    turn,
};
use crate::{
    block::{
        self, BlockId,
        pool::{MAX_TRANSACTION_BYTES, PoolError},
        producer::SubmitError,
        segment::SegmentError,
    },
    primitives::Hash,
};

/// Pieces of a segment on their way between a connection and the thread that writes or reads it.
const PIPE: usize = 8;
/// Bytes of such a piece.
const PIECE: usize = 256 * 1024;
/// How long a sender of a segment may pause.
const PAUSE: Duration = Duration::from_secs(60);
/// How long a sender whose segment is not wanted may pause until it is answered.
const QUIET: Duration = Duration::from_secs(1);
/// What [`turn`] is asked for.
const SEGMENTS: &str = "segments of the chain";

fn block(app: &App) -> Result<block::Handle, ApiError> {
    app.deps.block.clone().ok_or_else(|| {
        ApiError::refused("block exchange is off on this node: set block.enabled = true and start it again")
    })
}

/// Where the chain stands.
#[utoipa::path(
    get, path = "/v1/block/head", tag = "blocks",
    responses((status = 200, body = BlockHead), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn head(State(app): State<App>) -> Result<Json<BlockHead>, ApiError> {
    Ok(Json(BlockHead::from(&block(&app)?)))
}

/// One block: by its height in the best chain, or by its hash on any branch.
#[utoipa::path(
    get, path = "/v1/block/blocks/{id}", tag = "blocks",
    params(("id" = String, Path, description = "A height, or a hash of 64 hex digits")),
    responses((status = 200, body = Block), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn get(State(app): State<App>, Segment(text): Segment) -> Result<Response, ApiError> {
    let block = block(&app)?;
    let id = block_id(&text)?;
    // Some megabytes each, for as long as the reader takes.
    let place = turn(&app.bodies, "bodies").await?;
    let head = block.status().head.height;
    // Its encoding hashes and copies all of it.
    let read = move || block.block(id).map(|found| found.map(|held| serde_json::to_vec(&Block::from(held))));
    let found = tokio::task::spawn_blocking(read).await.map_err(|_| ApiError::busy("stopping"))??;
    let none = match id {
        BlockId::Height(height) => format!("no block at height {height}: the chain ends at {head}"),
        BlockId::Hash(hash) => format!("no block {hash} is held here"),
    };
    let json = found.ok_or_else(|| ApiError::not_found(none))?.map_err(|e| ApiError::io("encoding", &e.into()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], spool::give(json.into(), place)).into_response())
}

fn block_id(text: &str) -> Result<BlockId, ApiError> {
    if text.len() == 64 {
        let mut hash = [0; 32];
        if hex::decode_to_slice(text, &mut hash).is_ok() {
            return Ok(BlockId::Hash(Hash(hash)));
        }
    }
    let short: String = text.chars().take(72).collect();
    let wrong = |_| ApiError::invalid(format!("{short:?} is neither a height nor a hash of 64 hex digits"));
    text.parse().map(BlockId::Height).map_err(wrong)
}

/// Puts a transaction in; the request's body is the transaction, of at most 65536 bytes. One that waits already, or is in one of the last 128
/// blocks, is refused with `duplicate`: whoever repeats a request that got no answer learns so that it was taken.
#[utoipa::path(
    post, path = "/v1/block/transactions", tag = "blocks",
    request_body(content = inline(Octets), content_type = "application/octet-stream"),
    responses((status = 200, body = Submitted), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn submit(State(app): State<App>, request: Request) -> Result<Json<Submitted>, ApiError> {
    let block = block(&app)?;
    let broken = |error: axum::Error| match error.into_inner().is::<LengthLimitError>() {
        true => SubmitError::Pool(PoolError::TooLarge).into(),
        false => ApiError::invalid("the transaction broke off"),
    };
    let bytes = tokio::time::timeout(PAUSE, to_bytes(request.into_body(), MAX_TRANSACTION_BYTES)).await;
    let bytes = bytes.map_err(|_| ApiError::timed_out("the transaction stopped coming"))?.map_err(broken)?;
    Ok(Json(block.submit(bytes).await?.into()))
}

/// How far this node is behind.
#[utoipa::path(
    get, path = "/v1/block/sync", tag = "blocks",
    responses((status = 200, body = BlockSync), (status = "4XX", body = ErrorBody))
)]
pub(super) async fn sync(State(app): State<App>) -> Result<Json<BlockSync>, ApiError> {
    let block = block(&app)?;
    let progress = block.progress().borrow().clone();
    Ok(Json(BlockSync::new(&progress, block.status())))
}

/// Every exchange about blocks with other nodes, from now on, in the JSON form of the protocol's first description. A subscriber that is
/// too slow gets `lagged` events with the number that it lost.
#[utoipa::path(
    get, path = "/v1/block/trace", tag = "blocks",
    responses(
        (status = 200, body = Traced, content_type = "text/event-stream"),
        (status = "4XX", body = ErrorBody),
        (status = 503, body = ErrorBody, description = "32 streams are open")
    )
)]
pub(super) async fn trace(
    State(app): State<App>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let exchanges = BroadcastStream::new(block(&app)?.trace()).map(|exchange| {
        let (name, data) = match exchange {
            Ok(exchange) => ("exchange", exchange.to_json()),
            Err(Lagged(lost)) => {
                let lagged = TraceLagged { event: "lagged".to_owned(), source: "blocks".to_owned(), lost };
                ("lagged", serde_json::json!(lagged))
            }
        };
        sse::Event::default().event(name).data(data.to_string())
    });
    events::serve(&app, exchanges)
}

/// Blocks of the best chain as a file.
#[utoipa::path(
    get, path = "/v1/block/segment", tag = "blocks", params(SegmentOptions),
    responses(
        (status = 200, body = inline(Octets), content_type = "application/octet-stream"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)
    )
)]
pub(super) async fn export(
    State(app): State<App>,
    Params(options): Params<SegmentOptions>,
) -> Result<Response, ApiError> {
    let block = block(&app)?;
    let place = turn(&app.segments, SEGMENTS).await?;
    let (from, to) = (options.from.unwrap_or(1), options.to);
    let (pieces, out) = mpsc::channel(PIPE);
    let runtime = tokio::runtime::Handle::current();
    let work = move || -> Result<(), SegmentError> {
        let done = block.export(from, to, Pipe { runtime, pieces, piece: BytesMut::new() });
        drop(place);
        done.map(drop)
    };
    let working = tokio::task::spawn_blocking(work);
    let mut out = ReceiverStream::new(out).peekable();
    // An error before the first piece still has a status of its own; after it, all that is left is to break the answer off.
    if std::pin::Pin::new(&mut out).peek().await.is_none() {
        working.await.map_err(|_| ApiError::busy("the node is stopping"))??;
        return Err(ApiError::busy("nothing was exported"));
    }
    let end = stream::once(working).filter_map(async |done| match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            // The answer can only break off: why, is said here.
            tracing::warn!(%error, "an export of blocks broke off");
            Some(Err(io::Error::other(error.to_string())))
        }
        Err(error) => Some(Err(io::Error::other(error.to_string()))),
    });
    let out = out.map(Ok).chain(end);
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, Body::from_stream(out)).into_response())
}

/// Checks and imports blocks from a file; the request's body is the file. What is here already is skipped.
#[utoipa::path(
    post, path = "/v1/block/segment", tag = "blocks",
    request_body(content = inline(Octets), content_type = "application/octet-stream"),
    responses(
        (status = 200, body = ImportedSegment), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)
    )
)]
pub(super) async fn import(State(app): State<App>, request: Request) -> Result<Json<ImportedSegment>, ApiError> {
    let mut body = request.into_body().into_data_stream();
    let ready = match block(&app) {
        Ok(block) => turn(&app.segments, SEGMENTS).await.map(|place| (block, place)),
        Err(error) => Err(error),
    };
    let (block, place) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            drain(&mut body).await;
            return Err(error);
        }
    };
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(PIPE);
    let reading = block.clone();
    let mut working =
        tokio::task::spawn_blocking(move || reading.import(Source { pieces, piece: Bytes::new(), failed: false }));
    let (early, unread) = loop {
        let next = tokio::select! {
            // It found something wrong.
            done = &mut working => break (Some(done), true),
            next = tokio::time::timeout(PAUSE, body.next()) => next,
        };
        let piece = match next {
            Ok(None) => break (None, false),
            Ok(Some(piece)) => piece.map_err(|e| io::Error::new(io::ErrorKind::UnexpectedEof, e.to_string())),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the segment stopped coming")),
        };
        let ended = piece.is_err();
        let wanted = sender.send(piece).await.is_ok();
        if ended || !wanted {
            break (None, !ended);
        }
    };
    drop(sender);
    let done = match early {
        Some(done) => done,
        None => working.await,
    };
    drop(place);
    if unread {
        drain(&mut body).await;
    }
    let done = done.map_err(|_| ApiError::busy("the node is stopping"))?;
    let done = done.map_err(|error| match error {
        SegmentError::Io(e) if e.kind() == io::ErrorKind::TimedOut => ApiError::timed_out(e.to_string()),
        other => other.into(),
    })?;
    Ok(Json(ImportedSegment::new(done, block.status().head)))
}

/// Reads what is left of a body that nobody wants, for a while: whoever is still sending would not hear the answer.
async fn drain(body: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin)) {
    // Whoever has paused for so long listens.
    let rest = async { while let Ok(Some(Ok(_))) = tokio::time::timeout(QUIET, body.next()).await {} };
    // Over then: the sender sees a broken connection.
    let _ = tokio::time::timeout(PAUSE, rest).await;
}

/// Cuts what is written into pieces for the answer.
struct Pipe {
    runtime: tokio::runtime::Handle,
    pieces: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Pipe {
    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        let piece = self.piece.split().freeze();
        // A reader that stops must not keep one of the few places.
        let sent = self.runtime.block_on(tokio::time::timeout(PAUSE, self.pieces.send(piece)));
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(gone) }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Reads what comes with a request.
struct Source {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    failed: bool,
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.failed {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        let n = out.len().min(self.piece.len());
        out[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_height_and_a_hash_are_told_apart_and_all_else_is_refused() {
        assert_eq!(block_id("12").unwrap(), BlockId::Height(12));
        assert_eq!(block_id(&"ab".repeat(32)).unwrap(), BlockId::Hash(Hash([0xab; 32])));
        for text in ["", "-1", "x", "18446744073709551616", &"zz".repeat(32), &"ab".repeat(31)] {
            assert_eq!(block_id(text).unwrap_err().code, "invalid", "{text}");
        }
    }
}
