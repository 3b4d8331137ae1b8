//! What expressions of policies and of match conditions see of a request, and who decides for their `authorizer`.

use std::time::{Duration, Instant};

use controller_cel::Budget;
use controller_cel::authorizer::{Check, Decision};
use controller_object::policy::Scope;

use super::attributes::Attributes;
use super::matching::Shown;
use super::version::Seen;
use crate::authn::User;
use crate::authz::{self, Action, ResourceAction};

/// What the expressions of one policy may take for one request.
const WITHIN: Duration = Duration::from_secs(2);

/// Evaluates something over a request that is shown as `shown`. `namespace`: the namespace's object is wanted.
pub(super) fn evaluate<T>(
    attributes: &Attributes<'_>,
    shown: &Shown,
    seen: &Seen<'_>,
    namespace: bool,
    work: impl FnOnce(&Scope<'_>) -> T,
) -> T {
    let started = Instant::now();
    let expired = || started.elapsed() > WITHIN;
    let budget = Budget::default().with_clock(&expired);
    let authorize = |verb: &str, check: &Check| decide(attributes, verb, check);
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let check = Check {
        group: attributes.resource.group.clone(),
        resource: attributes.resource.plural.clone(),
        subresource: text(attributes.subresource.map(controller_object::resource::Subresource::as_str)),
        namespace: text(attributes.namespace),
        name: attributes.name.to_owned(),
        ..Check::default()
    };
    let own = attributes.namespace.filter(|_| namespace && !attributes.is("", "namespaces"));
    let own = own.and_then(|name| attributes.state.registry.peek("", "v1", "namespaces", None, name));
    let request = attributes.request(shown);
    let scope = Scope::new(seen.object.as_deref(), seen.old.as_deref(), &request, check, &authorize, &budget);
    work(&scope.in_namespace(own.as_ref()))
}

fn decide(attributes: &Attributes<'_>, verb: &str, check: &Check) -> Decision {
    let account = check.service_account.as_ref().map(|(namespace, name)| User::service_account(namespace, name));
    let user = account.as_ref().unwrap_or(attributes.user);
    let given = |text: &'_ String| Some(text.clone()).filter(|text| !text.is_empty());
    let (subresource, namespace, name) = (given(&check.subresource), given(&check.namespace), given(&check.name));
    let action = match &check.path {
        Some(path) => Action::NonResource { verb, path },
        None => Action::Resource(ResourceAction {
            verb,
            group: &check.group,
            resource: &check.resource,
            subresource: subresource.as_deref(),
            namespace: namespace.as_deref(),
            name: name.as_deref(),
            ..ResourceAction::default()
        }),
    };
    match attributes.state.authorizer.is_allowed(user, &action) {
        true => Decision { allowed: true, reason: String::new() },
        false => Decision { allowed: false, reason: authz::refusal(user, &action) },
    }
}
