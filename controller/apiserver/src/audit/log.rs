//! The file that events go to: written by a thread of its own, continued in a new file when it is large.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Events that wait for the disk. When there are more, requests wait: what is to be written down is not lost.
const WAITING: usize = 4096;

/// How long the end of the process waits for what is still to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// When a log goes on in a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// A file is no larger than this, in bytes.
    pub bytes: u64,
    /// How many older files are kept.
    pub kept: usize,
}

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditLogError {
    /// The file cannot be opened.
    #[error("opening {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The thread could not be started.
    #[error("starting the writer")]
    Thread(#[source] std::io::Error),
}

/// A log that is written.
pub(super) struct Log {
    /// `None` at the end.
    lines: Option<Sender<String>>,
    /// Closed when all is written.
    written: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Log {
    pub(super) fn open(path: &Path, rotation: Rotation) -> Result<Self, AuditLogError> {
        let (lines, received) = channel(WAITING);
        let writer = Writer::open(path, rotation)?;
        let thread = std::thread::Builder::new().name("audit-log".into());
        let (ending, written) = std::sync::mpsc::channel();
        let write = move || {
            writer.run(received);
            drop(ending);
        };
        thread.spawn(write).map_err(AuditLogError::Thread)?;
        Ok(Self { lines: Some(lines), written: Mutex::new(written) })
    }

    pub(super) async fn write(&self, event: &Value) {
        if let Some(lines) = &self.lines {
            // The writer ends only with this sender.
            drop(lines.send(format!("{event}\n")).await);
        }
    }
}

/// Waits until everything is written, but not for a disk that hangs.
impl Drop for Log {
    fn drop(&mut self) {
        self.lines = None;
        // Nothing is ever sent: it ends with the writer, or with patience.
        let _ = self.written.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(LAST_WORDS);
    }
}

struct Writer {
    path: PathBuf,
    rotation: Rotation,
    /// `None`: standard output.
    file: Option<File>,
    written: u64,
}

impl Writer {
    fn open(path: &Path, rotation: Rotation) -> Result<Self, AuditLogError> {
        let fail = |source| AuditLogError::Open { path: path.into(), source };
        let (file, written) = match path == Path::new("-") {
            true => (None, 0),
            false => {
                let file = append(path).map_err(fail)?;
                let written = file.metadata().map_err(fail)?.len();
                (Some(file), written)
            }
        };
        Ok(Self { path: path.into(), rotation, file, written })
    }

    fn run(mut self, mut lines: Receiver<String>) {
        while let Some(line) = lines.blocking_recv() {
            if let Err(error) = self.write(&line) {
                tracing::error!(%error, path = %self.path.display(), "an audit event was not written");
            }
        }
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return std::io::stdout().write_all(line.as_bytes()) };
        if self.written > 0 && self.written + line.len() as u64 > self.rotation.bytes {
            *file = rotate(&self.path, self.rotation.kept)?;
            self.written = 0;
        }
        file.write_all(line.as_bytes())?;
        self.written += line.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// `audit.log` becomes `audit.log.1`, and so on; the oldest goes.
fn rotate(path: &Path, kept: usize) -> std::io::Result<File> {
    let numbered = |number: usize| PathBuf::from(format!("{}.{number}", path.display()));
    for number in (1..kept).rev().filter(|number| numbered(*number).exists()) {
        std::fs::rename(numbered(number), numbered(number + 1))?;
    }
    match kept {
        0 => std::fs::remove_file(path)?,
        _ => std::fs::rename(path, numbered(1))?,
    }
    append(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_and_so_is_their_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut writer = Writer::open(&path, Rotation { bytes: 30, kept: 2 }).unwrap();
        for n in 0..10 {
            writer.write(&format!("line number {n}\n")).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("audit.log"), "line number 8\nline number 9\n");
        assert_eq!(read("audit.log.1"), "line number 6\nline number 7\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        let mut again = Writer::open(&path, Rotation { bytes: 30, kept: 2 }).unwrap();
        again.write("more\n").unwrap();
        assert_eq!(read("audit.log"), "more\n", "what was there counts");
    }
}
