//! What creations, updates and patches share: decode, admit, validate, track, commit.

use std::sync::Arc;

use controller_object::apply::{Manager, Operation};
use controller_object::decode::{self, Decoded};
use controller_object::media::MediaType;
use controller_object::resource::{Resource, Subresource};
use controller_object::schema::Schema;
use controller_object::status::{About, Status};
use controller_store::model::{CommitError, Revision};
use http::header::{CONTENT_TYPE, USER_AGENT};
use serde_json::Value;

use super::Context;
use crate::admit::{Charge, is_quota};
use crate::authz::{self, Action, ResourceAction};
use crate::registry::{names, set_revision};

/// How often an update without a resourceVersion of its own is tried again when others were faster.
pub(super) const ATTEMPTS: usize = 16;
const MANAGER_LENGTH: usize = 128;

impl Context {
    /// The object in a request's body.
    pub(crate) fn decode(&self, body: &[u8]) -> Result<Decoded, Status> {
        self.decode_as(&self.resource, body)
    }

    /// The object of another kind in a request's body (a Scale, a Binding).
    pub(super) fn decode_as(&self, resource: &Resource, body: &[u8]) -> Result<Decoded, Status> {
        let media = self.media_type()?;
        decode::decode(&self.state.registry.table(), resource, media, body, self.query.field_validation()?)
    }

    fn media_type(&self) -> Result<MediaType, Status> {
        let text = self.headers.get(CONTENT_TYPE).map_or(Ok("application/json"), |value| value.to_str());
        let media = text.ok().and_then(MediaType::parse);
        media.ok_or_else(|| Status::unsupported_media_type(&crate::reply::ACCEPTED_BODIES))
    }

    /// A body that is no object of its own kind: DeleteOptions.
    pub(super) fn parse(&self, body: &[u8]) -> Result<Value, Status> {
        decode::parse(self.media_type()?, body).map(|(value, _)| value)
    }

    /// The object in the body of a subresource that exchanges another kind: Scale, Binding, TokenRequest.
    pub(super) fn decode_exchanged(&self, subresource: Subresource, body: &[u8]) -> Result<Decoded, Status> {
        let unknown = || Status::internal_error(format!("{} exchanges no kind", subresource.as_str()));
        let (group, version, kind) = subresource.kind().ok_or_else(unknown)?;
        let package = group.split('.').next().filter(|first| !first.is_empty()).unwrap_or("core");
        let type_name = format!("io.k8s.api.{package}.{version}.{kind}");
        let schema = Schema::builtin();
        let root = schema.find(&type_name).ok_or_else(unknown)?;
        let exchanged = Resource {
            schema: Arc::clone(schema),
            custom: None,
            is_terminating: false,
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            root: Some(root),
            type_name,
            ..(*self.resource).clone()
        };
        self.decode_as(&exchanged, body)
    }

    /// Who the fields of this write belong to: `fieldManager`, or the first word of the user agent.
    pub(super) fn manager(&self, operation: Operation) -> Result<Manager, Status> {
        let agent = self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let default = agent.split('/').next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        let name = self.query.get("fieldManager").unwrap_or(default);
        if name.len() > MANAGER_LENGTH || name.chars().any(char::is_control) {
            return Err(Status::bad_request(format!(
                "fieldManager: Invalid value: may not be longer than {MANAGER_LENGTH} bytes and must be printable"
            )));
        }
        let subresource = self.request.subresource.clone();
        Ok(Manager { name: name.into(), operation, subresource, now: crate::time::now() })
    }

    /// An apply that makes an object needs the right to create it as well as the right to patch.
    pub(super) fn authorize_creation(&self) -> Result<(), Status> {
        let action = Action::Resource(ResourceAction {
            verb: "create",
            group: &self.request.group,
            resource: &self.request.resource,
            namespace: self.namespace(),
            name: self.request.name.as_deref(),
            ..ResourceAction::default()
        });
        match self.state.authorizer.is_allowed(&self.user, &action) {
            true => Ok(()),
            false => {
                let refusal = authz::refusal(&self.user, &action);
                Err(Status::forbidden(About::resource(&self.resource, self.name()), &refusal))
            }
        }
    }

    /// Checks that the body means the object that the path names, and fills in what the path says.
    pub(super) fn settle_identity(&self, object: &mut Value) -> Result<(), Status> {
        let (namespace, name) = names(object);
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        let metadata = object
            .as_object_mut()
            .map(|fields| fields.entry("metadata").or_insert_with(|| Value::Object(Default::default())))
            .and_then(Value::as_object_mut)
            .ok_or_else(|| Status::bad_request("metadata: must be an object"))?;
        match (self.namespace(), namespace) {
            (Some(expected), Some(given)) if expected != given => {
                return Err(Status::bad_request(format!(
                    "the namespace of the provided object does not match the namespace sent on the request: {given:?} is not {expected:?}"
                )));
            }
            (Some(expected), _) => drop(metadata.insert("namespace".into(), expected.into())),
            (None, Some(_)) if !self.resource.is_namespaced() => drop(metadata.remove("namespace")),
            (None, Some(given)) => {
                return Err(Status::bad_request(format!(
                    "the namespace {given:?} of the object must be in the request's path"
                )));
            }
            (None, None) if self.resource.is_namespaced() => {
                return Err(Status::bad_request("an empty namespace may not be set during creation"));
            }
            (None, None) => {}
        }
        match &self.request.name {
            Some(expected) if name.is_empty() => drop(metadata.insert("name".into(), expected.clone().into())),
            Some(expected) if *expected != name => {
                return Err(Status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({expected})"
                )));
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes an update, or removes the object when its last finalizer went. The object gets its new revision.
    pub(super) async fn commit_update(
        &self,
        old_revision: Revision,
        object: &mut Value,
        charge: Charge,
    ) -> Result<Commit, Status> {
        if self.query.dry_run()? {
            return Ok(Commit::Done);
        }
        let registry = &self.state.registry;
        let last_finalizer_went = is_finished(&self.resource, object);
        let result = match last_finalizer_went {
            true => registry.remove(&self.resource, object, old_revision).await,
            false => registry.put(&self.resource, object, Some(old_revision), charge).await,
        };
        match result {
            Ok(revision) => {
                set_revision(object, revision);
                self.log(if last_finalizer_went { "removed" } else { "updated" }, object);
                Ok(Commit::Done)
            }
            Err(CommitError::Conflict { key, .. }) => {
                // What was faster may not be visible yet; the next try must see it.
                registry.store.settle().await;
                Ok(if is_quota(&key) && !self.resource.is("", "resourcequotas") {
                    Commit::QuotaMoved
                } else {
                    Commit::Overtaken
                })
            }
            Err(CommitError::Unavailable { reason }) => Err(Status::service_unavailable(&reason)),
        }
    }

    /// The span fields that every hop shares.
    pub(super) fn log(&self, what: &str, object: &Value) {
        let (namespace, name) = names(object);
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        tracing::info!(
            hop = "store",
            kind = self.resource.kind,
            object = format!("{}/{name}", namespace.unwrap_or_default()),
            uid = text("/metadata/uid"),
            rev = text("/metadata/resourceVersion"),
            subresource = self.request.subresource,
            user = self.user.name,
            "{what}"
        );
    }
}

/// How a conditional write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Done,
    /// Somebody else changed the object first.
    Overtaken,
    /// A quota that the change is charged to was counted anew meanwhile.
    QuotaMoved,
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn is_finished(resource: &Arc<Resource>, object: &Value) -> bool {
    let empty = |pointer| object.pointer(pointer).and_then(Value::as_array).is_none_or(Vec::is_empty);
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    object.pointer("/metadata/deletionTimestamp").is_some()
        && grace == 0
        && empty("/metadata/finalizers")
        && (!resource.is("", "namespaces") || empty("/spec/finalizers"))
}

/// A conflict in the words clients know.
pub(super) fn overtaken(resource: &Resource, name: &str) -> Status {
    Status::conflict(
        About::resource(resource, name),
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// The resourceVersion that a client wants an object to still have.
pub(super) fn wanted_revision(object: &Value) -> Option<&str> {
    object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .filter(|version| !version.is_empty() && *version != "0")
}
