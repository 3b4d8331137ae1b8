//! Lists in pages, tables, and deletions of whole collections.

use e2e::api::{Api, Patch};
use serde_json::{Value, json};

use crate::server::api;

/// Makes `count` labelled ConfigMaps named `NAME-0` and on.
async fn maps(api: &Api, count: usize) -> String {
    let path = api.path("v1", "configmaps");
    for n in 0..count {
        let map = json!({"metadata": {"name": format!("m-{n:03}"), "labels": {"kind": "made"}}, "data": {"n": n.to_string()}});
        api.post(&path, map).await.ok();
    }
    path
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn c087_lists_come_in_chunks_of_one_revision() {
    let api = api("chunks").await;
    let path = maps(&api, 25).await;
    let whole = names(&api.get(&path).await.ok());
    let (mut seen, mut query, mut revision) = (Vec::new(), "limit=7".to_owned(), None);
    loop {
        let page = api.get(&format!("{path}?{query}")).await.ok();
        let metadata = &page["metadata"];
        let told = metadata["resourceVersion"].as_str().expect("a revision").to_owned();
        assert_eq!(*revision.get_or_insert(told.clone()), told);
        seen.extend(names(&page));
        let Some(token) = metadata["continue"].as_str() else {
            assert_eq!(metadata.get("remainingItemCount"), None);
            break;
        };
        assert_eq!(metadata["remainingItemCount"], whole.len() - seen.len());
        query = format!("limit=7&continue={token}");
    }
    assert_eq!(seen, whole);
}

#[tokio::test]
async fn c089_a_review_has_no_table() {
    let api = api("tables").await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    let headers = [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let refused = api.send(http::Method::POST, path, &headers, review.into_bytes()).await;
    assert_eq!((refused.code, &refused.body["reason"]), (406, &json!("NotAcceptable")));
}

#[tokio::test]
async fn c261_c260_config_maps_live_and_refuse_empty_keys() {
    let api = api("maps").await;
    let path = maps(&api, 3).await;
    let patch = json!({"metadata": {"labels": {"kind": "other"}}, "data": {"more": "x"}});
    let patched = api.patch(&format!("{path}/m-001"), Patch::Strategic, patch).await.ok();
    assert_eq!(patched["data"], json!({"n": "1", "more": "x"}));
    let everywhere = api.get("/api/v1/configmaps?labelSelector=kind%3Dother").await.ok();
    assert!(names(&everywhere).contains(&"m-001".to_owned()));
    api.delete(&format!("{path}?labelSelector=kind%3Dmade"), Value::Null).await.ok();
    assert_eq!(names(&api.get(&format!("{path}?labelSelector=kind")).await.ok()), ["m-001"]);
    let message = api.post(&path, json!({"metadata": {"name": "empty"}, "data": {"": "v"}})).await.refused(422);
    assert!(message.contains("data[]") && message.contains("Invalid value"), "{message}");
}

#[tokio::test]
async fn c339_c338_secrets_live_and_refuse_empty_keys() {
    let api = api("secrets").await;
    let path = api.path("v1", "secrets");
    let secret =
        json!({"metadata": {"name": "s", "labels": {"made": "yes"}}, "data": {"k": "dmFsdWU="}, "type": "Opaque"});
    api.post(&path, secret).await.ok();
    let patch = json!({"metadata": {"labels": {"patched": "true"}}, "data": {"k": "dmFsdWUx"}});
    assert_eq!(api.patch(&format!("{path}/s"), Patch::Strategic, patch).await.ok()["data"]["k"], "dmFsdWUx");
    assert_eq!(names(&api.get("/api/v1/secrets?labelSelector=patched").await.ok()), ["s"]);
    api.delete(&format!("{path}?labelSelector=patched"), Value::Null).await.ok();
    assert_eq!(names(&api.get(&format!("{path}?labelSelector=made")).await.ok()), Vec::<String>::new());
    let message = api.post(&path, json!({"metadata": {"name": "empty"}, "data": {"": "dg=="}})).await.refused(422);
    assert!(message.contains("data[]"), "{message}");
}

#[tokio::test]
async fn c385_c453_what_is_immutable_stays() {
    let api = api("immutable").await;
    for (plural, old, new) in [("configmaps", "a", "b"), ("secrets", "YQ==", "Yg==")] {
        let path = api.path("v1", plural);
        let object = format!("{path}/frozen");
        api.post(&path, json!({"metadata": {"name": "frozen"}, "data": {"k": old}})).await.ok();
        api.patch(&object, Patch::Merge, json!({"data": {"k": new}})).await.ok();
        api.patch(&object, Patch::Merge, json!({"immutable": true})).await.ok();
        let message = api.patch(&object, Patch::Merge, json!({"data": {"k": old}})).await.refused(422);
        assert!(message.contains("field is immutable when `immutable` is set"), "{message}");
        api.patch(&object, Patch::Merge, json!({"immutable": false})).await.refused(422);
        api.patch(&object, Patch::Merge, json!({"metadata": {"labels": {"still": "changes"}}})).await.ok();
        api.delete(&object, Value::Null).await.ok();
    }
}

#[tokio::test]
async fn c262_a_config_map_is_replaced() {
    let api = api("replaced-map").await;
    let path = api.path("v1", "configmaps");
    let mut map = api.post(&path, json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}})).await.ok();
    map["data"] = json!({"b": "3"});
    let replaced = api.put(&format!("{path}/m"), map).await.ok();
    assert_eq!(replaced["data"], json!({"b": "3"}));
    assert_eq!(api.get(&format!("{path}/m")).await.ok(), replaced);
}

#[tokio::test]
async fn c302_c303_pod_templates_are_replaced_and_go_together() {
    let api = api("templates").await;
    let path = api.path("v1", "podtemplates");
    let template = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"set": "one"}}, "template": {"metadata": {"labels": {"pod": "yes"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}})
    };
    for name in ["a", "b", "c"] {
        api.post(&path, template(name)).await.ok();
    }
    let mut one = api.get(&format!("{path}/a")).await.ok();
    one["metadata"]["annotations"] = json!({"updated": "true"});
    one["template"]["spec"]["containers"][0]["image"] = json!("j");
    let replaced = api.put(&format!("{path}/a"), one).await.ok();
    assert_eq!(replaced["metadata"]["annotations"]["updated"], "true");
    assert_eq!(replaced["template"]["spec"]["containers"][0]["image"], "j");
    api.delete(&format!("{path}?labelSelector=set=one"), Value::Null).await.ok();
    assert_eq!(api.get(&path).await.ok()["items"], json!([]));
}
