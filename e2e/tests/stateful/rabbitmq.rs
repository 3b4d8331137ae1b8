use e2e::client::eventually;
use serde_json::Value;

use super::app::{App, LONG, numbers};

/// Asks the management API of a member.
fn ask(app: &App, member: &str, method: &str, path: &str, body: &str) -> Result<String, String> {
    let line = format!(
        "curl -sS --fail-with-body -m 15 -u guest:guest -X {method} -H content-type:application/json -d '{body}' \
         http://127.0.0.1:15672/api/{path}"
    );
    let said = app.shell(member, &line);
    if said.code == 0 { Ok(said.out) } else { Err(said.out + &said.err) }
}

pub(crate) fn scene(app: &App) {
    app.whole("statefulset/rabbitmq");
    let running = |member: &str| {
        let nodes: Value = serde_json::from_str(&ask(app, member, "GET", "nodes", "").ok()?).ok()?;
        Some(nodes.as_array()?.iter().filter(|node| node["running"] == true).count())
    };
    eventually("three nodes are one cluster", LONG, || (running("rabbitmq-0")? == 3).then_some(()));
    let queue = r#"{"durable": true, "arguments": {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3}}"#;
    eventually("the queue is there", LONG, || ask(app, "rabbitmq-0", "PUT", "queues/%2F/orders", queue).ok());
    let other = |lost: &str| if lost == "rabbitmq-0" { "rabbitmq-1" } else { "rabbitmq-0" }.to_owned();
    let write = |via: &str, number: u32| {
        let body = format!(
            r#"{{"properties": {{"delivery_mode": 2}}, "routing_key": "orders", "payload": "key-{number}", "payload_encoding": "string"}}"#
        );
        let said = ask(app, via, "POST", "exchanges/%2F/amq.default/publish", &body)?;
        if said.contains("true") { Ok(()) } else { Err(said) }
    };
    let all = r#"{"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"}"#;
    let read = |member: &str| {
        numbers(&ask(app, member, "POST", "queues/%2F/orders/get", all).unwrap_or_default(), "\"payload\":\"key-")
    };
    app.keeps("rabbitmq", other, write, read);
    eventually("every member has the queue", LONG, || {
        let queue: Value = serde_json::from_str(&ask(app, "rabbitmq-2", "GET", "queues/%2F/orders", "").ok()?).ok()?;
        (queue["online"].as_array()?.len() == 3).then_some(())
    });
}
