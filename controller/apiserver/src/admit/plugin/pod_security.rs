//! PodSecurity: the levels that a namespace's labels ask for. Pods are refused; what makes pods later is only warned of.
//! Kubernetes documentation, "Pod Security Admission".

use std::collections::BTreeMap;

use controller_object::pod_security::{self, Level, Policies, Policy};
use controller_object::resource::Subresource;
use controller_object::status::{About, Status};
use serde_json::Value;

use crate::admit::{Attributes, Operation};
use crate::registry::names;

/// How many different violations of pods that are there already are told.
const TOLD: usize = 20;

pub(super) fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let (group, plural) = (attributes.resource.group.as_str(), attributes.resource.plural.as_str());
    match (group, plural, attributes.subresource) {
        ("", "namespaces", None) => namespace(attributes, object),
        ("", "pods", None) if attributes.operation == Operation::Create => pod(attributes, object),
        ("", "pods", Some(Subresource::EphemeralContainers)) => pod(attributes, object),
        (_, _, None) => {
            if let Some(template) = template(group, plural, object) {
                warn(attributes, template);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn policies(attributes: &Attributes<'_>) -> Option<Policies> {
    let namespace = attributes.state.registry.peek_at(
        ("", "v1", "namespaces"),
        None,
        attributes.namespace?,
        &["metadata.labels"],
    )?;
    Some(pod_security::policies(&namespace).0)
}

fn pod(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let Some(policies) = policies(attributes) else { return Ok(()) };
    let found = pod_security::violations(policies.enforce, pod);
    if !found.is_empty() {
        let detail =
            format!("violates PodSecurity {:?}: {}", policies.enforce.describe(), pod_security::describe(&found));
        return Err(Status::forbidden(About::resource(attributes.resource, names(pod).1), &detail));
    }
    tell(attributes, &policies, pod);
    Ok(())
}

fn warn(attributes: &Attributes<'_>, template: &Value) {
    if let Some(policies) = policies(attributes) {
        tell(attributes, &policies, template);
    }
}

/// What the client and the audit log are told of a pod that is let in.
fn tell(attributes: &Attributes<'_>, policies: &Policies, pod: &Value) {
    let sentence = |policy: Policy| {
        let found = pod_security::violations(policy, pod);
        let told = pod_security::describe(&found);
        (!found.is_empty()).then(|| format!("would violate PodSecurity {:?}: {told}", policy.describe()))
    };
    if let Some(sentence) = sentence(policies.audit) {
        attributes.annotations.add("pod-security.kubernetes.io/audit-violations", sentence);
    }
    if let Some(sentence) = sentence(policies.warn) {
        attributes.warnings.add(sentence);
    }
}

/// The template of what makes pods.
fn template<'a>(group: &str, plural: &str, object: &'a Value) -> Option<&'a Value> {
    let pointer = match (group, plural) {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(pointer)
}

/// A namespace with labels that mean nothing is refused; pods that a stricter level would not let in are told.
fn namespace(attributes: &Attributes<'_>, namespace: &Value) -> Result<(), Status> {
    let (new, faults) = pod_security::policies(namespace);
    let Some(old) = attributes.old else {
        return match faults.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid(attributes.resource, names(namespace).1, faults)),
        };
    };
    let (before, earlier) = pod_security::policies(old);
    // What was wrong before may stay as it is.
    if !faults.is_empty() && earlier.is_empty() {
        return Err(Status::invalid(attributes.resource, names(namespace).1, faults));
    }
    let is_stricter = new.enforce.level > before.enforce.level
        || new.enforce.level == before.enforce.level && new.enforce.minor != before.enforce.minor;
    if !is_stricter || new.enforce.level == Level::Privileged {
        return Ok(());
    }
    let mut broken: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in attributes.state.registry.list("", "v1", "pods", Some(names(namespace).1))? {
        let found = pod_security::violations(new.enforce, &pod);
        if !found.is_empty() {
            let reasons: Vec<&str> = found.iter().map(|one| one.reason).collect();
            broken.entry(reasons.join(", ")).or_default().push(names(&pod).1.to_owned());
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    attributes.warnings.add(format!(
        "existing pods in namespace {:?} violate the new PodSecurity enforce level {:?}",
        names(namespace).1,
        new.enforce.describe()
    ));
    for (reasons, pods) in broken.iter().take(TOLD) {
        let first = pods.first().map_or("", String::as_str);
        attributes.warnings.add(match pods.len() {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            count => format!("{first} (and {} other pods): {reasons}", count - 1),
        });
    }
    Ok(())
}
