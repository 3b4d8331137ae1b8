//! An API server in this process, and requests to it: what the tests of this folder share.
#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use controller_apiserver::authn::{MASTERS, User};
use controller_apiserver::server::{ApiServer, Config};
use controller_apiserver::service::Ranges;
use controller_store::driver::Memory;
use controller_store::store::{self, Store};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

/// A server with nothing but its default objects.
pub(crate) struct Server {
    pub(crate) api: ApiServer,
    pub(crate) store: Arc<Store>,
    _dir: tempfile::TempDir,
}

/// What a request came to.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

pub(crate) async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(Memory, store::Config::default()).unwrap());
    let config = Config {
        dir: dir.path().into(),
        names: vec!["localhost".into()],
        event_ttl: Duration::from_secs(60),
        services: Ranges { cidr: "10.43.0.0/16".parse().unwrap(), dns: "10.43.0.10".parse().unwrap() },
        metrics: Default::default(),
        audit: None,
    };
    Server { api: config.build(Arc::clone(&store)).await.unwrap(), store, _dir: dir }
}

/// Who may do everything.
pub(crate) fn admin() -> User {
    User::new("admin", &[MASTERS])
}

impl Server {
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
}
