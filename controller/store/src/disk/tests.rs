use std::fs;

use bytes::Bytes;

use super::*;
use crate::model::{CommitError, Compare, Op};
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

#[tokio::test]
async fn another_program_s_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0.jnl"), "something").unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("beginning with the file 0.jnl"), "{error}");
}

#[test]
fn making_a_store_can_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    drop(Disk::open(dir.path()).unwrap());
    fs::remove_file(dir.path().join(identity::FILE)).unwrap();
    fs::write(dir.path().join("journal.tmp"), "half").unwrap();
    let mut disk = Disk::open(dir.path()).unwrap();
    assert_eq!(disk.load().unwrap().revision, Revision::EMPTY);
}

/// The journal cannot be made where a directory has its name: as with a full disk, the step fails before
/// anything of the group is written.
#[tokio::test]
async fn writes_go_on_once_there_is_space_again() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { segment: 4096, slack: 0 };
    let store = Store::open(Disk::open_with(dir.path(), sizes).unwrap(), Config::default()).unwrap();
    let obstacle = dir.path().join("journal.tmp");
    fs::create_dir(&obstacle).unwrap();
    let value = "x".repeat(1000);
    let mut kept = Vec::new();
    let lost = loop {
        let key = format!("k{}", kept.len());
        match store.commit(&[], vec![put(&key, &value)]).await {
            Ok(_) => kept.push(key),
            Err(CommitError::Unavailable { reason }) => {
                assert!(reason.contains("making a journal segment failed"), "{reason}");
                break key;
            }
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(store.get(lost.as_bytes()).is_none() && store.get(b"k0").is_some(), "reads go on");
    assert!(store.refused().is_some());
    fs::remove_dir(&obstacle).unwrap();
    let late = loop {
        match store.commit(&[Compare::Absent(Bytes::from_static(b"late"))], vec![put("late", "1")]).await {
            Ok(revision) => break revision,
            Err(error) => assert!(matches!(error, CommitError::Unavailable { .. }), "{error:?}"),
        }
        tokio::task::yield_now().await;
    };
    assert!(store.refused().is_none());
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.revision(), late);
    kept.push("late".into());
    kept.sort();
    let found: Vec<_> = store.range(&Default::default()).unwrap().items.into_iter().map(|kv| kv.key).collect();
    assert_eq!(found, kept);
}

/// An expiry that the disk refused is carried out once it takes writes again.
#[tokio::test]
async fn an_expiry_outlives_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { segment: 300, slack: 0 };
    let store = Store::open(Disk::open_with(dir.path(), sizes).unwrap(), Config::default()).unwrap();
    let mut watcher = store.watch(Bytes::from_static(b"e"), store.revision()).unwrap();
    let ttl = Some(std::time::Duration::from_millis(100));
    let expiring = Op::Put { key: Bytes::from_static(b"e"), value: Bytes::from(vec![b'x'; 120]), ttl };
    store.commit(&[], vec![expiring]).await.unwrap();
    assert!(watcher.next_batch().await.unwrap()[0].current.is_some());
    let obstacle = dir.path().join("journal.tmp");
    fs::create_dir(&obstacle).unwrap();
    while store.refused().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(store.get(b"e").is_some());
    fs::remove_dir(&obstacle).unwrap();
    assert!(watcher.next_batch().await.unwrap()[0].current.is_none());
}
