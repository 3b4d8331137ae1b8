//! What volumes show that are made of API objects, and of which versions of them.

use std::collections::{BTreeMap, BTreeSet};

use agent_pod::protocol::Failure;
use agent_volume::payload::{Data, FileContent, Payload, files, relative};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams, PostParams};

use super::live::{Seen, Token};
use super::{Executor, certificate, fail, said};
use crate::environment;
use crate::objects::{Key, Versions};

const DEFAULT_MODE: u32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// A token is renewed when so much of its life is over, and after a day at the latest, as the kubelet does.
const RENEWED_AT_PERCENT: i64 = 80;
const RENEWED_AFTER: SignedDuration = SignedDuration::from_hours(24);

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

/// What a volume shows.
pub(super) async fn payload(executor: &Executor, volume: &Volume) -> Result<(Payload, Seen), Failure> {
    let mut gathering = Gathering { executor, seen: Seen::default() };
    let payload = gathering.volume(volume).await?;
    Ok((payload, gathering.seen))
}

/// Which part of an object is wanted, and how.
struct Wish<'a> {
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: u32,
    is_optional: bool,
}

struct Gathering<'a> {
    executor: &'a Executor,
    seen: Seen,
}

impl Gathering<'_> {
    async fn volume(&mut self, volume: &Volume) -> Result<Payload, Failure> {
        let wish = |name, items, own, optional: Option<bool>| Wish {
            name,
            items,
            mode: mode(own),
            is_optional: optional == Some(true),
        };
        if let Some(own) = &volume.config_map {
            return self.config_map(wish(&own.name, own.items.as_deref(), own.default_mode, own.optional)).await;
        }
        if let Some(own) = &volume.secret {
            let name = own.secret_name.as_deref().unwrap_or_default();
            return self.secret(wish(name, own.items.as_deref(), own.default_mode, own.optional)).await;
        }
        if let Some(own) = &volume.downward_api {
            return self.downward(own.items.as_deref().unwrap_or_default(), mode(own.default_mode));
        }
        let mut all = Payload::new();
        if let Some(projected) = &volume.projected {
            for source in projected.sources.iter().flatten() {
                all.append(&mut self.projection(source, mode(projected.default_mode)).await?);
            }
        }
        Ok(all)
    }

    async fn projection(&mut self, source: &VolumeProjection, mode: u32) -> Result<Payload, Failure> {
        if let Some(own) = &source.config_map {
            let (items, is_optional) = (own.items.as_deref(), own.optional == Some(true));
            return self.config_map(Wish { name: &own.name, items, mode, is_optional }).await;
        }
        if let Some(own) = &source.secret {
            let (items, is_optional) = (own.items.as_deref(), own.optional == Some(true));
            return self.secret(Wish { name: &own.name, items, mode, is_optional }).await;
        }
        if let Some(own) = &source.downward_api {
            return self.downward(own.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(own) = &source.service_account_token {
            let text = self.token(own).await?;
            let (mode, uid) = token_access(&self.executor.pod, mode);
            return one_file(&own.path, FileContent { bytes: text.into_bytes(), mode, uid });
        }
        if let Some(own) = &source.cluster_trust_bundle {
            let bytes = self.trust_bundle(own).await?.into_bytes();
            return one_file(&own.path, FileContent { bytes, mode, uid: None });
        }
        if let Some(own) = &source.pod_certificate {
            let (mode, of_pod) = token_access(&self.executor.pod, mode);
            let uid = own.user.and_then(|user| u32::try_from(user).ok()).or(of_pod);
            let (payload, renew_at) = certificate::project(self.executor, own, (mode, uid)).await?;
            self.seen.renew_at = self.seen.renew_at.into_iter().chain([renew_at]).min();
            return Ok(payload);
        }
        Err(said("a projected source is of an unsupported kind".into()))
    }

    /// Notes which version of an object is shown; one that cannot change is not followed.
    fn note(&mut self, key: Key, name: &str, metadata: Option<&ObjectMeta>, is_immutable: bool) {
        if is_immutable {
            return;
        }
        let version = metadata.and_then(|metadata| metadata.resource_version.clone());
        let versions: Versions = version.map(|version| (name.to_owned(), version)).into_iter().collect();
        self.seen.versions.insert(key, versions);
    }

    async fn config_map(&mut self, wish: Wish<'_>) -> Result<Payload, Failure> {
        let namespace = self.executor.namespace().to_owned();
        let api: Api<ConfigMap> = Api::namespaced(self.executor.host.client.clone(), &namespace);
        let map = api.get_opt(wish.name).await.map_err(fail)?;
        let is_immutable = map.as_ref().is_some_and(|map| map.immutable == Some(true));
        let metadata = map.as_ref().map(|map| &map.metadata);
        self.note(Key::ConfigMap(namespace, wish.name.to_owned()), wish.name, metadata, is_immutable);
        shown(map.as_ref().map(Data::from), &wish, "configmap")
    }

    async fn secret(&mut self, wish: Wish<'_>) -> Result<Payload, Failure> {
        let namespace = self.executor.namespace().to_owned();
        let api: Api<Secret> = Api::namespaced(self.executor.host.client.clone(), &namespace);
        let secret = api.get_opt(wish.name).await.map_err(fail)?;
        let is_immutable = secret.as_ref().is_some_and(|secret| secret.immutable == Some(true));
        let metadata = secret.as_ref().map(|secret| &secret.metadata);
        self.note(Key::Secret(namespace, wish.name.to_owned()), wish.name, metadata, is_immutable);
        shown(secret.as_ref().map(Data::from), &wish, "secret")
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], default_mode: u32) -> Result<Payload, Failure> {
        let executor = self.executor;
        let place = executor.host.place(&executor.pod_ips);
        let mut payload = Payload::new();
        for item in items {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => environment::field(&executor.pod, &field.field_path, &place),
                (None, Some(resource)) => environment::resource(
                    &executor.pod,
                    resource.container_name.as_deref().unwrap_or_default(),
                    &resource.resource,
                    resource.divisor.as_ref().map(|divisor| divisor.0.as_str()),
                    place.allocatable,
                ),
                (None, None) => None,
            };
            let value =
                value.ok_or_else(|| said(format!("downward API item {:?} names nothing supported", item.path)))?;
            let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
            payload.append(&mut one_file(&item.path, FileContent { bytes: value.into_bytes(), mode, uid: None })?);
        }
        Ok(payload)
    }

    /// A token for the pod's account, bound to the pod; the one that is shown until it is to be renewed.
    async fn token(&mut self, source: &ServiceAccountTokenProjection) -> Result<String, Failure> {
        let executor = self.executor;
        let seconds = source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
        let key = (source.audience.clone().filter(|audience| !audience.is_empty()), seconds);
        let now = Timestamp::now();
        let held = executor.live.tokens().get(&key).filter(|token| now < token.renew_at).cloned();
        let token = match held {
            Some(token) => token,
            None => {
                let token = request_token(executor, key.0.clone(), seconds).await?;
                executor.live.tokens().insert(key, token.clone());
                token
            }
        };
        self.seen.renew_at = self.seen.renew_at.into_iter().chain([token.renew_at]).min();
        Ok(token.text)
    }

    /// Certificates of the bundles that are named or selected, each once.
    async fn trust_bundle(&mut self, source: &ClusterTrustBundleProjection) -> Result<String, Failure> {
        let api: Api<ClusterTrustBundle> = Api::all(self.executor.host.client.clone());
        let all = api.list(&ListParams::default()).await.map_err(fail)?.items;
        let version = |bundle: &ClusterTrustBundle| {
            Some((bundle.metadata.name.clone()?, bundle.metadata.resource_version.clone().unwrap_or_default()))
        };
        self.seen.versions.insert(Key::TrustBundles, all.iter().filter_map(version).collect());
        let chosen = chosen(&all, source).map_err(said)?;
        if chosen.is_empty() && source.optional != Some(true) {
            return Err(said(match (&source.name, &source.signer_name) {
                (Some(name), _) => format!("clustertrustbundle {name:?} not found"),
                (None, signer) => format!(
                    "no clustertrustbundle of signer {:?} matches the label selector",
                    signer.as_deref().unwrap_or_default()
                ),
            }));
        }
        Ok(certificates(chosen.iter().map(|bundle| bundle.spec.trust_bundle.as_str())))
    }
}

pub(super) fn one_file(path: &str, content: FileContent) -> Result<Payload, Failure> {
    Ok(BTreeMap::from([(relative(path).map_err(fail)?, content)]))
}

fn shown(data: Option<Data>, wish: &Wish<'_>, kind: &str) -> Result<Payload, Failure> {
    match data {
        Some(data) => files(&data, wish.items, wish.mode, wish.is_optional).map_err(fail),
        None if wish.is_optional => Ok(Payload::new()),
        None => Err(said(format!("{kind} {:?} not found", wish.name))),
    }
}

/// Who may read a token: the one user that all containers run as, or the pod's group, or everybody in the pod. Kubernetes
/// documentation, "Configure Service Accounts for Pods", on file permissions.
fn token_access(pod: &Pod, mode: u32) -> (u32, Option<u32>) {
    let Some(spec) = &pod.spec else { return (mode, None) };
    let context = spec.security_context.as_ref();
    let of_pod = context.and_then(|context| context.run_as_user);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let users: BTreeSet<Option<i64>> = containers
        .map(|container| container.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod))
        .collect();
    let user = match users.first() {
        Some(Some(user)) if users.len() == 1 => u32::try_from(*user).ok(),
        _ => None,
    };
    let has_group = context.is_some_and(|context| context.fs_group.is_some());
    (if user.is_some() || has_group { 0o600 } else { mode }, user)
}

/// A token for the pod's account, bound to the pod.
pub(crate) async fn request_token(
    executor: &Executor,
    audience: Option<String>,
    seconds: i64,
) -> Result<Token, Failure> {
    let account = executor.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(executor.name().into()),
                uid: Some(executor.uid.clone()),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    let asked_at = Timestamp::now();
    let reply = api.create_token_request(&account, &PostParams::default(), &request).await.map_err(fail)?;
    let status = reply.status.unwrap_or_default();
    let text = status.token.ok_or_else(|| said("the server gave no token".into()))?;
    let expires_at = status.expiration_timestamp.map_or(asked_at, |time| time.0);
    Ok(Token { text, renew_at: renew_at(asked_at, expires_at), expires_at })
}

fn renew_at(asked_at: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = expires_at.duration_since(asked_at);
    let part = SignedDuration::from_secs(life.as_secs().saturating_mul(RENEWED_AT_PERCENT) / 100);
    asked_at.saturating_add(part.min(RENEWED_AFTER)).unwrap_or(expires_at)
}

/// The bundles of a projection: by name, or all of a signer with these labels.
fn chosen<'a>(
    all: &'a [ClusterTrustBundle],
    source: &ClusterTrustBundleProjection,
) -> Result<Vec<&'a ClusterTrustBundle>, String> {
    if let Some(name) = &source.name {
        return Ok(all.iter().filter(|bundle| bundle.metadata.name.as_ref() == Some(name)).collect());
    }
    let Some(selector) = &source.label_selector else { return Ok(Vec::new()) };
    let selector = api::selector::Selector::from_label_selector(selector);
    let selector = selector.map_err(|error| format!("clusterTrustBundle.labelSelector: {error}"))?;
    let empty = BTreeMap::new();
    let matches = |bundle: &&ClusterTrustBundle| {
        bundle.spec.signer_name == source.signer_name
            && selector.matches(bundle.metadata.labels.as_ref().unwrap_or(&empty))
    };
    Ok(all.iter().filter(matches).collect())
}

/// The PEM blocks of several bundles, each once, in an order that says nothing.
fn certificates<'a>(bundles: impl Iterator<Item = &'a str>) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all: BTreeSet<String> = BTreeSet::new();
    for bundle in bundles {
        for block in bundle.split_inclusive(END) {
            if let Some(begin) = block.find("-----BEGIN CERTIFICATE-----").filter(|_| block.ends_with(END)) {
                all.insert(format!("{}\n", &block[begin..]));
            }
        }
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_token_is_for_whom_the_pod_runs_as() {
        let of = |pod: Value, containers: Value| {
            let spec = json!({"securityContext": pod, "containers": containers});
            token_access(&from_value(json!({"spec": spec})).unwrap(), 0o644)
        };
        let user = |name: &str, uid: i64| json!({"name": name, "securityContext": {"runAsUser": uid}});
        assert_eq!(of(json!({}), json!([{"name": "a"}])), (0o644, None));
        assert_eq!(of(json!({"runAsUser": 7}), json!([{"name": "a"}, user("b", 7)])), (0o600, Some(7)));
        assert_eq!(of(json!({}), json!([user("a", 7), user("b", 8)])), (0o644, None));
        assert_eq!(of(json!({"fsGroup": 5}), json!([user("a", 7), user("b", 8)])), (0o600, None));
    }

    #[test]
    fn tokens_are_renewed_in_time() {
        let asked: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at =
            |seconds: i64| renew_at(asked, asked + SignedDuration::from_secs(seconds)).as_second() - asked.as_second();
        assert_eq!((at(600), at(3600), at(30 * 86_400)), (480, 2880, 86_400));
    }

    #[test]
    fn bundles_are_joined_and_each_certificate_is_there_once() {
        let pem = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let (one, two) = (format!("comment\n{}{}", pem("b"), pem("a")), pem("a"));
        assert_eq!(certificates([one.as_str(), two.as_str()].into_iter()), format!("{}{}", pem("a"), pem("b")));
        let bundle = |name: &str, signer: &str| -> ClusterTrustBundle {
            from_value(json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": ""}})).unwrap()
        };
        let all = [bundle("x", "s/a"), bundle("y", "s/b")];
        let count = |source: Value| chosen(&all, &from_value(source).unwrap()).unwrap().len();
        assert_eq!(count(json!({"path": "p", "name": "y"})), 1);
        assert_eq!(count(json!({"path": "p", "signerName": "s/a", "labelSelector": {}})), 1);
        assert_eq!(count(json!({"path": "p", "signerName": "s/a"})), 0, "no selector selects nothing");
    }
}
