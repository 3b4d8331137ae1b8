//! Segments: files that hold frames. A journal segment is written group by group and has its space reserved when
//! it is made; a merged one replaces several neighbours, holds what still counts of them, and is written once.
//!
//! Every segment gets its name only after its header is durable, so a header that does not read is damage.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::disk::frame::{ALIGNMENT, Entry, FrameHeader, HEADER as FRAME_HEADER, next_entry};
use crate::driver::DriverError;
use crate::model::Revision;

/// magic: 8 bytes; format, kind: u32; first number, last number, end of the predecessor, own end, revision
/// before: u64; checksum: u64. Frames begin behind it.
pub(super) const HEADER: u64 = 64;
const MAGIC: [u8; 8] = *b"gantrySg";

/// How a segment came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Written group by group.
    Journal,
    /// Written once from segments it replaces.
    Merged,
}

/// Which numbers of the sequence of segments a file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Span {
    pub(super) fn one(number: u64) -> Self {
        Self { first: number, last: number }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// The name of a segment's file.
pub(super) fn file_name(kind: Kind, span: Span) -> String {
    match kind {
        Kind::Journal => format!("{:016x}.journal", span.last),
        Kind::Merged => format!("{:016x}-{:016x}.merged", span.first, span.last),
    }
}

/// What a file's name says; `None` for a name that is no segment's.
pub(super) fn parse_file_name(name: &str) -> Option<(Kind, Span)> {
    let number = |hex: &str| u64::from_str_radix(hex, 16).ok();
    let parsed = match (name.strip_suffix(".journal"), name.strip_suffix(".merged")) {
        (Some(hex), _) => (Kind::Journal, Span::one(number(hex)?)),
        (_, Some(span)) => {
            let (first, last) = span.split_once('-')?;
            (Kind::Merged, Span { first: number(first)?, last: number(last)? })
        }
        _ => return None,
    };
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) span: Span,
    /// Where the frames of the segment before it end (0 for the first), if that is a journal. What lies behind
    /// that end was never acknowledged.
    pub(super) predecessor_end: u64,
    /// Of a journal: how many bytes were reserved. Of a merged one: where its frames end.
    pub(super) end: u64,
    /// The last revision before the segment's first.
    pub(super) base: Revision,
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self, salt: u64) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(
            &match self.kind {
                Kind::Journal => 0u64,
                Kind::Merged => 1,
            }
            .to_le_bytes(),
        );
        let fields = [self.span.first, self.span.last, self.predecessor_end, self.end, self.base.0];
        for (at, field) in (16..).step_by(8).zip(fields) {
            bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = xxh3_64_with_seed(&bytes[..56], salt);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` when it is damaged or another store's.
    pub(super) fn decode(bytes: &[u8; HEADER as usize], salt: u64) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let mut numbers = words[1..].iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || numbers.next();
        let kind = match next()? {
            0 => Kind::Journal,
            1 => Kind::Merged,
            _ => return None,
        };
        let span = Span { first: next()?, last: next()? };
        let header = Self { kind, span, predecessor_end: next()?, end: next()?, base: Revision(next()?) };
        (words[0] == MAGIC && next()? == xxh3_64_with_seed(&bytes[..56], salt)).then_some(header)
    }
}

/// Where the frames of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Exactly here; every frame before it was acknowledged.
    At(u64),
    /// Where they end; the very last one may be torn.
    Torn,
}

/// A segment that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// Where the next frame would begin.
    pub(super) end: u64,
    /// How many frames there are.
    pub(super) frames: u64,
    /// The revision of the last frame; `None` without frames.
    pub(super) revision: Option<Revision>,
}

/// A segment's file, for reading.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    file: File,
    length: u64,
    salt: u64,
}

impl Segment {
    /// Opens a segment and checks that its header is what the name says.
    pub(super) fn open(path: &Path, kind: Kind, span: Span, salt: u64) -> Result<Self, DriverError> {
        let failed = |source| io_error(path, "opening a segment", source);
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut bytes = [0; HEADER as usize];
        if length < HEADER {
            return Err(corrupt(path, format!("it has {length} bytes, less than its header")));
        }
        file.read_exact_at(&mut bytes, 0).map_err(|source| io_error(path, "reading a segment's header", source))?;
        match Header::decode(&bytes, salt) {
            Some(header) if header.kind == kind && header.span == span => {
                Ok(Self { path: path.into(), header, file, length, salt })
            }
            Some(_) => Err(corrupt(path, "its header is another segment's".into())),
            None => Err(corrupt(path, "its header does not match its checksum".into())),
        }
    }

    /// Makes what can be read now durable: after `kill -9` the last frame may lie in the page cache only.
    pub(super) fn sync(&self) -> Result<(), DriverError> {
        self.file.sync_all().map_err(|source| io_error(&self.path, "making the newest segment durable", source))
    }

    /// Reads every frame in order and hands its entries to `visit`.
    pub(super) fn read(
        &self,
        end: End,
        visit: &mut dyn FnMut(&FrameHeader, Entry<'_>) -> Result<(), DriverError>,
    ) -> Result<Read, DriverError> {
        let limit = match end {
            End::At(end) if end > self.length => {
                return Err(self.damaged(self.length, format!("the file is cut short, its frames end at {end}")));
            }
            End::At(end) => end,
            End::Torn if self.length < self.header.end => {
                let what = format!("the file is cut short, {} bytes were reserved", self.header.end);
                return Err(self.damaged(self.length, what));
            }
            End::Torn => self.length,
        };
        let failed = |source| io_error(&self.path, "reading a segment", source);
        let mut file = BufReader::with_capacity(256 << 10, &self.file);
        file.seek(SeekFrom::Start(HEADER)).map_err(failed)?;
        let mut read = Read { end: HEADER, frames: 0, revision: None };
        let mut body = Vec::new();
        loop {
            if end == End::At(read.end) {
                return Ok(read);
            }
            let frame = self.read_frame(&mut file, read, limit, &mut body).map_err(failed)?;
            let Some(frame) = frame else {
                return match end {
                    End::At(_) => Err(self.damaged(read.end, "a frame does not match its checksum".into())),
                    End::Torn => self.check_nothing_follows(read).map(|()| read),
                };
            };
            self.visit_entries(&frame, &body, read, visit)?;
            let size = frame.size() as u64;
            let padding = size - (FRAME_HEADER + frame.length) as u64;
            file.seek_relative(padding.cast_signed()).map_err(failed)?;
            read = Read { end: read.end + size, frames: read.frames + 1, revision: Some(frame.revision) };
        }
    }

    /// The next frame, if there is a whole one before `limit`.
    fn read_frame(
        &self,
        file: &mut BufReader<&File>,
        read: Read,
        limit: u64,
        body: &mut Vec<u8>,
    ) -> io::Result<Option<FrameHeader>> {
        let room = limit - read.end;
        let mut header = [0; FRAME_HEADER];
        if room < FRAME_HEADER as u64 {
            return Ok(None);
        }
        file.read_exact(&mut header)?;
        let expected = |frame: &FrameHeader| {
            frame.segment == self.header.span.last && frame.sequence == read.frames && frame.size() as u64 <= room
        };
        let Some(frame) = FrameHeader::decode(&header, self.salt).filter(expected) else { return Ok(None) };
        body.resize(frame.length, 0);
        file.read_exact(body)?;
        Ok(frame.matches(body, self.salt).then_some(frame))
    }

    fn visit_entries(
        &self,
        frame: &FrameHeader,
        mut body: &[u8],
        read: Read,
        visit: &mut dyn FnMut(&FrameHeader, Entry<'_>) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        if frame.revision < read.revision.unwrap_or(self.header.base) {
            return Err(self.damaged(read.end, format!("revision {} comes after a later one", frame.revision)));
        }
        for _ in 0..frame.count {
            let entry = next_entry(&mut body)
                .ok_or_else(|| self.damaged(read.end, "an entry is longer than its frame".into()))?;
            if entry.mod_revision > frame.revision || entry.mod_revision <= self.header.base {
                let key = String::from_utf8_lossy(entry.key);
                let what = format!("{key} has revision {}, which its frame cannot hold", entry.mod_revision);
                return Err(self.damaged(read.end, what));
            }
            visit(frame, entry)?;
        }
        match body.is_empty() {
            true => Ok(()),
            false => Err(self.damaged(read.end, "a frame holds more than its entries".into())),
        }
    }

    /// Tells a torn tail from a damaged middle. A frame is only written once the one before it is durable, so
    /// a header behind the gap proves that the frame in the gap was acknowledged.
    fn check_nothing_follows(&self, read: Read) -> Result<(), DriverError> {
        let failed = |source| io_error(&self.path, "searching a segment's tail", source);
        let mut file = BufReader::with_capacity(256 << 10, &self.file);
        file.seek(SeekFrom::Start(read.end)).map_err(failed)?;
        let mut window = [0; FRAME_HEADER];
        let mut at = read.end;
        while at + FRAME_HEADER as u64 <= self.length {
            match at == read.end {
                true => file.read_exact(&mut window).map_err(failed)?,
                false => {
                    window.copy_within(ALIGNMENT.., 0);
                    file.read_exact(&mut window[FRAME_HEADER - ALIGNMENT..]).map_err(failed)?;
                }
            }
            if let Some(later) = FrameHeader::decode(&window, self.salt)
                && later.segment == self.header.span.last
                && later.sequence > read.frames
            {
                let what = format!("a frame does not match its checksum, and frame {} follows it", later.sequence);
                return Err(self.damaged(read.end, what));
            }
            at += ALIGNMENT as u64;
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, what: String) -> DriverError {
        corrupt(&self.path, format!("at byte {offset}: {what}"))
    }

    /// Whether everything behind the header is zero: nothing was ever written.
    pub(super) fn is_blank(path: &Path) -> io::Result<bool> {
        let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
        file.seek(SeekFrom::Start(HEADER))?;
        loop {
            let block = file.fill_buf()?;
            match (block.len(), block.iter().all(|byte| *byte == 0)) {
                (0, _) => return Ok(true),
                (_, false) => return Ok(false),
                (length, true) => file.consume(length),
            }
        }
    }
}

/// Makes a journal segment of `capacity` bytes with its header durable, and names it last.
pub(super) fn create_journal(dir: &Path, header: &Header, salt: u64, capacity: u64) -> Result<File, DriverError> {
    let unnamed = dir.join("journal.tmp");
    let name = dir.join(file_name(Kind::Journal, header.span));
    let failed = |source| io_error(&name, "making a journal segment", source);
    let file = create_file(&unnamed).map_err(failed)?;
    let named = reserve(&file, capacity)
        .and_then(|()| file.write_all_at(&header.encode(salt), 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&unnamed, &name))
        .and_then(|()| sync_directory(dir));
    if let Err(source) = named {
        // What was reserved must not keep a full disk full.
        drop(std::fs::remove_file(&unnamed));
        return Err(failed(source));
    }
    Ok(file)
}

/// Reserves space, so that no later write fails for want of it. Where the file system cannot reserve, zeros do.
fn reserve(file: &File, capacity: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, capacity) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            for at in (0..capacity).step_by(zeros.len()) {
                let left = usize::try_from(capacity - at).unwrap_or(usize::MAX);
                file.write_all_at(&zeros[..left.min(zeros.len())], at)?;
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// An empty file that only its owner reads: the store holds secrets.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(super) fn io_error(path: &Path, step: &'static str, source: io::Error) -> DriverError {
    DriverError::Engine { path: path.into(), step, source: source.into() }
}

pub(super) fn corrupt(path: &Path, what: String) -> DriverError {
    DriverError::Corrupt { path: path.into(), what }
}
