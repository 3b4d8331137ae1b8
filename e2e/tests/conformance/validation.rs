//! Unknown and doubled fields of typed objects.

use e2e::api::Patch;
use http::Method;
use serde_json::json;

use crate::server::api;

const DOUBLED: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "NAME"}, "spec": {"unknown": 1,
    "paused": true, "paused": true, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
    "spec": {"containers": [{"name": "c", "image": "i"}]}}}}"#;

#[tokio::test]
async fn c054_unknown_and_doubled_fields_are_told_or_refused() {
    let api = api("fields").await;
    let path = api.path("apps/v1", "deployments");
    let json = [("content-type", "application/json")];
    let body = |name: &str| DOUBLED.replace("NAME", name).into_bytes();
    let strict =
        api.send(Method::POST, &format!("{path}?fieldValidation=Strict"), &json, body("strict")).await.refused(400);
    assert!(strict.contains("strict decoding error"), "{strict}");
    assert!(
        strict.contains("unknown field \"spec.unknown\"") && strict.contains("duplicate field \"spec.paused\""),
        "{strict}"
    );
    let warned = api.send(Method::POST, &format!("{path}?fieldValidation=Warn"), &json, body("warn")).await;
    let warnings = warned.warnings().join("\n");
    assert!(warnings.contains("unknown field") && warnings.contains("duplicate field"), "{warnings}");
    warned.ok();
    let ignored = api.send(Method::POST, &format!("{path}?fieldValidation=Ignore"), &json, body("ignore")).await;
    assert!(ignored.warnings().is_empty());
    ignored.ok();
    let applied =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "warn"}, "spec": {"unknown": 1}});
    let query = "fieldManager=e2e&force=true&fieldValidation=Strict";
    let refused = api.patch(&format!("{path}/warn?{query}"), Patch::Apply, applied).await.refused(400);
    assert!(refused.contains("unknown"), "{refused}");
    let merged = json!({"spec": {"other": 1}});
    let refused = api.patch(&format!("{path}/warn?fieldValidation=Strict"), Patch::Merge, merged).await.refused(422);
    assert!(refused.contains("unknown field \"spec.other\""), "{refused}");
}

#[tokio::test]
async fn c056_unknown_metadata_is_refused() {
    let api = api("metadata").await;
    let path = format!("{}?fieldValidation=Strict", api.path("apps/v1", "deployments"));
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m", "unknownMeta": "x"}, "spec":
        {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}, "unknownSubMeta": "y"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let refused = api.post(&path, body).await.refused(400);
    for field in ["metadata.unknownMeta", "spec.template.metadata.unknownSubMeta"] {
        assert!(refused.contains(&format!("unknown field \"{field}\"")), "{refused}");
    }
}
