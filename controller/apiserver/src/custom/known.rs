//! The definitions as they were last seen, with what they serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use controller_object::custom::{Claims, judge, resources};
use controller_object::resource::{Resource, Table};
use controller_store::model::{KeyValue, Revision};
use serde_json::{Value, json};

use crate::registry::{Registry, to_value};

/// Every definition, by its key.
#[derive(Default)]
pub(super) struct Known {
    definitions: BTreeMap<Bytes, Definition>,
}

/// What is kept of one: without its schemas, which its resources hold.
struct Definition {
    revision: Revision,
    /// `metadata`, `spec` without schemas, `status`.
    brief: Value,
    /// What resources were made of: uid, generation and names.
    made_of: Value,
    resources: Vec<Arc<Resource>>,
    is_established: bool,
    /// The status that should be written, when it is not what is stored.
    status: Option<Value>,
    /// Its objects are being deleted.
    is_cleaning: bool,
}

impl Known {
    /// Takes over what is stored now; says whether what is served changed.
    pub(super) fn update(&mut self, resource: &Resource, items: &[KeyValue], now: &str) -> bool {
        let there: BTreeSet<&Bytes> = items.iter().map(|kv| &kv.key).collect();
        let before = self.definitions.len();
        let mut groups: BTreeSet<String> = BTreeSet::new();
        self.definitions.retain(|key, definition| {
            let stays = there.contains(key);
            if !stays {
                groups.insert(group_of(&definition.brief).to_owned());
            }
            stays
        });
        let mut changed = self.definitions.len() != before;
        let mut fresh: BTreeMap<Bytes, Value> = BTreeMap::new();
        for kv in items {
            if self.definitions.get(&kv.key).is_some_and(|known| known.revision == kv.mod_revision) {
                continue;
            }
            let Ok(whole) = to_value(resource, kv, kv.mod_revision) else {
                tracing::error!(key = %String::from_utf8_lossy(&kv.key), "a definition is damaged in the store");
                continue;
            };
            groups.insert(group_of(&whole).to_owned());
            let known = self.definitions.entry(kv.key.clone()).or_insert_with(|| Definition {
                revision: kv.mod_revision,
                brief: Value::Null,
                made_of: Value::Null,
                resources: Vec::new(),
                is_established: false,
                status: None,
                is_cleaning: false,
            });
            (known.revision, known.brief) = (kv.mod_revision, brief(&whole));
            fresh.insert(kv.key.clone(), whole);
        }
        for group in &groups {
            changed |= self.judge(group, &fresh, now);
        }
        changed
    }

    /// Judges the definitions of a group whose names may have become free or taken.
    fn judge(&mut self, group: &str, fresh: &BTreeMap<Bytes, Value>, now: &str) -> bool {
        let mut keys: Vec<(String, Bytes)> = Vec::new();
        for (key, definition) in self.definitions.iter().filter(|(_, one)| group_of(&one.brief) == group) {
            let is_waiting = !definition.is_established || names_differ(&definition.brief);
            if fresh.contains_key(key) || is_waiting {
                let created = definition.brief["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
                keys.push((created.to_owned(), key.clone()));
            }
        }
        // Who came first gets the name.
        keys.sort();
        let mut changed = false;
        for (_, key) in keys {
            let others = self.definitions.iter().filter(|(other, one)| **other != key && group_of(&one.brief) == group);
            let claims = Claims::of(others.map(|(_, one)| &one.brief));
            let Some(definition) = self.definitions.get_mut(&key) else { continue };
            let verdict = judge(&definition.brief, &claims, now);
            definition.status = (verdict.status != definition.brief["status"]).then(|| verdict.status.clone());
            definition.brief["status"] = verdict.status;
            definition.is_cleaning = is_going(&definition.brief);
            changed |= definition.is_established != verdict.is_established;
            definition.is_established = verdict.is_established;
            let metadata = &definition.brief["metadata"];
            // Deletion counts as a new generation, and changes nothing else.
            let is_terminating = metadata.get("deletionTimestamp").is_some();
            if definition.resources.first().is_some_and(|one| one.is_terminating != is_terminating) {
                let resources = definition.resources.iter();
                definition.resources =
                    resources.map(|one| Arc::new(Resource { is_terminating, ..(**one).clone() })).collect();
                changed = true;
            }
            let generation = metadata["generation"].as_i64().unwrap_or(0) - i64::from(is_terminating);
            let made_of = json!([metadata["uid"], generation, definition.brief["status"]["acceptedNames"]]);
            if made_of == definition.made_of {
                continue;
            }
            // Without its schemas at hand, the resources stay until the definition is read again.
            if let Some(whole) = fresh.get(&key) {
                let names = &definition.brief["status"]["acceptedNames"];
                definition.resources = resources(whole, names).into_iter().map(Arc::new).collect();
                definition.made_of = made_of;
                changed = true;
            }
        }
        changed
    }

    /// Status to write: key, the revision that it was made for, and the status. Each is answered once.
    pub(super) fn untold(&mut self) -> Vec<(Bytes, Revision, Value)> {
        let definitions = self.definitions.iter_mut();
        definitions.filter_map(|(key, one)| Some((key.clone(), one.revision, one.status.take()?))).collect()
    }

    /// Definitions that go: key, and where their objects are.
    pub(super) fn going(&self) -> Vec<(Bytes, String, String)> {
        let going = self.definitions.iter().filter(|(_, definition)| definition.is_cleaning);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        going
            .map(|(key, one)| {
                (key.clone(), text(&one.brief["spec"]["group"]), text(&one.brief["spec"]["names"]["plural"]))
            })
            .collect()
    }

    /// Serves a definition no more.
    pub(super) fn withdraw(&mut self, key: &Bytes) {
        if let Some(definition) = self.definitions.get_mut(key) {
            definition.is_established = false;
        }
    }

    /// Nothing is left of a definition's objects, and whether it was let go; else it is read again.
    pub(super) fn cleaned(&mut self, key: &Bytes, released: bool) {
        if let Some(definition) = self.definitions.get_mut(key) {
            definition.is_cleaning = !released;
            if !released {
                definition.revision = Revision::EMPTY;
            }
        }
    }

    /// Makes what is established the table of served resources.
    pub(super) fn serve(&self, registry: &Registry) {
        let mut table = Table::builtin().clone();
        let established = self.definitions.values().filter(|definition| definition.is_established);
        established.for_each(|definition| table.insert_custom(definition.resources.iter()));
        registry.serve(table);
    }
}

fn group_of(definition: &Value) -> &str {
    definition["spec"]["group"].as_str().unwrap_or_default()
}

fn names_differ(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    !conditions.iter().any(|condition| condition["type"] == "NamesAccepted" && condition["status"] == "True")
}

/// Whether it is being deleted and waits for its objects.
fn is_going(definition: &Value) -> bool {
    let metadata = &definition["metadata"];
    let finalizers = metadata["finalizers"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    metadata.get("deletionTimestamp").is_some() && finalizers.iter().any(|finalizer| finalizer == super::FINALIZER)
}

/// A definition without its schemas.
fn brief(whole: &Value) -> Value {
    let mut brief = whole.clone();
    for version in brief["spec"]["versions"].as_array_mut().into_iter().flatten() {
        if let Some(version) = version.as_object_mut() {
            version.remove("schema");
        }
    }
    if let Some(metadata) = brief["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    brief
}
