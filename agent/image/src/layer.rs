//! One layer on its way from packed bytes to a directory: inflating in a thread of its own, hashing and unpacking in
//! the caller's, so that both cores work on one layer and reading overlaps with writing.

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::digest::{Digest, Hashing};
use crate::limit::Limits;
use crate::unpack::{UnpackError, inflate, unpack};

/// Inflated bytes pass in pieces of this size: large enough that handing over costs nothing, small enough for the cache.
const PIECE: usize = 256 << 10;
/// Pieces between the two threads.
const PIECES: usize = 8;

/// Why a layer could not become a directory.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its tar is hostile, damaged or too large.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Its packed form cannot be read to the end.
    #[error("reading its end")]
    Rest(#[source] io::Error),
    /// Its content is not what the image's configuration promises.
    #[error("its content has the digest {found}, the image's configuration says {expected}")]
    Mismatch {
        /// The diff ID of the configuration.
        expected: Digest,
        /// That of what came.
        found: Digest,
    },
    /// No thread can be had.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// Inflated bytes; the buffer goes back and forth, only `length` of it counts.
struct Piece {
    buffer: Vec<u8>,
    length: usize,
}

/// Unpacks what `packed` gives into `root`, which must be empty, and checks that it is the content with this diff ID.
/// `size` is how many bytes `packed` has; `give_up` must end a read of `packed` that waits.
pub(crate) fn unpack_layer(
    packed: impl Read + Send,
    size: u64,
    diff_id: &Digest,
    root: &Path,
    limits: Limits,
    give_up: impl FnOnce(),
) -> Result<(), LayerError> {
    let (filled, taken) = sync_channel(PIECES);
    let (emptied, spare) = channel();
    std::thread::scope(|scope| {
        let inflating = std::thread::Builder::new().name("inflate".into());
        let most = limits.inflated(size);
        inflating.spawn_scoped(scope, move || pump(packed, most, &filled, &spare)).map_err(LayerError::Thread)?;
        let unpacked = consume(
            Pieces { taken, emptied, piece: Piece { buffer: Vec::new(), length: 0 }, at: 0 },
            diff_id,
            root,
            limits,
        );
        if unpacked.is_err() {
            give_up();
        }
        unpacked
    })
}

fn consume(pieces: Pieces, diff_id: &Digest, root: &Path, limits: Limits) -> Result<(), LayerError> {
    let mut hashing = Hashing::new(pieces);
    unpack(&mut hashing, root, limits)?;
    // What follows the archive's end counts for the digest too.
    io::copy(&mut hashing, &mut io::sink()).map_err(LayerError::Rest)?;
    let (found, _, _) = hashing.finish();
    match found == *diff_id {
        true => Ok(()),
        false => Err(LayerError::Mismatch { expected: diff_id.clone(), found }),
    }
}

/// Inflates until the end, a failure, or until nobody wants more.
fn pump(packed: impl Read + Send, most: u64, filled: &SyncSender<io::Result<Piece>>, spare: &Receiver<Vec<u8>>) {
    let mut inflated = match inflate(packed) {
        Ok(inflated) => inflated,
        // Who unpacks learns of the failure, or has given up.
        Err(error) => return drop(filled.send(Err(error))),
    };
    let mut all: u64 = 0;
    loop {
        let mut buffer = spare.try_recv().unwrap_or_default();
        buffer.resize(PIECE, 0);
        let outcome = fill(&mut inflated, &mut buffer);
        all += *outcome.as_ref().unwrap_or(&0) as u64;
        let message = match outcome {
            Ok(0) => return,
            Ok(_) if all > most => Err(io::Error::other(format!("the layer inflates to more than {most} bytes"))),
            Ok(length) => Ok(Piece { buffer, length }),
            Err(error) => Err(error),
        };
        let ended = message.is_err();
        if filled.send(message).is_err() || ended {
            return;
        }
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// The pieces as one stream.
struct Pieces {
    taken: Receiver<io::Result<Piece>>,
    emptied: Sender<Vec<u8>>,
    piece: Piece,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.length {
            // The sender is gone at the end.
            let Ok(next) = self.taken.recv() else { return Ok(0) };
            let old = std::mem::replace(&mut self.piece, next?);
            self.at = 0;
            // The other thread may have ended.
            drop(self.emptied.send(old.buffer));
        }
        let count = buffer.len().min(self.piece.length - self.at);
        buffer[..count].copy_from_slice(&self.piece.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn tar_of(content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, "file", content).unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: &[u8], diff_id: &Digest, limits: Limits) -> Result<Vec<u8>, LayerError> {
        let dir = tempfile::tempdir().unwrap();
        unpack_layer(packed, packed.len() as u64, diff_id, dir.path(), limits, || ())?;
        Ok(std::fs::read(dir.path().join("file")).unwrap())
    }

    #[test]
    fn layers_come_plain_and_packed_either_way() {
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let tar = tar_of(&content);
        let diff_id = Digest::of(&tar);
        for packed in [tar.clone(), gzip(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
            assert!(unpacked(&packed, &diff_id, Limits::default()).unwrap() == content);
        }
        let two_members = [gzip(&tar[..5000]), gzip(&tar[5000..])].concat();
        assert!(unpacked(&two_members, &diff_id, Limits::default()).unwrap() == content);
        let other = Digest::of(b"other");
        assert!(matches!(unpacked(&tar, &other, Limits::default()), Err(LayerError::Mismatch { .. })));
    }

    #[test]
    fn a_cut_or_damaged_layer_is_no_layer() {
        let tar = tar_of(&[7; 2_000_000]);
        let diff_id = Digest::of(&tar);
        let gzip = gzip(&tar);
        let mut damaged = gzip.clone();
        damaged[gzip.len() / 2] ^= 0xff;
        for packed in [&gzip[..gzip.len() - 9], &damaged, &tar[..1_000_000]] {
            assert!(unpacked(packed, &diff_id, Limits::default()).is_err());
        }
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_inflates_to() {
        let tar = tar_of(&vec![0; 8 << 20]);
        let limits = Limits { ratio: 10, ratio_from: 1 << 20, ..Limits::default() };
        for packed in [gzip(&tar), zstd::encode_all(tar.as_slice(), 3).unwrap()] {
            let error = unpacked(&packed, &Digest::of(&tar), limits).unwrap_err();
            let told = std::error::Error::source(&error).unwrap().to_string();
            assert!(told.starts_with("the layer inflates to more than"), "{told}");
        }
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(2_000_000)
        .collect();
        let tar = tar_of(&noise);
        assert!(unpacked(&zstd::encode_all(tar.as_slice(), 1).unwrap(), &Digest::of(&tar), limits).is_ok());
    }
}
