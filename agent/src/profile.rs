//! A CPU profile of this process as `pprof` reads it (github.com/google/pprof, proto/profile.proto), gzip'd.
//! Addresses only: the program may be stripped. The build id says which symbols fit.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_sys::profile::{Profile, Stacks};
use flate2::Compression;
use flate2::write::GzEncoder;

/// CPU time between two samples; what Go's profiler takes as well.
const INTERVAL: Duration = Duration::from_millis(10);

/// Room for so many addresses per second and processor: as many samples as come at most, at half their greatest depth.
const WORDS: usize = 100 * agent_sys::profile::DEPTH / 2;

/// Room at most, on machines of many processors: 64 MiB.
const MOST_WORDS: usize = 8 << 20;

/// A profile that is being taken.
#[derive(Debug)]
pub struct Running {
    profile: Profile,
    since: SystemTime,
}

impl Running {
    /// Starts one that is to take as long as said; [`io::ErrorKind::ResourceBusy`] while another is taken.
    pub fn start(length: Duration) -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let words = WORDS * processors * (length.as_secs() as usize + 1);
        Ok(Self { profile: Profile::start(INTERVAL, words.min(MOST_WORDS))?, since: SystemTime::now() })
    }

    /// Ends it and writes it down.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        let took = self.since.elapsed().unwrap_or_default();
        let stacks = self.profile.stop();
        let program = Program { maps: std::fs::read_to_string("/proc/self/maps")?, build_id: build_id() };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&message(&stacks, &program, self.since, took))?;
        gzip.finish()
    }
}

/// What addresses are told by.
struct Program {
    /// `/proc/self/maps`.
    maps: String,
    /// In hex; empty where the program has none.
    build_id: String,
}

/// Bytes of a protobuf message (protobuf.dev, "Encoding").
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) -> &mut Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn packed(&mut self, field: u64, values: &[u64]) -> &mut Self {
        let mut inner = Self::default();
        values.iter().for_each(|value| inner.varint(*value));
        self.bytes(field, &inner.0)
    }
}

/// Texts by their index; the first is the empty one.
struct Texts(Vec<String>);

impl Texts {
    fn index(&mut self, text: &str) -> u64 {
        let at = self.0.iter().position(|known| known == text).unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        at as u64
    }
}

/// A piece of the address space that holds code.
struct Mapping<'a> {
    start: u64,
    end: u64,
    offset: u64,
    file: &'a str,
}

/// The executable lines of `/proc/PID/maps` (proc_pid_maps(5)).
fn mappings(maps: &str) -> Vec<Mapping<'_>> {
    let parse = |line| {
        let mut rest = str::splitn(line, 6, ' ');
        let (start, end) = rest.next()?.split_once('-')?;
        let (flags, offset) = (rest.next()?, rest.next()?);
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let file = rest.nth(2).unwrap_or_default().trim();
        flags.contains('x').then_some(Mapping { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, file })
    };
    maps.lines().filter_map(parse).collect()
}

fn message(stacks: &Stacks, program: &Program, since: SystemTime, took: Duration) -> Vec<u8> {
    let mut texts = Texts(vec![String::new()]);
    let mut profile = Message::default();
    let mut value_type = |kind: &str, unit: &str| {
        let mut message = Message::default();
        message.number(1, texts.index(kind)).number(2, texts.index(unit));
        message.0
    };
    let (samples, cpu) = (value_type("samples", "count"), value_type("cpu", "nanoseconds"));
    profile.bytes(1, &samples).bytes(1, &cpu);

    let mut counts: BTreeMap<&[u64], u64> = BTreeMap::new();
    for stack in &stacks.stacks {
        *counts.entry(stack).or_default() += 1;
    }
    let mut locations: BTreeMap<u64, u64> = BTreeMap::new();
    let interval = nanos(INTERVAL);
    for (stack, count) in counts {
        let mut id = |address: &u64| {
            let next = locations.len() as u64 + 1;
            *locations.entry(*address).or_insert(next)
        };
        let ids: Vec<u64> = stack.iter().map(&mut id).collect();
        let mut sample = Message::default();
        sample.packed(1, &ids).packed(2, &[count, count * interval]);
        profile.bytes(2, &sample.0);
    }

    let mappings = mappings(&program.maps);
    for (mapping, id) in mappings.iter().zip(1..) {
        let is_file = mapping.file.starts_with('/');
        let mut message = Message::default();
        message.number(1, id).number(2, mapping.start).number(3, mapping.end).number(4, mapping.offset);
        message.number(5, texts.index(mapping.file));
        if is_file {
            message.number(6, texts.index(&program.build_id));
        }
        profile.bytes(3, &message.0);
    }
    for (address, id) in locations {
        let at = mappings.iter().position(|mapping| (mapping.start..mapping.end).contains(&address));
        let mut location = Message::default();
        location.number(1, id).number(2, at.map_or(0, |at| at as u64 + 1)).number(3, address);
        profile.bytes(4, &location.0);
    }

    let comment = (stacks.lost > 0).then(|| texts.index(&format!("{} samples had no room", stacks.lost)));
    for text in &texts.0 {
        profile.bytes(6, text.as_bytes());
    }
    profile.number(9, nanos(since.duration_since(UNIX_EPOCH).unwrap_or_default())).number(10, nanos(took));
    profile.bytes(11, &cpu).number(12, interval);
    if let Some(comment) = comment {
        profile.number(13, comment);
    }
    profile.0
}

/// Until the year 2554.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What the linker called this program, in hex; empty where it said nothing.
fn build_id() -> String {
    use std::io::Read as _;
    let mut head = Vec::new();
    // Notes come first in a program.
    let read = std::fs::File::open("/proc/self/exe").and_then(|file| file.take(64 << 10).read_to_end(&mut head));
    read.ok().and_then(|_| build_id_in(&head)).map(hex::encode).unwrap_or_default()
}

/// The note `NT_GNU_BUILD_ID` (3) of `GNU` in the head of a 64-bit little-endian program (elf(5)).
fn build_id_in(program: &[u8]) -> Option<&[u8]> {
    const NOTE: u64 = 4;
    let number = |at: usize, size: usize| {
        let bytes = program.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let place = |at, size| number(at, size).and_then(|value| usize::try_from(value).ok());
    program.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let (headers, size, count) = (place(0x20, 8)?, place(0x36, 2)?, place(0x38, 2)?);
    for index in 0..count {
        let header = headers.checked_add(index * size)?;
        if number(header, 4)? != NOTE {
            continue;
        }
        let (mut at, length) = (place(header.checked_add(8)?, 8)?, place(header.checked_add(32)?, 8)?);
        let end = at.checked_add(length)?;
        while at < end {
            let (name, content) = (place(at, 4)?, place(at + 4, 4)?);
            let kind = number(at + 8, 4)?;
            let start = (at + 12).checked_add(name.checked_next_multiple_of(4)?)?;
            let after = start.checked_add(content)?;
            if kind == 3 && program.get(at + 12..at + 16)? == b"GNU\0" {
                return program.get(start..after);
            }
            at = after.checked_next_multiple_of(4)?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "00400000-00500000 r--p 00000000 08:01 12 /usr/bin/gantry\n\
        00500000-00900000 r-xp 00100000 08:01 12                         /usr/bin/gantry\n\
        7ffc0000-7ffc1000 r-xp 00000000 00:00 0                          [vdso]\n";

    #[test]
    fn a_profile_is_told_as_the_field_reads_it() {
        let stacks = Stacks { stacks: vec![vec![0x500010, 0x500020], vec![0x500010, 0x500020], vec![9]], lost: 0 };
        let program = Program { maps: MAPS.into(), build_id: "ab".into() };
        let at = UNIX_EPOCH + Duration::from_nanos(5);
        // Written by hand from profile.proto: types, samples, mappings, locations, texts, the rest.
        let expected: &[&[u8]] = &[
            b"\x0a\x04\x08\x01\x10\x02\x0a\x04\x08\x03\x10\x04",
            b"\x12\x0a\x0a\x01\x01\x12\x05\x01\x80\xad\xe2\x04",
            b"\x12\x0b\x0a\x02\x02\x03\x12\x05\x02\x80\xda\xc4\x09",
            b"\x1a\x14\x08\x01\x10\x80\x80\xc0\x02\x18\x80\x80\xc0\x04\x20\x80\x80\x40\x28\x05\x30\x06",
            b"\x1a\x12\x08\x02\x10\x80\x80\xf0\xff\x07\x18\x80\xa0\xf0\xff\x07\x20\x00\x28\x07",
            b"\x22\x06\x08\x01\x10\x00\x18\x09",
            b"\x22\x09\x08\x02\x10\x01\x18\x90\x80\xc0\x02",
            b"\x22\x09\x08\x03\x10\x01\x18\xa0\x80\xc0\x02",
            b"\x32\x00\x32\x07samples\x32\x05count\x32\x03cpu\x32\x0bnanoseconds\x32\x0f/usr/bin/gantry\x32\x02ab\x32\x06[vdso]",
            b"\x48\x05\x50\x07\x5a\x04\x08\x03\x10\x04\x60\x80\xad\xe2\x04",
        ];
        let message = message(&stacks, &program, at, Duration::from_nanos(7));
        assert_eq!(message.escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
    }

    #[test]
    fn a_build_id_is_found_and_damage_is_none() {
        let mut program = vec![0; 0x40];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[0x20], program[0x36], program[0x38]) = (0x40, 56, 1);
        let mut header = [0; 56];
        (header[0], header[8], header[32]) = (4, 0x78, 36);
        program.extend(header);
        // Another's note first.
        program.extend(b"\x04\0\0\0\0\0\0\0\x01\0\0\0GNU\0");
        program.extend(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0\x01\x02\x03\x04");
        assert_eq!(build_id_in(&program), Some(&[1, 2, 3, 4][..]));
        for length in 0..program.len() {
            assert_eq!(build_id_in(&program[..length]), None, "{length}");
        }
        program[0x20..0x28].fill(0xff);
        assert_eq!(build_id_in(&program), None);
    }
}
