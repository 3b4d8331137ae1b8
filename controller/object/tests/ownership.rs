//! Who owns which fields stays true whatever appliers and updaters do: `metadata.managedFields` under random steps.
use std::collections::BTreeSet;

use controller_object::apply::{Manager, Operation, apply, track_update};
use controller_object::patch;
use controller_object::resource::{Resource, Table};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn deployments() -> &'static Resource {
    Table::builtin().find("apps", "v1", "deployments").unwrap()
}

fn manager(name: &str, operation: Operation, now: usize) -> Manager {
    Manager {
        name: name.into(),
        operation,
        subresource: None,
        now: format!("2026-01-01T00:{:02}:{:02}Z", now / 60, now % 60),
    }
}

fn roll(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

/// Some fields of a Deployment: scalars, a granular map, a set, an atomic map, lists by one key and by two.
fn configuration(mut seed: u64) -> Value {
    let seed = &mut seed;
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {}});
    let mut spec = Map::new();
    if roll(seed, 2) == 0 {
        spec.insert("replicas".into(), roll(seed, 3).into());
    }
    if roll(seed, 3) == 0 {
        spec.insert("paused".into(), true.into());
    }
    for (place, keys) in [("labels", 3), ("annotations", 2)] {
        let some = (0..keys).filter(|_| roll(seed, 2) == 0).map(|n| (format!("k{n}"), Value::from(format!("v{n}"))));
        let mut map: Map<String, Value> = some.collect();
        for value in map.values_mut() {
            if roll(seed, 3) == 0 {
                *value = "other".into();
            }
        }
        if !map.is_empty() {
            object["metadata"][place] = map.into();
        }
    }
    let finalizers: Vec<Value> =
        ["x/a", "x/b", "x/c"].iter().filter(|_| roll(seed, 3) == 0).map(|f| json!(f)).collect();
    if !finalizers.is_empty() {
        object["metadata"]["finalizers"] = finalizers.into();
    }
    let mut pod = Map::new();
    let mut containers = Vec::new();
    for name in ["c0", "c1"] {
        if roll(seed, 2) == 0 {
            continue;
        }
        let mut container = json!({"name": name, "image": format!("i{}", roll(seed, 2))});
        if roll(seed, 2) == 0 {
            container["args"] = (0..=roll(seed, 2)).map(|n| json!(format!("a{n}"))).collect();
        }
        let env: Vec<Value> =
            ["A", "B"].iter().filter(|_| roll(seed, 2) == 0).map(|e| json!({"name": e, "value": "1"})).collect();
        if !env.is_empty() {
            container["env"] = env.into();
        }
        let port_name = format!("p{}", 80 + roll(seed, 2));
        let ports: Vec<Value> = [80, 81]
            .iter()
            .filter(|_| roll(seed, 2) == 0)
            .map(|port| json!({"containerPort": port, "protocol": "TCP", "name": port_name}))
            .collect();
        if !ports.is_empty() {
            container["ports"] = ports.into();
        }
        containers.push(container);
    }
    if !containers.is_empty() {
        pod.insert("containers".into(), containers.into());
    }
    if roll(seed, 3) == 0 {
        pod.insert("nodeSelector".into(), json!({"disk": format!("d{}", roll(seed, 2))}));
    }
    if !pod.is_empty() {
        spec.insert("template".into(), json!({"spec": pod}));
    }
    if spec.is_empty() {
        object.as_object_mut().unwrap().remove("spec");
    } else {
        object["spec"] = spec.into();
    }
    object
}

type Path = Vec<String>;

/// The paths that an entry owns, from its `fieldsV1`.
fn owned(entry: &Value) -> BTreeSet<Path> {
    fn walk(value: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
        let map = value.as_object().expect("fieldsV1 are maps");
        if map.is_empty() || map.contains_key(".") {
            out.insert(path.clone());
        }
        for (step, below) in map.iter().filter(|(step, _)| *step != ".") {
            path.push(step.clone());
            walk(below, path, out);
            path.pop();
        }
    }
    let mut out = BTreeSet::new();
    walk(&entry["fieldsV1"], &mut Vec::new(), &mut out);
    out
}

/// What a path leads to. Written apart from the product's own way to find out.
fn lookup<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| match step.split_at(2) {
        ("f:", name) => value.get(name),
        ("v:", text) => {
            let wanted: Value = serde_json::from_str(text).unwrap();
            value.as_array()?.iter().find(|item| **item == wanted)
        }
        ("k:", text) => {
            let wanted: Map<String, Value> = serde_json::from_str(text).unwrap();
            value.as_array()?.iter().find(|item| wanted.iter().all(|(key, value)| item.get(key) == Some(value)))
        }
        other => panic!("unknown step {other:?}"),
    })
}

/// Every leaf of an object as a path: what somebody has to own.
fn leaves(object: &Value) -> BTreeSet<Path> {
    fn walk(value: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
        let last = path.last().map(|step| step[2..].to_owned()).unwrap_or_default();
        let steps: Vec<(String, &Value)> = match value {
            Value::Object(map) if last != "nodeSelector" => {
                map.iter().map(|(key, value)| (format!("f:{key}"), value)).collect()
            }
            Value::Array(items) => match last.as_str() {
                "containers" | "env" => {
                    items.iter().map(|i| (format!("k:{}", json!({"name": i["name"]})), i)).collect()
                }
                "ports" => items
                    .iter()
                    .map(|i| {
                        (format!("k:{}", json!({"containerPort": i["containerPort"], "protocol": i["protocol"]})), i)
                    })
                    .collect(),
                "finalizers" => items.iter().map(|item| (format!("v:{item}"), &Value::Null)).collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        if steps.is_empty() {
            out.insert(path.clone());
        }
        for (step, below) in steps {
            path.push(step);
            walk(below, path, out);
            path.pop();
        }
    }
    let mut object = object.clone();
    for key in ["apiVersion", "kind"] {
        object.as_object_mut().unwrap().remove(key);
    }
    for key in ["name", "managedFields"] {
        object["metadata"].as_object_mut().unwrap().remove(key);
    }
    let mut out = BTreeSet::new();
    walk(&object, &mut Vec::new(), &mut out);
    out.retain(|path| lookup(&object, path).is_none_or(|v| !v.as_object().is_some_and(Map::is_empty)));
    out
}

/// Whether a path leads to a key of an element: that stays as long as anything of the element does, owned or not.
fn is_key(path: &[String]) -> bool {
    let [.., element, field] = path else { return false };
    let keys = element.strip_prefix("k:").map(|keys| serde_json::from_str::<Map<String, Value>>(keys).unwrap());
    keys.is_some_and(|keys| keys.contains_key(&field[2..]))
}

fn entries(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"].as_array().map_or(&[], Vec::as_slice)
}

fn entry_of<'a>(object: &'a Value, manager: &Manager) -> Option<&'a Value> {
    entries(object).iter().find(|e| e["manager"] == *manager.name && e["operation"] == manager.operation.as_str())
}

/// What always holds: what is owned is there, what is there is owned.
fn assert_sound(object: &Value) {
    let mut all = BTreeSet::new();
    for entry in entries(object) {
        for path in owned(entry) {
            assert!(
                lookup(object, &path).is_some(),
                "{} owns {path:?}, which is not there: {object:#}",
                entry["manager"]
            );
            all.insert(path);
        }
    }
    for path in leaves(object) {
        assert!(all.contains(&path) || is_key(&path), "nobody owns {path:?}: {object:#}");
    }
}

/// Others keep what was not changed, and lose what was.
fn assert_others_keep(before: &Value, after: &Value, writer: &Manager) {
    for entry in entries(before).iter().filter(|e| e["manager"] != *writer.name) {
        let now = entries(after).iter().find(|e| e["manager"] == entry["manager"]).map(owned).unwrap_or_default();
        for path in owned(entry) {
            let (old, new) = (lookup(before, &path), lookup(after, &path));
            let is_leaf = leaves(before).contains(&path);
            if old == new {
                assert!(now.contains(&path), "{} lost {path:?} by {}", entry["manager"], writer.name);
            } else if is_leaf {
                assert!(
                    !now.contains(&path),
                    "{} still owns {path:?}, which {} changed",
                    entry["manager"],
                    writer.name
                );
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply { second: bool, force: bool, seed: u64 },
    Put { seed: u64 },
    Merge { seed: u64 },
    Strategic { seed: u64 },
    Json { seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let seed = any::<u64>();
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), seed).prop_map(|(second, force, seed)| Step::Apply { second, force, seed }),
        1 => seed.prop_map(|seed| Step::Put { seed }),
        1 => seed.prop_map(|seed| Step::Merge { seed }),
        1 => seed.prop_map(|seed| Step::Strategic { seed }),
        1 => seed.prop_map(|seed| Step::Json { seed }),
    ]
}

/// An apply, with what has to hold of it.
fn checked_apply(live: &Value, wanted: &Value, me: &Manager, force: bool) -> Value {
    let others: Vec<&Value> = entries(live).iter().filter(|e| e["manager"] != *me.name).collect();
    let disputed: Vec<&Value> = others
        .iter()
        .copied()
        .filter(|entry| {
            owned(entry).intersection(&leaves(wanted)).any(|path| lookup(live, path) != lookup(wanted, path))
        })
        .collect();
    let result = apply(deployments(), Some(live), wanted, me, force);
    let after = match result {
        Err(status) => {
            assert!(!force && !disputed.is_empty(), "a conflict with nobody: {}", status.message);
            for entry in disputed {
                let name = entry["manager"].as_str().unwrap();
                assert!(
                    status.message.contains(&format!("with {name:?}")),
                    "{} is not named: {}",
                    name,
                    status.message
                );
            }
            return live.clone();
        }
        Ok(after) => after,
    };
    assert!(force || disputed.is_empty(), "{disputed:?} lost fields without force");
    let mine = entry_of(&after, me).map(owned).unwrap_or_default();
    assert!(leaves(wanted).is_subset(&mine), "what was applied is owned");
    for path in leaves(wanted) {
        let (have, want) = (lookup(&after, &path), lookup(wanted, &path));
        assert_eq!(have, want, "what was applied is there: {path:?}");
    }
    // What it owned and does not say any more is gone, unless somebody else owns it.
    let dropped = entry_of(live, me).map(owned).unwrap_or_default();
    let dropped = dropped.difference(&mine).filter(|path| leaves(live).contains(*path) && !is_key(path));
    for path in dropped {
        let is_shared = others.iter().any(|entry| owned(entry).contains(path));
        assert!(is_shared || lookup(&after, path).is_none(), "{path:?} stays and is nobody's: {after:#}");
        assert!(!is_shared || lookup(&after, path).is_some(), "{path:?} was somebody else's too");
    }
    assert_eq!(apply(deployments(), Some(&after), wanted, me, force).unwrap(), after, "a second apply changes nothing");
    after
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ownership_stays_sound_whoever_writes(first in any::<u64>(), steps in prop::collection::vec(step(), 1..10)) {
        let mut object = configuration(first);
        object["metadata"]["annotations"] = json!({"made": "by hand"});
        track_update(deployments(), None, &mut object, &manager("creator", Operation::Update, 0));
        assert_sound(&object);
        for (at, step) in steps.into_iter().enumerate() {
            let updater = manager("updater", Operation::Update, at + 1);
            let (after, writer) = match step {
                Step::Apply { second, force, seed } => {
                    let me = manager(if second { "two" } else { "one" }, Operation::Apply, at + 1);
                    (checked_apply(&object, &configuration(seed), &me, force), me)
                }
                Step::Put { seed } => {
                    let mut new = configuration(seed);
                    new["metadata"]["managedFields"] = object["metadata"]["managedFields"].clone();
                    track_update(deployments(), Some(&object), &mut new, &updater);
                    (new, updater)
                }
                Step::Merge { seed } => {
                    let mut new = patch::merge_patch(&object, &configuration(seed)).unwrap();
                    track_update(deployments(), Some(&object), &mut new, &updater);
                    (new, updater)
                }
                Step::Strategic { seed } => {
                    let mut new = patch::strategic_merge_patch(deployments(), &object, &configuration(seed)).unwrap();
                    track_update(deployments(), Some(&object), &mut new, &updater);
                    (new, updater)
                }
                Step::Json { seed } => {
                    let spec = configuration(seed).get("spec").cloned().unwrap_or_else(|| json!({"replicas": 7}));
                    let operations = json!([{"op": "add", "path": "/spec", "value": spec}]);
                    let mut new = patch::json_patch(&object, &operations).unwrap();
                    track_update(deployments(), Some(&object), &mut new, &updater);
                    (new, updater)
                }
            };
            assert_sound(&after);
            assert_others_keep(&object, &after, &writer);
            object = after;
        }
    }

    #[test]
    fn a_strategic_patch_that_was_applied_leaves_nothing_to_patch(first in any::<u64>(), second in any::<u64>()) {
        let (base, change) = (configuration(first), configuration(second));
        let once = patch::strategic_merge_patch(deployments(), &base, &change).unwrap();
        prop_assert_eq!(patch::strategic_merge_patch(deployments(), &once, &change).unwrap(), once);
    }
}

#[test]
fn a_list_of_one_empty_entry_forgets_the_owners_and_an_empty_one_does_not() {
    let mut created = configuration(3);
    track_update(deployments(), None, &mut created, &manager("one", Operation::Update, 0));
    let owners = created["metadata"]["managedFields"].clone();
    assert_eq!(owners.as_array().map(Vec::len), Some(1));
    for (given, is_kept) in [
        (json!([]), true),
        (json!([{"manager": "x", "operation": "Nonsense", "fieldsV1": {}}]), true),
        (json!([{}]), false),
    ] {
        let mut new = created.clone();
        new["metadata"]["managedFields"] = given.clone();
        track_update(deployments(), Some(&created), &mut new, &manager("two", Operation::Update, 1));
        let left = new["metadata"].get("managedFields");
        assert_eq!(left, is_kept.then_some(&owners), "{given}");
        // Through a subresource nobody's fields are given away.
        let mut new = created.clone();
        new["metadata"]["managedFields"] = given;
        let through = Manager { subresource: Some("status".into()), ..manager("two", Operation::Update, 1) };
        track_update(deployments(), Some(&created), &mut new, &through);
        assert_eq!(new["metadata"]["managedFields"], owners);
    }
    // Who applies after the owners were forgotten meets what was there.
    let mut forgotten = created.clone();
    forgotten["metadata"]["managedFields"] = json!([{}]);
    track_update(deployments(), Some(&created), &mut forgotten, &manager("two", Operation::Update, 1));
    forgotten["spec"]["replicas"] = 40.into();
    let mut scaled = forgotten.clone();
    track_update(deployments(), Some(&forgotten), &mut scaled, &manager("two", Operation::Update, 2));
    let wanted = json!({"metadata": {"name": "a"}, "spec": {"replicas": 41}});
    let refused = apply(deployments(), Some(&scaled), &wanted, &manager("me", Operation::Apply, 3), false).unwrap_err();
    assert!(refused.message.contains("conflict with \"before-first-apply\""), "{}", refused.message);
}

#[test]
fn many_updaters_become_ancient_changes() {
    let mut object = configuration(3);
    let applier = manager("applier", Operation::Apply, 0);
    object = apply(deployments(), None, &object, &applier, false).unwrap();
    for n in 0..25 {
        let mut new = object.clone();
        new["metadata"]["annotations"][format!("by-{n}")] = "x".into();
        let subresource = (n % 2 == 1).then(|| "status".to_owned());
        let updater = Manager { subresource, ..manager(&format!("updater-{n:02}"), Operation::Update, n + 1) };
        track_update(deployments(), Some(&object), &mut new, &updater);
        assert_sound(&new);
        object = new;
    }
    let names: Vec<&str> = entries(&object).iter().map(|e| e["manager"].as_str().unwrap()).collect();
    let updaters: Vec<String> = (16..25).map(|n| format!("updater-{n:02}")).collect();
    assert_eq!(names[..2], ["applier", "ancient-changes"]);
    assert_eq!(names[2..], updaters);
    let ancient = entries(&object)[1].clone();
    assert_eq!((&ancient["time"], ancient.get("subresource")), (&json!("2026-01-01T00:00:16Z"), None));
    assert_eq!(owned(&ancient).len(), 16);
}

#[test]
fn subresources_are_owned_apart() {
    let mut object = configuration(3);
    track_update(deployments(), None, &mut object, &manager("one", Operation::Update, 0));
    let mut new = object.clone();
    new["status"] = json!({"replicas": 3});
    let through = Manager { subresource: Some("status".into()), ..manager("one", Operation::Update, 1) };
    track_update(deployments(), Some(&object), &mut new, &through);
    let [main, status] = entries(&new) else { panic!("two entries: {new:#}") };
    assert_eq!((main.get("subresource"), status["subresource"].as_str()), (None, Some("status")));
    assert_eq!(status["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn kubectl_goes_on_from_client_side_apply_and_nobody_else_does() {
    const NOTE: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let wanted = |replicas: i64, color: &str| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"color": color}}, "spec": {"replicas": replicas}});
    let mut live = wanted(1, "red");
    live["metadata"]["annotations"] = json!({NOTE: wanted(1, "red").to_string()});
    track_update(deployments(), None, &mut live, &manager("kubectl-client-side-apply", Operation::Update, 0));
    // Another manager is told of the conflict; kubectl goes on from its own note.
    let other = manager("argo", Operation::Apply, 1);
    let refused = apply(deployments(), Some(&live), &wanted(2, "red"), &other, false).unwrap_err();
    assert!(refused.message.contains("conflict with \"kubectl-client-side-apply\""), "{}", refused.message);
    let kubectl = manager("kubectl", Operation::Apply, 1);
    let applied = apply(deployments(), Some(&live), &wanted(2, "red"), &kubectl, false).unwrap();
    assert_eq!(applied["spec"]["replicas"], 2);
    let note: Value = serde_json::from_str(applied["metadata"]["annotations"][NOTE].as_str().unwrap()).unwrap();
    assert_eq!(note, wanted(2, "red"), "the note is kept up");
    // What somebody changed since is a conflict.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 9.into();
    track_update(deployments(), Some(&live), &mut scaled, &manager("scaler", Operation::Update, 1));
    let refused = apply(deployments(), Some(&scaled), &wanted(2, "blue"), &kubectl, false).unwrap_err();
    assert!(refused.message.contains("1 conflict: conflict with \"scaler\""), "{}", refused.message);
    // A note that cannot be read promises nothing.
    live["metadata"]["annotations"][NOTE] = "{".into();
    assert!(apply(deployments(), Some(&live), &wanted(2, "red"), &kubectl, false).is_err());
}
