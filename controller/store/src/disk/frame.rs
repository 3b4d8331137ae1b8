//! A frame is one group of commits on the disk: a header, the entries, padding to eight bytes.
//!
//! All integers are little-endian. Both checksums are seeded with the store's salt, which nobody outside knows:
//! a value that looks like a frame is never taken for one. The header has a checksum of its own, so that the
//! search for frames behind damage reads every byte once.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::driver::{Expiry, Write};
use crate::model::{KeyValue, Revision};

/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// magic, segment, sequence, revision: u64; length of the entries, count of entries: u32; checksum of the
/// entries, checksum of the header: u64.
pub(super) const HEADER: usize = 56;
/// A group larger than this is refused: no reader ever allocates more for one frame.
pub(super) const MAX_BODY: usize = 256 << 20;
const MAGIC: [u8; 8] = *b"gantryFr";

/// kind: u8; length of key, length of value: u32; create revision, mod revision, expiry in ms (0: never): u64.
const ENTRY_HEADER: usize = 33;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Where a frame stands and what it holds, without the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The number of the segment that holds it (of a merged one, the last number).
    pub(super) segment: u64,
    /// Its place in the segment, from 0.
    pub(super) sequence: u64,
    /// The last revision of the group.
    pub(super) revision: Revision,
    /// Bytes of entries.
    pub(super) length: usize,
    /// How many entries.
    pub(super) count: u32,
    body_checksum: u64,
}

impl FrameHeader {
    /// Bytes on the disk, padding included.
    pub(super) fn size(&self) -> usize {
        (HEADER + self.length).next_multiple_of(ALIGNMENT)
    }

    /// Reads a header; `None` when these bytes are none of this store.
    pub(super) fn decode(bytes: &[u8; HEADER], salt: u64) -> Option<Self> {
        if bytes[..8] != MAGIC || xxh3_64_with_seed(&bytes[..48], salt) != read_u64(bytes, 48) {
            return None;
        }
        Some(Self {
            segment: read_u64(bytes, 8),
            sequence: read_u64(bytes, 16),
            revision: Revision(read_u64(bytes, 24)),
            length: usize::try_from(read_u32(bytes, 32)).ok().filter(|length| *length <= MAX_BODY)?,
            count: read_u32(bytes, 36),
            body_checksum: read_u64(bytes, 40),
        })
    }

    /// Whether these are the entries that were written.
    pub(super) fn matches(&self, body: &[u8], salt: u64) -> bool {
        xxh3_64_with_seed(body, salt) == self.body_checksum
    }
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// A frame under construction; its buffer is used again and again.
#[derive(Debug, Default)]
pub(super) struct FrameBuilder {
    buffer: Vec<u8>,
    count: u32,
}

impl FrameBuilder {
    /// What the buffer keeps between groups, so that one large group does not hold memory for ever.
    const KEPT: usize = 256 << 10;

    /// Begins an empty frame.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(Self::KEPT);
        self.buffer.resize(HEADER, 0);
        self.count = 0;
    }

    /// Bytes of entries so far.
    pub(super) fn body_length(&self) -> usize {
        self.buffer.len().saturating_sub(HEADER)
    }

    /// Bytes that the finished frame will take.
    pub(super) fn size(&self) -> usize {
        self.buffer.len().next_multiple_of(ALIGNMENT)
    }

    /// Appends one key's change.
    pub(super) fn push(&mut self, write: &Write) {
        let entry = match write {
            Write::Put { kv, expiry, .. } => Entry {
                kind: Kind::Put,
                key: &kv.key,
                value: &kv.value,
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
                expiry: *expiry,
            },
            Write::Delete { key, revision, .. } => Entry {
                kind: Kind::Delete,
                key,
                value: &[],
                create_revision: *revision,
                mod_revision: *revision,
                expiry: None,
            },
        };
        self.push_entry(&entry);
    }

    /// Appends an entry as it was read.
    pub(super) fn push_entry(&mut self, entry: &Entry<'_>) {
        // Keys and values beyond 4 GiB fail at `MAX_BODY` before anything is written.
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.buffer.reserve(entry.size());
        self.buffer.push(match entry.kind {
            Kind::Put => PUT,
            Kind::Delete => DELETE,
        });
        self.buffer.extend_from_slice(&length(entry.key));
        self.buffer.extend_from_slice(&length(entry.value));
        self.buffer.extend_from_slice(&entry.create_revision.0.to_le_bytes());
        self.buffer.extend_from_slice(&entry.mod_revision.0.to_le_bytes());
        self.buffer.extend_from_slice(&entry.expiry.map_or(0, |at| at.0).to_le_bytes());
        self.buffer.extend_from_slice(entry.key);
        self.buffer.extend_from_slice(entry.value);
        self.count += 1;
    }

    /// Fills in the header and gives the bytes to write.
    pub(super) fn finish(&mut self, segment: u64, sequence: u64, revision: Revision, salt: u64) -> &[u8] {
        let length = self.body_length();
        let body_checksum = xxh3_64_with_seed(&self.buffer[HEADER..], salt);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&segment.to_le_bytes());
        header[16..24].copy_from_slice(&sequence.to_le_bytes());
        header[24..32].copy_from_slice(&revision.0.to_le_bytes());
        header[32..36].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        header[36..40].copy_from_slice(&self.count.to_le_bytes());
        header[40..48].copy_from_slice(&body_checksum.to_le_bytes());
        let checksum = xxh3_64_with_seed(&header[..48], salt);
        header[48..].copy_from_slice(&checksum.to_le_bytes());
        self.buffer[..HEADER].copy_from_slice(&header);
        self.buffer.resize(self.buffer.len().next_multiple_of(ALIGNMENT), 0);
        &self.buffer
    }
}

/// What an entry does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Delete,
}

/// One key's change as it lies on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    pub(super) expiry: Option<Expiry>,
}

impl Entry<'_> {
    /// Bytes on the disk.
    pub(super) fn size(&self) -> usize {
        entry_size(self.key.len(), self.value.len())
    }

    /// The key and value that a put holds.
    pub(super) fn key_value(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
        }
    }
}

/// Bytes on the disk of an entry with a key and a value of these lengths.
pub(super) fn entry_size(key: usize, value: usize) -> usize {
    ENTRY_HEADER + key + value
}

/// Takes the next entry off `body`; `None` when what is left is no entry.
pub(super) fn next_entry<'a>(body: &mut &'a [u8]) -> Option<Entry<'a>> {
    let (header, rest) = body.split_first_chunk::<ENTRY_HEADER>()?;
    let kind = match header[0] {
        PUT => Kind::Put,
        DELETE => Kind::Delete,
        _ => return None,
    };
    let length = |at| usize::try_from(read_u32(header, at)).ok();
    let (key, rest) = rest.split_at_checked(length(1)?)?;
    let (value, rest) = rest.split_at_checked(length(5)?)?;
    *body = rest;
    let expiry = read_u64(header, 25);
    Some(Entry {
        kind,
        key,
        value,
        create_revision: Revision(read_u64(header, 9)),
        mod_revision: Revision(read_u64(header, 17)),
        expiry: (expiry != 0).then_some(Expiry(expiry)),
    })
}
