//! Lines 242 to 256: Services, their types, ports and affinity.

use e2e::api::eventually;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::{A, CNAME, Scene};

fn ports() -> Value {
    json!([{"name": "http", "port": 80, "targetPort": 8080}])
}

fn cluster(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().expect("an address").to_owned()
}

fn node_port(service: &Value) -> u64 {
    service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port")
}

async fn servers(scene: &Scene, names: &[&str]) {
    for name in names {
        scene.server(name, json!({"app": "web"}), &[8080], json!({})).await;
    }
}

async fn reaches(scene: &Scene, place: &str, names: &[&str]) {
    eventually(&format!("{place} is reached"), async || {
        let said = scene.http(place).await;
        names.contains(&said.as_str()).then_some(())
    })
    .await;
}

async fn is_another_name(scene: &Scene, service: &str, other: &str) {
    let wanted = format!("CNAME {other}");
    eventually(&format!("{service} is {other}"), async || {
        scene.dns(&scene.name(service), CNAME).await.contains(&wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c242_c245_an_address_is_given_back_for_a_name() {
    need!(machine::root());
    let scene = Scene::new("to-name").await;
    servers(&scene, &["a"]).await;
    for (kind, place) in [("ClusterIP", 5), ("NodePort", 6)] {
        let name = kind.to_lowercase();
        // One that only who names it gets: any other may be somebody else's as soon as it is given back.
        let address = scene.low_address(place).await;
        let spec = json!({"type": kind, "clusterIP": address, "selector": {"app": "web"}, "ports": ports()});
        let own = scene.service(&name, spec).await;
        scene.endpoints(&name, &["a"]).await;
        reaches(&scene, &format!("{}:80", cluster(&own)), &["a"]).await;
        let gone = json!({"type": "ExternalName", "externalName": "web.example.com", "clusterIP": null, "clusterIPs": null,
            "ports": [{"name": "http", "port": 80, "nodePort": null}]});
        let now = scene.change(&name, gone).await;
        assert!(now["spec"]["clusterIP"].as_str().is_none_or(str::is_empty), "{now}");
        assert!(now["spec"]["ports"][0]["nodePort"].is_null());
        is_another_name(&scene, &name, "web.example.com").await;
        let again = json!({"clusterIP": address, "ports": ports()});
        scene.service(&format!("{name}-again"), again).await;
    }
}

#[tokio::test]
async fn c243_c244_a_name_becomes_an_address() {
    need!(machine::root());
    let scene = Scene::new("from-name").await;
    servers(&scene, &["a"]).await;
    for kind in ["ClusterIP", "NodePort"] {
        let name = kind.to_lowercase();
        scene.service(&name, json!({"type": "ExternalName", "externalName": "web.example.com"})).await;
        is_another_name(&scene, &name, "web.example.com").await;
        let now = scene
            .change(&name, json!({"type": kind, "externalName": null, "selector": {"app": "web"}, "ports": ports()}))
            .await;
        scene.endpoints(&name, &["a"]).await;
        reaches(&scene, &format!("{}:80", cluster(&now)), &["a"]).await;
        scene.resolves(&scene.name(&name), A, &[&format!("A {}", cluster(&now)), "CODE 0"]).await;
        if kind == "NodePort" {
            reaches(&scene, &format!("{}:{}", scene.node().await, node_port(&now)), &["a"]).await;
        }
    }
}

#[tokio::test]
async fn c246_a_node_port_works_by_name_by_address_and_by_node() {
    need!(machine::root());
    let scene = Scene::new("nodeport").await;
    servers(&scene, &["a", "b"]).await;
    let own = scene.service("web", json!({"type": "NodePort", "selector": {"app": "web"}, "ports": ports()})).await;
    scene.endpoints("web", &["a", "b"]).await;
    let node = format!("{}:{}", scene.node().await, node_port(&own));
    for place in ["web:80".to_owned(), format!("{}:80", cluster(&own)), node] {
        reaches(&scene, &place, &["a", "b"]).await;
    }
}

/// Asks until so many different servers give all of sixteen answers.
async fn different(scene: &Scene, place: &str, what: &str, fits: fn(usize) -> bool) {
    eventually(what, async || {
        let said = scene.answers(place, 16).await;
        let names: std::collections::BTreeSet<&String> = said.iter().collect();
        (said.len() == 16 && fits(names.len())).then_some(())
    })
    .await;
}

async fn affinity(scene: &Scene, kind: &str) {
    servers(scene, &["a", "b", "c"]).await;
    let spec = json!({"type": kind, "selector": {"app": "web"}, "ports": ports(), "sessionAffinity": "ClientIP"});
    let own = scene.service("web", spec).await;
    assert_eq!(own["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
    scene.endpoints("web", &["a", "b", "c"]).await;
    let place = match kind {
        "NodePort" => format!("{}:{}", scene.node().await, node_port(&own)),
        _ => format!("{}:80", cluster(&own)),
    };
    reaches(scene, &place, &["a", "b", "c"]).await;
    different(scene, &place, "a client keeps its server", |count| count == 1).await;
    scene.change("web", json!({"sessionAffinity": "None", "sessionAffinityConfig": null})).await;
    different(scene, &place, "clients are spread", |count| count > 1).await;
    scene.change("web", json!({"sessionAffinity": "ClientIP"})).await;
    different(scene, &place, "a client keeps its server again", |count| count == 1).await;
}

#[tokio::test]
async fn c253_c248_a_client_keeps_its_server_and_may_be_spread_again() {
    need!(machine::root());
    affinity(&Scene::new("affinity").await, "ClusterIP").await;
}

#[tokio::test]
async fn c252_c247_so_it_is_by_node_port() {
    need!(machine::root());
    affinity(&Scene::new("affinity-node").await, "NodePort").await;
}

#[tokio::test]
async fn c250_services_are_deleted_together() {
    need!(machine::root());
    let scene = Scene::new("many").await;
    for name in ["a", "b", "c"] {
        let labels = json!({"set": if name == "c" { "other" } else { "one" }});
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": {"ports": ports()}});
        scene.api.post(&scene.path("services"), object).await.ok();
    }
    scene.api.delete(&format!("{}?labelSelector=set=one", scene.path("services")), json!({})).await.ok();
    let left = scene.api.get(&scene.path("services")).await.ok();
    let names: Vec<&str> =
        left["items"].as_array().expect("items").iter().filter_map(|own| own["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn c254_endpoints_come_and_go_with_pods() {
    need!(machine::root());
    let scene = Scene::new("basic").await;
    let own = scene.service("web", json!({"selector": {"app": "web"}, "ports": ports()})).await;
    let place = format!("{}:80", cluster(&own));
    scene.endpoints("web", &[]).await;
    servers(&scene, &["a"]).await;
    scene.endpoints("web", &["a"]).await;
    reaches(&scene, &place, &["a"]).await;
    servers(&scene, &["b"]).await;
    scene.endpoints("web", &["a", "b"]).await;
    scene.delete("pods", "a").await;
    scene.endpoints("web", &["b"]).await;
    reaches(&scene, &place, &["b"]).await;
    scene.delete("pods", "b").await;
    scene.endpoints("web", &[]).await;
}

#[tokio::test]
async fn c256_each_port_has_its_endpoints() {
    need!(machine::root());
    let scene = Scene::new("multiport").await;
    let both = json!([{"name": "one", "port": 80, "targetPort": "first"}, {"name": "two", "port": 81, "targetPort": "second"}]);
    let own = scene.service("web", json!({"selector": {"app": "web"}, "ports": both})).await;
    let named = |name: &str, port: u16| json!({"ports": [{"name": name, "containerPort": port}]});
    scene.server("a", json!({"app": "web"}), &[100], named("first", 100)).await;
    scene.server("b", json!({"app": "web"}), &[101], named("second", 101)).await;
    scene.endpoints("web", &["a", "b"]).await;
    for (port, name) in [(80, "a"), (81, "b")] {
        reaches(&scene, &format!("{}:{port}", cluster(&own)), &[name]).await;
    }
    scene.delete("pods", "a").await;
    scene.endpoints("web", &["b"]).await;
    reaches(&scene, &format!("{}:81", cluster(&own)), &["b"]).await;
}

#[tokio::test]
async fn c255_one_port_has_two_protocols() {
    need!(machine::root());
    let scene = Scene::new("protocols").await;
    servers(&scene, &["a"]).await;
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 80, "targetPort": 8080, "protocol": protocol});
    let both = json!([port("tcp", "TCP"), port("udp", "UDP")]);
    let own = scene.service("web", json!({"selector": {"app": "web"}, "ports": both})).await;
    scene.endpoints("web", &["a"]).await;
    let place = format!("{}:80", cluster(&own));
    let tcp = async || scene.http(&place).await == "a";
    let udp = async || scene.udp_from("ask", &place).await == "a";
    eventually("both are reached", async || (tcp().await && udp().await).then_some(())).await;
    scene.change("web", json!({"ports": [port("tcp", "TCP")]})).await;
    eventually("the other is cut", async || (!udp().await && tcp().await).then_some(())).await;
    scene.change("web", json!({"ports": [port("udp", "UDP")]})).await;
    eventually("the other way round", async || (udp().await && !tcp().await).then_some(())).await;
}
