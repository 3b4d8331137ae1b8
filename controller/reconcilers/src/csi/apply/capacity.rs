//! Tells how much room a driver has left, where its CSIDriver says that it is to be told.
use super::super::capacity::{self, LABEL_DRIVER, LABEL_MANAGER, MANAGER};
use super::super::error::CsiError;
use super::super::parameter;
use super::{Reconciler, has_moved};
use crate::error::at;
use crate::queue::Next;
use api_plugin::csi::Topology;
use api_plugin::csi::controller::CapacityRequest;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity, StorageClass};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where the objects are.
const NAMESPACE: &str = "kube-system";
/// Others use the driver's room too: it is asked again after this (external provisioner, `--capacity-poll-interval`).
const EVERY: Duration = Duration::from_secs(60);

impl Reconciler {
    pub(super) async fn capacity(&self) -> Result<Next, CsiError> {
        let name = self.driver.name();
        let drivers: Api<CSIDriver> = Api::all(self.client.clone());
        let object = drivers.get_opt(name).await.map_err(at("reading the driver's object"))?;
        let is_asked = object.is_some_and(|own| own.spec.storage_capacity == Some(true));
        let api: Api<CSIStorageCapacity> = Api::namespaced(self.client.clone(), NAMESPACE);
        let own = ListParams::default().labels(&format!("{LABEL_DRIVER}={name},{LABEL_MANAGER}={MANAGER}"));
        let all = api.list(&own).await.map_err(at("listing what is told of the driver's room"))?;
        let mut held: BTreeMap<String, CSIStorageCapacity> =
            all.into_iter().map(|own| (own.metadata.name.clone().unwrap_or_default(), own)).collect();
        let mut failed = None;
        if is_asked {
            for class in self.classes.select(|class| class.provisioner == name && class.waits) {
                if let Err(error) = self.capacity_of(&api, &class.name, &mut held).await {
                    failed.get_or_insert(error);
                }
            }
        }
        for name in held.into_keys() {
            match api.delete(&name, &DeleteParams::default()).await {
                Err(error) if !has_moved(&error) => {
                    return Err(at("deleting what was told of a driver's room")(error).into());
                }
                _ => {}
            }
        }
        failed.map_or(Ok(Next::After(EVERY)), Err)
    }

    /// Tells it of one class, and takes what is told now from what was.
    async fn capacity_of(
        &self,
        api: &Api<CSIStorageCapacity>,
        class: &str,
        held: &mut BTreeMap<String, CSIStorageCapacity>,
    ) -> Result<(), CsiError> {
        let driver = self.driver.connection().await?;
        if !driver.abilities.tells_room {
            return Ok(());
        }
        let places = self.with_nodes(|nodes| capacity::places(nodes, driver.abilities.has_topology));
        // What the driver does not answer for now stays as it was told.
        let known: Vec<_> = places
            .into_iter()
            .map(|place| {
                let known = held.remove(&capacity::name(self.driver.name(), class, &place));
                (place, known)
            })
            .collect();
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let whole = classes.get_opt(class).await.map_err(at("reading a class"))?;
        let Some(whole) = whole else { return Ok(()) };
        let parameters = parameter::of_driver(&whole.parameters.unwrap_or_default());
        for (place, known) in known {
            let request = CapacityRequest {
                volume_capabilities: Vec::new(),
                parameters: parameters.clone().into_iter().collect(),
                accessible_topology: (!place.is_empty())
                    .then(|| Topology { segments: place.clone().into_iter().collect() }),
            };
            let answer = self.driver.note(driver.plugin.capacity(request).await).await?;
            let wanted = capacity::object(self.driver.name(), class, &place, &answer);
            let written = match known {
                Some(known) if !capacity::differs(&known, &wanted) => continue,
                Some(_) => {
                    let patch = json!({"capacity": wanted.capacity, "maximumVolumeSize": wanted.maximum_volume_size});
                    let name = wanted.metadata.name.as_deref().unwrap_or_default();
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
                }
                None => api.create(&PostParams::default(), &wanted).await,
            };
            match written {
                Err(error) if !has_moved(&error) => return Err(at("telling of a driver's room")(error).into()),
                _ => {}
            }
        }
        Ok(())
    }
}
