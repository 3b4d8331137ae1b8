//! Lines 289 to 291, 293, 294, 308, 310, 311 and 313 to 317: pods from their creation to their end.

use e2e::api::{Patch, condition};
use e2e::machine;
use e2e::need;
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::{Pods, container, pod, status};

#[tokio::test]
async fn c289_both_outputs_are_in_the_log() {
    need!(machine::root());
    let pods = Pods::new("outputs").await;
    pods.create(pod("p", &[container("c", "echo out; echo err >&2; sleep 600")])).await;
    let log = pods.api.log_with("p", "c", "err", 1).await;
    assert_eq!(log, "out\nerr\n");
}

#[tokio::test]
async fn c290_c291_what_always_fails_says_so_and_can_be_deleted() {
    need!(machine::root());
    let pods = Pods::new("fails").await;
    pods.create(pod("p", &[container("c", "/bin/false")])).await;
    let ended = |pod: &Value| status(pod, "c")["lastState"]["terminated"].clone();
    let seen = pods.until("p", "it has ended", |pod| ended(pod)["reason"] == "Error").await;
    assert_eq!(ended(&seen)["exitCode"], 1);
    pods.delete("p").await;
    pods.api.until_gone(&pods.path("p")).await;
}

#[tokio::test]
async fn c293_c294_the_hosts_file_is_the_agents_unless_the_pod_brings_one() {
    need!(machine::root());
    let pods = Pods::new("hosts").await;
    let managed = "# Kubernetes-managed hosts file.";
    let mut own = container("c", "cat /etc/hosts; sleep 600");
    own["volumeMounts"] = json!([]);
    let mut brought = container("brought", "cat /etc/hosts; sleep 600");
    brought["volumeMounts"] = json!([{"name": "file", "mountPath": "/etc/hosts", "subPath": "hosts"}]);
    let map = json!({"metadata": {"name": "m"}, "data": {"hosts": "10.1.1.1 brought-along\n"}});
    pods.api.post(&pods.api.path("v1", "configmaps"), map).await.ok();
    let mut all = pod("p", &[own, brought]);
    all["spec"]["volumes"] = json!([{"name": "file", "configMap": {"name": "m"}}]);
    all["spec"]["hostAliases"] = json!([{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]);
    pods.create(all).await;
    let log = pods.api.log_with("p", "c", "123.45.67.89", 1).await;
    assert!(
        log.contains(managed) && log.lines().any(|line| line.split_whitespace().eq(["123.45.67.89", "foo", "bar"])),
        "{log}"
    );
    let log = pods.api.log_with("p", "brought", "brought-along", 1).await;
    assert!(!log.contains(managed) && !log.contains("123.45.67.89"), "{log}");
    let mut of_host = pod("h", &[container("c", "cat /etc/hosts; echo end; sleep 600")]);
    of_host["spec"]["hostNetwork"] = json!(true);
    pods.create(of_host).await;
    let log = pods.api.log_with("h", "c", "end", 1).await;
    let own = std::fs::read_to_string("/etc/hosts").expect("this machine has one");
    assert!(own.lines().all(|line| log.contains(line)) && !log.contains(managed), "{log}");
}

#[tokio::test]
async fn c308_the_class_of_service_follows_from_requests_and_limits() {
    need!(machine::root());
    let pods = Pods::new("class").await;
    for (name, resources, class) in [
        (
            "guaranteed",
            json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "10m", "memory": "16Mi"}}),
            "Guaranteed",
        ),
        ("burstable", json!({"requests": {"cpu": "10m"}}), "Burstable"),
        ("effort", json!({}), "BestEffort"),
    ] {
        let mut own = container("c", "sleep 600");
        own["resources"] = resources;
        pods.create(pod(name, &[own])).await;
        assert_eq!(pods.get(name).await["status"]["qosClass"], class, "{name}");
    }
}

#[tokio::test]
async fn c310_c311_c314_a_pod_comes_changes_and_goes_with_its_grace() {
    need!(machine::root());
    let pods = Pods::new("life").await;
    let mut events = pods.api.watch(&format!("{}?labelSelector=time=now", pods.api.path("v1", "pods"))).await;
    let mut all = pod("p", &[container("c", "trap 'sleep 1; exit 0' TERM; sleep 600 & wait")]);
    all["metadata"]["labels"] = json!({"time": "now"});
    all["spec"]["terminationGracePeriodSeconds"] = json!(30);
    pods.create(all).await;
    assert_eq!(events.next("its creation").await.0, "ADDED");
    let ready = pods.ready("p").await;
    let address: std::net::IpAddr =
        ready["status"]["hostIP"].as_str().expect("an address").parse().expect("an address");
    assert!(!address.is_unspecified());
    let labels = json!({"metadata": {"labels": {"more": "yes"}}});
    let changed = pods.api.patch(&pods.path("p"), Patch::Strategic, labels).await.ok();
    assert_eq!(changed["metadata"]["labels"], json!({"time": "now", "more": "yes"}));
    pods.delete("p").await;
    let mut marked = None;
    loop {
        let (kind, object) = events.next("it goes").await;
        match kind.as_str() {
            "DELETED" => break,
            _ if !object["metadata"]["deletionTimestamp"].is_null() => marked = Some(object),
            _ => {}
        }
    }
    let marked = marked.expect("it was asked to go before it went");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(pods.api.get(&pods.path("p")).await.code, 404);
}

#[tokio::test]
async fn c313_pods_go_together() {
    need!(machine::root());
    let pods = Pods::new("together").await;
    for name in ["a", "b", "c"] {
        let mut one = pod(name, &[container("c", "sleep 600")]);
        one["metadata"]["labels"] = json!({"type": "Testing"});
        one["spec"]["terminationGracePeriodSeconds"] = json!(1);
        pods.create(one).await;
    }
    pods.ready("a").await;
    let path = format!("{}?labelSelector=type=Testing", pods.api.path("v1", "pods"));
    pods.api.delete(&path, Value::Null).await.ok();
    pods.api.until_all(&path, "all are gone", |pods| pods.is_empty()).await;
}

#[tokio::test]
async fn c315_c316_the_status_is_a_part_of_its_own() {
    need!(machine::root());
    let pods = Pods::new("status").await;
    // Nobody else writes the status of a pod that no node takes.
    let mut all = pod("p", &[container("c", "sleep 600")]);
    all["spec"]["schedulerName"] = json!("nobody");
    all["metadata"]["labels"] = json!({"stage": "created"});
    pods.create(all).await;
    let path = format!("{}/status", pods.path("p"));
    let patch = json!({"metadata": {"annotations": {"kept": "no"}}, "spec": {"terminationGracePeriodSeconds": 7},
        "status": {"message": "Patched by a test", "reason": "Test"}});
    let patched = pods.api.patch(&path, Patch::Strategic, patch).await.ok();
    assert_eq!(
        (&patched["status"]["message"], &patched["status"]["reason"]),
        (&json!("Patched by a test"), &json!("Test"))
    );
    assert_eq!(patched["spec"]["terminationGracePeriodSeconds"], 2, "the spec is not its part");
    let labels = json!({"metadata": {"labels": {"stage": "patched"}}});
    pods.api.patch(&pods.path("p"), Patch::Strategic, labels).await.ok();
    let mut whole = pods.api.get(&path).await.ok();
    whole["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "Replaced"}]);
    let replaced = pods.api.put(&path, whole).await.ok();
    assert_eq!(condition(&replaced, "Ready")["reason"], "Replaced");
    assert_eq!(replaced["metadata"]["labels"]["stage"], "patched");
    pods.delete("p").await;
    pods.api.until_gone(&pods.path("p")).await;
}

#[tokio::test]
async fn c317_commands_run_over_websockets() {
    need!(machine::root());
    let pods = Pods::new("commands").await;
    pods.create(pod("p", &[container("c", "sleep 600")])).await;
    pods.ready("p").await;
    let api: kube::Api<Pod> = kube::Api::namespaced(pods.api.client(), &pods.api.namespace);
    let params = AttachParams::default().stdout(true).stderr(true);
    let mut running =
        api.exec("p", ["sh", "-c", "echo remote; echo wrong >&2; exit 3"], &params).await.expect("it runs");
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (running.stdout().expect("asked for"), running.stderr().expect("asked for"));
    let status = running.take_status().expect("there is one");
    let (read_out, read_err) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
    read_out.and(read_err).expect("they end");
    assert_eq!((out.as_str(), err.as_str()), ("remote\n", "wrong\n"));
    let status = status.await.expect("it ended");
    let code = status.details.and_then(|details| details.causes).and_then(|causes| causes.into_iter().next());
    assert_eq!(code.and_then(|cause| cause.message).as_deref(), Some("3"));
}

/// What a server sends over a WebSocket until it closes: the payloads of its messages (RFC 6455, 5.2).
async fn messages(pods: &Pods, path: &str, protocol: &str) -> Vec<Vec<u8>> {
    let request = http::Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol);
    let request = request.body(kube::client::Body::empty()).expect("a request");
    let answer = pods.api.client().send(request).await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
        (101, &protocol.parse().unwrap())
    );
    let mut stream = hyper_util::rt::TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgrade"));
    let (mut bytes, mut payloads) = (Vec::new(), Vec::new());
    // How the connection ends does not matter: the closing message tells that all came.
    drop(stream.read_to_end(&mut bytes).await);
    let mut rest = bytes.as_slice();
    // None of these messages is longer than 125 bytes; 8 is the opcode of the last one.
    while let [head, length, tail @ ..] = rest
        && head & 0xf != 8
    {
        let (payload, next) = tail.split_at(usize::from(*length));
        payloads.push(payload.to_vec());
        rest = next;
    }
    assert_eq!(rest.first(), Some(&0x88), "a whole message that closes: {rest:?}");
    payloads
}

#[tokio::test]
async fn c318_logs_come_over_websockets() {
    need!(machine::root());
    let pods = Pods::new("log-messages").await;
    pods.create(pod("p", &[container("c", "echo container is alive; sleep 600")])).await;
    pods.api.log_with("p", "c", "alive", 1).await;
    for (protocol, want) in
        [("binary.k8s.io", "container is alive\n"), ("base64.binary.k8s.io", "Y29udGFpbmVyIGlzIGFsaXZlCg==")]
    {
        let said = messages(&pods, &format!("{}/log", pods.path("p")), protocol).await.concat();
        let text = String::from_utf8(said).expect("text");
        assert_eq!(text, want, "{protocol}");
    }
}
