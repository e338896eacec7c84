//! Large bodies: a file each, beside the database.
//!
//! Through RocksDB a body is copied into its memory, from there into a file, and a log that would make it durable at once doubles
//! what is written; that took a third of the processor time of a large message. Here each part is written once, to its place, past
//! the page cache where the file system can: it is hardly read again soon.
//!
//! # Layout
//! `bodies/<shelf>/<number>`, the number as 16 hexadecimal digits. Part `i` begins at `i` × [`STRIDE`]:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | CRC-32 (IEEE) of bytes 4.. up to the end of the part, little endian |
//! | 4..8 | length of the part, little endian |
//! | 8.. | the part, and zeros up to the next multiple of [`BLOCK`] |
//!
//! A place that was never written, or not wholly, has no part: its checksum does not fit.
//!
//! [`Shelf::Block`] is otherwise: each of its files is a *pack*, many pieces one after another, written as they come and never again. The
//! row that names a piece has its [`Spot`] in the pack and its checksum. Pieces that lie close to each other are read in one call.
//!
//! # Durability
//! Parts are durable when [`Store::sync_body`](super::Store::sync_body) has returned. A row of the database that names the file is
//! committed after that, or before the file is made; [`Batch::remove_body`](super::Batch::remove_body) removes the file when the
//! batch is durable, so a row never names a file that was removed. What a crash leaves between the two has no row: whoever keeps
//! bodies looks for such files at the start, before a number is used again ([`Store::clear_bodies`](super::Store::clear_bodies)).
//! After a sync that failed nothing of the file can be trusted any more, since the system forgets what it could not write.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::StoreError;

/// What files, offsets and memory are aligned to for writing past the page cache: the largest block size of common disks.
const BLOCK: usize = 4096;
/// Distance of parts. A sealed part of the largest size and its key fill it but for less than 4 KiB.
const STRIDE: usize = 260 * 1024;
const HEADER: usize = 8;
/// Largest part in bytes.
pub const MAX_BODY_PART: usize = STRIDE - HEADER;

/// Whether a file takes writes past the page cache: some file systems take only the flag.
#[cfg(target_os = "linux")]
pub(super) fn takes_direct_write(file: File) -> bool {
    Writer { file, memory: Vec::new() }.put(0, b"probe").is_ok()
}

/// Whose body it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Shelf {
    /// Of outgoing messages, by sequence number: sealed parts.
    Outbox,
    /// Of received messages, by slot: parts of the body.
    Inbox,
    /// Packs of bodies of blocks.
    Block,
}

impl Shelf {
    /// All shelves.
    pub const ALL: [Self; 3] = [Self::Outbox, Self::Inbox, Self::Block];

    /// The name of its folder: it never changes once released.
    fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Inbox => "inbox",
            Self::Block => "block",
        }
    }
}

/// Where a piece lies in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// The pack's number.
    pub pack: u64,
    /// Its first byte.
    pub offset: u32,
    /// Its bytes.
    pub length: u32,
    /// CRC-32 (IEEE) of them.
    pub sum: u32,
}

impl Spot {
    /// Bytes of an encoded one.
    pub const BYTES: usize = 8 + 4 + 4 + 4;

    /// For a row: big-endian, in the order of the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.pack.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_be_bytes());
        bytes[16..].copy_from_slice(&self.sum.to_be_bytes());
        bytes
    }

    /// `None` when it has another length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (pack, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let sum = u32::from_be_bytes(rest.try_into().ok()?);
        let (offset, length) = (u32::from_be_bytes(*offset), u32::from_be_bytes(*length));
        Some(Self { pack: u64::from_be_bytes(*pack), offset, length, sum })
    }

    fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}

impl From<io::Error> for StoreError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(e.to_string()),
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Self::Damaged(e.to_string()),
            _ => Self::Failed(e.to_string()),
        }
    }
}

/// The folders of bodies.
#[derive(Debug)]
pub(super) struct Bodies {
    folder: PathBuf,
    /// Whether files are written past the page cache.
    direct: bool,
}

impl Bodies {
    /// Makes what is missing of the folders. `store`: the folder of the database.
    pub(super) fn open(store: &Path, direct: bool) -> io::Result<Self> {
        let folder = store.join("bodies");
        for shelf in Shelf::ALL {
            fs::create_dir_all(folder.join(shelf.name()))?;
        }
        File::open(&folder)?.sync_all()?;
        File::open(store)?.sync_all()?;
        Ok(Self { folder, direct })
    }

    fn shelf(&self, shelf: Shelf) -> PathBuf {
        self.folder.join(shelf.name())
    }

    fn path(&self, shelf: Shelf, number: u64) -> PathBuf {
        self.shelf(shelf).join(format!("{number:016x}"))
    }

    /// Opens a body for writing and makes it when it is new.
    pub(super) fn write(&self, shelf: Shelf, number: u64) -> io::Result<Writer> {
        Ok(Writer { file: self.open_to_write(shelf, number)?, memory: Vec::new() })
    }

    fn open_to_write(&self, shelf: Shelf, number: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(target_os = "linux")]
        if self.direct {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.custom_flags(nix::fcntl::OFlag::O_DIRECT.bits());
        }
        options.open(self.path(shelf, number))
    }

    /// Begins a pack of about so many bytes.
    pub(super) fn pack(&self, number: u64, bytes: usize) -> io::Result<Pack> {
        let memory = vec![0; bytes.clamp(1, CHUNK).next_multiple_of(BLOCK) + BLOCK];
        let (file, path) = (self.open_to_write(Shelf::Block, number)?, self.path(Shelf::Block, number));
        let pack = Pack { file, number, memory, path, filled: 0, written: 0, is_whole: false };
        // The name of the file, as in `sync`: now, while whoever waits for the pack to be finished does not wait yet.
        File::open(self.shelf(Shelf::Block))?.sync_all()?;
        Ok(pack)
    }

    /// The pieces at these places, in their order; `None` for one that is not there or damaged.
    pub(super) fn packed(&self, spots: &[Spot]) -> io::Result<Vec<Option<Bytes>>> {
        let mut bodies = Vec::with_capacity(spots.len());
        let gap = |a: &Spot, b: &Spot| u64::from(b.offset).checked_sub(a.end());
        let beside = |a: &Spot, b: &Spot| a.pack == b.pack && gap(a, b).is_some_and(|gap| gap <= GAP);
        for row in spots.chunk_by(beside) {
            let bytes = self.read_row(row)?;
            bodies.extend(row.iter().map(|spot| at(&bytes, row, spot).map(|piece| bytes.slice_ref(piece))));
        }
        Ok(bodies)
    }

    /// The pieces at these places, which follow each other in one pack; `None` when any is not there or damaged.
    pub(super) fn packed_together(&self, spots: &[Spot]) -> io::Result<Option<Bytes>> {
        let follow = |pair: &[Spot]| pair[0].pack == pair[1].pack && pair[0].end() == u64::from(pair[1].offset);
        if !spots.windows(2).all(follow) {
            return Ok(None);
        }
        let bytes = self.read_row(spots)?;
        Ok(spots.iter().all(|spot| at(&bytes, spots, spot).is_some()).then_some(bytes))
    }

    /// What there is from the first of these places to the end of the last.
    fn read_row(&self, row: &[Spot]) -> io::Result<Bytes> {
        let (Some(first), Some(last)) = (row.first(), row.last()) else { return Ok(Bytes::new()) };
        let (from, length) = (u64::from(first.offset), last.end() - u64::from(first.offset));
        match File::open(self.path(Shelf::Block, first.pack)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Bytes::new()),
            file => Ok(read(&file?, from, usize::try_from(length).unwrap_or(usize::MAX))?.into()),
        }
    }

    /// Makes all that was written to a body durable.
    pub(super) fn sync(&self, shelf: Shelf, number: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(shelf, number))?.sync_data()?;
        // The name of the file; costs nothing where syncing a new file brings its name along.
        File::open(self.shelf(shelf))?.sync_all()
    }

    /// One part; `None` when it is not there or damaged.
    pub(super) fn part(&self, shelf: Shelf, number: u64, index: u32) -> io::Result<Option<Bytes>> {
        let file = match File::open(self.path(shelf, number)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let block = read(&file, u64::from(index) * STRIDE as u64, STRIDE)?; // usize fits in u64
        Ok(whole(block))
    }

    /// The numbers of all bodies of a shelf. Other files there are left alone.
    pub(super) fn numbers(&self, shelf: Shelf) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.shelf(shelf))? {
            let name = entry?.file_name();
            let number = name.to_str().filter(|n| n.len() == 16).and_then(|n| u64::from_str_radix(n, 16).ok());
            numbers.extend(number);
        }
        Ok(numbers)
    }

    /// Removes a body. One that is not there is fine; what cannot be removed is found at the next start.
    pub(super) fn remove(&self, shelf: Shelf, number: u64) {
        remove(&self.path(shelf, number));
    }

    /// Removes bodies for good.
    pub(super) fn clear(&self, shelf: Shelf, numbers: &[u64]) -> io::Result<()> {
        numbers.iter().for_each(|number| self.remove(shelf, *number));
        // Also what was removed before the start: a number must not find an older file when it is used again.
        File::open(self.shelf(shelf))?.sync_all()
    }

    /// Bytes of all bodies on the disk.
    pub(super) fn bytes(&self) -> u64 {
        let files = Shelf::ALL.iter().filter_map(|shelf| fs::read_dir(self.shelf(*shelf)).ok()).flatten();
        files.filter_map(|entry| entry.ok()?.metadata().ok()).map(|m| m.blocks() * 512).sum()
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %path.display(), "cannot remove a body");
    }
}

/// A piece in what was read from the first of `row` on; `None` when it is not all there, or damaged.
fn at<'a>(bytes: &'a Bytes, row: &[Spot], spot: &Spot) -> Option<&'a [u8]> {
    let from = u64::from(row.first()?.offset);
    let start = usize::try_from(u64::from(spot.offset).checked_sub(from)?).ok()?;
    let piece = bytes.get(start..start.checked_add(spot.length as usize)?)?; // u32 fits in usize
    (crc32fast::hash(piece) == spot.sum).then_some(piece)
}

/// The part in what stands at its place.
fn whole(block: Vec<u8>) -> Option<Bytes> {
    let sum = u32::from_le_bytes(*block.first_chunk()?);
    let length = u32::from_le_bytes(*block.get(4..)?.first_chunk()?);
    let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
    (crc32fast::hash(block.get(4..end)?) == sum && length > 0).then(|| Bytes::from(block).slice(HEADER..end))
}

/// Up to `length` bytes of a file: fewer when it ends before.
fn read(file: &File, from: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = file;
    file.seek(io::SeekFrom::Start(from))?;
    let mut bytes = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut bytes)?; // usize fits in u64
    Ok(bytes)
}

/// Bytes between two pieces that are read for nothing rather than in two calls.
const GAP: u64 = 1024;
/// Bytes of a pack written at once: whoever writes sleeps until they are on the disk, and on a busy machine wakes up late. What comes
/// last waits for no more than this.
const CHUNK: usize = 2 * 1024 * 1024;

/// A pack that is being written, one chunk after another.
#[derive(Debug)]
pub(super) struct Pack {
    file: File,
    path: PathBuf,
    number: u64,
    /// A chunk, and room to begin it where it is aligned.
    memory: Vec<u8>,
    filled: usize,
    written: u64,
    is_whole: bool,
}

impl Pack {
    /// Adds a piece. It may be written, or wait for the next ones.
    pub(super) fn put(&mut self, piece: &[u8]) -> io::Result<Spot> {
        let place = |_| io::Error::new(io::ErrorKind::InvalidInput, "a pack is at most 4 GiB");
        let offset = u32::try_from(self.written + self.filled as u64).map_err(place)?; // usize fits in u64
        let length = u32::try_from(piece.len()).map_err(place)?;
        let chunk = self.memory.len() - BLOCK;
        let mut rest = piece;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(chunk - self.filled));
            let start = self.memory.as_ptr().align_offset(BLOCK) + self.filled;
            self.memory[start..start + now.len()].copy_from_slice(now);
            self.filled += now.len();
            if self.filled == chunk {
                self.write()?;
            }
            rest = later;
        }
        Ok(Spot { pack: self.number, offset, length, sum: crc32fast::hash(piece) })
    }

    /// Makes all of it durable. One that was not, or could not be, is removed when it is dropped.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write()?;
        self.file.sync_data()?;
        self.is_whole = true;
        Ok(())
    }

    /// Writes what there is, and zeros up to the next multiple of [`BLOCK`].
    fn write(&mut self) -> io::Result<()> {
        let start = self.memory.as_ptr().align_offset(BLOCK);
        let length = self.filled.next_multiple_of(BLOCK);
        self.memory[start + self.filled..start + length].fill(0);
        self.file.write_all_at(&self.memory[start..start + length], self.written)?;
        self.written += length as u64; // usize fits in u64
        self.filled = 0;
        Ok(())
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        if !self.is_whole {
            remove(&self.path);
        }
    }
}

/// Writes parts of one body. Several may write to one body at once.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    /// Twice used: memory that was touched once is not zeroed again by the system.
    memory: Vec<u8>,
}

impl Writer {
    /// Writes a part to its place.
    pub(super) fn put(&mut self, index: u32, part: &[u8]) -> io::Result<()> {
        if part.is_empty() || part.len() > MAX_BODY_PART {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a part of a body has an impossible length"));
        }
        self.memory.resize(STRIDE + BLOCK, 0);
        let start = self.memory.as_ptr().align_offset(BLOCK);
        let end = HEADER + part.len();
        let length = end.next_multiple_of(BLOCK);
        let block = &mut self.memory[start..start + length];
        let bytes = u32::try_from(part.len()).expect("shorter than a stride");
        block[4..HEADER].copy_from_slice(&bytes.to_le_bytes());
        block[HEADER..end].copy_from_slice(part);
        block[end..].fill(0);
        let sum = crc32fast::hash(&block[4..end]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(block, u64::from(index) * STRIDE as u64) // usize fits in u64
    }
}
