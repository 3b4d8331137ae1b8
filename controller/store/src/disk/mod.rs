//! The disk driver: a journal in segments, one sequential write and one `fdatasync` for each group of commits.
//!
//! All reads are served from memory; the files are read once, at start. Segments whose entries were mostly
//! overwritten are merged beside the writer, so the files follow live data. See `docs/decisions/` for why this is
//! not a kept engine, and `open` for how damage is told from a write that a crash tore.

mod choose;
mod frame;
mod identity;
mod merge;
mod open;
mod segment;

use std::fs::{DirBuilder, File};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::choose::Weight;
use crate::disk::frame::{FrameBuilder, HEADER as FRAME_HEADER, MAX_BODY, entry_size};
use crate::disk::merge::{Job, Merged, Merger, Source};
use crate::disk::segment::{HEADER, Header, Kind, Span, corrupt, create_journal, io_error};
use crate::driver::{Driver, DriverError, Live, Loaded, Replaced, Size, Write};
use crate::model::Revision;

/// How files are cut.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Bytes that a journal segment reserves; a group that needs more gets a segment of its own size.
    segment: u64,
    /// Bytes that may be dead before anything is merged.
    slack: u64,
}

const SIZES: Sizes = Sizes { segment: 32 << 20, slack: 64 << 20 };

/// A segment that is no longer written.
#[derive(Debug)]
struct Sealed {
    kind: Kind,
    span: Span,
    /// The last revision before it, and its own last.
    base: Revision,
    revision: Revision,
    weight: Weight,
}

/// The segment that is written; `weight.bytes` is where the next frame goes.
#[derive(Debug)]
struct Active {
    file: File,
    header: Header,
    frames: u64,
    weight: Weight,
    /// A write failed: what lies behind the last durable frame is unknown and must never be read.
    broken: bool,
}

/// The state in one directory, owned by one process.
pub struct Disk {
    dir: PathBuf,
    salt: u64,
    sizes: Sizes,
    sealed: Vec<Sealed>,
    /// `None` until `load`.
    active: Option<Active>,
    revision: Revision,
    frame: FrameBuilder,
    /// Room that the group which failed last would have needed.
    lacking: u64,
    live: Option<Arc<dyn Live>>,
    merger: Option<Merger>,
    /// After a failed merge, how large the files must be before the next.
    merge_above: u64,
    /// Freed last: nobody else may come in before everything above is closed.
    _lock: identity::Lock,
}

impl Disk {
    /// Opens or creates the store in `path`; only its owner can read a directory made here.
    pub fn open(path: &Path) -> Result<Self, DriverError> {
        Self::open_with(path, SIZES)
    }

    fn open_with(path: &Path, sizes: Sizes) -> Result<Self, DriverError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| io_error(path, "creating the directory", source))?;
        let lock = identity::lock(path)?;
        let salt = open::identify(path, sizes)?;
        Ok(Self {
            dir: path.into(),
            salt,
            sizes,
            sealed: Vec::new(),
            active: None,
            revision: Revision::EMPTY,
            frame: FrameBuilder::default(),
            lacking: 0,
            live: None,
            merger: None,
            merge_above: 0,
            _lock: lock,
        })
    }

    /// Makes sure that `size` bytes fit behind the last frame, in a new segment if need be.
    fn make_room(&mut self, size: u64) -> Result<(), DriverError> {
        let Some(active) = &self.active else { return Err(not_loaded(&self.dir)) };
        if !active.broken && active.weight.bytes + size <= active.header.end {
            return Ok(());
        }
        let capacity = self.sizes.segment.max(HEADER + size);
        let old = &active.header;
        // A segment without frames is made again under its own number: nobody refers to it yet.
        let header = if active.frames == 0 {
            Header { end: capacity, ..*old }
        } else {
            Header {
                kind: Kind::Journal,
                span: Span::one(old.span.last + 1),
                predecessor_end: active.weight.bytes,
                end: capacity,
                base: self.revision,
            }
        };
        let made = create_journal(&self.dir, &header, self.salt, capacity);
        // A segment that may have its name says where this one ends: nothing may be appended here any more.
        let file = made.inspect_err(|_| self.give_up_active())?;
        let weight = Weight { bytes: HEADER, ..Weight::default() };
        let old = self.active.replace(Active { file, header, frames: 0, weight, broken: false });
        if let Some(old) = old.filter(|old| old.frames > 0) {
            self.seal(old);
        }
        self.consider_merging();
        self.keep_pace();
        Ok(())
    }

    fn give_up_active(&mut self) {
        if let Some(active) = &mut self.active {
            active.broken = true;
        }
    }

    fn seal(&mut self, old: Active) {
        // Gives back what was reserved and not used; only space is lost when it fails.
        if let Err(error) = old.file.set_len(old.weight.bytes) {
            tracing::debug!(%error, "a sealed segment keeps its reserved space");
        }
        let (span, base) = (old.header.span, old.header.base);
        self.sealed.push(Sealed { kind: Kind::Journal, span, base, revision: self.revision, weight: old.weight });
    }

    fn write_frame(&mut self, revision: Revision) -> Result<(), DriverError> {
        let Some(active) = &mut self.active else { return Err(not_loaded(&self.dir)) };
        let bytes = self.frame.finish(active.header.span.last, active.frames, revision, self.salt);
        let written = active.file.write_all_at(bytes, active.weight.bytes).and_then(|()| active.file.sync_data());
        if let Err(source) = written {
            active.broken = true;
            return Err(io_error(&self.dir, "writing a group of commits", source));
        }
        active.weight.bytes += bytes.len() as u64;
        active.frames += 1;
        self.revision = revision;
        Ok(())
    }

    /// Keeps the books: what each segment holds that still counts.
    fn account(&mut self, writes: &[Write]) {
        let Some(active) = &mut self.active else { return };
        for write in writes {
            let (key, previous) = match write {
                Write::Put { kv, previous, .. } => {
                    active.weight.live += entry_size(kv.key.len(), kv.value.len()) as u64;
                    (&kv.key, previous)
                }
                Write::Delete { key, previous, .. } => {
                    active.weight.deletions += entry_size(key.len(), 0) as u64;
                    (key, previous)
                }
            };
            let Some(Replaced { revision, value_length }) = *previous else { continue };
            let place = self.sealed.partition_point(|segment| segment.base < revision);
            let weight = match place.checked_sub(1).and_then(|place| self.sealed.get_mut(place)) {
                Some(segment) if revision <= active.header.base => &mut segment.weight,
                _ => &mut active.weight,
            };
            weight.live = weight.live.saturating_sub(entry_size(key.len(), value_length) as u64);
        }
    }

    /// Takes note of a merge that ended.
    fn adopt_merged(&mut self) {
        let outcome = self.merger.as_mut().and_then(Merger::outcome);
        self.adopt(outcome);
    }

    /// Lets writers wait for a merge that falls too far behind them, once for each new segment.
    fn keep_pace(&mut self) {
        if choose::is_far_over(self.bytes(), self.live_bytes(), self.sizes.slack) {
            let outcome = self.merger.as_mut().and_then(Merger::wait);
            self.adopt(outcome);
        }
    }

    fn adopt(&mut self, outcome: Option<Result<Merged, DriverError>>) {
        match outcome {
            None => return,
            Some(Ok(merged)) => self.replace_sources(merged),
            Some(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "merging segments failed, the files grow");
                self.merge_above = self.bytes() + self.sizes.segment;
            }
        }
        self.consider_merging();
    }

    fn replace_sources(&mut self, merged: Merged) {
        let first = self.sealed.partition_point(|segment| segment.span.last < merged.span.first);
        let after = self.sealed.partition_point(|segment| segment.span.first <= merged.span.last);
        let sources = self.sealed.get(first..after).unwrap_or_default();
        let (Some(oldest), Some(newest)) = (sources.first(), sources.last()) else { return };
        let weight = Weight {
            bytes: merged.end,
            // What the sources' books say now: keys overwritten while the merge ran are counted off already.
            live: sources.iter().map(|source| source.weight.live).sum(),
            deletions: merged.deletions,
        };
        let (base, revision) = (oldest.base, newest.revision);
        let merged = Sealed { kind: Kind::Merged, span: merged.span, base, revision, weight };
        self.sealed.splice(first..after, [merged]);
    }

    fn bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.weight.bytes);
        self.sealed.iter().map(|segment| segment.weight.bytes).sum::<u64>() + active
    }

    fn live_bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.weight.live);
        self.sealed.iter().map(|segment| segment.weight.live).sum::<u64>() + active
    }

    fn consider_merging(&mut self) {
        let (bytes, live) = (self.bytes(), self.live_bytes());
        let busy = self.merger.as_ref().is_some_and(Merger::is_busy);
        if busy || bytes < self.merge_above || !choose::is_over(bytes, live, self.sizes.slack) {
            return;
        }
        let weights: Vec<Weight> = self.sealed.iter().map(|segment| segment.weight).collect();
        let (Some(range), Some(live)) = (choose::choose(&weights), &self.live) else { return };
        let Some(job) = self.job(range) else { return };
        // The thread is made when it is first needed: most stores stay small.
        match self.merger.take().map_or_else(|| Merger::start(&self.dir, Arc::clone(live)), Ok) {
            Ok(mut merger) => {
                merger.submit(job);
                self.merger = Some(merger);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no thread to merge segments");
                self.merge_above = bytes + self.sizes.segment;
            }
        }
    }

    fn job(&self, range: Range<usize>) -> Option<Job> {
        let from_oldest = range.start == 0;
        let sources = self.sealed.get(range)?;
        let source = |segment: &Sealed| Source { kind: segment.kind, span: segment.span, end: segment.weight.bytes };
        Some(Job {
            dir: self.dir.clone(),
            salt: self.salt,
            sources: sources.iter().map(source).collect(),
            base: sources.first()?.base,
            revision: sources.last()?.revision,
            from_oldest,
        })
    }
}

fn not_loaded(dir: &Path) -> DriverError {
    corrupt(dir, "it was not loaded before it was written".into())
}

impl Driver for Disk {
    fn load(&mut self) -> Result<Loaded, DriverError> {
        let opened = open::load(&self.dir, self.salt)?;
        self.sealed = opened.sealed;
        self.active = Some(opened.active);
        self.revision = opened.loaded.revision;
        Ok(opened.loaded)
    }

    fn attach(&mut self, live: Arc<dyn Live>) {
        self.live = Some(live);
    }

    /// Space is reserved a segment at a time, so a full disk fails here before anything of the group is written.
    /// When the write itself fails, nobody knows what the disk holds: the segment is given up where its last
    /// durable frame ends, and the header of the next one says so.
    fn persist(&mut self, writes: Vec<Write>, revision: Revision) -> Result<(), DriverError> {
        self.adopt_merged();
        self.frame.clear();
        for write in &writes {
            self.frame.push(write);
        }
        if self.frame.body_length() > MAX_BODY {
            let source = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
            return Err(io_error(&self.dir, "writing a group of commits of more than 256 MiB", source));
        }
        self.lacking = self.frame.size() as u64;
        self.make_room(self.lacking)?;
        self.write_frame(revision)?;
        self.account(&writes);
        Ok(())
    }

    fn size(&self) -> Size {
        Size { written: self.bytes(), live: self.live_bytes() }
    }

    fn recover(&mut self) -> Result<(), DriverError> {
        self.make_room(self.lacking)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // An empty frame proves that the one before it was acknowledged: damage to that one is not taken for a
        // torn write at the next start. Without it nothing is lost.
        let fits = |active: &Active| {
            !active.broken && active.frames > 0 && active.weight.bytes + FRAME_HEADER as u64 <= active.header.end
        };
        if self.active.as_ref().is_some_and(fits) {
            self.frame.clear();
            if let Err(error) = self.write_frame(self.revision) {
                tracing::debug!(error = &error as &dyn std::error::Error, "the store was not marked as closed");
            }
        }
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod merge_tests;
#[cfg(test)]
mod tests;
