//! The API as a client library sees it, object by object as JSON, in a namespace of the test's own.

mod until;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
pub use until::eventually;

/// How long a test waits for what must happen: longer than it takes where much else is running.
pub const SOON: Duration = Duration::from_secs(60);

/// How often an object is written that others write too.
const TURNS: usize = 10;

/// A client with a namespace.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    /// The namespace that paths are made with.
    pub namespace: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP code.
    pub code: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as JSON; `Null` where it is none.
    pub body: Value,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The object of an answer that had to be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{}: {}", self.code, String::from_utf8_lossy(&self.bytes));
        self.body
    }

    /// The message of an answer that had to be this failure.
    #[track_caller]
    pub fn refused(self, code: u16) -> String {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The warnings that came along.
    pub fn warnings(&self) -> Vec<String> {
        let all = self.headers.get_all("warning").iter();
        all.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }
}

/// The media types of patches.
#[derive(Debug, Clone, Copy)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' own.
    Strategic,
    /// Server-side apply; `force` is in the query.
    Apply,
}

impl Patch {
    fn media_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Json => "application/json-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// A client of the cluster that a kubeconfig names.
async fn client(kubeconfig: &Path) -> kube::Client {
    // Without a provider of its own a process has none; a second test finds the first one's.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a kubeconfig that can be used");
    // A test sees each answer, also the one that says to come again.
    config.default_retry = false;
    kube::Client::try_from(config).expect("a client")
}

/// A condition of an object; `Null` if it has none of that type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

impl Api {
    /// A client of the cluster that a kubeconfig names, with a new namespace that takes pods.
    pub async fn fresh(kubeconfig: &Path, prefix: &str) -> Self {
        let mut api = Self { client: client(kubeconfig).await, namespace: String::new() };
        let body = json!({"metadata": {"generateName": format!("{prefix}-")}});
        let made = api.post("/api/v1/namespaces", body).await.ok();
        api.namespace = made["metadata"]["name"].as_str().expect("a name").to_owned();
        // No pod is admitted before its account is there.
        api.until(&api.path("v1", "serviceaccounts"), "default", "the default account", |_| true).await;
        api
    }

    /// The same namespace seen by a client of its own.
    pub async fn seen_by(&self, kubeconfig: &Path) -> Self {
        Self { client: client(kubeconfig).await, namespace: self.namespace.clone() }
    }

    /// The client itself.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The path of a collection in the namespace; `version` is `v1` or `apps/v1`.
    pub fn path(&self, version: &str, plural: &str) -> String {
        let root = if version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{version}/namespaces/{}/{plural}", self.namespace)
    }

    fn log_path(&self, pod: &str, container: &str) -> String {
        format!("{}/{pod}/log?container={container}", self.path("v1", "pods"))
    }

    /// The log of a container so far.
    pub async fn log(&self, pod: &str, container: &str) -> String {
        self.get(&self.log_path(pod, container)).await.text()
    }

    /// Any request.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a request");
        let response = self.client.send(request).await.expect("the server answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { code: parts.status.as_u16(), headers: parts.headers, body, bytes }
    }

    async fn json(&self, method: Method, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, &[("content-type", "application/json")], body).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.json(Method::GET, path, Value::Null).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.json(Method::POST, path, body).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.json(Method::PUT, path, body).await
    }

    /// PATCH.
    pub async fn patch(&self, path: &str, kind: Patch, body: Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", kind.media_type())], body.to_string().into_bytes()).await
    }

    /// Changes an object as it is now. Whoever comes second to write it looks again, as clients do.
    pub async fn edit(&self, path: &str, change: impl Fn(&mut Value)) -> Value {
        for _ in 1..TURNS {
            let answer = self.edit_once(path, &change).await;
            if answer.code != 409 {
                return answer.ok();
            }
        }
        self.edit_once(path, &change).await.ok()
    }

    async fn edit_once(&self, path: &str, change: impl Fn(&mut Value)) -> Answer {
        let mut object = self.get(path).await.ok();
        change(&mut object);
        self.put(path, object).await
    }

    /// DELETE, with DeleteOptions or `Null`.
    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        self.json(Method::DELETE, path, options).await
    }

    /// The events of a watch; `path` has its query, without `watch`.
    pub async fn watch(&self, path: &str) -> Events {
        let joint = if path.contains('?') { '&' } else { '?' };
        let request = Request::get(format!("{path}{joint}watch=true")).body(Body::empty()).expect("a request");
        let response = self.client.send(request).await.expect("the server answers");
        let (parts, body) = response.into_parts();
        assert_eq!(parts.status.as_u16(), 200, "a watch of {path}");
        let stream = body.into_data_stream().map(|piece| piece.map(|bytes| bytes.to_vec()).unwrap_or_default());
        Events { stream: stream.boxed(), rest: Vec::new(), ready: VecDeque::new() }
    }
}

/// A running watch.
pub struct Events {
    stream: futures::stream::BoxStream<'static, Vec<u8>>,
    rest: Vec<u8>,
    ready: VecDeque<(String, Value)>,
}

impl Events {
    /// The next event's type and object.
    pub async fn next(&mut self, what: &str) -> (String, Value) {
        self.within(SOON).await.unwrap_or_else(|| panic!("no event within {SOON:?}: {what}"))
    }

    /// The next event's type and name, and nothing else.
    pub async fn told(&mut self) -> (String, String) {
        let (kind, object) = self.next("an event").await;
        (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    /// The next event if one comes in time.
    pub async fn within(&mut self, time: Duration) -> Option<(String, Value)> {
        while self.ready.is_empty() {
            let piece = tokio::time::timeout(time, self.stream.next()).await.ok()??;
            self.rest.extend(piece);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("a line of JSON");
                self.ready.push_back((event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone()));
            }
        }
        self.ready.pop_front()
    }
}
