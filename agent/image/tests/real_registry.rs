//! Debian's docker-registry, with images pushed by skopeo and buildah.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_image::document::Platform;
use agent_image::registry::PullError;
use agent_image::registry::config::Registries;
use agent_image::registry::credential::Credential;
use agent_image::registry::pull::{Patience, Puller, Wanted};
use agent_image::store::{Image, ImageStore};

/// `htpasswd -Bbn user pass`.
const HTPASSWD: &str = "user:$2y$05$Ov2HWpwBZDUGrr.dgOARCeaxU/L5n6ra01v3ilHxN2dmaRDyrGAoe\n";

fn missing(programs: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&&str| !std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    programs.iter().find(is_there).map(|name| format!("there is no program {name}"))
}

/// A registry that ends with the value.
struct Registry {
    process: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (data, passwords, config) = (dir.join("data"), dir.join("htpasswd"), dir.join("config.yml"));
        fs::write(&passwords, HTPASSWD).unwrap();
        let settings = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            data.display(),
            passwords.display()
        );
        fs::write(&config, settings).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("docker-registry");
        let process = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let registry = Self { process, address: address.to_string() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(dir.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An OCI layout with the image `made:1`, written by our own store.
fn layout(dir: &Path) -> PathBuf {
    let mut builder = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for (name, bytes) in [("numbers", content.as_slice()), ("etc/motd", b"hello\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    let layer = builder.into_inner().unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        agent_image::digest::Digest::of(&layer)
    );
    let archive = dir.join("made.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    let manifest = br#"[{"Config":"c.json","RepoTags":["made:1"],"Layers":["layer.tar"]}]"#.to_vec();
    for (name, bytes) in [("manifest.json", manifest), ("c.json", config.into_bytes()), ("layer.tar", layer)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    archive
}

struct Node {
    store: ImageStore,
    puller: Puller,
}

impl Node {
    fn new(dir: &Path) -> Self {
        let store = ImageStore::open(dir).unwrap();
        let puller = Puller::new(store.clone(), Registries::default(), Patience::default());
        Self { store, puller }
    }

    async fn pull(&self, reference: &str, password: &str) -> Result<Image, PullError> {
        let wanted = Wanted {
            reference: reference.parse().unwrap(),
            credentials: vec![Credential::password("user", password)],
            platform: Platform { architecture: "amd64".into(), os: "linux".into(), variant: None },
        };
        self.puller.pull(&wanted, &|_| ()).await
    }

    fn motd(&self, image: &Image) -> String {
        let snapshot = self.store.snapshot("test", image).unwrap();
        let mut text = String::new();
        let file = snapshot.lower.iter().map(|dir| dir.join("etc/motd")).find(|file| file.exists()).unwrap();
        fs::File::open(file).unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

#[tokio::test]
async fn images_of_skopeo_come_however_they_are_packed() {
    if let Some(why) = missing(&["docker-registry", "skopeo"]) {
        return println!("skipped: {why}");
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = layout(dir.path());
    for (tag, format, compression) in [("gz", "oci", "gzip"), ("zst", "oci", "zstd"), ("v2s2", "v2s2", "gzip")] {
        // One for each: skopeo takes blobs that a registry has already, however they are packed.
        let place = dir.path().join(format!("registry-{tag}"));
        fs::create_dir(&place).unwrap();
        let registry = Registry::start(&place);
        let name = format!("{}/team/made:{tag}", registry.address);
        let source = format!("docker-archive:{}", archive.display());
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds", "user:pass"])
            .args(["--format", format, "--dest-compress-format", compression, &source, &format!("docker://{name}")]));
        // What skopeo says of it.
        let digest = run(Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--creds", "user:pass"])
            .args(["--format", "{{.Digest}}", &format!("docker://{name}")]));
        let node = Node::new(&dir.path().join(tag));
        let refused = node.pull(&name, "wrong").await.unwrap_err().to_string();
        assert!(refused.contains(&format!("registry {}: ", registry.address)), "{refused}");
        assert!(refused.contains("the credentials were refused"), "{refused}");
        let image = node.pull(&name, "pass").await.unwrap();
        assert_eq!(image.id(), format!("{}/team/made@{digest}", registry.address));
        assert_eq!(node.motd(&image), "hello\n", "{tag}");
        let blobs = dir.path().join(tag).join("blobs/sha256").join(image.layers[0].hex());
        let magic = fs::read(blobs).unwrap()[..2].to_vec();
        assert_eq!(magic, if compression == "zstd" { [0x28, 0xb5] } else { [0x1f, 0x8b] });
        assert_eq!(
            node.pull(&format!("{}/team/made@{digest}", registry.address), "pass").await.unwrap().digest,
            image.digest
        );
        let absent = node.pull(&format!("{}/team/absent:1", registry.address), "pass").await.unwrap_err().to_string();
        assert!(absent.ends_with("404 Not Found: manifest unknown"), "{absent}");
    }
}

#[tokio::test]
async fn images_of_buildah_come_with_whiteouts() {
    if let Some(why) = missing(&["docker-registry", "buildah"]) {
        return println!("skipped: {why}");
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: building images needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(dir.path().join("root"));
        run(command.arg("--runroot").arg(dir.path().join("run")).args(args))
    };
    let (motd, gone) = (dir.path().join("motd"), dir.path().join("gone"));
    fs::write(&motd, "hello\n").unwrap();
    fs::write(&gone, "gone").unwrap();
    let first = buildah(&["from", "scratch"]);
    buildah(&["copy", &first, &motd.display().to_string(), "/etc/motd"]);
    buildah(&["copy", &first, &gone.display().to_string(), "/etc/gone"]);
    let below = buildah(&["commit", "--quiet", &first, "below"]);
    let second = buildah(&["from", "--pull-never", &below]);
    let mounted = buildah(&["mount", &second]);
    fs::remove_file(Path::new(&mounted).join("etc/gone")).unwrap();
    buildah(&["umount", &second]);
    buildah(&["commit", "--quiet", &second, "above"]);
    let name = format!("{}/team/built:1", registry.address);
    buildah(&["push", "--quiet", "--tls-verify=false", "--creds", "user:pass", "above", &format!("docker://{name}")]);
    let node = Node::new(&dir.path().join("node"));
    let image = node.pull(&name, "pass").await.unwrap();
    assert_eq!((image.layers.len(), node.motd(&image).as_str()), (2, "hello\n"));
    let top = node.store.snapshot("test", &image).unwrap().lower[0].join("etc/gone");
    let metadata = fs::symlink_metadata(top).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type()), "what was removed is whited out");
}
