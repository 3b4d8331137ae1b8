//! Objects in the store: keys, bytes and the resourceVersion that is spliced in on the way out.
//!
//! A stored value is JSON that begins with `{"metadata":{`, so the splice is at a fixed offset and reads need no
//! parsing. `managedFields` stand first therein, for who does not want them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::{BufMut as _, Bytes, BytesMut};
use controller_object::conversion;
use controller_object::custom::Conversion;
use controller_object::resource::{Resource, Table};
use controller_object::status::{About, Status};
use controller_store::model::{CommitError, Compare, KeyValue, Op, RangeRequest, Revision};
use controller_store::store::Store;
use serde_json::Value;

use crate::admit::Charge;
use crate::custom::{self, Served, convert};
use crate::service::{self, Ranges};
use crate::{sketch, webhook};

const HEAD: &[u8] = b"{\"metadata\":{";
const MANAGED: &str = "managedFields";

/// The objects of one cluster.
pub(crate) struct Registry {
    pub(crate) store: Arc<Store>,
    table: ArcSwap<Table>,
    /// How long events live.
    pub(crate) event_ttl: std::time::Duration,
    /// Where Services get their addresses from.
    pub(crate) ranges: Ranges,
    /// Calls the webhooks that convert custom resources.
    pub(crate) webhooks: webhook::Client,
    /// Says when other resources are served.
    pub(crate) redefined: tokio::sync::watch::Sender<()>,
    /// How far definitions of custom resources are served.
    pub(crate) served: Served,
}

/// An object as it stands in the store.
pub(crate) struct Current {
    pub(crate) object: Value,
    pub(crate) revision: Revision,
}

impl Registry {
    /// The objects of a store; only the built-in kinds are served at first.
    pub(crate) fn new(store: Arc<Store>, event_ttl: std::time::Duration, ranges: Ranges) -> Self {
        let table = ArcSwap::from_pointee(Table::builtin().clone());
        let webhooks = webhook::Client::new(Arc::clone(&store));
        let redefined = tokio::sync::watch::Sender::new(());
        Self { store, table, redefined, webhooks, event_ttl, ranges, served: Served::default() }
    }

    /// What is served now, custom resources among it. A request keeps the table that it began with.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Serves other resources from now on.
    pub(crate) fn serve(&self, table: Table) {
        self.table.store(Arc::new(table));
        self.redefined.send_replace(());
    }

    /// Whether a custom resource is served as it was when a request began.
    pub(crate) fn is_current(&self, resource: &Resource) -> bool {
        let table = self.table();
        let served =
            table.find(&resource.group, &resource.version, &resource.plural).and_then(|one| one.custom.as_ref());
        match (served, &resource.custom) {
            (Some(served), Some(custom)) => Arc::ptr_eq(served, custom),
            (None, None) => true,
            _ => false,
        }
    }

    /// The built-in kinds, which never change.
    pub(crate) fn builtin(&self) -> &'static Table {
        Table::builtin()
    }

    pub(crate) fn prefix(&self, resource: &Resource, namespace: Option<&str>) -> Bytes {
        let group = if resource.storage_group.is_empty() { "core" } else { &resource.storage_group };
        let plural = &resource.storage_plural;
        Bytes::from(match namespace {
            Some(namespace) => format!("/registry/{group}/{plural}/{namespace}/"),
            None => format!("/registry/{group}/{plural}/"),
        })
    }

    pub(crate) fn key(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> Bytes {
        let mut key = BytesMut::from(self.prefix(resource, namespace));
        key.put_slice(name.as_bytes());
        key.freeze()
    }

    /// The object, or NotFound.
    pub(crate) fn current(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> Result<Current, Status> {
        let kv = self
            .store
            .get(&self.key(resource, namespace, name))
            .ok_or_else(|| Status::not_found(About::resource(resource, name)))?;
        Ok(Current { revision: kv.mod_revision, object: to_value(resource, &kv, kv.mod_revision)? })
    }

    /// An object of a built-in kind for the server's own decisions; `None` when it is not there.
    pub(crate) fn peek(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Value> {
        let resource = self.builtin().find(group, version, plural)?;
        self.current(resource, namespace, name).ok().map(|current| current.object)
    }

    /// Some fields of an object of a built-in kind, which is stored as it is served, in their places; see
    /// [`sketch::read`]. `None` when it is not there.
    pub(crate) fn peek_at(
        &self,
        plural: (&str, &str, &str),
        namespace: Option<&str>,
        name: &str,
        paths: &[&str],
    ) -> Option<Value> {
        let (group, version, plural) = plural;
        let resource = self.builtin().find(group, version, plural).filter(|resource| is_storage_version(resource))?;
        let kv = self.store.get(&self.key(resource, namespace, name))?;
        sketch::read(paths.iter().copied(), &kv.value).ok()
    }

    /// All objects of a built-in kind for the server's own decisions, in a namespace or everywhere.
    pub(crate) fn list(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Status> {
        self.builtin().find(group, version, plural).map_or_else(|| Ok(Vec::new()), |one| self.list_of(one, namespace))
    }

    /// The same of some fields of objects that are stored as they are served; see [`sketch::read`].
    pub(crate) fn list_at(&self, plural: (&str, &str, &str), paths: &[&str]) -> Result<Vec<Value>, Status> {
        let (group, version, plural) = plural;
        let resource = self.builtin().find(group, version, plural).filter(|resource| is_storage_version(resource));
        let Some(resource) = resource else { return Ok(Vec::new()) };
        let request = RangeRequest { prefix: self.prefix(resource, None), ..Default::default() };
        let page = self.store.range(&request).map_err(Status::internal_error)?;
        let read = |kv: &KeyValue| sketch::read(paths.iter().copied(), &kv.value).map_err(|_| damaged(kv));
        page.items.iter().map(read).collect()
    }

    /// All objects of a kind, in a namespace or everywhere. One that cannot be read fails the whole: a decision that
    /// overlooks it would let through what it forbids.
    pub(crate) fn list_of(&self, resource: &Resource, namespace: Option<&str>) -> Result<Vec<Value>, Status> {
        let request = RangeRequest { prefix: self.prefix(resource, namespace), ..Default::default() };
        let page = self.store.range(&request).map_err(Status::internal_error)?;
        page.items.iter().map(|kv| to_value(resource, kv, kv.mod_revision)).collect()
    }

    /// Writes an object, on condition of what was there before and of the quotas it is charged to. Answers the new
    /// revision.
    pub(crate) async fn put(
        &self,
        resource: &Resource,
        object: &Value,
        expected: Option<Revision>,
        charge: Charge,
    ) -> Result<Revision, CommitError> {
        let (namespace, name) = names(object);
        let key = self.key(resource, namespace.filter(|_| resource.is_namespaced()), name);
        let compare = match expected {
            None => Compare::Absent(key.clone()),
            Some(revision) => Compare::ModRevision(key.clone(), revision),
        };
        let is_event = resource.storage_group.is_empty() && resource.storage_plural == "events";
        let ttl = is_event.then_some(self.event_ttl);
        let (mut compares, mut ops) = (vec![compare], Vec::new());
        if resource.is("", "services") {
            self.move_claims(resource, &key, &service::claims(object), &mut compares, &mut ops);
        }
        let value = match convert::has_webhook(resource) && !is_storage_version(resource) {
            true => match convert::to_storage(&self.webhooks, resource, object).await {
                Ok(stored) => bytes_of(&stored),
                Err(status) => return Err(CommitError::Unavailable { reason: status.message }),
            },
            false => stored_bytes(resource, object),
        };
        ops.push(Op::Put { key, value, ttl });
        compares.extend(charge.compares.iter().cloned());
        ops.extend(charge.ops.iter().cloned());
        // The charge is held until it is known how it ended.
        let revision = self.store.commit(&compares, ops).await?;
        self.settled(resource, revision).await;
        Ok(revision)
    }

    /// What was written of a definition is served before its writer is answered.
    async fn settled(&self, resource: &Resource, revision: Revision) {
        if resource.is(custom::GROUP, custom::PLURAL) {
            self.served.wait(revision).await;
        }
    }

    /// What a Service holds goes with the commit that writes or removes it. If it is not any more as it is read here,
    /// that commit does not happen.
    fn move_claims(
        &self,
        resource: &Resource,
        key: &Bytes,
        wanted: &BTreeSet<Bytes>,
        compares: &mut Vec<Compare>,
        ops: &mut Vec<Op>,
    ) {
        let old = self.store.get(key).and_then(|kv| to_value(resource, &kv, kv.mod_revision).ok());
        let held = old.map(|old| service::claims(&old)).unwrap_or_default();
        for claim in wanted.difference(&held) {
            compares.push(Compare::Absent(claim.clone()));
            ops.push(Op::Put { key: claim.clone(), value: key.clone(), ttl: None });
        }
        ops.extend(held.difference(wanted).map(|claim| Op::Delete { key: claim.clone() }));
    }

    /// Deletes an object, on condition that it is what was seen.
    pub(crate) async fn remove(
        &self,
        resource: &Resource,
        object: &Value,
        expected: Revision,
    ) -> Result<Revision, CommitError> {
        let (namespace, name) = names(object);
        let key = self.key(resource, namespace.filter(|_| resource.is_namespaced()), name);
        let (mut compares, mut ops) = (vec![Compare::ModRevision(key.clone(), expected)], Vec::new());
        if resource.is("", "services") {
            self.move_claims(resource, &key, &BTreeSet::new(), &mut compares, &mut ops);
        }
        ops.push(Op::Delete { key });
        let revision = self.store.commit(&compares, ops).await?;
        self.settled(resource, revision).await;
        Ok(revision)
    }
}

/// The namespace and name of an object.
pub(crate) fn names(object: &Value) -> (Option<&str>, &str) {
    let text = |field| object["metadata"][field].as_str();
    (text("namespace").filter(|namespace| !namespace.is_empty()), text("name").unwrap_or_default())
}

/// Whether objects are stored as they are served here.
pub(crate) fn is_storage_version(resource: &Resource) -> bool {
    resource.version == resource.storage_version && resource.group == resource.storage_group
}

/// The stored form: metadata first, without resourceVersion, in the storage version.
pub(crate) fn stored_bytes(resource: &Resource, object: &Value) -> Bytes {
    if is_storage_version(resource) {
        return bytes_of(object);
    }
    let mut stored = object.clone();
    conversion::to_storage(resource, &mut stored);
    bytes_of(&stored)
}

/// The stored form of an object that is in its storage version.
pub(crate) fn bytes_of(stored: &Value) -> Bytes {
    let managed = stored["metadata"].as_object().and_then(|fields| fields.get_key_value(MANAGED));
    let others = fields_but(&stored["metadata"], "resourceVersion").filter(|(name, _)| *name != MANAGED);
    let mut out = BytesMut::with_capacity(1024);
    out.put_slice(HEAD);
    for (index, field) in managed.into_iter().chain(others).enumerate() {
        put_field(field, index > 0, &mut out);
    }
    out.put_slice(b"}");
    for field in fields_but(stored, "metadata") {
        put_field(field, true, &mut out);
    }
    out.put_slice(b"}");
    out.freeze()
}

fn fields_but<'a>(object: &'a Value, left_out: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.as_object().into_iter().flatten().filter(move |(name, _)| *name != left_out)
}

fn put_field((name, value): (&String, &Value), comma: bool, out: &mut BytesMut) {
    if comma {
        out.put_slice(b",");
    }
    // Writing to memory does not fail, and JSON values always serialize.
    let named = serde_json::to_writer(out.writer(), name);
    out.put_slice(b":");
    let written = named.and_then(|()| serde_json::to_writer(out.writer(), value));
    debug_assert!(written.is_ok());
}

const UNCONVERTED: &str = "the object waits for its conversion";

/// Whether a read failed for want of a webhook's answer, which whoever read goes and gets.
pub(crate) fn is_unconverted(status: &Status) -> bool {
    status.message.contains(UNCONVERTED)
}

/// The object of a stored value at a revision, in the version that was asked for.
pub(crate) fn to_value(resource: &Resource, kv: &KeyValue, revision: Revision) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(&kv.value).map_err(|_| damaged(kv))?;
    if let Some(custom) = &resource.custom
        && matches!(custom.conversion, Conversion::Webhook(_))
        && object["apiVersion"] != resource.api_version()
    {
        let converted = custom.converted.get_or_want(&kv.key, kv.mod_revision.0, &object);
        // The request is carried out again once a webhook was asked: `handle::dispatch`.
        object = (*converted.ok_or_else(|| Status::internal_error(UNCONVERTED))?).clone();
    }
    if resource.custom.is_some() || !is_storage_version(resource) {
        conversion::from_storage(resource, &mut object);
    }
    set_revision(&mut object, revision);
    Ok(object)
}

/// Tells that a stored value is no object.
pub(crate) fn damaged(kv: &KeyValue) -> Status {
    Status::internal_error(format!("{} is damaged in the store", String::from_utf8_lossy(&kv.key)))
}

/// The metadata alone of a stored value, which stands first; the rest is not parsed.
pub(crate) fn metadata(kv: &KeyValue, revision: Revision) -> Result<Value, Status> {
    let rest = kv.value.strip_prefix(b"{\"metadata\":").ok_or_else(|| damaged(kv))?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    let metadata = values.next().and_then(Result::ok).ok_or_else(|| damaged(kv))?;
    let mut object = serde_json::json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata
    });
    set_revision(&mut object, revision);
    Ok(object)
}

/// Appends the JSON of the same to `out`; what the metadata says is copied, not parsed. `omits_managed`: as for
/// [`write_json`].
pub(crate) fn write_metadata_json(
    kv: &KeyValue,
    revision: Revision,
    omits_managed: bool,
    out: &mut BytesMut,
) -> Result<(), Status> {
    let rest = kv.value.strip_prefix(HEAD).ok_or_else(|| damaged(kv))?;
    // From the brace on that the head ends with.
    let metadata = kv.value.get(HEAD.len() - 1..).unwrap_or_default();
    let mut values = serde_json::Deserializer::from_slice(metadata).into_iter::<serde::de::IgnoredAny>();
    values.next().and_then(Result::ok).ok_or_else(|| damaged(kv))?;
    let fields = rest.get(..values.byte_offset() - 1).unwrap_or_default();
    let fields = if omits_managed { without_managed(fields) } else { fields };
    out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{");
    put_revision(revision, fields, out);
    out.put_slice(fields);
    out.put_slice(b"}");
    Ok(())
}

/// Puts a revision into an object.
pub(crate) fn set_revision(object: &mut Value, revision: Revision) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
    }
}

/// Appends the JSON of a stored value to `out`, with its resourceVersion. Whoever does without `managedFields` is spared
/// them where that needs no parsing.
pub(crate) fn write_json(
    resource: &Resource,
    kv: &KeyValue,
    revision: Revision,
    omits_managed: bool,
    out: &mut BytesMut,
) -> Result<(), Status> {
    if splice(resource, kv, revision, omits_managed, out).is_some() {
        return Ok(());
    }
    let object = to_value(resource, kv, revision)?;
    put_json(&object, out)
}

/// The JSON of a stored value at its own revision, where it needs no parsing.
pub(crate) fn as_written(resource: &Resource, kv: &KeyValue) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(kv.value.len() + 40);
    splice(resource, kv, kv.mod_revision, false, &mut out).map(|()| out.freeze())
}

/// Appends what is stored as it is served, with a revision; nothing where it is served otherwise.
fn splice(
    resource: &Resource,
    kv: &KeyValue,
    revision: Revision,
    omits_managed: bool,
    out: &mut BytesMut,
) -> Option<()> {
    let rest = kv.value.strip_prefix(HEAD).filter(|_| is_spliced(resource))?;
    let rest = if omits_managed { without_managed(rest) } else { rest };
    out.put_slice(HEAD);
    put_revision(revision, rest, out);
    out.put_slice(rest);
    Some(())
}

/// What follows the head of a stored value, without the `managedFields` that it begins with, if it does.
fn without_managed(rest: &[u8]) -> &[u8] {
    let after = || {
        let entries = rest.strip_prefix(b"\"managedFields\":")?;
        let mut skipped = serde_json::Deserializer::from_slice(entries).into_iter::<serde::de::IgnoredAny>();
        skipped.next()?.ok()?;
        let after = entries.get(skipped.byte_offset()..)?;
        Some(after.strip_prefix(b",").unwrap_or(after))
    };
    after().unwrap_or(rest)
}

/// Whether what is stored is what is served.
fn is_spliced(resource: &Resource) -> bool {
    resource.custom.is_none() && is_storage_version(resource)
}

/// Appends the field before those that follow.
fn put_revision(revision: Revision, following: &[u8], out: &mut BytesMut) {
    out.put_slice(b"\"resourceVersion\":\"");
    out.put_slice(revision.to_string().as_bytes());
    out.put_slice(if following.starts_with(b"}") { b"\"" } else { b"\"," });
}

/// Appends the JSON of a value to `out`.
pub(crate) fn put_json(value: &Value, out: &mut BytesMut) -> Result<(), Status> {
    serde_json::to_writer(out.writer(), value).map_err(Status::internal_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_left_out_without_parsing() {
        let maps = Table::builtin().find("", "v1", "configmaps").unwrap();
        for object in [
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"annotations": {"a": "}]"}, "name": "n",
                "managedFields": [{"manager": "m]\"", "fieldsV1": {"f:data": {}}}]}, "data": {"k": "v"}}),
            serde_json::json!({"metadata": {"managedFields": []}}),
            serde_json::json!({"metadata": {"name": "n"}, "data": {}}),
            serde_json::json!({"metadata": {}}),
        ] {
            let kv = KeyValue {
                key: Bytes::from_static(b"/registry/core/configmaps/a/n"),
                value: bytes_of(&object),
                create_revision: Revision(4),
                mod_revision: Revision(5),
            };
            let written = |omits_managed| {
                let mut out = BytesMut::new();
                write_json(maps, &kv, Revision(7), omits_managed, &mut out).unwrap();
                serde_json::from_slice::<Value>(&out).unwrap()
            };
            let mut expected = object.clone();
            set_revision(&mut expected, Revision(7));
            assert_eq!(written(false), expected);
            expected["metadata"].as_object_mut().unwrap().remove(MANAGED);
            assert_eq!(written(true), expected);
            let mut out = BytesMut::new();
            write_metadata_json(&kv, Revision(7), true, &mut out).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&out).unwrap()["metadata"], expected["metadata"]);
        }
    }

    #[test]
    fn metadata_is_written_as_it_is_read() {
        for value in [
            r#"{"metadata":{"labels":{"a":"}"},"name":"n","managedFields":[{}]},"kind":"ConfigMap","data":{}}"#,
            r#"{"metadata":{},"kind":"ConfigMap"}"#,
        ] {
            let kv = KeyValue {
                key: Bytes::from_static(b"/registry/core/configmaps/a/n"),
                value: value.into(),
                create_revision: Revision(4),
                mod_revision: Revision(5),
            };
            let mut out = BytesMut::new();
            write_metadata_json(&kv, Revision(7), false, &mut out).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), metadata(&kv, Revision(7)).unwrap());
        }
    }
}
