//! Claims and volumes: which volume a claim may have. The binding controller and the scheduler must decide it alike.
//! Rules: Kubernetes documentation, "Persistent Volumes" (binding, access modes, reclaiming).
use crate::affinity::{self, NodeFacts};
use crate::quantity::Quantity;
use crate::selector::Selector;
use crate::well_known::{
    ANNOTATION_BIND_COMPLETED, ANNOTATION_BOUND_BY_CONTROLLER, ANNOTATION_OLD_CLASS, ANNOTATION_PROVISIONED_BY,
    ANNOTATION_SELECTED_NODE,
};
use k8s_openapi::api::core::v1::Volume as PodVolume;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The one access mode that only one pod may use.
pub const ONE_POD: &str = "ReadWriteOncePod";

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The resourceVersion that these facts are of.
    pub version: String,
    /// `spec.storageClassName`; empty for none.
    pub class: String,
    /// `spec.accessModes`.
    pub access_modes: Vec<String>,
    /// `spec.volumeMode` is Block.
    pub is_block: bool,
    /// Bytes that it asks for.
    pub requested: Quantity,
    /// `spec.selector`; one that cannot be read matches nothing.
    pub selector: Option<Result<Selector, String>>,
    /// `spec.volumeName`; empty while it has none.
    pub volume: String,
    /// The node that the scheduler chose for its first pod.
    pub selected_node: Option<String>,
    /// Its binding was completed once.
    pub is_bind_completed: bool,
    /// `status.phase`; empty for none.
    pub phase: String,
    /// `status.capacity.storage`.
    pub capacity: Option<Quantity>,
    /// The provisioner that was told of it.
    pub provisioner: Option<String>,
    /// The uid of the owner that is its controller.
    pub owner: Option<String>,
    /// It is being deleted.
    pub is_deleting: bool,
}

/// The claim that a volume names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty where a person reserved the volume for a claim to come.
    pub uid: String,
}

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The resourceVersion that these facts are of.
    pub version: String,
    /// `spec.storageClassName`; empty for none.
    pub class: String,
    /// `spec.accessModes`.
    pub access_modes: Vec<String>,
    /// `spec.volumeMode` is Block.
    pub is_block: bool,
    /// Its bytes.
    pub capacity: Quantity,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The driver and its name of the volume, for one of a driver.
    pub csi: Option<(String, String)>,
    /// The nodes that reach it; `None` for all.
    pub nodes: Option<NodeSelector>,
    /// `spec.claimRef`.
    pub claim: Option<ClaimRef>,
    /// `status.phase`; empty for none.
    pub phase: String,
    /// `spec.persistentVolumeReclaimPolicy`.
    pub reclaim: String,
    /// Who made it on demand.
    pub provisioned_by: Option<String>,
    /// The controller, not a person, chose its claim.
    pub is_bound_by_controller: bool,
    /// It is being deleted.
    pub is_deleting: bool,
    /// Its finalizers.
    pub finalizers: Vec<String>,
}

/// What is known of a StorageClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Who makes volumes of it.
    pub provisioner: String,
    /// Volumes are chosen once a pod has a node (`WaitForFirstConsumer`).
    pub waits: bool,
    /// What becomes of its volumes.
    pub reclaim: String,
    /// `allowVolumeExpansion`.
    pub can_grow: bool,
    /// `mountOptions`.
    pub mount_options: Vec<String>,
    /// `allowedTopologies`: keys of labels with the values that a node may have, all of a term; any term will do.
    pub topologies: Vec<Vec<(String, Vec<String>)>>,
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(name)
}

fn storage(amounts: Option<&BTreeMap<String, RawQuantity>>) -> Option<Quantity> {
    Quantity::parse(&amounts?.get("storage")?.0).ok()
}

impl Claim {
    /// Takes the facts out.
    pub fn new(claim: PersistentVolumeClaim) -> Self {
        let (metadata, spec, status) =
            (claim.metadata, claim.spec.unwrap_or_default(), claim.status.unwrap_or_default());
        let old_class = annotation(&metadata, ANNOTATION_OLD_CLASS).cloned();
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Self {
            class: old_class.or(spec.storage_class_name).unwrap_or_default(),
            access_modes: spec.access_modes.unwrap_or_default(),
            is_block: spec.volume_mode.as_deref() == Some("Block"),
            requested: storage(spec.resources.and_then(|own| own.requests).as_ref()).unwrap_or(Quantity::ZERO),
            selector: spec.selector.map(|own| Selector::from_label_selector(&own).map_err(|error| error.to_string())),
            volume: spec.volume_name.unwrap_or_default(),
            selected_node: annotation(&metadata, ANNOTATION_SELECTED_NODE).filter(|node| !node.is_empty()).cloned(),
            is_bind_completed: annotation(&metadata, ANNOTATION_BIND_COMPLETED).is_some(),
            phase: status.phase.unwrap_or_default(),
            capacity: storage(status.capacity.as_ref()),
            provisioner: annotation(&metadata, crate::well_known::ANNOTATION_STORAGE_PROVISIONER).cloned(),
            owner: owner.map(|owner| owner.uid.clone()),
            is_deleting: metadata.deletion_timestamp.is_some(),
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
        }
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it has its volume, and keeps it.
    pub fn is_bound(&self) -> bool {
        !self.volume.is_empty() && self.is_bind_completed
    }

    /// Whether a volume has every access mode that it asks for.
    fn is_served_by(&self, volume: &Volume) -> bool {
        self.access_modes.iter().all(|mode| volume.access_modes.contains(mode))
    }
}

impl Volume {
    /// Takes the facts out.
    pub fn new(volume: PersistentVolume) -> Self {
        let (metadata, spec, status) =
            (volume.metadata, volume.spec.unwrap_or_default(), volume.status.unwrap_or_default());
        let old_class = annotation(&metadata, ANNOTATION_OLD_CLASS).cloned();
        Self {
            class: old_class.or(spec.storage_class_name).unwrap_or_default(),
            access_modes: spec.access_modes.unwrap_or_default(),
            is_block: spec.volume_mode.as_deref() == Some("Block"),
            capacity: storage(spec.capacity.as_ref()).unwrap_or(Quantity::ZERO),
            csi: spec.csi.map(|source| (source.driver, source.volume_handle)),
            nodes: spec.node_affinity.and_then(|affinity| affinity.required),
            claim: spec.claim_ref.map(|claim| ClaimRef {
                namespace: claim.namespace.unwrap_or_default(),
                name: claim.name.unwrap_or_default(),
                uid: claim.uid.unwrap_or_default(),
            }),
            phase: status.phase.unwrap_or_default(),
            reclaim: spec.persistent_volume_reclaim_policy.unwrap_or_default(),
            provisioned_by: annotation(&metadata, ANNOTATION_PROVISIONED_BY).cloned(),
            is_bound_by_controller: annotation(&metadata, ANNOTATION_BOUND_BY_CONTROLLER).is_some(),
            is_deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
        }
    }

    /// Whether it is reserved for, or bound to, just this claim.
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.claim.as_ref().is_some_and(|own| {
            own.namespace == claim.namespace && own.name == claim.name && (own.uid.is_empty() || own.uid == claim.uid)
        })
    }

    /// Whether a node reaches it.
    pub fn is_reached_from(&self, node: NodeFacts<'_>) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| affinity::node_selector_matches(nodes, node))
    }

    /// Why it cannot be this claim's, in the words of Kubernetes; whoever else has it is not looked at.
    pub fn misfit(&self, claim: &Claim) -> Option<&'static str> {
        if self.capacity < claim.requested {
            Some("requested PV is too small")
        } else if self.class != claim.class {
            Some("storageClassName does not match")
        } else if self.is_block != claim.is_block {
            Some("incompatible volumeMode")
        } else if !claim.is_served_by(self) {
            Some("incompatible accessMode")
        } else {
            None
        }
    }
}

impl Class {
    /// Takes the facts out.
    pub fn new(class: StorageClass) -> Self {
        Self {
            name: class.metadata.name.unwrap_or_default(),
            provisioner: class.provisioner,
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            reclaim: class.reclaim_policy.unwrap_or_else(|| "Delete".to_owned()),
            can_grow: class.allow_volume_expansion == Some(true),
            mount_options: class.mount_options.unwrap_or_default(),
            topologies: class.allowed_topologies.into_iter().flatten().map(term).collect(),
        }
    }

    /// Whether volumes of it may be made for a node with these labels. A term that says nothing selects nothing
    /// (Kubernetes, component-helpers, `MatchTopologySelectorTerms`).
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        let fits = |(key, values): &(String, Vec<String>)| labels.get(key).is_some_and(|value| values.contains(value));
        self.topologies.is_empty() || self.topologies.iter().any(|term| !term.is_empty() && term.iter().all(fits))
    }
}

fn term(term: TopologySelectorTerm) -> Vec<(String, Vec<String>)> {
    term.match_label_expressions.into_iter().flatten().map(|own| (own.key, own.values)).collect()
}

/// The volume that a claim without one gets: the one that is reserved for it, or the smallest that is free and fits.
/// `node` says where its pod is to run; `None` takes only what any node may have, and `waits` (its class waits for a
/// pod) then only what is reserved. `is_taken` tells what somebody else is about to get.
pub fn best_for<'a>(
    claim: &Claim,
    volumes: impl Iterator<Item = &'a Volume>,
    node: Option<NodeFacts<'_>>,
    waits: bool,
    is_taken: impl Fn(&Volume) -> bool,
) -> Option<&'a Volume> {
    let mut best: Option<&Volume> = None;
    for volume in volumes.filter(|volume| !volume.is_deleting && volume.misfit(claim).is_none()) {
        let is_near = node.is_none_or(|node| volume.is_reached_from(node));
        if volume.is_for(claim) {
            return is_near.then_some(volume);
        }
        let is_selected = match &claim.selector {
            None => true,
            Some(Ok(selector)) => selector.matches(&volume.labels),
            Some(Err(_)) => false,
        };
        let is_free = volume.claim.is_none() && volume.phase == "Available" && !is_taken(volume);
        if !is_free || !is_near || !is_selected || node.is_none() && waits {
            continue;
        }
        let key = |volume: &Volume| (volume.capacity.nano(), volume.name.clone());
        if best.is_none_or(|other| key(volume) < key(other)) {
            best = Some(volume);
        }
    }
    best
}

/// The name of the VolumeAttachment that says whether a volume of a driver is attached to a node; both sides make it
/// (Kubernetes, `pkg/volume/csi/csi_attacher.go`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{handle}{driver}{node}"));
    digest.iter().fold("csi-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// How a node says of a driver's volume that it uses it (API reference, Node, `status.volumesInUse`).
pub fn in_use_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedClaim {
    /// The claim's name.
    pub name: String,
    /// It is made for the pod and must be its own (`volumes[].ephemeral`).
    pub is_ephemeral: bool,
}

/// The name of the claim of a volume of a pod, and whether it is the pod's own (API reference, EphemeralVolumeSource).
pub fn claim_of(pod: &str, volume: &PodVolume) -> Option<UsedClaim> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(UsedClaim { name: source.claim_name.clone(), is_ephemeral: false }),
        (None, Some(_)) => Some(UsedClaim { name: format!("{pod}-{}", volume.name), is_ephemeral: true }),
        (None, None) => None,
    }
}

/// The claims that a pod uses.
pub fn claims_of(pod: &Pod) -> Vec<UsedClaim> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    volumes.filter_map(|volume| claim_of(name, volume)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> Claim {
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let object = json!({"metadata": {"namespace": "d", "name": "c", "uid": "u"}, "spec": whole});
        Claim::new(serde_json::from_value(object).unwrap())
    }

    fn volume(name: &str, spec: Value) -> Volume {
        let mut whole = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "2Gi"}, "volumeMode": "Filesystem"});
        for (key, value) in spec.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let labels = json!({"disk": name});
        let object =
            json!({"metadata": {"name": name, "labels": labels}, "spec": whole, "status": {"phase": "Available"}});
        Volume::new(serde_json::from_value(object).unwrap())
    }

    fn found(claim: &Claim, volumes: &[Volume]) -> String {
        best_for(claim, volumes.iter(), None, false, |_| false).map_or_else(String::new, |volume| volume.name.clone())
    }

    #[test]
    fn the_smallest_that_fits_is_taken_and_a_reserved_one_before_all() {
        let mut volumes = vec![
            volume("large", json!({"capacity": {"storage": "9Gi"}})),
            volume("small", json!({"capacity": {"storage": "1Mi"}})),
            volume("block", json!({"volumeMode": "Block"})),
            volume("classy", json!({"storageClassName": "fast"})),
            volume("taken", json!({"claimRef": {"namespace": "d", "name": "other", "uid": "x"}})),
            volume("right", json!({})),
        ];
        assert_eq!(found(&claim(json!({})), &volumes), "right");
        assert_eq!(found(&claim(json!({"accessModes": ["ReadWriteMany"]})), &volumes), "");
        assert_eq!(found(&claim(json!({"storageClassName": "fast"})), &volumes), "classy");
        assert_eq!(found(&claim(json!({"volumeMode": "Block"})), &volumes), "block");
        assert_eq!(found(&claim(json!({"selector": {"matchLabels": {"disk": "large"}}})), &volumes), "large");
        let bad = json!({"selector": {"matchExpressions": [{"key": "disk", "operator": "Sideways"}]}});
        assert_eq!(found(&claim(bad), &volumes), "", "a selector that cannot be read matches nothing");
        volumes.push(volume(
            "reserved",
            json!({"capacity": {"storage": "99Gi"}, "claimRef": {"namespace": "d", "name": "c"}}),
        ));
        assert_eq!(found(&claim(json!({})), &volumes), "reserved");
        volumes.last_mut().unwrap().claim.as_mut().unwrap().uid = "another".into();
        assert_eq!(found(&claim(json!({})), &volumes), "right", "reserved for an earlier claim of that name");
    }

    #[test]
    fn a_class_that_waits_takes_only_what_the_chosen_node_reaches() {
        let near = |node: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}})
        };
        let volumes = [volume("a", near("n1")), volume("b", near("n2"))];
        let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n2".to_owned())]);
        let node = NodeFacts { name: "n2", labels: &labels };
        let best =
            |node| best_for(&claim(json!({})), volumes.iter(), node, true, |_| false).map(|own| own.name.clone());
        assert_eq!(best(Some(node)).as_deref(), Some("b"));
        assert_eq!(best(None), None);
        let taken = best_for(&claim(json!({})), volumes.iter(), Some(node), true, |own| own.name == "b");
        assert!(taken.is_none(), "somebody else gets it");
    }

    #[test]
    fn claims_of_pods_are_named() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "ephemeral": {}}, {"name": "e", "emptyDir": {}}]}}))
        .unwrap();
        let used = |name: &str, is_ephemeral| UsedClaim { name: name.into(), is_ephemeral };
        assert_eq!(claims_of(&pod), [used("c", false), used("p-b", true)]);
    }
}
