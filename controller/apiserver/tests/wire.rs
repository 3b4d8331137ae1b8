//! How lists and watches come: in pages, in protobuf, packed, from a revision on.

mod server;

use std::io::Read as _;

use axum::body::Body;
use controller_object::protobuf;
use controller_store::model::Revision;
use futures::StreamExt as _;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use server::{Server, admin, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn filled(count: usize, bytes: usize) -> Server {
    let server = server().await;
    for n in 0..count {
        let name = format!("m-{n:03}");
        let map = json!({"metadata": {"name": name, "labels": {"odd": (n % 2).to_string()}}, "data": {"k": "v".repeat(bytes)}});
        assert_eq!(server.create(MAPS, map).await.code, 201);
    }
    server
}

async fn ask(server: &Server, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.send(admin(), request.body(Body::empty()).unwrap()).await;
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn c088_pages_show_one_revision_and_go_on_when_it_is_gone() {
    let server = filled(7, 1).await;
    let whole = server.get(&format!("{MAPS}?labelSelector=odd")).await.body;
    let first = server.get(&format!("{MAPS}?limit=3&labelSelector=odd")).await.body;
    let token = first["metadata"]["continue"].as_str().expect("there is more").to_owned();
    assert_eq!(first["metadata"].get("remainingItemCount"), None, "a selector makes it unknowable");
    // What comes and goes meanwhile is no part of the list.
    server.create(MAPS, json!({"metadata": {"name": "m-004b", "labels": {"odd": "x"}}})).await;
    server.call(http::Method::DELETE, &format!("{MAPS}/m-005"), Value::Null).await;
    let second = server.get(&format!("{MAPS}?limit=10&continue={token}&labelSelector=odd")).await.body;
    assert_eq!([names(&first), names(&second)].concat(), names(&whole));
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"].get("continue"), None);

    server.store.compact(Revision(server.store.revision().0));
    let expired = server.get(&format!("{MAPS}?limit=3&continue={token}&labelSelector=odd")).await;
    assert_eq!((expired.code, expired.body["reason"].as_str()), (410, Some("Expired")));
    let token = expired.body["metadata"]["continue"].as_str().expect("an inconsistent token");
    let rest = server.get(&format!("{MAPS}?limit=10&continue={token}&labelSelector=odd")).await;
    assert_eq!((rest.code, names(&rest.body)), (200, vec!["m-003", "m-004", "m-004b", "m-006"]));
    assert_eq!(server.get(&format!("{MAPS}?continue=x")).await.code, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_under_concurrent_writes_are_the_snapshot_of_their_revision() {
    let server = std::sync::Arc::new(filled(40, 1).await);
    let writing = std::sync::Arc::clone(&server);
    let done = tokio_util::sync::CancellationToken::new();
    let stop = done.clone();
    let writer = tokio::spawn(async move {
        let mut written = 0;
        while !stop.is_cancelled() {
            let path = format!("{MAPS}/m-{:03}", written * 7 % 40);
            match written % 3 {
                0 => drop(writing.call(http::Method::DELETE, &path, Value::Null).await),
                1 => drop(writing.call(http::Method::PATCH, &path, json!({"data": {"n": written.to_string()}})).await),
                _ => {
                    let name = format!("m-{:03}", (written * 7 + 26) % 40);
                    writing.create(MAPS, json!({"metadata": {"name": name}})).await;
                }
            }
            written += 1;
        }
        written
    });
    for limit in [1, 3, 7, 50].into_iter().cycle().take(24) {
        let mut page = server.get(&format!("{MAPS}?limit={limit}")).await.body;
        let revision = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let mut items = page["items"].as_array().unwrap().clone();
        while let Some(token) = page["metadata"]["continue"].as_str().map(str::to_owned) {
            page = server.get(&format!("{MAPS}?limit={limit}&continue={token}")).await.body;
            assert_eq!(page["metadata"]["resourceVersion"], *revision);
            items.extend(page["items"].as_array().unwrap().iter().cloned());
        }
        let exact = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
        let whole = server.get(&exact).await.body;
        assert_eq!(whole["items"], json!(items), "pages of {limit} at {revision}");
    }
    done.cancel();
    assert!(writer.await.unwrap() > 24, "somebody wrote meanwhile");
}

#[tokio::test]
async fn lists_come_in_protobuf_packed_and_as_metadata() {
    let server = filled(60, 4000).await;
    let json = server.get(MAPS).await.body;
    let several = format!("{PROTOBUF},application/json");
    let (code, headers, body) = ask(&server, MAPS, &[("accept", &several)]).await;
    assert_eq!((code, headers["content-type"].to_str().unwrap()), (200, PROTOBUF));
    let list = protobuf::decode(&body).unwrap();
    assert_eq!((&list["kind"], names(&list)), (&json!("ConfigMapList"), names(&json)));
    assert_eq!(list["items"][7]["data"], json["items"][7]["data"]);
    assert_eq!(list["metadata"]["resourceVersion"], json["metadata"]["resourceVersion"]);

    for accept in ["application/json", PROTOBUF] {
        let (_, headers, packed) = ask(&server, MAPS, &[("accept", accept), ("accept-encoding", "gzip")]).await;
        assert_eq!(headers["content-encoding"], "gzip");
        let (_, _, plain) = ask(&server, MAPS, &[("accept", accept)]).await;
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain && packed.len() < plain.len() / 4);
    }
    let (_, headers, _) = ask(&server, &format!("{MAPS}/m-001"), &[("accept-encoding", "gzip")]).await;
    assert_eq!(headers.get("content-encoding"), None, "small answers are not worth it");

    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, _, body) = ask(&server, MAPS, &[("accept", &metadata)]).await;
    let list = protobuf::decode(&body).unwrap();
    assert_eq!((&list["kind"], names(&list)), (&json!("PartialObjectMetadataList"), names(&json)));
    let (_, _, table) = ask(&server, MAPS, &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")]).await;
    let table: Value = serde_json::from_slice(&table).unwrap();
    assert_eq!(table["rows"].as_array().unwrap().len(), 60);
    assert_eq!(table["rows"][59]["cells"][0], "m-059");
}

#[tokio::test]
async fn one_object_goes_both_ways_in_protobuf() {
    let server = filled(1, 3).await;
    let path = format!("{MAPS}/m-000");
    let (_, _, body) = ask(&server, &path, &[("accept", PROTOBUF)]).await;
    let object = protobuf::decode(&body).unwrap();
    let json = server.get(&path).await.body;
    assert_eq!(
        (&object["data"], &object["metadata"]["managedFields"]),
        (&json["data"], &json["metadata"]["managedFields"])
    );
    let mut changed = object;
    changed["data"]["k"] = "w".into();
    let body = protobuf::encode(&changed).unwrap();
    let put = server.raw(admin(), http::Method::PUT, &path, PROTOBUF, body).await;
    assert_eq!((put.code, &put.body["data"]["k"]), (200, &json!("w")), "{}", put.body);
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark_in_every_form() {
    let server = filled(3, 1).await;
    let path = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=30");
    let refused = server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (422, Some("Invalid")));
    for accept in ["application/json", PROTOBUF, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"] {
        let request = Request::get(format!("{path}&allowWatchBookmarks=true")).header("accept", accept);
        let response = server.send(admin(), request.body(Body::empty()).unwrap()).await;
        assert!(response.headers()["content-type"].to_str().unwrap().ends_with(";stream=watch"));
        let mut stream = response.into_body().into_data_stream();
        let first = stream.next().await.unwrap().unwrap();
        let events: Vec<(String, Value)> = match accept {
            PROTOBUF => frames(&first),
            _ => first.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(line).collect(),
        };
        let kinds: Vec<&str> = events.iter().map(|event| event.0.as_str()).collect();
        assert_eq!(kinds, ["ADDED", "ADDED", "ADDED", "BOOKMARK"], "{accept}");
        let bookmark = &events[3].1["metadata"];
        assert_eq!(bookmark["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(bookmark["resourceVersion"], server.store.revision().to_string());
        assert_eq!(events[1].1["metadata"]["name"], "m-001");
    }
}

#[tokio::test]
async fn documents_are_kept_until_they_change() {
    let server = server().await;
    let index = server.get("/openapi/v3").await.body;
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (code, headers, _) = ask(&server, &address, &[]).await;
    assert_eq!((code, headers["cache-control"].to_str().unwrap()), (200, "public, immutable"));
    let (code, _, body) = ask(&server, &address, &[("if-none-match", headers["etag"].to_str().unwrap())]).await;
    assert_eq!((code, body.len()), (304, 0));
    let (code, headers, _) = ask(&server, "/openapi/v3/apis/apps/v1?hash=OLD", &[]).await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, address.as_str()));
    let (code, headers, _) = ask(&server, "/openapi/v2", &[]).await;
    let known = headers["etag"].to_str().unwrap().to_owned();
    assert_eq!((code, ask(&server, "/openapi/v2", &[("if-none-match", &known)]).await.0), (200, 304));
    let protobuf = ("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf");
    assert_eq!(ask(&server, "/openapi/v2", &[("if-none-match", &known), protobuf]).await.0, 200, "another form");
    assert_eq!(ask(&server, "/openapi/v3/apis/none/v1", &[]).await.0, 404);
}

fn line(line: &[u8]) -> (String, Value) {
    let event: Value = serde_json::from_slice(line).unwrap();
    (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
}

/// The frames of a protobuf stream: four bytes of length, then type and object of a meta.v1 WatchEvent.
fn frames(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        bytes = rest;
        let text = usize::from(frame[1]);
        let kind = String::from_utf8(frame[2..2 + text].to_vec()).unwrap();
        let at = frame.windows(4).position(|window| window == protobuf::MAGIC).expect("an object");
        events.push((kind, protobuf::decode(&frame[at..]).unwrap()));
    }
    events
}
