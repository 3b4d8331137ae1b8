//! Watches: where they begin, what they leave out, in which order events come.

use e2e::api::{Api, Patch};
use serde_json::{Value, json};

use crate::server::api;

fn labelled(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"watch": label}}, "data": {"mutation": "0"}})
}

async fn mutate(api: &Api, path: &str, value: &str) -> Value {
    api.patch(path, Patch::Merge, json!({"data": {"mutation": value}})).await.ok()
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}

#[tokio::test]
async fn c097_each_watcher_sees_what_its_selector_takes() {
    let api = api("watch").await;
    let path = api.path("v1", "configmaps");
    let mut only_a = api.watch(&format!("{path}?labelSelector=watch%3Da")).await;
    let mut only_b = api.watch(&format!("{path}?labelSelector=watch%3Db")).await;
    let mut both = api.watch(&format!("{path}?labelSelector=watch%20in%20(a,b)")).await;
    api.post(&path, labelled("one", "a")).await.ok();
    mutate(&api, &format!("{path}/one"), "1").await;
    api.post(&path, labelled("two", "b")).await.ok();
    api.delete(&format!("{path}/one"), Value::Null).await.ok();
    api.delete(&format!("{path}/two"), Value::Null).await.ok();
    let event = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    let (of_a, of_b) = (
        [event("ADDED", "one"), event("MODIFIED", "one"), event("DELETED", "one")],
        [event("ADDED", "two"), event("DELETED", "two")],
    );
    for wanted in &of_a {
        assert_eq!(only_a.told().await, *wanted);
    }
    for wanted in &of_b {
        assert_eq!(only_b.told().await, *wanted);
    }
    for wanted in [&of_a[0], &of_a[1], &of_b[0], &of_a[2], &of_b[1]] {
        assert_eq!(both.told().await, *wanted);
    }
}

#[tokio::test]
async fn c096_a_watch_from_a_revision_tells_what_came_after() {
    let api = api("from").await;
    let path = api.path("v1", "configmaps");
    let object = format!("{path}/one");
    api.post(&path, labelled("one", "from")).await.ok();
    let first = mutate(&api, &object, "1").await;
    let second = mutate(&api, &object, "2").await;
    api.delete(&object, Value::Null).await.ok();
    let mut events =
        api.watch(&format!("{path}?labelSelector=watch%3Dfrom&resourceVersion={}", revision(&first))).await;
    let (kind, seen) = events.next("the second change").await;
    assert_eq!((kind.as_str(), revision(&seen)), ("MODIFIED", revision(&second)));
    assert_eq!(events.told().await.0, "DELETED");
}

#[tokio::test]
async fn c095_a_watch_goes_on_where_another_ended() {
    let api = api("restart").await;
    let path = api.path("v1", "configmaps");
    let selected = format!("{path}?labelSelector=watch%3Drestarted");
    let mut first = api.watch(&selected).await;
    api.post(&path, labelled("one", "restarted")).await.ok();
    first.next("the creation").await;
    mutate(&api, &format!("{path}/one"), "1").await;
    let (_, last) = first.next("the first change").await;
    drop(first);
    mutate(&api, &format!("{path}/one"), "2").await;
    let mut second = api.watch(&format!("{selected}&resourceVersion={}", revision(&last))).await;
    api.delete(&format!("{path}/one"), Value::Null).await.ok();
    let (kind, seen) = second.next("the change between").await;
    assert_eq!((kind.as_str(), &seen["data"]["mutation"]), ("MODIFIED", &json!("2")));
    assert_eq!(second.told().await.0, "DELETED");
}

#[tokio::test]
async fn c098_leaving_the_selection_is_a_deletion() {
    let api = api("leave").await;
    let path = api.path("v1", "configmaps");
    let object = format!("{path}/one");
    let mut events = api.watch(&format!("{path}?labelSelector=watch%3Dhere")).await;
    api.post(&path, labelled("one", "here")).await.ok();
    let relabel = |label: &str| json!({"metadata": {"labels": {"watch": label}}});
    api.patch(&object, Patch::Merge, relabel("away")).await.ok();
    mutate(&api, &object, "unseen").await;
    api.patch(&object, Patch::Merge, relabel("here")).await.ok();
    mutate(&api, &object, "3").await;
    api.delete(&object, Value::Null).await.ok();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|kind| kind != "DELETED") || seen.len() < 5 {
        seen.push(events.told().await.0);
    }
    assert_eq!(seen, ["ADDED", "DELETED", "ADDED", "MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn c099_concurrent_watches_tell_one_order() {
    let api = api("order").await;
    let path = api.path("v1", "configmaps");
    let start = api.get(&path).await.ok();
    let writer = {
        let (api, path) = (api.clone(), path.clone());
        tokio::spawn(async move {
            for n in 0..40 {
                api.post(&path, labelled(&format!("o-{n}"), "order")).await.ok();
                mutate(&api, &format!("{path}/o-{n}"), "1").await;
                if n % 2 == 0 {
                    api.delete(&format!("{path}/o-{n}"), Value::Null).await.ok();
                }
            }
        })
    };
    let mut first = api.watch(&format!("{path}?labelSelector=watch&resourceVersion={}", revision(&start))).await;
    let mut seen = Vec::new();
    let mut others = Vec::new();
    for n in 0..100 {
        let (_, object) = first.next("one of a hundred events").await;
        seen.push(revision(&object));
        if n % 10 == 0 {
            let from = revision(&object);
            others.push((n, api.watch(&format!("{path}?labelSelector=watch&resourceVersion={from}")).await));
        }
    }
    writer.await.expect("the writer ends");
    for (start, mut other) in others {
        for wanted in &seen[start + 1..] {
            assert_eq!(revision(&other.next("the same events").await.1), *wanted);
        }
    }
}
