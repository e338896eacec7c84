//! Length-delimited frames: 4 bytes of big-endian length, then the body. The length is checked against the
//! cap *before* anything is allocated, and the buffer grows only as bytes arrive.

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a frame could not be read or written. Every variant closes the stream.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the protocol's cap.
    #[error("frame of {got} bytes, limit {limit}")]
    TooLarge {
        /// What the other side announced.
        got: usize,
        /// The cap.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// How much is reserved on the strength of a length alone, unless the caller trusts it more; the rest is reserved as bytes arrive.
pub const TRUSTED: usize = 64 * 1024;
/// How many times what has arrived is reserved then: little is copied again, and who sends little cannot make us reserve much.
const GROWTH: usize = 8;
/// How much of it is cleared at once.
const CLEARED: usize = 64 * 1024;

/// Reads one frame of at most `limit` bytes; `None` when the stream ended cleanly before a frame began. Up to `trusted` bytes are
/// reserved before any of them came: [`TRUSTED`], or more where few frames are under way. Not cancel-safe.
///
/// # Errors
/// [`FrameError`]; the stream must not be used after one.
pub async fn read_frame<S: AsyncRead + Unpin>(
    stream: &mut S,
    limit: usize,
    trusted: usize,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < header.len() {
        match stream.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            n => filled += n,
        }
    }
    let length = u32::from_be_bytes(header) as usize; // u32 fits in usize on every supported target
    if length > limit {
        return Err(FrameError::TooLarge { got: length, limit });
    }
    let mut body = Vec::with_capacity(length.min(trusted));
    read_on(stream, &mut body, length).await?;
    Ok(Some(body))
}

/// Reads on in a frame's body until it has `length` bytes, which the caller has checked. More than `body` has room for is reserved as
/// bytes arrive. Not cancel-safe.
///
/// # Errors
/// [`FrameError::Truncated`] when the stream ends before, or the stream's error.
pub async fn read_on<S: AsyncRead + Unpin>(
    stream: &mut S,
    body: &mut Vec<u8>,
    length: usize,
) -> Result<(), FrameError> {
    let mut filled = body.len();
    while filled < length {
        if filled == body.len() {
            if filled == body.capacity() {
                body.reserve_exact(length.min(filled.max(1) * GROWTH) - filled);
            }
            // What is cleared a moment before it is written is still in the processor's cache then.
            body.resize(body.capacity().min(length).min(filled + CLEARED), 0);
        }
        match stream.read(&mut body[filled..]).await? {
            0 => return Err(FrameError::Truncated),
            n => filled += n,
        }
    }
    Ok(())
}

/// Writes one frame, given in pieces so that large ones need no copy, and flushes it.
///
/// # Errors
/// [`FrameError::TooLarge`] when it is over `limit` (nothing was written), or the stream's error.
pub async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    pieces: &[&[u8]],
    limit: usize,
) -> Result<(), FrameError> {
    let length: usize = pieces.iter().map(|p| p.len()).sum();
    let prefix = u32::try_from(length).ok().filter(|_| length <= limit);
    let Some(prefix) = prefix else { return Err(FrameError::TooLarge { got: length, limit }) };
    // Small pieces together: each write is a yamux frame and a Noise record.
    let mut small = prefix.to_be_bytes().to_vec();
    for piece in pieces {
        if small.len() + piece.len() <= TRUSTED {
            small.extend_from_slice(piece);
            continue;
        }
        stream.write_all(&small).await?;
        small.clear();
        stream.write_all(piece).await?;
    }
    stream.write_all(&small).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(body in proptest::collection::vec(any::<u8>(), 0..200_000), cut in any::<prop::sample::Index>()) {
            let mut bytes = Cursor::new(Vec::new());
            let (first, second) = body.split_at(cut.index(body.len() + 1));
            block_on(write_frame(&mut bytes, &[&[7], first, &[], second], 300_000)).unwrap();
            let mut bytes = Cursor::new(bytes.into_inner());
            let read = block_on(read_frame(&mut bytes, 300_000, TRUSTED)).unwrap().unwrap();
            prop_assert_eq!(read[0], 7);
            prop_assert_eq!(&read[1..], &body[..]);
            prop_assert!(block_on(read_frame(&mut bytes, 300_000, TRUSTED)).unwrap().is_none());
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = block_on(read_frame(&mut Cursor::new(bytes), 1024, TRUSTED));
        }
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_before_the_body() {
        let bytes = u32::MAX.to_be_bytes();
        let error = block_on(read_frame(&mut Cursor::new(bytes), 1024, TRUSTED)).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { limit: 1024, .. }), "{error}");
    }

    #[test]
    fn a_frame_that_ends_early_is_truncated_at_every_length() {
        let mut bytes = Cursor::new(Vec::new());
        block_on(write_frame(&mut bytes, &[b"hello"], 64)).unwrap();
        let bytes = bytes.into_inner();
        for cut in 1..bytes.len() {
            let error = block_on(read_frame(&mut Cursor::new(&bytes[..cut]), 64, TRUSTED)).unwrap_err();
            assert!(matches!(error, FrameError::Truncated), "cut at {cut}: {error}");
        }
    }
}
