//! Lines 212 to 219: names.

use e2e::api::eventually;
use e2e::machine;
use e2e::need;
use serde_json::json;

use crate::scene::{A, CNAME, PTR, SRV, Scene};

const PORTS: fn() -> serde_json::Value = || json!([{"name": "http", "port": 80, "targetPort": 8080}]);

#[tokio::test]
async fn c217_c216_the_cluster_and_its_services_have_names() {
    need!(machine::root());
    let scene = Scene::new("names").await;
    let kubernetes = scene.api.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    let address = kubernetes["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    scene.resolves("kubernetes.default.svc.cluster.local", A, &[&format!("A {address}"), "CODE 0"]).await;
    eventually("its short name is found", async || {
        scene.exec("ask", "getent hosts kubernetes.default").await.starts_with(&address).then_some(())
    })
    .await;

    scene.server("a", json!({"app": "web"}), &[8080], json!({})).await;
    scene.server("b", json!({"app": "web"}), &[8080], json!({})).await;
    let own = scene.service("web", json!({"selector": {"app": "web"}, "ports": PORTS()})).await;
    scene.service("each", json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": PORTS()})).await;
    scene.endpoints("each", &["a", "b"]).await;
    let address = own["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let mut both =
        [format!("A {}", scene.address("a").await), format!("A {}", scene.address("b").await), "CODE 0".into()];
    both.sort();
    scene.resolves(&scene.name("each"), A, &both).await;
    scene.resolves(&scene.name("web"), A, &[&format!("A {address}"), "CODE 0"]).await;
    let service = format!("SRV 80 {}", scene.name("web"));
    scene.resolves(&format!("_http._tcp.{}", scene.name("web")), SRV, &["CODE 0", &service]).await;
    eventually("each pod has its port", async || {
        let each = scene.dns(&format!("_http._tcp.{}", scene.name("each")), SRV).await;
        (each.len() == 3 && each[1..].iter().all(|line| line.starts_with("SRV 8080 "))).then_some(())
    })
    .await;
    let reverse: Vec<&str> = address.rsplit('.').collect();
    let reverse = format!("{}.in-addr.arpa", reverse.join("."));
    scene.resolves(&reverse, PTR, &["CODE 0", &format!("PTR {}", scene.name("web"))]).await;
    scene.resolves(&scene.name("nothing"), A, &["CODE 3"]).await;
}

#[tokio::test]
async fn c213_an_external_name_is_another_name_until_it_is_an_address() {
    need!(machine::root());
    let scene = Scene::new("external").await;
    scene.service("out", json!({"type": "ExternalName", "externalName": "foo.example.com"})).await;
    let leads_to = |wanted: &'static str| {
        let scene = &scene;
        async move {
            let said = scene.dns(&scene.name("out"), CNAME).await;
            said.iter().any(|line| line == wanted).then_some(())
        }
    };
    eventually("it is another name", || leads_to("CNAME foo.example.com")).await;
    scene.change("out", json!({"externalName": "bar.example.com"})).await;
    eventually("it follows the change", || leads_to("CNAME bar.example.com")).await;
    let now = scene.change("out", json!({"type": "ClusterIP", "externalName": null, "ports": PORTS()})).await;
    let address = format!("A {}", now["spec"]["clusterIP"].as_str().expect("an address"));
    scene.resolves(&scene.name("out"), A, &[&address, "CODE 0"]).await;
}

#[tokio::test]
async fn c212_c214_c215_a_pod_with_a_host_name_below_a_headless_service_has_a_name() {
    need!(machine::root());
    let scene = Scene::new("hostname").await;
    scene.service("sub", json!({"clusterIP": "None", "selector": {"app": "own"}, "ports": PORTS()})).await;
    scene.server("own", json!({"app": "own"}), &[8080], json!({"hostname": "querier", "subdomain": "sub"})).await;
    let address = scene.address("own").await;
    scene.endpoints("sub", &["own"]).await;
    let whole = scene.name("querier.sub");
    for name in [&whole, &scene.name("sub")] {
        scene.resolves(name, A, &[&format!("A {address}"), "CODE 0"]).await;
    }
    // The pod itself finds its names without asking anybody.
    let hosts = scene.exec("own", "cat /etc/hosts").await;
    let line = format!("{address}\t{whole}\tquerier");
    assert!(hosts.lines().any(|own| own == line), "{hosts}");
    assert_eq!(scene.exec("own", "hostname").await.trim(), "querier");
    for name in ["querier", &whole] {
        assert!(scene.exec("own", &format!("getent hosts {name}")).await.starts_with(&address), "{name}");
    }
}

#[tokio::test]
async fn c218_parts_of_names_are_found_by_the_search_path() {
    need!(machine::root());
    let scene = Scene::new("partial").await;
    let own = scene.service("web", json!({"ports": PORTS()})).await;
    let address = own["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let namespace = scene.api.namespace.clone();
    for name in ["web".to_owned(), format!("web.{namespace}"), format!("web.{namespace}.svc"), scene.name("web")] {
        eventually(&format!("{name} is found"), async || {
            scene.exec("ask", &format!("getent hosts {name}")).await.starts_with(&address).then_some(())
        })
        .await;
    }
    let part = format!("_http._tcp.{}", scene.name("web"));
    eventually("so is its port", async || {
        scene.dns(&part, SRV).await.iter().any(|line| line.starts_with("SRV 80 ")).then_some(())
    })
    .await;
    let resolv = scene.exec("ask", "cat /etc/resolv.conf").await;
    assert!(
        resolv.contains(&format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local")),
        "{resolv}"
    );
    assert!(resolv.contains("options ndots:5"), "{resolv}");
}

#[tokio::test]
async fn c219_a_pod_asks_whom_it_says() {
    need!(machine::root());
    let scene = Scene::new("resolver").await;
    // Answers every question with one address.
    let server = r#"use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(53, INADDR_ANY)) or die;
        while ($from = recv(S, $q, 512, 0)) { $e = index($q, "\0", 12) + 5;
            $r = substr($q, 0, 2) . pack("n5", 0x8580, 1, unpack("n", substr($q, $e - 4, 2)) == 1 ? 1 : 0, 0, 0) . substr($q, 12, $e - 12);
            $r .= pack("nnnNnC4", 0xc00c, 1, 1, 60, 4, 1, 1, 1, 1) if unpack("n", substr($q, $e - 4, 2)) == 1;
            send(S, $r, 0, $from) }"#;
    scene.pod("theirs", json!({}), &format!("exec /usr/bin/perl -e '{server}'"), json!({})).await;
    let address = scene.address("theirs").await;
    let config = json!({"nameservers": [address], "searches": ["resolv.conf.local"], "options": [{"name": "ndots", "value": "2"}]});
    scene.pod("asks", json!({}), "sleep 1d", json!({"dnsPolicy": "None", "dnsConfig": config})).await;
    scene.running("asks").await;
    let resolv = scene.exec("asks", "cat /etc/resolv.conf").await;
    let mut lines: Vec<&str> = resolv.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [&format!("nameserver {address}"), "options ndots:2", "search resolv.conf.local"]);
    eventually("it is asked", async || {
        scene.exec("asks", "getent ahostsv4 notexistname").await.starts_with("1.1.1.1").then_some(())
    })
    .await;
}
