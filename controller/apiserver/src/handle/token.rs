//! TokenRequest: tokens for service accounts, bound to a pod. authentication.k8s.io/v1.

use axum::body::Body;
use controller_object::resource::Subresource;
use controller_object::status::{About, Cause, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use crate::registry::names;
use crate::token::{Bound, BoundRef, Claims, ISSUER};

const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

pub(super) async fn create(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let registry = &context.state.registry;
    let mut request = context.decode_exchanged(Subresource::Token, body)?.object;
    context.settle_identity(&mut request)?;
    context.admit_exchanged(&mut request).await?;
    let (namespace, name) = names(&request);
    let namespace = namespace.unwrap_or_default().to_owned();
    let account = registry.current(&context.resource, Some(&namespace), name)?.object;
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if !(SHORTEST_SECONDS..=LONGEST_SECONDS).contains(&seconds) {
        let message = match seconds < SHORTEST_SECONDS {
            true => "may not specify a duration less than 10 minutes",
            false => "may not specify a duration larger than 2^32 seconds",
        };
        let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), message);
        return Err(Status::invalid(&context.resource, name, vec![cause]));
    }
    let mut audiences: Vec<String> = spec["audiences"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    if audiences.is_empty() {
        audiences.push(ISSUER.into());
    }
    let bound = match spec.get("boundObjectRef").filter(|bound| bound.is_object()) {
        None => BoundTo::default(),
        Some(bound) => bound_to(context, &namespace, name, bound)?,
    };
    let now = crate::time::epoch();
    let claims = Claims {
        iss: ISSUER.into(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        nbf: now,
        jti: uuid::Uuid::new_v4().to_string(),
        bound: Bound {
            namespace: namespace.clone(),
            serviceaccount: BoundRef { name: name.into(), uid: uid_of(&account) },
            pod: bound.pod,
            node: bound.node,
            secret: bound.secret,
        },
    };
    let token =
        context.state.tokens.sign(&claims).ok_or_else(|| Status::internal_error("the token could not be signed"))?;
    let expires = jiff::Timestamp::from_second(claims.exp).map(crate::time::format).unwrap_or_default();
    let mut reply = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": crate::time::now()},
        "spec": {"audiences": audiences, "expirationSeconds": seconds},
        "status": {"token": token, "expirationTimestamp": expires}});
    if let Some(bound) = spec.get("boundObjectRef") {
        reply["spec"]["boundObjectRef"] = bound.clone();
    }
    Ok(context.reply(StatusCode::CREATED, &reply, &[]))
}

fn uid_of(object: &Value) -> String {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a token ends with.
#[derive(Default)]
struct BoundTo {
    pod: Option<BoundRef>,
    /// The node, or that of the pod.
    node: Option<BoundRef>,
    secret: Option<BoundRef>,
}

fn bound_to(context: &Context, namespace: &str, account: &str, bound: &Value) -> Result<BoundTo, Status> {
    let name = bound["name"].as_str().unwrap_or_default();
    let registry = &context.state.registry;
    let live = |plural: &str, namespace: Option<&str>| {
        let table = registry.builtin();
        let resource =
            table.find("", "v1", plural).ok_or_else(|| Status::internal_error(format!("the table has no {plural}")))?;
        let object = registry.current(resource, namespace, name)?.object;
        let uid = uid_of(&object);
        if bound["uid"].as_str().is_some_and(|wanted| !wanted.is_empty() && wanted != uid) {
            let detail =
                format!("the UID in the bound object reference ({}) does not match the UID in record", bound["uid"]);
            return Err(Status::conflict(About::resource(resource, name), &detail));
        }
        Ok((object, BoundRef { name: name.into(), uid }))
    };
    match bound["kind"].as_str() {
        Some("Pod") => {
            let (pod, reference) = live("pods", Some(namespace))?;
            let runs_as = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or_default();
            if runs_as != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name"
                )));
            }
            let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
            let node = registry.peek("", "v1", "nodes", None, node);
            let node = node.map(|node| BoundRef { name: names(&node).1.to_owned(), uid: uid_of(&node) });
            Ok(BoundTo { pod: Some(reference), node, secret: None })
        }
        Some("Secret") => Ok(BoundTo { secret: Some(live("secrets", Some(namespace))?.1), ..BoundTo::default() }),
        Some("Node") => Ok(BoundTo { node: Some(live("nodes", None)?.1), ..BoundTo::default() }),
        _ => Err(Status::bad_request(format!("cannot bind token to object of type {}", bound["kind"]))),
    }
}
