//! Container logs in the CRI format: `TIME stdout|stderr F|P TEXT`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

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
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl LogWriter {
    /// Opens or continues a log.
    pub fn open(path: PathBuf) -> io::Result<LogWriter> {
        Ok(LogWriter { file: open(&path)?, path, open_lines: Default::default(), out: Vec::new() })
    }

    /// Opens the path anew, after somebody moved the file away.
    pub fn reopen(&mut self) -> io::Result<()> {
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
        if self.out.is_empty() { Ok(()) } else { self.file.write_all(&self.out) }
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
        self.file.write_all(&self.out)
    }
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
        let mut log = LogWriter::open(path.clone()).unwrap();
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

    proptest! {
        #[test]
        fn nothing_is_lost(
            pieces in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..9000), 0..8)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            let mut log = LogWriter::open(path.clone()).unwrap();
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
