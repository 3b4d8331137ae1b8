//! Sets of field paths, in the steps of `FieldsV1`: `f:name`, `k:{keys}`, `v:value`.
use crate::schema::{Cursor, ListKind, View};
use litemap::LiteMap;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// A node of the trie: whether the path that ends here is in the set, and what lies below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    member: bool,
    /// Mostly one or two, so they stand in a row: a node of a tree has room for eleven.
    pub(super) below: LiteMap<String, FieldSet>,
}

/// Deeper input is cut off; no kind nests so deep.
const MAX_DEPTH: usize = 128;

/// The identity of a list's element.
pub(super) fn element_step(kind: &ListKind, item: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{item}")),
        ListKind::Map(keys) => {
            let mut identity = Map::new();
            for key in keys {
                match item.get(&**key) {
                    Some(value) => {
                        identity.insert(key.to_string(), value.clone());
                    }
                    // The one key with a default: the protocol of ports.
                    None if &**key == "protocol" => {
                        identity.insert(key.to_string(), "TCP".into());
                    }
                    None => {}
                }
            }
            Some(format!("k:{}", Value::Object(identity)))
        }
    }
}

fn below<'a>(cursor: Cursor<'a>, step: &str) -> Option<Cursor<'a>> {
    match (step.strip_prefix("f:"), cursor.view()) {
        (Some(name), _) => cursor.field(name),
        (None, View::List(item)) => Some(item),
        (None, _) => None,
    }
}

impl FieldSet {
    fn leaf() -> Self {
        Self { member: true, below: LiteMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Every field of a value.
    pub(super) fn of(cursor: Cursor<'_>, value: &Value) -> Self {
        Self::compare(cursor, None, value, 0)
    }

    /// The fields of `new` that `old` lacks or has with another value.
    pub(super) fn changed(cursor: Cursor<'_>, old: Option<&Value>, new: &Value) -> Self {
        Self::compare(cursor, old, new, 0)
    }

    fn compare(cursor: Cursor<'_>, old: Option<&Value>, new: &Value, depth: usize) -> Self {
        if old == Some(new) {
            return Self::default();
        }
        if cursor.is_atomic() || depth > MAX_DEPTH {
            return Self::leaf();
        }
        let mut set = Self::default();
        match (cursor.view(), new) {
            (View::Struct(_) | View::Map(_) | View::Deduced, Value::Object(map)) => {
                let dynamic = match cursor.view() {
                    View::Struct(kind) => kind.is_open,
                    _ => true,
                };
                for (key, value) in map {
                    let before = old.and_then(|o| o.get(key));
                    let mut entry = match cursor.field(key) {
                        Some(field) => Self::compare(field, before, value, depth + 1),
                        None if before == Some(value) => continue,
                        None => Self::leaf(),
                    };
                    let hollow =
                        value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
                    let named = matches!(cursor.view(), View::Struct(kind) if kind.field(key).is_some());
                    if (dynamic && !named || hollow) && before.is_none() {
                        entry.member = true;
                    }
                    if !entry.is_empty() {
                        set.below.insert(format!("f:{key}"), entry);
                    }
                }
            }
            (View::List(item_cursor), Value::Array(items)) => {
                // Elements with equal keys are legal in some lists (environment variables): the n-th meets the n-th.
                let mut before: BTreeMap<String, VecDeque<&Value>> = BTreeMap::new();
                for item in old.and_then(Value::as_array).into_iter().flatten() {
                    if let Some(step) = element_step(cursor.list_kind(), item) {
                        before.entry(step).or_default().push_back(item);
                    }
                }
                let mut changed: BTreeMap<String, FieldSet> = BTreeMap::new();
                for item in items {
                    let Some(step) = element_step(cursor.list_kind(), item) else { continue };
                    let known = before.get_mut(&step).and_then(VecDeque::pop_front);
                    let mut entry = match cursor.list_kind() {
                        ListKind::Map(_) => Self::compare(item_cursor, known, item, depth + 1),
                        ListKind::Set | ListKind::Atomic => Self::default(),
                    };
                    entry.member |= known.is_none();
                    if !entry.is_empty() {
                        changed.entry(step).or_default().add(&entry);
                    }
                }
                set.below = changed.into_iter().collect();
            }
            _ => return Self::leaf(),
        }
        set
    }

    /// Without what only the server writes.
    pub(super) fn without_system(mut self) -> Self {
        self.below.remove("f:apiVersion");
        self.below.remove("f:kind");
        if let Some(metadata) = self.below.get_mut("f:metadata") {
            for key in [
                "name",
                "namespace",
                "generateName",
                "creationTimestamp",
                "selfLink",
                "uid",
                "generation",
                "managedFields",
                "resourceVersion",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ] {
                // `generateName` is owned in Kubernetes; nobody can change it, so it says nothing.
                metadata.below.remove(&format!("f:{key}"));
            }
            metadata.member = false;
            if metadata.is_empty() {
                self.below.remove("f:metadata");
            }
        }
        self
    }

    /// Adds all of `other`, and tells whether that changed anything.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let mut changed = other.member && !self.member;
        self.member |= other.member;
        let mut new = Vec::new();
        for (step, set) in &other.below {
            match self.below.get_mut(step) {
                Some(own) => changed |= own.add(set),
                None => new.push((step.clone(), set.clone())),
            }
        }
        changed |= !new.is_empty();
        self.below.extend(new);
        changed
    }

    /// The paths in both.
    pub(super) fn shared(&self, other: &Self) -> Self {
        let both = self.below.iter().filter_map(|(step, set)| {
            let common = set.shared(other.below.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        Self { below: both.collect(), member: self.member && other.member }
    }

    fn drop_empty(&mut self) -> bool {
        let before = self.below.len();
        self.below.retain(|_, set| !set.is_empty());
        self.below.len() != before
    }

    /// Takes the paths of `other` out, and tells whether there were any.
    pub(super) fn subtract(&mut self, other: &Self) -> bool {
        let mut changed = self.member && other.member;
        self.member &= !other.member;
        for (step, gone) in &other.below {
            changed |= self.below.get_mut(step).is_some_and(|set| set.subtract(gone));
        }
        self.drop_empty() || changed
    }

    /// Takes out the paths that lead to nothing in `value`, and tells whether there were any.
    pub(super) fn keep_existing(&mut self, cursor: Cursor<'_>, value: &Value) -> bool {
        // Elements are named once, not once for each path: lists may be long.
        let elements: BTreeMap<String, &Value> = match (value, self.below.is_empty()) {
            (Value::Array(items), false) => {
                items.iter().rev().filter_map(|item| Some((element_step(cursor.list_kind(), item)?, item))).collect()
            }
            _ => BTreeMap::new(),
        };
        let mut changed = false;
        for (step, set) in self.below.iter_mut() {
            let found = match (step.strip_prefix("f:"), step.strip_prefix("i:")) {
                (Some(name), _) => value.get(name),
                (None, Some(index)) => index.parse::<usize>().ok().and_then(|index| value.get(index)),
                (None, None) => elements.get(step).copied(),
            };
            match (found, below(cursor, step)) {
                (Some(next), Some(cursor)) => changed |= set.keep_existing(cursor, next),
                (Some(_), None) => {}
                (None, _) => {
                    *set = Self::default();
                    changed = true;
                }
            }
        }
        self.drop_empty() || changed
    }

    /// Whether the path that ends here is in the set.
    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    /// Every path, written as in messages: `.spec.containers[name="c"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        fn walk(set: &FieldSet, path: &str, out: &mut Vec<String>) {
            if set.member {
                out.push(path.to_owned());
            }
            for (step, below) in &set.below {
                walk(below, &format!("{path}{}", written(step)), out);
            }
        }
        let mut out = Vec::new();
        walk(self, "", &mut out);
        out
    }

    /// `FieldsV1`
    pub(super) fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (step, set) in &self.below {
            map.insert(step.clone(), set.to_value());
        }
        Value::Object(map)
    }

    /// Reads `FieldsV1`; steps of unknown kind are left out.
    pub(super) fn from_value(value: &Value, depth: usize) -> Self {
        let mut set = Self::default();
        let Some(map) = value.as_object().filter(|_| depth <= MAX_DEPTH) else { return set };
        let is_step = |step: &str| ["f:", "k:", "v:", "i:"].iter().any(|prefix| step.starts_with(prefix));
        let steps = map.iter().filter(|(step, _)| is_step(step));
        set.below = steps.map(|(step, value)| (canonical(step), Self::from_value(value, depth + 1))).collect();
        set.member = map.contains_key(".");
        set.member |= map.is_empty() && depth > 0;
        set
    }
}

/// Keys and values come in any spelling of JSON; steps compare as text.
fn canonical(step: &str) -> String {
    for prefix in ["k:", "v:"] {
        if let Some(Ok(value)) = step.strip_prefix(prefix).map(serde_json::from_str::<Value>) {
            return format!("{prefix}{value}");
        }
    }
    step.to_owned()
}

fn written(step: &str) -> String {
    if let Some(name) = step.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = step.strip_prefix("v:") {
        return format!("[={value}]");
    }
    if let Some(keys) = step.strip_prefix("k:")
        && let Ok(Value::Object(keys)) = serde_json::from_str(keys)
    {
        let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return format!("[{}]", keys.join(","));
    }
    format!("[{}]", step.trim_start_matches("i:"))
}
