//! Carries out what stands behind Services.
use super::facts::{BackendFacts, EndpointsFacts, ServiceFacts, SliceFacts};
use super::plan::{self, Groups};
use crate::cache::{Cache, Key, split};
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::node::NodeFacts;
use crate::queue::{Next, Queue};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PostParams};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const WORKERS: usize = 8;

/// Everything a run uses.
pub(crate) struct Reconciler {
    /// Writes slices of what Services select and of name servers.
    pub(crate) slices_client: kube::Client,
    /// Writes slices of hand-made Endpoints.
    pub(crate) mirror_client: kube::Client,
    /// Writes classic Endpoints.
    pub(crate) endpoints_client: kube::Client,
    pub(crate) services: Arc<Cache<ServiceFacts>>,
    pub(crate) pods: Arc<Cache<BackendFacts>>,
    pub(crate) slices: Arc<Cache<SliceFacts>>,
    pub(crate) endpoints: Arc<Cache<EndpointsFacts>>,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    /// Services that went: their Endpoints go too, hand-made ones as well.
    pub(crate) gone: Arc<Mutex<HashSet<Key>>>,
}

fn lock(keys: &Mutex<HashSet<Key>>) -> MutexGuard<'_, HashSet<Key>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("endpoints");
    let (wake, gone) = (Arc::clone(&queue), Arc::clone(&reconciler.gone));
    reconciler.services.on_change(move |before, after| {
        if let (Some(service), None) = (before, after) {
            lock(&gone).insert(Arc::clone(&service.key));
        }
        if let Some(service) = after.or(before) {
            wake.add(Arc::clone(&service.key));
        }
    });
    let (wake, services) = (Arc::clone(&queue), Arc::clone(&reconciler.services));
    reconciler.pods.on_change(move |before, after| {
        let either: Vec<&Arc<BackendFacts>> = [before, after].into_iter().flatten().collect();
        if before == after {
            return;
        }
        let Some(pod) = either.first() else { return };
        for service in services.in_namespace(split(&pod.key).0) {
            if either.iter().any(|pod| plan::selects(&service, pod)) {
                wake.add(Arc::clone(&service.key));
            }
        }
    });
    let wake = Arc::clone(&queue);
    reconciler.slices.on_change(move |before, after| {
        for slice in [before, after].into_iter().flatten().filter(|slice| !slice.service.is_empty()) {
            wake.add(format!("{}/{}", split(&slice.key).0, slice.service).into());
        }
    });
    let wake = Arc::clone(&queue);
    reconciler.endpoints.on_change(move |before, after| {
        if let Some(endpoints) = after.or(before) {
            wake.add(crate::cache::key_of(&endpoints.object.metadata));
        }
    });
    let wake = Arc::clone(&queue);
    reconciler.nodes.on_change(move |before, after| {
        if before.map(|node| node.place()) != after.map(|node| node.place()) {
            wake.add(plan::DNS_SERVICE.into());
        }
    });
    reconciler.services.listed().await;
    reconciler.pods.listed().await;
    reconciler.slices.listed().await;
    reconciler.endpoints.listed().await;
    reconciler.nodes.listed().await;
    for service in reconciler.services.all() {
        queue.add(Arc::clone(&service.key));
    }
    // What belongs to Services that went while nobody looked.
    for slice in reconciler.slices.all() {
        queue.add(format!("{}/{}", split(&slice.key).0, slice.service).into());
    }
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let (namespace, name) = split(key);
        let ours = plan::keepers();
        let slices: Vec<Arc<SliceFacts>> = self.slices.in_namespace(namespace);
        let slices: Vec<Arc<SliceFacts>> =
            slices.into_iter().filter(|slice| slice.service == name && ours.contains(slice.keeper.as_str())).collect();
        let service = self.services.get(key).filter(|service| !service.is_external && !service.is_deleting);
        let Some(service) = service else {
            for slice in &slices {
                self.delete(slice).await?;
            }
            return self.delete_classic(key).await.map(|()| Next::Wait);
        };
        let keeper = plan::keeper(&service);
        for slice in slices.iter().filter(|slice| slice.keeper != keeper) {
            self.delete(slice).await?;
        }
        let groups = self.groups(&service, keeper);
        let labels = plan::slice_labels(&service, keeper);
        let own: Vec<Arc<SliceFacts>> = slices.into_iter().filter(|slice| slice.keeper == keeper).collect();
        let mut plan = plan::plan(&groups, &own, &labels);
        if service.selector.is_some() && keeper == plan::SELECTED {
            plan::hold_place(&mut plan, &own);
        }
        let api = self.slice_api(keeper, namespace);
        for (ports, endpoints) in &plan.create {
            let slice = self.object(&service, keeper, ports, endpoints);
            match api.create(&PostParams::default(), &slice).await {
                Ok(slice) => self.slices.put(&slice.metadata.clone(), SliceFacts::new(slice)),
                // The namespace is being deleted, and this Service with it.
                Err(error) if is_terminating(&error) => {}
                Err(error) => return Err(at("creating an EndpointSlice")(error)),
            }
        }
        for (slice_key, ports, endpoints) in &plan.update {
            let mut slice = self.object(&service, keeper, ports, endpoints);
            slice.metadata.generate_name = None;
            slice.metadata.name = Some(split(slice_key).1.to_owned());
            match api.replace(split(slice_key).1, &PostParams::default(), &slice).await {
                Ok(slice) => self.slices.put(&slice.metadata.clone(), SliceFacts::new(slice)),
                Err(error) if code(&error) == 404 => self.slices.remove(slice_key),
                Err(error) => return Err(at("changing an EndpointSlice")(error)),
            }
        }
        for slice in own.iter().filter(|slice| plan.delete.contains(&slice.key)) {
            self.delete(slice).await?;
        }
        tracing::debug!(
            hop = "reconcile",
            kind = "Service",
            object = &**key,
            uid = service.uid,
            create = plan.create.len(),
            update = plan.update.len(),
            delete = plan.delete.len(),
            "planned"
        );
        if keeper == plan::SELECTED {
            self.write_classic(&service, &groups).await?;
        }
        Ok(Next::Wait)
    }

    fn groups(&self, service: &ServiceFacts, keeper: &str) -> Groups {
        let zone = |node: &str| self.nodes.get(node).and_then(|node| node.zone().map(str::to_owned));
        match keeper {
            plan::SELECTED => plan::selected(service, &self.pods.in_namespace(split(&service.key).0), &zone),
            plan::NAME_SERVERS => {
                let nodes = self.nodes.all();
                let nodes: Vec<_> = nodes.iter().filter_map(|node| node.place()).collect();
                plan::name_servers(service, &nodes)
            }
            _ => self.endpoints.get(&service.key).and_then(|endpoints| plan::mirrored(&endpoints)).unwrap_or_default(),
        }
    }

    fn slice_api(&self, keeper: &str, namespace: &str) -> Api<EndpointSlice> {
        let client = if keeper == plan::MIRRORED { &self.mirror_client } else { &self.slices_client };
        Api::namespaced(client.clone(), namespace)
    }

    fn object(
        &self,
        service: &ServiceFacts,
        keeper: &str,
        ports: &[EndpointPort],
        endpoints: &[Endpoint],
    ) -> EndpointSlice {
        let (namespace, name) = split(&service.key);
        let (api_version, kind, uid) = match keeper {
            plan::MIRRORED => {
                let owner = self.endpoints.get(&service.key);
                ("v1", "Endpoints", owner.and_then(|owner| owner.object.metadata.uid.clone()).unwrap_or_default())
            }
            _ => ("v1", "Service", service.uid.clone()),
        };
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: Some(namespace.to_owned()),
                labels: Some(plan::slice_labels(service, keeper)),
                owner_references: Some(vec![OwnerReference {
                    api_version: api_version.to_owned(),
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    uid,
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]),
                ..ObjectMeta::default()
            },
            address_type: "IPv4".to_owned(),
            endpoints: Some(endpoints.to_vec()),
            ports: Some(ports.to_vec()),
        }
    }

    async fn delete(&self, slice: &SliceFacts) -> Result<(), ReconcileError> {
        let (namespace, name) = split(&slice.key);
        match self.slice_api(&slice.keeper, namespace).delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if code(&error) == 404 => {}
            Err(error) => return Err(at("deleting an EndpointSlice")(error)),
        }
        self.slices.remove(&slice.key);
        Ok(())
    }

    async fn write_classic(&self, service: &ServiceFacts, groups: &Groups) -> Result<(), ReconcileError> {
        let (namespace, name) = split(&service.key);
        let (subsets, is_truncated) = plan::classic(service, groups);
        let (labels, annotations) = plan::classic_metadata(service, is_truncated);
        let api: Api<Endpoints> = Api::namespaced(self.endpoints_client.clone(), namespace);
        let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
        let labels = Some(labels).filter(|labels| !labels.is_empty());
        let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let result = match self.endpoints.get(&service.key) {
            Some(known) => {
                let old = &known.object;
                let had: Option<Vec<_>> = old.subsets.clone().filter(|subsets| !subsets.is_empty());
                if had == subsets && old.metadata.labels == labels && old.metadata.annotations == annotations {
                    return Ok(());
                }
                let metadata = ObjectMeta { labels, annotations, ..old.metadata.clone() };
                api.replace(name, &PostParams::default(), &Endpoints { metadata, subsets }).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(name.to_owned()), labels, annotations, ..ObjectMeta::default() };
                api.create(&PostParams::default(), &Endpoints { metadata, subsets }).await
            }
        };
        match result {
            Ok(endpoints) => {
                self.endpoints.put(&endpoints.metadata.clone(), EndpointsFacts::new(endpoints));
                Ok(())
            }
            Err(error) if is_terminating(&error) => Ok(()),
            Err(error) => Err(at("writing the Endpoints")(error)),
        }
    }

    /// Endpoints go with their Service, hand-made ones too, as Kubernetes has it.
    async fn delete_classic(&self, key: &Key) -> Result<(), ReconcileError> {
        let (namespace, name) = split(key);
        let is_lock = |endpoints: &EndpointsFacts| plan::mirrored(endpoints).is_none();
        // Endpoints without a Service may be what somebody wants: only what was its goes with it.
        let was_served = lock(&self.gone).contains(key);
        let goes = |endpoints: &Arc<EndpointsFacts>| {
            !is_lock(endpoints) && (was_served || plan::is_ours(&endpoints.object.metadata))
        };
        if self.services.get(key).is_some() || !self.endpoints.get(key).as_ref().is_some_and(goes) {
            lock(&self.gone).remove(key);
            return Ok(());
        }
        let api: Api<Endpoints> = Api::namespaced(self.endpoints_client.clone(), namespace);
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if code(&error) == 404 => {}
            Err(error) => return Err(at("deleting the Endpoints")(error)),
        }
        lock(&self.gone).remove(key);
        Ok(())
    }
}
