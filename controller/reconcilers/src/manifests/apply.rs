//! Carries out what the plan says, and remembers it in a ConfigMap.
use super::files::Directory;
use super::plan::{Name, Record, Work, plan};
use crate::discovered::{self, Discovered};
use crate::error::{ReconcileError, at, code};
use crate::queue::{Next, Queue};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const MANAGER: &str = "gantry-manifests";
/// Where it is remembered which objects came from which file.
const RECORDS: (&str, &str) = ("kube-system", "gantry-manifests");

/// Applies the files of the directory until dropped.
pub(crate) async fn start(client: kube::Client, path: Arc<Path>) {
    let directory = match Directory::watch(&path) {
        Ok(directory) => Arc::new(directory),
        Err(error) => {
            return tracing::error!(%error, directory = %path.display(), "manifests are not applied");
        }
    };
    let queue = Queue::new("manifests");
    queue.add(());
    let (wake, watched) = (Arc::clone(&queue), Arc::clone(&directory));
    let news = async move {
        loop {
            match watched.changed().await {
                Ok(()) => wake.add(()),
                Err(error) => return tracing::error!(%error, "changed manifests are not seen any more"),
            }
        }
    };
    let work = move |()| {
        let (client, directory) = (client.clone(), Arc::clone(&directory));
        async move { reconcile(&client, &directory).await }
    };
    tokio::join!(news, queue.work(1, work));
}

async fn reconcile(client: &kube::Client, directory: &Directory) -> Result<Next, ReconcileError> {
    let files = directory.read().map_err(|error| ReconcileError::Object(format!("reading manifests: {error}")))?;
    let done = records(client).await?;
    let mut kinds = None;
    let mut failed = None;
    for work in plan(&files, &done) {
        let work = match work {
            Ok(work) => work,
            Err((file, reason)) => {
                tracing::warn!(file, reason, "a file of manifests cannot be understood");
                continue;
            }
        };
        if kinds.is_none() {
            kinds = Some(discovered::kinds(client).await?.served);
        }
        match carry_out(client, kinds.as_deref().unwrap_or_default(), &work).await {
            Ok(()) => remember(client, &work).await?,
            // It may need what a later file brings: a namespace, a custom resource's kind.
            Err((name, error)) => {
                let why = api::causes::chain(&error);
                tracing::warn!(file = work.file, kind = name.kind, object = name.name, error = why, "not applied yet");
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(Next::Wait), Err)
}

async fn carry_out(client: &kube::Client, kinds: &[Discovered], work: &Work) -> Result<(), (Name, ReconcileError)> {
    for (name, object) in &work.apply {
        let params = PatchParams::apply(MANAGER).force();
        let applied = match api_of(client, kinds, name) {
            Ok(api) => api.patch(&name.name, &params, &Patch::Apply(object)).await.map_err(at("applying")),
            Err(error) => Err(error),
        };
        applied.map_err(|error| (name.clone(), error))?;
    }
    for name in &work.delete {
        let deleted = match api_of(client, kinds, name) {
            Ok(api) => api.delete(&name.name, &DeleteParams::background()).await.map(drop),
            // With its kind an object is gone too.
            Err(_) => continue,
        };
        match deleted {
            Err(error) if code(&error) != 404 => return Err((name.clone(), at("deleting")(error))),
            _ => {}
        }
    }
    tracing::info!(file = work.file, applied = work.apply.len(), deleted = work.delete.len(), "applied");
    Ok(())
}

fn api_of(client: &kube::Client, kinds: &[Discovered], name: &Name) -> Result<Api<DynamicObject>, ReconcileError> {
    let (group, version) = name.api_version.rsplit_once('/').unwrap_or(("", &name.api_version));
    let kind = kinds.iter().find(|kind| kind.resource.group == group && kind.resource.kind == name.kind);
    let kind = kind.ok_or_else(|| ReconcileError::Object(format!("no kind {} in {}", name.kind, name.api_version)))?;
    let mut resource = kind.resource.clone();
    resource.version = version.to_owned();
    resource.api_version.clone_from(&name.api_version);
    let namespace = if name.namespace.is_empty() { "default" } else { &name.namespace };
    Ok(match kind.is_namespaced {
        true => Api::namespaced_with(client.clone(), namespace, &resource),
        false => Api::all_with(client.clone(), &resource),
    })
}

/// What was done so far, by file. A record that cannot be read counts as none: its file is applied once more.
async fn records(client: &kube::Client) -> Result<BTreeMap<String, Record>, ReconcileError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), RECORDS.0);
    let map = api.get_opt(RECORDS.1).await.map_err(at("reading what was applied"))?;
    let texts = map.and_then(|map| map.data).unwrap_or_default().into_values();
    let records = texts.filter_map(|text| serde_json::from_str::<(String, Record)>(&text).ok());
    Ok(records.collect())
}

async fn remember(client: &kube::Client, work: &Work) -> Result<(), ReconcileError> {
    let objects = work.apply.iter().map(|(name, _)| name.clone()).collect();
    let record = Record { digest: work.digest.clone(), objects };
    let text =
        serde_json::to_string(&(&work.file, record)).map_err(|error| ReconcileError::Object(error.to_string()))?;
    // A file's path holds what a key of a ConfigMap may not, and may be longer.
    let key = hex::encode(Sha256::digest(&work.file));
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), RECORDS.0);
    let patch = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": RECORDS.1, "namespace": RECORDS.0}, "data": {key: text}});
    let merged = api.patch(RECORDS.1, &PatchParams::default(), &Patch::Merge(&patch)).await;
    match merged {
        Err(error) if code(&error) == 404 => {
            let map: ConfigMap =
                serde_json::from_value(patch).map_err(|error| ReconcileError::Object(error.to_string()))?;
            api.create(&Default::default(), &map).await.map(drop).map_err(at("remembering what was applied"))
        }
        other => other.map(drop).map_err(at("remembering what was applied")),
    }
}
