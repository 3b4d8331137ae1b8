//! `pluginConfig` of a profile: the arguments of plugins (kube-scheduler/config/v1, types_pluginargs.go), with the checks of
//! kube-scheduler's own validation.
use super::strict;
use crate::profile::{DefaultSpread, Ignored, Profile, Resource, Strategy};
use k8s_openapi::api::core::v1::NodeAffinity;
use serde::Deserialize;
use serde_json::{Map, Value};

const HUNDRED: std::ops::RangeInclusive<i64> = 0..=100;
/// Marks of a curve's points go from 0 to 10.
const MARKS: std::ops::RangeInclusive<i64> = 0..=10;

/// Changes a profile as a plugin's arguments say.
pub(super) fn apply(plugin: &str, args: Value, profile: &mut Profile, path: &str) -> Result<(), String> {
    let args = match args {
        Value::Null => Value::Object(Map::new()),
        other => other,
    };
    let args = untyped(args, plugin, path)?;
    let path = format!("{path}.args");
    match plugin {
        "NodeResourcesFit" => fit(strict(args, &path)?, profile, &path),
        "NodeResourcesBalancedAllocation" => balance(strict(args, &path)?, profile, &path),
        "PodTopologySpread" => spread(strict(args, &path)?, profile, &path),
        "InterPodAffinity" => relations(&strict(args, &path)?, profile, &path),
        "NodeAffinity" => affinity(strict(args, &path)?, profile, &path),
        "DefaultPreemption" => preemption(&strict(args, &path)?, profile, &path),
        other => Err(format!("{path}: {other:?} takes no arguments here")),
    }
}

/// The arguments without `apiVersion` and `kind`, which say what they are anyway.
fn untyped(mut args: Value, plugin: &str, path: &str) -> Result<Value, String> {
    let fields = args.as_object_mut().ok_or_else(|| format!("{path}.args: expected a map"))?;
    let kind = format!("{plugin}Args");
    for (key, wanted) in [("apiVersion", super::API_VERSION), ("kind", &kind)] {
        if fields.remove(key).is_some_and(|given| given != wanted) {
            return Err(format!("{path}.args.{key}: expected {wanted}"));
        }
    }
    Ok(args)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fit {
    #[serde(default)]
    ignored_resources: Vec<Box<str>>,
    #[serde(default)]
    ignored_resource_groups: Vec<Box<str>>,
    scoring_strategy: Option<Scoring>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scoring {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<Spec>,
    requested_to_capacity_ratio: Option<Curve>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Curve {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

fn resource(name: &str) -> Resource {
    match name {
        "cpu" => Resource::Cpu,
        "memory" => Resource::Memory,
        "ephemeral-storage" => Resource::EphemeralStorage,
        other => Resource::Other(other.into()),
    }
}

fn fit(args: Fit, profile: &mut Profile, path: &str) -> Result<(), String> {
    for (index, name) in args.ignored_resources.iter().enumerate() {
        qualified(name, &format!("{path}.ignoredResources[{index}]"))?;
    }
    for (index, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = format!("{path}.ignoredResourceGroups[{index}]");
        if group.contains('/') {
            return Err(format!("{path}: {group:?}: resource group name can't contain '/'"));
        }
        qualified(group, &path)?;
    }
    profile.ignored = Ignored { names: args.ignored_resources, groups: args.ignored_resource_groups };
    let Some(scoring) = args.scoring_strategy else { return Ok(()) };
    let path = format!("{path}.scoringStrategy");
    if !scoring.resources.is_empty() {
        profile.resources = weighted(&scoring.resources, &format!("{path}.resources"))?;
    }
    let curve = format!("{path}.requestedToCapacityRatio");
    let kind = scoring.kind.as_deref().unwrap_or("LeastAllocated");
    profile.strategy = match (kind, scoring.requested_to_capacity_ratio) {
        ("RequestedToCapacityRatio", Some(given)) => points(&given.shape, &format!("{curve}.shape"))?,
        ("RequestedToCapacityRatio", None) => {
            return Err(format!("{curve}: must be specified when type is RequestedToCapacityRatio"));
        }
        ("LeastAllocated" | "MostAllocated", Some(_)) => {
            return Err(format!("{curve}: must be nil when type is not RequestedToCapacityRatio"));
        }
        ("LeastAllocated", None) => Strategy::LeastAllocated,
        ("MostAllocated", None) => Strategy::MostAllocated,
        (other, _) => {
            let supported = "LeastAllocated, MostAllocated, RequestedToCapacityRatio";
            return Err(format!("{path}.type: {other:?}: supported are {supported}"));
        }
    };
    Ok(())
}

fn qualified(name: &str, path: &str) -> Result<(), String> {
    match api::name::qualified_name(name).into_iter().next() {
        Some(problem) => Err(format!("{path}: {name:?}: {problem}")),
        None => Ok(()),
    }
}

fn weighted(specs: &[Spec], path: &str) -> Result<Vec<(Resource, i64)>, String> {
    let mut all: Vec<(Resource, i64)> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let own = resource(&spec.name);
        if all.iter().any(|(other, _)| *other == own) {
            return Err(format!("{path}[{index}].name: {:?} is there already", spec.name));
        }
        // None is one.
        let weight = if spec.weight == 0 { 1 } else { spec.weight };
        if !(1..=100).contains(&weight) {
            return Err(format!(
                "{path}[{index}].weight: resource weight of {} not in valid range (0, 100]",
                spec.name
            ));
        }
        all.push((own, weight));
    }
    Ok(all)
}

fn points(shape: &[Point], path: &str) -> Result<Strategy, String> {
    if shape.is_empty() {
        return Err(format!("{path}: at least one point must be specified"));
    }
    for (index, point) in shape.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !HUNDRED.contains(&point.utilization) {
            return Err(format!("{path}.utilization: not in valid range [0, 100]"));
        }
        if !MARKS.contains(&point.score) {
            return Err(format!("{path}.score: not in valid range [0, 10]"));
        }
        let is_behind = |before: &Point| before.utilization < point.utilization;
        if !index.checked_sub(1).and_then(|before| shape.get(before)).is_none_or(is_behind) {
            return Err(format!("{path}.utilization: values must be sorted in increasing order"));
        }
    }
    let scaled = shape.iter().map(|point| (point.utilization, point.score * (crate::profile::FULL / MARKS.end())));
    Ok(Strategy::RequestedToCapacityRatio(scaled.collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Balance {
    #[serde(default)]
    resources: Vec<Spec>,
}

fn balance(args: Balance, profile: &mut Profile, path: &str) -> Result<(), String> {
    if args.resources.is_empty() {
        return Ok(());
    }
    let all = weighted(&args.resources, &format!("{path}.resources"))?;
    if let Some(index) = all.iter().position(|(_, weight)| *weight != 1) {
        return Err(format!("{path}.resources[{index}].weight: must be 1"));
    }
    profile.balanced = all.into_iter().map(|(resource, _)| resource).collect();
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spread {
    #[serde(default)]
    default_constraints: Vec<Constraint>,
    defaulting_type: Option<String>,
}

/// The fields of a TopologySpreadConstraint that a default one may have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Constraint {
    max_skew: i64,
    topology_key: String,
    when_unsatisfiable: String,
    #[serde(default)]
    label_selector: Option<Value>,
}

fn spread(args: Spread, profile: &mut Profile, path: &str) -> Result<(), String> {
    let is_list = match args.defaulting_type.as_deref() {
        Some("System") if !args.default_constraints.is_empty() => {
            return Err(format!("{path}.defaultingType: \"System\": when .defaultConstraints are not empty"));
        }
        // What is unset is told by what there is (kube-scheduler's defaults).
        None => !args.default_constraints.is_empty(),
        Some("System") => false,
        Some("List") => true,
        Some(other) => return Err(format!("{path}.defaultingType: {other:?}: supported are System, List")),
    };
    let mut all: Vec<DefaultSpread> = Vec::new();
    for (index, one) in args.default_constraints.iter().enumerate() {
        let path = format!("{path}.defaultConstraints[{index}]");
        if !(1..=i64::from(i32::MAX)).contains(&one.max_skew) {
            return Err(format!("{path}.maxSkew: not in valid range (0, inf)"));
        }
        qualified(&one.topology_key, &format!("{path}.topologyKey"))?;
        if one.label_selector.is_some() {
            let why = "constraint must not define a selector, as they deduced for each pod";
            return Err(format!("{path}.labelSelector: {why}"));
        }
        let is_hard = match one.when_unsatisfiable.as_str() {
            "DoNotSchedule" => true,
            "ScheduleAnyway" => false,
            other => {
                let path = format!("{path}.whenUnsatisfiable");
                return Err(format!("{path}: {other:?}: supported are DoNotSchedule, ScheduleAnyway"));
            }
        };
        if all.iter().any(|other| *other.topology == *one.topology_key && other.is_hard == is_hard) {
            return Err(format!("{path}: {{{}, {}}} is there already", one.topology_key, one.when_unsatisfiable));
        }
        all.push(DefaultSpread { topology: one.topology_key.as_str().into(), max_skew: one.max_skew, is_hard });
    }
    profile.spread = is_list.then_some(all);
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relations {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

fn relations(args: &Relations, profile: &mut Profile, path: &str) -> Result<(), String> {
    let weight = args.hard_pod_affinity_weight.unwrap_or(1);
    if !HUNDRED.contains(&weight) {
        return Err(format!("{path}.hardPodAffinityWeight: not in valid range [0, 100]"));
    }
    profile.hard_affinity_weight = weight;
    profile.ignores_wishes_of_others = args.ignore_preferred_terms_of_existing_pods;
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Affinity {
    added_affinity: Option<Value>,
}

fn affinity(args: Affinity, profile: &mut Profile, path: &str) -> Result<(), String> {
    let Some(added) = args.added_affinity else { return Ok(()) };
    let path = format!("{path}.addedAffinity");
    let affinity: NodeAffinity = known(added, &path)?;
    let required = affinity.required_during_scheduling_ignored_during_execution.iter();
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    let terms = required.flat_map(|selector| &selector.node_selector_terms).chain(preferred.map(|one| &one.preference));
    let mut asked = terms.flat_map(|term| term.match_expressions.iter().chain(&term.match_fields).flatten());
    const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
    if let Some(odd) = asked.find(|one| !OPERATORS.contains(&one.operator.as_str())) {
        return Err(format!("{path}: {:?} is not a valid selector operator", odd.operator));
    }
    profile.added_affinity = Some(Box::new(affinity));
    Ok(())
}

/// Reads a type of the API; a field that it does not have is told with its path.
fn known<T: serde::de::DeserializeOwned + serde::Serialize>(value: Value, path: &str) -> Result<T, String> {
    let read: T = strict(value.clone(), path)?;
    let kept = serde_json::to_value(&read).map_err(|error| format!("{path}: {error}"))?;
    match lost(&value, &kept, path) {
        Some(field) => Err(format!("{field}: unknown field")),
        None => Ok(read),
    }
}

/// The path of a field that is not there any more.
fn lost(given: &Value, kept: &Value, path: &str) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match kept.get(key) {
                Some(kept) => lost(value, kept, &path),
                None => (!value.is_null()).then_some(path),
            }
        }),
        (Value::Array(given), Value::Array(kept)) => {
            let mut pairs = given.iter().zip(kept).enumerate();
            pairs.find_map(|(index, (given, kept))| lost(given, kept, &format!("{path}[{index}]")))
        }
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Preemption {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

fn preemption(args: &Preemption, profile: &mut Profile, path: &str) -> Result<(), String> {
    let percent = args.min_candidate_nodes_percentage.unwrap_or(10);
    let least = args.min_candidate_nodes_absolute.unwrap_or(100);
    if !HUNDRED.contains(&percent) {
        return Err(format!("{path}.minCandidateNodesPercentage: not in valid range [0, 100]"));
    }
    if least < 0 {
        return Err(format!("{path}.minCandidateNodesAbsolute: not in valid range [0, inf)"));
    }
    if (percent, least) == (0, 0) {
        let detail = "cannot be zero at the same time as minCandidateNodesAbsolute";
        return Err(format!("{path}.minCandidateNodesPercentage: {detail}"));
    }
    profile.candidates_percent = usize::try_from(percent).unwrap_or(0);
    profile.min_candidates = usize::try_from(least).unwrap_or(usize::MAX);
    Ok(())
}
