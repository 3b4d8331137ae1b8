//! What the watches have told: one cache per kind, shared by the reconcilers.
//!
//! Writes of our own go in at once with the revision that the server answered, and a watch event never replaces
//! anything newer. So a run that follows a write sees it, however far the watch lags behind; that is what keeps a
//! ReplicaSet from making a pod twice.
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// `namespace/name`, or the name alone.
pub(crate) type Key = Arc<str>;

type Listener<F> = Box<dyn Fn(Option<&Arc<F>>, Option<&Arc<F>>) + Send + Sync>;

struct Entry<F> {
    revision: u64,
    /// Which object it is: another one of the same name may follow.
    uid: Box<str>,
    /// No news of this object count any more, but that it is gone.
    is_pinned: bool,
    fact: Arc<F>,
}

/// So many deletions are remembered: the answers of writes that were under way then are late by moments.
const REMEMBERED: usize = 1024;

/// The objects that are gone since last, by uid: an answer that comes after them must not bring one back.
#[derive(Default)]
struct Gone {
    uids: HashSet<Box<str>>,
    order: VecDeque<Box<str>>,
}

impl Gone {
    fn note(&mut self, uid: &str) {
        if self.uids.insert(uid.into()) {
            self.order.push_back(uid.into());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

struct Content<F> {
    entries: BTreeMap<Key, Entry<F>>,
    gone: Gone,
}

/// The cache of one kind.
pub(crate) struct Cache<F> {
    content: RwLock<Content<F>>,
    listeners: RwLock<Vec<Listener<F>>>,
    listed: watch::Sender<bool>,
}

/// The key of an object.
pub(crate) fn key_of(metadata: &ObjectMeta) -> Key {
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

/// Namespace and name of a key.
pub(crate) fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

fn revision_of(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn uid_of(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

impl<F: Send + Sync + 'static> Cache<F> {
    /// An empty cache.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            content: RwLock::new(Content { entries: BTreeMap::new(), gone: Gone::default() }),
            listeners: RwLock::new(Vec::new()),
            listed: watch::channel(false).0,
        })
    }

    /// Calls `listener(before, after)` for every change.
    pub(crate) fn on_change(&self, listener: impl Fn(Option<&Arc<F>>, Option<&Arc<F>>) + Send + Sync + 'static) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Waits for the first complete list.
    pub(crate) async fn listed(&self) {
        // The sender lives in self, so that this cannot fail.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<F>> {
        self.read().entries.get(key).map(|entry| Arc::clone(&entry.fact))
    }

    /// All objects of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<F>> {
        // '0' follows '/'.
        let (from, to): (Key, Key) = (format!("{namespace}/").into(), format!("{namespace}0").into());
        self.read().entries.range(from..to).map(|(_, entry)| Arc::clone(&entry.fact)).collect()
    }

    /// All objects.
    pub(crate) fn all(&self) -> Vec<Arc<F>> {
        self.read().entries.values().map(|entry| Arc::clone(&entry.fact)).collect()
    }

    /// The objects that are as `fits` asks.
    pub(crate) fn select(&self, fits: impl Fn(&F) -> bool) -> Vec<Arc<F>> {
        self.read().entries.values().filter(|entry| fits(&entry.fact)).map(|entry| Arc::clone(&entry.fact)).collect()
    }

    /// Takes in what a write of ours answered, or what the watch told; older news are dropped.
    pub(crate) fn put(&self, metadata: &ObjectMeta, fact: F) {
        self.put_at(key_of(metadata), revision_of(metadata), uid_of(metadata), fact);
    }

    /// Replaces an object by what is known of it until the watch tells that it is gone, or that another one has its name.
    pub(crate) fn pin(&self, key: &Key, fact: F) {
        let fact = Arc::new(fact);
        let before = {
            let mut content = self.write();
            let Some(entry) = content.entries.get_mut(key) else { return };
            entry.is_pinned = true;
            std::mem::replace(&mut entry.fact, Arc::clone(&fact))
        };
        self.tell(Some(&before), Some(&fact));
    }

    fn put_at(&self, key: Key, revision: u64, uid: &str, fact: F) {
        let fact = Arc::new(fact);
        let before = {
            let mut content = self.write();
            if content.gone.uids.contains(uid) {
                return;
            }
            let is_old = |known: &Entry<F>| known.revision >= revision || (known.is_pinned && *known.uid == *uid);
            if content.entries.get(&key).is_some_and(is_old) {
                return;
            }
            content.entries.insert(key, Entry { revision, uid: uid.into(), is_pinned: false, fact: Arc::clone(&fact) })
        };
        self.tell(before.as_ref().map(|entry| &entry.fact), Some(&fact));
    }

    /// The object is gone.
    pub(crate) fn remove(&self, key: &str) {
        let before = self.write().entries.remove(key);
        if let Some(before) = before {
            self.tell(Some(&before.fact), None);
        }
    }

    /// The watch tells that this very object is gone for good.
    fn vanish(&self, key: &str, uid: &str) {
        let before = {
            let mut content = self.write();
            content.gone.note(uid);
            match content.entries.get(key) {
                Some(entry) if *entry.uid == *uid => content.entries.remove(key),
                Some(_) | None => None,
            }
        };
        if let Some(before) = before {
            self.tell(Some(&before.fact), None);
        }
    }

    fn tell(&self, before: Option<&Arc<F>>, after: Option<&Arc<F>>) {
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(before, after);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Content<F>> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Content<F>> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the cache from a watch until dropped. `project` keeps what is needed of an object.
    pub(crate) async fn reflect<K>(self: Arc<Self>, api: Api<K>, config: watcher::Config, project: fn(K) -> F)
    where
        K: Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
    {
        let mut own = Reflection::of(self);
        follow(api, config, |event| own.take(map(event, |object| (Identity::of(object.meta()), project(object)))))
            .await;
    }

    /// Fills this cache and another one from the same watch, so that what it tells is parsed once.
    pub(crate) async fn reflect_both<K, G>(
        self: Arc<Self>,
        api: Api<K>,
        project: fn(K) -> F,
        other: Arc<Cache<G>>,
        project_other: fn(&K) -> G,
    ) where
        K: Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
        G: Send + Sync + 'static,
    {
        let (mut own, mut other) = (Reflection::of(self), Reflection::of(other));
        let both = |event: Event<K>| {
            other.take(map(borrowed(&event), |object| (Identity::of(object.meta()), project_other(object))));
            own.take(map(event, |object| (Identity::of(object.meta()), project(object))));
        };
        follow(api, watcher::Config::default(), both).await;
    }
}

/// Hands on what a watch tells, until dropped.
async fn follow<K>(api: Api<K>, config: watcher::Config, mut take: impl FnMut(Event<K>))
where
    K: Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = Box::pin(watcher(api, config).default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => take(event),
            Err(error) => tracing::warn!(kind = std::any::type_name::<K>(), %error, "the watch is started again"),
        }
    }
}

fn borrowed<K>(event: &Event<K>) -> Event<&K> {
    match event {
        Event::Apply(object) => Event::Apply(object),
        Event::Delete(object) => Event::Delete(object),
        Event::InitApply(object) => Event::InitApply(object),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

fn map<A, B>(event: Event<A>, make: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(make(object)),
        Event::Delete(object) => Event::Delete(make(object)),
        Event::InitApply(object) => Event::InitApply(make(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// Which object it is, and as of when.
struct Identity {
    key: Key,
    revision: u64,
    uid: Box<str>,
}

impl Identity {
    fn of(metadata: &ObjectMeta) -> Self {
        Self { key: key_of(metadata), revision: revision_of(metadata), uid: uid_of(metadata).into() }
    }
}

/// A cache that follows a watch.
struct Reflection<F> {
    cache: Arc<Cache<F>>,
    /// While a list comes in: what was known before and has not come yet.
    unseen: BTreeMap<Key, Box<str>>,
}

impl<F: Send + Sync + 'static> Reflection<F> {
    fn of(cache: Arc<Cache<F>>) -> Self {
        Self { cache, unseen: BTreeMap::new() }
    }

    fn take(&mut self, event: Event<(Identity, F)>) {
        match event {
            // What is written between here and the end of the list is not in this set, and stays.
            Event::Init => {
                let known = self.cache.read();
                self.unseen = known.entries.iter().map(|(key, entry)| (Arc::clone(key), entry.uid.clone())).collect();
            }
            Event::InitApply((identity, fact)) => {
                self.unseen.remove(&identity.key);
                self.cache.put_at(identity.key, identity.revision, &identity.uid, fact);
            }
            Event::InitDone => {
                for (key, uid) in std::mem::take(&mut self.unseen) {
                    self.cache.vanish(&key, &uid);
                }
                self.cache.listed.send_replace(true);
            }
            Event::Apply((identity, fact)) => {
                self.cache.put_at(identity.key, identity.revision, &identity.uid, fact);
            }
            Event::Delete((identity, _)) => self.cache.vanish(&identity.key, &identity.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(name: &str, revision: u64) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("d".into()),
            name: Some(name.into()),
            uid: Some(format!("{name}-1")),
            resource_version: Some(revision.to_string()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn older_news_are_dropped() {
        let cache = Cache::new();
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&told);
        cache.on_change(move |before, after| {
            log.lock().unwrap().push((before.map(|b| **b), after.map(|a| **a)));
        });
        cache.put(&metadata("a", 5), 5);
        cache.put(&metadata("a", 4), 4);
        cache.pin(&"d/a".into(), 9);
        cache.put(&metadata("a", 6), 6);
        cache.pin(&"d/b".into(), 1);
        assert_eq!(cache.get("d/a").as_deref(), Some(&9));
        let other = ObjectMeta { uid: Some("other".into()), ..metadata("a", 7) };
        cache.put(&other, 7);
        cache.remove("d/a");
        assert_eq!(*told.lock().unwrap(), [(None, Some(5)), (Some(5), Some(9)), (Some(9), Some(7)), (Some(7), None)]);
    }

    #[test]
    fn what_is_gone_is_not_brought_back_by_a_late_answer() {
        let cache = Cache::new();
        cache.put(&metadata("a", 5), 5);
        cache.vanish("d/a", "a-1");
        cache.put(&metadata("a", 6), 6);
        assert_eq!(cache.get("d/a"), None);
        let other = ObjectMeta { uid: Some("a-2".into()), ..metadata("a", 8) };
        cache.put(&other, 8);
        cache.vanish("d/a", "a-1");
        assert_eq!(cache.get("d/a").as_deref(), Some(&8), "another one of its name");
        for n in 0..2 * REMEMBERED {
            cache.vanish("d/a", &n.to_string());
        }
        assert_eq!(cache.read().gone.uids.len(), REMEMBERED);
    }

    #[test]
    fn namespaces_do_not_mix() {
        let cache = Cache::new();
        for key in ["d/a", "d/b", "d-e/a", "d0/a", "c/z"] {
            cache.put_at(key.into(), 1, "u", key);
        }
        assert_eq!(cache.in_namespace("d").iter().map(|f| **f).collect::<Vec<_>>(), ["d/a", "d/b"]);
        assert_eq!(cache.all().len(), 5);
    }
}
