//! The entries of `metadata.managedFields`.
use super::set::FieldSet;
use crate::resource::Resource;
use crate::tree::{child, list, text};
use serde_json::{Value, json};

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else.
    Update,
}

impl Operation {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// Name of the manager.
    pub name: String,
    /// How it writes.
    pub operation: Operation,
    /// The path it writes through.
    pub subresource: Option<String>,
    /// Now, RFC 3339.
    pub now: String,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Managed {
    name: String,
    operation: Operation,
    subresource: Option<String>,
    api_version: String,
    time: String,
    fields: FieldSet,
    /// `fieldsV1` as it was read, until the fields change.
    written: Option<Value>,
}

impl Managed {
    pub(super) fn new(manager: &Manager, resource: &Resource, fields: FieldSet) -> Self {
        Self {
            name: manager.name.clone(),
            operation: manager.operation,
            subresource: manager.subresource.clone(),
            api_version: resource.api_version(),
            time: manager.now.clone(),
            fields,
            written: None,
        }
    }

    pub(super) fn fields(&self) -> &FieldSet {
        &self.fields
    }

    /// Changes the fields; `change` tells whether it did.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut FieldSet) -> bool) {
        if change(&mut self.fields) {
            self.written = None;
        }
    }

    /// Written again now, through the version of a kind.
    pub(super) fn renew(&mut self, manager: &Manager, resource: &Resource) {
        self.api_version = resource.api_version();
        self.time.clone_from(&manager.now);
    }

    pub(super) fn is(&self, manager: &Manager) -> bool {
        self.name == manager.name && self.operation == manager.operation && self.subresource == manager.subresource
    }

    /// As conflicts name it.
    pub(super) fn describe(&self) -> String {
        let mut told = format!("{:?}", self.name);
        if let Some(subresource) = &self.subresource {
            told.push_str(&format!(" with subresource {subresource:?}"));
        }
        if self.operation == Operation::Update {
            told.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                told.push_str(&format!(" at {}", self.time));
            }
        }
        told
    }

    fn from_value(entry: &Value) -> Option<Self> {
        Some(Self {
            name: text(entry, &["manager"]).unwrap_or_default().to_owned(),
            operation: match text(entry, &["operation"])? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            subresource: text(entry, &["subresource"]).filter(|s| !s.is_empty()).map(str::to_owned),
            api_version: text(entry, &["apiVersion"]).unwrap_or_default().to_owned(),
            time: text(entry, &["time"]).unwrap_or_default().to_owned(),
            fields: FieldSet::from_value(entry.get("fieldsV1")?, 0),
            written: None,
        })
    }

    fn into_value(self) -> Value {
        let mut entry = json!({"manager": self.name, "operation": self.operation.as_str(), "apiVersion": self.api_version,
            "fieldsType": "FieldsV1"});
        entry["fieldsV1"] = self.written.unwrap_or_else(|| self.fields.to_value());
        if !self.time.is_empty() {
            entry["time"] = self.time.as_str().into();
        }
        if let Some(subresource) = &self.subresource {
            entry["subresource"] = subresource.as_str().into();
        }
        entry
    }
}

/// The entries of an object; malformed ones are left out.
pub(super) fn read_managed(object: &Value) -> Vec<Managed> {
    list(object, ENTRIES).iter().filter_map(Managed::from_value).collect()
}

/// The entries of an object that is stored, and so was written here: what does not change is not written anew.
pub(super) fn read_stored(object: &Value) -> Vec<Managed> {
    let written =
        |entry: &Value| Some(Managed { written: entry.get("fieldsV1").cloned(), ..Managed::from_value(entry)? });
    list(object, ENTRIES).iter().filter_map(written).collect()
}

const ENTRIES: &[&str] = &["metadata", "managedFields"];

/// The entries that an update goes on with. See [`super::track_update`].
pub(super) fn given_managed(old: Option<&Value>, new: &Value, is_subresource: bool) -> Vec<Managed> {
    let before = || old.map(read_stored).unwrap_or_default();
    let entries = list(new, ENTRIES);
    if old.is_some_and(|old| is_subresource || list(old, ENTRIES) == entries) {
        return before();
    }
    if let [Value::Object(entry)] = entries
        && entry.is_empty()
    {
        return Vec::new();
    }
    let given = read_managed(new);
    // What cannot be read as a whole is not taken in parts.
    if given.is_empty() || given.len() != entries.len() { before() } else { given }
}

/// More entries of updates than this become fewer, as in Kubernetes (managedfields, `DefaultMaxUpdateManagers`).
const MAX_UPDATES: usize = 10;
/// Who is said to have made the oldest updates.
const ANCIENT: &str = "ancient-changes";

/// Makes one of the oldest entries of updates until there are few enough. Those of different versions stay apart.
pub(super) fn cap_updates(managed: &mut Vec<Managed>) {
    managed.retain(|m| !m.fields.is_empty());
    loop {
        let mut updates: Vec<usize> =
            (0..managed.len()).filter(|at| managed[*at].operation == Operation::Update).collect();
        if updates.len() <= MAX_UPDATES {
            return;
        }
        updates.sort_by(|a, b| {
            let order = |at: usize| (&managed[at].time, managed[at].name != ANCIENT, &managed[at].name);
            order(*a).cmp(&order(*b))
        });
        let older = |place: usize| {
            let version = &managed[updates[place]].api_version;
            updates[..place].iter().copied().find(|at| managed[*at].api_version == *version)
        };
        let pair = (0..updates.len()).find_map(|place| Some((older(place)?, updates[place])));
        let Some((first, second)) = pair else { return };
        let absorbed = managed[second].clone();
        let bucket = &mut managed[first];
        bucket.change(|fields| fields.add(&absorbed.fields));
        bucket.time = absorbed.time;
        bucket.name = ANCIENT.to_owned();
        bucket.subresource = None;
        managed.remove(second);
    }
}

/// Writes the entries in the order of Kubernetes: applies first, then by time and name.
pub(super) fn write_managed(object: &mut Value, mut managed: Vec<Managed>) {
    managed.retain(|m| !m.fields.is_empty());
    managed.sort_by(|a, b| {
        (a.operation, &a.time, &a.name, &a.api_version, &a.subresource).cmp(&(
            b.operation,
            &b.time,
            &b.name,
            &b.api_version,
            &b.subresource,
        ))
    });
    let Some(metadata) = child(object, "metadata").and_then(Value::as_object_mut) else { return };
    if managed.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), managed.into_iter().map(Managed::into_value).collect());
    }
}
