//! Message bodies on their way in and out: spooled to disk above one chunk, never in memory as a whole on the way in.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{body::Body, extract::Request, http::header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tempfile::TempPath;
use tokio::{io::AsyncWriteExt, sync::OwnedSemaphorePermit};

use super::error::ApiError;
use crate::message;

/// Bodies up to this size skip the disk, and bodies going out are cut into such pieces: about what a socket's buffer takes.
const CHUNK: usize = 64 * 1024;
/// How names of spooled bodies begin.
const PREFIX: &str = "body-";
/// How long a sender may pause.
const PAUSE: Duration = Duration::from_secs(30);

/// Makes the folder for spooled bodies (mode 0700) and removes what a crash left in it. Blocks; the caller holds the data
/// directory's lock.
///
/// # Errors
/// What the system said.
pub fn prepare_spool_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Only what this file made: the folder may be a wrong one.
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads a request's body, refusing it as soon as it is over `limit`. The file, if any, goes with the returned guard.
pub(super) async fn take(
    request: Request,
    dir: &Path,
    limit: u64,
) -> Result<(message::Body, Option<TempPath>), ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
        return Err(too_large(bytes, limit));
    }
    let mut body = request.into_body().into_data_stream();
    let mut small = BytesMut::new();
    let mut file = None;
    let mut bytes = 0u64;
    while let Some(chunk) = next(&mut body).await? {
        bytes = bytes.saturating_add(chunk.len() as u64);
        if bytes > limit {
            return Err(too_large(bytes, limit));
        }
        if file.is_none() && small.len() + chunk.len() <= CHUNK {
            small.extend_from_slice(&chunk);
            continue;
        }
        let (writer, _) = match &mut file {
            Some(file) => file,
            none => {
                let mut made = create(dir.to_owned()).await.map_err(|e| failed(&e))?;
                made.0.write_all(&std::mem::take(&mut small)).await.map_err(|e| failed(&e))?;
                none.insert(made)
            }
        };
        writer.write_all(&chunk).await.map_err(|e| failed(&e))?;
    }
    match file {
        None => Ok((message::Body::Bytes(small.into()), None)),
        Some((mut writer, path)) => {
            // Without this, an error of the last write could go unseen.
            writer.flush().await.map_err(|e| failed(&e))?;
            Ok((message::Body::File(path.to_path_buf()), Some(path)))
        }
    }
}

async fn next(body: &mut (impl Stream<Item = Result<Bytes, axum::Error>> + Unpin)) -> Result<Option<Bytes>, ApiError> {
    let chunk = tokio::time::timeout(PAUSE, body.next()).await;
    let chunk = chunk.map_err(|_| ApiError::timed_out("the body stopped coming; nothing was queued"))?;
    chunk.transpose().map_err(|e| ApiError::invalid(format!("the body broke off: {e}; nothing was queued")))
}

async fn create(dir: PathBuf) -> io::Result<(tokio::fs::File, TempPath)> {
    // Mode 0600 is this builder's default.
    let make = move || tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir);
    let file = tokio::task::spawn_blocking(make).await.map_err(io::Error::other)??;
    let (file, path) = file.into_parts();
    Ok((tokio::fs::File::from_std(file), path))
}

fn failed(error: &io::Error) -> ApiError {
    ApiError::io("spooling the body", error)
}

fn too_large(bytes: u64, limit: u64) -> ApiError {
    ApiError::too_large(format!("message of {bytes} bytes or more, limit {limit} (message.max_bytes)"))
}

/// A body going out that keeps its place among the bodies in memory until its last piece is taken.
pub(super) fn give(bytes: Bytes, place: OwnedSemaphorePermit) -> Body {
    let pieces = futures::stream::unfold((bytes, place), |(mut rest, place)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(CHUNK));
        Some((Ok::<_, io::Error>(piece), (rest, place)))
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(chunks: Vec<Vec<u8>>) -> Request {
        let stream = futures::stream::iter(chunks.into_iter().map(|c| Ok::<_, io::Error>(Bytes::from(c))));
        Request::new(Body::from_stream(stream))
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).expect("a directory").count()
    }

    #[tokio::test]
    async fn a_small_body_stays_in_memory_and_a_large_one_goes_to_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let (body, file) = take(request(vec![vec![1; 10], vec![2; 10]]), dir.path(), 100).await.expect("taken");
        assert!(matches!(body, message::Body::Bytes(b) if b == [[1; 10], [2; 10]].concat()) && file.is_none());
        let chunks = vec![vec![1; CHUNK / 2], vec![2; CHUNK], vec![3; CHUNK]];
        let (body, file) = take(request(chunks.clone()), dir.path(), 1 << 20).await.expect("taken");
        let message::Body::File(path) = body else { panic!("not spooled") };
        assert_eq!(std::fs::read(&path).expect("the file"), chunks.concat());
        drop(file);
        assert_eq!(files(dir.path()), 0, "the guard removes the file");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_while_it_comes_and_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let endless = futures::stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![0; CHUNK])));
        let request = Request::new(Body::from_stream(endless));
        let error = take(request, dir.path(), 1 << 20).await.expect_err("too large");
        assert_eq!(error.code, "too_large");
        assert_eq!(files(dir.path()), 0);
    }

    #[test]
    fn the_folder_is_emptied_of_bodies_and_of_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = dir.path().join("a/spool");
        prepare_spool_dir(&spool).expect("made");
        for name in ["body-1", "body-2", "other"] {
            fs::write(spool.join(name), b"x").expect("written");
        }
        prepare_spool_dir(&spool).expect("emptied");
        let left: Vec<_> =
            fs::read_dir(&spool).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(left, ["other"]);
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_refused_before_anything_is_read() {
        let request = Request::builder().header(header::CONTENT_LENGTH, "101").body(Body::empty()).expect("a request");
        let error = take(request, Path::new("/nonexistent"), 100).await.expect_err("too large");
        assert_eq!((error.status.as_u16(), error.code), (413, "too_large"));
    }
}
