//! What every active namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
//! Made when missing, and the ConfigMap repaired when changed.
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::queue::{Next, Queue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;

const WORKERS: usize = 8;
/// The name of the account.
pub(crate) const ACCOUNT: &str = "default";
/// The name of the ConfigMap.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// What is known of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceFacts {
    /// Its name.
    pub(crate) name: Key,
    /// Not being deleted.
    pub(crate) is_active: bool,
}

impl NamespaceFacts {
    /// Takes the facts out.
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self { name: key_of(&namespace.metadata), is_active: namespace.metadata.deletion_timestamp.is_none() }
    }
}

/// Wakes for a namespace that appears, and for an object of it that changes or goes.
fn wake_for<F: Send + Sync + 'static>(
    queue: &Arc<Queue<Key>>,
    namespaces: &Cache<NamespaceFacts>,
    objects: &Cache<F>,
    key: impl Fn(&F) -> Key + Send + Sync + 'static,
) {
    let wake = Arc::clone(queue);
    namespaces.on_change(move |_, after| {
        if let Some(namespace) = after.filter(|namespace| namespace.is_active) {
            wake.add(Arc::clone(&namespace.name));
        }
    });
    let wake = Arc::clone(queue);
    objects.on_change(move |before, after| {
        if let (Some(object), _) | (None, Some(object)) = (before, after) {
            wake.add(split(&key(object)).0.into());
        }
    });
}

/// News that came before anybody listened are made up for.
fn add_all(queue: &Queue<Key>, namespaces: &Cache<NamespaceFacts>) {
    for namespace in namespaces.all() {
        queue.add(Arc::clone(&namespace.name));
    }
}

/// Makes `default` in every namespace until dropped.
pub(crate) async fn service_accounts(
    client: kube::Client,
    namespaces: Arc<Cache<NamespaceFacts>>,
    accounts: Arc<Cache<Key>>,
) {
    let queue = Queue::new("service-account");
    wake_for(&queue, &namespaces, &accounts, Key::clone);
    namespaces.listed().await;
    accounts.listed().await;
    add_all(&queue, &namespaces);
    let work = move |name: Key| {
        let (client, namespaces, accounts) = (client.clone(), Arc::clone(&namespaces), Arc::clone(&accounts));
        async move {
            let is_active = namespaces.get(&name).is_some_and(|namespace| namespace.is_active);
            if !is_active || accounts.get(&format!("{name}/{ACCOUNT}")).is_some() {
                return Ok(Next::Wait);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some(ACCOUNT.to_owned()), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            };
            let api: Api<ServiceAccount> = Api::namespaced(client, &name);
            created(api.create(&PostParams::default(), &account).await.map(drop), "creating the ServiceAccount")
        }
    };
    queue.work(WORKERS, work).await;
}

/// Publishes the root certificate in every namespace until dropped.
pub(crate) async fn root_ca(
    client: kube::Client,
    namespaces: Arc<Cache<NamespaceFacts>>,
    maps: Arc<Cache<RootCaFacts>>,
    certificate: String,
) {
    let queue = Queue::new("root-ca");
    wake_for(&queue, &namespaces, &maps, |facts| Arc::clone(&facts.key));
    namespaces.listed().await;
    maps.listed().await;
    add_all(&queue, &namespaces);
    let certificate: Arc<str> = certificate.into();
    let work = move |name: Key| {
        let (client, namespaces, maps) = (client.clone(), Arc::clone(&namespaces), Arc::clone(&maps));
        let certificate = Arc::clone(&certificate);
        async move {
            if !namespaces.get(&name).is_some_and(|namespace| namespace.is_active) {
                return Ok(Next::Wait);
            }
            let api: Api<ConfigMap> = Api::namespaced(client, &name);
            match maps.get(&format!("{name}/{ROOT_CA}")) {
                Some(facts) if facts.certificate.as_deref() == Some(&*certificate) => Ok(Next::Wait),
                Some(_) => {
                    // Other entries go: all of `data` is ours.
                    let mut map = api.get(ROOT_CA).await.map_err(at("reading the root certificate"))?;
                    map.data = Some(BTreeMap::from([(ROOT_CA_KEY.to_owned(), certificate.to_string())]));
                    map.binary_data = None;
                    let patched = api.replace(ROOT_CA, &PostParams::default(), &map).await;
                    created(patched.map(drop), "repairing the root certificate")
                }
                None => {
                    let map = ConfigMap {
                        metadata: ObjectMeta {
                            name: Some(ROOT_CA.to_owned()),
                            annotations: Some([DESCRIPTION].map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
                            ..ObjectMeta::default()
                        },
                        data: Some(BTreeMap::from([(ROOT_CA_KEY.to_owned(), certificate.to_string())])),
                        ..ConfigMap::default()
                    };
                    created(api.create(&PostParams::default(), &map).await.map(drop), "publishing the root certificate")
                }
            }
        }
    };
    queue.work(WORKERS, work).await;
}

/// What is known of a `kube-root-ca.crt`.
#[derive(Clone, Debug)]
pub(crate) struct RootCaFacts {
    key: Key,
    /// The certificate, if it is the only entry.
    certificate: Option<String>,
}

impl RootCaFacts {
    /// Takes the facts out.
    pub(crate) fn new(map: ConfigMap) -> Self {
        let key = key_of(&map.metadata);
        let mut data = map.data.unwrap_or_default();
        let certificate = data.remove(ROOT_CA_KEY).filter(|_| data.is_empty() && map.binary_data.is_none());
        Self { key, certificate }
    }
}

/// There already, or the namespace is going: both are fine.
fn created(result: Result<(), kube::Error>, step: &'static str) -> Result<Next, ReconcileError> {
    match result {
        Ok(()) => Ok(Next::Wait),
        Err(error) if matches!(code(&error), 404 | 409) => Ok(Next::Wait),
        Err(error) if is_terminating(&error) => Ok(Next::Wait),
        Err(error) => Err(at(step)(error)),
    }
}
