//! GET of a collection: a consistent page, streamed.
//! Kubernetes API concepts, "Retrieving large results sets in chunks" and "Resource versions".

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use controller_object::status::Status;
use controller_store::model::{KeyValue, Page, RangeRequest, Revision, RevisionError};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::filter::Filter;
use super::{Context, partial_metadata};
use crate::registry;
use crate::reply::{self, Encoding, Shape};

/// How much of a list is put together before it goes out.
const CHUNK: usize = 64 << 10;

/// Where a page ended.
#[derive(Serialize, Deserialize)]
struct Continue {
    rv: u64,
    after: String,
}

pub(super) fn list(context: &Context) -> Result<Response<Body>, Status> {
    let filter = Filter::of(context)?;
    let selection = select(context, &filter)?;
    let resource = &context.resource;
    let mut metadata = json!({"resourceVersion": selection.revision.to_string()});
    if let Some((token, remaining)) = selection.rest {
        metadata["continue"] = token.into();
        // Kubernetes leaves the count out where a selector makes it unknowable.
        if filter.takes_all() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    match (context.negotiated.shape, context.negotiated.encoding) {
        (Shape::Object, Encoding::Json) => {
            let head = format!(
                "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
                json!(resource.list_kind),
                json!(resource.api_version()),
            );
            let items = selection.items;
            let resource = std::sync::Arc::clone(resource);
            let body = Body::from_stream(futures::stream::iter(Chunks::new(head, items, resource)));
            Ok(reply::with_type(StatusCode::OK, "application/json", body))
        }
        (shape, encoding) => {
            let objects = selection
                .items
                .iter()
                .map(|kv| registry::to_value(resource, kv, kv.mod_revision))
                .collect::<Result<Vec<_>, _>>()?;
            let mut list = match shape {
                Shape::Object => {
                    json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "items": objects})
                }
                Shape::Metadata => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "items": objects.iter().map(partial_metadata).collect::<Vec<_>>()}),
                Shape::Table => {
                    let rows: Vec<&Value> = objects.iter().collect();
                    controller_object::columns::table(resource, &rows, crate::time::epoch(), context.include())
                }
            };
            list["metadata"] = metadata;
            Ok(reply::object(StatusCode::OK, &list, encoding))
        }
    }
}

/// The objects of a page.
pub(super) struct Selection {
    pub(super) items: Vec<KeyValue>,
    pub(super) revision: Revision,
    /// The continue token and how many keys follow.
    rest: Option<(String, usize)>,
}

/// Reads a page of what the request selects, honouring `limit`, `continue` and `resourceVersion`.
pub(super) fn select(context: &Context, filter: &Filter) -> Result<Selection, Status> {
    let query = &context.query;
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
    let registry = &context.state.registry;
    let mut request =
        RangeRequest { prefix: registry.prefix(&context.resource, context.namespace()), ..RangeRequest::default() };
    if let Some(token) = query.get("continue") {
        let token = parse_continue(token).ok_or_else(|| Status::bad_request("continue key is not valid"))?;
        if query.get("resourceVersion").is_some_and(|version| version != "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        request.after = Some(Bytes::from(format!("{}{}", String::from_utf8_lossy(&request.prefix), token.after)));
        request.at = Some(Revision(token.rv));
    } else if let Some(version) = query.get("resourceVersion") {
        let revision = parse_revision(version)?;
        let exact = match query.get("resourceVersionMatch") {
            Some("Exact") if version == "0" => {
                return Err(Status::bad_request(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            Some("Exact") => true,
            Some("NotOlderThan") => false,
            None => limit > 0 && revision.0 > 0,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        };
        if exact {
            request.at = Some(revision);
        } else if revision > registry.store.revision() {
            return Err(Status::resource_version_too_large(revision.0, registry.store.revision().0));
        }
    }
    if filter.takes_all() {
        request.limit = limit;
        let page = registry.store.range(&request).map_err(revision_status)?;
        return Ok(selection(&request, page));
    }
    // With a selector, read on until the page is full.
    let mut page = registry.store.range(&request).map_err(revision_status)?;
    let mut kept = Vec::new();
    let mut seen = 0;
    for kv in &page.items {
        seen += 1;
        let object = registry::to_value(&context.resource, kv, kv.mod_revision)?;
        if filter.matches(&context.resource, &object) {
            kept.push(kv.clone());
            if kept.len() == limit {
                break;
            }
        }
    }
    page.remaining = page.items.len() - seen;
    page.items = kept;
    Ok(selection(&request, page))
}

fn selection(request: &RangeRequest, page: Page) -> Selection {
    let rest = page.items.last().filter(|_| page.remaining > 0).map(|last| {
        let after = String::from_utf8_lossy(&last.key[request.prefix.len()..]).into_owned();
        let token = Continue { rv: page.revision.0, after };
        (URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default()), page.remaining)
    });
    Selection { items: page.items, revision: page.revision, rest }
}

fn parse_continue(token: &str) -> Option<Continue> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// A resourceVersion given by a client.
pub(super) fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map(Revision).map_err(|_| {
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number given by this server"))
    })
}

/// What a client is told about a revision that cannot be read.
pub(super) fn revision_status(error: RevisionError) -> Status {
    match error {
        RevisionError::Compacted { requested, oldest } => {
            Status::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        RevisionError::Future { requested, newest } => Status::resource_version_too_large(requested.0, newest.0),
    }
}

/// A list in pieces of `CHUNK` bytes.
struct Chunks {
    head: Option<String>,
    items: std::vec::IntoIter<KeyValue>,
    resource: std::sync::Arc<controller_object::resource::Resource>,
    first: bool,
    done: bool,
}

impl Chunks {
    fn new(
        head: String,
        items: Vec<KeyValue>,
        resource: std::sync::Arc<controller_object::resource::Resource>,
    ) -> Self {
        Self { head: Some(head), items: items.into_iter(), resource, first: true, done: false }
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, std::io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK);
        if let Some(head) = self.head.take() {
            out.put_slice(head.as_bytes());
        }
        while out.len() < CHUNK {
            let Some(kv) = self.items.next() else {
                self.done = true;
                out.put_slice(b"]}");
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.put_u8(b',');
            }
            if let Err(status) = registry::write_json(&self.resource, &kv, kv.mod_revision, &mut out) {
                self.done = true;
                return Some(Err(std::io::Error::other(status.message)));
            }
        }
        Some(Ok(out.freeze()))
    }
}
