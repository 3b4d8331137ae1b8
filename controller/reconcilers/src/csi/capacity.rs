//! What is told of a driver's room (CSIStorageCapacity), by which the scheduler chooses nodes: one object for each class whose
//! claims wait for a pod, and each place. As the external provisioner tells it. Pure.
use super::topology::{DriverNode, Segments};
use api_plugin::csi::controller::CapacityResponse;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Says of which driver an object tells.
pub(super) const LABEL_DRIVER: &str = "csi.storage.k8s.io/drivername";
/// Says who writes it.
pub(super) const LABEL_MANAGER: &str = "csi.storage.k8s.io/managed-by";
/// We do.
pub(super) const MANAGER: &str = "gantry";

/// Where the nodes of a driver are; everywhere for one that reaches its volumes from everywhere.
pub(super) fn places(nodes: &[DriverNode<'_>], has_topology: bool) -> BTreeSet<Segments> {
    match has_topology {
        true => nodes.iter().filter(|node| !node.keys.is_empty()).filter_map(|node| node.place(node.keys)).collect(),
        false => BTreeSet::from([Segments::new()]),
    }
}

/// The name of the object for a class and a place.
pub(super) fn name(driver: &str, class: &str, place: &Segments) -> String {
    let mut hash = Sha256::new();
    let of_place = place.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
    for part in [driver, class].into_iter().chain(of_place) {
        hash.update(part.as_bytes());
        // No name has one, so that parts do not run into each other.
        hash.update([0]);
    }
    let digits: String = hash.finalize().iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    format!("csisc-{digits}")
}

/// What a driver has answered, as an object.
pub(super) fn object(driver: &str, class: &str, place: &Segments, answer: &CapacityResponse) -> CSIStorageCapacity {
    let labels = [(LABEL_DRIVER, driver), (LABEL_MANAGER, MANAGER)];
    let bytes = |count: i64| Quantity(count.max(0).to_string());
    CSIStorageCapacity {
        metadata: ObjectMeta {
            name: Some(name(driver, class, place)),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        storage_class_name: class.to_owned(),
        node_topology: Some(LabelSelector {
            match_labels: Some(place.clone()).filter(|labels| !labels.is_empty()),
            match_expressions: None,
        }),
        capacity: Some(bytes(answer.available_capacity)),
        maximum_volume_size: answer.maximum_volume_size.as_ref().map(|most| bytes(most.value)),
    }
}

/// Whether an object tells something else than it should.
pub(super) fn differs(held: &CSIStorageCapacity, wanted: &CSIStorageCapacity) -> bool {
    let amount = |own: &Option<Quantity>| own.as_ref().and_then(|own| api::quantity::Quantity::parse(&own.0).ok());
    amount(&held.capacity) != amount(&wanted.capacity)
        || amount(&held.maximum_volume_size) != amount(&wanted.maximum_volume_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_plugin::csi::controller::Number;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn labels(rack: &str) -> BTreeMap<String, String> {
        [("rack".to_owned(), rack.to_owned()), ("size".to_owned(), "large".to_owned())].into()
    }

    #[test]
    fn each_place_is_told_of_once() {
        let (keys, none) = (["rack".to_owned()], []);
        let (one, two, bare) = (labels("1"), labels("2"), BTreeMap::new());
        let node = |labels, keys| DriverNode { name: "n", keys, labels };
        let nodes =
            [node(&one, &keys[..]), node(&two, &keys), node(&one, &keys), node(&bare, &keys), node(&two, &none)];
        let place = |rack: &str| Segments::from([("rack".to_owned(), rack.to_owned())]);
        assert_eq!(places(&nodes, true), BTreeSet::from([place("1"), place("2")]));
        assert_eq!(places(&nodes, false), BTreeSet::from([Segments::new()]));
        assert_ne!(name("d", "c", &place("1")), name("d", "c", &place("2")));
        assert_ne!(name("d", "cr", &Segments::new()), name("dc", "r", &Segments::new()));
    }

    #[test]
    fn an_object_is_written_again_only_if_it_tells_something_else() {
        let most = |value| Some(Number { value });
        let answer = CapacityResponse { available_capacity: 1 << 30, maximum_volume_size: most(5) };
        let own = object("d", "c", &Segments::from([("rack".into(), "1".into())]), &answer);
        let told = json!(own);
        assert_eq!(told["nodeTopology"], json!({"matchLabels": {"rack": "1"}}));
        assert_eq!((told["capacity"].clone(), told["maximumVolumeSize"].clone()), (json!("1073741824"), json!("5")));
        let held = CSIStorageCapacity { capacity: Some(Quantity("1Gi".into())), ..own.clone() };
        assert!(!differs(&held, &own));
        let less = CapacityResponse { available_capacity: 1, ..answer };
        assert!(differs(&held, &object("d", "c", &Segments::new(), &less)));
        assert!(differs(&held, &CSIStorageCapacity { maximum_volume_size: None, ..own }));
        let everywhere = json!(object("d", "c", &Segments::new(), &less));
        assert_eq!(everywhere["nodeTopology"], json!({}), "a selector of all nodes");
    }
}
