//! Step 2: a method and a path become a `RequestInfo`.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::query::Query;

/// What a request wants done, in the words that authorization uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// A request for a resource: `/api/v1/...` or `/apis/GROUP/VERSION/...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourceRequest {
    pub(crate) verb: Verb,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// What follows the subresource (`proxy/a/b`), with its leading slash.
    pub(crate) rest: String,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestInfo {
    Resource(ResourceRequest),
    /// Anything else: discovery, health, version; the path without a trailing slash.
    NonResource(String),
}

/// A segment of a path; `None` where a `%` begins no byte (RFC 3986, 2.1) or the bytes are no UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let is_byte = |rest: &str| rest.get(..2).is_some_and(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    segment.split('%').skip(1).all(is_byte).then(|| text.into_owned())
}

/// Parses a request line. `None` where the method fits nothing.
pub(crate) fn request_info(method: &Method, path: &str, query: &Query) -> Option<RequestInfo> {
    let trimmed = path.trim_end_matches('/');
    let non_resource = || Some(RequestInfo::NonResource(if trimmed.is_empty() { "/".into() } else { trimmed.into() }));
    let segments: Vec<String> = trimmed.split('/').skip(1).map(decoded).collect::<Option<_>>()?;
    // A decoded slash would make one name out of a namespace and a name.
    let is_plain = |segment: &String| !segment.contains('/') && segment != "." && segment != "..";
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    // What follows `NAME/proxy` is another server's path, and its own business.
    let own = match words.as_slice() {
        ["api", _, "nodes", _, "proxy", ..] => 4,
        ["api", _, "namespaces", _, _, _, "proxy", ..] => 6,
        words => words.len(),
    };
    if !segments.iter().take(own).all(is_plain) {
        return None;
    }
    let (group, version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return non_resource(),
    };
    // The old way to watch: `/api/v1/watch/pods` for `/api/v1/pods?watch=1`.
    let (watches, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        // `namespaces/x`, `namespaces/x/status` and `namespaces/x/finalize` are the namespace itself.
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            (None, vec!["namespaces", name, sub])
        }
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest.to_vec()),
        rest => (None, rest.to_vec()),
    };
    let (resource, name, subresource) = (rest.first()?, rest.get(1).copied(), rest.get(2).copied());
    let tail: String = rest.iter().skip(3).flat_map(|segment| ["/", segment]).collect();
    let watches = watches || query.flag("watch");
    let verb = match (method, name.is_some()) {
        (&Method::GET | &Method::HEAD, true) if watches && subresource.is_none() => Verb::Watch,
        (&Method::GET | &Method::HEAD, true) => Verb::Get,
        (&Method::GET | &Method::HEAD, false) if watches => Verb::Watch,
        (&Method::GET | &Method::HEAD, false) => Verb::List,
        (&Method::POST, _) => Verb::Create,
        (&Method::PUT, _) => Verb::Update,
        (&Method::PATCH, _) => Verb::Patch,
        (&Method::DELETE, true) => Verb::Delete,
        (&Method::DELETE, false) => Verb::DeleteCollection,
        // What is behind a proxy may be asked what it can do; that is a read.
        (&Method::OPTIONS, true) if subresource == Some("proxy") => Verb::Get,
        _ => return None,
    };
    Some(RequestInfo::Resource(ResourceRequest {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: (*resource).to_owned(),
        namespace,
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
        rest: tail,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: Method, path: &str, query: &str) -> ResourceRequest {
        match request_info(&method, path, &Query::parse(Some(query))) {
            Some(RequestInfo::Resource(request)) => request,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_resources() {
        let pods = resource(Method::GET, "/api/v1/namespaces/a/pods", "watch=true");
        assert_eq!((pods.verb, pods.namespace.as_deref(), pods.name), (Verb::Watch, Some("a"), None));
        let log = resource(Method::GET, "/api/v1/namespaces/a/pods/p/log", "follow=true");
        assert_eq!((log.verb, log.name.as_deref(), log.subresource.as_deref()), (Verb::Get, Some("p"), Some("log")));
        let namespace = resource(Method::PUT, "/api/v1/namespaces/a/finalize", "");
        assert_eq!((namespace.namespace, namespace.resource.as_str()), (None, "namespaces"));
        assert_eq!(namespace.subresource.as_deref(), Some("finalize"));
        let all = resource(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments/", "");
        assert_eq!((all.verb, all.group.as_str()), (Verb::DeleteCollection, "apps"));
        let old = resource(Method::GET, "/api/v1/watch/namespaces/a/pods", "");
        assert_eq!((old.verb, old.resource.as_str(), old.namespace.as_deref()), (Verb::Watch, "pods", Some("a")));
        assert_eq!(resource(Method::GET, "/api/v1/namespaces/a", "").name.as_deref(), Some("a"));
        assert_eq!(resource(Method::GET, "/api/v1/nodes/n/proxy/a/b", "").rest, "/a/b");
        let proxied = resource(Method::PUT, "/api/v1/namespaces/a/services/s:80/proxy/x%2Fy", "");
        assert_eq!((proxied.name.as_deref(), proxied.subresource.as_deref()), (Some("s:80"), Some("proxy")));
    }

    #[test]
    fn other_paths_are_non_resource() {
        for path in ["/", "/api", "/apis/apps/v1", "/healthz/ping", "/openapi/v3/apis/apps/v1"] {
            assert!(matches!(
                request_info(&Method::GET, path, &Query::default()),
                Some(RequestInfo::NonResource(p)) if p == path
            ));
        }
        for path in [
            "/api/v1/pods/%ff",
            "/api/v1/pods/%zz",
            "/api/v1/pods/a%1",
            "/api/v1/secrets/default%2Fsecret",
            "/api/v1/namespaces/a/secrets/..",
            "/api/v1/namespaces/proxy/secrets/proxy%2Fa",
            "/api/v1/namespaces/a/pods/proxy/..",
        ] {
            assert!(request_info(&Method::GET, path, &Query::default()).is_none(), "{path}");
        }
    }
}
