//! What an autoscaler scales: found by its kind, whatever serves it, and read and written through `scale`.
use super::plan;
use crate::discovered::{self, Discovered, Kinds};
use crate::error::{ReconcileError, code};
use api::selector::Selector;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use kube::api::{Api, DynamicObject, PostParams};
use std::sync::{Arc, Mutex, PoisonError};

/// The kinds that are served, as far as they were asked for.
#[derive(Default)]
pub(super) struct Directory(Mutex<Arc<Kinds>>);

/// What the server said, or what kept it from saying anything.
pub(super) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => api::causes::chain(other),
    }
}

fn cause(error: &ReconcileError) -> String {
    match error {
        ReconcileError::Api { step, source } => format!("{step}: {}", words(source)),
        other => other.to_string(),
    }
}

/// The group of an `apiVersion`.
fn group_of(api_version: &str) -> Result<&str, String> {
    match api_version.split_once('/') {
        Some((_, version)) if version.contains('/') => Err(format!("unexpected GroupVersion string: {api_version}")),
        Some((group, _)) => Ok(group),
        None => Ok(""),
    }
}

impl Directory {
    fn known(&self) -> Arc<Kinds> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the next question ask the server.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// The kind that a reference names, in the version that the server prefers, as Kubernetes finds it.
    pub(super) async fn find(
        &self,
        client: &kube::Client,
        reference: &CrossVersionObjectReference,
    ) -> Result<Discovered, String> {
        let group = group_of(reference.api_version.as_deref().unwrap_or_default())?;
        let of = |kinds: &Kinds| {
            let is_meant = |one: &&Discovered| one.resource.group == group && one.resource.kind == reference.kind;
            kinds.served.iter().find(is_meant).cloned()
        };
        if let Some(found) = of(&self.known()) {
            return Ok(found);
        }
        let kinds = Arc::new(discovered::kinds(client).await.map_err(|error| cause(&error))?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&kinds);
        of(&kinds).ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", reference.kind))
    }
}

/// A target and its scale.
pub(super) struct Target {
    api: Api<DynamicObject>,
    name: String,
    object: Scale,
    /// The same, as decisions need it.
    pub(super) scale: plan::Scale,
}

impl Target {
    /// Reads the scale.
    pub(super) async fn read(
        client: &kube::Client,
        directory: &Directory,
        namespace: &str,
        reference: &CrossVersionObjectReference,
    ) -> Result<Self, String> {
        let kind = directory.find(client, reference).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
        let object = api.get_scale(&reference.name).await.map_err(|error| {
            // The kind may be served otherwise by now.
            directory.forget();
            words(&error)
        })?;
        let scale = scale_of(&object);
        Ok(Self { api, name: reference.name.clone(), object, scale })
    }

    /// Asks for so many replicas, unless somebody has asked for another number since the scale was read.
    pub(super) async fn resize(&self, replicas: i32) -> Result<(), String> {
        let done = match self.replace(&self.object, replicas).await {
            // A status that moved while pods were measured changes nothing of what was decided.
            Err(conflict) if code(&conflict) == 409 => match self.api.get_scale(&self.name).await {
                Ok(fresh) if scale_of(&fresh).wanted == self.scale.wanted => self.replace(&fresh, replicas).await,
                Ok(_) => Err(conflict),
                Err(error) => Err(error),
            },
            done => done,
        };
        done.map_err(|error| words(&error))
    }

    async fn replace(&self, scale: &Scale, replicas: i32) -> Result<(), kube::Error> {
        let mut wanted = scale.clone();
        wanted.spec.get_or_insert_default().replicas = Some(replicas);
        self.api.replace_scale(&self.name, &PostParams::default(), &wanted).await.map(drop)
    }
}

fn scale_of(object: &Scale) -> plan::Scale {
    let status = object.status.as_ref();
    let selector = status.and_then(|status| status.selector.as_deref()).filter(|text| !text.is_empty());
    plan::Scale {
        wanted: object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0),
        present: status.map_or(0, |status| status.replicas),
        selector: selector.map(Selector::parse).transpose().map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_as_kubernetes_reads_them() {
        assert_eq!(group_of("apps/v1"), Ok("apps"));
        assert_eq!(group_of("v1"), Ok(""));
        assert_eq!(group_of("a/b/c"), Err("unexpected GroupVersion string: a/b/c".to_owned()));
    }

    #[test]
    fn a_scale_of_nothing_leaves_its_number_out() {
        let object = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {},
            "status": {"replicas": 2, "selector": "a=b"}}));
        let scale = scale_of(&object.unwrap());
        assert_eq!((scale.wanted, scale.present), (0, 2));
        assert_eq!(scale.selector, Ok(Some(Selector::parse("a=b").unwrap())));
        assert!(
            scale_of(&serde_json::from_value(serde_json::json!({"status": {"selector": "a in"}})).unwrap())
                .selector
                .is_err()
        );
    }
}
