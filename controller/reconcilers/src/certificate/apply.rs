//! Answers certificate requests as they come, and forgets old ones.
use super::plan::{self, Asked, Known, Standing, Verdict};
use crate::error::{ReconcileError, at, code};
use futures::StreamExt as _;
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, PodCertificateRequest};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// How often old requests are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// When a failed answer is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Answers until dropped. `ranges` are those of pods and Services.
pub(crate) async fn start(client: kube::Client, ranges: [Ipv4Net; 2]) {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let requests = watcher(api.clone(), watcher::Config::default()).default_backoff().applied_objects();
    let mut requests = Box::pin(requests);
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut failed: Vec<CertificateSigningRequest> = Vec::new();
    loop {
        let came: Vec<CertificateSigningRequest> = tokio::select! {
            request = requests.next() => match request {
                Some(Ok(request)) => vec![request],
                Some(Err(error)) => {
                    tracing::debug!(%error, "the watch of certificate requests is started again");
                    continue;
                }
                None => return,
            },
            () = tokio::time::sleep(AGAIN), if !failed.is_empty() => std::mem::take(&mut failed),
            _ = sweep.tick() => {
                if let Err(error) = forget(&api).await {
                    tracing::warn!(error = api::causes::chain(&error), "forgetting old certificate requests");
                }
                if let Err(error) = forget_of_pods(&client).await {
                    tracing::warn!(error = api::causes::chain(&error), "forgetting old certificate requests of pods");
                }
                continue;
            }
        };
        for request in came.into_iter().filter(|request| standing(request) == Standing::Pending) {
            if let Err(error) = answer(&client, &request, ranges).await {
                tracing::warn!(error = api::causes::chain(&error), "answering a certificate request");
                failed.push(request);
            }
        }
    }
}

fn standing(request: &CertificateSigningRequest) -> Standing {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut standing = Standing::Pending;
    for condition in conditions {
        match condition.type_.as_str() {
            "Approved" if standing == Standing::Pending => standing = Standing::Approved,
            "Denied" | "Failed" => standing = Standing::Refused,
            _ => {}
        }
    }
    standing
}

async fn answer(
    client: &kube::Client,
    request: &CertificateSigningRequest,
    ranges: [Ipv4Net; 2],
) -> Result<(), ReconcileError> {
    // What is no request of a node is somebody else's to judge.
    let Some(asked) = asked(request) else { return Ok(()) };
    let (kind, reason, message) = match plan::judge(&asked, &known(client, ranges).await?) {
        Verdict::Leave => return Ok(()),
        Verdict::Deny(message) => ("Denied", "NotOwnName", message),
        Verdict::Approve { subresource } if may(client, request, subresource).await? => (
            "Approved",
            "AutoApproved",
            format!("Auto approving a node's certificate after SubjectAccessReview of {subresource}."),
        ),
        Verdict::Approve { .. } => return Ok(()),
    };
    let name = request.metadata.name.as_deref().unwrap_or_default();
    tracing::info!(
        hop = "certificate",
        object = name,
        username = asked.username,
        answer = kind,
        message,
        "certificate request"
    );
    let condition = json!({"type": kind, "status": "True", "reason": reason, "message": message});
    // The version keeps two who decide from overwriting one another.
    let version = &request.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": [condition]}});
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    match api.patch_approval(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // Gone, or changed: the change comes by the watch.
        Err(error) if matches!(code(&error), 404 | 409) => Ok(()),
        Err(error) => Err(at("answering a certificate request")(error)),
    }
}

/// Whether the one who asks may create a subresource of certificate requests, which is how Kubernetes says who may
/// have which certificate of a node.
async fn may(
    client: &kube::Client,
    request: &CertificateSigningRequest,
    subresource: &str,
) -> Result<bool, ReconcileError> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            groups: spec.groups.clone(),
            uid: spec.uid.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(subresource.into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let told = api.create(&PostParams::default(), &review).await.map_err(at("asking who may have a certificate"))?;
    Ok(told.status.is_some_and(|status| status.allowed))
}

/// The request as a plan needs it; `None` for one that cannot be read.
fn asked(request: &CertificateSigningRequest) -> Option<Asked> {
    let spec = &request.spec;
    let (_, block) = x509_parser::pem::parse_x509_pem(&spec.request.0).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let subject = &parsed.certification_request_info.subject;
    let mut asked = Asked {
        signer: spec.signer_name.clone(),
        username: spec.username.clone().unwrap_or_default(),
        common_name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
        organizations: subject.iter_organization().filter_map(|part| part.as_str().ok()).map(str::to_owned).collect(),
        ..Asked::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => asked.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => match octets.len() {
                    4 => asked.addresses.push(<[u8; 4]>::try_from(*octets).ok()?.into()),
                    16 => asked.addresses.push(<[u8; 16]>::try_from(*octets).ok()?.into()),
                    _ => asked.has_other_names = true,
                },
                _ => asked.has_other_names = true,
            }
        }
    }
    Some(asked)
}

async fn known(client: &kube::Client, ranges: [Ipv4Net; 2]) -> Result<Known, ReconcileError> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.map_err(at("listing nodes"))?;
    let addresses = |node: &Node| {
        let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        all.filter_map(|address| address.address.parse().ok()).collect()
    };
    let nodes = nodes.iter().map(|node| (node.metadata.name.clone().unwrap_or_default(), addresses(node)));
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    let of_server = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let slices = slices.list(&of_server).await.map_err(at("listing the API server's endpoints"))?;
    let servers = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let servers = servers.flat_map(|endpoint| &endpoint.addresses);
    Ok(Known {
        nodes: nodes.collect::<BTreeMap<_, _>>(),
        servers: servers.filter_map(|address| address.parse().ok()).collect(),
        ranges: ranges.map(IpNet::V4).into(),
    })
}

/// Deletes requests whose time is over.
async fn forget(api: &Api<CertificateSigningRequest>) -> Result<(), ReconcileError> {
    let now = Timestamp::now().as_second();
    for request in api.list(&ListParams::default()).await.map_err(at("listing certificate requests"))? {
        let made = request.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0.as_second());
        if now - made <= plan::lifetime(standing(&request)) {
            continue;
        }
        let name = request.metadata.name.unwrap_or_default();
        let preconditions =
            Preconditions { uid: request.metadata.uid, resource_version: request.metadata.resource_version };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&name, &params).await {
            Ok(_) => {}
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at("deleting a certificate request")(error)),
        }
    }
    Ok(())
}

/// The same for those of pods: their certificates are where they belong by then.
async fn forget_of_pods(client: &kube::Client) -> Result<(), ReconcileError> {
    let now = Timestamp::now().as_second();
    let all = Api::<PodCertificateRequest>::all(client.clone());
    for request in all.list(&ListParams::default()).await.map_err(at("listing certificate requests of pods"))? {
        let made = request.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0.as_second());
        if now - made <= plan::POD_LIFETIME {
            continue;
        }
        let (namespace, name) =
            (request.metadata.namespace.unwrap_or_default(), request.metadata.name.unwrap_or_default());
        let preconditions = Preconditions { uid: request.metadata.uid, resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match Api::<PodCertificateRequest>::namespaced(client.clone(), &namespace).delete(&name, &params).await {
            Ok(_) => {}
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at("deleting a certificate request of a pod")(error)),
        }
    }
    Ok(())
}
