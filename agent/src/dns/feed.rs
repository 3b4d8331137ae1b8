//! What the API server tells of Services and slices. While it is away the last is what counts.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;

use super::zone::Zone;

type Key = (String, String);

/// Keeps the zone until the process ends; says once when everything was listed.
pub(super) async fn run(client: kube::Client, zone: Arc<RwLock<Zone>>, ready: impl Fn()) {
    let listed = watch::Sender::new([false; 2]);
    let mut both = listed.subscribe();
    let tell = async {
        // The sender lives as long as this function.
        let _ = both.wait_for(|listed| listed.iter().all(|listed| *listed)).await;
        ready();
    };
    let (services, slices) = (Api::<Service>::all(client.clone()), Api::<EndpointSlice>::all(client));
    tokio::join!(
        reflect(services, &zone, || listed.send_modify(|l| l[0] = true), Zone::service_keys, Zone::set_service),
        reflect(slices, &zone, || listed.send_modify(|l| l[1] = true), Zone::slice_keys, Zone::set_slice),
        tell,
    );
}

async fn reflect<K>(
    api: Api<K>,
    zone: &RwLock<Zone>,
    listed: impl Fn(),
    keys: fn(&Zone) -> Vec<Key>,
    set: fn(&mut Zone, Key, Option<K>),
) where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let key = |object: &K| {
        let metadata = object.meta();
        (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
    };
    let write = || zone.write().unwrap_or_else(PoisonError::into_inner);
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    let mut unseen = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => unseen = keys(&write()).into_iter().collect(),
            Ok(watcher::Event::InitApply(object)) => {
                unseen.remove(&key(&object));
                set(&mut write(), key(&object), Some(object));
            }
            Ok(watcher::Event::InitDone) => {
                let mut zone = write();
                std::mem::take(&mut unseen).into_iter().for_each(|key| set(&mut zone, key, None));
                drop(zone);
                listed();
            }
            Ok(watcher::Event::Apply(object)) => set(&mut write(), key(&object), Some(object)),
            Ok(watcher::Event::Delete(object)) => set(&mut write(), key(&object), None),
            Err(error) => eprintln!("watching {}s: {error}", K::kind(&()).to_lowercase()),
        }
    }
}
