//! The objects that volumes of this node's pods show, each followed by one watch however many pods show it. A watch ends
//! with the last who follows.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::StreamExt as _;
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// One ConfigMap, by namespace and name.
    ConfigMap(String, String),
    /// One Secret, by namespace and name.
    Secret(String, String),
    /// All ClusterTrustBundles.
    TrustBundles,
}

/// The resourceVersions of the objects that are there, by name; empty for an object that is not.
pub(crate) type Versions = BTreeMap<String, String>;

/// A watch that somebody follows.
pub(crate) struct Followed {
    /// `None` until the first answer.
    versions: watch::Receiver<Option<Versions>>,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    /// What is there now, as far as is known.
    pub(crate) fn now(&self) -> Option<Versions> {
        self.versions.borrow().clone()
    }

    /// Waits until what is there is not what was seen.
    pub(crate) async fn differs_from(&self, seen: &Versions) {
        let mut versions = self.versions.clone();
        // The sender lives as long as the task, which lives as long as self.
        let other = |now: &Option<Versions>| now.as_ref().is_some_and(|now| now != seen);
        if versions.wait_for(other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Who follows what.
pub(crate) struct Objects {
    client: kube::Client,
    followed: Mutex<HashMap<Key, Weak<Followed>>>,
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client, followed: Mutex::default() }
    }

    /// Follows an object for as long as the answer lives.
    pub(crate) fn follow(&self, key: &Key) -> Arc<Followed> {
        let mut all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, one| one.strong_count() > 0);
        if let Some(one) = all.get(key).and_then(Weak::upgrade) {
            return one;
        }
        let (sender, versions) = watch::channel(None);
        let client = self.client.clone();
        let task = match key.clone() {
            Key::ConfigMap(namespace, name) => {
                tokio::spawn(follow::<ConfigMap>(Api::namespaced(client, &namespace), only(&name), sender))
            }
            Key::Secret(namespace, name) => {
                tokio::spawn(follow::<Secret>(Api::namespaced(client, &namespace), only(&name), sender))
            }
            Key::TrustBundles => {
                tokio::spawn(follow::<ClusterTrustBundle>(Api::all(client), watcher::Config::default(), sender))
            }
        };
        let one = Arc::new(Followed { versions, task: task.abort_handle() });
        all.insert(key.clone(), Arc::downgrade(&one));
        one
    }
}

/// The node authorizer lets an agent watch what its pods name, one by one.
fn only(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

async fn follow<K>(api: Api<K>, config: watcher::Config, told: watch::Sender<Option<Versions>>)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let (mut known, mut listed) = (Versions::new(), false);
    while let Some(event) = events.next().await {
        let names = |object: &K| {
            let metadata = object.meta();
            (metadata.name.clone().unwrap_or_default(), metadata.resource_version.clone().unwrap_or_default())
        };
        match event {
            Ok(watcher::Event::Init) => {
                known.clear();
                listed = false;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => known.extend([names(&object)]),
            Ok(watcher::Event::Delete(object)) => drop(known.remove(&names(&object).0)),
            Ok(watcher::Event::InitDone) => listed = true,
            Err(error) => tracing::warn!(kind = K::kind(&()).as_ref(), %error, "watching what a volume shows"),
        }
        if listed {
            told.send_if_modified(|now| {
                let changed = now.as_ref() != Some(&known);
                *now = Some(known.clone());
                changed
            });
        }
    }
}
