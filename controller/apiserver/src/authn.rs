//! Step 3a: who asks. In-process clients and TLS connections bring their user along; otherwise a
//! bearer token says it; otherwise it is nobody in particular.

use std::collections::BTreeMap;

use controller_object::status::Status;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::FromDer as _;

use crate::registry::Registry;
use crate::token::{Claims, ISSUER, TokenKey};

/// Members may do everything; only certificates of our own authority carry it.
pub const MASTERS: &str = "system:masters";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of all agents.
pub const NODES: &str = "system:nodes";
pub(crate) const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The identity behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user name; `system:serviceaccount:NS:NAME` for service accounts.
    pub name: String,
    /// The account's uid where it has one.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Further facts, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// An authenticated user in the given groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push(AUTHENTICATED.into());
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let group = format!("{SERVICE_ACCOUNTS}:{namespace}");
        Self::new(&format!("system:serviceaccount:{namespace}:{name}"), &[SERVICE_ACCOUNTS, &group])
    }

    pub(crate) fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.into()],
            extra: BTreeMap::new(),
        }
    }

    /// The user a verified client certificate stands for: common name and organizations.
    pub(crate) fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
        let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups: Vec<&str> = parsed.subject().iter_organization().filter_map(|o| o.as_str().ok()).collect();
        Some(Self::new(&name, &groups))
    }

    /// The node's name if this is a node: user `system:node:NAME` in group `system:nodes`.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.groups.iter().any(|group| group == NODES))
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// The user of a request. `connection` is what the transport already knows.
pub(crate) fn authenticate(
    connection: Option<&User>,
    headers: &HeaderMap,
    tokens: &TokenKey,
    registry: &Registry,
) -> Result<User, Status> {
    if let Some(user) = connection {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token
        .and_then(|token| token_user(token, ISSUER, tokens, registry))
        .map(|(user, _)| user)
        .ok_or_else(Status::unauthorized)
}

/// The user of a token for an audience, provided that the account and the pod it is bound to still exist.
pub(crate) fn token_user(
    token: &str,
    audience: &str,
    tokens: &TokenKey,
    registry: &Registry,
) -> Option<(User, Claims)> {
    let claims = tokens.verify(token, crate::time::epoch())?;
    if !claims.aud.iter().any(|aud| aud == audience) {
        return None;
    }
    let namespace = &claims.bound.namespace;
    let account = registry.peek("", "v1", "serviceaccounts", Some(namespace), &claims.bound.serviceaccount.name)?;
    if uid(&account)? != claims.bound.serviceaccount.uid {
        return None;
    }
    let mut user = User::service_account(namespace, &claims.bound.serviceaccount.name);
    user.uid.clone_from(&claims.bound.serviceaccount.uid);
    if let Some(pod) = &claims.bound.pod {
        let live = registry.peek("", "v1", "pods", Some(namespace), &pod.name)?;
        if uid(&live)? != pod.uid {
            return None;
        }
        user.extra.insert(POD_NAME.into(), vec![pod.name.clone()]);
        user.extra.insert(POD_UID.into(), vec![pod.uid.clone()]);
    }
    Some((user, claims))
}

fn uid(object: &serde_json::Value) -> Option<&str> {
    object.pointer("/metadata/uid")?.as_str()
}
