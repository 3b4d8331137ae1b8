//! Step 3: what happens to every request, read from top to bottom.
//! authn -> authz -> body -> (handlers: decode -> default -> admit -> validate -> store).

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::well_known::LABEL_VOLUME_NODE;
use axum::body::Body;
use bytes::Bytes;
use controller_object::protobuf;
use controller_object::resource::{Subresource, join_version};
use controller_object::status::{About, Status};
use http::header::UPGRADE;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::admit::{Annotations, Warnings};
use crate::audit::{self, Asked, Record};
use crate::authn::{self, FrontProxy, Transport, User};
use crate::authz::{self, Action, ResourceAction};
use crate::forward::Incoming;
use crate::handle::{self, Context};
use crate::query::Query;
use crate::route::{RequestInfo, ResourceRequest, Verb, request_info};
use crate::server::State;
use crate::{backup, deadline, impersonation, nonresource, profile, reply};

/// The largest body that is read; what Kubernetes takes.
const BODY_LIMIT: usize = 3 << 20;

/// A client that sends more slowly holds a connection for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Marks a request whose client does without `managedFields` in lists and watches: those of this process.
#[derive(Clone, Copy)]
pub(crate) struct OmitsManaged;

/// Answers one request; failures become `Status` answers.
pub(crate) async fn answer(state: Arc<State>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let method = request.method().clone();
    let query = Query::parse(request.uri().query());
    let info = request_info(&method, request.uri().path(), &query);
    let (verb, group, resource) = match &info {
        // Unknown names never become label values: a client could make endless many.
        Some(RequestInfo::Resource(request))
            if state.registry.table().find(&request.group, &request.version, &request.resource).is_some() =>
        {
            (request.verb.as_str(), request.group.clone(), request.resource.clone())
        }
        _ => (known_method(&method), String::new(), String::new()),
    };
    let _inflight = state.metrics.begun(verb);
    let id = audit::id(&request);
    let mut response = match info {
        None => reply::failure(&Status::bad_request("the path or the method is malformed")),
        Some(info) => run(&state, &id, request, info, query).await,
    };
    audit::tell(&id, &mut response);
    state.metrics.observe(verb, &group, &resource, response.status().as_u16(), started.elapsed());
    response
}

fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

async fn run(state: &Arc<State>, id: &str, request: Request<Body>, info: RequestInfo, query: Query) -> Response<Body> {
    let transport = match (request.extensions().get::<User>(), request.extensions().get::<FrontProxy>()) {
        (Some(user), _) => Transport::User(user),
        (None, Some(FrontProxy)) => Transport::FrontProxy,
        (None, None) => Transport::Nobody,
    };
    let own = authn::authenticate(transport, request.headers(), &state.tokens, &state.registry);
    state.metrics.authenticated(own.is_ok());
    let user = own.clone().and_then(|own| impersonation::user(state, own, request.headers()));
    let mut record = state.audit.as_ref().and_then(|audit| {
        let (own, user) = (own.as_ref().ok(), user.as_ref().ok());
        let impersonated = user.filter(|user| own != Some(*user));
        audit.begin(&Asked { id, user: own, impersonated, info: &info, request: &request })
    });
    if let (Some(audit), Some(record)) = (&state.audit, &record) {
        audit.received(record).await;
    }
    let answer = match user {
        Ok(user) => with_seat(state, user, request, info, query, record.as_mut()).await,
        Err(status) => Err(status),
    };
    let response = answer.unwrap_or_else(|status| reply::failure(&status));
    match (&state.audit, record) {
        (Some(audit), Some(record)) => audit.end(record, response).await,
        _ => response,
    }
}

/// Waits for its turn, then checks whether the user may, then acts.
async fn with_seat(
    state: &Arc<State>,
    user: User,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
    mut record: Option<&mut Record>,
) -> Result<Response<Body>, Status> {
    let verb = request.method().as_str().to_lowercase();
    let action = match &info {
        RequestInfo::NonResource(path) => Action::NonResource { verb: &verb, path },
        RequestInfo::Resource(asked) => Action::Resource(action(asked, &query, &request)),
    };
    // A seat is held until the answer begins: watches and streams go on without one. What others answer through
    // `/proxy` may take as long as they like, so it has none, as in Kubernetes.
    let is_passed_on = matches!(&info, RequestInfo::Resource(asked) if asked.subresource.as_deref() == Some("proxy"));
    let seat = match is_passed_on {
        true => None,
        false => Some(state.flow.seat(&user, &action).await?),
    };
    let allowed = authorize(state, &user, &action);
    if let Some(record) = record.as_deref_mut() {
        record.decided(allowed.is_ok());
    }
    let answer = match allowed {
        Ok(()) => act(state, user, request, info, query, record).await,
        Err(status) => Err(status),
    };
    let mut response = answer.unwrap_or_else(|status| reply::failure(&status));
    if let Some(seat) = seat {
        seat.tell(&mut response);
    }
    Ok(response)
}

/// Does what an authorized request asks for.
async fn act(
    state: &Arc<State>,
    user: User,
    mut request: Request<Body>,
    info: RequestInfo,
    query: Query,
    mut record: Option<&mut Record>,
) -> Result<Response<Body>, Status> {
    match info {
        RequestInfo::NonResource(path) => {
            if let Some(extension) = state.aggregation.serving_path(&path) {
                return state.aggregation.answer(&extension, &user, incoming(request)).await;
            }
            if path == backup::serve::PATH {
                let (parts, body) = request.into_parts();
                return backup::serve::answer(state, &parts.method, body).await;
            }
            if path == profile::PATH {
                return profile::answer(state, request.method(), &query);
            }
            nonresource::answer(state, &path, &query, request.headers()).await.ok_or_else(Status::path_not_found)
        }
        RequestInfo::Resource(resource_request) => {
            if let Some(extension) = state.aggregation.serving(&resource_request.group, &resource_request.version) {
                return state.aggregation.answer(&extension, &user, incoming(request)).await;
            }
            if resource_request.subresource.as_deref() == Some("proxy") && resource_request.resource != "nodes" {
                let path = request.uri().path().to_owned();
                let context = context(state, user, resource_request, query, request.headers().clone(), false)?;
                context.admit_connection(Subresource::Proxy).await?;
                return handle::proxy::answer(context, &path, incoming(request)).await;
            }
            let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
            let omits_managed = request.extensions().get::<OmitsManaged>().is_some();
            let (parts, body) = request.into_parts();
            let context = context(state, user, resource_request, query, parts.headers, omits_managed)?;
            let (limit, body) = (deadline::of(&context)?, read(body).await?);
            if let Some(record) = record.as_deref_mut() {
                record.body(&parts.method, &body);
            }
            let (warnings, annotations) = (context.warnings.clone(), context.annotations.clone());
            let answer = deadline::within(limit, handle::dispatch(context, upgrade, body)).await;
            if let Some(record) = record {
                record.annotate(annotations.take());
            }
            // Who is refused is warned as well.
            let mut response = answer.unwrap_or_else(|status| reply::failure(&status));
            reply::add_warnings(&mut response, &warnings.take());
            Ok(response)
        }
    }
}

/// A request to be passed on.
fn incoming(mut request: Request<Body>) -> Incoming {
    let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let path_and_query = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    Incoming { method: parts.method, path_and_query, headers: parts.headers, upgrade, body }
}

/// What a request asks to be allowed.
fn action<'a>(request: &'a ResourceRequest, query: &'a Query, http: &Request<Body>) -> ResourceAction<'a> {
    let streams = matches!(request.subresource.as_deref(), Some("exec" | "attach" | "portforward"));
    let verb = match request.verb {
        // A stream into a container is no reading, though WebSockets begin with GET.
        Verb::Get if streams && http.headers().contains_key(UPGRADE) => Verb::Create,
        verb => verb,
    };
    let part_of = |selector: &str, field: &str| {
        let selector = query.get(selector)?;
        selector.split(',').find_map(|part| part.strip_prefix(field)?.trim_start_matches('=').into())
    };
    let selected = |field: &str| part_of("fieldSelector", field);
    // A list restricted to one name is judged as a read of that name.
    let listed = matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    let name = request.name.as_deref().or_else(|| selected("metadata.name=").filter(|_| listed));
    let selected_node = match request.resource.as_str() {
        "pods" => selected("spec.nodeName="),
        "podcertificaterequests" | "resourceslices" => selected("spec.nodeName="),
        "nodes" => selected("metadata.name="),
        "persistentvolumes" => part_of("labelSelector", &format!("{LABEL_VOLUME_NODE}=")),
        _ => None,
    };
    let is_namespace = request.group.is_empty() && request.resource == "namespaces";
    ResourceAction {
        verb: verb.as_str(),
        group: &request.group,
        resource: &request.resource,
        subresource: request.subresource.as_deref(),
        namespace: if is_namespace { request.name.as_deref() } else { request.namespace.as_deref() },
        name,
        selected_node,
    }
}

pub(crate) fn authorize(state: &State, user: &User, action: &Action<'_>) -> Result<(), Status> {
    if state.authorizer.is_allowed(user, action) {
        return Ok(());
    }
    let refusal = authz::refusal(user, action);
    Err(match action {
        Action::NonResource { path, .. } => Status::forbidden(About { group: "", kind: "", name: path }, &refusal),
        Action::Resource(action) => {
            let name = action.name.unwrap_or_default();
            Status::forbidden(About { group: action.group, kind: action.resource, name }, &refusal)
        }
    })
}

fn context(
    state: &Arc<State>,
    user: User,
    request: ResourceRequest,
    query: Query,
    headers: http::HeaderMap,
    omits_managed: bool,
) -> Result<Context, Status> {
    let table = state.registry.table();
    let resource =
        table.find(&request.group, &request.version, &request.resource).ok_or_else(Status::path_not_found)?;
    let subresource = match request.subresource.as_deref() {
        None => None,
        Some(name) => {
            Some(Subresource::parse(name).filter(|sub| resource.has(*sub)).ok_or_else(Status::path_not_found)?)
        }
    };
    let named_nowhere = request.namespace.is_none() && request.name.is_some() && resource.is_namespaced();
    if named_nowhere || request.namespace.is_some() && !resource.is_namespaced() {
        return Err(Status::path_not_found());
    }
    let (version, kind) = (resource.api_version(), resource.kind.as_str());
    let has_protobuf = match subresource.and_then(Subresource::kind) {
        Some((group, version, kind)) => protobuf::has_form(&join_version(group, version), kind),
        None => protobuf::has_form(&version, kind),
    };
    let negotiated = reply::negotiate(&headers, has_protobuf).or_else(|status| match subresource {
        // Logs and streams are not objects; what the client accepts does not matter.
        Some(
            Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy,
        ) => Ok(reply::Negotiated { shape: reply::Shape::Object, encoding: reply::Encoding::Json }),
        _ => Err(status),
    })?;
    let resource = Arc::clone(resource);
    let (warnings, annotations) = (Warnings::default(), Annotations::default());
    Ok(Context {
        state: Arc::clone(state),
        user,
        resource,
        subresource,
        request,
        query,
        headers,
        negotiated,
        omits_managed,
        warnings,
        annotations,
    })
}

async fn read(body: Body) -> Result<Bytes, Status> {
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await;
    match body.map_err(|_| Status::timeout("the body did not arrive in time"))? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Status::request_entity_too_large(&format!("Request entity too large: limit is {BODY_LIMIT}")))
        }
        Err(_) => Err(Status::bad_request("the body could not be read")),
    }
}
