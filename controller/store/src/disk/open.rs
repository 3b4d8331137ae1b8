//! From the files of a directory to what they hold.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::disk::choose::Weight;
use crate::disk::frame::{Kind as EntryKind, entry_size};
use crate::disk::identity;
use crate::disk::segment::{
    End, Header, Kind, Segment, Span, corrupt, create_journal, file_name, io_error, parse_file_name,
};
use crate::disk::{Active, Sealed, Sizes};
use crate::driver::{DriverError, Expiry, Loaded};
use crate::model::{KeyValue, Revision};

/// Everything that a directory held.
pub(super) struct Opened {
    pub(super) loaded: Loaded,
    pub(super) sealed: Vec<Sealed>,
    pub(super) active: Active,
}

/// The salt of the store in `dir`, which is made if nothing is there.
pub(super) fn identify(dir: &Path, sizes: Sizes) -> Result<u64, DriverError> {
    if let Some(salt) = identity::read(dir)? {
        return Ok(salt);
    }
    let first = Header {
        kind: Kind::Journal,
        span: Span::one(1),
        predecessor_end: 0,
        end: sizes.segment,
        base: Revision::EMPTY,
    };
    for name in names(dir)? {
        let path = dir.join(&name);
        match parse_file_name(&name) {
            // Making a store was interrupted between its first segment and its identity.
            Some((Kind::Journal, span)) if span == first.span => {
                match Segment::is_blank(&path).map_err(|source| io_error(&path, "reading a segment", source))? {
                    true => continue,
                    false => return Err(corrupt(&dir.join(identity::FILE), "it is missing".into())),
                }
            }
            Some(_) => return Err(corrupt(&dir.join(identity::FILE), "it is missing".into())),
            None => {
                let found = format!("unknown, beginning with the file {name}");
                return Err(DriverError::Format { path: dir.into(), found, expected: identity::FORMAT });
            }
        }
    }
    let salt = rand::random();
    // The identity comes last: where there is one, a missing first segment is damage.
    create_journal(dir, &first, salt, sizes.segment)?;
    identity::write(dir, salt)?;
    Ok(salt)
}

/// The names in `dir` that matter, after what an interrupted step left unnamed is removed.
fn names(dir: &Path) -> Result<Vec<String>, DriverError> {
    let failed = |source| io_error(dir, "listing it", source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        match &*name {
            identity::FILE | identity::LOCK => {}
            "identity.tmp" | "journal.tmp" | "merged.tmp" => std::fs::remove_file(dir.join(&name)).map_err(failed)?,
            _ => names.push(name),
        }
    }
    names.sort();
    Ok(names)
}

type Named = (Kind, Span);

/// Chooses the files that together hold every number once, in order, and those that others replace.
/// Fails with the first number that is missing.
fn cover(mut files: Vec<Named>) -> Result<(Vec<Named>, Vec<Named>), u64> {
    // The longest span first: a merged file stands for what it was made from.
    files.sort_by_key(|(kind, span)| (span.first, std::cmp::Reverse(span.last), *kind == Kind::Journal));
    let (mut chosen, mut replaced) = (Vec::<(Kind, Span)>::new(), Vec::new());
    for (kind, span) in files {
        let last = chosen.last().map_or(0, |(_, span)| span.last);
        if chosen.last().is_some_and(|(_, wide)| wide.covers(span)) {
            replaced.push((kind, span));
        } else if span.first == last + 1 {
            chosen.push((kind, span));
        } else {
            return Err(last + 1);
        }
    }
    match chosen.last() {
        Some((Kind::Journal, _)) => Ok((chosen, replaced)),
        // Merging never takes the newest segment.
        Some((Kind::Merged, span)) => Err(span.last + 1),
        None => Err(1),
    }
}

/// Reads every segment.
pub(super) fn load(dir: &Path, salt: u64) -> Result<Opened, DriverError> {
    let files = names(dir)?.iter().filter_map(|name| parse_file_name(name)).collect();
    let (chosen, replaced) = cover(files).map_err(|number| corrupt(dir, format!("segment {number} is missing")))?;
    let segments = chosen
        .iter()
        .map(|(kind, span)| Segment::open(&dir.join(file_name(*kind, *span)), *kind, *span, salt))
        .collect::<Result<Vec<_>, _>>()?;
    let mut entries = HashMap::<Bytes, (KeyValue, Option<Expiry>)>::new();
    let mut sealed = Vec::with_capacity(segments.len());
    let mut revision = Revision::EMPTY;
    let mut newest = None;
    for (place, segment) in segments.iter().enumerate() {
        let end = match (segment.header.kind, segments.get(place + 1)) {
            (Kind::Merged, _) => End::At(segment.header.end),
            (Kind::Journal, Some(next)) => End::At(next.header.predecessor_end),
            (Kind::Journal, None) => End::Torn,
        };
        let base = segment.header.base;
        if base < revision {
            let what = format!("it begins after revision {base}, the segment before it ends at {revision}");
            return Err(corrupt(&segment.path, what));
        }
        let mut weight = Weight::default();
        let read = segment.read(end, &mut |_, entry| {
            match entry.kind {
                EntryKind::Put => {
                    let kv = entry.key_value();
                    drop(entries.insert(kv.key.clone(), (kv, entry.expiry)));
                }
                EntryKind::Delete => {
                    weight.deletions += entry.size() as u64;
                    entries.remove(entry.key);
                }
            }
            Ok(())
        })?;
        weight.bytes = read.end;
        revision = read.revision.unwrap_or(base);
        sealed.push(Sealed { kind: segment.header.kind, span: segment.header.span, base, revision, weight });
        newest = Some((segment, read));
    }
    let (segment, read) = newest.ok_or_else(|| corrupt(dir, "segment 1 is missing".into()))?;
    segment.sync()?;
    let entries: Vec<_> = entries.into_values().collect();
    for (kv, _) in &entries {
        let place = sealed.partition_point(|segment| segment.base < kv.mod_revision);
        if let Some(segment) = place.checked_sub(1).and_then(|place| sealed.get_mut(place)) {
            segment.weight.live += entry_size(kv.key.len(), kv.value.len()) as u64;
        }
    }
    let weight = sealed.pop().map(|segment| segment.weight).unwrap_or_default();
    let file = File::options().write(true).open(&segment.path);
    let file = file.map_err(|source| io_error(&segment.path, "opening the newest segment to go on", source))?;
    let active = Active { file, header: segment.header, frames: read.frames, weight, broken: false };
    for (kind, span) in replaced {
        let path = dir.join(file_name(kind, span));
        std::fs::remove_file(&path).map_err(|source| io_error(&path, "removing a replaced segment", source))?;
    }
    Ok(Opened { loaded: Loaded { revision, entries }, sealed, active })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(number: u64) -> (Kind, Span) {
        (Kind::Journal, Span::one(number))
    }

    fn merged(first: u64, last: u64) -> (Kind, Span) {
        (Kind::Merged, Span { first, last })
    }

    #[test]
    fn a_merged_file_stands_for_its_sources() {
        let files = vec![journal(1), journal(2), merged(1, 1), merged(1, 2), journal(3)];
        let (chosen, replaced) = cover(files).unwrap();
        assert_eq!(chosen, [merged(1, 2), journal(3)]);
        assert_eq!(replaced.len(), 3);
    }

    #[test]
    fn a_missing_segment_is_named() {
        assert_eq!(cover(vec![]).unwrap_err(), 1);
        assert_eq!(cover(vec![journal(2)]).unwrap_err(), 1);
        assert_eq!(cover(vec![journal(1), journal(3)]).unwrap_err(), 2);
        assert_eq!(cover(vec![merged(1, 2)]).unwrap_err(), 3);
        assert_eq!(cover(vec![merged(1, 2), merged(2, 3), journal(4)]).unwrap_err(), 3);
    }
}
