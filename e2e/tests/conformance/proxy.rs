//! HTTP to pods and Services through the API server.

use e2e::api::Api;
use http::Method;
use serde_json::{Value, json};

use crate::server::api;

/// A pod that says what it was asked, and a Service before it.
async fn web(api: &Api) {
    let script = "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho Content-Type: text/plain; echo; \
        echo $REQUEST_METHOD $REQUEST_URI; cat' > /www/cgi-bin/say; chmod +x /www/cgi-bin/say; echo page > /www/index.html; \
        exec httpd -f -p 8080 -h /www";
    let pod = json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 60},
        "ports": [{"name": "http", "containerPort": 8080}]}]}});
    api.post(&api.path("v1", "pods"), pod).await.ok();
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"name": "portname", "port": 80, "targetPort": "http"}]}});
    api.post(&api.path("v1", "services"), service).await.ok();
    api.until(&api.path("v1", "pods"), "web", "the pod is ready", |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
    .await;
    let slices =
        format!("{}?labelSelector=kubernetes.io/service-name%3Dweb", api.path("discovery.k8s.io/v1", "endpointslices"));
    api.until_all(&slices, "the endpoint is ready", |items| {
        items.iter().any(|slice| slice["endpoints"][0]["conditions"]["ready"] == true)
    })
    .await;
}

#[tokio::test]
async fn c236_c237_c238_pods_and_services_answer_through_the_server() {
    let api = api("proxy").await;
    web(&api).await;
    for place in [
        "pods/web:8080",
        "pods/http:web:8080",
        "pods/web",
        "services/web",
        "services/web:portname",
        "services/http:web:80",
    ] {
        let path = api.path("v1", place);
        let page = api.get(&format!("{path}/proxy/")).await;
        assert_eq!((page.code, page.bytes.as_slice()), (200, b"page\n".as_slice()), "{place}");
        let bare = api.get(&format!("{path}/proxy")).await;
        assert_eq!((bare.code, bare.headers["location"].to_str().ok()), (301, Some(format!("{path}/proxy/").as_str())));
        for method in
            [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::HEAD]
        {
            let asked = format!("{path}/proxy/cgi-bin/say?q=1");
            // HTTP libraries do not agree on what a HEAD with content is.
            let content = if method == Method::HEAD { Vec::new() } else { b"content".to_vec() };
            let answer = api.send(method.clone(), &asked, &[], content).await;
            let said = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert_eq!(answer.code, 200, "{method} {place}: {said}");
            if method != Method::HEAD {
                assert_eq!(said, format!("{method} /cgi-bin/say?q=1\ncontent"), "{place}");
            }
        }
    }
    assert_eq!(api.get(&format!("{}/proxy/none", api.path("v1", "pods/web"))).await.code, 404);
    let value: Value = api.get(&format!("{}/proxy/", api.path("v1", "pods/none"))).await.body;
    assert_eq!(value["reason"], "NotFound");
}
