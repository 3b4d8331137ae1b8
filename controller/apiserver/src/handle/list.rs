//! GET of a collection: a consistent page, streamed.
//! Kubernetes API concepts, "Retrieving large results sets in chunks" and "Resource versions".

use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use controller_object::status::Status;
use controller_store::model::{KeyValue, Page, RangeRequest, Revision, RevisionError};
use http::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Context;
use super::filter::Filter;
use super::list_body::List;
use super::list_options::{ListOptions, Match};
use crate::custom::convert;
use crate::registry;
use crate::reply;

/// What a client is told whose continue token is older than the history, in Kubernetes' words.
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a \
    new list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
    the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Where a page ended.
#[derive(Serialize, Deserialize)]
struct Continue {
    /// The form of the token.
    v: String,
    /// The revision of the whole list; negative for the newest, whatever it is.
    rv: i64,
    /// The last key of the page, below the prefix.
    start: String,
}

const TOKEN_FORM: &str = "meta.k8s.io/v1";

pub(super) fn list(context: &Context) -> Result<Response<Body>, Status> {
    let filter = Filter::of(context)?;
    let selection = select(context, &filter)?;
    let mut metadata = json!({"resourceVersion": selection.revision.to_string()});
    if let Some((token, remaining)) = selection.rest {
        metadata["continue"] = token.into();
        // Kubernetes leaves the count out where a selector makes it unknowable.
        if filter.takes_all() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let list = List {
        resource: Arc::clone(&context.resource),
        items: selection.items,
        metadata,
        negotiated: context.negotiated,
        omits_managed: context.omits_managed,
        include: context.include(),
        gzip: reply::accepts_gzip(&context.headers),
    };
    list.reply()
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
    let options = ListOptions::list(&context.query)?;
    let registry = &context.state.registry;
    let mut request =
        RangeRequest { prefix: registry.prefix(&context.resource, context.namespace()), ..RangeRequest::default() };
    let mut page = match (&options.continue_token, options.revision) {
        (Some(token), revision) => {
            let token = parse_continue(token).ok_or_else(|| Status::bad_request("continue key is not valid"))?;
            if revision.is_some_and(|revision| revision.0 > 0) {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            request.after = Some(Bytes::from(format!("{}{}", String::from_utf8_lossy(&request.prefix), token.start)));
            request.at = u64::try_from(token.rv).ok().map(Revision);
            request.limit = if filter.takes_all() { options.limit } else { 0 };
            registry.store.range(&request).map_err(|error| match error {
                RevisionError::Compacted { .. } => expired(&token),
                RevisionError::Future { .. } => Status::bad_request("continue key is not valid"),
            })?
        }
        (None, revision) => {
            let revision = revision.unwrap_or(Revision(0));
            let exact = match options.matching {
                Some(Match::Exact) => true,
                Some(Match::NotOlderThan) => false,
                // Older clients page through a revision without saying more.
                None => options.limit > 0 && revision.0 > 0,
            };
            if exact {
                request.at = Some(revision);
            } else if revision > registry.store.revision() {
                return Err(Status::resource_version_too_large(revision.0, registry.store.revision().0));
            }
            request.limit = if filter.takes_all() { options.limit } else { 0 };
            registry.store.range(&request).map_err(revision_status)?
        }
    };
    convert::ready(&context.resource, page.items.iter())?;
    if !filter.takes_all() {
        // With a selector, read on until the page is full.
        let mut kept = Vec::new();
        let mut seen = 0;
        for kv in &page.items {
            seen += 1;
            let object = registry::to_value(&context.resource, kv, kv.mod_revision)?;
            if filter.matches(&context.resource, &object) {
                kept.push(kv.clone());
                if kept.len() == options.limit {
                    break;
                }
            }
        }
        page.remaining = page.items.len() - seen;
        page.items = kept;
    }
    Ok(selection(&request, page))
}

fn selection(request: &RangeRequest, page: Page) -> Selection {
    let rest = page.items.last().filter(|_| page.remaining > 0).map(|last| {
        let start = String::from_utf8_lossy(&last.key[request.prefix.len()..]).into_owned();
        let rv = i64::try_from(page.revision.0).unwrap_or(i64::MAX);
        (token(rv, start), page.remaining)
    });
    Selection { items: page.items, revision: page.revision, rest }
}

fn token(rv: i64, start: String) -> String {
    let token = Continue { v: TOKEN_FORM.into(), rv, start };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn parse_continue(token: &str) -> Option<Continue> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok().filter(|token: &Continue| token.v == TOKEN_FORM)
}

/// The list cannot be finished as it was; the token of the answer goes on in the present.
fn expired(old: &Continue) -> Status {
    let mut status = Status::expired(TOO_OLD);
    status.continue_token = Some(token(-1, old.start.clone()));
    status
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
