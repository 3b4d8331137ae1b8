//! Servers behind this one: extension servers with groups of their own, and pods and Services behind `/proxy`.

mod server;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use controller_store::model::Op;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use server::{Server, admin, server};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const NAMESPACE: &str = "/api/v1/namespaces/default";

/// Answers discovery, and to everything else who asked for what.
async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<String>, Infallible> {
    let text = |name: &str| {
        let all = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        all.collect::<Vec<_>>().join(",")
    };
    let told = json!({"path": request.uri().to_string(), "method": request.method().as_str(), "user": text("x-remote-user"),
        "groups": text("x-remote-group"), "authorization": text("authorization"), "kind": "Flunder"});
    let answer = match request.uri().path() {
        "/apis/wardle.example.com/v1alpha1" => json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "wardle.example.com/v1alpha1", "resources": [{"name": "flunders", "singularName": "flunder",
            "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]}]}),
        _ => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut told = told;
            told["body"] = String::from_utf8_lossy(&body).into_owned().into();
            told
        }
    };
    Ok(Response::new(answer.to_string()))
}

/// Serves on loopback; with TLS only to clients of the authority `clients` (PEM). Answers the address and the own
/// authority (PEM).
async fn other(name: &str, clients: Option<&str>) -> (SocketAddr, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let tls = clients.map(|clients| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.as_bytes()).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let key = PrivateKeyDer::from_pem_slice(certified.signing_key.serialize_pem().as_bytes()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(verifier);
        TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap()))
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(answer);
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // Who shows no good certificate is not served.
                match tls {
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        drop(builder.serve_connection(TokioIo::new(stream), service).await);
                    }
                    None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                }
            });
        }
    });
    (address, certified.cert.pem())
}

/// A Service without a selector that leads to an address.
async fn service(server: &Server, name: &str, port: u16, address: SocketAddr) {
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "p", "port": port}]}});
    assert_eq!(server.create(&format!("{NAMESPACE}/services"), service).await.code, 201);
    let slice = json!({"metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": address.port()}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let refused = server.create(path, slice.clone()).await;
    assert_eq!(
        (refused.code, &refused.body["details"]["causes"][0]["field"]),
        (422, &json!("endpoints[0].addresses[0]"))
    );
    // Clients may not lead Services to loopback; tests have nowhere else.
    let op = Op::Put {
        key: format!("/registry/discovery.k8s.io/endpointslices/default/{name}").into(),
        value: slice.to_string().into(),
        ttl: None,
    };
    server.store.commit(&[], vec![op]).await.unwrap();
}

#[tokio::test]
async fn c029_a_group_of_an_extension_server_is_part_of_the_api() {
    let server = server().await;
    let trusted = server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.body;
    let clients = trusted["data"]["requestheader-client-ca-file"].as_str().expect("whom to believe").to_owned();
    assert_eq!(trusted["data"]["requestheader-allowed-names"], "[\"system:auth-proxy\"]");
    let (address, authority) = other("api.default.svc", Some(&clients)).await;

    let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
    let registration = json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {"group": "wardle.example.com",
        "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": bundle,
        "service": {"name": "api", "namespace": "default", "port": 7443}}});
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    assert_eq!(server.create(services, registration).await.code, 201);
    let flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    let early = server.get(flunders).await;
    assert_eq!((early.code, early.body["reason"].as_str()), (503, Some("ServiceUnavailable")), "{}", early.body);
    service(&server, "api", 7443, address).await;

    let asked = server.raw(admin(), Method::POST, &format!("{flunders}?x=1"), "application/json", "a flunder").await;
    let body = asked.body;
    assert_eq!(
        (body["path"].as_str(), body["body"].as_str()),
        (Some(format!("{flunders}?x=1").as_str()), Some("a flunder"))
    );
    assert_eq!((&body["user"], &body["groups"]), (&json!("admin"), &json!("system:masters,system:authenticated")));
    // What a client says of itself in these headers is not passed on.
    let request = Request::get(flunders).header("x-remote-user", "root").header("authorization", "Bearer x");
    let response = server.send(admin(), request.body(Body::empty()).unwrap()).await;
    let told: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&told["user"], &told["authorization"]), (&json!("admin"), &json!("")));
    let nobody = controller_apiserver::authn::User::new("nobody", &[]);
    assert_eq!(server.raw(nobody, Method::GET, flunders, "application/json", Body::empty()).await.code, 403);

    let groups = server.get("/apis").await.body;
    let group =
        groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "wardle.example.com").unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1alpha1");
    assert_eq!(server.get("/apis/wardle.example.com").await.body["kind"], "APIGroup");
    assert_eq!(server.get("/apis/wardle.example.com/v1alpha1").await.body["resources"][0]["name"], "flunders");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::get("/apis").header("accept", accept).body(Body::empty()).unwrap();
    let whole = server.send(admin(), request).await.into_body().collect().await.unwrap().to_bytes();
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    let item = whole["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "wardle.example.com");
    assert_eq!(item.unwrap()["versions"][0]["resources"][0]["resource"], "flunders");

    // The condition is told by a task of the server.
    let path = format!("{services}/v1alpha1.wardle.example.com");
    let available = async {
        loop {
            let status = server.get(&path).await.body["status"].clone();
            if status["conditions"][0]["status"] == "True" {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = server.api.keep_availability_told() => panic!("it goes on"),
        () = available => {}
    }
    assert_eq!(server.call(Method::DELETE, &path, Value::Null).await.code, 200);
    assert_eq!(server.get(flunders).await.code, 404);
    let own = server.get(&format!("{services}/v1.apps")).await.body;
    assert_eq!(own["status"]["conditions"][0]["reason"], "Local");
}

#[tokio::test]
async fn a_proxy_leads_nowhere_it_should_not() {
    let server = server().await;
    let (address, _) = other("web", None).await;
    service(&server, "web", 80, address).await;
    let request = |path: &str| Request::get(format!("{NAMESPACE}/services/{path}")).body(Body::empty()).unwrap();
    // Whatever an object says, the machine's own services are not served to others.
    assert_eq!(server.send(admin(), request("web:p/proxy/")).await.status().as_u16(), 400);
    for (path, code) in
        [("web:81/proxy/", 503), ("none/proxy/", 404), ("ftp:web:80/proxy/", 400), ("a:b:c:d/proxy/", 400)]
    {
        assert_eq!(server.send(admin(), request(path)).await.status().as_u16(), code, "{path}");
    }
}
