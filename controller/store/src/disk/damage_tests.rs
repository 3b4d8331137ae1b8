//! What a crash, a power loss or a rotten byte leaves, and what the store makes of it.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::KeyValue;

const SIZES: Sizes = Sizes { segment: 2048, slack: 0 };

/// Keys to values.
type State = BTreeMap<Bytes, Bytes>;

fn open(dir: &Path) -> Result<(Disk, Loaded), DriverError> {
    let mut disk = Disk::open_with(dir, SIZES)?;
    let loaded = disk.load()?;
    Ok((disk, loaded))
}

fn state(loaded: &Loaded) -> State {
    loaded.entries.iter().map(|(kv, _)| (kv.key.clone(), kv.value.clone())).collect()
}

/// The state in `dir`, opened as after a crash.
fn reopened(dir: &Path) -> Result<State, DriverError> {
    open(dir).map(|(_, loaded)| state(&loaded))
}

fn write(number: u64) -> Write {
    let key = Bytes::from(format!("key-{}", number % 7));
    let value = Bytes::from(format!("value-{number}-").repeat(1 + (number % 11) as usize));
    let revision = Revision(number + 2);
    let kv = KeyValue { key, value, create_revision: revision, mod_revision: revision };
    Write::Put { kv, expiry: None, previous: None }
}

fn persist(disk: &mut Disk, state: &mut State, number: u64) {
    let write = write(number);
    let Write::Put { kv, .. } = &write else { unreachable!() };
    state.insert(kv.key.clone(), kv.value.clone());
    let revision = kv.mod_revision;
    disk.persist(vec![write], revision).unwrap();
}

/// A copy of the directory as it is now: what `kill -9` leaves.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files
}

/// A store of several journals and one merged segment, with its state before and after the last group.
fn sample(groups: u64) -> (tempfile::TempDir, State, State) {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _) = open(dir.path()).unwrap();
    let (mut before, mut now) = (State::new(), State::new());
    for number in 0..groups {
        before.clone_from(&now);
        persist(&mut disk, &mut now, number);
        if number == groups / 2 {
            let live = super::merge_tests::Model(
                (0..=number)
                    .map(write)
                    .map(|write| match write {
                        Write::Put { kv, .. } => (kv.key, kv.mod_revision),
                        Write::Delete { .. } => unreachable!(),
                    })
                    .collect(),
            );
            let job = disk.job(0..disk.sealed.len()).unwrap();
            let merged = merge::merge(&job, &live, &Default::default()).unwrap();
            disk.replace_sources(merged);
        }
    }
    let crashed = copy(dir.path());
    drop(disk);
    (crashed, before, now)
}

fn names_the_file(error: &DriverError, file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    error.to_string().contains(&name)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever byte of whatever file changes: opening fails and names the file, or gives exactly what was
    /// acknowledged. After a crash the very last group may be taken for torn; after a clean stop not even that.
    #[test]
    fn no_changed_byte_goes_unnoticed(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
                                      flip in 1u8.., clean in any::<bool>()) {
        thread_local!(static SAMPLE: (tempfile::TempDir, State, State) = sample(60));
        SAMPLE.with(|(dir, before, now)| {
            let dir = copy(dir.path());
            if clean {
                drop(open(dir.path()).unwrap());
            }
            let files = files(dir.path());
            let file = which.get(&files);
            let mut bytes = fs::read(file).unwrap();
            *at.get_mut(&mut bytes) ^= flip;
            fs::write(file, bytes).unwrap();
            match reopened(dir.path()) {
                Ok(found) => assert!(found == *now || (!clean && found == *before), "{} served damaged", file.display()),
                // A format that another version might have is reported as such.
                Err(error) => assert!(names_the_file(&error, file), "{error}"),
            }
        });
    }

    /// A power loss leaves any part of the group that was under way, sector by sector or cut at any byte, and
    /// nothing of what was acknowledged is lost. The store goes on and what it writes then is read again.
    #[test]
    fn a_torn_group_takes_nothing_with_it(groups in 1u64..40, sectors in any::<u64>(), cut in any::<prop::sample::Index>(),
                                          by_sector in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _) = open(dir.path()).unwrap();
        let mut acknowledged = State::new();
        for number in 0..groups {
            persist(&mut disk, &mut acknowledged, number);
        }
        let newest = files(dir.path()).pop().unwrap();
        let old = fs::read(&newest).unwrap();
        let mut all = acknowledged.clone();
        persist(&mut disk, &mut all, groups);
        let torn = copy(dir.path());
        drop(disk);
        let newest_now = files(torn.path()).into_iter().rfind(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
        if newest_now.file_name() == newest.file_name() {
            let new = fs::read(&newest_now).unwrap();
            let changed: Vec<usize> = (0..new.len()).filter(|at| new[*at] != old[*at]).collect();
            let cut = changed[cut.index(changed.len())];
            let arrived = |at: usize| if by_sector { sectors >> (at / 64 % 64) & 1 == 1 } else { at < cut };
            let mixed: Vec<u8> = (0..new.len()).map(|at| if arrived(at) { new[at] } else { old[at] }).collect();
            let whole = mixed == new;
            fs::write(&newest_now, mixed).unwrap();
            let (mut disk, loaded) = open(torn.path()).unwrap();
            let found = state(&loaded);
            assert_eq!(found, if whole { all } else { acknowledged });
            let mut after = found;
            for number in groups + 1..groups + 5 {
                persist(&mut disk, &mut after, number);
            }
            let again = copy(torn.path());
            assert_eq!(reopened(again.path()).unwrap(), after);
        } else {
            assert_eq!(reopened(torn.path()).unwrap(), all);
        }
    }
}

#[test]
fn a_hole_in_the_middle_is_told_from_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _) = open(dir.path()).unwrap();
    let mut now = State::new();
    for number in 0..3 {
        persist(&mut disk, &mut now, number);
    }
    let crashed = copy(dir.path());
    let newest =
        files(crashed.path()).into_iter().rfind(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let first = HEADER as usize;
    bytes[first..first + 20].fill(0);
    fs::write(&newest, bytes).unwrap();
    let error = reopened(crashed.path()).unwrap_err().to_string();
    assert!(error.contains("frame 1 follows it"), "{error}");
}

#[test]
fn a_file_cut_short_is_reported() {
    let (dir, ..) = sample(60);
    for file in files(dir.path()) {
        let damaged = copy(dir.path());
        let target = damaged.path().join(file.file_name().unwrap());
        let length = fs::metadata(&target).unwrap().len();
        fs::File::options().write(true).open(&target).unwrap().set_len(length - 1).unwrap();
        let error = reopened(damaged.path()).unwrap_err();
        assert!(names_the_file(&error, &file), "{error}");
    }
}

#[test]
fn a_missing_file_is_reported() {
    let (dir, ..) = sample(60);
    // The newest journal is not among them: nothing tells that it ever was.
    let all = files(dir.path());
    let newest = all.iter().rfind(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
    for file in all.iter().filter(|file| *file != newest) {
        let damaged = copy(dir.path());
        fs::remove_file(damaged.path().join(file.file_name().unwrap())).unwrap();
        let error = reopened(damaged.path()).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}

/// A write that failed may have reached the disk all the same: it stays unseen for good, and writes go on.
#[test]
fn a_failed_write_is_void() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _) = open(dir.path()).unwrap();
    let mut now = State::new();
    for number in 0..2 {
        persist(&mut disk, &mut now, number);
    }
    let journal = disk.dir.join(segment::file_name(Kind::Journal, Span::one(1)));
    let failing = [write(2)];
    // A descriptor that cannot be written stands for a disk that fails.
    disk.active.as_mut().unwrap().file = fs::File::open(&journal).unwrap();
    assert!(disk.persist(failing.to_vec(), Revision(4)).is_err());
    let end = disk.active.as_ref().unwrap().weight.bytes;
    disk.recover().unwrap();
    persist(&mut disk, &mut now, 3);
    let mut frame = FrameBuilder::default();
    frame.clear();
    frame.push(&failing[0]);
    let bytes = frame.finish(1, 2, Revision(4), disk.salt).to_vec();
    fs::File::options().write(true).open(&journal).unwrap().write_all_at(&bytes, end).unwrap();
    drop(disk);
    assert_eq!(reopened(dir.path()).unwrap(), now);
}
