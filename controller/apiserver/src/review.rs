//! Questions that are answered and not stored: who am I, may I, is this token good.
//! authentication.k8s.io/v1 and authorization.k8s.io/v1.

use axum::body::Body;
use controller_object::status::Status;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::admit::user_info;
use crate::authn::{self, User};
use crate::authz::{Action, ResourceAction};
use crate::handle::Context;
use crate::reply::{self, Shape};
use crate::token::ISSUER;

pub(crate) fn create(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    if context.negotiated.shape != Shape::Object {
        // A review is no object with metadata: there is no row to make of it.
        return Err(Status::not_acceptable(&["application/json", "application/yaml", reply::PROTOBUF]));
    }
    let mut review = context.decode(body)?.object;
    let spec = review["spec"].clone();
    review["status"] = match context.resource.kind.as_str() {
        "TokenReview" => token_review(context, &spec),
        "SelfSubjectReview" => json!({"userInfo": user_info(&context.user)}),
        "SelfSubjectAccessReview" => access(context, &context.user, &spec, None)?,
        "SubjectAccessReview" => access(context, &reviewed_user(&spec)?, &spec, None)?,
        "LocalSubjectAccessReview" => access(context, &reviewed_user(&spec)?, &spec, context.namespace())?,
        "SelfSubjectRulesReview" => rules(context, &spec),
        other => return Err(Status::bad_request(format!("{other} is answered at its own subresource only"))),
    };
    Ok(context.reply(StatusCode::CREATED, &review, &[]))
}

fn token_review(context: &Context, spec: &Value) -> Value {
    let wanted: Vec<&str> = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let wanted = if wanted.is_empty() { vec![ISSUER] } else { wanted };
    let token = spec["token"].as_str().unwrap_or_default();
    for audience in wanted {
        if let Some((user, claims)) = authn::token_user(token, audience, &context.state.tokens, &context.state.registry)
        {
            return json!({"authenticated": true, "user": user_info(&user), "audiences": claims.aud});
        }
    }
    json!({"authenticated": false, "user": {}, "error": "invalid bearer token"})
}

fn reviewed_user(spec: &Value) -> Result<User, Status> {
    let name = spec["user"].as_str().unwrap_or_default();
    let groups: Vec<String> =
        spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if name.is_empty() && groups.is_empty() {
        return Err(Status::bad_request("spec.user: Required value: at least one of user or group must be specified"));
    }
    Ok(User { name: name.into(), uid: String::new(), groups, extra: Default::default() })
}

fn access(context: &Context, user: &User, spec: &Value, namespace: Option<&str>) -> Result<Value, Status> {
    let text = |value: &'_ Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (resource, non_resource) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let allowed = if resource.is_object() {
        let field = |name: &str| text(&resource[name]);
        let (verb, group, plural) = (field("verb"), field("group"), field("resource"));
        let (sub, own_namespace, name) = (field("subresource"), field("namespace"), field("name"));
        let action = ResourceAction {
            verb: verb.as_deref().unwrap_or_default(),
            group: group.as_deref().unwrap_or_default(),
            resource: plural.as_deref().unwrap_or_default(),
            subresource: sub.as_deref(),
            namespace: namespace.or(own_namespace.as_deref()),
            name: name.as_deref(),
            selected_node: None,
        };
        context.state.authorizer.is_allowed(user, &Action::Resource(action))
    } else if non_resource.is_object() {
        let (verb, path) = (text(&non_resource["verb"]), text(&non_resource["path"]));
        let action = Action::NonResource {
            verb: verb.as_deref().unwrap_or_default(),
            path: path.as_deref().unwrap_or_default(),
        };
        context.state.authorizer.is_allowed(user, &action)
    } else {
        return Err(Status::bad_request(
            "spec.resourceAttributes: Required value: exactly one of resourceAttributes or nonResourceAttributes must be specified",
        ));
    };
    Ok(match allowed {
        true => json!({"allowed": true, "reason": "allowed by role or group"}),
        false => json!({"allowed": false}),
    })
}

fn rules(context: &Context, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().filter(|ns| !ns.is_empty());
    let (mut resource, mut non_resource) = (Vec::new(), Vec::new());
    if context.user.is_in(authn::MASTERS) {
        resource.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        non_resource.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rules in context.state.authorizer.rbac.rules(&context.user, namespace) {
        for rule in rules.iter() {
            if !rule.resources.is_empty() {
                resource.push(json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
                    "resourceNames": rule.resource_names}));
            }
            if !rule.non_resource_urls.is_empty() {
                non_resource.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
            }
        }
    }
    json!({"resourceRules": resource, "nonResourceRules": non_resource, "incomplete": false})
}
