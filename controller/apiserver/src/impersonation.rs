//! Acting as somebody else (`kubectl --as`), where the own user may do that.
//! Kubernetes documentation, "Authenticating", user impersonation.

use controller_object::status::Status;
use http::{HeaderMap, HeaderValue};

use crate::authn::{self, SERVICE_ACCOUNTS, UNAUTHENTICATED, User};
use crate::authz::{Action, ResourceAction};
use crate::chain::authorize;
use crate::server::State;

const EXTRA: &str = "impersonate-extra-";

/// The user that a request wants to act as.
pub(crate) fn user(state: &State, user: User, headers: &HeaderMap) -> Result<User, Status> {
    // A header that cannot be read must never count as absent: the request would run as its own user.
    let text = |value: &HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Status::bad_request("impersonation headers: expected non-empty UTF-8")),
    };
    let groups = headers.get_all("impersonate-group").iter().map(text).collect::<Result<Vec<String>, Status>>()?;
    let uid = headers.get("impersonate-uid").map(text).transpose()?;
    let extra = authn::extra(headers, EXTRA)
        .ok_or_else(|| Status::bad_request("impersonation headers: expected keys and values in UTF-8"))?;
    let Some(name) = headers.get("impersonate-user").map(text).transpose()? else {
        return match groups.is_empty() && uid.is_none() && extra.is_empty() {
            true => Ok(user),
            false => Err(Status::bad_request("Impersonate-User: required where other impersonation headers are set")),
        };
    };
    let may = |group: &str, resource: &str, sub: Option<&str>, namespace: Option<&str>, name: &str| {
        let action = ResourceAction {
            verb: "impersonate",
            group,
            resource,
            subresource: sub,
            namespace,
            name: Some(name),
            ..Default::default()
        };
        authorize(state, &user, &Action::Resource(action))
    };
    let account = name.strip_prefix(&format!("{}:", SERVICE_ACCOUNTS.trim_end_matches('s')));
    let mut target = match account.and_then(|account| account.split_once(':')) {
        Some((namespace, account)) => {
            may("", "serviceaccounts", None, Some(namespace), account)?;
            // Who names groups wants those and no others.
            match groups.is_empty() {
                true => User::service_account(namespace, account),
                false => User::new(&name, &[]),
            }
        }
        None => {
            may("", "users", None, None, &name)?;
            match name == User::anonymous().name {
                true => User::anonymous(),
                false => User::new(&name, &[]),
            }
        }
    };
    for group in groups {
        may("", "groups", None, None, &group)?;
        if group == UNAUTHENTICATED {
            target.groups.retain(|own| own != authn::AUTHENTICATED);
        }
        if !target.is_in(&group) {
            target.groups.push(group);
        }
    }
    if let Some(uid) = uid {
        may("authentication.k8s.io", "uids", None, None, &uid)?;
        target.uid = uid;
    }
    for (key, values) in extra {
        for value in &values {
            may("authentication.k8s.io", "userextras", Some(&key), None, value)?;
        }
        target.extra.insert(key, values);
    }
    Ok(target)
}
