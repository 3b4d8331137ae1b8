//! Watches Services and slices, and keeps the rules of this node.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use agent_network::{Network, Services};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};

use super::{Known, ServiceFacts, SliceFacts, State};
use crate::execute::chain;

/// After a change others mostly follow. They are taken together, but no change waits longer than this.
const GATHER: Duration = Duration::from_millis(10);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Runs until the agent ends.
pub(crate) async fn run(client: kube::Client, network: Network, known: Arc<Known>) {
    let services = Api::<Service>::all(client.clone());
    let slices = Api::<EndpointSlice>::all(client);
    tokio::join!(
        reflect(services, Arc::clone(&known), 0, |state: &mut State, key, service: Option<Service>| match service {
            Some(service) => {
                let facts = ServiceFacts::new(service);
                state.services.insert(key, facts.clone()).as_ref() != Some(&facts)
            }
            None => state.services.remove(&key).is_some(),
        }),
        reflect(slices, Arc::clone(&known), 1, |state: &mut State, key, slice: Option<EndpointSlice>| match slice {
            Some(slice) => {
                let facts = SliceFacts::new(slice);
                state.slices.insert(key, facts.clone()).as_ref() != Some(&facts)
            }
            None => state.slices.remove(&key).is_some(),
        }),
        keep(network, known),
    );
}

/// Keeps one kind in the state; `change` tells whether anything that counts has changed.
async fn reflect<K>(
    api: Api<K>,
    known: Arc<Known>,
    place: usize,
    change: impl Fn(&mut State, String, Option<K>) -> bool,
) where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let key = |object: &K| {
        let metadata = object.meta();
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
    };
    let keys = |state: &MutexGuard<'_, State>| -> BTreeSet<String> {
        if place == 0 { state.services.keys().cloned().collect() } else { state.slices.keys().cloned().collect() }
    };
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    let mut unseen = BTreeSet::new();
    while let Some(event) = events.next().await {
        let has_changed = match event {
            Ok(watcher::Event::Init) => {
                unseen = keys(&known.state());
                false
            }
            Ok(watcher::Event::InitApply(object)) => {
                unseen.remove(&key(&object));
                // Told when the list is complete.
                change(&mut known.state(), key(&object), Some(object));
                false
            }
            Ok(watcher::Event::InitDone) => {
                let mut state = known.state();
                for key in std::mem::take(&mut unseen) {
                    change(&mut state, key, None);
                }
                drop(state);
                known.listed.send_modify(|listed| listed[place] = true);
                true
            }
            Ok(watcher::Event::Apply(object)) => change(&mut known.state(), key(&object), Some(object)),
            Ok(watcher::Event::Delete(object)) => change(&mut known.state(), key(&object), None),
            Err(error) => {
                tracing::warn!(kind = K::kind(&()).as_ref(), %error, "watching");
                false
            }
        };
        if has_changed {
            known.news.notify_one();
        }
    }
}

/// Writes the rules whenever something has changed.
async fn keep(network: Network, known: Arc<Known>) {
    let mut services = match network.services().await {
        Ok(services) => services,
        Err(error) => return tracing::error!(error = chain(&error), "there will be no Services on this node"),
    };
    known.listed().await;
    let mut retry = FIRST_RETRY;
    loop {
        let (wanted, host_ports) = known.rules();
        let applied = blocking(services, move |services| services.apply(&wanted, &host_ports));
        let Some((back, result)) = applied.await else { return };
        services = back;
        match result {
            Ok(applied) if applied.bytes > 0 => {
                retry = FIRST_RETRY;
                let took = applied.took.as_micros();
                tracing::debug!(
                    hop = "agent",
                    kind = "Service",
                    bytes = applied.bytes,
                    microseconds = took,
                    "rules written"
                );
            }
            Ok(_) => retry = FIRST_RETRY,
            Err(error) => {
                tracing::error!(error = chain(&error), "writing the rules of Services");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
                continue;
            }
        }
        loop {
            let forgets_at = services.forgets_at();
            tokio::select! {
                () = known.news.notified() => break,
                () = until(forgets_at) => {
                    let forgotten = blocking(services, |services| services.forget(Instant::now()));
                    let Some((back, result)) = forgotten.await else { return };
                    services = back;
                    if let Err(error) = result {
                        tracing::warn!(error = chain(&error), "clients of endpoints that are gone may hang");
                        tokio::time::sleep(FIRST_RETRY).await;
                    }
                }
            }
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// `None` if the work panicked or the process ends.
fn blocking<T: Send + 'static>(
    mut services: Services,
    work: impl FnOnce(&mut Services) -> T + Send + 'static,
) -> impl Future<Output = Option<(Services, T)>> {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut services);
        (services, result)
    });
    async move {
        match done.await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!(%error, "writing the rules of Services ended early");
                None
            }
        }
    }
}
