//! What is said about PodDisruptionBudgets and NetworkPolicies.

use serde_json::Value;

use super::kinds::{at, head, labels, number, selector, text};
use super::page::{Page, local_time};
use super::template::{list, shown, string};

/// Writes a PodDisruptionBudget.
pub(super) fn disruptions(page: &mut Page, object: &Value) {
    head(page, object);
    let kept = [("minAvailable", "Min available"), ("maxUnavailable", "Max unavailable")];
    for (key, title) in kept {
        if let Some(amount) = at(object, &format!("/spec/{key}")) {
            page.field(0, title, shown(Some(amount)));
            break;
        }
    }
    page.field(0, "Selector", selector(object));
    page.heading(0, "Status");
    let counts = [
        ("disruptionsAllowed", "Allowed disruptions"),
        ("currentHealthy", "Current"),
        ("desiredHealthy", "Desired"),
        ("expectedPods", "Total"),
    ];
    for (key, title) in counts {
        page.field(2, title, number(object, &format!("/status/{key}")).to_string());
    }
}

/// Writes a NetworkPolicy.
pub(super) fn network(page: &mut Page, object: &Value) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    page.field(0, "Name", text(object, "/metadata/name"));
    page.field(0, "Namespace", text(object, "/metadata/namespace"));
    // Go's own form of a time, with the zone's name after its offset.
    page.field(0, "Created on", written(&text(object, "/metadata/creationTimestamp")));
    labels(page, object);
    page.heading(0, "Spec");
    let chosen = spec.get("podSelector").map(crate::pods::selector_text).unwrap_or_default();
    let all = "<none> (Allowing the specific traffic to all pods in this namespace)".to_owned();
    page.cells(1, [format!("PodSelector: {}", if chosen.is_empty() { all } else { chosen })]);
    let types: Vec<String> = list(spec, "policyTypes").map(|one| shown(Some(one))).collect();
    let ways = [("Ingress", "ingress", "From", "from"), ("Egress", "egress", "To", "to")];
    for (way, key, title, peers) in ways {
        if types.iter().any(|one| one == way) {
            page.cells(1, [format!("Allowing {key} traffic:")]);
            rules(page, spec, key, title, peers);
        } else {
            page.cells(1, [format!("Not affecting {key} traffic")]);
        }
    }
    page.cells(1, [format!("Policy Types: {}", types.join(", "))]);
}

fn written(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        Err(_) => local_time(time),
    }
}

fn rules(page: &mut Page, spec: &Value, key: &str, title: &str, peers: &str) {
    let mut rules = list(spec, key).enumerate().peekable();
    if rules.peek().is_none() {
        let direction = if key == "ingress" { "ingress" } else { "egress" };
        return page.cells(2, [format!("<none> (Selected pods are isolated for {direction} connectivity)")]);
    }
    for (position, rule) in rules {
        if position > 0 {
            page.cells(2, ["----------".to_owned()]);
        }
        if list(rule, "ports").next().is_none() {
            page.cells(2, ["To Port: <any> (traffic allowed to all ports)".to_owned()]);
        }
        for port in list(rule, "ports") {
            let number = match port.get("port") {
                Some(number) => shown(Some(number)),
                None => "<any>".to_owned(),
            };
            let end = port.get("endPort").map(|end| format!("-{}", shown(Some(end)))).unwrap_or_default();
            let protocol = string(port, "protocol").unwrap_or("TCP");
            page.cells(2, [format!("To Port: {number}{end}/{protocol}")]);
        }
        if list(rule, peers).next().is_none() {
            let what = if key == "ingress" {
                "traffic not restricted by source"
            } else {
                "traffic not restricted by destination"
            };
            page.cells(2, [format!("{title}: <any> ({what})")]);
        }
        list(rule, peers).for_each(|peer| write_peer(page, title, peer));
    }
}

fn write_peer(page: &mut Page, title: &str, peer: &Value) {
    page.heading(2, title);
    if let Some(block) = peer.get("ipBlock") {
        let except: Vec<String> = list(block, "except").map(|one| shown(Some(one))).collect();
        page.heading(3, "IPBlock");
        page.cells(4, [format!("CIDR: {}", shown(block.get("cidr")))]);
        return page.cells(4, [format!("Except: {}", except.join(", "))]);
    }
    for (key, title) in [("namespaceSelector", "NamespaceSelector"), ("podSelector", "PodSelector")] {
        if let Some(chosen) = peer.get(key) {
            let chosen = crate::pods::selector_text(chosen);
            page.cells(3, [format!("{title}: {}", if chosen.is_empty() { "<none>".into() } else { chosen })]);
        }
    }
}
