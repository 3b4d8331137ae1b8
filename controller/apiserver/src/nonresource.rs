//! Paths that are not resources: health, version, metrics, discovery, OpenAPI.

use api::exposition::Format;
use axum::body::Body;
use bytes::Bytes;
use controller_object::discovery;
use controller_object::resource::Verbs;
use controller_store::model::RangeRequest;
use http::header::{ACCEPT, HOST};
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;

use crate::query::Query;
use crate::server::State;
use crate::token::ISSUER;
use crate::{aggregation, documents, health, reply};

/// The release whose API is served.
pub(crate) const MAJOR: &str = "1";
pub(crate) const MINOR: &str = "37";

/// Answers a path, or `None` where nothing lives.
pub(crate) async fn answer(state: &State, path: &str, query: &Query, headers: &HeaderMap) -> Option<Response<Body>> {
    let table = &*state.registry.table();
    let json = |value: serde_json::Value| Some(reply::json_bytes(StatusCode::OK, Bytes::from(value.to_string())));
    let text =
        |code, text: &str| Some(reply::with_type(code, "text/plain; charset=utf-8", Body::from(text.to_owned())));
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => {
            let (code, words) = health::answer(state, &segments, query)?;
            text(code, &words)
        }
        ["version"] => json(version()),
        // Whom a machine that joins may trust, if the hash is that of its token; as in k3s.
        ["cacerts"] => text(StatusCode::OK, state.authority.certificate()),
        // Where others learn to verify tokens of service accounts (OpenID Connect Discovery 1.0, section 3).
        [".well-known", "openid-configuration"] => json(json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })),
        ["openid", "v1", "jwks"] => {
            let keys = state.tokens.key_set().to_string();
            Some(reply::with_type(StatusCode::OK, "application/jwk-set+json", Body::from(keys)))
        }
        ["metrics"] => {
            let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
            let text = format.render(state.metrics.text(stored_objects(state)));
            Some(reply::with_type(StatusCode::OK, format.content_type(), Body::from(text)))
        }
        ["api"] | ["apis"] if wants_aggregated(headers) => {
            let mut document = discovery::aggregated(table, segments == ["api"]);
            if segments == ["apis"] {
                aggregation::complete_aggregated(state, &mut document).await;
            }
            let body = document.to_string();
            let media_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            Some(reply::with_type(StatusCode::OK, media_type, Body::from(body)))
        }
        ["api"] => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            json(discovery::api_versions(host))
        }
        ["apis"] => {
            let mut groups = discovery::api_group_list(table);
            aggregation::complete_groups(state, &mut groups);
            json(groups)
        }
        ["api", version] => json(discovery::api_resource_list(table, "", version)?),
        ["apis", group] => {
            let none = || json!({"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": []});
            let mut found = discovery::api_group(table, group).unwrap_or_else(none);
            aggregation::complete_groups(state, &mut found);
            let first = found["versions"].get(0).cloned()?;
            if found.get("preferredVersion").is_none() {
                found["preferredVersion"] = first;
            }
            json(found)
        }
        ["apis", group, version] => json(discovery::api_resource_list(table, group, version)?),
        ["openapi", rest @ ..] => documents::answer(table, rest, query, headers),
        [""] => json(
            json!({"paths": ["/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]}),
        ),
        _ => None,
    }
}

/// How many objects of each resource are stored, by `PLURAL.GROUP`; the versions of one are stored together.
fn stored_objects(state: &State) -> impl Iterator<Item = (String, usize)> {
    let table = state.registry.table();
    let stored: Vec<_> = table
        .all()
        .filter(|resource| {
            resource.verbs == Verbs::Storage
                && (&resource.group, &resource.plural) == (&resource.storage_group, &resource.storage_plural)
        })
        .cloned()
        .collect();
    stored.into_iter().filter_map(|resource| {
        let request =
            RangeRequest { prefix: state.registry.prefix(&resource, None), limit: 1, ..RangeRequest::default() };
        // The newest revision can always be read.
        let page = state.registry.store.range(&request).ok()?;
        let name = match resource.group.as_str() {
            "" => resource.plural.clone(),
            group => format!("{}.{group}", resource.plural),
        };
        Some((name, page.items.len() + page.remaining))
    })
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| {
        accept.split(',').any(|clause| {
            clause.contains("as=APIGroupDiscoveryList") && clause.contains("v=v2;")
                || clause.trim_end().ends_with("v=v2")
        })
    })
}

fn version() -> serde_json::Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+gantry{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", go_arch()),
    })
}

/// The architecture in Go's words, which clients expect.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
