//! Step 3b: may they. Masters may all; nodes are judged by the node authorizer; everybody by RBAC.

pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod rbac;

use crate::authn::{MASTERS, User};

/// What is asked for, as RBAC sees it.
#[derive(Debug, Clone)]
pub(crate) enum Action<'a> {
    Resource(ResourceAction<'a>),
    NonResource { verb: &'a str, path: &'a str },
}

/// A verb on a resource.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResourceAction<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    /// The node that a field selector `spec.nodeName=` (or `metadata.name=` for nodes), or for volumes the label selector
    /// `gantry.io/node=`, restricts a list to.
    pub(crate) selected_node: Option<&'a str>,
}

impl ResourceAction<'_> {
    /// `pods/log`, as rules name subresources.
    pub(crate) fn full_resource(&self) -> String {
        match self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.to_owned(),
        }
    }
}

/// Decides about one action.
pub(crate) struct Authorizer {
    pub(crate) rbac: rbac::Rbac,
    pub(crate) node: node::NodeAuthorizer,
}

impl Authorizer {
    /// Whether the user may do it.
    pub(crate) fn is_allowed(&self, user: &User, action: &Action<'_>) -> bool {
        user.is_in(MASTERS) || self.node.is_allowed(user, action) || self.rbac.is_allowed(user, action)
    }
}

/// The sentence of a refusal, as Kubernetes words it.
pub(crate) fn refusal(user: &User, action: &Action<'_>) -> String {
    match action {
        Action::NonResource { verb, path } => format!("User {:?} cannot {verb} path {path:?}", user.name),
        Action::Resource(action) => {
            let scope = match action.namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            format!(
                "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
                user.name,
                action.verb,
                action.full_resource(),
                action.group
            )
        }
    }
}
