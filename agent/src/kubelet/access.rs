//! Who may ask what of the kubelet API: the API server everything, anybody else what the cluster says.
//! Kubernetes documentation, "Kubelet authentication/authorization".
//!
//! # Flow
//! A client certificate of the cluster, or else a bearer token by TokenReview, says who asks; a SubjectAccessReview on
//! `nodes/{metrics,stats,log,proxy}` says whether they may. Both answers are remembered for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, UPGRADE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use sha2::{Digest as _, Sha256};

use crate::execute::{Host, chain};

const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
/// How long an answer holds: what the kubelet's webhooks take by default, a refusal for less.
const HOLDS: Duration = Duration::from_secs(120);
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);
/// Answers kept; more than that means that somebody makes them up.
const KEPT: usize = 256;

/// Somebody with a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
}

/// Who the TLS layer found at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    /// A certificate of the cluster's authority in the group of masters.
    ApiServer,
    /// Another certificate of the cluster's authority.
    Known(User),
    /// No certificate.
    Stranger,
}

impl Peer {
    /// The peer that shows a certificate, verified by TLS.
    pub(super) fn of(certificate: Option<&[u8]>) -> Self {
        use x509_parser::prelude::FromDer as _;
        let parsed = certificate.and_then(|der| x509_parser::certificate::X509Certificate::from_der(der).ok());
        let Some((_, certificate)) = parsed else { return Self::Stranger };
        let subject = certificate.subject();
        let mut groups: Vec<String> =
            subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
        if groups.iter().any(|group| group == MASTERS) {
            return Self::ApiServer;
        }
        groups.push(AUTHENTICATED.into());
        match subject.iter_common_name().next().and_then(|name| name.as_str().ok()) {
            Some(name) => Self::Known(User { name: name.into(), uid: String::new(), groups }),
            None => Self::Stranger,
        }
    }
}

/// Answers that still hold.
#[derive(Debug)]
struct Remembered<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(_, until)| Instant::now() < *until).map(|(value, _)| value.clone())
    }

    fn keep(&self, key: K, value: V, holds: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            let now = Instant::now();
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, (value, Instant::now() + holds));
    }
}

/// What the cluster said.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// By the hash of the token: `None` is nobody.
    users: Remembered<[u8; 32], Option<User>>,
    decisions: Remembered<(User, Wish), bool>,
}

/// What somebody wants of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wish {
    verb: &'static str,
    subresource: &'static str,
}

impl Wish {
    fn of(method: &Method, path: &str, headers: &HeaderMap) -> Self {
        let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let subresource = match () {
            () if below("/stats") => "stats",
            () if below("/metrics") => "metrics",
            () if below("/logs") => "log",
            () => "proxy",
        };
        let verb = match *method {
            // A stream into a container is no reading, though WebSockets begin with GET.
            _ if headers.contains_key(UPGRADE) => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "create",
        };
        Self { verb, subresource }
    }
}

/// Lets a request through or answers it.
pub(super) async fn check(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let user = match request.extensions().get::<Peer>() {
        Some(Peer::ApiServer) => return next.run(request).await,
        Some(Peer::Known(user)) => Some(user.clone()),
        Some(Peer::Stranger) | None => match bearer(request.headers()) {
            Some(token) => match host.access.user(&host.client, token).await {
                Ok(user) => user,
                Err(error) => return unavailable(&error),
            },
            None => None,
        },
    };
    let Some(user) = user else { return StatusCode::UNAUTHORIZED.into_response() };
    let wish = Wish::of(request.method(), request.uri().path(), request.headers());
    match host.access.may(&host.client, &host.config.node_name, &user, wish).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let (verb, subresource) = (wish.verb, wish.subresource);
            let text =
                format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource={subresource})", user.name);
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &kube::Error) -> Response {
    tracing::warn!(error = chain(error), "asking the API server who may use the kubelet API");
    (StatusCode::SERVICE_UNAVAILABLE, "the API server does not say who may ask").into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

impl Access {
    async fn user(&self, client: &kube::Client, token: &str) -> Result<Option<User>, kube::Error> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.users.get(&key) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: token.into(), ..Default::default() };
        let review = TokenReview { spec, ..Default::default() };
        let review = Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
        let status = review.status.filter(|status| status.authenticated == Some(true));
        let user = status.and_then(|status| status.user).map(|info| User {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
        });
        self.users.keep(key, user.clone(), if user.is_some() { HOLDS } else { REFUSAL_HOLDS });
        Ok(user)
    }

    async fn may(&self, client: &kube::Client, node: &str, user: &User, wish: Wish) -> Result<bool, kube::Error> {
        let key = (user.clone(), wish);
        if let Some(known) = self.decisions.get(&key) {
            return Ok(known);
        }
        let attributes = ResourceAttributes {
            verb: Some(wish.verb.into()),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(wish.subresource.into()),
            name: Some(node.into()),
            ..Default::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()),
            groups: Some(user.groups.clone()),
            resource_attributes: Some(attributes),
            ..Default::default()
        };
        let review = SubjectAccessReview { spec, ..Default::default() };
        let review = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
        let allowed = review.status.is_some_and(|status| status.allowed);
        self.decisions.keep(key, allowed, if allowed { HOLDS } else { REFUSAL_HOLDS });
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_wish_on_the_node() {
        let plain = HeaderMap::new();
        let of = |method, path| {
            let wish = Wish::of(&method, path, &plain);
            (wish.verb, wish.subresource)
        };
        assert_eq!(of(Method::GET, "/stats/summary"), ("get", "stats"));
        assert_eq!(of(Method::GET, "/metrics/cadvisor"), ("get", "metrics"));
        assert_eq!(of(Method::GET, "/metricsx"), ("get", "proxy"));
        assert_eq!(of(Method::POST, "/exec/a/b/c"), ("create", "proxy"));
        let upgrade = HeaderMap::from_iter([(UPGRADE, "websocket".parse().unwrap())]);
        assert_eq!(Wish::of(&Method::GET, "/exec/a/b/c", &upgrade).verb, "create");
    }

    #[test]
    fn made_up_tokens_do_not_fill_the_memory() {
        let known = Remembered::default();
        (0..10 * KEPT).for_each(|key| known.keep(key, true, HOLDS));
        assert!(known.0.lock().unwrap().len() <= KEPT);
        known.keep(0, true, Duration::ZERO);
        assert_eq!(known.get(&0), None, "what is over does not hold");
    }
}
