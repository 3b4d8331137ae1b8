//! What a container left for people when it ended. Kubernetes documentation, "Determine the Reason for Pod Failure";
//! bounds are the kubelet's (`pkg/kubelet/container/runtime.go`).

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::Executor;
use super::sandbox::{self, id};
use crate::log;

/// Of a message file so much is taken, from its end.
const FILE_BYTES: u64 = 4096;
/// Of a log so many lines and bytes are.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;
/// So much of a log as it lies on the disk holds that many bytes of text for certain.
const LOG_RAW_BYTES: u64 = 64 << 10;

/// The file that a container sees as its termination message path.
pub(super) fn path(run_dir: &Path, id: &str) -> PathBuf {
    sandbox::etc_dir(run_dir).join(format!("{id}.termination-log"))
}

/// The last words of a start of a container: its message file, or, when it failed and asks for it, the end of its log.
pub(crate) fn message(executor: &Executor, index: usize, attempt: u32, code: i32) -> String {
    let Some(container) = executor.container(index) else { return String::new() };
    let text = end_of(&path(&executor.run_dir(), &id(&container.name, attempt)), FILE_BYTES).unwrap_or_default();
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !text.is_empty() || code == 0 || !falls_back {
        return String::from_utf8_lossy(&text).into_owned();
    }
    let log = executor.log_dir().join(&container.name).join(format!("{attempt}.log"));
    last_lines(&end_of(&log, LOG_RAW_BYTES).unwrap_or_default())
}

fn end_of(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(end)
}

fn last_lines(raw: &[u8]) -> String {
    let mut lines: Vec<&[u8]> = raw.split(|byte| *byte == b'\n').collect();
    // What follows the last line end.
    lines.pop();
    if raw.len() as u64 == LOG_RAW_BYTES {
        lines.remove(0);
    }
    let text = log::plain(&lines[lines.len().saturating_sub(LOG_LINES)..]);
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_BYTES)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(lines: usize, text: &str) -> Vec<u8> {
        let line = |number: usize| format!("2026-01-01T00:00:00.000000000Z stderr F {number} {text}\n");
        (0..lines).map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn the_end_of_a_log_is_bounded_in_lines_and_bytes() {
        assert_eq!(last_lines(&raw(2, "x")), "0 x\n1 x\n");
        let many = last_lines(&raw(100, "x"));
        assert_eq!((many.lines().count(), many.lines().next()), (80, Some("20 x")));
        let long = last_lines(&raw(10, &"y".repeat(500)));
        assert_eq!((long.len(), long.ends_with("y\n")), (LOG_BYTES, true));
        assert_eq!(last_lines(b""), "");
        let cut = &raw(2000, "z")[..];
        let text = last_lines(&cut[cut.len() - LOG_RAW_BYTES as usize..]);
        assert!(text.lines().all(|line| line.ends_with(" z")), "{text}");
    }

    #[test]
    fn the_end_of_a_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, "a".repeat(5000) + "end").unwrap();
        let end = end_of(&path, FILE_BYTES).unwrap();
        assert_eq!((end.len(), end.ends_with(b"aend")), (4096, true));
    }
}
