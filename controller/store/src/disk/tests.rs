use std::fs;

use bytes::Bytes;

use super::*;
use crate::model::{Compare, Op};
use crate::store::{Config, Store};

fn open(path: &Path) -> Result<Store, DriverError> {
    Store::open(Disk::open(path)?, Config::default())
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    crate::suite::run(|| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Disk::open(&dir.path().join(n.to_string())).unwrap()
    })
    .await;
}

#[tokio::test]
async fn values_and_the_revision_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.commit(&[], vec![put("a", "1"), put("b", "1")]).await.unwrap();
    let created = store.get(b"a").unwrap();
    let last = store.commit(&[], vec![Op::Delete { key: Bytes::from_static(b"b") }]).await.unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.get(b"a").unwrap(), created);
    assert!(store.get(b"b").is_none());
    assert_eq!(store.revision(), last);
    let unchanged = [Compare::ModRevision(created.key.clone(), created.mod_revision)];
    assert!(store.commit(&unchanged, vec![put("a", "2")]).await.unwrap() > last);
}

#[tokio::test]
async fn an_expiry_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let ttl = Some(std::time::Duration::from_millis(300));
    let key = Bytes::from_static(b"e");
    store.commit(&[], vec![Op::Put { key: key.clone(), value: Bytes::new(), ttl }]).await.unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    let mut watcher = store.watch(key, store.revision()).unwrap();
    assert!(store.get(b"e").is_some(), "not expired yet");
    assert!(watcher.next_batch().await.unwrap()[0].current.is_none());
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path()).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, DriverError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another process"));
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    fs::write(dir.path().join(identity::FILE), identity::encode(7, 1)).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("has format 7"), "{error}");
}

/// Every value is its key repeated; whatever byte of whatever file is damaged, the store reports it or
/// serves what was written, never something else.
#[tokio::test]
async fn damage_is_reported_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let pristine = dir.path().join("pristine");
    {
        let store = open(&pristine).unwrap();
        for n in 0..200 {
            let key = format!("key-{n:04}");
            store.commit(&[], vec![put(&key, &key.repeat(20))]).await.unwrap();
        }
    }
    let files = files_below(&pristine);
    let mut reported = 0;
    for (round, (file, length)) in files.iter().cycle().take(60).enumerate() {
        let damaged = dir.path().join(format!("damaged-{round}"));
        copy_tree(&pristine, &damaged);
        let target = damaged.join(file.strip_prefix(&pristine).unwrap());
        let mut bytes = fs::read(&target).unwrap();
        if *length == 0 {
            continue;
        }
        let position = (round * 7919) % bytes.len();
        bytes[position] ^= 0x5a;
        fs::write(&target, bytes).unwrap();
        match open(&damaged) {
            Err(_) => reported += 1,
            Ok(store) => {
                let all = store.range(&Default::default()).unwrap();
                for kv in &all.items {
                    let key = String::from_utf8(kv.key.to_vec()).unwrap();
                    assert_eq!(kv.value, key.repeat(20), "{} served damaged", file.display());
                }
            }
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(reported > 0, "no damage was noticed at all");
}

fn files_below(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.metadata().unwrap() {
            meta if meta.is_dir() => found.extend(files_below(&entry.path())),
            meta => found.push((entry.path(), meta.len())),
        }
    }
    found.sort();
    found
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.metadata().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
