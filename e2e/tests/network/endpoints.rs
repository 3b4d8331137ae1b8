//! Lines 220 to 228: endpoints, of pods and made by hand.

use e2e::api::Patch;
use e2e::api::eventually;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::Scene;

fn addresses(endpoints: &Value) -> Vec<String> {
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    let addresses = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    let mut all: Vec<String> = addresses.filter_map(|own| own["ip"].as_str()).map(str::to_owned).collect();
    all.sort();
    all
}

#[tokio::test]
async fn c220_c227_endpoints_follow_pods() {
    need!(machine::root());
    let scene = Scene::new("follow").await;
    let ports =
        json!([{"name": "one", "port": 80, "targetPort": "web"}, {"name": "two", "port": 81, "targetPort": 8081}]);
    scene.service("web", json!({"selector": {"app": "web"}, "ports": ports})).await;
    let named = json!({"ports": [{"name": "web", "containerPort": 8080}]});
    scene.server("a", json!({"app": "web"}), &[8080, 8081], named.clone()).await;
    scene.server("b", json!({"app": "web"}), &[8080, 8081], named).await;
    let slices = scene.endpoints("web", &["a", "b"]).await;
    let mut numbers: Vec<i64> =
        slices[0]["ports"].as_array().expect("ports").iter().filter_map(|port| port["port"].as_i64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [8080, 8081]);
    assert_eq!(
        slices[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    let mut pods = vec![scene.address("a").await, scene.address("b").await];
    pods.sort();
    let both = |endpoints: &Value| addresses(endpoints) == pods;
    scene.api.until(&scene.path("endpoints"), "web", "the endpoints are the pods", both).await;
    scene.delete("pods", "a").await;
    scene.endpoints("web", &["b"]).await;
    let rest = [scene.address("b").await];
    scene.api.until(&scene.path("endpoints"), "web", "one is left", |own| addresses(own) == rest).await;
}

#[tokio::test]
async fn c221_c228_a_service_without_pods_has_empty_endpoints() {
    need!(machine::root());
    let scene = Scene::new("empty").await;
    scene.service("none", json!({"selector": {"app": "nobody"}, "ports": [{"port": 80}]})).await;
    let slices = scene.api.until_all(&scene.slices("none"), "a slice", |all| all.len() == 1).await;
    assert!(slices[0]["endpoints"].as_array().is_none_or(Vec::is_empty));
    let empty = scene.api.until(&scene.path("endpoints"), "none", "its endpoints", |_| true).await;
    assert!(addresses(&empty).is_empty());
    scene.delete("services", "none").await;
    scene.api.until_gone(&format!("{}/none", scene.path("endpoints"))).await;
    scene.api.until_all(&scene.slices("none"), "no slice", <[Value]>::is_empty).await;
}

/// A slice by hand: where, and which ports by the Service's names.
async fn slice(scene: &Scene, name: &str, service: &str, address: &str, ports: &[(&str, u16)]) {
    let ports: Vec<Value> =
        ports.iter().map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"})).collect();
    let slice = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": service,
            "endpointslice.kubernetes.io/managed-by": "e2e-test"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": ports});
    scene.api.post(&scene.api.path("discovery.k8s.io/v1", "endpointslices"), slice).await.ok();
}

#[tokio::test]
async fn c222_addresses_may_stand_in_several_slices() {
    need!(machine::root());
    let scene = Scene::new("slices").await;
    scene.server("a", json!({}), &[8080], json!({})).await;
    scene.server("b", json!({}), &[8090], json!({})).await;
    let own = scene.service("web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    slice(&scene, "one", "web", &scene.address("a").await, &[("http", 8080)]).await;
    slice(&scene, "two", "web", &scene.address("b").await, &[("http", 8090)]).await;
    let place = format!("{}:80", own["spec"]["clusterIP"].as_str().expect("an address"));
    eventually("both are reached", async || {
        let said = scene.answers(&place, 10).await;
        (said.iter().any(|one| one == "a") && said.iter().any(|one| one == "b")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c223_ports_may_stand_in_several_slices() {
    need!(machine::root());
    let scene = Scene::new("ports").await;
    scene.server("a", json!({}), &[8080, 8081], json!({})).await;
    let ports = json!([{"name": "one", "port": 80}, {"name": "two", "port": 81}]);
    let own = scene.service("web", json!({"ports": ports})).await;
    let address = scene.address("a").await;
    slice(&scene, "one", "web", &address, &[("one", 8080)]).await;
    slice(&scene, "two", "web", &address, &[("two", 8081)]).await;
    let cluster = own["spec"]["clusterIP"].as_str().expect("an address");
    for port in [80, 81] {
        let place = format!("{cluster}:{port}");
        eventually("each port is reached", async || (scene.http(&place).await == "a").then_some(())).await;
    }
}

#[tokio::test]
async fn c225_endpoints_by_hand_are_mirrored() {
    need!(machine::root());
    let scene = Scene::new("mirror").await;
    scene.service("web", json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]})).await;
    let subsets =
        |address: &str, port: u16| json!([{"addresses": [{"ip": address}], "ports": [{"name": "http", "port": port}]}]);
    let hand = json!({"metadata": {"name": "web"}, "subsets": subsets("10.1.2.3", 8080)});
    scene.api.post(&scene.path("endpoints"), hand).await.ok();
    let mirrors = |address: &'static str, port: u16| {
        move |all: &[Value]| {
            all.len() == 1
                && all[0]["endpoints"][0]["addresses"] == json!([address])
                && all[0]["ports"][0]["port"] == port
                && all[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
                    == "endpointslicemirroring-controller.k8s.io"
        }
    };
    scene.api.until_all(&scene.slices("web"), "they are mirrored", mirrors("10.1.2.3", 8080)).await;
    let path = format!("{}/web", scene.path("endpoints"));
    scene.api.patch(&path, Patch::Merge, json!({"subsets": subsets("10.2.3.4", 9090)})).await.ok();
    scene.api.until_all(&scene.slices("web"), "so is a change", mirrors("10.2.3.4", 9090)).await;
    scene.api.delete(&path, json!({})).await.ok();
    scene.api.until_all(&scene.slices("web"), "so is the end", <[Value]>::is_empty).await;
}
