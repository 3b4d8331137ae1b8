//! Lines 164 to 169: certificates of pods, from a signer of the tests' own, and what they leave out.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::api::{Api, Patch};
use e2e::machine;
use e2e::need;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, SerialNumber,
};
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use crate::{Pods, container, pod};

const GROUP: &str = "certificates.k8s.io/v1";
/// What a pod may tell the signer: the path of its SPIFFE name.
const PATH: &str = "signer.example.com/path";

/// A signer that answers the requests of one namespace until dropped.
struct Signer {
    name: String,
    trust: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a signer answers.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Sign,
    /// Signs what is to be renewed after so many seconds.
    Short(i64),
    Deny,
}

impl Signer {
    async fn start(pods: &Pods, answer: Answer) -> Self {
        let name = format!("{}.example.com/mesh", pods.api.namespace);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the tests' authority");
        let key = KeyPair::generate().expect("a key");
        let trust = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let collection = pods.api.path(GROUP, "podcertificaterequests");
        let mut events = pods.api.watch(&collection).await;
        let api = pods.api.clone();
        let (own, namespace) = (name.clone(), pods.api.namespace.clone());
        let task = tokio::spawn(async move {
            loop {
                // How long nobody asks is the test's business.
                let told = events.within(Duration::from_secs(3600)).await;
                let (kind, request) = told.expect("requests are told for as long as the test takes");
                let is_new = request["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
                if kind != "DELETED" && is_new && request["spec"]["signerName"] == own {
                    let path =
                        format!("{collection}/{}/status", request["metadata"]["name"].as_str().unwrap_or_default());
                    let status = match answer {
                        Answer::Deny => ended("Denied", "NotToday", "ask somebody else"),
                        Answer::Sign => sign(&issuer, &namespace, &request["spec"], None),
                        Answer::Short(seconds) => sign(&issuer, &namespace, &request["spec"], Some(seconds)),
                    };
                    api.patch(&path, Patch::Merge, json!({"status": status})).await.ok();
                }
            }
        });
        Self { name, trust, task }
    }
}

fn ended(kind: &str, reason: &str, message: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": Timestamp::now().to_string()}]})
}

fn sign(issuer: &Issuer<'_, KeyPair>, namespace: &str, spec: &Value, refresh: Option<i64>) -> Value {
    let stub = STANDARD.decode(spec["stubPKCS10Request"].as_str().expect("a request")).expect("base64");
    let mut request = CertificateSigningRequestParams::from_der(&stub.into()).expect("a PKCS#10 request");
    let params = &mut request.params;
    let pod = spec["podName"].as_str().expect("a name");
    let path = spec["unverifiedUserAnnotations"][PATH].as_str().unwrap_or("none");
    let name = |text: String| text.try_into().expect("ASCII");
    params.subject_alt_names = vec![
        SanType::DnsName(name(pod.to_owned())),
        SanType::URI(name(format!("spiffe://example.com/{namespace}/{path}"))),
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 8]>()));
    let seconds = spec["maxExpirationSeconds"].as_i64().expect("a life");
    let from = Timestamp::from_second(Timestamp::now().as_second()).expect("a time");
    let at = |seconds: i64| from + SignedDuration::from_secs(seconds);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let of = |time: Timestamp| epoch + Duration::from_secs(time.as_second().unsigned_abs());
    (params.not_before, params.not_after) = (of(from), of(at(seconds)));
    let mut status = ended("Issued", "Signed", "signed by the tests");
    status["certificateChain"] = request.signed_by(issuer).expect("a certificate").pem().into();
    status["notBefore"] = from.to_string().into();
    status["notAfter"] = at(seconds).to_string().into();
    status["beginRefreshAt"] = at(refresh.unwrap_or(seconds * 2 / 3)).to_string().into();
    status
}

/// A projected volume of one certificate, and what else is wanted of it.
fn volume(signer: &str, source: Value) -> Value {
    let mut own = json!({"signerName": signer, "keyType": "ECDSAP256"});
    for (key, value) in source.as_object().expect("fields") {
        own[key] = value.clone();
    }
    json!({"name": "v", "projected": {"sources": [{"podCertificate": own}]}})
}

fn with(mut pod: Value, volume: Value) -> Value {
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    pod["spec"]["volumes"] = json!([volume]);
    pod
}

/// The seconds between the times of a certificate, and its URIs.
fn read(bundle: &str) -> (i64, Vec<String>) {
    let blocks: Vec<Pem> = Pem::iter_from_buffer(bundle.as_bytes()).map(|block| block.expect("PEM")).collect();
    let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
    assert_eq!(labels, ["PRIVATE KEY", "CERTIFICATE"]);
    let certificate = blocks[1].parse_x509().expect("a certificate");
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().expect("well formed").expect("names");
    let uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    (validity.not_after.timestamp() - validity.not_before.timestamp(), uris.collect())
}

/// What a pod finds in its bundle.
async fn bundle(name: &str, source: Value) -> (String, Value) {
    let pods = Pods::new(name).await;
    let signer = Signer::start(&pods, Answer::Sign).await;
    let mut own = source;
    own["credentialBundlePath"] = "bundle.pem".into();
    let mut shows = pod("p", &[container("c", "cat /v/bundle.pem")]);
    shows["spec"]["restartPolicy"] = "Never".into();
    pods.create(with(shows, volume(&signer.name, own))).await;
    assert_eq!(pods.ended("p").await["status"]["phase"], "Succeeded");
    let requests = pods.api.get(&pods.api.path(GROUP, "podcertificaterequests")).await.ok();
    assert_eq!(requests["items"].as_array().map(Vec::len), Some(1), "one pod asks once");
    (pods.api.log("p", "c").await, requests["items"][0].clone())
}

#[tokio::test]
async fn c164_a_certificate_lives_a_day_if_nothing_is_said() {
    need!(machine::root());
    let (bundle, request) = bundle("cert-day", json!({})).await;
    assert_eq!(request["spec"]["maxExpirationSeconds"], 86_400);
    assert_eq!(read(&bundle).0, 86_400);
}

#[tokio::test]
async fn c165_a_certificate_lives_as_long_as_was_asked_for() {
    need!(machine::root());
    let (bundle, request) = bundle("cert-hour", json!({"maxExpirationSeconds": 3600})).await;
    assert_eq!(request["spec"]["maxExpirationSeconds"], 3600);
    assert_eq!(read(&bundle).0, 3600);
}

/// What is said of a pod whose certificate is to live so long.
async fn refused(name: &str, seconds: i64) -> String {
    let pods = Pods::new(name).await;
    let api: &Api = &pods.api;
    let source = json!({"maxExpirationSeconds": seconds, "keyPath": "key.pem"});
    let pod = with(pod("p", &[container("c", "true")]), volume("example.com/nobody", source));
    api.post(&api.path("v1", "pods"), pod).await.refused(422)
}

#[tokio::test]
async fn c166_no_certificate_lives_longer_than_91_days() {
    need!(machine::root());
    let said = refused("cert-long", 91 * 86_400 + 1).await;
    assert!(said.contains("podCertificate.maxExpirationSeconds: Invalid value"), "{said}");
}

#[tokio::test]
async fn c167_no_certificate_lives_less_than_an_hour() {
    need!(machine::root());
    let said = refused("cert-short", 3599).await;
    assert!(said.contains("podCertificate.maxExpirationSeconds: Invalid value"), "{said}");
}

#[tokio::test]
async fn c169_what_a_pod_tells_its_signer_is_in_its_certificate() {
    need!(machine::root());
    let (bundle, request) = bundle("cert-told", json!({"userAnnotations": {PATH: "shop/till"}})).await;
    assert_eq!(request["spec"]["unverifiedUserAnnotations"][PATH], "shop/till");
    let namespace = request["metadata"]["namespace"].as_str().expect("a namespace");
    assert_eq!(read(&bundle).1, [format!("spiffe://example.com/{namespace}/shop/till")]);
}

#[tokio::test]
async fn c168_a_server_and_a_client_know_one_another() {
    need!(machine::root());
    let pods = Pods::new("cert-both").await;
    let signer = Signer::start(&pods, Answer::Sign).await;
    let trust = json!({"metadata": {"name": format!("{}:all", signer.name.replace('/', ":")), "labels": {"live": "yes"}},
        "spec": {"signerName": signer.name, "trustBundle": signer.trust}});
    pods.api.post(&format!("/apis/{GROUP}/clustertrustbundles"), trust).await.ok();
    let files = json!({"keyPath": "key.pem", "certificateChainPath": "chain.pem"});
    let both = |own: Value| {
        let mut volume = volume(&signer.name, files.clone());
        let sources = volume["projected"]["sources"].as_array_mut().expect("sources");
        sources.push(json!({"clusterTrustBundle": {"signerName": signer.name, "path": "trust.pem",
            "labelSelector": {"matchLabels": {"live": "yes"}}}}));
        with(own, volume)
    };
    let of_etcd = |script: &str| {
        let mut own = container("c", script);
        own["image"] = "etcd".into();
        own["command"][0] = "/bin/sh".into();
        own
    };
    let mut server = pod(
        "server",
        &[of_etcd(
            "exec /usr/bin/etcd --data-dir /tmp/e --listen-client-urls https://0.0.0.0:2379 \
             --advertise-client-urls https://server:2379 --client-cert-auth --trusted-ca-file /v/trust.pem \
             --cert-file /v/chain.pem --key-file /v/key.pem",
        )],
    );
    server["metadata"]["labels"] = json!({"app": "server"});
    pods.create(both(server)).await;
    let service =
        json!({"metadata": {"name": "server"}, "spec": {"selector": {"app": "server"}, "ports": [{"port": 2379}]}});
    pods.api.post(&pods.api.path("v1", "services"), service).await.ok();
    pods.ready("server").await;
    let ask = "export ETCDCTL_API=3; E='/usr/bin/etcdctl --dial-timeout=2s --command-timeout=3s --endpoints https://server:2379 --cacert /v/trust.pem'; \
        until $E --cert /v/chain.pem --key /v/key.pem put greeting hello; do sleep 0.2; done; \
        until $E --cert /v/chain.pem --key /v/key.pem get greeting --print-value-only; do sleep 0.2; done; \
        $E get greeting --print-value-only && echo strangers are served; echo done";
    let mut client = pod("client", &[of_etcd(ask)]);
    client["spec"]["restartPolicy"] = "Never".into();
    pods.create(both(client)).await;
    pods.ended("client").await;
    let log = pods.api.log("client", "c").await;
    let has = |line: &str| log.lines().any(|own| own == line);
    assert!(has("OK") && has("hello") && has("done"), "{log}");
    assert!(!has("strangers are served"), "{log}");
}

#[tokio::test]
async fn a_renewed_certificate_reaches_the_running_pod() {
    need!(machine::root());
    let pods = Pods::new("cert-renewed").await;
    let signer = Signer::start(&pods, Answer::Short(3)).await;
    let script = "while true; do now=$(md5sum </v/bundle.pem); [ \"$now\" = \"$last\" ] || echo new; last=$now; usleep 100000; done";
    let own = volume(&signer.name, json!({"credentialBundlePath": "bundle.pem", "keyType": "ED25519"}));
    pods.create(with(pod("p", &[container("c", script)]), own)).await;
    pods.api.log_with("p", "c", "new", 3).await;
}

#[tokio::test]
async fn a_denied_certificate_is_told_and_not_asked_for_again() {
    need!(machine::root());
    let pods = Pods::new("cert-denied").await;
    let signer = Signer::start(&pods, Answer::Deny).await;
    let own = volume(&signer.name, json!({"credentialBundlePath": "bundle.pem"}));
    pods.create(with(pod("p", &[container("c", "sleep 1d")]), own)).await;
    // Told again: the volumes were tried again.
    pods.api.event_counted("p", "FailedMount", "Denied (NotToday): ask somebody else", 2).await;
    let requests = pods.api.get(&pods.api.path(GROUP, "podcertificaterequests")).await.ok();
    assert_eq!(requests["items"].as_array().map(Vec::len), Some(1));
}
