//! A part of the chain in a file.
//!
//! ```text
//! "VOSBLK" 0 version 1 ‖ genesis hash 32 ‖ first height 8 ‖ blocks 8
//!   for each block: header length 2 ‖ header ‖ body, as long as the header says
//! 0 0 ‖ BLAKE3 of everything before 32
//! ```
//!
//! Numbers are big-endian. Both ways stream: memory holds a few MiB whatever the length of the file. Import checks every block as if it
//! came from a peer. It can be repeated and goes on where it was interrupted: blocks that the chain has are skipped without checking
//! their signatures again. Both block; neither belongs on a task.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures::FutureExt;

use super::{
    Block, BodyError, Header, HeaderError, MAX_BODY_BYTES, MAX_HEADER_BYTES, Origin, Unverified,
    chain::{Chain, ChainError, Outcome, SegmentOutcome},
};
use crate::{identity::Purpose, primitives::Hash};

const MAGIC: &[u8; 7] = b"VOSBLK\0";
const VERSION: u8 = 1;
/// Bytes before the first block.
pub const START: usize = 8 + 32 + 8 + 8;
/// Blocks read or written at once.
const BATCH_BLOCKS: usize = 256;
/// Bytes of bodies from which a batch is full.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Why a segment was not written or read to its end. What was imported before stays.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Reading or writing failed.
    #[error("cannot read or write the file: {0}")]
    Io(#[from] io::Error),
    /// Some other file.
    #[error("this is no file of blocks")]
    NotBlocks,
    /// From a newer program.
    #[error("the file has version {0}, this program knows version {VERSION}: upgrade vos")]
    Version(u8),
    /// Blocks of another chain.
    #[error("the file holds blocks of the chain with genesis {found}, this node has {expected}")]
    Genesis {
        /// In the file.
        found: Hash,
        /// Of our chain.
        expected: Hash,
    },
    /// The file ends early.
    #[error("the file ends before block {height} is complete: it was cut off; blocks before it were imported")]
    Truncated {
        /// The first height that is missing.
        height: u64,
    },
    /// The bytes are not those that were written.
    #[error("the file is damaged: its checksum is wrong, though every block in it is good")]
    Checksum,
    /// All blocks are there, and the checksum is not.
    #[error(
        "the file ends before its checksum is complete: it was cut off after block {last}, up to which it was imported"
    )]
    Unended {
        /// The last height of the segment.
        last: u64,
    },
    /// Something comes after the segment.
    #[error(
        "the file goes on after its blocks up to height {last}, which were imported: import what follows as a file of its own"
    )]
    Trailing {
        /// The last height of the segment.
        last: u64,
    },
    /// A block is broken.
    #[error("block {height} in the file is bad: {why}; blocks before it were imported")]
    Block {
        /// Where it should be.
        height: u64,
        /// What is wrong.
        why: String,
    },
    /// A block was not taken, and is not bad.
    #[error("block {height} in the file was not taken: {why}; blocks before it were imported")]
    Refused {
        /// Which.
        height: u64,
        /// Why not now.
        why: String,
    },
    /// The file's first block builds on another block than those that are here.
    #[error(
        "block {height}, with which the file begins, builds on a block that is not here: the two chains parted below it. Export from height \
         {from} there"
    )]
    Unlinked {
        /// Of the file's first block.
        height: u64,
        /// The lowest one that is not final here.
        from: u64,
    },
    /// Made later than now.
    #[error(
        "block {height} in the file is of a time {ahead_s} s from now: is the clock of this machine right? Blocks before it were imported"
    )]
    Early {
        /// Which.
        height: u64,
        /// When it can be imported, in seconds from now.
        ahead_s: u64,
    },
    /// The file begins above our head.
    #[error("the file begins at height {first}, and this chain ends at {head}: import the blocks between first")]
    Gap {
        /// Of the file.
        first: u64,
        /// Of our chain.
        head: u64,
    },
    /// A final block of ours is another one.
    #[error("block {height} in the file is not the one that is final here: the file is from another branch")]
    OtherBranch {
        /// Where.
        height: u64,
    },
    /// Heights that end before they begin.
    #[error("the last height, {to}, is below the first one, {from}")]
    Backwards {
        /// Asked for.
        from: u64,
        /// Asked for.
        to: u64,
    },
    /// There is only the genesis block.
    #[error("there is no block to export yet: this chain ends at its genesis block")]
    Empty,
    /// Nothing is that high.
    #[error("there is no height {from}: this chain ends at {head}")]
    Above {
        /// Asked for.
        from: u64,
        /// The best block's height.
        head: u64,
    },
    /// There is no such range.
    #[error("heights {from} to {to} are not all here: this chain ends at {head}")]
    NoSuchRange {
        /// Asked for.
        from: u64,
        /// Asked for.
        to: u64,
        /// The best block's height.
        head: u64,
    },
    /// A reorg came in between.
    #[error("the best chain changed at height {height} while it was written: export up to the committed height")]
    Changed {
        /// Where.
        height: u64,
    },
    /// The chain's own error.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// How far an export or import is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The next height.
    pub next: u64,
    /// The last height of the file.
    pub last: u64,
    /// Blocks done, those that were here already included.
    pub blocks: u64,
    /// Of these, those that were here already.
    pub skipped: u64,
}

/// Writes the best chain from `from` to `to`, both included, to the head without `to`. The genesis block is never written: a file
/// begins at 1 at least. Flushes at the end; making the file durable is the caller's.
///
/// # Errors
/// [`SegmentError`].
pub fn export(
    chain: &Chain,
    from: u64,
    to: Option<u64>,
    out: impl Write,
    mut progress: impl FnMut(Progress),
) -> Result<Progress, SegmentError> {
    let (from, status) = (from.max(1), chain.status());
    let head = status.head.height;
    match to {
        Some(to) if to < from => return Err(SegmentError::Backwards { from, to }),
        None if head == 0 => return Err(SegmentError::Empty),
        _ => {}
    }
    if from > head {
        return Err(SegmentError::Above { from, head });
    }
    let to = to.unwrap_or(head);
    if to > head {
        return Err(SegmentError::NoSuchRange { from, to, head });
    }
    let mut out = Hashing::new(out);
    out.write_all(MAGIC)?;
    out.write_all(&[VERSION])?;
    out.write_all(status.genesis.as_bytes())?;
    out.write_all(&from.to_be_bytes())?;
    out.write_all(&(to - from + 1).to_be_bytes())?;
    let mut done = Progress { next: from, last: to, ..Progress::default() };
    let mut below: Option<Hash> = None;
    while done.next <= to {
        let left = usize::try_from(to - done.next + 1).unwrap_or(usize::MAX);
        let blocks = chain.range(done.next, left.min(BATCH_BLOCKS), BATCH_BYTES)?;
        if blocks.is_empty() {
            return Err(SegmentError::Changed { height: done.next });
        }
        for block in blocks {
            let header = Header::decode(&block.header);
            let parent = header.map_err(|_| SegmentError::Changed { height: done.next })?.parent;
            if below.is_some_and(|b| b != parent) {
                return Err(SegmentError::Changed { height: done.next });
            }
            below = Some(block.hash);
            // Headers are at most MAX_HEADER_BYTES, far less than 2^16.
            out.write_all(&u16::try_from(block.header.len()).unwrap_or(u16::MAX).to_be_bytes())?;
            out.write_all(&block.header)?;
            out.write_all(&block.body)?;
            done.next += 1;
            done.blocks += 1;
        }
        progress(done);
    }
    out.write_all(&[0, 0])?;
    let sum = out.hasher.finalize();
    out.inner.write_all(sum.as_bytes())?;
    out.inner.flush()?;
    Ok(done)
}

/// Reads a file into the chain. `max_body_bytes` is `chain.max_bytes`, `purpose` that of our network's headers.
///
/// # Errors
/// [`SegmentError`]; what was imported before stays, and the same call with a good file goes on from there.
pub fn import(
    chain: &Chain,
    input: impl Read,
    max_body_bytes: usize,
    purpose: &Purpose,
    mut progress: impl FnMut(Progress),
) -> Result<Progress, SegmentError> {
    let mut input = Hashing::new(input);
    let mut done = read_start(chain, &mut input)?;
    let mut into = Into { chain, purpose, begins: done.next, batch: Batch::new(purpose), writing: None };
    let read = read_blocks(&mut input, &mut into, &mut done, max_body_bytes, &mut progress);
    // Good blocks before a bad place are taken, and nothing is under way any more when this returns.
    // What is wrong in a batch is below what was read last.
    into.end()?;
    read?;
    progress(done);
    let sum = *input.hasher_after_end(done.last)?.as_bytes();
    let mut found = [0; 32];
    input.inner.read_exact(&mut found).map_err(|e| cut_off(e, SegmentError::Unended { last: done.last }))?;
    if sum != found {
        return Err(SegmentError::Checksum);
    }
    // Two files one after the other would lose the second one. A sender that never ends, or breaks off here, has sent all of it.
    match input.inner.read(&mut [0]) {
        Ok(1..) => Err(SegmentError::Trailing { last: done.last }),
        Ok(0) | Err(_) => Ok(done),
    }
}

fn read_blocks<R: Read>(
    input: &mut Hashing<R>,
    into: &mut Into<'_>,
    done: &mut Progress,
    max_body_bytes: usize,
    progress: &mut impl FnMut(Progress),
) -> Result<(), SegmentError> {
    while done.next <= done.last {
        let height = done.next;
        let (header, body) = read_block(input, height, max_body_bytes)?;
        let held = is_held(into.chain, &header, height)?;
        if held {
            done.skipped += 1;
        } else {
            let added = into.batch.add(header, body.into(), max_body_bytes);
            added.map_err(|e| SegmentError::Block { height, why: e.to_string() })?;
        }
        done.next += 1;
        done.blocks += 1;
        if into.batch.is_full() {
            into.turn()?;
            progress(*done);
        }
    }
    Ok(())
}

/// Where checked blocks go: while one batch is written the next one is read, and its signatures are checked.
struct Into<'a> {
    chain: &'a Chain,
    purpose: &'a Purpose,
    /// The first height of the file.
    begins: u64,
    batch: Batch,
    writing: Option<Writing>,
}

impl Into<'_> {
    /// Checks the batch's signatures, waits for the one that is written, and hands it over.
    fn turn(&mut self) -> Result<(), SegmentError> {
        let Batch { blocks, first, .. } = std::mem::replace(&mut self.batch, Batch::new(self.purpose));
        let (blocks, wrong) = match blocks.verify() {
            Ok(blocks) => (blocks, None),
            Err(before) => {
                let height = first + before.len() as u64; // usize fits in u64
                (before, Some(SegmentError::Block { height, why: HeaderError::Signature.to_string() }))
            }
        };
        self.finish()?;
        self.writing = start(self.chain, blocks, first);
        wrong.map_or(Ok(()), Err)
    }

    fn end(mut self) -> Result<(), SegmentError> {
        let checked = self.turn();
        self.finish()?;
        checked
    }

    /// Waits for what is written.
    fn finish(&mut self) -> Result<(), SegmentError> {
        let Some((first, future)) = self.writing.take() else { return Ok(()) };
        let outcome = futures::executor::block_on(future)?;
        let height = first + outcome.held as u64; // usize fits in u64
        let why = match outcome.stopped {
            None => return Ok(()),
            Some(Outcome::Invalid(why)) => why,
            Some(Outcome::Ignored(why)) => return Err(SegmentError::Refused { height, why }),
            Some(Outcome::Orphan { .. }) if height == self.begins => {
                return Err(SegmentError::Unlinked { height, from: self.chain.status().committed.height + 1 });
            }
            Some(Outcome::Orphan { .. }) => "it does not build on the block before".into(),
            Some(Outcome::Early(at)) => {
                return Err(SegmentError::Early { height, ahead_s: at.since(self.chain.now()).as_secs().max(1) });
            }
            Some(_) => return Err(SegmentError::OtherBranch { height }),
        };
        Err(SegmentError::Block { height, why })
    }
}

struct Batch {
    blocks: Unverified,
    bytes: usize,
    first: u64,
}

type Writing = (u64, futures::future::BoxFuture<'static, Result<SegmentOutcome, ChainError>>);

impl Batch {
    fn new(purpose: &Purpose) -> Self {
        Self { blocks: Unverified::new(purpose.clone()), bytes: 0, first: 0 }
    }

    fn add(&mut self, header: Header, body: Bytes, max_body_bytes: usize) -> Result<(), BodyError> {
        if self.blocks.is_empty() {
            self.first = header.height;
        }
        self.bytes += body.len();
        self.blocks.add(header, body, max_body_bytes).map(drop)
    }

    fn is_full(&self) -> bool {
        self.blocks.len() >= BATCH_BLOCKS || self.bytes >= BATCH_BYTES
    }
}

/// Hands blocks to the chain without waiting for it.
fn start(chain: &Chain, blocks: Vec<Block>, first: u64) -> Option<Writing> {
    if blocks.is_empty() {
        return None;
    }
    let chain = chain.clone();
    let mut future = async move { chain.import_segment(blocks, Origin::File).await }.boxed();
    // One poll puts it into the queue.
    match (&mut future).now_or_never() {
        Some(done) => Some((first, std::future::ready(done).boxed())),
        None => Some((first, future)),
    }
}

/// The lowest and the highest height of a segment, from its first [`START`] bytes; `None` when they are not those of one.
#[must_use]
pub fn heights(start: &[u8]) -> Option<(u64, u64)> {
    let start: &[u8; START] = start.try_into().ok()?;
    let number = |at: usize| start[at..at + 8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let (first, count) = (number(40), number(48));
    let last = first.checked_add(count)?.checked_sub(1)?;
    (start.starts_with(MAGIC) && first > 0 && count > 0).then_some((first, last))
}

fn read_start<R: Read>(chain: &Chain, input: &mut Hashing<R>) -> Result<Progress, SegmentError> {
    let mut start = [0; START];
    let short =
        |e: io::Error| if e.kind() == io::ErrorKind::UnexpectedEof { SegmentError::NotBlocks } else { e.into() };
    input.read_exact(&mut start[..8]).map_err(short)?;
    if &start[..7] != MAGIC {
        return Err(SegmentError::NotBlocks);
    }
    if start[7] != VERSION {
        return Err(SegmentError::Version(start[7]));
    }
    input.read_exact(&mut start[8..]).map_err(short)?;
    let mut genesis = [0; 32];
    genesis.copy_from_slice(&start[8..40]);
    let status = chain.status();
    if Hash(genesis) != status.genesis {
        return Err(SegmentError::Genesis { found: Hash(genesis), expected: status.genesis });
    }
    let Some((first, last)) = heights(&start) else { return Err(SegmentError::NotBlocks) };
    if first > status.head.height.saturating_add(1) {
        return Err(SegmentError::Gap { first, head: status.head.height });
    }
    Ok(Progress { next: first, last, ..Progress::default() })
}

/// What it means that no more can be read, when the file ends there.
fn cut_off(e: io::Error, ended: SegmentError) -> SegmentError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => ended,
        _ => e.into(),
    }
}

/// One block's header and the bytes of its body.
fn read_block<R: Read>(
    input: &mut Hashing<R>,
    height: u64,
    max_body_bytes: usize,
) -> Result<(Header, Vec<u8>), SegmentError> {
    let bad = |why: &str| SegmentError::Block { height, why: why.into() };
    let mut length = [0; 2];
    input.read_exact(&mut length).map_err(|e| cut_off(e, SegmentError::Truncated { height }))?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_HEADER_BYTES {
        return Err(bad("its header is too long"));
    }
    let mut header = vec![0; length];
    input.read_exact(&mut header).map_err(|e| cut_off(e, SegmentError::Truncated { height }))?;
    let header = Header::decode(&header).map_err(|e| bad(&e.to_string()))?;
    if header.height != height {
        return Err(bad("it says that it is of another height"));
    }
    let bytes = header.body_bytes as usize; // u32 fits in usize
    if bytes > max_body_bytes.min(MAX_BODY_BYTES) {
        return Err(bad("its body is larger than chain.max_bytes"));
    }
    let mut body = vec![0; bytes];
    input.read_exact(&mut body).map_err(|e| cut_off(e, SegmentError::Truncated { height }))?;
    Ok((header, body))
}

/// Whether our best chain has this block.
fn is_held(chain: &Chain, header: &Header, height: u64) -> Result<bool, SegmentError> {
    let status = chain.status();
    if height > status.head.height {
        return Ok(false);
    }
    let same = chain.hash_at(height)? == Some(header.hash());
    if !same && height <= status.committed.height {
        return Err(SegmentError::OtherBranch { height });
    }
    Ok(same)
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }
}

impl<R: Read> Hashing<R> {
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(into)?;
        self.hasher.update(into);
        Ok(())
    }

    /// Reads the mark of the end; the hash of everything up to it.
    fn hasher_after_end(&mut self, last: u64) -> Result<blake3::Hash, SegmentError> {
        let mut end = [0; 2];
        self.read_exact(&mut end).map_err(|e| cut_off(e, SegmentError::Unended { last }))?;
        if end == [0, 0] { Ok(self.hasher.finalize()) } else { Err(SegmentError::Checksum) }
    }
}

impl<W: Write> Hashing<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}
