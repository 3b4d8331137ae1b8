//! Who somebody is and what they may.

use e2e::api::{Api, Patch};
use serde_json::{Value, json};

use crate::server::api;

/// A certificate authority's certificate, as a trust bundle holds it.
pub(crate) fn certificate() -> String {
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    parameters.self_signed(&key).expect("a certificate").pem()
}

/// What a node sends for a pod's key, base64 of DER.
pub(crate) fn stub_request() -> String {
    use base64::Engine as _;
    let parameters = rcgen::CertificateParams::default();
    let request = parameters.serialize_request(&rcgen::KeyPair::generate().expect("a key")).expect("a request");
    base64::engine::general_purpose::STANDARD.encode(request.der())
}

/// A request for a client certificate, base64 of PEM.
fn signing_request(name: &str) -> String {
    use base64::Engine as _;
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = parameters.serialize_request(&key).expect("a request").pem().expect("text");
    base64::engine::general_purpose::STANDARD.encode(pem)
}

async fn token(api: &Api, account: &str, body: Value) -> String {
    let path = format!("{}/{account}/token", api.path("v1", "serviceaccounts"));
    let made = api.post(&path, body).await.ok();
    made["status"]["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn c162_signing_requests_are_approved_and_signed() {
    let api = api("csr").await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let name = api.namespace.clone();
    let request = json!({"metadata": {"name": name, "labels": {"of": name}}, "spec": {"request": signing_request("e2e-user"),
        "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600, "usages": ["client auth", "digital signature"]}});
    let made = api.post(path, request).await.ok();
    assert_eq!(made["spec"]["username"], "system:admin", "who asks is written down");
    let object = format!("{path}/{name}");
    let patched =
        api.patch(&object, Patch::Merge, json!({"metadata": {"annotations": {"patched": "true"}}})).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let condition = json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "set by a test"});
    let mut approved = api.get(&format!("{object}/approval")).await.ok();
    approved["status"]["conditions"] = json!([condition]);
    let approved = api.put(&format!("{object}/approval"), approved).await.ok();
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    let signed = api.until(path, &name, "the certificate", |csr| csr["status"]["certificate"].is_string()).await;
    assert!(signed["status"]["certificate"].as_str().is_some_and(|text| !text.is_empty()));
    let listed = api.get(&format!("{path}?labelSelector=of%3D{name}")).await.ok();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    api.delete(&format!("{path}?labelSelector=of%3D{name}"), Value::Null).await.ok();
    api.get(&object).await.refused(404);
}

#[tokio::test]
async fn c172_c176_tokens_are_made_and_reviewed() {
    let api = api("token").await;
    let accounts = api.path("v1", "serviceaccounts");
    api.post(&accounts, json!({"metadata": {"name": "holder"}})).await.ok();
    let token = token(&api, "holder", json!({"spec": {"expirationSeconds": 3600}})).await;
    let review = json!({"spec": {"token": token}});
    let reviewed = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.ok();
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    let user = format!("system:serviceaccount:{}:holder", api.namespace);
    assert_eq!(reviewed["status"]["user"]["username"], user);
    let groups = reviewed["status"]["user"]["groups"].as_array().expect("groups");
    assert!(groups.contains(&json!("system:serviceaccounts")), "{reviewed}");
}

#[tokio::test]
async fn c173_every_namespace_has_the_root_certificate() {
    let api = api("root").await;
    let maps = api.path("v1", "configmaps");
    let object = format!("{maps}/kube-root-ca.crt");
    let first = api.until(&maps, "kube-root-ca.crt", "the certificate", |_| true).await;
    api.delete(&object, Value::Null).await.ok();
    api.until(&maps, "kube-root-ca.crt", "made again", |map| map["metadata"]["uid"] != first["metadata"]["uid"]).await;
    api.patch(&object, Patch::Merge, json!({"data": {"ca.crt": "", "other": "x"}})).await.ok();
    api.until(&maps, "kube-root-ca.crt", "put right", |map| map["data"] == first["data"]).await;
}

#[tokio::test]
async fn c178_reviews_agree_with_what_happens() {
    let api = api("review").await;
    let accounts = api.path("v1", "serviceaccounts");
    api.post(&accounts, json!({"metadata": {"name": "e2e"}})).await.ok();
    let user = format!("system:serviceaccount:{}:e2e", api.namespace);
    let attributes = json!({"verb": "list", "resource": "configmaps", "namespace": api.namespace, "version": "v1"});
    let spec = json!({"spec": {"user": user, "resourceAttributes": attributes}});
    let local = json!({"metadata": {"namespace": api.namespace}, "spec": spec["spec"]});
    let ask = async |allowed: bool| {
        let everywhere = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", spec.clone()).await.ok();
        let here =
            api.post(&api.path("authorization.k8s.io/v1", "localsubjectaccessreviews"), local.clone()).await.ok();
        assert_eq!((&everywhere["status"]["allowed"], &here["status"]["allowed"]), (&json!(allowed), &json!(allowed)));
        let seen = api
            .send(http::Method::GET, &api.path("v1", "configmaps"), &[("impersonate-user", &user)], Vec::new())
            .await;
        assert_eq!(seen.code, if allowed { 200 } else { 403 });
    };
    ask(false).await;
    let role = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]}]});
    api.post(&api.path("rbac.authorization.k8s.io/v1", "roles"), role).await.ok();
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "ServiceAccount", "name": "e2e", "namespace": api.namespace}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    api.post(&api.path("rbac.authorization.k8s.io/v1", "rolebindings"), binding).await.ok();
    ask(true).await;
}

#[tokio::test]
async fn c170_tokens_can_be_verified_by_what_is_published() {
    let api = api("oidc").await;
    let discovery = api.get("/.well-known/openid-configuration").await.ok();
    let issuer = discovery["issuer"].as_str().expect("an issuer");
    let keys = discovery["jwks_uri"].as_str().expect("where the keys are");
    assert!(keys.ends_with("/openid/v1/jwks"), "{discovery}");
    let keys = api.get("/openid/v1/jwks").await.ok();
    api.post(&api.path("v1", "serviceaccounts"), json!({"metadata": {"name": "holder"}})).await.ok();
    let token =
        token(&api, "holder", json!({"spec": {"audiences": ["oidc-discovery-test"], "expirationSeconds": 600}})).await;
    let part = |n: usize| {
        use base64::Engine as _;
        let part = token.split('.').nth(n).expect("three parts");
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url")
    };
    let (head, claims): (Value, Value) =
        (serde_json::from_slice(&part(0)).expect("JSON"), serde_json::from_slice(&part(1)).expect("JSON"));
    assert_eq!((claims["iss"].as_str(), &claims["aud"]), (Some(issuer), &json!(["oidc-discovery-test"])));
    let key = keys["keys"].as_array().into_iter().flatten().find(|key| key["kid"] == head["kid"]).expect("its key");
    let coordinate = |name: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(key[name].as_str().expect("text")).expect("base64url")
    };
    assert_eq!((&key["kty"], &key["crv"], &head["alg"]), (&json!("EC"), &json!("P-256"), &json!("ES256")));
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    let signed = token.rsplit_once('.').expect("a signature").0;
    key.verify(signed.as_bytes(), &part(2)).expect("signed by the published key");
}
