//! Where a volume is to be reached from, and where it is: pure. Rules as the external provisioner has them, with its defaults
//! (topology not strict, also for claims that wait for no pod).
use api_plugin::csi::Topology;
use api_plugin::csi::controller::TopologyRequirement;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, TopologySelectorTerm, VolumeNodeAffinity,
};
use std::collections::{BTreeMap, BTreeSet};

/// A place: the labels that say where it is.
pub(super) type Segments = BTreeMap<String, String>;

/// More places than a class can mean.
const MAX_PLACES: usize = 4096;

/// A node that the driver is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverNode<'a> {
    pub(super) name: &'a str,
    /// The driver's labels; empty: it told none.
    pub(super) keys: &'a [String],
    /// All of the node's.
    pub(super) labels: &'a BTreeMap<String, String>,
}

impl DriverNode<'_> {
    /// Where it is by these labels; `None` if it lacks one.
    pub(super) fn place(&self, keys: &[String]) -> Option<Segments> {
        keys.iter().map(|key| Some((key.clone(), self.labels.get(key)?.clone()))).collect()
    }
}

/// What a driver is asked for; `None`: it may choose. `claim` is the claim's name, by which volumes are spread where no node
/// was chosen.
pub(super) fn requirement(
    claim: &str,
    selected: Option<&str>,
    allowed: &[TopologySelectorTerm],
    nodes: &[DriverNode<'_>],
) -> Result<Option<TopologyRequirement>, String> {
    let chosen = match selected {
        Some(name) => {
            let node = nodes.iter().find(|node| node.name == name);
            let node = node.ok_or_else(|| format!("the driver is not registered on selected node {name:?}"))?;
            if node.keys.is_empty() {
                return Err(format!("no topology key found on CSINode {name}"));
            }
            let place = node.place(node.keys).ok_or_else(|| {
                format!(
                    "topology labels of selected node {name:?} do not match topology keys {:?} of CSINode",
                    node.keys
                )
            })?;
            Some((node, place))
        }
        None => None,
    };
    let places: BTreeSet<Segments> = match allowed.is_empty() {
        false => flatten(allowed)?,
        true => {
            let keys = chosen.as_ref().map(|(node, _)| node.keys);
            let keys = keys.or_else(|| nodes.iter().map(|node| node.keys).find(|keys| !keys.is_empty()));
            let Some(keys) = keys else { return Ok(None) };
            nodes.iter().filter_map(|node| node.place(keys)).collect()
        }
    };
    let mut places: Vec<Segments> = places.into_iter().collect();
    if places.is_empty() {
        return Ok(None);
    }
    let requisite = places.iter().map(message).collect();
    let first = match &chosen {
        Some((node, own)) => {
            let holds = |place: &Segments| place.iter().all(|(key, value)| node.labels.get(key) == Some(value));
            places.iter().position(|place| place == own).or_else(|| places.iter().position(holds)).ok_or_else(|| {
                format!(
                    "topology {own:?} of selected node {:?} is not among the allowed topologies {places:?}",
                    node.name
                )
            })?
        }
        None => spread(claim) % places.len(),
    };
    places.rotate_left(first);
    Ok(Some(TopologyRequirement { requisite, preferred: places.iter().map(message).collect() }))
}

fn message(place: &Segments) -> Topology {
    Topology { segments: place.clone().into_iter().collect() }
}

/// Each combination of values that the terms allow.
fn flatten(allowed: &[TopologySelectorTerm]) -> Result<BTreeSet<Segments>, String> {
    let mut all = BTreeSet::new();
    for term in allowed {
        let mut places = vec![Segments::new()];
        for own in term.match_label_expressions.iter().flatten() {
            let more = places.iter().flat_map(|place| {
                own.values.iter().map(move |value| {
                    let mut place = place.clone();
                    place.insert(own.key.clone(), value.clone());
                    place
                })
            });
            // One more tells that there are too many.
            places = more.take(MAX_PLACES + 1).collect();
        }
        all.extend(places.into_iter().filter(|place| !place.is_empty()));
        if all.len() > MAX_PLACES {
            return Err(format!("allowedTopologies: more than {MAX_PLACES} places"));
        }
    }
    Ok(all)
}

/// A number by which claims are spread; those of one StatefulSet follow each other.
fn spread(claim: &str) -> usize {
    let (set, ordinal) = match claim.rsplit_once('-') {
        Some((set, ordinal)) => (set, ordinal.parse::<u16>().ok()),
        None => (claim, None),
    };
    let base = if ordinal.is_some() { set } else { claim };
    // FNV-1a, 32 bits.
    let hash = base.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.wrapping_add(ordinal.unwrap_or_default().into()) as usize
}

/// The nodes that reach a volume; `None`: all.
pub(super) fn affinity(places: &[Topology]) -> Option<VolumeNodeAffinity> {
    let term = |place: &Topology| {
        let segments: Segments = place.segments.clone().into_iter().collect();
        let own = segments.into_iter().map(|(key, value)| NodeSelectorRequirement {
            key,
            operator: "In".into(),
            values: Some(vec![value]),
        });
        NodeSelectorTerm { match_expressions: Some(own.collect()), match_fields: None }
    };
    let terms: Vec<NodeSelectorTerm> = places.iter().filter(|place| !place.segments.is_empty()).map(term).collect();
    (!terms.is_empty()).then_some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: terms }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    const ZONE: &str = "zone";

    /// What is requisite, and what is preferred.
    type Zones = (Vec<String>, Vec<String>);

    fn labels(zone: &str) -> BTreeMap<String, String> {
        [(ZONE, zone), ("size", "large")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    fn asked(selected: Option<&str>, allowed: serde_json::Value) -> Result<Option<Zones>, String> {
        let (keys, labels) = ([ZONE.to_owned()], [labels("a"), labels("b"), labels("a")]);
        let nodes: Vec<DriverNode<'_>> = ["n1", "n2", "n3"]
            .into_iter()
            .zip(&labels)
            .map(|(name, labels)| DriverNode { name, keys: &keys, labels })
            .collect();
        let allowed: Vec<TopologySelectorTerm> = from_value(allowed).unwrap();
        let zones = |places: &[Topology]| places.iter().map(|place| place.segments[ZONE].clone()).collect::<Vec<_>>();
        let found = requirement("c", selected, &allowed, &nodes)?;
        Ok(found.map(|found| (zones(&found.requisite), zones(&found.preferred))))
    }

    fn own(zones: &[&str]) -> Vec<String> {
        zones.iter().map(|zone| (*zone).to_owned()).collect()
    }

    #[test]
    fn the_chosen_nodes_place_comes_first() {
        assert_eq!(asked(Some("n2"), json!([])).unwrap(), Some((own(&["a", "b"]), own(&["b", "a"]))));
        assert_eq!(asked(Some("n3"), json!([])).unwrap(), Some((own(&["a", "b"]), own(&["a", "b"]))));
        let allowed = json!([{"matchLabelExpressions": [{"key": ZONE, "values": ["c", "b"]}]}]);
        assert_eq!(asked(Some("n2"), allowed.clone()).unwrap(), Some((own(&["b", "c"]), own(&["b", "c"]))));
        assert!(asked(Some("n1"), allowed).unwrap_err().contains("not among the allowed"));
        assert!(asked(Some("n9"), json!([])).unwrap_err().contains("not registered on selected node \"n9\""));
    }

    #[test]
    fn without_a_node_claims_are_spread() {
        let (requisite, preferred) = asked(None, json!([])).unwrap().unwrap();
        assert_eq!(requisite, own(&["a", "b"]));
        assert_eq!(preferred.len(), 2);
        assert_ne!(spread("data-web-0") % 2, spread("data-web-1") % 2);
        assert_eq!(requirement("c", None, &[], &[]), Ok(None));
        let (bare, none) = (labels("a"), []);
        let node = [DriverNode { name: "n", keys: &none, labels: &bare }];
        assert!(requirement("c", Some("n"), &[], &node).unwrap_err().contains("no topology key found on CSINode n"));
    }

    #[test]
    fn a_class_cannot_mean_too_many_places() {
        let values: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let term = ["a", "b", "c", "d"].map(|key| json!({"key": key, "values": values}));
        let allowed: Vec<TopologySelectorTerm> = from_value(json!([{"matchLabelExpressions": term}])).unwrap();
        assert!(requirement("c", None, &allowed, &[]).unwrap_err().contains("more than 4096 places"));
    }

    #[test]
    fn a_volume_says_where_it_is() {
        let place = |zone: &str| message(&labels(zone));
        let affinity = json!(affinity(&[place("a"), Topology::default()]).unwrap());
        assert_eq!(
            affinity["required"]["nodeSelectorTerms"],
            json!([{"matchExpressions": [{"key": "size", "operator": "In", "values": ["large"]},
                {"key": ZONE, "operator": "In", "values": ["a"]}]}])
        );
        assert_eq!(super::affinity(&[]), None);
    }
}
