//! Lines 211, 229, 232 to 235 and 239: who reaches whom.

use std::time::{Duration, Instant};

use e2e::api::eventually;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::Scene;

#[tokio::test]
async fn c211_c251_the_api_server_is_a_service_that_lists_show() {
    need!(machine::root());
    let scene = Scene::new("master").await;
    let service = scene.api.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(
        (&service["spec"]["ports"][0]["name"], &service["spec"]["ports"][0]["port"]),
        (&json!("https"), &json!(443))
    );
    let all = scene.api.get("/api/v1/services").await.ok();
    let is_it = |own: &Value| own["metadata"]["name"] == "kubernetes" && own["metadata"]["namespace"] == "default";
    assert!(all["items"].as_array().is_some_and(|all| all.iter().any(is_it)));
    // It answers there.
    let said =
        scene.exec("ask", "socat -T 2 - OPENSSL:kubernetes.default:443,verify=0 </dev/null && echo shaken").await;
    assert!(said.contains("shaken"), "{said}");
}

#[tokio::test]
async fn c232_c233_pods_reach_pods() {
    need!(machine::root());
    let scene = Scene::new("pods").await;
    scene.server("a", json!({}), &[8080], json!({})).await;
    scene.server("b", json!({}), &[8080], json!({})).await;
    for (from, to) in [("ask", "a"), ("a", "b"), ("b", "a"), ("a", "a")] {
        let place = format!("{}:8080", scene.address(to).await);
        eventually("over HTTP", async || (scene.http_from(from, &place).await == to).then_some(())).await;
        eventually("over UDP", async || (scene.udp_from(from, &place).await == to).then_some(())).await;
    }
}

#[tokio::test]
async fn c234_c235_the_node_reaches_pods() {
    need!(machine::root());
    let scene = Scene::new("host").await;
    scene.server("a", json!({}), &[8080], json!({})).await;
    scene.pod("on-node", json!({}), "sleep 1d", json!({"hostNetwork": true})).await;
    scene.running("on-node").await;
    let place = format!("{}:8080", scene.address("a").await);
    eventually("over HTTP", async || (scene.http_from("on-node", &place).await == "a").then_some(())).await;
    eventually("over UDP", async || (scene.udp_from("on-node", &place).await == "a").then_some(())).await;
}

#[tokio::test]
async fn c229_a_port_of_the_machine_is_one_pods_by_address_and_protocol() {
    need!(machine::root());
    let scene = Scene::new("hostport").await;
    let node = scene.node().await.to_string();
    const PORT: u16 = 28_323;
    let port = |address: &str, protocol: &str| json!({"ports": [{"containerPort": 8080, "hostPort": PORT, "hostIP": address, "protocol": protocol}]});
    scene.server("local", json!({}), &[8080], port("127.0.0.1", "TCP")).await;
    scene.server("outer", json!({}), &[8080], port(&node, "TCP")).await;
    scene.server("udp", json!({}), &[8080], port(&node, "UDP")).await;
    for name in ["local", "outer", "udp"] {
        scene.running(name).await;
    }
    scene.pod("on-node", json!({}), "sleep 1d", json!({"hostNetwork": true})).await;
    scene.running("on-node").await;
    let outer = format!("{node}:{PORT}");
    let local = format!("127.0.0.1:{PORT}");
    eventually("that of loopback", async || (scene.http_from("on-node", &local).await == "local").then_some(())).await;
    eventually("that of the node", async || (scene.http_from("on-node", &outer).await == "outer").then_some(())).await;
    eventually("the same over UDP", async || (scene.udp_from("on-node", &outer).await == "udp").then_some(())).await;
}

#[tokio::test]
async fn c239_endpoints_of_a_hundred_services_come_quickly() {
    need!(machine::root());
    let scene = Scene::new("latency").await;
    scene.server("a", json!({"app": "a"}), &[8080], json!({})).await;
    scene.running("a").await;
    let mut times = Vec::new();
    for n in 0..100 {
        let name = format!("s{n}");
        let began = Instant::now();
        scene.service(&name, json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]})).await;
        scene.endpoints(&name, &["a"]).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("p50 {:?}, p90 {:?}, p99 {:?}", times[50], times[90], times[99]);
    // The line asks for 20 s and 50 s.
    assert!(times[50] < Duration::from_secs(5) && times[90] < Duration::from_secs(15), "{times:?}");
}
