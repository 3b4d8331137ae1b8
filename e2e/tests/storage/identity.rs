//! Lines 171, 174, 175 and 180 to 188: who a pod is, and whom it trusts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::{machine, need};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::scene::{Scene, pod};

const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a token says, unchecked.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}

/// Whom the server takes the bearer of a token for.
async fn bearer(scene: &Scene, token: &str, audiences: &[&str]) -> Value {
    let review = json!({"spec": {"token": token, "audiences": audiences}});
    scene.api.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.ok()["status"].clone()
}

#[tokio::test]
async fn c174_a_pod_is_its_account_without_asking() {
    need!(machine::root());
    let scene = Scene::new("account").await;
    let line = format!("cd {ACCOUNT}; cat namespace; echo; cat token; echo; cat ca.crt");
    let said = scene.run(pod("p", &line, json!([]), json!([]))).await;
    let (namespace, rest) = said.split_once('\n').expect("lines");
    let (token, authority) = rest.split_once('\n').expect("lines");
    assert_eq!(namespace, scene.api.namespace);
    let status = bearer(&scene, token, &[]).await;
    assert_eq!(status["user"]["username"], format!("system:serviceaccount:{namespace}:default"), "{status}");
    let root = scene.api.get(&format!("{}/kube-root-ca.crt", scene.path("configmaps"))).await.ok();
    assert_eq!(root["data"]["ca.crt"], authority);
}

#[tokio::test]
async fn c175_a_token_for_somebody_else_in_a_volume() {
    need!(machine::root());
    let scene = Scene::new("token").await;
    let source = json!({"serviceAccountToken": {"path": "t", "audience": "own", "expirationSeconds": 600}});
    let volumes = json!([{"name": "v", "projected": {"sources": [source]}}]);
    let mut own = pod("p", "cat /v/t", volumes, json!([{"name": "v", "mountPath": "/v"}]));
    own["spec"]["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 1000});
    // A log ends its last line, the file does not.
    let said = scene.run(own).await;
    let token = said.trim_end();
    let claims = claims(token);
    assert_eq!((&claims["aud"], claims["exp"].as_i64()), (&json!(["own"]), claims["iat"].as_i64().map(|at| at + 600)));
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "p");
    assert_eq!(bearer(&scene, token, &["own"]).await["authenticated"], true);
    assert_ne!(bearer(&scene, token, &["other"]).await["authenticated"], true);
}

#[tokio::test]
async fn c171_accounts_and_pods_may_do_without_a_token() {
    need!(machine::root());
    let scene = Scene::new("without").await;
    let wishes = [None, Some(true), Some(false)];
    for (number, of_account) in wishes.into_iter().enumerate() {
        let account = format!("account-{number}");
        let mut object = json!({"metadata": {"name": account}});
        if let Some(wish) = of_account {
            object["automountServiceAccountToken"] = wish.into();
        }
        scene.make("serviceaccounts", object).await;
        for of_pod in wishes {
            let mut own = pod("p", "true", json!([]), json!([]));
            own["spec"]["serviceAccountName"] = account.clone().into();
            if let Some(wish) = of_pod {
                own["spec"]["automountServiceAccountToken"] = wish.into();
            }
            let admitted = scene.api.post(&format!("{}?dryRun=All", scene.path("pods")), own).await.ok();
            let mounts = admitted["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
            let has_token = mounts.iter().any(|mount| mount["mountPath"] == ACCOUNT);
            assert_eq!(has_token, of_pod.or(of_account).unwrap_or(true), "{of_account:?} {of_pod:?}");
        }
    }
}

/// A certificate of an authority, PEM.
fn certificate() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).expect("a certificate").pem()
}

/// The certificates of a text without what stands between them, sorted.
fn certificates(text: &str) -> Vec<String> {
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let body = |block: &str| block.split("-----END").next().unwrap_or_default().split_whitespace().collect::<String>();
    let mut all: Vec<String> = blocks.map(body).collect();
    all.sort();
    all
}

/// Bundles of a signer that nobody else has.
struct Trust {
    scene: Scene,
}

impl Trust {
    async fn new(name: &str) -> Self {
        Self { scene: Scene::new(name).await }
    }

    fn signer(&self) -> String {
        format!("{}.example/trust", self.scene.api.namespace)
    }

    /// A bundle of the signer; answers its name and its certificate.
    async fn bundle(&self, suffix: &str, labels: Value) -> (String, String) {
        let (name, certificate) = (format!("{}.example:trust:{suffix}", self.scene.api.namespace), certificate());
        let mut metadata = json!({"name": name, "labels": {"test": self.scene.api.namespace}});
        for (key, value) in labels.as_object().expect("labels") {
            metadata["labels"][key] = value.clone();
        }
        let object = json!({"metadata": metadata, "spec": {"signerName": self.signer(), "trustBundle": certificate}});
        self.scene.api.post(BUNDLES, object).await.ok();
        (name, certificate)
    }

    fn pod(&self, name: &str, sources: &[Value]) -> Value {
        let volume = |(n, source): (usize, &Value)| {
            let mut own = source.clone();
            own["path"] = "ca.pem".into();
            json!({"name": format!("v{n}"), "projected": {"sources": [{"clusterTrustBundle": own}]}})
        };
        let volumes: Vec<Value> = sources.iter().enumerate().map(volume).collect();
        let mount = |n: usize| json!({"name": format!("v{n}"), "mountPath": format!("/v{n}")});
        let mounts: Vec<Value> = (0..sources.len()).map(mount).collect();
        pod(name, "cat /v*/ca.pem", volumes.into(), mounts.into())
    }

    async fn shown(&self, name: &str, sources: &[Value]) -> Vec<String> {
        certificates(&self.scene.run(self.pod(name, sources)).await)
    }

    async fn end(self) {
        let path = format!("{BUNDLES}?labelSelector=test={}", self.scene.api.namespace);
        self.scene.api.delete(&path, Value::Null).await.ok();
    }
}

#[tokio::test]
async fn c181_c182_c183_c184_bundles_are_shown_by_name_and_by_signer() {
    need!(machine::root());
    let trust = Trust::new("trust").await;
    let (a, first) = trust.bundle("a", json!({"alive": "yes"})).await;
    let (b, second) = trust.bundle("b", json!({"alive": "yes"})).await;
    let (_, third) = trust.bundle("c", json!({"alive": "no"})).await;
    let of = |texts: &[&String]| certificates(&texts.iter().map(|text| text.as_str()).collect::<String>());
    let signer = trust.signer();
    for (name, sources, want) in [
        ("name", vec![json!({"name": a})], of(&[&first])),
        ("two-volumes", vec![json!({"name": a}), json!({"name": b})], of(&[&first, &second])),
        ("all", vec![json!({"signerName": signer, "labelSelector": {}})], of(&[&first, &second, &third])),
        (
            "some",
            vec![json!({"signerName": signer, "labelSelector": {"matchLabels": {"alive": "yes"}}})],
            of(&[&first, &second]),
        ),
    ] {
        assert_eq!(trust.shown(name, &sources).await, want, "{name}");
    }
    trust.end().await;
}

#[tokio::test]
async fn c185_c186_c187_c188_who_may_do_without_a_bundle_starts_and_others_wait() {
    need!(machine::root());
    let trust = Trust::new("no-trust").await;
    trust.bundle("a", json!({})).await;
    let signer = trust.signer();
    let nothing = json!({"signerName": signer, "labelSelector": {"matchLabels": {"is": "nowhere"}}});
    for (name, mut source) in [("no-match", nothing.clone()), ("no-selector", json!({"signerName": signer}))] {
        source["optional"] = true.into();
        assert!(trust.shown(name, &[source]).await.is_empty(), "{name}");
    }
    for (name, source) in [("waits-match", nothing), ("waits-name", json!({"name": "nobody"}))] {
        trust.scene.make("pods", trust.pod(name, &[source])).await;
        trust.scene.api.event(name, "FailedMount", "").await;
        let pod = trust.scene.api.get(&format!("{}/{name}", trust.scene.path("pods"))).await.ok();
        assert_eq!(pod["status"]["phase"], "Pending", "{name}");
    }
    trust.end().await;
}

#[tokio::test]
async fn c180_more_than_a_hundred_bundles() {
    need!(machine::root());
    let trust = Trust::new("much-trust").await;
    let suffixes: Vec<String> = (0..120).map(|n| format!("b{n}")).collect();
    let made = join_all(suffixes.iter().map(|suffix| trust.bundle(suffix, json!({})))).await;
    let all: String = made.iter().map(|(_, certificate)| certificate.as_str()).collect();
    let source = json!({"signerName": trust.signer(), "labelSelector": {}});
    assert_eq!(trust.shown("p", &[source]).await, certificates(&all));
    trust.end().await;
}
