//! Step 4: what each verb does. One file per verb; what a kind means is `controller-object`'s to say.

mod admission;
mod binding;
mod create;
pub(crate) mod delete;
mod eviction;
mod filter;
mod get;
mod list;
mod list_body;
mod list_options;
mod patch;
pub(crate) mod proxy;
mod scale;
pub(crate) mod shared;
mod token;
mod update;
mod usage;
mod watch;
mod write;

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use controller_object::columns::IncludeObject;
use controller_object::resource::{Resource, Subresource, Verbs};
use controller_object::status::{About, Status};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::admit::{Annotations, Warnings};
use crate::authn::User;
use crate::custom::convert;
use crate::query::Query;
use crate::registry;
use crate::reply::{self, Encoding, Negotiated, Shape};
use crate::route::{ResourceRequest, Verb};
use crate::server::State;
use crate::{node_proxy, review};

/// Everything a handler needs to know about one request.
pub(crate) struct Context {
    pub(crate) state: Arc<State>,
    pub(crate) user: User,
    pub(crate) resource: Arc<Resource>,
    pub(crate) subresource: Option<Subresource>,
    pub(crate) request: ResourceRequest,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) negotiated: Negotiated,
    /// Lists and watches do without `managedFields`: the client is in this process and has no use for them.
    pub(crate) omits_managed: bool,
    /// What the client is told besides the answer.
    pub(crate) warnings: Warnings,
    /// What the audit log is told.
    pub(crate) annotations: Annotations,
}

impl Context {
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.request.namespace.as_deref()
    }

    /// The name in the path; empty for collections.
    pub(crate) fn name(&self) -> &str {
        self.request.name.as_deref().unwrap_or_default()
    }

    fn include(&self) -> IncludeObject {
        match self.query.get("includeObject") {
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            _ => IncludeObject::Metadata,
        }
    }

    /// One object in the shape that was asked for.
    pub(crate) fn show<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        Cow::Owned(match self.negotiated.shape {
            Shape::Object => return Cow::Borrowed(object),
            Shape::Table => {
                let (object, now) = (object.clone(), crate::time::epoch());
                let version = object.pointer("/metadata/resourceVersion").cloned();
                let mut table = controller_object::columns::table(&self.resource, vec![object], now, self.include());
                if let Some(version) = version {
                    table["metadata"]["resourceVersion"] = version;
                }
                table
            }
            Shape::Metadata => partial_metadata(object),
        })
    }

    pub(crate) fn reply(&self, code: StatusCode, object: &Value, warnings: &[String]) -> Response<Body> {
        let mut response = reply::object(code, &self.show(object), self.negotiated.encoding);
        reply::add_warnings(&mut response, warnings);
        response
    }

    /// The answer to a write. What was stored of it is the answer already, unless somebody else has written since.
    pub(crate) fn reply_written(&self, code: StatusCode, object: &Value, warnings: &[String]) -> Response<Body> {
        let as_stored = || {
            let is_whole = self.negotiated.shape == Shape::Object && self.negotiated.encoding == Encoding::Json;
            // A dry run has stored nothing.
            if !is_whole || self.query.dry_run().unwrap_or(true) {
                return None;
            }
            let registry = &self.state.registry;
            let (namespace, name) = registry::names(object);
            let key = registry.key(&self.resource, namespace.filter(|_| self.resource.is_namespaced()), name);
            let kv = registry.store.get(&key)?;
            let revision = object.pointer("/metadata/resourceVersion").and_then(Value::as_str)?;
            (revision == kv.mod_revision.to_string()).then(|| registry::as_written(&self.resource, &kv))?
        };
        let Some(body) = as_stored() else { return self.reply(code, object, warnings) };
        let mut response = reply::json_bytes(code, body);
        reply::add_warnings(&mut response, warnings);
        response
    }
}

fn partial_metadata(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

/// Carries out a request that was authorized.
pub(crate) async fn dispatch(
    context: Context,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let deprecation = context.resource.custom.as_ref().and_then(|custom| custom.deprecation.clone());
    let mut answer = match convert::has_webhook(&context.resource) {
        true => with_conversions(context, body).await,
        false => carry_out(context, upgrade, body).await,
    };
    if let (Ok(response), Some(warning)) = (&mut answer, deprecation) {
        reply::add_warnings(response, &[warning]);
    }
    answer
}

/// Carries out a request whose objects a webhook may have to convert first: what was missing is asked for, then the
/// request begins again. It has changed nothing before it has read all that it needs.
async fn with_conversions(context: Context, body: Bytes) -> Result<Response<Body>, Status> {
    let (state, resource) = (Arc::clone(&context.state), Arc::clone(&context.resource));
    for _ in 1..convert::ATTEMPTS {
        match carry_out(context.again(), None, body.clone()).await {
            // Another request may have taken what this one waits for to the webhook; then it is asked once more.
            Err(status) if registry::is_unconverted(&status) => {
                convert::waiting(&state.registry.webhooks, &resource).await?;
            }
            answer => return answer,
        }
    }
    carry_out(context, None, body).await
}

async fn carry_out(
    context: Context,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    if context.resource.verbs == Verbs::CreateOnly {
        return review::create(&context, &body);
    }
    if context.resource.group == usage::GROUP {
        return usage::answer(&context).await;
    }
    if context.resource.is_terminating && context.request.verb == Verb::Create {
        return Err(Status::method_not_allowed("create not allowed while custom resource definition is terminating"));
    }
    let refused =
        || Status::method_not_supported(About::resource(&context.resource, ""), context.request.verb.as_str());
    match (context.subresource, context.request.verb) {
        (None, Verb::Get) => get::get(&context),
        (None, Verb::List) => list::list(&context),
        (None, Verb::Watch) => watch::watch(context),
        (None, Verb::Create) if context.request.name.is_none() => match context.resource.is("", "bindings") {
            true => binding::bind(&context, &body).await,
            false => create::create(&context, &body).await,
        },
        (None, Verb::Create) => Err(refused()),
        (None | Some(Subresource::Status | Subresource::Finalize | Subresource::Approval), Verb::Update) => {
            update::update(&context, &body).await
        }
        (None | Some(Subresource::Status | Subresource::Approval), Verb::Patch) => patch::patch(&context, &body).await,
        (None, Verb::Delete) => delete::delete(&context, &body).await,
        (None, Verb::DeleteCollection) => delete::delete_collection(&context, &body).await,
        (Some(Subresource::Status | Subresource::Finalize | Subresource::Approval), Verb::Get) => get::get(&context),
        (Some(Subresource::Scale), Verb::Get) => scale::get(&context),
        (Some(Subresource::Scale), Verb::Update | Verb::Patch) => scale::update(&context, &body).await,
        (Some(Subresource::Binding), Verb::Create) => binding::bind(&context, &body).await,
        (Some(Subresource::Eviction), Verb::Create) => eviction::evict(&context, &body).await,
        (Some(Subresource::Token), Verb::Create) => token::create(&context, &body).await,
        (Some(Subresource::EphemeralContainers | Subresource::Resize), Verb::Get) => get::get(&context),
        (Some(Subresource::EphemeralContainers | Subresource::Resize), Verb::Update) => {
            update::update(&context, &body).await
        }
        (Some(Subresource::EphemeralContainers | Subresource::Resize), Verb::Patch) => {
            patch::patch(&context, &body).await
        }
        (Some(Subresource::Log), Verb::Get) => node_proxy::log(&context, upgrade).await,
        (
            Some(sub @ (Subresource::Exec | Subresource::Attach | Subresource::PortForward)),
            Verb::Get | Verb::Create,
        ) => {
            context.admit_connection(sub).await?;
            node_proxy::stream(&context, sub, upgrade).await
        }
        (Some(Subresource::Proxy), Verb::Get) if context.resource.is("", "nodes") => {
            context.admit_connection(Subresource::Proxy).await?;
            node_proxy::node(&context).await
        }
        (Some(_), _) => Err(refused()),
    }
}

impl Context {
    /// The same request once more.
    fn again(&self) -> Context {
        Context { subresource: self.subresource, ..self.on(&self.resource) }
    }

    /// The same request seen as one on the whole object of `resource`.
    fn on(&self, resource: &Arc<Resource>) -> Context {
        Context {
            state: Arc::clone(&self.state),
            user: self.user.clone(),
            resource: Arc::clone(resource),
            subresource: None,
            request: self.request.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            negotiated: self.negotiated,
            omits_managed: self.omits_managed,
            warnings: self.warnings.clone(),
            annotations: self.annotations.clone(),
        }
    }
}
