//! Container logs in the CRI format: `TIME stdout|stderr F|P TEXT`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::protocol::LogLimits;
use crate::container::clock;

/// A line longer than this is written in parts, tagged P.
pub const LINE_MAX: usize = 16 << 10;

/// Which stream a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The log of one container.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    open_lines: [Vec<u8>; 2],
    out: Vec<u8>,
    limits: Option<LogLimits>,
    /// Bytes of the current file.
    written: u64,
    /// How many files came before it.
    rotations: u64,
    was_rotated: bool,
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl LogWriter {
    /// Opens or continues a log.
    pub fn open(path: PathBuf, limits: Option<LogLimits>) -> io::Result<LogWriter> {
        let file = open(&path)?;
        let (written, rotations) = (file.metadata()?.len(), rotated(&path).max().unwrap_or(0));
        let (open_lines, out) = (Default::default(), Vec::new());
        Ok(LogWriter { file, path, open_lines, out, limits, written, rotations, was_rotated: false })
    }

    /// Whether the log got a new file since this was last asked.
    pub fn take_rotated(&mut self) -> bool {
        std::mem::take(&mut self.was_rotated)
    }

    /// Opens the path anew, after somebody moved the file away.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.written = self.file.metadata()?.len();
        Ok(())
    }

    /// Writes what was put together, into a new file where the current one is full.
    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if let Some(limits) = self.limits
            && self.written > 0
            && self.written + self.out.len() as u64 > limits.max_bytes
        {
            // A log that cannot be rotated goes on in its file; it is tried again when that has doubled.
            self.written = 0;
            self.rotate(limits)?;
        }
        self.written += self.out.len() as u64;
        self.file.write_all(&self.out)
    }

    fn rotate(&mut self, limits: LogLimits) -> io::Result<()> {
        let (number, kept) = (self.rotations + 1, limits.max_files.max(1) - 1);
        // First what goes, so that there is never more than was allowed.
        for old in rotated(&self.path).filter(|old| old + kept <= number) {
            for name in [numbered(&self.path, old, ""), numbered(&self.path, old, ".gz")] {
                match fs::remove_file(name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        match kept {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, numbered(&self.path, number, ""))?,
        }
        self.rotations = number;
        self.was_rotated = true;
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Takes what a stream gave.
    pub fn write(&mut self, source: Source, bytes: &[u8]) -> io::Result<()> {
        let time = clock();
        self.out.clear();
        let open = &mut self.open_lines[source as usize];
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_MAX - open.len();
            let window = &rest[..rest.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                line(&mut self.out, &time, source, 'F', open, &rest[..end]);
                open.clear();
                rest = &rest[end + 1..];
            } else if window.len() == room && rest.get(room) != Some(&b'\n') {
                line(&mut self.out, &time, source, 'P', open, window);
                open.clear();
                rest = &rest[room..];
            } else if window.len() == room {
                line(&mut self.out, &time, source, 'F', open, window);
                open.clear();
                rest = &rest[room + 1..];
            } else {
                open.extend_from_slice(window);
                rest = &[];
            }
        }
        self.flush()
    }

    /// Writes lines that never ended.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = clock();
        self.out.clear();
        for source in [Source::Stdout, Source::Stderr] {
            let open = std::mem::take(&mut self.open_lines[source as usize]);
            if !open.is_empty() {
                line(&mut self.out, &time, source, 'F', &open, &[]);
            }
        }
        self.flush()
    }
}

/// `PATH.NUMBER` and what follows it.
fn numbered(path: &Path, number: u64, rest: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{rest}"));
    name.into()
}

/// The numbers of a log's earlier files, compressed or not; one of them may come twice.
fn rotated(path: &Path) -> impl Iterator<Item = u64> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries = fs::read_dir(path.parent().unwrap_or(path)).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let own = entry.file_name();
        let rest = own.to_str()?.strip_prefix(&name)?.strip_prefix('.')?;
        rest.strip_suffix(".gz").unwrap_or(rest).parse().ok()
    })
}

fn line(out: &mut Vec<u8>, time: &str, source: Source, tag: char, head: &[u8], tail: &[u8]) {
    let name = match source {
        Source::Stdout => "stdout",
        Source::Stderr => "stderr",
    };
    out.extend_from_slice(format!("{time} {name} {tag} ").as_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(path: &std::path::Path) -> Vec<(char, Vec<u8>)> {
        let content = std::fs::read(path).unwrap();
        let lines = content.split_inclusive(|b| *b == b'\n').map(|line| {
            let text = &line["2016-10-06T00:17:09.669794202Z stdout ".len()..line.len() - 1];
            (char::from(text[0]), text[2..].to_vec())
        });
        lines.collect()
    }

    #[test]
    fn lines_and_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(path.clone(), None).unwrap();
        log.write(Source::Stdout, b"one\ntwo").unwrap();
        log.write(Source::Stdout, b" more\n\n").unwrap();
        log.write(Source::Stdout, &[b'x'; LINE_MAX + 1]).unwrap();
        log.finish().unwrap();
        let found = texts(&path);
        assert_eq!(found[0], ('F', b"one".to_vec()));
        assert_eq!(found[1], ('F', b"two more".to_vec()));
        assert_eq!(found[2], ('F', Vec::new()));
        assert_eq!((found[3].0, found[3].1.len()), ('P', LINE_MAX));
        assert_eq!(found[4], ('F', b"x".to_vec()));
    }

    #[test]
    fn a_full_log_gets_a_successor_and_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        // A line of nine letters takes 50 bytes.
        let limits = LogLimits { max_bytes: 100, max_files: 3 };
        let mut log = LogWriter::open(path.clone(), Some(limits)).unwrap();
        for number in 0..7 {
            log.write(Source::Stdout, format!("{number:09}\n").as_bytes()).unwrap();
        }
        assert!(log.take_rotated() && !log.take_rotated());
        let number = |path: &Path| String::from_utf8(texts(path)[0].1.clone()).unwrap().parse::<u32>().unwrap();
        assert_eq!(number(&path), 6);
        assert_eq!((number(&numbered(&path, 3, "")), number(&numbered(&path, 2, ""))), (4, 2));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        // One that was compressed goes all the same; a monitor that follows goes on counting.
        std::fs::rename(numbered(&path, 2, ""), numbered(&path, 2, ".gz")).unwrap();
        let mut log = LogWriter::open(path.clone(), Some(limits)).unwrap();
        log.write(Source::Stdout, &[b"x".repeat(40), b"\n".to_vec()].concat()).unwrap();
        assert!(!numbered(&path, 2, ".gz").exists() && numbered(&path, 4, "").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn nothing_is_lost(
            pieces in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..9000), 0..8)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            let mut log = LogWriter::open(path.clone(), None).unwrap();
            for piece in &pieces {
                log.write(Source::Stderr, piece).unwrap();
            }
            log.finish().unwrap();
            let mut whole = Vec::new();
            for (tag, text) in texts(&path) {
                prop_assert!(text.len() <= LINE_MAX);
                whole.extend(text);
                if tag == 'F' { whole.push(b'\n'); }
            }
            let mut expected = pieces.concat();
            if expected.last().is_some_and(|b| *b != b'\n') { expected.push(b'\n'); }
            prop_assert_eq!(whole, expected);
        }
    }
}
