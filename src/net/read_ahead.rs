//! Reads a busy socket in large pieces.
//!
//! libp2p's Noise reads 8 KiB at a time: while bodies of blocks or large messages come in, that is a system call for each 8 KiB, and
//! as many chances to tell the sender that there is room again. Here a connection that is busy is read [`PIECE`] bytes at a time, which
//! takes some 6 % off the time to catch up. One that is not has no buffer, and its bytes go where they are wanted without a copy:
//! most connections of a node are idle, and a buffer for each would be most of the memory that they take.
//!
//! A connection is busy from a read that filled what it was given until one that brought little. Pings and heartbeats do, so the
//! buffer of a connection goes within seconds of the last large transfer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// What a busy socket is asked for at once.
const PIECE: usize = 64 * 1024;
/// Reads that bring less than this are not worth a buffer.
const LITTLE: usize = 8 * 1024;

/// A socket; see the module documentation.
#[derive(Debug)]
pub(super) struct ReadAhead<S> {
    socket: S,
    /// Empty unless the socket is busy.
    buffer: Box<[u8]>,
    /// What of the buffer was not taken yet.
    start: usize,
    end: usize,
    /// There was more than the last read was given room for, or enough to read much at once again.
    busy: bool,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, buffer: Box::default(), start: 0, end: 0, busy: false }
    }

    fn end_when_idle(&mut self) {
        if self.start == self.end && !self.busy {
            self.buffer = Box::default();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.start == this.end {
            let direct = !this.busy || out.len() >= PIECE;
            if !direct && this.buffer.is_empty() {
                this.buffer = vec![0; PIECE].into();
            }
            let socket = Pin::new(&mut this.socket);
            // While nothing comes the buffer stays: on a line that is slower than we are, that is before nearly every read.
            let n = ready!(socket.poll_read(cx, if direct { &mut *out } else { &mut this.buffer }))?;
            this.busy = n >= LITTLE && (n == out.len() || !direct);
            if direct {
                this.end_when_idle();
                return Poll::Ready(Ok(n));
            }
            (this.start, this.end) = (0, n);
        }
        let n = out.len().min(this.end - this.start);
        out[..n].copy_from_slice(&this.buffer[this.start..this.start + n]);
        this.start += n;
        this.end_when_idle();
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, rc::Rc};

    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, executor::block_on};
    use proptest::prelude::*;

    use super::*;

    /// A socket that brings what it has in these portions, and nothing yet where there is none. Notes how much it was asked for.
    #[derive(Default)]
    struct Script {
        portions: VecDeque<Option<Vec<u8>>>,
        asked: Rc<RefCell<Vec<usize>>>,
        written: Vec<u8>,
        closed: bool,
    }

    impl AsyncRead for Script {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
            self.asked.borrow_mut().push(out.len());
            let Some(portion) = self.portions.pop_front() else { return Poll::Ready(Ok(0)) };
            let Some(mut portion) = portion else {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            let rest = portion.split_off(out.len().min(portion.len()));
            out[..portion.len()].copy_from_slice(&portion);
            if !rest.is_empty() {
                self.portions.push_front(Some(rest));
            }
            Poll::Ready(Ok(portion.len()))
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    fn script(portions: Vec<Option<Vec<u8>>>) -> ReadAhead<Script> {
        ReadAhead::new(Script { portions: portions.into(), ..Script::default() })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_byte_comes_once_and_in_order_however_it_is_cut(
            portions in prop::collection::vec(prop::option::weighted(0.8, 1_usize..200_000), 0..12),
            reads in prop::collection::vec(1_usize..100_000, 1..8),
        ) {
            let mut next = 0_u8;
            let mut fill = |n: usize| (0..n).map(|_| { next = next.wrapping_mul(5).wrapping_add(3); next }).collect::<Vec<_>>();
            let portions: Vec<_> = portions.into_iter().map(|n| n.map(&mut fill)).collect();
            let expected: Vec<u8> = portions.iter().flatten().flatten().copied().collect();
            let mut socket = script(portions);
            let mut got = Vec::new();
            for size in reads.iter().cycle() {
                let mut out = vec![0; *size];
                let n = block_on(socket.read(&mut out)).unwrap();
                if n == 0 {
                    break;
                }
                got.extend_from_slice(&out[..n]);
            }
            prop_assert!(got == expected);
            prop_assert!(socket.buffer.is_empty(), "nothing is kept when there is nothing more");
        }
    }

    #[test]
    fn a_busy_socket_is_asked_for_much_at_once_and_an_idle_one_has_no_buffer() {
        let mut socket = script(vec![Some(vec![1; 100]), Some(vec![2; 300_000]), None, Some(vec![3; 50])]);
        let asked = socket.socket.asked.clone();
        let mut out = [0; 8192];
        assert_eq!(block_on(socket.read(&mut out)).unwrap(), 100);
        assert!(socket.buffer.is_empty(), "a little is read to where it is wanted");
        let mut left = 300_000;
        while left > 0 {
            left -= block_on(socket.read(&mut out)).unwrap();
        }
        assert_eq!(asked.borrow()[..4], [8192, 8192, PIECE, PIECE]);
        assert_eq!(asked.borrow().len(), 7, "all of it: 8 KiB, and what is left in pieces");
        assert!(socket.read(&mut out).now_or_never().is_none(), "nothing yet");
        assert!(!socket.buffer.is_empty(), "and more may follow at once");
        assert_eq!(block_on(socket.read(&mut out)).unwrap(), 50);
        assert!(socket.buffer.is_empty() && !socket.busy);
    }

    #[test]
    fn what_is_written_goes_through() {
        let mut socket = script(Vec::new());
        block_on(async {
            socket.write_all(b"one").await.unwrap();
            socket.flush().await.unwrap();
            socket.close().await.unwrap();
        });
        assert_eq!((&socket.socket.written[..], socket.socket.closed), (&b"one"[..], true));
    }
}
