//! Step 3a: who asks. In-process clients and TLS connections bring their user along; otherwise a
//! bearer token says it; otherwise it is nobody in particular.

mod bootstrap_token;

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
/// The common name of a client that tells the user of each request in headers, as our own does.
pub(crate) const FRONT_PROXY_NAME: &str = "system:auth-proxy";

/// What marks a request over a connection of such a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrontProxy;
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

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

/// What the transport knows of a request's user.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport<'a> {
    /// A certificate, or a client in this process.
    User(&'a User),
    /// Headers say it.
    FrontProxy,
    /// Nothing.
    Nobody,
}

/// The user of a request.
pub(crate) fn authenticate(
    transport: Transport<'_>,
    headers: &HeaderMap,
    tokens: &TokenKey,
    registry: &Registry,
) -> Result<User, Status> {
    match transport {
        Transport::User(user) => return Ok(user.clone()),
        Transport::FrontProxy => return remote_user(headers).ok_or_else(Status::unauthorized),
        Transport::Nobody => {}
    }
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.and_then(|token| bearer(token, tokens, registry)).ok_or_else(Status::unauthorized)
}

/// The user of a bearer token: of a service account, or one to join the cluster with.
fn bearer(token: &str, tokens: &TokenKey, registry: &Registry) -> Option<User> {
    match bootstrap_token::user(token, registry, crate::time::epoch()) {
        Some(user) => Some(user),
        None => token_user(token, ISSUER, tokens, registry).map(|(user, _)| user),
    }
}

/// The user that a trusted client tells of. Kubernetes documentation, "Authenticating Proxy".
fn remote_user(headers: &HeaderMap) -> Option<User> {
    let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned).filter(|text| !text.is_empty());
    let mut user = User::new(&headers.get("x-remote-user").and_then(text)?, &[]);
    user.uid = headers.get("x-remote-uid").and_then(text).unwrap_or_default();
    user.groups.splice(0..0, headers.get_all("x-remote-group").iter().filter_map(text));
    user.extra = extra(headers, "x-remote-extra-")?;
    Some(user)
}

/// Further facts in headers: `PREFIX` and a key, percent-encoded. `None` where one is not text.
pub(crate) fn extra(headers: &HeaderMap, prefix: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(prefix) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8().ok()?.into_owned();
            extra.entry(key).or_default().push(String::from_utf8(value.as_bytes().to_vec()).ok()?);
        }
    }
    Some(extra)
}

/// The user of a token for an audience, provided that the account and what it is bound to still exist.
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
    if let Some(secret) = &claims.bound.secret {
        let live = registry.peek("", "v1", "secrets", Some(namespace), &secret.name)?;
        if uid(&live)? != secret.uid {
            return None;
        }
    }
    if let Some(node) = &claims.bound.node {
        // A token of a pod tells its node; only one bound to the node itself ends with it.
        if claims.bound.pod.is_none() {
            let live = registry.peek("", "v1", "nodes", None, &node.name)?;
            if uid(&live)? != node.uid {
                return None;
            }
        }
        user.extra.insert(NODE_NAME.into(), vec![node.name.clone()]);
        user.extra.insert(NODE_UID.into(), vec![node.uid.clone()]);
    }
    user.extra.insert(CREDENTIAL.into(), vec![format!("JTI={}", claims.jti)]);
    Some((user, claims))
}

fn uid(object: &serde_json::Value) -> Option<&str> {
    object.pointer("/metadata/uid")?.as_str()
}
