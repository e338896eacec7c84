//! `vos block`.

use std::{
    io::{self, IsTerminal},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use futures::TryStreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
};
use tokio_util::io::ReaderStream;

use super::{
    super::{
        Context, after_help, encode,
        exit::{CliError, Exit},
        output::{Output, ago, escape, short, size},
        progress::{Height, Progress},
        shown,
    },
    events, seconds,
};
use crate::{
    api::{
        ClientError, Download,
        schema::{Block, BlockHead, BlockPoint, BlockSync, Event, ExportedSegment, ImportedSegment, Submitted},
    },
    block::{
        pool::{MAX_TRANSACTION_BYTES, PoolError},
        segment,
    },
    primitives::Hash,
};

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Blocks {
    /// Show the best block, the newest final one, and the state of the chain.
    ///
    /// The state is `no_peers` (nobody of this chain is connected), `syncing` (it is not known yet how far others are), `catching_up`
    /// (blocks are fetched), `synced` (in step), `stalled` (others are ahead, and nobody gives their blocks: connect more nodes with `vos
    /// connect`, or look at the daemon's log), or `halted` (no block is taken; the reason is shown).
    #[command(after_help = after_help!("vos block head", "vos block head --json"))]
    Head,
    /// Show a block by its height in the best chain, or by its hash on any branch.
    #[command(after_help = after_help!("vos block get 12", "vos block get 3f5a... --json"))]
    Get {
        /// Which block.
        #[arg(value_name = "HEIGHT_OR_HASH", value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// Put a transaction in: the bytes of a file, or of standard input, at most 64 KiB. Prints its hash, by which `vos block get` shows it in
    /// the block that has it. It waits in memory, for half an hour at most, until one does.
    #[command(after_help = after_help!("vos block submit tx.bin", "echo hello | vos block submit -"))]
    Submit {
        /// The file; `-` or nothing for standard input.
        #[arg(value_name = "FILE|-", default_value = "-")]
        file: PathBuf,
    },
    /// Print blocks as they are imported and committed, and reorgs, until Ctrl-C.
    #[command(after_help = after_help!("vos block watch", "vos block watch --json"))]
    Watch,
    /// Show how far this node is behind; with --wait until it is not.
    #[command(after_help = after_help!("vos block sync", "vos block sync --wait --timeout 600"))]
    Sync {
        /// Wait until the chain is in step: exit status 6 when the time is over.
        #[arg(long)]
        wait: bool,
        /// With --wait: how long, in seconds.
        #[arg(long, value_name = "S", default_value = "3600", value_parser = seconds, requires = "wait")]
        timeout: Duration,
    },
    /// Print the exchanges about blocks with other nodes, in the JSON form of the protocol's first description, until Ctrl-C. Questions for
    /// headers alone, which that does not have, are left out.
    #[command(after_help = after_help!("vos block trace", "vos block trace --json | jq .code"))]
    Trace,
    /// Write a segment of the best chain to a file. Prints the heights that are in it.
    #[command(after_help = after_help!("vos block export chain.vosb", "vos block export part.vosb --from 100 --to 200"))]
    Export {
        /// The file to make, or to replace when all is written; `-` for standard output.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        /// First height.
        #[arg(long, value_name = "HEIGHT", default_value_t = 1)]
        from: u64,
        /// Last height [default: the head].
        #[arg(long, value_name = "HEIGHT")]
        to: Option<u64>,
    },
    /// Forget the chain of a data directory whose daemon is stopped, and nothing else: the daemon fetches it again when it starts. For a
    /// chain that is halted or damaged, or of another genesis.
    #[command(after_help = after_help!("vos block reset --yes"))]
    Reset {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Check and import a segment from a file. What is here already is skipped, so it can be done again.
    #[command(after_help = after_help!("vos block import chain.vosb", "ssh host vos block export - | vos block import -"))]
    Import {
        /// The file; `-` for standard input.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
}

/// Names of standard output: nothing else is written there then.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(250);
/// For one of them.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of a file read at once.
const PIECE: usize = 256 * 1024;

/// Runs a `vos block` command.
pub(super) async fn run(context: &Context, command: Blocks) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match command {
        Blocks::Head => {
            let head: BlockHead = client.get("/v1/block/head").await?;
            out.show(&head, |head| head_text(out, head))
        }
        Blocks::Get { id } => {
            let block: Block = client.get(&format!("/v1/block/blocks/{}", encode(&id))).await?;
            out.show(&block, |block| block_text(out, block))
        }
        Blocks::Submit { file } => {
            let transaction = transaction(out, &file).await?;
            let hash = Hash::of(&transaction).to_string();
            let submitted = client.post_bytes::<Submitted>("/v1/block/transactions", transaction).await;
            let submitted = submitted.map_err(|error| {
                let error = CliError::from(error);
                let message = format!("{}: {hash}", error.message);
                // Whoever tries again after a broken connection learns the hash that it would have got.
                if error.code == "duplicate" { CliError { message, ..error }.with("transaction", &hash) } else { error }
            })?;
            out.show(&submitted, |submitted| submitted.transaction.clone())
        }
        Blocks::Watch => {
            // Without a chain nothing would ever be printed.
            let head: BlockHead = client.get("/v1/block/head").await?;
            if let Some(why) = head.halted {
                out.note(&format!("no block is taken now: {}", escape(&why)));
            }
            events::follow(context, line).await
        }
        Blocks::Sync { wait, timeout } => sync(context, wait.then_some(timeout)).await,
        Blocks::Trace => trace(context).await,
        Blocks::Reset { yes } => reset(context, yes),
        Blocks::Export { file, from, to } => export(context, &file, from, to).await,
        Blocks::Import { file } => {
            let imported: ImportedSegment = client.upload("/v1/block/segment", body(out, &file).await?, IMPORT).await?;
            out.show(&imported, |i| {
                format!("{} blocks, {} of them were here; head {}", i.blocks, i.skipped, point(&i.head))
            })
        }
    }
}

fn reset(context: &Context, yes: bool) -> Result<(), CliError> {
    let dir = context.data_dir()?;
    if !dir.join("db").is_dir() {
        return Err(CliError::usage(format!("no daemon has run in {}: there is no chain to forget", shown(&dir))));
    }
    if !yes {
        return Err(CliError::usage(format!(
            "this deletes all blocks in {}; blocks that no other node has are lost (`vos block export` keeps them). Identity, messages \
             and contacts stay. Say --yes to do it",
            shown(&dir)
        )));
    }
    let head =
        crate::node::reset_chain(dir)?.map(|head| BlockPoint { height: head.height, hash: head.hash.to_string() });
    context.out.show(&serde_json::json!({ "head": head }), |_| match &head {
        Some(head) => format!("forgotten: the chain with head {}", point(head)),
        None => "forgotten: no head could be read".to_owned(),
    })
}

/// For what was read to be written, after the last byte.
const IMPORT: Duration = Duration::from_secs(600);

/// A transaction. One that is too large is refused here: a refusal in the middle of a long body may not be heard.
async fn transaction(out: Output, file: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |e: io::Error| CliError::usage(format!("cannot read {}: {e}", shown(file)));
    let mut bytes = Vec::new();
    let most = MAX_TRANSACTION_BYTES as u64 + 1; // usize fits in u64
    if file == Path::new("-") {
        note_terminal(out);
        tokio::io::stdin().take(most).read_to_end(&mut bytes).await.map_err(failed)?;
    } else {
        let file = tokio::fs::File::open(file).await.map_err(failed)?;
        file.take(most).read_to_end(&mut bytes).await.map_err(failed)?;
    }
    if bytes.is_empty() {
        return Err(CliError::usage(PoolError::Empty.to_string()));
    }
    if bytes.len() > MAX_TRANSACTION_BYTES {
        return Err(CliError::new(Exit::Usage, "too_large", PoolError::TooLarge.to_string()));
    }
    Ok(bytes)
}

/// Whoever forgot the name of a file would wait for nothing.
fn note_terminal(out: Output) {
    if io::stdin().is_terminal() {
        out.note("reading standard input until Ctrl-D");
    }
}

/// A file's bytes, or those of standard input, with a bar on a terminal.
async fn body(out: Output, file: &Path) -> Result<Body, CliError> {
    if file == Path::new("-") {
        note_terminal(out);
        return Ok(Body::from_stream(ReaderStream::new(tokio::io::stdin())));
    }
    let failed = |e: io::Error| CliError::usage(format!("cannot read {}: {e}", shown(file)));
    let file = tokio::fs::File::open(file).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    if metadata.is_dir() {
        return Err(CliError::usage("this is a directory: name a file"));
    }
    let (progress, mut sent) = (Progress::new(out, metadata.len()), 0);
    let pieces = ReaderStream::with_capacity(file, PIECE).inspect_ok(move |piece| {
        sent += piece.len() as u64; // usize fits in u64
        progress.set(sent, "importing");
    });
    Ok(Body::from_stream(pieces))
}

fn point(point: &BlockPoint) -> String {
    format!("{} {}", point.height, point.hash)
}

/// That other nodes have another chain, when they have.
pub(super) fn split(head: &BlockHead) -> Option<String> {
    let peers = head.conflicting_peers;
    (peers > 0).then(|| format!("{peers} of {} peers are on a branch that contradicts what is final here", head.peers))
}

fn head_text(out: Output, head: &BlockHead) -> String {
    let mut fields = vec![
        ("head", point(&head.head)),
        ("made", ago(head.head_at)),
        ("committed", point(&head.committed)),
        ("state", head.state.clone()),
        ("peers", head.peers.to_string()),
        ("genesis", head.genesis.clone()),
    ];
    fields.extend(head.clock_offset_ms.map(|ms| ("clock", format!("{ms} ms to the median of the peers"))));
    fields.extend(split(head).map(|split| ("split", split)));
    let damaged = head.damaged_files;
    fields.extend((damaged > 0).then(|| {
        let what = format!(
            "{damaged} files with blocks are gone or damaged: `vos block reset` forgets the chain, to fetch it anew"
        );
        ("damage", what)
    }));
    fields.extend(head.halted.iter().map(|why| ("halted", why.clone())));
    out.fields(&fields)
}

fn block_text(out: Output, block: &Block) -> String {
    let header = &block.header;
    let place = match (block.best, block.committed) {
        (_, true) => "committed",
        (true, false) => "best chain",
        (false, false) => "side branch",
    };
    let mut fields = vec![
        ("height", header.height.to_string()),
        ("hash", header.hash.clone()),
        ("parent", header.parent.clone()),
        ("made", ago(header.timestamp)),
        ("producer", if header.producer.is_empty() { "none".to_owned() } else { header.producer.clone() }),
        ("place", place.to_owned()),
        ("bytes", size(header.bytes.into())),
        ("transactions", header.transactions.to_string()),
    ];
    let hashes = block.transaction_hashes.iter();
    let shown = block.transactions.iter().zip(hashes).take(SHOWN);
    fields.extend(shown.map(|(bytes, hash)| ("transaction", format!("{hash}  {}", shown_transaction(bytes)))));
    let more = block.transactions.len().saturating_sub(SHOWN);
    if more > 0 {
        fields.push(("transaction", format!("and {more} more: --json shows all")));
    }
    out.fields(&fields)
}

/// Transactions of a block that are shown to people.
const SHOWN: usize = 16;

/// The text of a transaction in quotes when it is a short one, or how long it is.
fn shown_transaction(base64: &str) -> String {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.len() <= 100 => format!("\"{}\"", escape(text)),
        _ => size(bytes.len() as u64), // usize fits in u64
    }
}

fn line(event: &Event) -> Option<String> {
    match event {
        Event::BlockImported { block, from, bytes } => {
            Some(format!("imported {} {} from {from}", point(block), size(*bytes as u64))) // usize fits in u64
        }
        Event::BlockCommitted { block, first } if *first < block.height => {
            Some(format!("committed {first} to {}", point(block)))
        }
        Event::BlockCommitted { block, .. } => Some(format!("committed {}", point(block))),
        Event::BlockHead { block } => Some(format!("head {}", point(block))),
        Event::Reorg { head, detached_count: left, attached_count: taken, .. } => {
            Some(format!("reorg: {left} blocks left, {taken} taken, head {}", point(head)))
        }
        Event::BlockConflict { fork, tip, peers } => {
            Some(format!("conflict: {peers} peers are on a branch from {} to {}", point(fork), point(tip)))
        }
        Event::BlockHalted { halted: Some(why) } => Some(format!("halted: {}", escape(why))),
        Event::BlockHalted { halted: None } => Some("goes on: blocks are taken again".to_owned()),
        Event::Lagged { source, lost } if source == "blocks" => Some(format!("lagged: {lost} events were lost")),
        _ => None,
    }
}

/// Shows how far sync is; waits for its end when there is a time for it.
async fn sync(context: &Context, wait: Option<Duration>) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    let started = Instant::now();
    let mut bar = None;
    loop {
        let left = wait.map(|timeout| timeout.saturating_sub(started.elapsed()));
        // A daemon that hangs is not waited for any longer than one that is behind.
        let asking = left.map_or_else(|| client.clone(), |left| client.clone().patience(left.clamp(LOOK, ANSWER)));
        let sync: BlockSync = asking.get("/v1/block/sync").await?;
        let Some(timeout) = wait else { return out.show(&sync, sync_text) };
        if sync.state == "synced" {
            drop(bar);
            return out.show(&sync, sync_text);
        }
        // A store that failed is tried again by the daemon.
        if let Some(why) = sync.halted.as_ref().filter(|_| !sync.retrying) {
            return Err(CliError::new(Exit::Refused, "halted", format!("the chain is halted: {}", escape(why))));
        }
        if started.elapsed() >= timeout {
            let text = format!("not in step after {}: {}", short(timeout), sync_text(&sync));
            return Err(CliError::new(Exit::TimedOut, "timed_out", text));
        }
        let bar = bar.get_or_insert_with(|| Height::new(out));
        bar.set(sync.height, sync.target, &format!("{}, {:.0} blocks/s, {}", sync.state, sync.rate, peers(sync.peers)));
        tokio::time::sleep(LOOK).await;
    }
}

fn peers(count: usize) -> String {
    if count == 1 { "1 peer".to_owned() } else { format!("{count} peers") }
}

fn sync_text(sync: &BlockSync) -> String {
    let peers = peers(sync.peers);
    match sync.target > sync.height {
        true => format!("{}: {} of {}, {:.0} blocks/s, {peers}", sync.state, sync.height, sync.target, sync.rate),
        false => format!("{}: {}, {peers}", sync.state, sync.height),
    }
}

async fn trace(context: &Context) -> Result<(), CliError> {
    let out = context.out;
    let mut exchanges = context.client()?.stream("/v1/block/trace").await?;
    context.out.note(super::events::LISTENING);
    while let Some(exchange) = exchanges.next_value().await? {
        if context.out.json {
            out.json_line(&exchange)?;
            continue;
        }
        if exchange["event"] == "lagged" {
            out.text(&format!("lagged: {} exchanges were lost\n", exchange["lost"]))?;
            continue;
        }
        let text = |key: &str| exchange[key].as_str().unwrap_or_default().to_owned();
        let arrow = if text("direction") == "sent" { "->" } else { "<-" };
        let mut data = serde_json::json!({ "code": exchange["code"], "data": exchange["data"] });
        if let Some(count) = exchange.get("count") {
            data["count"] = count.clone();
        }
        let peer = exchange["peer"].as_str().unwrap_or("everybody");
        out.text(&format!("{arrow} {peer} {data}\n"))?;
    }
    Err(events::ended())
}

async fn export(context: &Context, file: &Path, from: u64, to: Option<u64>) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    let pipe = STDOUT.iter().any(|name| file == Path::new(name));
    if pipe && out.json {
        return Err(CliError::usage("--json has one document on standard output: name a file to export to"));
    }
    if pipe && io::stdout().is_terminal() {
        return Err(CliError::usage(
            "blocks are bytes that a terminal might obey: name a file, or pipe them somewhere",
        ));
    }
    let to = to.map_or_else(String::new, |to| format!("&to={to}"));
    let mut blocks = client.download(&format!("/v1/block/segment?from={from}{to}")).await?;
    // A broken pipe is a failure here: not all blocks are where they were to go.
    let failed = |e: io::Error| CliError::failed(format!("cannot write {}: {e}", shown(file)));
    if pipe {
        while let Some(piece) = next(context, &mut blocks).await? {
            out.bytes(&piece).map_err(|e| if e.silent { failed(io::ErrorKind::BrokenPipe.into()) } else { e })?;
        }
        return Ok(());
    }
    let write = async {
        let (mut writing, part) = match target(file).await {
            Target::File(target) => {
                // Beside it and renamed at the end, so that there never is half a file of this name.
                let (file, part) = beside(&target).map_err(failed)?.into_parts();
                (tokio::fs::File::from_std(file), Some((part, target)))
            }
            // A device or a pipe stays what it is.
            Target::Special => (tokio::fs::OpenOptions::new().write(true).open(file).await.map_err(failed)?, None),
        };
        let exported = copy(context, &mut blocks, &mut writing, failed).await?;
        if let Some((part, target)) = part {
            writing.sync_all().await.map_err(failed)?;
            part.persist(target).map_err(|e| failed(e.error))?;
        }
        Ok::<_, CliError>(exported)
    };
    let exported = tokio::select! {
        exported = write => exported?,
        // The part goes when it is dropped, which a signal that nobody catches would not do.
        signal = interrupted() => {
            signal.map_err(failed)?;
            return Err(CliError::failed(format!("interrupted: {} was not written", shown(file))));
        }
    };
    out.show(&exported, |e| format!("blocks {} to {}, {}, written to {}", e.first, e.last, size(e.bytes), shown(file)))
}

/// Waits for one of the signals that end a command.
async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done,
        _ = terminate.recv() => Ok(()),
    }
}

async fn copy(
    context: &Context,
    blocks: &mut Download,
    to: &mut tokio::fs::File,
    failed: impl Fn(io::Error) -> CliError,
) -> Result<ExportedSegment, CliError> {
    let (mut bytes, mut start) = (0, Vec::new());
    while let Some(piece) = next(context, blocks).await? {
        let missing = segment::START.saturating_sub(start.len()).min(piece.len());
        start.extend_from_slice(&piece[..missing]);
        to.write_all(&piece).await.map_err(&failed)?;
        bytes += piece.len() as u64; // usize fits in u64
    }
    to.flush().await.map_err(&failed)?;
    let heights = segment::heights(&start);
    let (first, last) = heights.ok_or_else(|| CliError::failed("what the daemon sent is no segment of blocks"))?;
    Ok(ExportedSegment { first, last, blocks: last - first + 1, bytes })
}

/// What is to be written.
enum Target {
    /// A file that is there or is to be made; where links lead.
    File(PathBuf),
    /// A device or a pipe.
    Special,
}

async fn target(file: &Path) -> Target {
    // What these lead to is a descriptor of ours, even when that is a file.
    let descriptor = ["/dev", "/proc"].iter().any(|dir| file.starts_with(dir));
    match (tokio::fs::canonicalize(file).await, tokio::fs::metadata(file).await) {
        (_, Ok(metadata)) if descriptor || !(metadata.is_file() || metadata.is_dir()) => Target::Special,
        (Ok(target), _) => Target::File(target),
        (Err(_), _) => Target::File(file.to_owned()),
    }
}

/// A new file in the folder of `target` that nobody else has, with the access that the user's umask gives.
fn beside(target: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if target.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // What is replaced keeps who may read it.
    let access = match std::fs::metadata(target) {
        Ok(there) => std::fs::Permissions::from_mode(there.permissions().mode() & 0o777),
        Err(_) => std::fs::Permissions::from_mode(0o666),
    };
    tempfile::Builder::new().prefix(".vos-export-").suffix(".part").permissions(access).tempfile_in(folder)
}

/// The next piece. An answer that breaks off has no other way to say why.
async fn next(context: &Context, blocks: &mut Download) -> Result<Option<bytes::Bytes>, CliError> {
    let why = match blocks.next().await {
        Ok(piece) => return Ok(piece),
        Err(ClientError::Broken(why)) => why,
        Err(other) => return Err(other.into()),
    };
    // A daemon that is gone says so by itself.
    let _: BlockHead = context.client()?.get("/v1/block/head").await?;
    Err(CliError::failed(format!(
        "the export broke off ({why}): the reader paused for a minute, the best chain changed (then export up to the committed height \
         with --to), or a stored block is damaged; the daemon's log says which"
    )))
}
