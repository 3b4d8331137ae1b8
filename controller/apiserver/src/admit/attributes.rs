//! What admission is told of a request.

use std::sync::Arc;

use controller_object::resource::{Resource, Subresource, Table};
use serde_json::{Value, json};

use super::matching::Shown;
use super::{Annotations, Warnings};
use crate::authn::User;
use crate::server::State;

/// What is done to the object, in the words of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }

    /// The kind of the options that a request of this operation has.
    fn options_kind(self) -> &'static str {
        match self {
            Self::Create | Self::Connect => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Delete => "DeleteOptions",
        }
    }
}

/// Group, version and kind of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
}

impl Kind {
    /// What objects of a resource, or of a path below it, are.
    pub(crate) fn of(resource: &Resource, subresource: Option<Subresource>) -> Self {
        match subresource.and_then(Subresource::kind) {
            // The options of a connection are named after what is connected to.
            Some((group, version, _)) if subresource == Some(Subresource::Proxy) => {
                let kind = format!("{}ProxyOptions", resource.kind);
                Self { group: group.into(), version: version.into(), kind }
            }
            Some((group, version, kind)) => Self { group: group.into(), version: version.into(), kind: kind.into() },
            None => {
                Self { group: resource.group.clone(), version: resource.version.clone(), kind: resource.kind.clone() }
            }
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// A request as admission sees it; the object itself goes beside it, because it changes on the way.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) state: &'a State,
    pub(crate) user: &'a User,
    pub(crate) resource: &'a Arc<Resource>,
    pub(crate) subresource: Option<Subresource>,
    pub(crate) operation: Operation,
    /// The namespace; of a Namespace its own name.
    pub(crate) namespace: Option<&'a str>,
    /// Empty where it is not known yet.
    pub(crate) name: &'a str,
    /// The object before; `None` for creations and connections.
    pub(crate) old: Option<&'a Value>,
    /// The options of the request, without what `options` adds.
    pub(crate) options: &'a Value,
    pub(crate) dry_run: bool,
    pub(crate) warnings: &'a Warnings,
    pub(crate) annotations: &'a Annotations,
}

impl Attributes<'_> {
    /// Whether this is about `plural` of `group`, or a path below it.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.is(group, plural)
    }

    /// Whether a new object of that resource is stored.
    pub(crate) fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.subresource.is_none() && self.is(group, plural)
    }

    /// Whether an object of that resource is changed as a whole.
    pub(crate) fn updates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Update && self.subresource.is_none() && self.is(group, plural)
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::of(self.resource, self.subresource)
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.state.registry.table()
    }

    /// The options as an object of their kind.
    pub(crate) fn options(&self) -> Value {
        let mut options = json!({"kind": self.operation.options_kind(), "apiVersion": "meta.k8s.io/v1"});
        for (key, value) in self.options.as_object().into_iter().flatten() {
            options[key] = value.clone();
        }
        options
    }
}

impl Attributes<'_> {
    /// The request as admission.k8s.io/v1 AdmissionRequest shows it, without its uid and its objects.
    pub(super) fn request(&self, shown: &Shown) -> Value {
        let resource = |one: &Resource| json!({"group": one.group, "version": one.version, "resource": one.plural});
        let subresource = self.subresource.map(Subresource::as_str);
        let mut request = json!({
            "kind": shown.kind.to_value(),
            "resource": resource(&shown.resource),
            "requestKind": self.kind().to_value(),
            "requestResource": resource(self.resource),
            "operation": self.operation.as_str(),
            "userInfo": user_info(self.user),
            "dryRun": self.dry_run,
            "options": self.options(),
        });
        let optional = [
            ("subResource", subresource),
            ("requestSubResource", subresource),
            ("name", Some(self.name).filter(|name| !name.is_empty())),
            ("namespace", self.namespace),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                request[key] = value.into();
            }
        }
        request
    }
}

/// The user as `authentication.k8s.io/v1` UserInfo.
pub(crate) fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
