//! What is said about a namespace: its state and what limits it; and about the limits by themselves.

use serde_json::Value;
use std::collections::BTreeSet;

use super::kinds::{at, head, labels, sorted, table, text};
use super::page::{Page, local_time};
use super::related::of_kind;
use super::template::{list, shown};

/// Writes a namespace; `related` holds its quotas and limit ranges.
pub(super) fn write(page: &mut Page, object: &Value, related: &[Value]) {
    page.field(0, "Name", text(object, "/metadata/name"));
    labels(page, object);
    page.field(0, "Status", text(object, "/status/phase"));
    let null = Value::Null;
    let conditions: Vec<Vec<String>> = list(at(object, "/status").unwrap_or(&null), "conditions")
        .map(|condition| {
            let part = |key: &str| shown(condition.get(key));
            let since = local_time(&part("lastTransitionTime"));
            vec![part("type"), part("status"), since, part("reason"), part("message")]
        })
        .collect();
    if !conditions.is_empty() {
        page.heading(0, "Conditions");
        table(page, &["Type", "Status", "LastTransitionTime", "Reason", "Message"], conditions);
    }
    page.cells(0, [String::new()]);
    quotas(page, of_kind(related, "ResourceQuota").collect());
    page.cells(0, [String::new()]);
    ranges(page, of_kind(related, "LimitRange").collect());
}

fn quotas(page: &mut Page, mut quotas: Vec<&Value>) {
    if quotas.is_empty() {
        return page.cells(0, ["No resource quota.".to_owned()]);
    }
    quotas.sort_by_key(|quota| text(quota, "/metadata/name"));
    page.cells(0, ["Resource Quotas".to_owned()]);
    for quota in quotas {
        page.field(1, "Name", text(quota, "/metadata/name"));
        let mut scopes: Vec<String> = list(&quota["spec"], "scopes").map(|scope| shown(Some(scope))).collect();
        scopes.sort();
        if !scopes.is_empty() {
            page.field(1, "Scopes", scopes.join(", "));
        }
        scopes.iter().filter_map(|scope| meaning(scope)).for_each(|words| page.cells(1, [format!("* {words}")]));
        let hard = sorted(quota, "/status/hard");
        let rows = hard.iter().map(|(name, amount)| {
            let used = at(quota, "/status/used").and_then(|used| used.get(name.as_str()));
            vec![(*name).clone(), used.map_or("0".to_owned(), |used| shown(Some(used))), shown(Some(amount))]
        });
        page.cells(1, ["Resource", "Used", "Hard"].map(str::to_owned));
        page.cells(1, ["--------", "---", "---"].map(str::to_owned));
        rows.for_each(|row| page.cells(1, row));
    }
}

/// Which pods a scope of a quota is about.
fn meaning(scope: &str) -> Option<&'static str> {
    Some(match scope {
        "Terminating" => "Counts pods with an active deadline.",
        "NotTerminating" => "Counts pods without an active deadline.",
        "BestEffort" => "Counts pods that neither request nor limit anything.",
        "NotBestEffort" => "Counts pods that request or limit something.",
        _ => return None,
    })
}

/// Writes a quota on a page of its own.
pub(super) fn quota(page: &mut Page, object: &Value) {
    head(page, object);
    let mut scopes: Vec<String> =
        list(object.get("spec").unwrap_or(&Value::Null), "scopes").map(|scope| shown(Some(scope))).collect();
    scopes.sort();
    if !scopes.is_empty() {
        page.field(0, "Scopes", scopes.join(", "));
        scopes.iter().filter_map(|scope| meaning(scope)).for_each(|words| page.cells(0, [format!(" * {words}")]));
    }
    page.cells(0, ["Resource", "Used", "Hard"].map(str::to_owned));
    page.cells(0, ["--------", "----", "----"].map(str::to_owned));
    for (name, amount) in sorted(object, "/status/hard") {
        let used = at(object, "/status/used").and_then(|used| used.get(name.as_str()));
        let used = used.map_or("0".to_owned(), |used| shown(Some(used)));
        page.cells(0, [name.clone(), used, shown(Some(amount))]);
    }
}

/// Writes a LimitRange on a page of its own.
pub(super) fn range(page: &mut Page, object: &Value) {
    head(page, object);
    limits(page, "", &[object]);
}

fn ranges(page: &mut Page, mut ranges: Vec<&Value>) {
    if ranges.is_empty() {
        return page.cells(0, ["No LimitRange resource.".to_owned()]);
    }
    ranges.sort_by_key(|range| text(range, "/metadata/name"));
    page.cells(0, ["Resource Limits".to_owned()]);
    // One blank before the table, not the two of a level.
    limits(page, " ", &ranges);
}

fn limits(page: &mut Page, before: &str, ranges: &[&Value]) {
    const COLUMNS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    let indent = |column: usize, text: &str| if column == 0 { format!("{before}{text}") } else { text.to_owned() };
    let mut rows = Vec::new();
    for limit in ranges.iter().flat_map(|range| list(range.get("spec").unwrap_or(&Value::Null), "limits")) {
        let maps = COLUMNS.map(|key| sorted(limit, &format!("/{key}")));
        let names: BTreeSet<&String> = maps.iter().flat_map(|map| map.keys().copied()).collect();
        for name in names {
            let mut row = vec![indent(0, &text(limit, "/type")), name.clone()];
            row.extend(maps.iter().map(|map| map.get(name).map_or("-".to_owned(), |amount| shown(Some(amount)))));
            rows.push(row);
        }
    }
    let titles = ["Type", "Resource", "Min", "Max", "Default Request", "Default Limit", "Max Limit/Request Ratio"];
    page.cells(0, titles.iter().enumerate().map(|(column, title)| indent(column, title)));
    page.cells(0, titles.iter().enumerate().map(|(column, title)| indent(column, &"-".repeat(title.len()))));
    rows.into_iter().for_each(|row| page.cells(0, row));
}
