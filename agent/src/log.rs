//! Reading container logs in CRI format: tail, since, timestamps, follow.
//! Line: `2016-10-06T00:17:09.669794202Z stdout F text`; `P` instead of `F` means that the line goes on.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

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

fn split(line: &[u8]) -> Option<(&str, &str, &str, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let text = |part: &'_ [u8]| std::str::from_utf8(part).ok().map(str::to_owned);
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    text(time)?.parse::<Timestamp>().ok()?;
    let rest = parts.next().unwrap_or_default();
    Some((std::str::from_utf8(time).ok()?, std::str::from_utf8(stream).ok()?, std::str::from_utf8(tag).ok()?, rest))
}

/// A log being read.
pub(crate) struct Reader {
    path: PathBuf,
    file: File,
    raw: Vec<u8>,
    formatter: Formatter,
    done: bool,
}

impl Reader {
    pub(crate) async fn open(path: &Path, options: Options) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        if let Some(lines) = options.tail {
            let start = start_of_last(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        Ok(Self { path: path.into(), file, raw: Vec::new(), formatter: Formatter::new(options), done: false })
    }

    /// Whether `limitBytes` was reached.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// What is there now and was not given before; empty at the end of the file.
    pub(crate) async fn read(&mut self) -> io::Result<Bytes> {
        let mut out = Vec::new();
        let mut buffer = vec![0u8; BLOCK as usize];
        while out.is_empty() && !self.done {
            let count = self.file.read(&mut buffer).await?;
            if count == 0 {
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

    /// Goes on with the file that now has the log's name, if it was rotated. Answers whether it was.
    pub(crate) async fn reopen_if_rotated(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(current) = tokio::fs::metadata(&self.path).await else { return Ok(false) };
        if current.ino() == self.file.metadata().await?.ino() {
            return Ok(false);
        }
        self.file = File::open(&self.path).await?;
        Ok(true)
    }
}

/// The offset at which the last `lines` whole lines begin.
async fn start_of_last(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let (mut position, mut newlines) = (length, 0);
    let mut buffer = vec![0u8; BLOCK as usize];
    while position > 0 {
        let start = position.saturating_sub(BLOCK);
        let size = (position - start) as usize;
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for at in (0..size).rev() {
            // The newline that ends the file ends the last line; it begins none.
            if buffer[at] == b'\n' && start + at as u64 + 1 < length {
                newlines += 1;
                if newlines == lines {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        position = start;
    }
    Ok(0)
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
