//! Claims to devices and the devices: watched, given before a pod is bound, and what news of them wakes.
use super::Driver;
use super::news::{Listing, News, Step, one};
use crate::decide::FitError;
use crate::devices::{Grant, given_back, granted};
use crate::filter::Reason;
use crate::pod::{PodFacts, Shape};
use api::well_known::FINALIZER_RESOURCE_CLAIM;
use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceSlice};
use kube::api::{Api, Patch, PatchParams, PostParams, ResourceExt as _};
use kube::runtime::watcher::Event;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// A claim that others write to is read anew so often.
const TRIES: usize = 5;

/// News of one of the kinds.
pub(super) enum DeviceNews {
    Claim(Box<Event<ResourceClaim>>),
    Slice(Box<Event<ResourceSlice>>),
    Class(Box<Event<DeviceClass>>),
    Rule(Box<Event<DeviceTaintRule>>),
}

/// How far the lists of the kinds are.
#[derive(Debug, Default)]
pub(super) struct DeviceListings {
    claims: Listing,
    slices: Listing,
    classes: Listing,
    rules: Listing,
}

impl DeviceListings {
    pub(super) fn all(&self) -> [&Listing; 4] {
        [&self.claims, &self.slices, &self.classes, &self.rules]
    }
}

/// All these kinds as one stream.
pub(super) fn watch(client: &kube::Client) -> BoxStream<'static, News> {
    select_all([
        one(client, |event| News::Devices(DeviceNews::Claim(Box::new(event)))),
        one(client, |event| News::Devices(DeviceNews::Slice(Box::new(event)))),
        one(client, |event| News::Devices(DeviceNews::Class(Box::new(event)))),
        one(client, |event| News::Devices(DeviceNews::Rule(Box::new(event)))),
    ])
    .boxed()
}

/// Whether a pod asks for this claim, by `namespace/name`.
fn asks_for(shape: &Shape, key: &str) -> bool {
    let own = key.split_once('/').filter(|(namespace, _)| **namespace == *shape.namespace);
    own.is_some_and(|(_, name)| shape.load.devices.iter().any(|claim| claim.object() == Some(name)))
}

impl Driver {
    /// Takes news in. What a claim gave back may help everybody who waits for devices, other news of it those who name it.
    pub(super) fn device_news(&mut self, news: DeviceNews) {
        let (known, listings) = (&mut self.snapshot.devices, &mut self.watched.devices);
        // The one claim that the news are about, if nothing came free.
        let mut only = None;
        match news {
            DeviceNews::Claim(event) => match listings.claims.step(*event) {
                Step::Keep(claim) => {
                    let key = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
                    if !known.set_claim(key.clone(), claim) {
                        only = Some(key);
                    }
                }
                Step::Forget(key) => known.retain_claims(|own| own != key),
                Step::Retain(seen) => {
                    known.retain_claims(|key| seen.contains(key));
                    known.listed_claims();
                }
                Step::Begin => return,
            },
            DeviceNews::Slice(event) => match listings.slices.step(*event) {
                Step::Keep(slice) => known.set_slice(slice.name_any(), slice),
                Step::Forget(name) => known.retain_slices(|own| own != name),
                Step::Retain(seen) => known.retain_slices(|name| seen.contains(name)),
                Step::Begin => return,
            },
            DeviceNews::Class(event) => match listings.classes.step(*event) {
                Step::Keep(class) => known.set_class(class.name_any(), class),
                Step::Forget(name) => known.retain_classes(|own| own != name),
                Step::Retain(seen) => known.retain_classes(|name| seen.contains(name)),
                Step::Begin => return,
            },
            DeviceNews::Rule(event) => match listings.rules.step(*event) {
                Step::Keep(rule) => known.set_rule(rule.name_any(), rule),
                Step::Forget(name) => known.retain_rules(|own| own != name),
                Step::Retain(seen) => known.retain_rules(|name| seen.contains(name)),
                Step::Begin => return,
            },
        }
        if self.watched.are_listed() {
            self.look_at_waiting();
            self.queue.move_those(Instant::now(), |shape, causes| {
                let is_waiting = causes.devices && !shape.load.devices.is_empty();
                is_waiting && only.as_ref().is_none_or(|key| asks_for(shape, key))
            });
        }
    }
}

impl Driver {
    /// Devices that keep a pod from going anywhere, and that nobody else has, are given back: it gets others.
    pub(super) fn give_back(&self, pod: &Arc<PodFacts>, error: &FitError) {
        let is_kept = error.reasons.contains_key(&Reason::ClaimElsewhere);
        let Some(grant) = is_kept.then(|| self.snapshot.devices.stale(pod)).flatten() else { return };
        self.take_back(pod, grant);
    }

    /// Gives the devices of a claim back that only this pod has.
    pub(super) fn take_back(&self, pod: &Arc<PodFacts>, grant: Grant) {
        let (client, pod) = (self.client.clone(), Arc::clone(pod));
        tokio::spawn(async move {
            if let Err(error) = take_back(&client, &grant, &pod).await {
                tracing::warn!(claim = grant.claim, uid = &*pod.uid, %error, "giving devices back");
            }
        });
    }
}

async fn take_back(client: &kube::Client, grant: &Grant, pod: &PodFacts) -> Result<(), kube::Error> {
    let (namespace, name) = grant.claim.split_once('/').unwrap_or(("", &grant.claim));
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
    let mut claim = claims.get(name).await?;
    let Some(status) = given_back(&claim, grant, pod) else { return Ok(()) };
    claim.status = Some(status);
    claims.replace_status(name, &PostParams::default(), &claim).await.map(drop)
}

/// Gives a claim its devices and keeps it for the pod: first the finalizer, so that nothing that is in use goes.
pub(super) async fn write(client: &kube::Client, grant: &Grant, pod: &PodFacts) -> Result<(), kube::Error> {
    let (namespace, name) = grant.claim.split_once('/').unwrap_or(("", &grant.claim));
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
    let mut claim = claims.get(name).await?;
    for _ in 0..TRIES {
        match write_once(&claims, claim, grant, pod).await {
            // Somebody else wrote meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 && !status.reason.is_empty() => {}
            other => return other,
        }
        claim = claims.get(name).await?;
    }
    Err(refused("others write to the claim all the time"))
}

async fn write_once(
    claims: &Api<ResourceClaim>,
    mut claim: ResourceClaim,
    grant: &Grant,
    pod: &PodFacts,
) -> Result<(), kube::Error> {
    let name = claim.name_any();
    let share_id = || uuid::Uuid::new_v4().to_string();
    let status = granted(&claim, grant, pod, jiff::Timestamp::now(), share_id).map_err(refused)?;
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|own| own == FINALIZER_RESOURCE_CLAIM) {
        finalizers.push(FINALIZER_RESOURCE_CLAIM.to_owned());
        let metadata = json!({"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
            "finalizers": finalizers});
        claim = claims.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await?;
    }
    claim.status = Some(status);
    claims.replace_status(&name, &PostParams::default(), &claim).await.map(drop)
}

/// A conflict that no further try resolves.
fn refused(why: &str) -> kube::Error {
    kube::Error::Api(Box::new(kube::core::Status::failure(why, "").with_code(409)))
}
