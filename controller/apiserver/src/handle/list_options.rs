//! What a list or a watch may be asked, and which combinations are refused: meta.v1 ListOptions.
//! Kubernetes API concepts, "Resource versions" and "Streaming lists".

use controller_object::status::{About, Cause, Status};
use controller_store::model::Revision;
use serde_json::Value;

use crate::query::Query;

const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

/// How the revision of a list or the start of a watch was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Exact,
    NotOlderThan,
}

/// The checked options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListOptions {
    /// How many objects a page has; 0 means all.
    pub(super) limit: usize,
    pub(super) continue_token: Option<String>,
    /// `None` where nothing was asked; revision 0 means any.
    pub(super) revision: Option<Revision>,
    pub(super) matching: Option<Match>,
    /// Watches only: the present state as events first.
    pub(super) send_initial_events: Option<bool>,
    pub(super) bookmarks: bool,
    /// How long a watch lasts.
    pub(super) timeout_seconds: Option<u64>,
}

impl ListOptions {
    pub(super) fn list(query: &Query) -> Result<Self, Status> {
        let options = Self::parse(query)?;
        let mut causes = Vec::new();
        let mut forbidden = |field: &str, detail: &str| causes.push(Cause::forbidden(field, detail));
        if query.get("resourceVersionMatch").is_some() {
            if options.revision.is_none() {
                forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if options.continue_token.is_some() {
                forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
            if options.matching == Some(Match::Exact) && options.revision == Some(Revision(0)) {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                forbidden("resourceVersionMatch", detail);
            }
        }
        if options.send_initial_events.is_some() {
            forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        unsupported_match(query, &[EXACT, NOT_OLDER, ""], &mut causes);
        options.unless(causes)
    }

    pub(super) fn watch(query: &Query) -> Result<Self, Status> {
        let options = Self::parse(query)?;
        let mut causes = Vec::new();
        let given = query.get("resourceVersionMatch");
        let mut forbidden = |detail: &str| causes.push(Cause::forbidden("resourceVersionMatch", detail));
        if options.send_initial_events.is_some() && options.matching != Some(Match::NotOlderThan) {
            forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if given.is_some() && options.send_initial_events.is_none() {
            forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if given.is_some() && options.continue_token.is_some() {
            forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        unsupported_match(query, &[NOT_OLDER], &mut causes);
        options.unless(causes)
    }

    fn parse(query: &Query) -> Result<Self, Status> {
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
        let revision = query.get("resourceVersion").map(parse_revision).transpose()?;
        let matching = match query.get("resourceVersionMatch") {
            Some(EXACT) => Some(Match::Exact),
            Some(NOT_OLDER) => Some(Match::NotOlderThan),
            _ => None,
        };
        Ok(Self {
            limit,
            continue_token: query.get("continue").map(str::to_owned),
            revision,
            matching,
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: query
                .number("timeoutSeconds")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|s| *s > 0),
        })
    }

    fn unless(self, causes: Vec<Cause>) -> Result<Self, Status> {
        if causes.is_empty() {
            return Ok(self);
        }
        let about = About { group: "meta.k8s.io", kind: "ListOptions", name: "" };
        Err(Status::invalid_about(about, causes))
    }
}

fn unsupported_match(query: &Query, supported: &[&str], causes: &mut Vec<Cause>) {
    if let Some(given) = query.get("resourceVersionMatch")
        && !supported.contains(&given)
    {
        causes.push(Cause::unsupported("resourceVersionMatch", &Value::from(given), supported));
    }
}

/// A resourceVersion given by a client.
fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map(Revision).map_err(|_| {
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number given by this server"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<ListOptions, Status>) -> String {
        result.expect_err("refused").message
    }

    #[test]
    fn combinations_that_mean_nothing_are_refused() {
        let list = |query: &str| ListOptions::list(&Query::parse(Some(query)));
        let watch = |query: &str| ListOptions::watch(&Query::parse(Some(query)));
        for (query, want) in [
            ("resourceVersionMatch=Exact", "forbidden unless resourceVersion is provided"),
            ("resourceVersionMatch=Exact&resourceVersion=0", "is forbidden for resourceVersion \"0\""),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x", "when continue is provided"),
            ("resourceVersionMatch=Newest&resourceVersion=1", "Unsupported value: \"Newest\""),
            ("sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
        ] {
            let message = refusal(list(query));
            assert!(
                message.starts_with("ListOptions.meta.k8s.io \"\" is invalid: ") && message.contains(want),
                "{message}"
            );
        }
        for (query, want) in [
            ("sendInitialEvents=true", "requires setting resourceVersionMatch to NotOlderThan"),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1", "forbidden for watch unless sendInitialEvents"),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", "Unsupported value: \"Exact\""),
        ] {
            assert!(refusal(watch(query)).contains(want), "{query}");
        }
        let options = watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1").unwrap();
        assert_eq!((options.send_initial_events, options.bookmarks, options.revision), (Some(true), true, None));
        assert!(list("resourceVersion=x").is_err());
    }
}
