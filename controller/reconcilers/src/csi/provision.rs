//! The making of a claim's volume: whether it is asked for, what the driver is told, and what the PersistentVolume says.
//! Pure. Rules as the external provisioner has them; the mark (`gantry.io/csi-provisioning`) is our own: it keeps a claim
//! from going while a volume may have been made for it that no PersistentVolume tells of.
use super::ability::Abilities;
use super::parameter::{Parameters, Use};
use super::topology;
use api::quantity::{Format, Quantity};
use api::volume::Claim;
use api::well_known::{
    ANNOTATION_DELETION_SECRET_NAME, ANNOTATION_DELETION_SECRET_NAMESPACE, ANNOTATION_PROVISIONED_BY,
    FINALIZER_PROVISIONER, FINALIZER_PROVISIONING,
};
use api_plugin::csi::controller::{ContentSource, CreateRequest, TopologyRequirement, Volume, VolumeSource};
use api_plugin::csi::{CapacityRange, VolumeCapability, access_mode};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;
use std::collections::HashMap;

/// What is to be done about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Leave,
    /// Its volume is known, or cannot be: the mark goes.
    LetGo,
    /// The driver makes its volume.
    Create,
}

/// What a claim's content is to be from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nothing.
    Empty,
    /// That of another claim of its namespace.
    Claim(String),
    /// Somebody else fills volumes of this kind.
    Populator(String),
}

/// The name of a claim's volume, by which its driver knows it, too.
pub(super) fn volume_name(uid: &str) -> String {
    format!("pvc-{uid}")
}

/// Whether a volume may have been made for a claim that nobody tells of.
pub(super) fn is_marked(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.finalizers.iter().flatten().any(|own| own == FINALIZER_PROVISIONING)
}

/// Decides about a claim; `facts` are its own, `provisioner` and `waits` its class's, `is_made` says whether there is a
/// PersistentVolume for it.
pub(super) fn step(
    driver: &str,
    claim: &PersistentVolumeClaim,
    facts: &Claim,
    class: Option<&StorageClass>,
    is_made: bool,
) -> Step {
    let is_marked = is_marked(claim);
    if is_made {
        return if is_marked { Step::LetGo } else { Step::Leave };
    }
    // Whatever became of the claim since, what was begun is looked up by its name, and removed as any volume is.
    if is_marked && (facts.is_deleting || !facts.volume.is_empty()) {
        return Step::Create;
    }
    if facts.is_deleting || !facts.volume.is_empty() || facts.provisioner.as_deref() != Some(driver) {
        return Step::Leave;
    }
    let Some(class) = class.filter(|class| class.provisioner == driver) else { return Step::Leave };
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if waits && facts.selected_node.is_none() { Step::Leave } else { Step::Create }
}

/// What a claim's volume is to hold from the start, or why it cannot.
pub(super) fn source(claim: &PersistentVolumeClaim) -> Result<Source, String> {
    let Some(spec) = &claim.spec else { return Ok(Source::Empty) };
    let (field, group, kind, name) = match (&spec.data_source_ref, &spec.data_source) {
        (Some(own), _) => {
            if own.namespace.as_ref().is_some_and(|namespace| Some(namespace) != claim.metadata.namespace.as_ref()) {
                return Err("spec.dataSourceRef.namespace: sources in other namespaces are not supported".into());
            }
            ("spec.dataSourceRef", &own.api_group, &own.kind, &own.name)
        }
        (None, Some(own)) => ("spec.dataSource", &own.api_group, &own.kind, &own.name),
        (None, None) => return Ok(Source::Empty),
    };
    match (group.as_deref().unwrap_or_default(), kind.as_str()) {
        ("", "PersistentVolumeClaim") => Ok(Source::Claim(name.clone())),
        ("snapshot.storage.k8s.io", "VolumeSnapshot") => {
            Err(format!("{field}: kind VolumeSnapshot is not supported by the provisioner of this server"))
        }
        (group, kind) => Ok(Source::Populator(format!("{kind}.{group}"))),
    }
}

/// The driver's name of the volume that is copied, or why it cannot be. `held` is the claim, `volume` its volume.
pub(super) fn cloned(
    driver: &str,
    claim: &PersistentVolumeClaim,
    held: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
) -> Result<String, String> {
    let (facts, source) = (Claim::new(claim.clone()), Claim::new(held.clone()));
    let name = &source.name;
    // Both may go, with their namespace; then what was begun is looked up.
    if source.is_deleting && !facts.is_deleting {
        return Err(format!("spec.dataSource: claim {name:?} is being deleted"));
    }
    if source.phase != "Bound" {
        return Err(format!("spec.dataSource: claim {name:?} is not bound"));
    }
    let spec = volume.and_then(|volume| volume.spec.as_ref());
    let csi = spec.and_then(|spec| spec.csi.as_ref()).filter(|csi| csi.driver == driver);
    let csi = csi.ok_or_else(|| format!("spec.dataSource: claim {name:?} is of no volume of driver {driver}"))?;
    let owner = spec.and_then(|spec| spec.claim_ref.as_ref()).and_then(|own| own.uid.as_deref());
    if owner != Some(source.uid.as_str()) {
        return Err(format!("spec.dataSource: claim {name:?} is not bound to its volume"));
    }
    if source.is_block != facts.is_block {
        return Err(format!("spec.dataSource: claim {name:?} has another volumeMode"));
    }
    let size = source.capacity.unwrap_or(source.requested);
    if facts.requested < size {
        return Err(format!(
            "spec.resources.requests.storage: expected at least the {size} of claim {name:?}, not {}",
            facts.requested
        ));
    }
    Ok(csi.volume_handle.clone())
}

/// What a driver is asked to make.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub(super) abilities: Abilities,
    pub(super) claim: &'a PersistentVolumeClaim,
    pub(super) class: &'a StorageClass,
    pub(super) parameters: &'a Parameters,
    /// The driver's name of the volume that is copied.
    pub(super) cloned: Option<String>,
    pub(super) place: Option<TopologyRequirement>,
    pub(super) secrets: HashMap<String, String>,
}

/// What can be said before anything else is looked at: why a claim cannot be served at all.
pub(super) fn refusal(abilities: Abilities, claim: &PersistentVolumeClaim) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if !abilities.creates {
        return Some("the driver does not make volumes (capability CREATE_DELETE_VOLUME)".into());
    }
    if spec.selector.is_some() {
        return Some("spec.selector: claims with a selector are not provisioned".into());
    }
    spec.volume_attributes_class_name
        .as_ref()
        .filter(|name| !name.is_empty())
        .map(|_| "spec.volumeAttributesClassName is not supported by the provisioner of this server".into())
}

/// The request for a volume.
pub(super) fn request(asked: Asked<'_>) -> Result<CreateRequest, String> {
    let facts = Claim::new(asked.claim.clone());
    if asked.cloned.is_some() && !asked.abilities.clones {
        return Err("spec.dataSource: the driver does not copy volumes (capability CLONE_VOLUME)".into());
    }
    let options = asked.class.mount_options.clone().unwrap_or_default();
    let capability = |mode: &String| {
        let mode = access_mode(std::slice::from_ref(mode), asked.abilities.knows_single_writers);
        VolumeCapability::new(facts.is_block, &asked.parameters.fs_type, &options, mode)
    };
    Ok(CreateRequest {
        name: volume_name(&facts.uid),
        capacity_range: Some(CapacityRange { required_bytes: facts.requested.value(), limit_bytes: 0 }),
        volume_capabilities: facts.access_modes.iter().map(capability).collect(),
        parameters: asked.parameters.own.clone().into_iter().collect(),
        secrets: asked.secrets,
        volume_content_source: asked.cloned.map(|volume_id| ContentSource { volume: Some(VolumeSource { volume_id }) }),
        accessibility_requirements: asked.place,
    })
}

/// Why what was made is not what was asked for, and is removed again.
pub(super) fn misfit(request: &CreateRequest, made: &Volume) -> Option<String> {
    let wanted = request.capacity_range.as_ref().map_or(0, |range| range.required_bytes);
    if made.capacity_bytes > 0 && made.capacity_bytes < wanted {
        return Some(format!("created volume capacity {} less than requested capacity {wanted}", made.capacity_bytes));
    }
    let is_missing = request.volume_content_source.is_some() && made.content_source.is_none();
    is_missing.then(|| "the driver made an empty volume where a copy was asked for".into())
}

/// The PersistentVolume of what a driver made for a claim.
pub(super) fn volume(
    driver: &str,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    parameters: &Parameters,
    made: &Volume,
) -> Result<PersistentVolume, String> {
    let facts = Claim::new(claim.clone());
    let size = match made.capacity_bytes {
        0 => facts.requested,
        bytes => Quantity::from_units(bytes, Format::BinarySi),
    };
    let secret = |own: Use| json!(parameters.secret(own));
    let deletion = parameters.secret(Use::Provision);
    let mut annotations = json!({ANNOTATION_PROVISIONED_BY: driver});
    if let Some(deletion) = deletion {
        annotations[ANNOTATION_DELETION_SECRET_NAME] = json!(deletion.name);
        annotations[ANNOTATION_DELETION_SECRET_NAMESPACE] = json!(deletion.namespace);
    }
    let reclaim = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers: &[&str] = if reclaim == "Delete" { &[FINALIZER_PROVISIONER] } else { &[] };
    let fs_type = (!facts.is_block && !parameters.fs_type.is_empty()).then_some(&parameters.fs_type);
    let options = if facts.is_block { None } else { class.mount_options.as_ref() };
    let object = json!({
        "metadata": {"name": volume_name(&facts.uid), "annotations": annotations, "finalizers": finalizers},
        "spec": {
            "capacity": {"storage": size.to_string()},
            "accessModes": facts.access_modes,
            "volumeMode": if facts.is_block { "Block" } else { "Filesystem" },
            "storageClassName": facts.class,
            "persistentVolumeReclaimPolicy": reclaim,
            "mountOptions": options,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": facts.namespace,
                "name": facts.name, "uid": facts.uid, "resourceVersion": facts.version},
            "csi": {"driver": driver, "volumeHandle": made.volume_id, "fsType": fs_type,
                "volumeAttributes": made.volume_context,
                "controllerPublishSecretRef": secret(Use::Attach), "controllerExpandSecretRef": secret(Use::Expand),
                "nodeStageSecretRef": secret(Use::NodeStage), "nodePublishSecretRef": secret(Use::NodePublish),
                "nodeExpandSecretRef": secret(Use::NodeExpand)},
            "nodeAffinity": topology::affinity(&made.accessible_topology),
        },
    });
    serde_json::from_value(object).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "provision_tests.rs"]
mod tests;
