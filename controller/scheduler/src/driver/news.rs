//! How far the list of each kind is, and the kinds beside pods and nodes: watched, and what news of them wakes.
use super::Driver;
use super::devices::{DeviceListings, DeviceNews};
use crate::budget::Budget;
use crate::capacity::Capacity;
use crate::hint::Moved;
use api::volume::{Claim, Class, Volume};
use futures::StreamExt as _;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::api::{Api, ResourceExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// News of one of the kinds.
pub(super) enum News {
    Claim(Box<Event<PersistentVolumeClaim>>),
    Volume(Box<Event<PersistentVolume>>),
    Class(Box<Event<StorageClass>>),
    Budget(Box<Event<PodDisruptionBudget>>),
    Namespace(Box<Event<Namespace>>),
    Limits(Box<Event<CSINode>>),
    Driver(Box<Event<CSIDriver>>),
    Capacity(Box<Event<CSIStorageCapacity>>),
    Group(Box<Event<PodGroup>>),
    Devices(DeviceNews),
    /// A watch broke and is started again.
    Broken(watcher::Error),
}

/// How far the list of one kind is.
#[derive(Debug, Default)]
pub(super) struct Listing {
    seen: Option<HashSet<String>>,
    is_done: bool,
}

/// What an event means to what is known.
pub(super) enum Step<K> {
    Keep(K),
    /// The key of an object that is gone.
    Forget(String),
    /// The keys of all objects that there are.
    Retain(HashSet<String>),
    Begin,
}

impl Listing {
    /// Takes an event in.
    pub(super) fn step<K: kube::Resource<DynamicType = ()>>(&mut self, event: Event<K>) -> Step<K> {
        let key = |object: &K| match object.namespace() {
            Some(namespace) => format!("{namespace}/{}", object.name_any()),
            None => object.name_any(),
        };
        match event {
            Event::Init => {
                self.seen = Some(HashSet::new());
                Step::Begin
            }
            Event::InitApply(object) => {
                if let Some(seen) = &mut self.seen {
                    seen.insert(key(&object));
                }
                Step::Keep(object)
            }
            Event::InitDone => {
                self.is_done = true;
                Step::Retain(self.seen.take().unwrap_or_default())
            }
            Event::Apply(object) => Step::Keep(object),
            Event::Delete(object) => Step::Forget(key(&object)),
        }
    }
}

/// How far the lists of the kinds are.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) pods: Listing,
    pub(super) nodes: Listing,
    claims: Listing,
    volumes: Listing,
    classes: Listing,
    budgets: Listing,
    namespaces: Listing,
    limits: Listing,
    drivers: Listing,
    capacities: Listing,
    pub(super) groups: Listing,
    pub(super) devices: DeviceListings,
}

impl Watched {
    pub(super) fn are_listed(&self) -> bool {
        let own = [&self.pods, &self.nodes, &self.groups, &self.budgets, &self.namespaces];
        let of_volumes = [&self.claims, &self.volumes, &self.classes, &self.limits, &self.drivers, &self.capacities];
        own.iter().chain(&of_volumes).chain(&self.devices.all()).all(|listing| listing.is_done)
    }
}

/// One kind as a stream.
pub(super) fn one<K>(client: &kube::Client, news: fn(Event<K>) -> News) -> BoxStream<'static, News>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    stream.map(move |event| event.map_or_else(News::Broken, news)).boxed()
}

/// All these kinds as one stream.
pub(super) fn watch(client: &kube::Client) -> BoxStream<'static, News> {
    select_all([
        one(client, |event| News::Claim(Box::new(event))),
        one(client, |event| News::Volume(Box::new(event))),
        one(client, |event| News::Class(Box::new(event))),
        one(client, |event| News::Budget(Box::new(event))),
        one(client, |event| News::Namespace(Box::new(event))),
        one(client, |event| News::Limits(Box::new(event))),
        one(client, |event| News::Driver(Box::new(event))),
        one(client, |event| News::Capacity(Box::new(event))),
        one(client, |event| News::Group(Box::new(event))),
        super::devices::watch(client),
    ])
    .boxed()
}

impl Driver {
    /// Takes news in; pods that they can help are tried again, or go on.
    pub(super) fn news(&mut self, news: News) {
        let (snapshot, watched) = (&mut self.snapshot, &mut self.watched);
        let known = &mut snapshot.volumes;
        match news {
            News::Broken(error) => return tracing::warn!(%error, "a watch is started again"),
            News::Devices(news) => return self.device_news(news),
            News::Claim(event) => match watched.claims.step(*event) {
                Step::Keep(claim) => known.set_claim(Claim::new(claim)),
                Step::Forget(key) => drop(known.claims.remove(&key)),
                Step::Retain(seen) => known.claims.retain(|key, _| seen.contains(key)),
                Step::Begin => {}
            },
            News::Volume(event) => match watched.volumes.step(*event) {
                Step::Keep(volume) => known.set_volume(Volume::new(volume)),
                Step::Forget(name) => drop(known.volumes.remove(&name)),
                Step::Retain(seen) => known.volumes.retain(|name, _| seen.contains(name)),
                Step::Begin => {}
            },
            News::Class(event) => match watched.classes.step(*event) {
                Step::Keep(class) => {
                    let class = Class::new(class);
                    known.classes.insert(class.name.clone(), class);
                }
                Step::Forget(name) => drop(known.classes.remove(&name)),
                Step::Retain(seen) => known.classes.retain(|name, _| seen.contains(name)),
                Step::Begin => {}
            },
            News::Limits(event) => match watched.limits.step(*event) {
                Step::Keep(node) => drop(known.limits.insert(node.name_any().into(), limits(node))),
                Step::Forget(name) => drop(known.limits.remove(name.as_str())),
                Step::Retain(seen) => known.limits.retain(|name, _| seen.contains(&**name)),
                Step::Begin => {}
            },
            News::Driver(event) => match watched.drivers.step(*event) {
                Step::Keep(driver) => known.capacities.set_driver(driver),
                Step::Forget(name) => known.capacities.retain_drivers(|own| own != name),
                Step::Retain(seen) => known.capacities.retain_drivers(|own| seen.contains(own)),
                Step::Begin => {}
            },
            News::Capacity(event) => match watched.capacities.step(*event) {
                Step::Keep(object) => {
                    let key = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
                    known.capacities.set(key, Capacity::new(object));
                }
                Step::Forget(key) => known.capacities.retain(|own| own != key),
                Step::Retain(seen) => known.capacities.retain(|own| seen.contains(own)),
                Step::Begin => {}
            },
            News::Group(event) => return self.group_news(*event),
            News::Budget(event) => {
                // A budget says who leaves, not whether a pod fits: it wakes nobody.
                return match watched.budgets.step(*event) {
                    Step::Keep(budget) => {
                        let budget = Budget::new(budget);
                        snapshot.set_budget(budget.key.clone(), Some(budget));
                    }
                    Step::Forget(key) => snapshot.set_budget(key, None),
                    Step::Retain(seen) => snapshot.retain_budgets(&seen),
                    Step::Begin => {}
                };
            }
            News::Namespace(event) => {
                let changed = match watched.namespaces.step(*event) {
                    Step::Keep(namespace) => {
                        let labels = namespace.metadata.labels.clone().unwrap_or_default();
                        snapshot.set_namespace(&namespace.name_any(), Some(labels))
                    }
                    Step::Forget(name) => snapshot.set_namespace(&name, None),
                    Step::Retain(seen) => snapshot.retain_namespaces(&seen),
                    Step::Begin => false,
                };
                if changed {
                    self.moved(Moved::Places);
                }
                return;
            }
        }
        if !self.watched.are_listed() {
            return;
        }
        self.queue.move_those(Instant::now(), |shape, causes| causes.volumes && !shape.load.claims.is_empty());
        self.look_at_waiting();
    }
}

/// How many volumes of each driver a node takes, where it says so.
fn limits(node: CSINode) -> HashMap<String, usize> {
    let drivers = node.spec.drivers.into_iter();
    let limit = |count: i32| usize::try_from(count).unwrap_or(0);
    drivers.filter_map(|driver| Some((driver.name, limit(driver.allocatable?.count?)))).collect()
}
