//! What watches hold that nobody reads: the memory of this process, so nothing else is tested here.

mod server;

use std::time::{Duration, Instant};

use axum::body::Body;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, Request};
use serde_json::{Value, json};
use server::{Server, admin, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn watch(server: &Server, query: &str) -> axum::body::BodyDataStream {
    let request = Request::get(format!("{MAPS}?watch=true&{query}")).body(Body::empty()).unwrap();
    let response = server.send(admin(), request).await;
    assert_eq!(response.status(), 200);
    response.into_body().into_data_stream()
}

/// One after the other, and nothing beside them: they look at the memory of the whole process.
#[tokio::test]
async fn watches_are_bounded() {
    ten_thousand_idle_watches_cost_little_and_all_are_told().await;
    watchers_that_do_not_read_cost_little_and_are_told_when_they_are_too_late().await;
}

async fn watchers_that_do_not_read_cost_little_and_are_told_when_they_are_too_late() {
    let server = server().await;
    let value = "v".repeat((1 << 20) - 100);
    for n in 0..8 {
        let made = server.create(MAPS, json!({"metadata": {"name": format!("m-{n}")}, "data": {"v": value}})).await;
        assert_eq!(made.code, 201);
    }
    let before = resident();
    let mut lazy = Vec::new();
    for _ in 0..100 {
        lazy.push(watch(&server, "").await);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "100 watchers that never read 8 MiB hold {} MiB", grown >> 20);
    // More than the history holds.
    for n in 0..12 {
        let patch = json!({"data": {"v": value, "n": n.to_string()}});
        assert_eq!(server.call(Method::PATCH, &format!("{MAPS}/m-0"), patch).await.code, 200);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 160 << 20, "12 MiB of changes make them hold {} MiB", grown >> 20);
    let mut late = lazy.pop().unwrap();
    let mut text = String::new();
    while let Some(piece) = late.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().filter(|event| event["type"] == "ADDED").count(), 8);
    let last = events.last().unwrap();
    assert_eq!(
        (last["type"].as_str(), last["object"]["code"].as_u64()),
        (Some("ERROR"), Some(410)),
        "{}",
        last["type"]
    );
}

async fn ten_thousand_idle_watches_cost_little_and_all_are_told() {
    const WATCHES: usize = 10_000;
    let server = server().await;
    let before = resident();
    let mut watches = Vec::with_capacity(WATCHES);
    for _ in 0..WATCHES {
        let mut watch = watch(&server, "resourceVersion=1").await;
        // It waits as an idle one does.
        while watch.next().now_or_never().is_some() {}
        watches.push(watch);
    }
    let each = resident().saturating_sub(before) / WATCHES;
    println!("an idle watch holds {each} bytes");
    assert!(each < 16 << 10, "an idle watch holds {each} bytes");
    let begun = Instant::now();
    let made = server.create(MAPS, json!({"metadata": {"name": "m"}})).await;
    assert_eq!(made.code, 201);
    assert!(begun.elapsed() < Duration::from_secs(10), "a write beside them took {:?}", begun.elapsed());
    for watch in &mut watches {
        let line = watch.next().await.unwrap().unwrap();
        assert!(line.starts_with(br#"{"type":"ADDED""#));
    }
}
