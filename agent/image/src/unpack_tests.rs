use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

#[derive(Debug, Clone)]
enum Item {
    File(String, u8),
    Dir(String),
    Symlink(String, String),
    Hard(String, String),
}

fn append(builder: &mut Builder<Vec<u8>>, item: &Item) {
    let mut header = Header::new_gnu();
    header.set_mode(0o755);
    header.set_mtime(1_000_000);
    let (path, link, content) = match item {
        Item::File(path, byte) => {
            header.set_entry_type(EntryType::Regular);
            (path, None, vec![*byte; 3])
        }
        Item::Dir(path) => {
            header.set_entry_type(EntryType::Directory);
            (path, None, vec![])
        }
        Item::Symlink(path, target) => {
            header.set_entry_type(EntryType::Symlink);
            (path, Some(target), vec![])
        }
        Item::Hard(path, target) => {
            header.set_entry_type(EntryType::Link);
            (path, Some(target), vec![])
        }
    };
    // The builder refuses hostile names, so they are written into the header as they are.
    let field = |target: &mut [u8], text: &str| {
        let bytes = text.as_bytes();
        let length = bytes.len().min(target.len());
        target[..length].copy_from_slice(&bytes[..length]);
    };
    field(&mut header.as_old_mut().name, path);
    if let Some(link) = link {
        field(&mut header.as_old_mut().linkname, link);
    }
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content.as_slice()).unwrap();
}

fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        append(&mut builder, item);
    }
    builder.into_inner().unwrap()
}

fn file(path: &str) -> Item {
    Item::File(path.into(), b'x')
}

/// A root with a directory beside it that nothing may reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, items: &[Item]) -> Result<u64, UnpackError> {
        unpack(tar_of(items).as_slice(), &self.root(), Limits::default())
    }

    fn assert_outside_untouched(&self) {
        let outside = self.dir.path().join("outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }
}

#[test]
fn files_links_and_directories_arrive() {
    let place = Place::new();
    let items = [
        Item::Dir("etc".into()),
        file("etc/a"),
        Item::Symlink("etc/b".into(), "a".into()),
        Item::Hard("c".into(), "etc/a".into()),
        file("/absolute"),
        file("made/up/parents/f"),
    ];
    assert_eq!(place.unpack(&items).unwrap(), 9);
    let root = place.root();
    assert_eq!(fs::read_link(root.join("etc/b")).unwrap(), Path::new("a"));
    assert_eq!(fs::metadata(root.join("c")).unwrap().ino(), fs::metadata(root.join("etc/a")).unwrap().ino());
    assert_eq!(fs::metadata(root.join("etc/a")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(root.join("etc")).unwrap().mtime(), 1_000_000, "made before its content");
    assert!(root.join("absolute").exists() && root.join("made/up/parents/f").exists());
}

#[test]
fn whiteouts_become_overlayfs_whiteouts() {
    let place = Place::new();
    let result = place.unpack(&[file("d/.wh.gone"), file("o/.wh..wh..opq")]);
    if let Err(UnpackError::Entry { source, .. }) = &result
        && source.kind() == io::ErrorKind::PermissionDenied
    {
        println!("skipped: whiteouts need root");
        return;
    }
    result.unwrap();
    let gone = fs::symlink_metadata(place.root().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0u8; 4];
    let length = rustix::fs::getxattr(place.root().join("o"), "trusted.overlay.opaque", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn nothing_leaves_the_root() {
    for items in [
        vec![file("../outside/x")],
        vec![file("a/../../outside/x")],
        vec![Item::Symlink("out".into(), "../outside".into()), file("out/x")],
        vec![
            Item::Symlink("out".into(), "/".into()),
            Item::Symlink("out/l".into(), "../outside".into()),
            file("l/secret"),
        ],
        vec![Item::Hard("h".into(), "../outside/secret".into())],
        vec![Item::Symlink("s".into(), "../outside/secret".into()), Item::Hard("h".into(), "s".into()), file("h")],
        vec![Item::Dir("d".into()), Item::Symlink("d".into(), "../outside".into()), file("d/secret")],
        vec![Item::Symlink("s".into(), "../outside/secret".into()), file("s")],
        vec![Item::Symlink("s".into(), "../outside".into()), Item::Dir("s".into()), file("s/y")],
        vec![Item::Symlink("s".into(), "../outside".into()), file("s/.wh.secret")],
        vec![Item::Symlink("s".into(), "/proc/self/cwd".into()), file("s/y")],
    ] {
        let place = Place::new();
        // Whether the layer is refused or lands inside does not matter here.
        drop(place.unpack(&items));
        place.assert_outside_untouched();
    }
}

/// The parent of an entry is remembered for the next; what is replaced in between must not be believed.
#[test]
fn a_parent_that_became_another_directory_is_looked_for_again() {
    let place = Place::new();
    place
        .unpack(&[
            Item::Dir("real".into()),
            Item::Symlink("a".into(), "real".into()),
            file("a/one"),
            Item::Dir("a".into()),
            file("a/two"),
            Item::Dir("other".into()),
            file("other/x"),
            Item::Symlink("other".into(), "real".into()),
            file("other/three"),
        ])
        .unwrap();
    let names = |dir: &str| {
        let entries = fs::read_dir(place.root().join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("real"), ["one", "three"]);
    assert!(!fs::symlink_metadata(place.root().join("a")).unwrap().is_symlink());
    assert_eq!(names("a"), ["two"]);
}

#[test]
fn bounds_hold() {
    let place = Place::new();
    let limits = Limits { entries: 1, ..Limits::default() };
    let tar = tar_of(&[file("a"), file("b")]);
    let error = unpack(tar.as_slice(), &place.root(), limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { what: "entries", .. }));
    let limits = Limits { bytes: 2, ..Limits::default() };
    let error = unpack(tar.as_slice(), &place.root(), limits).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { what: "bytes", .. }));
}

#[test]
fn a_cut_short_layer_is_an_error() {
    let place = Place::new();
    let tar = tar_of(&[file("a")]);
    assert!(matches!(
        unpack(&tar[..513], &place.root(), Limits::default()),
        Err(UnpackError::Entry { .. } | UnpackError::Read(_))
    ));
}

fn any_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => Just("a"), 3 => Just("b"), 2 => Just("s"), 1 => Just(".."), 1 => Just("."), 1 => Just(".wh.a"),
        1 => Just(".wh..wh..opq"), 1 => Just("outside"), 1 => Just("secret")
    ];
    (any::<bool>(), proptest::collection::vec(part, 1..5))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        any_path().prop_map(|path| Item::File(path, b'x')),
        any_path().prop_map(Item::Dir),
        (any_path(), any_path()).prop_map(|(path, target)| Item::Symlink(path, target)),
        (any_path(), any_path()).prop_map(|(path, target)| Item::Hard(path, target)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the sequence of entries, the world outside the root stays as it was.
    #[test]
    fn no_sequence_of_entries_gets_out(items in proptest::collection::vec(any_item(), 1..12)) {
        let place = Place::new();
        drop(place.unpack(&items));
        place.assert_outside_untouched();
    }

    /// Arbitrary bytes are an error or nothing, never a panic.
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let place = Place::new();
        drop(unpack(bytes.as_slice(), &place.root(), Limits::default()));
        place.assert_outside_untouched();
    }
}

#[test]
fn extensions_that_promise_a_gigabyte_are_refused() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let place = Place::new();
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 30);
        header.set_cksum();
        let taken = Rc::new(Cell::new(u64::MAX));
        let body = Metered { inner: io::repeat(b'a'), budget: Rc::clone(&taken) };
        let error = unpack(header.as_bytes().chain(body), &place.root(), Limits::default()).unwrap_err();
        let UnpackError::Read(error) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains("1048576"), "{error}");
        assert!(u64::MAX - taken.get() <= HEADERS_MAX, "no more was read");
    }
    // Ordinary long names stay possible, and what follows an entry that is skipped is read.
    let place = Place::new();
    let long = ["d"; 120].join("/");
    let mut builder = Builder::new(Vec::new());
    let mut skipped = Header::new_gnu();
    skipped.set_entry_type(EntryType::XGlobalHeader);
    skipped.set_path("pax_global_header").unwrap();
    skipped.set_size(2 << 20);
    skipped.set_mode(0o644);
    skipped.set_mtime(0);
    skipped.set_cksum();
    builder.append(&skipped, io::repeat(b'a').take(2 << 20)).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_mtime(0);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    unpack(builder.into_inner().unwrap().as_slice(), &place.root(), Limits::default()).unwrap();
    assert!(place.root().join(long).is_file());
}
