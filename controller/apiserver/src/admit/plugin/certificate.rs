//! Requests for certificates: who asks is written down, who approves and signs must be allowed to, nobody gets
//! everything by a certificate, and what the built-in signers approve of is signed at once. The plugins
//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction and ClusterTrustBundleAttest of Kubernetes.

use controller_object::resource::Subresource;
use controller_object::status::{About, Status};
use serde_json::{Value, json};

use crate::admit::{Attributes, Operation};
use crate::authz::{Action, ResourceAction};
use crate::registry::names;
use crate::signer::{self, Request, Signer};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";

pub(super) fn mutate(attributes: &Attributes<'_>, object: &mut Value) {
    if !attributes.is(GROUP, REQUESTS) {
        return;
    }
    if attributes.operation == Operation::Create && attributes.subresource.is_none() {
        let user = attributes.user;
        let spec = &mut object["spec"];
        spec["username"] = user.name.clone().into();
        spec["groups"] = json!(user.groups);
        for (key, value) in [("uid", json!(user.uid)), ("extra", json!(user.extra))] {
            let is_empty =
                value.as_str().is_some_and(str::is_empty) || value.as_object().is_some_and(|map| map.is_empty());
            match is_empty {
                true => drop(spec.as_object_mut().map(|spec| spec.remove(key))),
                false => spec[key] = value,
            }
        }
    }
    if attributes.operation == Operation::Update && attributes.subresource == Some(Subresource::Approval) {
        sign(attributes, object);
    }
}

/// A request that is approved now gets its certificate with the approval.
fn sign(attributes: &Attributes<'_>, object: &mut Value) {
    let has = |kind: &str| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let Some(signer) = object["spec"]["signerName"].as_str().and_then(Signer::of) else { return };
    if !has("Approved") || has("Denied") || has("Failed") || object["status"]["certificate"].is_string() {
        return;
    }
    match signer::sign(&attributes.state.authority, signer, &object["spec"]) {
        Ok(certificate) => object["status"]["certificate"] = certificate.into(),
        Err(message) => {
            let now = crate::time::now();
            let failed = json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                "message": message, "lastUpdateTime": now, "lastTransitionTime": now});
            if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
                conditions.push(failed);
            }
        }
    }
}

pub(super) fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if attributes.resource.group != GROUP {
        return Ok(());
    }
    let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
    let refuse = |detail: String| {
        let name = names(object).1;
        Err(Status::forbidden(About::resource(attributes.resource, name), &detail))
    };
    let may = |verb: &str| {
        let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*")).unwrap_or_default();
        [signer, domain.as_str()].iter().any(|name| {
            let action =
                ResourceAction { verb, group: GROUP, resource: "signers", name: Some(name), ..Default::default() };
            attributes.state.authorizer.is_allowed(attributes.user, &Action::Resource(action))
        })
    };
    let is_requests = attributes.is(GROUP, REQUESTS);
    let certificate_changes =
        || attributes.old.is_some_and(|old| old["status"]["certificate"] != object["status"]["certificate"]);
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, None) if is_requests && Signer::of(signer) == Some(Signer::Client) => {
            match Request::parse(object["spec"]["request"].as_str().unwrap_or_default()) {
                Ok(request) if request.asks_for_everything() => {
                    refuse(format!("use of {signer} signer with system:masters group is not allowed"))
                }
                // What is no request is told by validation.
                Ok(_) | Err(_) => Ok(()),
            }
        }
        (Operation::Update, Some(Subresource::Approval)) if is_requests && !may("approve") => {
            refuse(format!("user not permitted to approve requests with signerName {signer:?}"))
        }
        (Operation::Update, Some(Subresource::Status)) if is_requests && certificate_changes() && !may("sign") => {
            refuse(format!("user not permitted to sign requests with signerName {signer:?}"))
        }
        (Operation::Update, Some(Subresource::Status))
            if attributes.is(GROUP, "podcertificaterequests") && !may("sign") =>
        {
            refuse(format!("user not permitted to sign requests with signerName {signer:?}"))
        }
        (Operation::Create | Operation::Update, None)
            if attributes.is(GROUP, "clustertrustbundles") && !signer.is_empty() && !may("attest") =>
        {
            refuse(format!("user not permitted to attest for signerName {signer:?}"))
        }
        _ => Ok(()),
    }
}
