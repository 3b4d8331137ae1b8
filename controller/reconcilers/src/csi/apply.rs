//! Carries out the plans for one driver, woken by claims, volumes, attachments, classes and nodes. What is decided upon is
//! read anew; a write that cannot be taken back names the version that was read. Every call to the driver may be repeated:
//! what it is about is written down before, and what came of it after.
mod attachment;
mod capacity;
mod claim;
mod resize;
mod volume;

use super::driver::Driver;
use super::error::CsiError;
use super::node::CsiNodeFacts;
use super::topology::DriverNode;
use crate::attachment::AttachmentFacts;
use crate::cache::{Cache, Key};
use crate::error::{at, code};
use crate::node::NodeFacts;
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::volume::{Claim, Class, Volume};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Secret, SecretReference};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Calls that are under way at once, by driver.
const WORKERS: usize = 10;
/// What a driver refuses is asked again after this, then twice as long, up to five minutes, as sidecars do.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// A driver that is away is looked for so often.
const AWAY: Duration = Duration::from_secs(5);
/// Whoever wrote at the same time is through by then.
const SOON: Duration = Duration::from_millis(50);
/// The characters of a driver's words that are told on: more than an Event holds would be refused.
const TOLD: usize = 900;

/// What needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum About {
    Claim(Key),
    Volume(Key),
    Attachment(Key),
    /// How much room the driver has.
    Room,
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) driver: Driver,
    pub(crate) client: kube::Client,
    pub(crate) recorder: Recorder,
    pub(crate) claims: Arc<Cache<Claim>>,
    pub(crate) volumes: Arc<Cache<Volume>>,
    pub(crate) classes: Arc<Cache<Class>>,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) csi_nodes: Arc<Cache<CsiNodeFacts>>,
    pub(crate) attachments: Arc<Cache<AttachmentFacts>>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<About>> = Queue::patient("csi", FIRST_BACKOFF);
    wake_by_changes(&reconciler, &queue);
    reconciler.claims.listed().await;
    reconciler.volumes.listed().await;
    reconciler.classes.listed().await;
    reconciler.nodes.listed().await;
    reconciler.csi_nodes.listed().await;
    reconciler.attachments.listed().await;
    let name = reconciler.driver.name().to_owned();
    for claim in reconciler.claims.all().iter().filter(|claim| concerns(&name, claim, &reconciler.volumes)) {
        queue.add(About::Claim(claim.key().into()));
    }
    for volume in reconciler.volumes.all().iter().filter(|volume| is_of(&name, volume)) {
        queue.add(About::Volume(volume.name.as_str().into()));
    }
    for attachment in reconciler.attachments.all().iter().filter(|own| own.attacher() == name) {
        queue.add(About::Attachment(attachment.name().into()));
    }
    queue.add(About::Room);
    let reconciler = Arc::new(reconciler);
    let work = move |about: About| {
        let reconciler = Arc::clone(&reconciler);
        async move {
            let done = match about {
                About::Claim(key) => reconciler.claim(&key).await,
                About::Volume(name) => reconciler.volume(&name).await,
                About::Attachment(name) => reconciler.attachment(&name).await,
                About::Room => reconciler.capacity().await,
            };
            match done {
                Err(error @ CsiError::Away { .. }) => {
                    tracing::info!(error = api::causes::chain(&error), "looked for again");
                    Ok(Next::After(AWAY))
                }
                other => other,
            }
        }
    };
    queue.work(WORKERS, work).await;
}

fn is_of(driver: &str, volume: &Volume) -> bool {
    volume.csi.as_ref().is_some_and(|(own, _)| own == driver)
}

/// Whether a claim asks this driver for a volume, or has one of it.
fn concerns(driver: &str, claim: &Claim, volumes: &Cache<Volume>) -> bool {
    claim.provisioner.as_deref() == Some(driver)
        || !claim.volume.is_empty() && volumes.get(&claim.volume).is_some_and(|volume| is_of(driver, &volume))
}

/// Only what is decided upon wakes: what we write of our failures must not make us try at once.
fn wake_by_changes(reconciler: &Reconciler, queue: &Arc<Queue<About>>) {
    let name: Arc<str> = reconciler.driver.name().into();
    let (wake, driver, volumes) = (Arc::clone(queue), Arc::clone(&name), Arc::clone(&reconciler.volumes));
    reconciler.claims.on_change(move |before, after| {
        let Some(claim) = after.filter(|claim| concerns(&driver, claim, &volumes)) else { return };
        let same = before.is_some_and(|before| {
            let as_before = Claim { version: before.version.clone(), ..Claim::clone(claim) };
            as_before == **before
        });
        if !same {
            wake.add(About::Claim(claim.key().into()));
        }
    });
    let (wake, driver) = (Arc::clone(queue), Arc::clone(&name));
    reconciler.volumes.on_change(move |before, after| {
        if before.is_some() != after.is_some() && after.or(before).is_some_and(|volume| is_of(&driver, volume)) {
            wake.add(About::Room);
        }
        let Some(volume) = after.filter(|volume| is_of(&driver, volume)) else { return };
        let same = before.is_some_and(|before| {
            let as_before = Volume { version: before.version.clone(), ..Volume::clone(volume) };
            as_before == **before
        });
        if same {
            return;
        }
        wake.add(About::Volume(volume.name.as_str().into()));
        if let Some(own) = &volume.claim {
            wake.add(About::Claim(format!("{}/{}", own.namespace, own.name).into()));
        }
    });
    let (wake, driver) = (Arc::clone(queue), Arc::clone(&name));
    reconciler.attachments.on_change(move |before, after| {
        let Some(own) = after.or(before).filter(|own| own.attacher() == &*driver) else { return };
        if before == after {
            return;
        }
        wake.add(About::Attachment(own.name().into()));
        if after.is_none() {
            wake.add(About::Volume(own.volume().into()));
        }
    });
    let (wake, driver, claims) = (Arc::clone(queue), Arc::clone(&name), Arc::clone(&reconciler.claims));
    let wake_waiting = move |fits: &dyn Fn(&Claim) -> bool| {
        let waits = |claim: &Claim| claim.volume.is_empty() && claim.provisioner.as_deref() == Some(&*driver);
        for claim in claims.select(|claim| waits(claim) && fits(claim)) {
            wake.add(About::Claim(claim.key().into()));
        }
    };
    let (waiting, room, driver) = (wake_waiting.clone(), Arc::clone(queue), Arc::clone(&name));
    reconciler.classes.on_change(move |before, after| {
        if before == after {
            return;
        }
        if [before, after].into_iter().flatten().any(|class| *class.provisioner == *driver) {
            room.add(About::Room);
        }
        if let Some(class) = after {
            waiting(&|claim| claim.class == class.name);
        }
    });
    let (wake, driver, attachments) = (Arc::clone(queue), name, Arc::clone(&reconciler.attachments));
    reconciler.csi_nodes.on_change(move |before, after| {
        if before != after {
            wake.add(About::Room);
        }
        let Some(node) = after.filter(|_| before != after) else { return };
        wake_waiting(&|_| true);
        let is_there = |own: &AttachmentFacts| own.attacher() == &*driver && own.node() == node.name;
        for own in attachments.select(is_there) {
            wake.add(About::Attachment(own.name().into()));
        }
    });
}

/// Lets a patch hold only for the object that was read, as it was read.
fn guard(patch: &mut Value, read: &ObjectMeta) {
    patch["metadata"]["uid"] = json!(read.uid);
    patch["metadata"]["resourceVersion"] = json!(read.resource_version);
}

/// A refusal that another look settles.
fn has_moved(error: &kube::Error) -> bool {
    matches!(code(error), 404 | 409)
}

/// A failure as people are told it.
fn shown(error: &(dyn std::error::Error + 'static)) -> String {
    api::causes::chain(error).chars().take(TOLD).collect()
}

/// The time as the API writes it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Reconciler {
    fn claims_of(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn all_volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// The nodes that the driver is on, by this call.
    fn with_nodes<T>(&self, decide: impl FnOnce(&[DriverNode<'_>]) -> T) -> T {
        let (facts, nodes) = (self.csi_nodes.all(), self.nodes.all());
        let labels: HashMap<&str, &NodeFacts> = nodes.iter().map(|node| (&**node.name(), &**node)).collect();
        let own = facts.iter().filter_map(|own| {
            let (keys, node) = (own.topology_keys(self.driver.name())?, labels.get(own.name.as_str())?);
            Some(DriverNode { name: &own.name, keys, labels: node.labels() })
        });
        decide(&own.collect::<Vec<_>>())
    }

    /// The content of a Secret.
    async fn secret(&self, own: Option<&SecretReference>) -> Result<HashMap<String, String>, CsiError> {
        let Some(own) = own else { return Ok(HashMap::new()) };
        let (namespace, name) = (own.namespace.as_deref().unwrap_or_default(), own.name.as_deref().unwrap_or_default());
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let held = secrets.get_opt(name).await.map_err(at("reading a driver's Secret"))?;
        let held =
            held.ok_or_else(|| CsiError::Unfit(format!("secret {name:?} of namespace {namespace:?} not found")))?;
        let text = |(key, value): (String, k8s_openapi::ByteString)| match String::from_utf8(value.0) {
            Ok(text) => Ok((key, text)),
            Err(_) => Err(CsiError::Unfit(format!("secret {namespace}/{name}: data[{key:?}] is no UTF-8"))),
        };
        held.data.unwrap_or_default().into_iter().map(text).collect()
    }

    /// Patches a claim; `None` where it is gone or has changed.
    async fn patch_claim(
        &self,
        claim: &PersistentVolumeClaim,
        mut patch: Value,
        is_status: bool,
    ) -> Result<Option<PersistentVolumeClaim>, CsiError> {
        let metadata = &claim.metadata;
        guard(&mut patch, metadata);
        let claims = self.claims_of(metadata.namespace.as_deref().unwrap_or_default());
        let (name, params) = (metadata.name.as_deref().unwrap_or_default(), PatchParams::default());
        let written = match is_status {
            true => claims.patch_status(name, &params, &Patch::Merge(patch)).await,
            false => claims.patch(name, &params, &Patch::Merge(patch)).await,
        };
        match written {
            Ok(written) => {
                self.claims.put(&written.metadata, Claim::new(written.clone()));
                Ok(Some(written))
            }
            Err(error) if has_moved(&error) => Ok(None),
            Err(error) => Err(at("writing the claim")(error).into()),
        }
    }

    /// Patches a volume; `None` where it is gone or has changed.
    async fn patch_volume(
        &self,
        volume: &PersistentVolume,
        mut patch: Value,
    ) -> Result<Option<PersistentVolume>, CsiError> {
        let metadata = &volume.metadata;
        guard(&mut patch, metadata);
        let name = metadata.name.as_deref().unwrap_or_default();
        match self.all_volumes().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => {
                self.volumes.put(&written.metadata, Volume::new(written.clone()));
                Ok(Some(written))
            }
            Err(error) if has_moved(&error) => Ok(None),
            Err(error) => Err(at("writing the volume")(error).into()),
        }
    }

    fn tell_claim(&self, claim: &PersistentVolumeClaim, severity: Severity, reason: &'static str, message: String) {
        let metadata = &claim.metadata;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.recorder.send(about, severity, reason, message);
    }
}
