//! Volumes of pods: watched, reserved or asked for, and waited for while the pod keeps its place.
use super::{Bound, Driver};
use crate::record::Notice;
use crate::snapshot::PodFacts;
use crate::volumes::{Preparation, Progress, Volumes};
use api::volume::{Claim, Class, Volume};
use api::well_known::{ANNOTATION_BOUND_BY_CONTROLLER, ANNOTATION_SELECTED_NODE};
use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pod keeps its place while its volumes are made (Kubernetes' figure).
const PREPARED_WITHIN: Duration = Duration::from_secs(600);

/// A pod that has its place and waits for its volumes.
pub(super) struct Waiting {
    pod: Arc<PodFacts>,
    node: Box<str>,
    since: Instant,
    /// When it is given up.
    pub(super) until: Instant,
}

/// News of one of the kinds.
pub(super) enum News {
    Claim(Box<Event<PersistentVolumeClaim>>),
    Volume(Box<Event<PersistentVolume>>),
    Class(Box<Event<StorageClass>>),
    /// A watch broke and is started again.
    Broken(watcher::Error),
}

/// How far the list of one kind is.
#[derive(Debug, Default)]
struct Listing {
    seen: Option<HashSet<String>>,
    is_done: bool,
}

/// How far the lists of the kinds are.
#[derive(Debug, Default)]
pub(super) struct Watched {
    claims: Listing,
    volumes: Listing,
    classes: Listing,
}

impl Watched {
    pub(super) fn are_listed(&self) -> bool {
        self.claims.is_done && self.volumes.is_done && self.classes.is_done
    }
}

/// All three kinds as one stream.
pub(super) fn watch(client: &kube::Client) -> BoxStream<'static, News> {
    fn one<K>(client: &kube::Client, news: fn(Event<K>) -> News) -> BoxStream<'static, News>
    where
        K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
        stream.map(move |event| event.map_or_else(News::Broken, news)).boxed()
    }
    select_all([
        one(client, |event| News::Claim(Box::new(event))),
        one(client, |event| News::Volume(Box::new(event))),
        one(client, |event| News::Class(Box::new(event))),
    ])
    .boxed()
}

/// What an event of a kind means to what is known: `keep` takes an object in and tells its key, `remove` forgets one, and
/// `retain` all that were not seen in a whole list.
fn take<K>(
    listing: &mut Listing,
    event: Event<K>,
    known: &mut Volumes,
    keep: impl FnOnce(&mut Volumes, K) -> String,
    remove: impl FnOnce(&mut Volumes, K),
    retain: impl FnOnce(&mut Volumes, &HashSet<String>),
) {
    match event {
        Event::Init => listing.seen = Some(HashSet::new()),
        Event::InitApply(object) => {
            let key = keep(known, object);
            if let Some(seen) = &mut listing.seen {
                seen.insert(key);
            }
        }
        Event::InitDone => {
            retain(known, &listing.seen.take().unwrap_or_default());
            listing.is_done = true;
        }
        Event::Apply(object) => drop(keep(known, object)),
        Event::Delete(object) => remove(known, object),
    }
}

impl Driver {
    /// Takes news in; pods that wait for volumes are tried again, or go on.
    pub(super) fn volume_event(&mut self, news: News) {
        let (known, watched) = (&mut self.snapshot.volumes, &mut self.volumes);
        match news {
            News::Broken(error) => return tracing::warn!(%error, "a watch of volumes is started again"),
            News::Claim(event) => take(
                &mut watched.claims,
                *event,
                known,
                |known, claim| {
                    let claim = Claim::new(claim);
                    let key = claim.key();
                    known.set_claim(claim);
                    key
                },
                |known, claim| drop(known.claims.remove(&Claim::new(claim).key())),
                |known, seen| known.claims.retain(|key, _| seen.contains(key)),
            ),
            News::Volume(event) => take(
                &mut watched.volumes,
                *event,
                known,
                |known, volume| {
                    let volume = Volume::new(volume);
                    let name = volume.name.clone();
                    known.set_volume(volume);
                    name
                },
                |known, volume| drop(known.volumes.remove(&Volume::new(volume).name)),
                |known, seen| known.volumes.retain(|name, _| seen.contains(name)),
            ),
            News::Class(event) => take(
                &mut watched.classes,
                *event,
                known,
                |known, class| {
                    let class = Class::new(class);
                    let name = class.name.clone();
                    known.classes.insert(name.clone(), class);
                    name
                },
                |known, class| drop(known.classes.remove(&Class::new(class).name)),
                |known, seen| known.classes.retain(|name, _| seen.contains(name)),
            ),
        }
        if !self.volumes.are_listed() {
            return;
        }
        self.queue.move_those(Instant::now(), |pod| !pod.load.claims.is_empty());
        let waiting: Vec<Arc<str>> = self.preparing.keys().cloned().collect();
        for key in waiting {
            self.look_at(&key);
        }
    }

    /// Writes what the chosen node needs for the pod's claims.
    pub(super) fn spawn_preparation(
        &mut self,
        pod: Arc<PodFacts>,
        node: Box<str>,
        since: Instant,
        work: Vec<Preparation>,
    ) {
        let patches: Vec<Write> = work.iter().filter_map(|one| Write::of(&self.snapshot.volumes, &node, one)).collect();
        let client = self.client.clone();
        self.binding.spawn(async move {
            let mut result = Ok(());
            for patch in patches {
                result = patch.send(&client).await;
                if result.is_err() {
                    break;
                }
            }
            Bound { pod, node, since, result, prepared: work }
        });
    }

    /// All was written: the pod keeps its place until its claims have their volumes.
    pub(super) fn prepared(&mut self, pod: Arc<PodFacts>, node: Box<str>, since: Instant) {
        let is_ours = self.queue.get(&pod.key).is_some_and(|waiting| waiting.uid == pod.uid);
        if !is_ours {
            return;
        }
        let key = Arc::clone(&pod.key);
        let until = Instant::now() + PREPARED_WITHIN;
        self.preparing.insert(Arc::clone(&key), Waiting { pod, node, since, until });
        self.look_at(&key);
    }

    fn look_at(&mut self, key: &Arc<str>) {
        let Some(waiting) = self.preparing.get(key) else { return };
        match self.snapshot.volumes.progress(&waiting.pod, &waiting.node) {
            Progress::UnderWay => {}
            Progress::Ready => {
                if let Some(waiting) = self.preparing.remove(key) {
                    self.spawn_binding(waiting.pod, waiting.node, waiting.since);
                }
            }
            Progress::GivenUp => {
                self.give_up(key, "binding volumes: provisioning failed for PVC; another node is tried")
            }
        }
    }

    /// Pods whose volumes take too long are tried again, maybe elsewhere.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        let late: Vec<Arc<str>> =
            self.preparing.iter().filter(|(_, one)| one.until <= now).map(|(key, _)| Arc::clone(key)).collect();
        for key in late {
            self.give_up(&key, "binding volumes: context deadline exceeded");
        }
    }

    fn give_up(&mut self, key: &Arc<str>, why: &str) {
        let Some(waiting) = self.preparing.remove(key) else { return };
        if self.snapshot.placed_uid(key) == Some(&waiting.pod.uid) {
            self.snapshot.unplace(key);
        }
        self.queue.failed(key, Instant::now());
        self.notices.send(Notice::Failed(waiting.pod, why.to_owned()));
    }
}

/// A merge patch of a claim or a volume.
enum Write {
    Claim { namespace: String, name: String, patch: serde_json::Value },
    Volume { name: String, patch: serde_json::Value },
}

impl Write {
    fn of(known: &Volumes, node: &str, work: &Preparation) -> Option<Self> {
        match work {
            Preparation::Provision { claim } => {
                let claim = known.claims.get(claim)?;
                let metadata = json!({"uid": claim.uid, "annotations": {ANNOTATION_SELECTED_NODE: node}});
                let patch = json!({"metadata": metadata});
                Some(Self::Claim { namespace: claim.namespace.clone(), name: claim.name.clone(), patch })
            }
            Preparation::Reserve { claim, volume } => {
                let (claim, volume) = known.sides(claim, volume)?;
                if volume.is_for(claim) {
                    return None;
                }
                let patch = json!({
                    "metadata": {"resourceVersion": volume.version, "annotations": {ANNOTATION_BOUND_BY_CONTROLLER: "yes"}},
                    "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace,
                        "name": claim.name, "uid": claim.uid, "resourceVersion": claim.version}},
                });
                Some(Self::Volume { name: volume.name.clone(), patch })
            }
        }
    }

    async fn send(self, client: &kube::Client) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        match self {
            Self::Claim { namespace, name, patch } => {
                let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
                claims.patch(&name, &params, &Patch::Merge(patch)).await.map(drop)
            }
            Self::Volume { name, patch } => {
                let volumes: Api<PersistentVolume> = Api::all(client.clone());
                volumes.patch(&name, &params, &Patch::Merge(patch)).await.map(drop)
            }
        }
    }
}
