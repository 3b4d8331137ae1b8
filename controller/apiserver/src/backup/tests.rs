use std::fs;

use bytes::Bytes;
use controller_store::disk::Disk;
use controller_store::model::Op;
use controller_store::store::{self, Store};

use super::*;

const ALL: u64 = u64::MAX;

fn open(dir: &Path) -> Store {
    Store::open(Disk::open(&dir.join("store")).unwrap(), store::Config::default()).unwrap()
}

/// A control plane with one key, two certificates and a manifest.
async fn example(dir: &Path) {
    let op = Op::Put { key: Bytes::from_static(b"/registry/x"), value: Bytes::from_static(b"{}"), ttl: None };
    open(dir).commit(&[], vec![op]).await.unwrap();
    for (name, content) in [("tls/ca.crt", "c"), ("tls/ca.key", "k"), ("manifests/sub/a.yaml", "kind: A")] {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), content).unwrap();
    }
    fs::write(dir.join("tls/half.tmp"), "").unwrap();
}

fn saved(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    offline::save(dir, &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn what_was_lost_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("server");
    example(&dir).await;
    let bytes = saved(&dir);
    let before = open(&dir).get(b"/registry/x").unwrap();
    fs::remove_dir_all(&dir).unwrap();

    let restored = offline::restore(&dir, &*bytes, false).unwrap();
    assert!(restored.replaced.is_none());
    assert_eq!(restored.description.keys, 1);
    assert_eq!(open(&dir).get(b"/registry/x").unwrap(), before);
    assert_eq!(fs::read_to_string(dir.join("manifests/sub/a.yaml")).unwrap(), "kind: A");
    assert_eq!(fs::read_to_string(dir.join("tls/ca.key")).unwrap(), "k");
    assert!(!dir.join("tls/half.tmp").exists());
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(dir.join("tls/ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn what_is_there_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("server");
    example(&dir).await;
    let bytes = saved(&dir);
    fs::write(dir.join("tls/ca.key"), "newer").unwrap();
    assert!(matches!(offline::restore(&dir, &*bytes, false), Err(BackupError::Occupied(_))));
    // A running server.
    let store = open(&dir);
    assert!(matches!(offline::restore(&dir, &*bytes, true), Err(BackupError::Store(DriverError::InUse { .. }))));
    assert!(matches!(offline::save(&dir, Vec::new()), Err(BackupError::Store(DriverError::InUse { .. }))));
    drop(store);
    // A damaged backup changes nothing.
    for at in [10, bytes.len() / 2, bytes.len() - 20] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(offline::restore(&dir, &*damaged, true).is_err(), "byte {at}");
        assert!(offline::restore(&dir, &bytes[..at], true).is_err(), "cut at {at}");
    }
    assert_eq!(fs::read_to_string(dir.join("tls/ca.key")).unwrap(), "newer");

    let replaced = offline::restore(&dir, &*bytes, true).unwrap().replaced.unwrap();
    assert_eq!(fs::read_to_string(dir.join("tls/ca.key")).unwrap(), "k");
    assert_eq!(fs::read_to_string(replaced.join("tls/ca.key")).unwrap(), "newer");
}

/// An archive as an enemy would make one, with a description that agrees with it.
fn forged(version: u32, files: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let content = b"x";
    let digests = files
        .iter()
        .map(|(name, _)| ((*name).to_owned(), hex::encode(ring::digest::digest(&ring::digest::SHA256, content))));
    let description = Description {
        version,
        program: "9.9.9".into(),
        created: String::new(),
        revision: 1,
        keys: 0,
        files: digests.collect(),
    };
    let store = Store::open(controller_store::driver::Memory, store::Config::default()).unwrap();
    let mut bytes = Vec::new();
    pack(&mut bytes, &description, &store.snapshot().unwrap(), &Files::default()).unwrap();
    // The archive's end is cut off and the forged entries follow.
    let mut plain = zstd::decode_all(&*bytes).unwrap();
    plain.truncate(plain.len() - 2 * BLOCK as usize);
    let mut tail = tar::Builder::new(Vec::new());
    for (name, kind) in files {
        let mut header = header(content.len() as u64);
        header.set_entry_type(*kind);
        // As bytes: the crate refuses to write such names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tail.append(&header, &content[..]).unwrap();
    }
    plain.extend(tail.into_inner().unwrap());
    zstd::encode_all(&*plain, 1).unwrap()
}

#[test]
fn what_an_enemy_made_is_refused() {
    use tar::EntryType::{Link, Regular, Symlink};
    assert!(read(&*forged(1, &[("tls/a", Regular)]), ALL).is_ok(), "the forgery itself is good");
    for name in ["../tls/a", "tls/../../a", "/tls/a", "tls", "store", "etc/passwd", "manifests/../tls/a"] {
        let refused = read(&*forged(1, &[(name, Regular)]), ALL);
        assert!(matches!(refused, Err(BackupError::Damaged(_))), "{name}: {refused:?}");
    }
    assert!(read(&*forged(1, &[("tls/a", Symlink)]), ALL).is_err());
    assert!(read(&*forged(1, &[("tls/a", Link)]), ALL).is_err());
    assert!(read(&*forged(1, &[("tls/a", Regular), ("tls/a", Regular)]), ALL).is_err());
    assert!(read(&*forged(1, &[("tls/a", Regular)]), 700).is_err(), "more than was allowed");
    assert!(matches!(read(&b"anything"[..], ALL), Err(BackupError::Read(_))));
    let newer = read(&*forged(2, &[]), ALL).unwrap_err();
    assert_eq!(newer.to_string(), "the backup has version 2, written by gantry 9.9.9; this program reads up to 1");
}
