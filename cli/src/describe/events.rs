//! What happened to an object: its events, the oldest first.

use jiff::Timestamp;
use serde_json::Value;

use super::kinds::table;
use super::page::Page;
use super::template::shown;
use crate::client::Session;
use crate::duration::age;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::list::{self, SelectArgs};

/// Reads the events of an object.
pub(crate) async fn of(session: &Session, catalog: &Catalog, object: &Value) -> Result<Vec<Value>, Failure> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let selector = format!("involvedObject.name={},involvedObject.kind={}", text("/metadata/name"), text("/kind"));
    let select = SelectArgs { selector: None, field_selector: Some(selector) };
    let namespace = Some(text("/metadata/namespace")).filter(|namespace| !namespace.is_empty());
    let mut events = list::objects(session, catalog.expect("events.v1")?, namespace, &select).await?;
    // Objects of an earlier life have the same name; nodes use their name as uid.
    let uid = text("/metadata/uid");
    events.retain(|event| {
        let about = event.pointer("/involvedObject/uid").and_then(Value::as_str).unwrap_or_default();
        about.is_empty() || about == uid || text("/kind") == "Node"
    });
    events.sort_by_key(|event| last_seen(event).unwrap_or_default());
    Ok(events)
}

/// Writes the events.
pub(crate) fn write(page: &mut Page, events: &[Value], now: Timestamp) {
    if events.is_empty() {
        return page.field(0, "Events", "<none>");
    }
    page.heading(0, "Events");
    let rows = events.iter().map(|event| {
        let part = |key: &str| shown(event.get(key));
        let from = match event.pointer("/source/component").map(|from| shown(Some(from))) {
            Some(from) if !from.is_empty() => from,
            _ => part("reportingComponent"),
        };
        let message = part("message").trim().to_owned();
        vec![part("type"), part("reason"), seen(event, now), from, message]
    });
    let rows = rows.collect();
    table(page, &["Type", "Reason", "Age", "From", "Message"], rows);
}

fn time(event: &Value, pointer: &str) -> Option<String> {
    event.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

/// When it happened last.
pub(crate) fn last_seen(event: &Value) -> Option<String> {
    time(event, "/series/lastObservedTime").or(time(event, "/lastTimestamp")).or(time(event, "/eventTime"))
}

/// How long ago, and how often since when.
pub(crate) fn seen(event: &Value, now: Timestamp) -> String {
    let first = time(event, "/firstTimestamp").or(time(event, "/eventTime"));
    let count = event.pointer("/series/count").or(event.get("count")).and_then(Value::as_i64).unwrap_or(1);
    let last = age(last_seen(event).as_deref(), now);
    match count > 1 {
        true => format!("{last} (x{count} over {})", age(first.as_deref(), now)),
        false => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_told_with_their_count() -> Result<(), jiff::Error> {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse()?;
        let event = json!({"type": "Warning", "reason": "BackOff", "message": "m", "source": {"component": "kubelet"},
            "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:50Z"});
        assert_eq!(seen(&event, now), "10s (x3 over 60s)");
        let mut page = Page::default();
        write(&mut page, &[event], now);
        assert!(page.text().contains("  Warning  BackOff  10s (x3 over 60s)  kubelet  m"), "{}", page.text());
        Ok(())
    }
}
