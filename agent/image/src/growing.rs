//! A file that is read while it is still being written: one end appends, the other waits for what is not there yet.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How far the writing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More may come.
    Growing,
    /// All is there.
    Complete,
    /// No more will come, and something is missing.
    Given,
    /// Nobody wants more.
    Unwanted,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<(Stage, u64)>,
    changed: Condvar,
}

impl Shared {
    fn set(&self, change: impl FnOnce(&mut Stage, &mut u64)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (stage, length) = &mut *state;
        change(stage, length);
        self.changed.notify_all();
    }
}

/// The writing end. Dropping it before the end is a failure for the reader.
#[derive(Debug)]
pub(crate) struct Growing(Arc<Shared>);

/// The reading end.
#[derive(Debug)]
pub(crate) struct Following {
    file: File,
    at: u64,
    shared: Arc<Shared>,
}

/// Both ends of a file that holds `length` bytes so far.
pub(crate) fn growing(reader: File, length: u64) -> (Growing, Following) {
    let shared = Arc::new(Shared { state: Mutex::new((Stage::Growing, length)), changed: Condvar::new() });
    (Growing(Arc::clone(&shared)), Following { file: reader, at: 0, shared })
}

impl Growing {
    /// So many bytes more are in the file.
    pub(crate) fn grown(&self, by: u64) {
        self.0.set(|_, length| *length += by);
    }

    /// No more will come, and all is well.
    pub(crate) fn complete(&self) {
        self.0.set(|stage, _| {
            if *stage == Stage::Growing {
                *stage = Stage::Complete;
            }
        });
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.set(|stage, _| {
            if *stage == Stage::Growing {
                *stage = Stage::Given;
            }
        });
    }
}

/// Ends a reader that waits.
#[derive(Debug)]
pub(crate) struct GiveUp(Arc<Shared>);

impl GiveUp {
    pub(crate) fn give_up(&self) {
        self.0.set(|stage, _| {
            if *stage == Stage::Growing {
                *stage = Stage::Unwanted;
            }
        });
    }
}

impl Following {
    /// What ends this reader while another thread waits in it.
    pub(crate) fn give_up(&self) -> GiveUp {
        GiveUp(Arc::clone(&self.shared))
    }
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 == Stage::Growing && state.1 <= self.at {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (stage, length) = *state;
        drop(state);
        let left = length.saturating_sub(self.at);
        match (left, stage) {
            (0, Stage::Complete) => Ok(0),
            (0, _) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download ended before the layer")),
            (left, _) => {
                let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let count = self.file.read_at(&mut buffer[..room], self.at)?;
                self.at += count as u64;
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn ends() -> (File, Growing, Following) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (growing, following) = growing(file.reopen().unwrap(), 0);
        (file.into_file(), growing, following)
    }

    #[test]
    fn the_reader_waits_for_the_writer() {
        let (mut file, growing, mut following) = ends();
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            following.read_to_string(&mut all).map(|_| all)
        });
        for part in ["one ", "two ", "three"] {
            file.write_all(part.as_bytes()).unwrap();
            growing.grown(part.len() as u64);
        }
        growing.complete();
        assert_eq!(reader.join().unwrap().unwrap(), "one two three");
    }

    #[test]
    fn what_is_given_up_is_no_end() {
        let (mut file, growing, mut following) = ends();
        file.write_all(b"half").unwrap();
        growing.grown(4);
        drop(growing);
        let mut all = Vec::new();
        assert_eq!(following.read_to_end(&mut all).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (_file, _growing, mut following) = ends();
        let end = following.give_up();
        let reader = std::thread::spawn(move || following.read(&mut [0; 8]));
        end.give_up();
        assert!(reader.join().unwrap().is_err(), "a reader that waits is ended");
    }
}
