//! An API server in this process, and requests to it: what the tests of this folder share.
#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use controller_apiserver::audit;
use controller_apiserver::authn::{MASTERS, User};
use controller_apiserver::server::{ApiServer, Config};
use controller_apiserver::service::Ranges;
use controller_store::driver::Memory;
use controller_store::model::Op;
use controller_store::store::{self, Store};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// A server with nothing but its default objects.
pub(crate) struct Server {
    pub(crate) api: ApiServer,
    pub(crate) store: Arc<Store>,
    dir: tempfile::TempDir,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// The message of a failure.
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// The object, if all went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{} {}", self.code, self.body);
        self.body
    }

    /// The message, if the request was refused with this code.
    #[track_caller]
    pub(crate) fn refused(&self, code: u16) -> &str {
        assert_eq!(self.code, code, "{}", self.body);
        self.message()
    }
}

pub(crate) async fn server() -> Server {
    opened(None).await
}

async fn opened(policy: Option<&str>) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let audit = policy.map(|policy| {
        std::fs::write(dir.path().join("policy.yaml"), policy).unwrap();
        audit::Config {
            policy: dir.path().join("policy.yaml"),
            log: dir.path().join("audit.log"),
            rotation: audit::Rotation { bytes: 1 << 20, kept: 1 },
        }
    });
    let store = Arc::new(Store::open(Memory, store::Config::default()).unwrap());
    let config = Config {
        dir: dir.path().into(),
        names: vec!["localhost".into()],
        event_ttl: Duration::from_secs(60),
        services: Ranges { cidr: "10.43.0.0/16".parse().unwrap(), dns: "10.43.0.10".parse().unwrap() },
        metrics: Default::default(),
        audit,
        local_storage: false,
    };
    Server { api: config.build(Arc::clone(&store)).await.unwrap(), store, dir }
}

/// Who may do everything.
pub(crate) fn admin() -> User {
    User::new("admin", &[MASTERS])
}

impl Server {
    /// A server with a namespace `default` whose pods find their account.
    pub(crate) async fn start() -> Self {
        Self::with_audit_policy(None).await
    }

    /// One that writes requests down by a policy.
    pub(crate) async fn with_audit_policy(policy: Option<&str>) -> Self {
        let server = opened(policy).await;
        server.with_account("default").await;
        server
    }

    pub(crate) async fn send(&self, user: User, request: Request<Body>) -> http::Response<Body> {
        self.api.client(user).oneshot(request).await.unwrap()
    }

    pub(crate) async fn raw(
        &self,
        user: User,
        method: Method,
        path: &str,
        media: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request =
            Request::builder().method(method).uri(path).header("content-type", media).body(body.into()).unwrap();
        let response = self.send(user, request).await;
        let warnings = response.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { code, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), warnings }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        let media = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.raw(admin(), method, path, media, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, Value::Null).await
    }

    /// Puts an object straight into the store, past every check.
    pub(crate) async fn plant(&self, key: &str, object: Value) {
        let op = Op::Put { key: Bytes::from(key.to_owned()), value: object.to_string().into(), ttl: None };
        self.store.commit(&[], vec![op]).await.unwrap();
    }

    /// Gives a namespace the account that its pods go by.
    async fn with_account(&self, namespace: &str) {
        let account = json!({"metadata": {"name": "default"}});
        self.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), account).await.ok();
    }

    /// Another namespace whose pods find their account.
    pub(crate) async fn namespace(&self, name: &str, labels: Value) {
        self.create("/api/v1/namespaces", json!({"metadata": {"name": name, "labels": labels}})).await.ok();
        self.with_account(name).await;
    }

    /// The event of the audit log that fits. A thread of its own writes them.
    pub(crate) async fn audited(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let started = std::time::Instant::now();
        loop {
            let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap_or_default();
            let mut events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(event) = events.find(&fits) {
                return event;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "no such event: {log}");
            tokio::task::yield_now().await;
        }
    }
}
