//! What holds for every input: nothing panics, patches reach their goal, apply keeps its invariants.
use controller_object::apply::{Manager, Operation, apply, track_update};
use controller_object::columns::{IncludeObject, table as print};
use controller_object::decode::{FieldValidation, conform, decode};
use controller_object::media::MediaType;
use controller_object::resource::{Resource, Table};
use controller_object::schema::{Cursor, ListKind, Scalar, View};
use controller_object::strategy::{Stamp, prepare_for_create, prepare_for_update};
use controller_object::{conversion, defaulting, patch, scale, validation};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "metadata",
        "name",
        "spec",
        "containers",
        "image",
        "template",
        "labels",
        "selector",
        "matchLabels",
        "ports",
        "data",
        "status",
        "limits",
        "resources",
        "volumes",
        "$patch",
        "$retainKeys",
        "env",
        "strategy",
        "rules",
        "type",
        "annotations",
        "items",
        "conditions",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((keys.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

fn roll(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

/// A value of the shape at a cursor, chosen by a stream of random numbers.
fn shaped(cursor: Cursor<'_>, seed: &mut u64, depth: usize) -> Value {
    match cursor.view() {
        View::Scalar(scalar) => match scalar {
            Scalar::String => format!("s{}", roll(seed, 4)).into(),
            Scalar::Bytes => "aGk=".into(),
            Scalar::Time => "2026-01-01T00:00:00Z".into(),
            Scalar::MicroTime => "2026-01-01T00:00:00.000001Z".into(),
            Scalar::Bool => (roll(seed, 2) == 0).into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString => (roll(seed, 5) as i64 - 1).into(),
            Scalar::Number => 1.5.into(),
            Scalar::Quantity => format!("{}m", roll(seed, 9)).into(),
        },
        View::Object | View::Any | View::Deduced => json!({"x": roll(seed, 3)}),
        View::Map(item) => {
            let count = roll(seed, 3);
            (0..count).map(|i| (format!("k{i}"), shaped(item, seed, depth + 1))).collect::<Map<_, _>>().into()
        }
        View::List(item) => {
            let count = if depth > 9 { 0 } else { roll(seed, 3) };
            let mut items: Vec<Value> = Vec::new();
            for i in 0..count {
                let mut value = shaped(item, seed, depth + 1);
                // Elements that merge by key must be told apart.
                let mut keys: Vec<&str> = match cursor.list_kind() {
                    ListKind::Map(keys) => keys.iter().map(AsRef::as_ref).collect(),
                    ListKind::Set | ListKind::Atomic => Vec::new(),
                };
                keys.extend(cursor.patch().and_then(|p| p.key.as_deref()));
                for key in keys {
                    let own = match item.field(key).map(Cursor::view) {
                        Some(View::Scalar(Scalar::Int32 | Scalar::Int64)) => json!(i + 1),
                        _ => json!(format!("own{i}")),
                    };
                    value[key] = own;
                }
                if !items.contains(&value) {
                    items.push(value);
                }
            }
            Value::Array(items)
        }
        View::Struct(kind) => {
            let mut map = Map::new();
            for field in kind.fields() {
                if depth > 10 || roll(seed, if depth < 3 { 2 } else { 6 }) != 0 || &*field.name == "managedFields" {
                    continue;
                }
                if let Some(next) = cursor.field(&field.name) {
                    map.insert(field.name.to_string(), shaped(next, seed, depth + 1));
                }
            }
            Value::Object(map)
        }
    }
}

fn object_of(resource: &Resource, mut seed: u64) -> Value {
    let mut object = shaped(resource.cursor().unwrap(), &mut seed, 0);
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
    object["metadata"]["name"] = "a".into();
    object
}

fn resources() -> Vec<&'static Resource> {
    Table::builtin().all().map(AsRef::as_ref).collect()
}

/// Everything that the server does with one object.
fn exercise(resource: &Resource, mut object: Value) {
    defaulting::default(resource, &mut object);
    let stamp = Stamp { now: "2026-01-01T00:00:00Z".into(), uid: "u".into() };
    prepare_for_create(resource, &mut object, &stamp);
    validation::validate_create(resource, &object);
    let mut changed = object.clone();
    for sub in std::iter::once(None).chain(resource.subresources.iter().copied().map(Some)) {
        prepare_for_update(resource, &object, &mut changed, sub, &stamp.now);
        validation::validate_update(resource, &object, &changed, sub);
    }
    print(resource, vec![object.clone()], 0, IncludeObject::Object);
    if let Some(scale) = scale::scale_of(resource, &object) {
        let _ = scale::set_replicas(resource, &mut object, &scale);
    }
    conversion::to_storage(resource, &mut object);
    conversion::from_storage(resource, &mut object);
}

fn manager(name: &str, operation: Operation) -> Manager {
    Manager { name: name.into(), operation, subresource: None, now: "2026-01-01T00:00:00Z".into() }
}

fn without_managed(object: &Value) -> Value {
    let mut copy = object.clone();
    copy["metadata"].as_object_mut().unwrap().remove("managedFields");
    copy
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_json_never_panics(value in arbitrary_json(), other in arbitrary_json(), pick in any::<prop::sample::Index>()) {
        let all = resources();
        let resource = all[pick.index(all.len())];
        let bytes = serde_json::to_vec(&value).unwrap();
        for media in [MediaType::Json, MediaType::Yaml] {
            if let Ok(decoded) = decode(Table::builtin(), resource, media, &bytes, FieldValidation::Warn) {
                exercise(resource, decoded.object);
            }
        }
        let base = object_of(resource, bytes.len() as u64);
        let _ = patch::json_patch(&base, &value);
        for result in [patch::merge_patch(&base, &value), patch::strategic_merge_patch(resource, &base, &value)] {
            if let Ok(mut patched) = result
                && conform(resource, &mut patched, FieldValidation::Ignore).is_ok()
            {
                exercise(resource, patched);
            }
        }
        let _ = apply(resource, Some(&base), &other, &manager("m", Operation::Apply), true);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let pods = Table::builtin().find("", "v1", "pods").unwrap();
        for media in [MediaType::Json, MediaType::Yaml] {
            let _ = decode(Table::builtin(), pods, media, &bytes, FieldValidation::Strict);
        }
    }

    #[test]
    fn shaped_objects_conform_unchanged_and_survive_the_pipeline(seed in any::<u64>(), pick in any::<prop::sample::Index>()) {
        let all = resources();
        let resource = all[pick.index(all.len())];
        let object = object_of(resource, seed);
        let mut copy = object.clone();
        let warnings = conform(resource, &mut copy, FieldValidation::Warn);
        prop_assert_eq!(warnings, Ok(Vec::new()));
        exercise(resource, copy);
    }

    #[test]
    fn a_patch_that_repeats_the_object_changes_nothing(seed in any::<u64>(), pick in any::<prop::sample::Index>()) {
        let all = resources();
        let resource = all[pick.index(all.len())];
        let object = object_of(resource, seed);
        prop_assert_eq!(&patch::strategic_merge_patch(resource, &object, &object).unwrap(), &object);
        prop_assert_eq!(&patch::strategic_merge_patch(resource, &object, &json!({})).unwrap(), &object);
        prop_assert_eq!(&patch::merge_patch(&object, &object).unwrap(), &object);
    }

    #[test]
    fn apply_is_idempotent_and_owned_fields_go_when_dropped(seed in any::<u64>(), pick in any::<prop::sample::Index>()) {
        let all = resources();
        let resource = all[pick.index(all.len())];
        let wanted = object_of(resource, seed);
        let me = manager("me", Operation::Apply);
        let first = apply(resource, None, &wanted, &me, false).unwrap();
        prop_assert_eq!(&without_managed(&first), &wanted);
        let again = apply(resource, Some(&first), &wanted, &me, false).unwrap();
        prop_assert_eq!(&again, &first);
        // Another manager that says the same shares; when the first says nothing any more, all stays.
        let you = manager("you", Operation::Apply);
        let shared = apply(resource, Some(&first), &wanted, &you, false).unwrap();
        let nothing = json!({"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": {"name": "a"}});
        let kept = apply(resource, Some(&shared), &nothing, &me, false).unwrap();
        prop_assert_eq!(&without_managed(&kept), &wanted);
    }

    #[test]
    fn untouched_updates_change_no_ownership(seed in any::<u64>(), pick in any::<prop::sample::Index>()) {
        let all = resources();
        let resource = all[pick.index(all.len())];
        let mut created = object_of(resource, seed);
        track_update(resource, None, &mut created, &manager("one", Operation::Update));
        let mut same = created.clone();
        let later = Manager { now: "2027-01-01T00:00:00Z".into(), ..manager("two", Operation::Update) };
        track_update(resource, Some(&created), &mut same, &later);
        prop_assert_eq!(same, created);
    }

    #[test]
    fn hostile_protobuf_is_no_danger(
        kind in prop::sample::select(vec!["Pod", "Namespace", "Secret", "Event", "DeleteOptions", "Node"]),
        mut raw in prop::collection::vec(any::<u8>(), 0..100),
        nested in 0usize..150,
    ) {
        let _ = controller_object::protobuf::decode(&raw);
        for _ in 0..nested {
            raw = delimited(1, &raw);
        }
        let meta = [delimited(1, b"v1"), delimited(2, kind.as_bytes())].concat();
        let body = [b"k8s\0".to_vec(), delimited(1, &meta), delimited(2, &raw)].concat();
        let _ = controller_object::protobuf::decode(&body);
    }
}

/// A length-delimited field.
fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(content);
    out
}
