//! Merging changes files, never what they say.

use std::collections::HashMap;
use std::fs;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{KeyValue, Op};
use crate::store::{Config, Store};

/// The newest revision of each key that exists.
pub(super) struct Model(pub(super) HashMap<Bytes, Revision>);

impl Live for Model {
    fn mod_revision(&self, key: &[u8]) -> Option<Revision> {
        self.0.get(key).copied()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    Merge(prop::sample::Index, prop::sample::Index),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..6, 0usize..200).prop_map(|(key, length)| Step::Put(key, length)),
        3 => (0u8..6).prop_map(Step::Delete),
        3 => (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(a, b)| Step::Merge(a, b)),
        1 => Just(Step::Reopen),
    ]
}

fn open(dir: &Path) -> (Disk, Loaded) {
    let mut disk = Disk::open_with(dir, Sizes { segment: 400, slack: 0 }).unwrap();
    let loaded = disk.load().unwrap();
    (disk, loaded)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Any run of neighbours may be merged at any time, with its sources still there after a crash or not: no key
    /// comes back, none is lost, and the books agree with a fresh reading.
    #[test]
    fn merging_keeps_every_key(steps in prop::collection::vec(step(), 1..120), crash in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _) = open(dir.path());
        let mut model = HashMap::<Bytes, KeyValue>::new();
        let mut revision = Revision::EMPTY;
        for step in steps {
            let replaced = |model: &HashMap<Bytes, KeyValue>, key: &Bytes| model.get(key).map(|kv| Replaced {
                revision: kv.mod_revision, value_length: kv.value.len() });
            match step {
                Step::Put(key, length) => {
                    revision = revision.next();
                    let key = Bytes::from(format!("k{key}"));
                    let previous = replaced(&model, &key);
                    let kv = KeyValue { key: key.clone(), value: vec![b'v'; length].into(),
                        create_revision: revision, mod_revision: revision };
                    disk.persist(vec![Write::Put { kv: kv.clone(), expiry: None, previous }], revision).unwrap();
                    model.insert(key, kv);
                }
                Step::Delete(key) => {
                    let key = Bytes::from(format!("k{key}"));
                    let Some(previous) = replaced(&model, &key) else { continue };
                    revision = revision.next();
                    disk.persist(vec![Write::Delete { key: key.clone(), revision, previous: Some(previous) }], revision).unwrap();
                    model.remove(&key);
                }
                Step::Merge(..) if disk.sealed.is_empty() => {}
                Step::Merge(a, b) => {
                    let (a, b) = (a.index(disk.sealed.len()), b.index(disk.sealed.len()));
                    let job = disk.job(a.min(b)..a.max(b) + 1).unwrap();
                    let live = Model(model.iter().map(|(key, kv)| (key.clone(), kv.mod_revision)).collect());
                    let sources: Vec<_> = job.sources.iter()
                        .map(|source| dir.path().join(segment::file_name(source.kind, source.span)))
                        .map(|path| (fs::read(&path).unwrap(), path)).collect();
                    let merged = merge::merge(&job, &live, &Default::default()).unwrap();
                    disk.replace_sources(merged);
                    // As if the process had died before it removed the sources.
                    for (bytes, path) in sources.into_iter().filter(|(_, path)| crash && !path.exists()) {
                        fs::write(path, bytes).unwrap();
                    }
                }
                Step::Reopen => {
                    drop(disk);
                    disk = open(dir.path()).0;
                }
            }
        }
        let books: Vec<_> = disk.sealed.iter().map(|segment| (segment.span, segment.weight.live)).collect();
        drop(disk);
        let (disk, loaded) = open(dir.path());
        assert_eq!(loaded.revision, revision);
        let found: HashMap<_, _> = loaded.entries.into_iter().map(|(kv, _)| (kv.key.clone(), kv)).collect();
        assert_eq!(found, model);
        let fresh: Vec<_> = disk.sealed.iter().map(|segment| (segment.span, segment.weight.live)).collect();
        assert_eq!(books, fresh);
    }
}

/// Bytes of all files below `dir`.
fn disk_use(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().map_or(0, |meta| meta.len())).sum()
}

/// Overwriting and deleting for a long time leaves files within three times the live data.
#[tokio::test]
async fn files_follow_live_data() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { segment: 128 << 10, slack: 256 << 10 };
    let store = Store::open(Disk::open_with(dir.path(), sizes).unwrap(), Config::default()).unwrap();
    let value = Bytes::from(vec![b'v'; 64 << 10]);
    let mut most = 0;
    for round in 0..40u32 {
        for key in 0..16 {
            let key = Bytes::from(format!("k{key}"));
            store.commit(&[], vec![Op::Put { key, value: value.clone(), ttl: None }]).await.unwrap();
        }
        let passing = Bytes::from(format!("passing-{round}"));
        store.commit(&[], vec![Op::Put { key: passing.clone(), value: value.clone(), ttl: None }]).await.unwrap();
        store.commit(&[], vec![Op::Delete { key: passing }]).await.unwrap();
        most = most.max(disk_use(dir.path()));
    }
    let live = 16 * (64 << 10);
    // Beside three times the live data: twice the slack, the segment that is written and the one before it.
    let allowed = 3 * live + 2 * sizes.slack + 2 * sizes.segment;
    assert!(most <= allowed, "{most} bytes of files for {live} live ones");
    drop(store);
    let store = Store::open(Disk::open_with(dir.path(), sizes).unwrap(), Config::default()).unwrap();
    assert_eq!(store.range(&Default::default()).unwrap().items.len(), 16);
}
