//! Reading container logs in CRI format: tail, since, timestamps, follow.
//! Line: `2016-10-06T00:17:09.669794202Z stdout F text`; `P` instead of `F` means that the line goes on.

use std::io::{self, Read as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::GzDecoder;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeek, AsyncSeekExt as _};

use crate::rotation;

/// How much is looked at to find the last lines.
const BLOCK: u64 = 64 << 10;

/// What a reader wants of a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) stream: Option<String>,
}

/// Turns raw CRI lines into what a client sees.
#[derive(Debug)]
struct Formatter {
    options: Options,
    partial_line: bool,
    left: Option<u64>,
}

impl Formatter {
    fn new(options: Options) -> Self {
        Self { left: options.limit_bytes, options, partial_line: false }
    }

    /// One raw line without its newline. A line that is not CRI is shown as it is.
    fn format(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some((time, stream, tag, text)) = split(line) else {
            out.extend_from_slice(line);
            out.push(b'\n');
            return;
        };
        if self.options.since.is_some_and(|since| time.parse::<Timestamp>().is_ok_and(|at| at < since))
            || self.options.stream.as_deref().is_some_and(|wanted| wanted != stream)
        {
            return;
        }
        if self.options.timestamps && !self.partial_line {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.partial_line = tag == "P";
        if !self.partial_line {
            out.push(b'\n');
        }
    }

    /// Cuts at `limitBytes`. Answers whether the limit was reached.
    fn cut(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(left) = &mut self.left else { return false };
        let keep = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
        out.truncate(keep);
        *left -= keep as u64;
        *left == 0
    }
}

/// The text of raw CRI lines, which come without their newlines.
pub(crate) fn plain(lines: &[&[u8]]) -> Vec<u8> {
    let (mut formatter, mut out) = (Formatter::new(Options::default()), Vec::new());
    for line in lines {
        formatter.format(line, &mut out);
    }
    out
}

fn split(line: &[u8]) -> Option<(&str, &str, &str, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let text = |part: &'_ [u8]| std::str::from_utf8(part).ok().map(str::to_owned);
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    text(time)?.parse::<Timestamp>().ok()?;
    let rest = parts.next().unwrap_or_default();
    Some((std::str::from_utf8(time).ok()?, std::str::from_utf8(stream).ok()?, std::str::from_utf8(tag).ok()?, rest))
}

/// A piece of a log: a file, or what a compressed one held.
trait Piece: AsyncRead + AsyncSeek + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncSeek + Unpin + Send + Sync> Piece for T {}

/// What one compressed file may hold; more than the largest log file.
const UNPACKED_BYTES: u64 = 64 << 20;

/// A log being read: its earlier files, oldest first, then the current one, across further rotations.
pub(crate) struct Reader {
    path: PathBuf,
    piece: Box<dyn Piece>,
    /// The number that the piece has among the earlier files, or will have.
    number: u64,
    /// The piece is the current file: this inode, as long as it has the log's name.
    inode: Option<u64>,
    raw: Vec<u8>,
    formatter: Formatter,
    done: bool,
}

impl Reader {
    /// Opens a log where its first line is that is still there, or where the last ones begin that are wanted.
    pub(crate) async fn open(path: &Path, options: Options) -> io::Result<Self> {
        let (file, inode, newest) = current(path).await?;
        let (mut piece, mut number): (Box<dyn Piece>, u64) = (Box::new(file), newest + 1);
        let mut inode = Some(inode);
        let mut earlier = rotation::earlier(path);
        let mut left = options.tail;
        loop {
            if let Some(lines) = left {
                let tail = start_of_last(&mut *piece, lines).await?;
                piece.seek(SeekFrom::Start(tail.start)).await?;
                left = Some(lines - tail.lines);
                if left == Some(0) {
                    break;
                }
            }
            // One that cannot be had was removed for its age: what is older is gone too.
            let Some((before, file)) = earlier.pop_last() else { break };
            let Ok(opened) = open_earlier(&file).await else { break };
            (piece, number, inode) = (opened, before, None);
        }
        let formatter = Formatter::new(options);
        Ok(Self { path: path.into(), piece, number, inode, raw: Vec::new(), formatter, done: false })
    }

    /// Whether `limitBytes` was reached.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// What is there now and was not given before; empty at the end of the log.
    pub(crate) async fn read(&mut self) -> io::Result<Bytes> {
        let mut out = Vec::new();
        let mut buffer = vec![0u8; BLOCK as usize];
        while out.is_empty() && !self.done {
            // Asked before reading: a file that had lost its name by then is complete, once nothing is left in it.
            let is_complete = self.is_complete().await;
            let count = self.piece.read(&mut buffer).await?;
            if count == 0 {
                if is_complete && self.advance().await? {
                    continue;
                }
                break;
            }
            self.raw.extend_from_slice(&buffer[..count]);
            let whole = self.raw.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let rest = self.raw.split_off(whole);
            for line in self.raw.split(|byte| *byte == b'\n') {
                if !line.is_empty() {
                    self.formatter.format(line, &mut out);
                }
            }
            self.raw = rest;
            self.done = self.formatter.cut(&mut out);
        }
        Ok(out.into())
    }

    /// Whether nothing more is written to the piece.
    async fn is_complete(&self) -> bool {
        let Some(inode) = self.inode else { return true };
        // Between renaming and making anew there is none of that name.
        tokio::fs::metadata(&self.path).await.is_ok_and(|now| now.ino() != inode)
    }

    /// Goes on with the next piece; `false` where there is none.
    async fn advance(&mut self) -> io::Result<bool> {
        loop {
            let next = rotation::earlier(&self.path).into_iter().find(|(number, _)| *number > self.number);
            if let Some((number, file)) = next {
                match open_earlier(&file).await {
                    Ok(piece) => {
                        (self.piece, self.number, self.inode) = (piece, number, None);
                        return Ok(true);
                    }
                    // Compressed or removed between listing and opening.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            let (file, inode, newest) = match current(&self.path).await {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            // Rotated again between listing and opening.
            if newest > self.number {
                continue;
            }
            (self.piece, self.number, self.inode) = (Box::new(file), newest.max(self.number) + 1, Some(inode));
            return Ok(true);
        }
    }
}

/// The current file, its inode, and the number of the newest earlier one.
async fn current(path: &Path) -> io::Result<(File, u64, u64)> {
    loop {
        let file = File::open(path).await?;
        let inode = file.metadata().await?.ino();
        let newest = rotation::earlier(path).keys().next_back().copied().unwrap_or(0);
        // Rotated meanwhile, the file may be that newest one itself.
        if tokio::fs::metadata(path).await.is_ok_and(|now| now.ino() == inode) {
            return Ok((file, inode, newest));
        }
    }
}

async fn open_earlier(path: &Path) -> io::Result<Box<dyn Piece>> {
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(Box::new(File::open(path).await?));
    }
    let path = path.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        GzDecoder::new(std::fs::File::open(path)?).take(UNPACKED_BYTES).read_to_end(&mut text)?;
        io::Result::Ok(text)
    });
    Ok(Box::new(io::Cursor::new(unpacked.await.map_err(io::Error::other)??)))
}

/// Where the last lines of a piece begin, and how many these are: fewer than wanted where it has no more.
struct Tail {
    start: u64,
    lines: u64,
}

async fn start_of_last(piece: &mut dyn Piece, lines: u64) -> io::Result<Tail> {
    let length = piece.seek(SeekFrom::End(0)).await?;
    if lines == 0 || length == 0 {
        return Ok(Tail { start: length, lines: 0 });
    }
    let (mut position, mut newlines) = (length, 0);
    let mut buffer = vec![0u8; BLOCK as usize];
    while position > 0 {
        let start = position.saturating_sub(BLOCK);
        let size = (position - start) as usize;
        piece.seek(SeekFrom::Start(start)).await?;
        piece.read_exact(&mut buffer[..size]).await?;
        for at in (0..size).rev() {
            // The newline that ends the file ends the last line; it begins none.
            if buffer[at] == b'\n' && start + at as u64 + 1 < length {
                newlines += 1;
                if newlines == lines {
                    return Ok(Tail { start: start + at as u64 + 1, lines });
                }
            }
        }
        position = start;
    }
    Ok(Tail { start: 0, lines: newlines + 1 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn all(text: &str, options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        let mut reader = Reader::open(&path, options).await.unwrap();
        let mut out = Vec::new();
        loop {
            let chunk = reader.read().await.unwrap();
            if chunk.is_empty() {
                return String::from_utf8(out).unwrap();
            }
            out.extend_from_slice(&chunk);
        }
    }

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01.2Z stderr P tw\n2026-01-01T00:00:01.3Z stderr F o\n2026-01-01T00:00:02.4Z stdout F \n";

    #[tokio::test]
    async fn lines_come_as_they_were_written() {
        assert_eq!(all(LOG, Options::default()).await, "one\ntwo\n\n");
        assert_eq!(all(LOG, Options { tail: Some(1), ..Options::default() }).await, "\n");
        assert_eq!(all(LOG, Options { tail: Some(0), ..Options::default() }).await, "");
        assert_eq!(all(LOG, Options { tail: Some(99), ..Options::default() }).await, "one\ntwo\n\n");
        assert_eq!(all(LOG, Options { limit_bytes: Some(5), ..Options::default() }).await, "one\nt");
        let since = "2026-01-01T00:00:01Z".parse().ok();
        assert_eq!(all(LOG, Options { since, ..Options::default() }).await, "two\n\n");
        let stamped = all(LOG, Options { timestamps: true, ..Options::default() }).await;
        assert!(stamped.starts_with("2026-01-01T00:00:00.1Z one\n2026-01-01T00:00:01.2Z two\n"), "{stamped}");
        assert_eq!(all("no cri\n", Options::default()).await, "no cri\n");
    }

    fn lines(numbers: std::ops::Range<u32>) -> String {
        numbers.map(|number| format!("2026-01-01T00:00:00Z stdout F {number}\n")).collect()
    }

    fn texts(numbers: std::ops::Range<u32>) -> String {
        numbers.map(|number| format!("{number}\n")).collect()
    }

    fn pack(path: &Path, text: &str) {
        let mut packed = flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), Default::default());
        std::io::Write::write_all(&mut packed, text.as_bytes()).unwrap();
        packed.finish().unwrap();
    }

    async fn rest(reader: &mut Reader) -> String {
        let mut out = String::new();
        loop {
            let chunk = reader.read().await.unwrap();
            if chunk.is_empty() {
                return out;
            }
            out.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    #[tokio::test]
    async fn earlier_files_come_first_and_count_for_the_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        pack(&dir.path().join("0.log.3.gz"), &lines(0..10));
        std::fs::write(dir.path().join("0.log.4"), lines(10..20)).unwrap();
        std::fs::write(&path, lines(20..25)).unwrap();
        for (tail, first) in [(None, 0), (Some(99), 0), (Some(16), 9), (Some(15), 10), (Some(5), 20), (Some(2), 23)] {
            let mut reader = Reader::open(&path, Options { tail, ..Options::default() }).await.unwrap();
            assert_eq!(rest(&mut reader).await, texts(first..25), "{tail:?}");
        }
    }

    #[tokio::test]
    async fn who_follows_misses_nothing_however_often_it_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, lines(0..3)).unwrap();
        let mut reader = Reader::open(&path, Options::default()).await.unwrap();
        assert_eq!(rest(&mut reader).await, texts(0..3));
        // Written to the old file after it was read, then rotated twice, the first of them compressed.
        let mut old = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut old, lines(3..5).as_bytes()).unwrap();
        std::fs::remove_file(&path).unwrap();
        pack(&dir.path().join("0.log.1.gz"), &lines(0..5));
        pack(&dir.path().join("0.log.2.gz"), &lines(5..8));
        std::fs::write(dir.path().join("0.log.3"), lines(8..9)).unwrap();
        assert_eq!(rest(&mut reader).await, texts(3..5), "between renaming and making anew");
        std::fs::write(&path, lines(9..12)).unwrap();
        assert_eq!(rest(&mut reader).await, texts(5..12));
        std::fs::rename(&path, dir.path().join("0.log.4")).unwrap();
        std::fs::write(&path, lines(12..13)).unwrap();
        assert_eq!(rest(&mut reader).await, texts(12..13));
    }

    proptest! {
        /// Whatever a container writes, reading its log neither panics nor hangs.
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), tail in 0u64..5) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("0.log");
                std::fs::write(&path, &bytes).unwrap();
                let mut reader = Reader::open(&path, Options { tail: Some(tail), ..Options::default() }).await.unwrap();
                while !reader.read().await.unwrap().is_empty() {}
            });
        }
    }
}
