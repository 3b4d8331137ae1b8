use std::collections::BTreeMap;

use super::*;

fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// Members of an OCI layout by path.
fn oci_layout(name: Option<&str>, layers: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    let mut add = |bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        members.insert(format!("blobs/sha256/{}", digest.hex()), bytes);
        serde_json::json!({"digest": digest, "size": size})
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|tar| Digest::of(tar)).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = add(config.to_string().into_bytes());
    let layers: Vec<_> = layers.iter().map(|tar| add(gzip(tar))).collect();
    let mut manifest =
        add(serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes());
    if let Some(name) = name {
        manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
    }
    members.insert(
        "index.json".into(),
        serde_json::json!({"schemaVersion": 2, "manifests": [manifest]}).to_string().into_bytes(),
    );
    members
}

fn write_tar(path: &Path, members: &BTreeMap<String, Vec<u8>>) {
    let files: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.finish().unwrap();
}

fn write_dir(path: &Path, members: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in members {
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

fn store(dir: &tempfile::TempDir) -> ImageStore {
    ImageStore::open(&dir.path().join("store")).unwrap()
}

#[test]
fn layouts_import_from_directory_and_tar_alike() {
    let dir = tempfile::tempdir().unwrap();
    let members = oci_layout(Some("demo:v1"), &[layer(&[("a", "1")]), layer(&[("b", "2")])]);
    write_dir(&dir.path().join("layout"), &members);
    write_tar(&dir.path().join("layout.tar"), &members);
    let store = store(&dir);
    let from_dir = store.import(&dir.path().join("layout"), None).unwrap();
    let from_tar = store.import(&dir.path().join("layout.tar"), Some("other")).unwrap();
    assert_eq!(from_dir[0].name, "docker.io/library/demo:v1");
    assert_eq!(
        (from_tar[0].name.as_str(), &from_tar[0].digest),
        ("docker.io/library/other:latest", &from_dir[0].digest)
    );
    let found = store.find("demo:v1").unwrap().unwrap();
    assert!(found.pinned);
    assert_eq!(store.find(&format!("demo@{}", found.digest)).unwrap().unwrap().name, found.name);
    assert_eq!(store.config(&found).unwrap().config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/sh"]);
    let snapshot = store.snapshot("pod-c-0", &found).unwrap();
    assert_eq!(fs::read_to_string(snapshot.lower[0].join("b")).unwrap(), "2", "the highest layer comes first");
    assert!(store.find("absent").unwrap().is_none());
}

#[test]
fn docker_archives_import_by_their_tags() {
    let dir = tempfile::tempdir().unwrap();
    let tar = layer(&[("a", "1")]);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]}});
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": ["demo:v2", "x/demo:v3"], "Layers": ["1/layer.tar"]}]);
    let members = BTreeMap::from([
        ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ("c.json".to_owned(), config.to_string().into_bytes()),
        ("1/layer.tar".to_owned(), tar),
    ]);
    write_tar(&dir.path().join("archive.tar"), &members);
    let store = store(&dir);
    let names: Vec<String> =
        store.import(&dir.path().join("archive.tar"), None).unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["docker.io/library/demo:v2", "docker.io/x/demo:v3"]);
}

#[test]
fn what_is_exported_can_be_imported() {
    let dir = tempfile::tempdir().unwrap();
    write_dir(&dir.path().join("layout"), &oci_layout(Some("demo:v1"), &[layer(&[("a", "1")]), layer(&[("b", "2")])]));
    let first = store(&dir);
    let image = first.import(&dir.path().join("layout"), None).unwrap().remove(0);
    let file = dir.path().join("out.tar");
    first.export(&image, File::create(&file).unwrap()).unwrap();
    let second = ImageStore::open(&dir.path().join("second")).unwrap();
    assert_eq!(second.import(&file, None).unwrap(), std::slice::from_ref(&image));
    fs::write(first.content.path(&image.layers[0]), "damaged").unwrap();
    assert!(matches!(first.export(&image, io::sink()), Err(ImageError::Content(ContentError::Mismatch { .. }))));
}

#[test]
fn pruning_spares_what_is_pinned_or_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    for name in ["pinned", "used", "idle"] {
        write_dir(&dir.path().join(name), &oci_layout(Some(name), &[layer(&[(name, name)])]));
        let mut image = store.import(&dir.path().join(name), None).unwrap().remove(0);
        image.pinned = name == "pinned";
        store
            .index
            .update(|all| all.iter_mut().for_each(|own| own.pinned &= own.name != image.name || image.pinned))
            .unwrap();
        if name == "used" {
            store.snapshot("container", &image).unwrap();
        }
    }
    let (names, freed) = store.prune().unwrap();
    assert_eq!(names, ["docker.io/library/idle:latest"]);
    assert!(freed > 0);
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn content_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut members = oci_layout(Some("demo"), &[layer(&[("a", "1")])]);
    let blob = members.keys().find(|name| name.starts_with("blobs")).unwrap().clone();
    members.get_mut(&blob).unwrap().push(b' ');
    write_dir(&dir.path().join("tampered"), &members);
    assert!(matches!(
        store.import(&dir.path().join("tampered"), None),
        Err(ImageError::Content(ContentError::Mismatch { .. }))
    ));
    let unnamed = oci_layout(None, &[]);
    write_dir(&dir.path().join("unnamed"), &unnamed);
    assert!(matches!(store.import(&dir.path().join("unnamed"), None), Err(ImageError::Unnamed { .. })));
    let linked = dir.path().join("linked");
    write_dir(&linked, &oci_layout(Some("demo"), &[layer(&[("a", "1")])]));
    fs::remove_file(linked.join("index.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", linked.join("index.json")).unwrap();
    assert!(matches!(store.import(&linked, None), Err(ImageError::Malformed { .. })));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn removal_keeps_what_others_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let (shared, own) = (layer(&[("a", "1")]), layer(&[("b", "2")]));
    write_dir(&dir.path().join("one"), &oci_layout(Some("one"), &[shared.clone(), own]));
    write_dir(&dir.path().join("two"), &oci_layout(Some("two"), &[shared]));
    store.import(&dir.path().join("one"), None).unwrap();
    let two = store.import(&dir.path().join("two"), None).unwrap().remove(0);
    let layers = || fs::read_dir(dir.path().join("store/l")).unwrap().count();
    assert_eq!(layers(), 2);
    assert!(store.remove("one").unwrap() > 0);
    assert_eq!(layers(), 1);
    store.snapshot("key", &two).unwrap();
    store.remove("two").unwrap();
    assert_eq!(layers(), 1, "a snapshot still stands on the layer");
    store.release("key").unwrap();
    store.release("key").unwrap();
    assert!(matches!(store.remove("two"), Err(ImageError::NotFound(_))));
}

/// Many snapshots of one image at once, while names of it are removed: nobody's layers go or collide.
#[test]
fn snapshots_and_collections_run_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("store")).unwrap();
    let source = dir.path().join("layout");
    for (path, bytes) in oci_layout(Some("race"), &[layer(&[("a", "1")]), layer(&[("b", "2")])]) {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let image = store.import(&source, None).unwrap().remove(0);
    for entry in fs::read_dir(dir.path().join("store/l")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (store, image, source) = (&store, &image, &source);
            scope.spawn(move || {
                let snapshot = store.snapshot(&format!("k{number}"), image).unwrap();
                store.import(source, Some(&format!("other{number}"))).unwrap();
                store.remove(&format!("other{number}")).unwrap();
                assert!(snapshot.lower.iter().all(|layer| layer.is_dir()));
            });
        }
    });
    let names = fs::read_dir(dir.path().join("store/l")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 2, "no temporary directories are left");
}
