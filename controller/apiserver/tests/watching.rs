//! What is measured and told of the server: the text that scrapers read, and events that go with time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use controller_apiserver::authn::{MASTERS, User};
use controller_apiserver::server::{ApiServer, Config};
use controller_apiserver::service::Ranges;
use controller_store::driver::{Driver, DriverError, Live, Loaded, Memory, Write};
use controller_store::model::Revision;
use controller_store::store::{self, Store};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::Mutex;
use tower::ServiceExt as _;

async fn server(event_ttl: Duration) -> (ApiServer, Arc<Store>) {
    server_over(Memory, event_ttl).await
}

async fn server_over(driver: impl Driver, event_ttl: Duration) -> (ApiServer, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let of_store = store::Config::default();
    let mut metrics = Default::default();
    of_store.metrics.register(&mut metrics);
    let store = Arc::new(Store::open(driver, of_store).unwrap());
    let services = Ranges { cidr: "10.43.0.0/16".parse().unwrap(), dns: "10.43.0.10".parse().unwrap() };
    let config = Config {
        dir: dir.path().into(),
        names: vec!["localhost".into()],
        event_ttl,
        services,
        metrics,
        audit: None,
        local_storage: false,
    };
    (config.build(Arc::clone(&store)).await.unwrap(), store)
}

async fn get(api: &ApiServer, path: &str, accept: &str) -> (u16, String, String) {
    let request = Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap();
    let response = api.client(User::new("admin", &[MASTERS])).oneshot(request).await.unwrap();
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, media, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Reads an exposition as strictly as `promtool check metrics`; answers the families and the lines of samples.
fn check(text: &str) -> (HashSet<String>, Vec<String>) {
    let (mut families, mut samples, mut series) = (HashSet::new(), Vec::new(), HashSet::new());
    let mut family: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(!name.contains("_total_total"), "{name}");
            family = Some((name.to_owned(), kind.to_owned()));
        } else if !line.starts_with("# HELP ") {
            assert!(!line.starts_with('#'), "{line}");
            let (own, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            assert!(series.insert(own.to_owned()), "{own} comes twice");
            let name = own.split('{').next().unwrap();
            let (family, kind) = family.as_ref().unwrap();
            let fits = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}")),
                _ => name == family,
            };
            assert!(fits, "{line} below {family}, a {kind}");
            samples.push(line.to_owned());
        }
    }
    (families, samples)
}

#[tokio::test]
async fn metrics_are_read_by_every_scraper() {
    let (api, _store) = server(Duration::from_secs(60)).await;
    for path in ["/api/v1/pods", "/api/v1/nonsense", "/api/v1/namespaces/x/pods/secret-name"] {
        get(&api, path, "*/*").await;
    }
    let (code, media, text) = get(&api, "/metrics", "*/*").await;
    assert_eq!((code, media.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let (families, samples) = check(&text);
    for family in [
        "apiserver_request_total",
        "apiserver_request_duration_seconds",
        "apiserver_current_inflight_requests",
        "apiserver_storage_objects",
        "authentication_attempts_total",
        "gantry_certificate_expiration_timestamp_seconds",
        "gantry_store_persist_duration_seconds",
        "gantry_store_persist_failures_total",
    ] {
        assert!(families.contains(family), "{family}");
    }
    assert!(samples.iter().any(|line| line == "apiserver_storage_objects{resource=\"namespaces\"} 4"), "{text}");
    // The request itself is being answered.
    assert!(samples.iter().any(|line| line == "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1"));
    assert!(!text.contains("nonsense") && !text.contains("secret-name"), "labels are not made up by clients");
    let (_, media, open) = get(&api, "/metrics", "application/openmetrics-text;version=1.0.0").await;
    assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n"));
}

#[tokio::test]
async fn health_names_what_was_checked() {
    let (api, _store) = server(Duration::from_secs(60)).await;
    assert_eq!(get(&api, "/readyz", "*/*").await.2, "ok");
    assert_eq!(get(&api, "/readyz?verbose", "*/*").await.2, "[+]ping ok\n[+]store ok\nreadyz check passed\n");
    assert_eq!(get(&api, "/livez?verbose&exclude=store", "*/*").await.2, "[+]ping ok\nlivez check passed\n");
    assert_eq!(get(&api, "/readyz/etcd", "*/*").await.0, 200);
    assert_eq!(get(&api, "/readyz/nothing", "*/*").await.0, 404);
}

#[tokio::test]
async fn events_go_with_time() {
    let (api, store) = server(Duration::from_millis(300)).await;
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "R", "message": "m", "count": 1,
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "type": "Normal"});
    let before = store.revision();
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/namespaces/default/events")
        .header("content-type", "application/json")
        .body(Body::from(event.to_string()))
        .unwrap();
    let created = api.client(User::new("admin", &[MASTERS])).oneshot(request).await.unwrap();
    assert_eq!(created.status(), 201);
    let mut watcher = store.watch("/registry/core/events/".into(), before).unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        let batch = tokio::time::timeout(Duration::from_secs(10), watcher.next_batch()).await;
        told.extend(batch.expect("it goes").unwrap().iter().map(|event| event.current.is_some()));
    }
    assert_eq!(told, [true, false]);
    assert_eq!(get(&api, "/api/v1/namespaces/default/events/e", "*/*").await.0, 404);
}

/// A disk that hangs while its gate is held.
struct Gated(Arc<Mutex<()>>);

impl Driver for Gated {
    fn load(&mut self) -> Result<Loaded, DriverError> {
        Memory.load()
    }

    fn attach(&mut self, _: Arc<dyn Live>) {}

    fn persist(&mut self, _: Vec<Write>, _: Revision) -> Result<(), DriverError> {
        drop(self.0.blocking_lock());
        Ok(())
    }

    fn recover(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
}

#[tokio::test]
async fn nobody_waits_for_ever_for_a_disk_that_hangs() {
    let gate = Arc::new(Mutex::new(()));
    let (api, store) = server_over(Gated(Arc::clone(&gate)), Duration::from_secs(60)).await;
    let change = async |method: Method, path: &str, body: serde_json::Value| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let answer = api.client(User::new("admin", &[MASTERS])).oneshot(request);
        let response = tokio::time::timeout(Duration::from_secs(40), answer).await.expect("an answer").unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice::<serde_json::Value>(&bytes).unwrap())
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"a": "b"}});
    let kept = change(Method::POST, maps, map("kept")).await;
    assert_eq!(kept.0, 201);
    let before = store.revision();

    let held = gate.lock().await;
    let (code, status) = change(Method::POST, &format!("{maps}?timeout=50ms"), map("late")).await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")), "{status}");
    let told = "Timeout: the request was not done within 50ms; the write may still happen";
    assert_eq!(status["message"], told);
    // So do all who change something, and who only reads does not wait.
    let (code, _) = change(Method::DELETE, &format!("{maps}/kept?timeout=50ms"), json!({})).await;
    assert_eq!(code, 504);
    assert_eq!(get(&api, &format!("{maps}/kept?timeout=1ns"), "*/*").await.0, 200);
    let (code, status) = change(Method::POST, &format!("{maps}?timeout=soon"), map("never")).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")), "{status}");
    // Without a word of the client's there is a limit as well; nothing but the runtime's time makes it pass.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let (code, _) = change(Method::POST, maps, map("later")).await;
    assert_eq!((code, began.elapsed().as_secs()), (504, 34));
    tokio::time::resume();

    // What was asked for happens, as was said.
    let mut watcher = store.watch("/registry/core/configmaps/".into(), before).unwrap();
    drop(held);
    let mut seen = 0;
    while seen < 3 {
        let batch = tokio::time::timeout(Duration::from_secs(10), watcher.next_batch()).await;
        seen += batch.expect("it happens").unwrap().len();
    }
    assert_eq!(get(&api, &format!("{maps}/late"), "*/*").await.0, 200);
    assert_eq!(get(&api, &format!("{maps}/later"), "*/*").await.0, 200);
    assert_eq!(get(&api, &format!("{maps}/kept"), "*/*").await.0, 404);
}
