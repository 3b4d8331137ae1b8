//! Images from a registry, as pods see them: Debian's docker-registry with a password, and registries that misbehave.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// `htpasswd -Bbn user pass`.
const HTPASSWD: &str = "user:$2y$05$Ov2HWpwBZDUGrr.dgOARCeaxU/L5n6ra01v3ilHxN2dmaRDyrGAoe\n";

/// A registry that ends with the value.
struct Registry {
    process: Child,
    address: SocketAddr,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended of itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, machine::free_port(10_000..20_000)).into()
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let address = free_address();
        let (passwords, config) = (dir.join("htpasswd"), dir.join("config.yml"));
        fs::write(&passwords, HTPASSWD).expect("a file");
        let settings = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            dir.join("data").display(),
            passwords.display()
        );
        fs::write(&config, settings).expect("a file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { process: command.spawn().expect("checked by need!"), address };
        eventually("the registry listens", SOON, || TcpStream::connect(address).is_ok().then_some(()));
        registry
    }

    fn push(&self, layout: &Path, name: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds", "user:pass"])
            .args(["--dest-compress-format", "zstd"])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output();
        let output = output.expect("checked by need!");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A registry that answers every request with a manifest that is not what its header says.
fn liar() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&connection).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let digest = "0".repeat(64);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\ndocker-content-digest: sha256:{digest}\r\n\r\n{{}}"
            );
            // A client that went away is no matter.
            drop((&connection).write_all(answer.as_bytes()));
        }
    });
    address
}

fn pod(name: &str, image: &str, policy: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image, "imagePullPolicy": policy,
            "command": ["sh", "-c", "echo here"]}]}})
}

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn succeeded(client: &Client, name: &str) -> Value {
    eventually(&format!("pod {name} succeeded"), SOON, || {
        let pod = client.get(&["pod", name]);
        (pod["status"]["phase"] == "Succeeded").then_some(pod)
    })
}

/// What the pod's container waits for, once it is this.
fn waiting(client: &Client, name: &str, reason: &str) -> String {
    eventually(&format!("pod {name} is waiting for {reason}"), SOON, || {
        let waiting = &client.get(&["pod", name])["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// `REASON: MESSAGE` of the events about a pod.
fn events(client: &Client, name: &str) -> Vec<String> {
    let list = client.get(&["events", "--field-selector", &format!("involvedObject.name={name}")]);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|event| format!("{}: {}", text(event, "reason"), text(event, "message"))).collect()
}

fn has_event(client: &Client, name: &str, start: &str) {
    eventually(&format!("an event {start:?} about {name}"), SOON, || {
        events(client, name).iter().any(|event| event.starts_with(start)).then_some(())
    });
}

#[test]
fn c284_a_registry_that_misbehaves_is_named_and_the_rest_works() {
    need!(machine::root());
    need!(machine::program("docker-registry"));
    need!(machine::program("skopeo"));
    let layout = machine::image("busybox").expect("hack/image makes the sample image");
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path());
    registry.push(&layout, "library/busybox:v1");
    registry.push(&layout, "team/busybox:v1");
    let file = dir.path().join("registries.yaml");
    // Two names for it that nobody else has; one comes with a password.
    let yaml = format!(
        "mirrors:\n  '127.0.0.1:1':\n    endpoint: ['http://{0}']\n  '127.0.0.1:2':\n    endpoint: ['http://localhost:{1}']\n    rewrite: {{'^cached/(.*)': 'library/$1'}}\nconfigs:\n  'localhost:{1}':\n    auth: {{username: user, password: pass}}\n",
        registry.address,
        registry.address.port()
    );
    fs::write(&file, yaml).expect("a file");
    let cluster = Cluster::start_with(&[], &["--registries", &file.display().to_string()]);
    let client = cluster.gantry();
    let image = format!("{}/team/busybox:v1", registry.address);
    secrets(&client, &image, &registry.address.to_string());
    failures(&client, &image, &registry.address.to_string());
    by_hand(&cluster, &registry.address.to_string());
}

fn secrets(client: &Client, image: &str, registry: &str) {
    apply(client, &pod("stranger", image, "Always"));
    let message = waiting(client, "stranger", "ErrImagePull");
    assert!(message.starts_with(&format!("registry {registry}: manifest v1 of team/busybox: ")), "{message}");
    assert!(message.contains("authorization is required and there are no credentials"), "{message}");
    let message = waiting(client, "stranger", "ImagePullBackOff");
    assert!(message.starts_with(&format!("Back-off pulling image {image:?}: ErrImagePull: registry ")), "{message}");
    for event in [
        format!("Pulling: Pulling image {image:?}"),
        format!("Failed: Failed to pull image {image:?}: registry {registry}: "),
        "Failed: Error: ErrImagePull".to_owned(),
        format!("BackOff: Back-off pulling image {image:?}"),
        "Failed: Error: ImagePullBackOff".to_owned(),
    ] {
        has_event(client, "stranger", &event);
    }
    let auths = json!({"auths": {registry: {"username": "user", "password": "pass"}}}).to_string();
    apply(
        client,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": auths}}),
    );
    let mut friend = pod("friend", image, "Always");
    friend["spec"]["imagePullSecrets"] = json!([{"name": "absent"}, {"name": "pull"}]);
    apply(client, &friend);
    let ended = succeeded(client, "friend");
    let status = &ended["status"]["containerStatuses"][0];
    let id = status["imageID"].as_str().unwrap_or_default();
    assert!(id.starts_with(&format!("{registry}/team/busybox@sha256:")), "{id}");
    assert_eq!(status["image"], image);
    has_event(client, "friend", &format!("Pulled: Successfully pulled image {image:?} in "));
    has_event(client, "friend", "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (absent)");
    // An image that is a volume is asked for as those of containers are.
    let mut shown = pod("shown", image, "IfNotPresent");
    shown["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    shown["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": image, "pullPolicy": "Always"}}]);
    shown["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    shown["spec"]["containers"][0]["command"] = json!(["cat", "/v/www/index.html"]);
    apply(client, &shown);
    succeeded(client, "shown");
    // The service account's secrets are the pod's.
    apply(
        client,
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"}, "imagePullSecrets": [{"name": "pull"}]}),
    );
    let mut of_account = pod("of-account", image, "Always");
    of_account["spec"]["serviceAccountName"] = "puller".into();
    apply(client, &of_account);
    succeeded(client, "of-account");
    // What is here needs nobody's leave.
    apply(client, &pod("present", image, "IfNotPresent"));
    succeeded(client, "present");
    has_event(client, "present", &format!("Pulled: Container image {image:?} already present on machine"));
}

fn failures(client: &Client, image: &str, registry: &str) {
    let (nobody, liar) = (free_address(), liar());
    let absent = format!("{registry}/team/absent:v1");
    for (name, image, secret, told) in [
        (
            "nobody",
            format!("{nobody}/a:v1"),
            false,
            format!("registry {nobody}: manifest v1 of a: cannot connect: Connection refused"),
        ),
        (
            "liar",
            format!("{liar}/a:v1"),
            false,
            format!("registry {liar}: manifest v1 of a: sent content with digest sha256:"),
        ),
        ("absent", absent, true, "404 Not Found: manifest unknown".to_owned()),
    ] {
        let mut wanted = pod(name, &image, "IfNotPresent");
        if secret {
            wanted["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
        }
        apply(client, &wanted);
        let message = waiting(client, name, "ErrImagePull");
        assert!(message.contains(&told), "{name}: {message}");
    }
    apply(client, &pod("misnamed", "Upper/Case", "IfNotPresent"));
    assert!(waiting(client, "misnamed", "InvalidImageName").contains("couldn't parse image name \"Upper/Case\""));
    let digest = image.replace(":v1", &format!("@sha256:{}", "0".repeat(64)));
    apply(client, &pod("never", &digest, "Never"));
    assert!(waiting(client, "never", "ErrImageNeverPull").contains("is not present with pull policy of Never"));
    let all = ["stranger", "nobody", "liar", "absent", "misnamed", "never"];
    let mut delete = vec!["delete", "pod", "--now"];
    delete.extend(all);
    client.run(&delete).ok();
}

/// `gantry image pull` beside the running agent; and a pod through a mirror with what it brought.
fn by_hand(cluster: &Cluster, registry: &str) {
    let gantry = |args: &[&str], input: &str| {
        let data = cluster.data_dir().display().to_string();
        let mut all = args.to_vec();
        all.extend(["--data-dir", &data]);
        cluster.gantry().run_with(&all, input)
    };
    let name = format!("{registry}/library/busybox:v1");
    let said = gantry(&["image", "pull", &name, "--username", "user", "--password-stdin"], "wrong\n");
    assert!(said.code == 1 && said.err.contains("the credentials were refused"), "{}", said.err);
    let said = gantry(&["image", "pull", &name, "--username", "user", "--password-stdin"], "pass\n");
    assert!(said.ok().starts_with(&format!("{name} sha256:")));
    let listed = gantry(&["image", "list"], "").ok();
    assert!(listed.lines().any(|line| line.contains("library/busybox") && line.ends_with("no")), "{listed}");
    let client = cluster.gantry();
    // This mirror wants a password that the file does not give; the pod's secret is not for it.
    let mut mirrored = pod("mirrored", "127.0.0.1:1/library/busybox:v1", "IfNotPresent");
    mirrored["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    apply(&client, &mirrored);
    let message = waiting(&client, "mirrored", "ErrImagePull");
    assert!(message.starts_with(&format!("registry {registry}: manifest v1 of library/busybox: ")), "{message}");
    assert!(message.contains("; registry 127.0.0.1:1: "), "the registry itself is asked last: {message}");
    // For this one it does.
    apply(&client, &pod("cached", "127.0.0.1:2/cached/busybox:v1", "IfNotPresent"));
    let ended = succeeded(&client, "cached");
    let id = ended["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
    assert!(id.starts_with("127.0.0.1:2/cached/busybox@sha256:"), "{id}");
    client.run(&["delete", "pod", "mirrored", "--now"]).ok();
}
