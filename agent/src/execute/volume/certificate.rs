//! Certificates of pods: asked for by a PodCertificateRequest, held as long as the pod, renewed in time. Kubernetes
//! documentation, "Certificates and Certificate Signing Requests", pod certificates.

use std::time::Duration;

use agent_pod::protocol::Failure;
use agent_volume::payload::{FileContent, Payload};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus,
};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::wait::{Condition, await_condition};

use super::content::one_file;
use super::{Executor, fail, pod_key, said};

/// How long a signer has before the pod is told that it waits; the request goes on.
const PATIENCE: Duration = Duration::from_secs(10);
/// As long a request that nobody answered is waited for, then a new one is made: the server forgets those that are older.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(15);
/// When renewing is tried again that failed.
const RETRY: SignedDuration = SignedDuration::from_secs(30);

/// What became of the request for one certificate.
#[derive(Debug, Clone)]
pub(super) enum Credential {
    /// A signer has not answered yet.
    Asked { request: String, private: String, at: Timestamp, before: Option<Box<Issued>> },
    /// It is there.
    Issued(Issued),
    /// A signer said no: nobody is asked again.
    Refused(String),
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    private: String,
    chain: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// The files of a projection and when they are to be made anew.
pub(super) async fn project(
    executor: &Executor,
    source: &PodCertificateProjection,
    (mode, uid): (u32, Option<u32>),
) -> Result<(Payload, Timestamp), Failure> {
    let key = serde_json::to_string(source).map_err(fail)?;
    let held = executor.live.certificates().get(&key).cloned();
    let now = Timestamp::now();
    let (issued, renew_at) = match held {
        Some(Credential::Issued(issued)) if now < issued.renew_at => {
            let at = issued.renew_at;
            (issued, at)
        }
        Some(Credential::Refused(why)) => return Err(said(why)),
        held => {
            let old = match &held {
                Some(Credential::Issued(old)) => Some(old.clone()),
                Some(Credential::Asked { before, .. }) => before.as_deref().cloned(),
                Some(Credential::Refused(_)) | None => None,
            };
            match obtain(executor, source, &key, held).await {
                Ok(issued) => {
                    let at = issued.renew_at;
                    (issued, at)
                }
                // What is shown is good as long as it is; meanwhile the signer is asked again.
                Err(failure) => match old.filter(|old| now < old.expires_at) {
                    Some(old) => {
                        tracing::warn!(uid = executor.uid, message = failure.message, "renewing a pod's certificate");
                        (old, now.saturating_add(RETRY).unwrap_or(now))
                    }
                    None => return Err(failure),
                },
            }
        }
    };
    let mut payload = Payload::new();
    let bundle = format!("{}{}", issued.private, issued.chain);
    for (path, text) in [
        (&source.credential_bundle_path, &bundle),
        (&source.key_path, &issued.private),
        (&source.certificate_chain_path, &issued.chain),
    ] {
        if let Some(path) = path.as_deref().filter(|path| !path.is_empty()) {
            payload.append(&mut one_file(path, FileContent { bytes: text.clone().into_bytes(), mode, uid })?);
        }
    }
    Ok((payload, renew_at))
}

/// Asks, if nobody was asked yet, and waits a while for the answer.
async fn obtain(
    executor: &Executor,
    source: &PodCertificateProjection,
    key: &str,
    held: Option<Credential>,
) -> Result<Issued, Failure> {
    let hold = |credential| drop(executor.live.certificates().insert(key.to_owned(), credential));
    let api: Api<PodCertificateRequest> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    let now = Timestamp::now();
    let (request, private, before) = match held {
        Some(Credential::Asked { request, private, at, before }) if now.duration_since(at) < FORGOTTEN => {
            (request, private, before)
        }
        held => {
            let before = match held {
                Some(Credential::Issued(issued)) => Some(Box::new(issued)),
                Some(Credential::Asked { before, .. }) => before,
                Some(Credential::Refused(_)) | None => None,
            };
            let key_type = source.key_type.clone();
            let made =
                crate::execute::blocking::run(move || pod_key::make(&key_type)).await.map_err(fail)?.map_err(said)?;
            let request = ask(executor, source, &api, made.request).await?;
            let (private, asked) = (made.private, request.clone());
            let before_too = before.clone();
            hold(Credential::Asked { request: asked, private: private.clone(), at: now, before: before_too });
            (request, private, before)
        }
    };
    let waiting =
        || said(format!("waiting for signer {} to answer PodCertificateRequest {request}", source.signer_name));
    let answer = tokio::time::timeout(PATIENCE, await_condition(api, &request, is_answered())).await;
    let answer = answer.map_err(|_| waiting())?.map_err(fail)?;
    let gone =
        || said(format!("PodCertificateRequest {request} is gone before signer {} answered", source.signer_name));
    match answer.and_then(|request| request.status).map(|status| understood(status, private)) {
        Some(Ok(issued)) => {
            hold(Credential::Issued(issued.clone()));
            Ok(issued)
        }
        Some(Err(why)) => {
            let why = format!("PodCertificateRequest {request} of signer {}: {why}", source.signer_name);
            hold(Credential::Refused(why.clone()));
            Err(said(why))
        }
        None => {
            match before {
                Some(before) => hold(Credential::Issued(*before)),
                None => drop(executor.live.certificates().remove(key)),
            }
            Err(gone())
        }
    }
}

/// Makes the request; answers its name.
async fn ask(
    executor: &Executor,
    source: &PodCertificateProjection,
    api: &Api<PodCertificateRequest>,
    stub: Vec<u8>,
) -> Result<String, Failure> {
    let client = &executor.host.client;
    let pod: &Pod = &executor.pod;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), executor.namespace());
    let node = Api::<Node>::all(client.clone()).get(&executor.host.config.node_name).await.map_err(fail)?;
    let account_uid = accounts.get(&account).await.map_err(fail)?.metadata.uid.unwrap_or_default();
    let request = PodCertificateRequest {
        metadata: ObjectMeta {
            generate_name: Some("req-".into()),
            namespace: Some(executor.namespace().into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: executor.name().into(),
                uid: executor.uid.clone(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: source.signer_name.clone(),
            pod_name: executor.name().into(),
            pod_uid: executor.uid.clone(),
            service_account_name: account,
            service_account_uid: account_uid,
            node_name: executor.host.config.node_name.clone(),
            node_uid: node.metadata.uid.unwrap_or_default(),
            max_expiration_seconds: source.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(stub),
            unverified_user_annotations: source.user_annotations.clone(),
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &request).await.map_err(fail)?;
    Ok(made.metadata.name.unwrap_or_default())
}

const ISSUED: &str = "Issued";

fn end(status: &PodCertificateRequestStatus) -> Option<(&str, String)> {
    let mut conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
    let end = conditions.find(|condition| matches!(condition.type_.as_str(), ISSUED | "Denied" | "Failed"))?;
    Some((&end.type_, format!("{} ({}): {}", end.type_, end.reason, end.message)))
}

fn is_answered() -> impl Condition<PodCertificateRequest> {
    |request: Option<&PodCertificateRequest>| match request {
        Some(request) => request.status.as_ref().and_then(end).is_some(),
        None => true,
    }
}

/// What a signer answered, or why there is no certificate.
fn understood(status: PodCertificateRequestStatus, private: String) -> Result<Issued, String> {
    let (kind, words) = end(&status).unwrap_or_default();
    if kind != ISSUED {
        return Err(words);
    }
    let (Some(chain), Some(refresh), Some(expires)) =
        (&status.certificate_chain, &status.begin_refresh_at, &status.not_after)
    else {
        return Err("issued, but without certificateChain, beginRefreshAt or notAfter".into());
    };
    Ok(Issued { private, chain: bare(chain), renew_at: refresh.0, expires_at: expires.0 })
}

/// The blocks of a chain, without what stands between them.
fn bare(chain: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = chain.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
    blocks.map(|(block, _)| format!("{BEGIN}\n{}\n{END}\n", block.trim())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn an_answer_is_a_certificate_or_words() {
        let status = |kind: &str| -> Value {
            json!({"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "certificateChain": "x\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\ny\n",
                "notBefore": "2026-01-01T00:00:00Z", "beginRefreshAt": "2026-01-01T16:00:00Z", "notAfter": "2026-01-02T00:00:00Z"})
        };
        let told = |status: Value| understood(from_value(status).unwrap(), "key\n".into());
        let issued = told(status(ISSUED)).unwrap();
        assert_eq!(issued.chain, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
        assert_eq!(issued.expires_at.duration_since(issued.renew_at).as_hours(), 8);
        assert_eq!(told(status("Denied")).unwrap_err(), "Denied (R): m");
        let mut bare = status(ISSUED);
        bare["notAfter"] = Value::Null;
        assert!(told(bare).unwrap_err().contains("notAfter"));
        let request = |status: Value| {
            from_value::<PodCertificateRequest>(json!({"metadata": {}, "spec": {"signerName": "a/b",
            "podName": "p", "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u",
            "stubPKCS10Request": "AA=="}, "status": status})).unwrap()
        };
        assert!(is_answered().matches_object(Some(&request(status("Failed")))));
        assert!(!is_answered().matches_object(Some(&request(status("Other")))));
        assert!(is_answered().matches_object(None), "nobody will answer");
    }
}
