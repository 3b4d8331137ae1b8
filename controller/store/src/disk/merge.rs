//! Merging: what still counts of a run of sealed segments goes into one file that takes their place. It runs on a
//! thread of its own beside the writer, which learns of the outcome at its next group.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use crate::disk::frame::{Entry, FrameBuilder, Kind as EntryKind};
use crate::disk::segment::{
    End, HEADER, Header, Kind, Segment, Span, create_file, file_name, io_error, sync_directory,
};
use crate::driver::{DriverError, Live};
use crate::model::Revision;

/// Frames of a merged segment are about this large.
const FRAME: usize = 1 << 20;
/// How much is written before it is synced: the writer's own syncs must not wait for a heap of dirty pages.
const SYNC_EVERY: u64 = 4 << 20;

/// One sealed segment as a source.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) kind: Kind,
    pub(super) span: Span,
    pub(super) end: u64,
}

/// A run of neighbours to merge.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) dir: PathBuf,
    pub(super) salt: u64,
    pub(super) sources: Vec<Source>,
    pub(super) base: Revision,
    /// The last revision of the newest source.
    pub(super) revision: Revision,
    /// Nothing older than the sources exists, so deletions cover nothing.
    pub(super) from_oldest: bool,
}

/// What a merge left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) span: Span,
    pub(super) end: u64,
    pub(super) deletions: u64,
}

/// The thread that merges, one job at a time.
pub(super) struct Merger {
    jobs: Option<SyncSender<Job>>,
    outcomes: Receiver<Result<Merged, DriverError>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

impl Merger {
    /// Starts the thread.
    pub(super) fn start(dir: &Path, live: Arc<dyn Live>) -> Result<Self, DriverError> {
        let (jobs, incoming) = sync_channel::<Job>(1);
        let (outgoing, outcomes) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            for job in incoming {
                let outcome = merge(&job, &*live, &stopped);
                if outgoing.send(outcome).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("store-merge".into())
            .spawn(work)
            .map_err(|source| io_error(dir, "starting the merging thread", source))?;
        Ok(Self { jobs: Some(jobs), outcomes, stop, thread: Some(thread), busy: false })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands over a job; call it only when not busy.
    pub(super) fn submit(&mut self, job: Job) {
        self.busy = self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok());
    }

    /// Waits for the outcome of the job; `None` when there is no job.
    pub(super) fn wait(&mut self) -> Option<Result<Merged, DriverError>> {
        if !std::mem::take(&mut self.busy) {
            return None;
        }
        self.outcomes.recv().ok()
    }

    /// The outcome of the job, once there is one.
    pub(super) fn outcome(&mut self) -> Option<Result<Merged, DriverError>> {
        if !self.busy {
            return None;
        }
        match self.outcomes.try_recv() {
            Ok(outcome) => {
                self.busy = false;
                Some(outcome)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Does a job: when it returns, the merged segment has its name and stands for its sources.
pub(super) fn merge(job: &Job, live: &dyn Live, stop: &AtomicBool) -> Result<Merged, DriverError> {
    let span = Span {
        first: job.sources.first().map_or(0, |source| source.span.first),
        last: job.sources.last().map_or(0, |source| source.span.last),
    };
    let unnamed = job.dir.join("merged.tmp");
    let name = job.dir.join(file_name(Kind::Merged, span));
    let written = write_merged(job, span, live, stop, &unnamed).and_then(|merged| {
        std::fs::rename(&unnamed, &name)
            .and_then(|()| sync_directory(&job.dir))
            .map_err(|source| io_error(&name, "naming a merged segment", source))
            .map(|()| merged)
    });
    if written.is_err() {
        drop(std::fs::remove_file(&unnamed));
    }
    let merged = written?;
    for source in &job.sources {
        let path = job.dir.join(file_name(source.kind, source.span));
        // A merge of one merged segment has its name; what cannot be removed is removed at the next start.
        if path != name
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a merged segment's source stays for now");
        }
    }
    Ok(merged)
}

fn write_merged(job: &Job, span: Span, live: &dyn Live, stop: &AtomicBool, path: &Path) -> Result<Merged, DriverError> {
    let failed = |source| io_error(path, "merging segments", source);
    let file = create_file(path).map_err(failed)?;
    let mut output = Output {
        path,
        file,
        salt: job.salt,
        span,
        end: HEADER,
        synced: HEADER,
        frames: 0,
        frame: FrameBuilder::default(),
    };
    output.frame.clear();
    let (mut deletions, mut predecessor_end) = (0, 0);
    for (place, source) in job.sources.iter().enumerate() {
        let segment =
            Segment::open(&job.dir.join(file_name(source.kind, source.span)), source.kind, source.span, job.salt)?;
        if place == 0 {
            predecessor_end = segment.header.predecessor_end;
        }
        segment.read(End::At(source.end), &mut |frame, entry| {
            if stop.load(Ordering::Relaxed) {
                return Err(failed(std::io::ErrorKind::Interrupted.into()));
            }
            if still_counts(&entry, live, job.from_oldest) {
                if entry.kind == EntryKind::Delete {
                    deletions += entry.size() as u64;
                }
                output.push(&entry, frame.revision)?;
            }
            Ok(())
        })?;
    }
    output.write_frame(job.revision)?;
    let header = Header { kind: Kind::Merged, span, predecessor_end, end: output.end, base: job.base };
    output.file.write_all_at(&header.encode(job.salt), 0).and_then(|()| output.file.sync_all()).map_err(failed)?;
    Ok(Merged { span, end: output.end, deletions })
}

/// Whether an entry must be kept: it is the newest of its key, or a deletion that may cover older entries.
fn still_counts(entry: &Entry<'_>, live: &dyn Live, from_oldest: bool) -> bool {
    let newest = live.mod_revision(entry.key);
    match entry.kind {
        EntryKind::Put => newest == Some(entry.mod_revision),
        EntryKind::Delete => !from_oldest && newest.is_none(),
    }
}

struct Output<'a> {
    path: &'a Path,
    file: File,
    salt: u64,
    span: Span,
    end: u64,
    synced: u64,
    frames: u64,
    frame: FrameBuilder,
}

impl Output<'_> {
    fn push(&mut self, entry: &Entry<'_>, revision: Revision) -> Result<(), DriverError> {
        self.frame.push_entry(entry);
        match self.frame.body_length() >= FRAME {
            true => self.write_frame(revision),
            false => Ok(()),
        }
    }

    fn write_frame(&mut self, revision: Revision) -> Result<(), DriverError> {
        let failed = |source| io_error(self.path, "writing a merged segment", source);
        let bytes = self.frame.finish(self.span.last, self.frames, revision, self.salt);
        self.file.write_all_at(bytes, self.end).map_err(failed)?;
        self.end += bytes.len() as u64;
        self.frames += 1;
        self.frame.clear();
        if self.end - self.synced >= SYNC_EVERY {
            self.file.sync_data().map_err(failed)?;
            self.synced = self.end;
        }
        Ok(())
    }
}
