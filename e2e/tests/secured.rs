//! What is written down of requests, and Secrets that the disk does not show.

use std::path::Path;

use base64::Engine as _;
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::Value;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources: [{resources: [secrets]}]
- level: RequestResponse
  verbs: [create]
  namespaces: [default]
  resources: [{resources: [configmaps]}]
";

fn encryption(keys: &[(&str, u8)]) -> String {
    let keys = keys.iter().map(|(name, byte)| {
        let secret = base64::engine::general_purpose::STANDARD.encode([*byte; 32]);
        format!("{{name: {name}, secret: {secret}}}")
    });
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]\n",
        keys.collect::<Vec<_>>().join(", ")
    )
}

fn holds(dir: &Path, text: &str) -> bool {
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else {
            let bytes = std::fs::read(&path).expect("a file");
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                return true;
            }
        }
    }
    false
}

#[test]
fn requests_are_written_down_and_secrets_are_not_readable_on_the_disk() {
    need!(machine::root());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(file("policy.yaml"), POLICY).expect("a file");
    std::fs::write(file("keys.yaml"), encryption(&[("one", 1)])).expect("a file");
    let flags = [
        "--disable-agent".to_owned(),
        format!("--audit-policy-file={}", file("policy.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
        format!("--encryption-provider-config={}", file("keys.yaml")),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::start_with(&[], &flags);
    let gantry = cluster.gantry();
    gantry.run(&["create", "secret", "generic", "s", "--from-literal=k=very-hidden-text"]).ok();
    gantry.run(&["create", "configmap", "c", "--from-literal=k=seen"]).ok();
    let store = cluster.data_dir().join("server/store");
    let hidden = base64::engine::general_purpose::STANDARD.encode("very-hidden-text");
    assert!(holds(&store, "k8s:enc:aesgcm:v1:one:") && !holds(&store, &hidden), "the store shows the Secret");

    // Another key is first now: what is there is written again with it, and the old one is needed no more.
    cluster.stop_server();
    std::fs::write(file("keys.yaml"), encryption(&[("two", 2), ("one", 1)])).expect("a file");
    cluster.start_server();
    cluster.stop_server();
    std::fs::write(file("keys.yaml"), encryption(&[("two", 2)])).expect("a file");
    cluster.start_server();
    let secret = cluster.gantry().get(&["secret", "s"]);
    assert_eq!(secret["data"]["k"], hidden);
    cluster.stop_server();

    let log = std::fs::read_to_string(file("audit.log")).expect("the log");
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let of = |plural: &str, fits: &dyn Fn(&Value) -> bool| {
        let mut made = events.iter().filter(|e| e["objectRef"]["resource"] == plural && e["verb"] == "create");
        made.find(|event| fits(event)).unwrap_or_else(|| panic!("{plural} in {log}")).clone()
    };
    let secret = of("secrets", &|_| true);
    assert_eq!((secret["level"].as_str(), secret.get("requestObject")), (Some("Metadata"), None));
    assert_eq!(secret["user"]["username"], "system:admin");
    assert_eq!(secret["responseStatus"]["code"], 201);
    let map = of("configmaps", &|event| event["requestObject"]["metadata"]["name"] == "c");
    assert_eq!(
        (&map["requestObject"]["data"]["k"], &map["responseObject"]["data"]["k"]),
        (&"seen".into(), &"seen".into())
    );
    assert_eq!(map["stage"], "ResponseComplete");
    assert!(map["sourceIPs"][0] == "127.0.0.1" && map["auditID"].is_string());
    assert!(!log.contains(&hidden) && !log.contains("very-hidden-text"));
}
