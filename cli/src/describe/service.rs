//! What is said about a Service: its addresses and where its ports lead.

use serde_json::Value;

use super::kinds::{at, head, labels, number, text};
use super::page::Page;
use super::related::of_kind;
use super::template::{list, pairs, shown, string};

/// Writes a Service; `slices` holds its EndpointSlices.
pub(super) fn write(page: &mut Page, object: &Value, slices: &[Value]) {
    head(page, object);
    labels(page, object);
    let plain = pairs(at(object, "/spec/selector"), "=");
    page.field(0, "Selector", if plain.is_empty() { "<none>".into() } else { plain.join(",") });
    page.field(0, "Type", text(object, "/spec/type"));
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    let joined = |key: &str| list(spec, key).map(|one| shown(Some(one))).collect::<Vec<_>>().join(",");
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let known = |page: &mut Page, title: &str, text: String| {
        if !text.is_empty() {
            page.field(0, title, text);
        }
    };
    known(page, "IP Family Policy", text(spec, "/ipFamilyPolicy"));
    page.field(0, "IP Families", or_none(joined("ipFamilies")));
    page.field(0, "IP", text(spec, "/clusterIP"));
    page.field(0, "IPs", or_none(joined("clusterIPs")));
    known(page, "External IPs", joined("externalIPs"));
    known(page, "Desired LoadBalancer IP", text(spec, "/loadBalancerIP"));
    known(page, "External Name", text(spec, "/externalName"));
    let given = at(object, "/status/loadBalancer").unwrap_or(&null);
    known(page, "LoadBalancer Ingress", balanced(given));
    let slices: Vec<&Value> = of_kind(slices, "EndpointSlice").collect();
    for port in list(spec, "ports") {
        let (name, protocol) = (string(port, "name").unwrap_or("<unset>"), string(port, "protocol").unwrap_or("TCP"));
        page.field(0, "Port", format!("{name}  {}/{protocol}", shown(port.get("port"))));
        page.field(0, "TargetPort", format!("{}/{protocol}", shown(port.get("targetPort"))));
        if number(port, "/nodePort") != 0 {
            page.field(0, "NodePort", format!("{name}  {}/{protocol}", shown(port.get("nodePort"))));
        }
        page.field(0, "Endpoints", endpoints(&slices, string(port, "name").unwrap_or_default()));
    }
    page.field(0, "Session Affinity", text(spec, "/sessionAffinity"));
    known(page, "External Traffic Policy", text(spec, "/externalTrafficPolicy"));
    known(page, "Internal Traffic Policy", text(spec, "/internalTrafficPolicy"));
    if number(spec, "/healthCheckNodePort") != 0 {
        page.field(0, "HealthCheck NodePort", text(spec, "/healthCheckNodePort"));
    }
    known(page, "LoadBalancer Source Ranges", joined("loadBalancerSourceRanges"));
}

/// The addresses that a load balancer gave, with the mode of each.
fn balanced(given: &Value) -> String {
    let one = |point: &Value| {
        let address = string(point, "ip").or(string(point, "hostname")).unwrap_or_default();
        match string(point, "ipMode") {
            Some(mode) => format!("{address} ({mode})"),
            None => address.to_owned(),
        }
    };
    list(given, "ingress").map(one).collect::<Vec<_>>().join(", ")
}

/// Where the port named `name` leads: the first three ready addresses and the number of the others.
pub(super) fn endpoints(slices: &[&Value], name: &str) -> String {
    const SHOWN: usize = 3;
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for slice in slices {
        let ready = list(slice, "endpoints").filter(|one| at(one, "/conditions/ready") != Some(&Value::Bool(false)));
        let addresses: Vec<String> = ready.map(|one| text(one, "/addresses/0")).collect();
        // A headless Service needs no ports.
        if list(slice, "ports").next().is_none() {
            all.extend(addresses.iter().cloned());
        }
        for port in list(slice, "ports").filter(|port| string(port, "name").unwrap_or_default() == name) {
            let port = shown(port.get("port"));
            all.extend(addresses.iter().map(|address| match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            }));
        }
    }
    let first = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    match all.len() > SHOWN {
        true => format!("{first} + {} more...", all.len() - SHOWN),
        false => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_addresses_of_the_port_are_counted() {
        let point = |n: u8, ready: bool| json!({"addresses": [format!("10.0.0.{n}")], "conditions": {"ready": ready}});
        let slice = json!({"ports": [{"name": "web", "port": 80}, {"name": "dns", "port": 53}],
            "endpoints": [point(1, true), point(2, false), point(3, true), point(4, true), point(5, true)]});
        assert_eq!(endpoints(&[&slice], "web"), "10.0.0.1:80,10.0.0.3:80,10.0.0.4:80 + 1 more...");
        assert_eq!(endpoints(&[&slice], "other"), "");
        assert_eq!(endpoints(&[], "web"), "<none>");
    }
}
