//! One blob onto the disk: from where an earlier try ended, hashed as it comes, and never believed before its digest is
//! right. A thread writes and hashes; the layer is unpacked beside it from the growing file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::body::Pieces;
use super::error::{RegistryError, RequestError, chain};
use super::pull::{Progress, Tell};
use super::session::{Session, Wish};
use crate::digest::{Digest, Hashing};
use crate::growing::Growing;

/// Pieces between the connection and the disk; a piece is at most what the connection reads at once.
const PIECES: usize = 16;

/// What is wanted.
pub(crate) struct Blob<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
}

/// How a download ended that did not bring the blob.
#[derive(Debug)]
pub(crate) enum DownloadError {
    /// No registry gave it.
    Registries(Vec<RegistryError>),
    /// All of it came, and it is something else.
    Mismatch {
        /// Who sent the last of it: a place in the list of sessions.
        source: usize,
        found: Digest,
    },
    /// It could not be written.
    Write(io::Error),
    /// The thread that writes is gone.
    Abandoned,
}

/// Gets what `file` does not hold yet (`have` bytes are there), asking `sessions` from place `first` on. Afterwards the
/// file holds the blob, verified and not yet synced.
pub(crate) async fn download(
    sessions: &[Session<'_>],
    first: usize,
    blob: &Blob<'_>,
    file: File,
    have: u64,
    growing: Growing,
    tell: &Tell<'_>,
) -> Result<(), DownloadError> {
    let (pieces, queue) = mpsc::channel(PIECES);
    let writer = tokio::task::spawn_blocking(move || write(file, have, queue, growing));
    let gathered = gather(sessions, first, blob, have, &pieces, tell).await;
    drop(pieces);
    let (found, growing) = writer.await.map_err(|_| DownloadError::Abandoned)?.map_err(DownloadError::Write)?;
    let source = gathered?;
    match found == *blob.digest {
        true => {
            growing.complete();
            Ok(())
        }
        false => Err(DownloadError::Mismatch { source, found }),
    }
}

/// Hashes what is there, then appends and hashes what comes. Every byte is hashed by this run of the program.
fn write(
    mut file: File,
    have: u64,
    mut queue: mpsc::Receiver<Bytes>,
    growing: Growing,
) -> io::Result<(Digest, Growing)> {
    file.seek(SeekFrom::Start(0))?;
    let mut hashing = Hashing::new(&mut file);
    let mut buffer = vec![0; 256 << 10];
    let mut left = have;
    while left > 0 {
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = hashing.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count as u64;
    }
    while let Some(piece) = queue.blocking_recv() {
        hashing.write_all(&piece)?;
        growing.grown(piece.len() as u64);
    }
    let (digest, _, _) = hashing.finish();
    Ok((digest, growing))
}

/// Brings every missing byte into the queue. Answers who sent the last.
async fn gather(
    sessions: &[Session<'_>],
    first: usize,
    blob: &Blob<'_>,
    have: u64,
    queue: &mpsc::Sender<Bytes>,
    tell: &Tell<'_>,
) -> Result<usize, DownloadError> {
    let mut at = have;
    let mut failures = Vec::new();
    for (source, session) in sessions.iter().enumerate().skip(first) {
        let mut tries = session.tries();
        while at < blob.size {
            let before = at;
            let error = match stretch(session, blob, &mut at, queue, tell).await {
                Ok(Stretch::Sent) if at < blob.size => {
                    RequestError::Truncated { had: at, of: blob.size.to_string(), reason: None }
                }
                Ok(Stretch::Sent) => break,
                // The writer failed and says why.
                Ok(Stretch::Unwanted) => return Ok(source),
                Err(error) => error,
            };
            if at > before {
                tries.progressed();
            }
            match tries.after(error.kind(true), rand::random()) {
                Some(wait) => {
                    tell(Progress::Retrying { digest: blob.digest.clone(), why: chain(&error), wait });
                    tokio::time::sleep(wait).await;
                }
                None => {
                    let registry = session.registry().to_owned();
                    failures.push(RegistryError { registry, what: format!("layer {}", blob.digest), source: error });
                    break;
                }
            }
        }
        if at >= blob.size {
            return Ok(source);
        }
    }
    Err(DownloadError::Registries(failures))
}

/// How far one answer brought us.
enum Stretch {
    /// All that it had is in the queue.
    Sent,
    /// Nobody takes from the queue any more.
    Unwanted,
}

/// Asks once, from where we are, and queues what comes.
async fn stretch(
    session: &Session<'_>,
    blob: &Blob<'_>,
    at: &mut u64,
    queue: &mpsc::Sender<Bytes>,
    tell: &Tell<'_>,
) -> Result<Stretch, RequestError> {
    let from = (*at > 0).then_some(*at);
    let wish = Wish { method: Method::GET, rest: format!("blobs/{}", blob.digest), accept: None, from };
    let answer = session.ask(&wish).await?;
    // A registry that knows no ranges sends all: what we have of it is passed over. The digest tells whether it fits.
    let mut over = match answer.status() == StatusCode::PARTIAL_CONTENT {
        true => {
            begins_at(&answer, *at)?;
            0
        }
        false => *at,
    };
    let mut pieces = Pieces::new(answer, session.stall());
    while let Some(mut piece) = pieces.next().await? {
        let passed = usize::try_from(over).map_or(piece.len(), |over| over.min(piece.len()));
        over -= passed as u64;
        let piece = piece.split_off(passed);
        if piece.is_empty() {
            continue;
        }
        let length = piece.len() as u64;
        if *at + length > blob.size {
            return Err(RequestError::TooLarge { limit: blob.size });
        }
        if queue.send(piece).await.is_err() {
            return Ok(Stretch::Unwanted);
        }
        *at += length;
        tell(Progress::Downloaded { digest: blob.digest.clone(), have: *at, of: blob.size });
    }
    Ok(Stretch::Sent)
}

/// Whether a partial answer begins where it was asked to; RFC 9110, section 14.4.
fn begins_at(answer: &Response<Incoming>, at: u64) -> Result<(), RequestError> {
    let text = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = text.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse::<u64>().ok());
    match first == Some(at) {
        true => Ok(()),
        false => Err(RequestError::Malformed(format!("asked for bytes from {at}, the answer has the range {text:?}"))),
    }
}
