//! What watchers make of a stored value, made once for all of them: the parsed object, what selectors
//! look at, and its protobuf form. Only the
//! newest values are kept, and only while they are few: a thousand watchers look at one value within milliseconds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use controller_object::protobuf;
use controller_object::resource::Resource;
use controller_object::status::Status;
use controller_store::model::{KeyValue, Revision};
use serde_json::Value;

use crate::{registry, sketch};

/// How much stored JSON is kept parsed, in bytes; parsed it takes about ten times that.
const KEPT: usize = 256 << 10;

/// The newest values.
#[derive(Default)]
pub(crate) struct Shared {
    recent: Mutex<Recent>,
}

/// One write, as a watcher is shown it.
type Id = (Revision, Bytes);

#[derive(Default)]
struct Recent {
    /// Mostly in one version each.
    entries: HashMap<Id, Vec<Entry>>,
    /// Oldest first, with their sizes in bytes.
    order: VecDeque<(Id, usize)>,
    /// The sum of these sizes.
    held: usize,
}

struct Entry {
    group: String,
    version: String,
    made: Arc<Made>,
}

/// A value in the forms that were asked for.
#[derive(Default)]
struct Made {
    object: OnceLock<Arc<Value>>,
    sketch: OnceLock<Arc<Value>>,
    protobuf: OnceLock<Bytes>,
}

impl Shared {
    /// The object of a value, shown with a revision.
    pub(crate) fn object(&self, resource: &Resource, kv: &KeyValue, revision: Revision) -> Result<Arc<Value>, Status> {
        // What a custom resource is may change under the same name.
        if resource.custom.is_some() {
            return registry::to_value(resource, kv, revision).map(Arc::new);
        }
        self.made(resource, kv, revision).object(resource, kv, revision)
    }

    /// As much of the object as selectors look at.
    pub(crate) fn sketch(&self, resource: &Resource, kv: &KeyValue) -> Result<Arc<Value>, Status> {
        // What is converted to be read is made as a whole.
        if resource.custom.is_some() || !registry::is_storage_version(resource) {
            return self.object(resource, kv, kv.mod_revision);
        }
        let made = self.made(resource, kv, kv.mod_revision);
        if let Some(known) = made.object.get().or_else(|| made.sketch.get()) {
            return Ok(Arc::clone(known));
        }
        let sketch = Arc::new(sketch::of(resource, &kv.value).map_err(|_| registry::damaged(kv))?);
        Ok(Arc::clone(made.sketch.get_or_init(|| sketch)))
    }

    /// Its protobuf form, envelope included.
    pub(crate) fn protobuf(&self, resource: &Resource, kv: &KeyValue, revision: Revision) -> Result<Bytes, Status> {
        let made = self.made(resource, kv, revision);
        if let Some(known) = made.protobuf.get() {
            return Ok(known.clone());
        }
        let bytes = Bytes::from(protobuf::encode(&*made.object(resource, kv, revision)?)?);
        Ok(made.protobuf.get_or_init(|| bytes).clone())
    }

    fn made(&self, resource: &Resource, kv: &KeyValue, revision: Revision) -> Arc<Made> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Recent { entries, order, held } = &mut *recent;
        let id = (revision, kv.key.clone());
        let known = entries.entry(id.clone()).or_default();
        let is_it = |entry: &&Entry| entry.version == resource.version && entry.group == resource.group;
        if let Some(entry) = known.iter().find(is_it) {
            return Arc::clone(&entry.made);
        }
        let made = Arc::<Made>::default();
        let (group, version) = (resource.group.clone(), resource.version.clone());
        known.push(Entry { group, version, made: Arc::clone(&made) });
        order.push_back((id, kv.value.len()));
        *held += kv.value.len();
        while *held > KEPT
            && let Some((oldest, size)) = order.pop_front()
        {
            *held -= size;
            entries.remove(&oldest);
        }
        made
    }
}

impl Made {
    fn object(&self, resource: &Resource, kv: &KeyValue, revision: Revision) -> Result<Arc<Value>, Status> {
        if let Some(known) = self.object.get() {
            return Ok(Arc::clone(known));
        }
        let object = Arc::new(registry::to_value(resource, kv, revision)?);
        Ok(Arc::clone(self.object.get_or_init(|| object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use controller_object::resource::Table;

    #[test]
    fn values_are_parsed_once_and_forgotten_in_time() {
        let shared = Shared::default();
        let maps = Table::builtin().find("", "v1", "configmaps").unwrap();
        let kv = |n: u64| KeyValue {
            key: format!("/registry/core/configmaps/a/{n}").into(),
            value: format!("{{\"metadata\":{{\"name\":\"{n}\"}},\"data\":{{\"k\":\"{}\"}}}}", "v".repeat(60 << 10))
                .into(),
            create_revision: Revision(n),
            mod_revision: Revision(n),
        };
        let first = shared.object(maps, &kv(1), Revision(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &shared.object(maps, &kv(1), Revision(1)).unwrap()));
        assert_eq!(first["metadata"]["resourceVersion"], "1");
        assert_eq!(shared.object(maps, &kv(1), Revision(9)).unwrap()["metadata"]["resourceVersion"], "9");
        for n in 2..20 {
            shared.object(maps, &kv(n), Revision(n)).unwrap();
        }
        assert!(!Arc::ptr_eq(&first, &shared.object(maps, &kv(1), Revision(1)).unwrap()), "it was forgotten");
        assert!(shared.recent.lock().unwrap().order.len() <= 5);
    }
}
