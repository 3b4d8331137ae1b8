use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::config::Registries;
use super::credential::Credential;
use super::error::{PullError, chain};
use super::hostile::{Door, Fault, Hostile};
use super::pull::{Patience, Progress, Puller, Wanted};
use crate::digest::Digest;
use crate::document::Platform;
use crate::store::{Image, ImageStore};

const MOMENT: Duration = Duration::from_millis(200);

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

/// Content that packs badly, so that blobs are as large as they look.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn gzip(tar: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar).unwrap();
    (encoder.finish().unwrap(), tar)
}

fn zstd(tar: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    (zstd::encode_all(tar.as_slice(), 1).unwrap(), tar)
}

struct Node {
    dir: tempfile::TempDir,
    store: ImageStore,
    puller: Puller,
    told: Arc<Mutex<Vec<Progress>>>,
}

impl Node {
    fn new() -> Self {
        Self::with("")
    }

    fn with(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        let registries = Registries::parse(Path::new("registries.yaml"), yaml).unwrap();
        let patience = Patience { connect: MOMENT * 5, answer: MOMENT, stall: MOMENT, retry: MOMENT / 20 };
        Self { puller: Puller::new(store.clone(), registries, patience), dir, store, told: Arc::default() }
    }

    async fn pull_as(&self, reference: &str, credentials: &[Credential]) -> Result<Image, PullError> {
        let wanted = Wanted {
            reference: reference.parse().unwrap(),
            credentials: credentials.to_vec(),
            platform: Platform { architecture: "amd64".into(), os: "linux".into(), variant: None },
        };
        let told = Arc::clone(&self.told);
        self.puller.pull(&wanted, &move |progress| told.lock().unwrap().push(progress)).await
    }

    async fn pull(&self, reference: &str) -> Result<Image, PullError> {
        self.pull_as(reference, &[]).await
    }

    /// The text of a pull that must fail; nothing of it may be used.
    async fn fails(&self, reference: &str) -> String {
        let text = chain(&self.pull(reference).await.unwrap_err());
        self.holds_nothing();
        text
    }

    fn holds_nothing(&self) {
        assert!(self.store.list().unwrap().is_empty(), "no name leads to a part of an image");
        assert_eq!(self.entries("l"), 0, "no layer is there");
    }

    fn entries(&self, dir: &str) -> usize {
        fs::read_dir(self.dir.path().join("store").join(dir)).unwrap().count()
    }

    fn partials(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.dir.path().join("store/ingest")).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
    }

    fn file(&self, image: &Image, layer: usize, name: &str) -> Vec<u8> {
        let snapshot = self.store.snapshot("test", image).unwrap();
        fs::read(snapshot.lower[image.layers.len() - 1 - layer].join(name)).unwrap()
    }
}

#[tokio::test]
async fn an_image_comes_with_all_its_parts_and_stays() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let (one, two, three) = (noise(1, 300_000), noise(2, 10), noise(3, 700_000));
    let plain = tar_of("two", &two);
    let layers = [gzip(tar_of("one", &one)), (plain.clone(), plain), zstd(tar_of("three", &three))];
    let (digest, blobs) = registry.image("v1", &layers);
    let image = node.pull(&format!("{}/a/b:v1", registry.host())).await.unwrap();
    assert_eq!((&image.digest, &image.layers), (&digest, &blobs));
    assert_eq!(image.id(), format!("{}/a/b@{digest}", registry.host()));
    assert!(node.file(&image, 0, "one") == one && node.file(&image, 1, "two") == two);
    assert!(node.file(&image, 2, "three") == three);
    assert_eq!(node.partials().len(), 0);
    assert!(!image.pinned && image.size > 1_000_000);
    let told = std::mem::take(&mut *node.told.lock().unwrap());
    assert!(matches!(&told[0], Progress::Layers(layers) if layers.len() == 3));
    for blob in &blobs {
        assert!(
            told.iter()
                .any(|one| matches!(one, Progress::Downloaded { digest, have, of } if digest == blob && have == of))
        );
        assert!(told.contains(&Progress::Unpacked(blob.clone())));
    }
    registry.log();
    assert_eq!(node.pull(&format!("{}/a/b:v1", registry.host())).await.unwrap(), image);
    assert_eq!(registry.log(), ["HEAD /v2/a/b/manifests/v1 - -"], "what did not change is not fetched again");
    // By digest, under another name: the blobs are here.
    let pinned = node.pull(&format!("{}/a/b:ignored@{digest}", registry.host())).await.unwrap();
    assert_eq!(pinned.name, format!("{}/a/b@{digest}", registry.host()));
    assert!(registry.log().iter().all(|line| !line.contains("/blobs/")));
    // The tag moves on.
    let (moved, _) = registry.image("v1", &layers[1..]);
    assert_eq!(node.pull(&format!("{}/a/b:v1", registry.host())).await.unwrap().digest, moved);
}

#[tokio::test]
async fn an_index_leads_to_the_platform() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let (amd, _) = registry.image("x", &[gzip(tar_of("f", b"amd64"))]);
    let (arm, _) = registry.image("y", &[gzip(tar_of("f", b"arm64"))]);
    let entry =
        |digest: &Digest, arch: &str| json!({"digest": digest, "platform": {"os": "linux", "architecture": arch}});
    let top = registry.manifest("multi", &json!({"manifests": [entry(&arm, "arm64"), entry(&amd, "amd64")]}));
    let name = format!("{}/a/b:multi", registry.host());
    let image = node.pull(&name).await.unwrap();
    assert_eq!(node.file(&image, 0, "f"), b"amd64");
    assert_eq!((image.target(), &image.digest), (&top, &amd));
    let by_index = format!("{}/a/b@{top}", registry.host());
    assert_eq!(node.store.find(&by_index).unwrap().unwrap().digest, amd, "a digest may be the index's");
    registry.manifest("only-arm", &json!({"manifests": [entry(&arm, "arm64")]}));
    let text = chain(&node.pull(&format!("{}/a/b:only-arm", registry.host())).await.unwrap_err());
    assert!(text.contains("has no image for linux/amd64, only for linux/arm64"), "{text}");
}

#[tokio::test]
async fn a_registry_that_stalls_is_named_and_the_next_pull_goes_on() {
    for ranges in [true, false] {
        let (registry, node) = (Hostile::start().await, Node::new());
        let content = noise(4, 400_000);
        let (_, blobs) = registry.image("v1", &[gzip(tar_of("f", &content))]);
        registry.fault(blobs[0].hex(), 1, Fault::Stall(100_000));
        registry.fault(blobs[0].hex(), 99, Fault::Stall(0));
        if !ranges {
            registry.without_ranges();
        }
        let name = format!("{}/a/b:v1", registry.host());
        let text = node.fails(&name).await;
        let want = format!("registry {}: layer {}: stalled: 0 of ", registry.host(), blobs[0]);
        assert!(text.starts_with(&want) && text.ends_with("bytes came, then none for 0.2s"), "{text}");
        let have = node.partials();
        assert!(have.len() == 1 && have[0] >= 100_000, "{have:?}");
        registry.heal();
        registry.log();
        let image = node.pull(&name).await.unwrap();
        assert!(node.file(&image, 0, "f") == content);
        let asked = format!("GET /v2/a/b/blobs/{} bytes={}- -", blobs[0], have[0]);
        assert!(registry.log().contains(&asked), "only the rest is asked for");
        assert_eq!(node.partials().len(), 0);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_from_where_it_was() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let content = noise(5, 500_000);
    let (_, blobs) = registry.image("v1", &[zstd(tar_of("f", &content))]);
    // More cuts than tries that bring nothing are borne: each of these brings something.
    registry.fault(blobs[0].hex(), 8, Fault::Cut(50_000));
    let image = node.pull(&format!("{}/a/b:v1", registry.host())).await.unwrap();
    assert!(node.file(&image, 0, "f") == content);
    let ranges = registry.log().iter().filter(|line| line.contains(" bytes=")).count();
    assert_eq!(ranges, 8);
    assert!(
        node.told
            .lock()
            .unwrap()
            .iter()
            .any(|one| matches!(one, Progress::Retrying { why, .. } if why.starts_with("truncated")))
    );
}

#[tokio::test]
async fn a_registry_that_truncates_for_ever_is_named() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let (_, blobs) = registry.image("v1", &[gzip(tar_of("f", &noise(6, 50_000)))]);
    registry.fault(blobs[0].hex(), 99, Fault::Cut(0));
    let text = node.fails(&format!("{}/a/b:v1", registry.host())).await;
    assert!(text.starts_with(&format!("registry {}: layer {}: truncated: 0 of ", registry.host(), blobs[0])), "{text}");
    registry.heal();
    registry.fault("/manifests/", 99, Fault::Cut(10));
    let text = node.fails(&format!("{}/a/b:v1", registry.host())).await;
    assert!(
        text.starts_with(&format!("registry {}: manifest v1 of a/b: truncated: 10 of ", registry.host())),
        "{text}"
    );
}

#[tokio::test]
async fn lies_about_digests_are_found_wherever_they_are() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let honest = gzip(tar_of("f", &noise(7, 50_000)));
    let (_, blobs) = registry.image("v1", std::slice::from_ref(&honest));
    let name = format!("{}/a/b:v1", registry.host());
    let mut other = honest.0.clone();
    *other.last_mut().unwrap() ^= 1;
    registry.fault(blobs[0].hex(), 99, Fault::Instead(other.clone()));
    let text = node.fails(&name).await;
    let want = format!(
        "registry {}: layer {}: sent content with digest {} instead of {}",
        registry.host(),
        blobs[0],
        Digest::of(&other),
        blobs[0]
    );
    assert_eq!(text, want);
    assert_eq!(node.partials(), [0], "what was wrong is not gone on with");
    registry.heal();
    let longer = [honest.0.clone(), vec![0; 5]].concat();
    registry.fault(blobs[0].hex(), 99, Fault::Instead(longer));
    let text = node.fails(&name).await;
    assert!(text.contains(&format!("sent more than {} bytes", honest.0.len())), "{text}");
    for fault in [Fault::WrongHeader, Fault::Instead(b"{\"manifests\": []}".to_vec())] {
        registry.heal();
        registry.fault("/manifests/", 99, fault);
        let text = node.fails(&name).await;
        assert!(text.contains(": manifest v1 of a/b: sent content with digest sha256:"), "{text}");
    }
    registry.heal();
    let absent = Digest::of(b"another manifest");
    registry.shared.manifests.lock().unwrap().insert(absent.to_string(), b"{}".to_vec());
    let text = node.fails(&format!("{}/a/b@{absent}", registry.host())).await;
    assert!(text.contains(&format!("instead of {absent}")), "{text}");
    // A configuration whose diff ID is another layer's.
    let wrong = (honest.0.clone(), tar_of("g", b"else"));
    registry.image("v2", &[wrong]);
    let text = node.fails(&format!("{}/a/b:v2", registry.host())).await;
    assert!(text.starts_with("unpacking layer sha256:") && text.contains("the image's configuration says"), "{text}");
    assert!(node.pull(&name).await.is_ok());
}

#[tokio::test]
async fn what_an_earlier_download_left_is_not_believed() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let content = noise(8, 200_000);
    let (_, blobs) = registry.image("v1", &[gzip(tar_of("f", &content))]);
    let partial = node.dir.path().join(format!("store/ingest/{}.partial", blobs[0].hex()));
    for left in [vec![7u8; 100_000], vec![0; 10_000_000]] {
        let fresh = Node::new();
        let partial = fresh.dir.path().join(partial.strip_prefix(node.dir.path()).unwrap());
        fs::write(partial, left).unwrap();
        let image = fresh.pull(&format!("{}/a/b:v1", registry.host())).await.unwrap();
        assert!(fresh.file(&image, 0, "f") == content);
    }
}

#[tokio::test]
async fn tokens_are_asked_for_kept_and_renewed() {
    let (registry, node) = (Hostile::start().await, Node::new());
    registry.door(Door::Token(Some("user:pass")));
    registry.image("v1", &[gzip(tar_of("f", b"1"))]);
    let name = format!("{}/a/b:v1", registry.host());
    let text = node.fails(&name).await;
    let want = format!(
        "registry {0}: manifest v1 of a/b: token from http://{0}/token: authorization is required and there are no credentials for it: wrong password",
        registry.host()
    );
    assert_eq!(text, want);
    let (wrong, right) = (Credential::password("user", "no"), Credential::password("user", "pass"));
    let text = chain(&node.pull_as(&name, std::slice::from_ref(&wrong)).await.unwrap_err());
    assert!(text.contains("the credentials were refused: wrong password") && !text.contains("no:"), "{text}");
    registry.log();
    node.pull_as(&name, &[wrong, right.clone()]).await.unwrap();
    let log = registry.log();
    assert_eq!(log.iter().filter(|line| line.starts_with("GET /token")).count(), 2, "{log:#?}");
    registry.forget_tokens();
    registry.image("v2", &[gzip(tar_of("f", b"2"))]);
    node.pull_as(&format!("{}/a/b:v2", registry.host()), &[right]).await.unwrap();
    assert_eq!(registry.log().iter().filter(|line| line.starts_with("GET /token")).count(), 1);
    // Some give tokens to anybody.
    registry.door(Door::Token(None));
    registry.forget_tokens();
    assert!(Node::new().pull(&name).await.is_ok());
}

#[tokio::test]
async fn passwords_go_where_the_file_says() {
    let registry = Hostile::start().await;
    registry.door(Door::Basic("user:pass"));
    registry.image("v1", &[gzip(tar_of("f", b"1"))]);
    let name = format!("{}/a/b:v1", registry.host());
    let text = Node::new().fails(&name).await;
    assert!(
        text.ends_with("authorization is required and there are no credentials for it: authentication required"),
        "{text}"
    );
    let yaml = |password: &str| {
        format!("configs: {{\"{}\": {{auth: {{username: user, password: {password}}}}}}}", registry.host())
    };
    assert!(Node::with(&yaml("pass")).pull(&name).await.is_ok());
    let text = Node::with(&yaml("other")).fails(&name).await;
    assert!(text.ends_with("the credentials were refused: authentication required"), "{text}");
}

#[tokio::test]
async fn a_redirect_takes_no_credentials_along() {
    let (registry, store) = (Hostile::start().await, Hostile::start().await);
    registry.door(Door::Basic("user:pass"));
    let layers = [gzip(tar_of("f", &noise(9, 10_000)))];
    let (_, blobs) = registry.image("v1", &layers);
    store.image("v1", &layers);
    registry.fault("/blobs/", 99, Fault::Redirect(format!("http://{}", store.host())));
    let node = Node::new();
    let credentials = [Credential::password("user", "pass")];
    let name = format!("{}/a/b:v1", registry.host());
    node.pull_as(&name, &credentials).await.unwrap();
    let log = store.log();
    assert!(log.contains(&format!("GET /v2/a/b/blobs/{} - -", blobs[0])), "{log:#?}");
    assert!(log.iter().all(|line| line.ends_with(" -")), "the other host learns no password: {log:#?}");
    registry.heal();
    registry.fault("/blobs/", 99, Fault::Redirect(format!("http://{}", registry.host())));
    let text = chain(&Node::new().pull_as(&name, &credentials).await.unwrap_err());
    assert!(text.contains("there were too many redirects"), "{text}");
}

#[tokio::test]
async fn refusals_are_told_in_the_registrys_words() {
    let (registry, node) = (Hostile::start().await, Node::new());
    registry.image("v1", &[gzip(tar_of("f", b"1"))]);
    let text = node.fails(&format!("{}/a/b:absent", registry.host())).await;
    assert_eq!(text, format!("registry {}: manifest absent of a/b: 404 Not Found: manifest unknown", registry.host()));
    let name = format!("{}/a/b:v1", registry.host());
    registry.fault("/manifests/", 99, Fault::Status(503, "down for cleaning", None));
    let text = node.fails(&name).await;
    assert!(text.ends_with("503 Service Unavailable: down for cleaning"), "{text}");
    registry.heal();
    registry.fault("/manifests/", 1, Fault::Status(429, "slow down", Some("3600")));
    assert!(node.fails(&name).await.ends_with("429 Too Many Requests: slow down"), "nobody waits an hour");
    registry.heal();
    registry.fault("/", 2, Fault::Status(429, "slow down", Some("0")));
    node.pull(&name).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let node = Node::new();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = node.pull(&format!("{address}/a/b:v1")).await.unwrap_err();
    assert!(error.is_unavailable());
    let want = format!("registry {address}: manifest v1 of a/b: cannot connect: Connection refused (os error 111)");
    assert_eq!(chain(&error), want);
    let silent = Hostile::start().await;
    silent.image("v1", &[]);
    silent.fault("/", 99, Fault::Silent);
    let error = node.pull(&format!("{}/a/b:v1", silent.host())).await.unwrap_err();
    assert!(error.is_unavailable() && chain(&error).ends_with("no answer within 0.2s"), "{}", chain(&error));
    node.holds_nothing();
}

#[tokio::test]
async fn documents_have_bounds() {
    let (registry, node) = (Hostile::start().await, Node::new());
    registry.image("v1", &[gzip(tar_of("f", b"1"))]);
    let name = format!("{}/a/b:v1", registry.host());
    registry.fault("/manifests/", 99, Fault::Endless);
    assert!(node.fails(&name).await.ends_with("manifest v1 of a/b: sent more than 4194304 bytes"));
    registry.heal();
    registry.fault("/manifests/", 99, Fault::Instead(vec![b' '; (4 << 20) + 1]));
    assert!(node.fails(&name).await.ends_with("sent more than 4194304 bytes"));
    registry.heal();
    let layer = json!({"digest": Digest::of(b"x"), "size": 1u64 << 40});
    registry.manifest("huge", &json!({"config": registry.blob(b"{}"), "layers": [layer]}));
    let text = node.fails(&format!("{}/a/b:huge", registry.host())).await;
    assert!(text.ends_with("has 1099511627776 bytes, at most 34359738368 are taken"), "{text}");
    registry.manifest("old", &json!({"schemaVersion": 1, "fsLayers": []}));
    assert!(node.fails(&format!("{}/a/b:old", registry.host())).await.contains("schema 1"));
    let mut nested = registry.manifest("n", &json!({"manifests": []}));
    for _ in 0..4 {
        nested = registry.manifest("n", &json!({"manifests": [{"digest": nested}]}));
    }
    assert!(node.fails(&format!("{}/a/b:n", registry.host())).await.ends_with("nests indexes deeper than 3"));
}

#[tokio::test]
async fn mirrors_stand_in_for_registries_and_for_each_other() {
    let (empty, liar, good) = (Hostile::start().await, Hostile::start().await, Hostile::start().await);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let layers = [gzip(tar_of("f", &noise(10, 30_000)))];
    let (digest, blobs) = liar.image("v1", &layers);
    good.image("v1", &layers);
    let yaml = format!(
        "mirrors: {{docker.io: {{endpoint: ['http://{nobody}', 'http://{}', 'http://{}', 'http://{}'], rewrite: {{'^library/(.*)': 'cache/$1'}}}}}}",
        empty.host(),
        liar.host(),
        good.host()
    );
    let node = Node::with(&yaml);
    liar.fault(blobs[0].hex(), 99, Fault::Instead(b"something else".to_vec()));
    let image = node.pull("nginx:v1").await.unwrap();
    assert_eq!((image.name.as_str(), &image.digest), ("docker.io/library/nginx:v1", &digest));
    assert_eq!(empty.log(), ["GET /v2/cache/nginx/manifests/v1?ns=docker.io - -"]);
    assert!(good.log().iter().any(|line| line.contains(blobs[0].hex())), "what one lied about, the next gives");
}

#[tokio::test]
async fn pulls_beside_each_other_fetch_each_layer_once() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let shared = gzip(tar_of("shared", &noise(11, 300_000)));
    let (_, blobs) = registry.image("one", &[shared.clone(), gzip(tar_of("f", b"1"))]);
    // The same layer twice in one image is no trouble either.
    registry.image("two", &[shared.clone(), gzip(tar_of("f", b"2")), shared.clone()]);
    let names = ["one", "two", "one"].map(|tag| format!("{}/a/b:{tag}", registry.host()));
    let (a, b, c) = tokio::join!(node.pull(&names[0]), node.pull(&names[1]), node.pull(&names[2]));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    let fetched = registry.log().iter().filter(|line| line.contains(blobs[0].hex())).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn a_pull_that_is_dropped_leaves_what_the_next_goes_on_with() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let content = noise(12, 400_000);
    let (_, blobs) = registry.image("v1", &[gzip(tar_of("f", &content))]);
    registry.fault(blobs[0].hex(), 1, Fault::Stall(150_000));
    let name = format!("{}/a/b:v1", registry.host());
    let dropped = tokio::time::timeout(MOMENT / 2, node.pull(&name)).await;
    assert!(dropped.is_err());
    let image = node.pull(&name).await.unwrap();
    assert!(node.file(&image, 0, "f") == content);
    assert!(registry.log().iter().any(|line| line.contains(" bytes=")));
    assert_eq!(node.entries("l"), 1, "the unpacking that was dropped is gone");
}

#[tokio::test]
async fn a_collection_beside_a_pull_takes_nothing_of_it() {
    let (registry, node) = (Hostile::start().await, Node::new());
    let old = registry.image("old", &[gzip(tar_of("f", b"old"))]).0;
    let content = noise(13, 400_000);
    let (_, blobs) = registry.image("v1", &[gzip(tar_of("first", b"1")), gzip(tar_of("f", &content))]);
    node.pull(&format!("{}/a/b:old", registry.host())).await.unwrap();
    registry.fault(blobs[1].hex(), 1, Fault::Stall(150_000));
    let name = format!("{}/a/b:v1", registry.host());
    let told = Arc::clone(&node.told);
    let collect = async {
        // The first layer is there and the second on its way.
        while !told.lock().unwrap().contains(&Progress::Unpacked(blobs[0].clone())) {
            tokio::task::yield_now().await;
        }
        node.store.remove(&format!("{}/a/b@{old}", registry.host())).unwrap();
    };
    let (image, ()) = tokio::join!(node.pull(&name), collect);
    let image = image.unwrap();
    assert!(node.store.is_whole(&image) && node.file(&image, 1, "f") == content);
    assert_eq!(registry.log().iter().filter(|line| line.contains(blobs[0].hex())).count(), 1);
}

/// An authority, and a server that it vouches for; the server asks for a certificate of the same authority if `mutual`.
fn authority(mutual: bool) -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>, rustls::ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = parameters.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match mutual {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(own.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (own, issuer, builder.with_single_cert(vec![server.der().clone()], key).unwrap())
}

#[tokio::test]
async fn only_who_is_vouched_for_is_trusted() {
    let registry = Hostile::start().await;
    registry.image("v1", &[gzip(tar_of("f", b"1"))]);
    let (ca, _, config) = authority(false);
    let address = registry.serve_tls(config).await;
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    fs::write(&ca_file, ca.pem()).unwrap();
    let yaml = |tls: &str| {
        let endpoint = format!("mirrors: {{\"127.0.0.1:1\": {{endpoint: ['https://{address}']}}}}");
        format!("{endpoint}\nconfigs: {{\"{address}\": {{tls: {{{tls}}}}}}}")
    };
    let text = chain(&Node::with(&yaml("")).pull("127.0.0.1:1/a/b:v1").await.unwrap_err());
    assert!(
        text.starts_with(&format!("registry {address}: manifest v1 of a/b: cannot connect: invalid peer certificate")),
        "{text}"
    );
    let clear = format!("mirrors: {{\"127.0.0.1:1\": {{endpoint: ['https://{}']}}}}", registry.host());
    let text = chain(&Node::with(&clear).pull("127.0.0.1:1/a/b:v1").await.unwrap_err());
    assert!(text.contains("cannot connect: it does not speak TLS; "), "{text}");
    assert!(Node::with(&yaml(&format!("ca_file: {}", ca_file.display()))).pull("127.0.0.1:1/a/b:v1").await.is_ok());
    assert!(Node::with(&yaml("insecure_skip_verify: true")).pull("127.0.0.1:1/a/b:v1").await.is_ok());
    let text = chain(&Node::with(&yaml("ca_file: /nonexistent")).pull("127.0.0.1:1/a/b:v1").await.unwrap_err());
    assert!(text.starts_with(&format!("configs[\"{address}\"].tls.ca_file: /nonexistent: ")), "{text}");
}

#[tokio::test]
async fn a_certificate_of_our_own_is_shown() {
    let registry = Hostile::start().await;
    registry.image("v1", &[gzip(tar_of("f", b"1"))]);
    let (ca, issuer, config) = authority(true);
    let address = registry.serve_tls(config).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(["node".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, cert, key) = (file("ca", ca.pem()), file("cert", own.pem()), file("key", key.serialize_pem()));
    let yaml = |more: &str| {
        format!(
            "mirrors: {{\"127.0.0.1:1\": {{endpoint: ['https://{address}']}}}}\nconfigs: {{\"{address}\": {{tls: {{ca_file: {ca}{more}}}}}}}"
        )
    };
    let name = "127.0.0.1:1/a/b:v1";
    assert!(Node::with(&yaml("")).pull(name).await.is_err());
    assert!(Node::with(&yaml(&format!(", cert_file: {cert}, key_file: {key}"))).pull(name).await.is_ok());
}
