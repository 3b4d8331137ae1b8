//! What the server says of itself.

use serde_json::{Value, json};

use crate::server::{api, kubeconfig};

#[tokio::test]
async fn c100_c200_the_version_is_told() {
    let version = api("version").await.get("/version").await.ok();
    for part in ["major", "minor"] {
        assert!(version[part].as_str().is_some_and(|text| text.parse::<u32>().is_ok()), "{version}");
    }
    for part in ["gitVersion", "gitCommit", "goVersion", "platform", "compiler", "buildDate", "gitTreeState"] {
        assert!(version[part].is_string(), "{part}");
    }
}

#[tokio::test]
async fn c048_c049_every_group_has_a_version_with_resources() {
    let api = api("groups").await;
    let groups = api.get("/apis").await.ok();
    for group in groups["groups"].as_array().expect("groups") {
        let preferred = &group["preferredVersion"];
        let versions = group["versions"].as_array().expect("versions");
        assert!(versions.contains(preferred), "{group}");
        let own = api.get(&format!("/apis/{}", group["name"].as_str().expect("a name"))).await.ok();
        assert_eq!(own["preferredVersion"], *preferred);
        for version in versions {
            let full = version["groupVersion"].as_str().expect("a group version");
            let list = api.get(&format!("/apis/{full}")).await.ok();
            assert_eq!((&list["kind"], &list["groupVersion"]), (&json!("APIResourceList"), &json!(full)));
            let resources = list["resources"].as_array().expect("resources");
            assert!(!resources.is_empty(), "{full}");
            for resource in resources {
                assert!(resource["name"].is_string() && resource["kind"].is_string() && resource["verbs"].is_array());
            }
        }
    }
}

#[tokio::test]
async fn c014_c037_registrations_stand_in_discovery() {
    let api = api("registrations").await;
    for (group, plurals) in [
        ("admissionregistration.k8s.io", &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"][..]),
        ("apiextensions.k8s.io", &["customresourcedefinitions"]),
    ] {
        let groups = api.get("/apis").await.ok();
        let found = groups["groups"].as_array().into_iter().flatten().find(|found| found["name"] == group);
        let versions = found.map(|found| found["versions"].clone()).expect("the group");
        let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
        assert!(versions.as_array().is_some_and(|all| all.contains(&version)), "{versions}");
        assert_eq!(api.get(&format!("/apis/{group}")).await.ok()["preferredVersion"], version);
        let resources = api.get(&format!("/apis/{group}/v1")).await.ok();
        for plural in plurals {
            assert!(resources["resources"].as_array().into_iter().flatten().any(|one| one["name"] == **plural));
        }
    }
}

#[tokio::test]
async fn c025_c027_discovery_comes_whole() {
    let api = api("aggregated").await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut all: Vec<String> = Vec::new();
    for root in ["/api", "/apis"] {
        let answer = api.send(http::Method::GET, root, &[("accept", accept)], Vec::new()).await;
        let media_type = answer.headers["content-type"].to_str().expect("text").to_owned();
        assert!(media_type.contains("as=APIGroupDiscoveryList") && media_type.contains("v=v2"), "{media_type}");
        let document = answer.ok();
        assert_eq!(
            (&document["kind"], &document["apiVersion"]),
            (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
        );
        for group in document["items"].as_array().expect("items") {
            for version in group["versions"].as_array().expect("versions") {
                for resource in version["resources"].as_array().expect("resources") {
                    let group = group["metadata"]["name"].as_str().unwrap_or_default();
                    all.push(format!("{group}/{}", resource["resource"].as_str().expect("a name")));
                    assert!(resource["responseKind"]["kind"].is_string() && resource["scope"].is_string());
                }
            }
        }
    }
    for wanted in ["/pods", "/services", "apps/deployments", "batch/jobs", "rbac.authorization.k8s.io/roles"] {
        assert!(all.iter().any(|one| one == wanted), "{wanted}");
    }
    // Who does not ask for it gets the old documents.
    let plain = api.get("/apis").await.ok();
    assert_eq!(plain["kind"], "APIGroupList");
}

#[test]
fn c190_c191_kubectl_finds_versions_and_the_control_plane() {
    // Whichever kubectl is there will do; without one the program itself is asked.
    let programs = [Some(e2e::machine::gantry()), e2e::machine::program("kubectl").ok()];
    for program in programs.into_iter().flatten() {
        let client = e2e::client::Client::new(&program, &kubeconfig());
        let versions = client.run(&["api-versions"]).ok();
        assert!(versions.lines().any(|line| line == "v1"), "{versions}");
        let told = client.run(&["cluster-info"]).ok();
        assert!(told.contains("Kubernetes control plane"), "{told}");
    }
}

#[tokio::test]
async fn c210_the_server_stands_in_its_own_endpoints() {
    let api = api("endpoints").await;
    let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await.ok();
    let address = &endpoints["subsets"][0]["addresses"][0]["ip"];
    assert!(address.is_string(), "{endpoints}");
    let selector = "labelSelector=kubernetes.io/service-name%3Dkubernetes";
    let slices = api.get(&format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?{selector}")).await.ok();
    let found: Vec<&Value> = slices["items"].as_array().into_iter().flatten().collect();
    assert!(found.iter().any(|slice| slice["endpoints"][0]["addresses"][0] == *address), "{slices}");
}
