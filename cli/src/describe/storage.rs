//! What is said about volumes and claims.

use serde_json::Value;

use super::kinds::{at, head, labels, sorted, table, text};
use super::page::{Page, local_time};
use super::related::of_kind;
use super::template::{list, shown, string};
use crate::output::name_of;

/// The access modes in short, as tables show them.
fn modes(modes: Option<&Value>) -> String {
    let all = modes.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let short = |mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    };
    all.map(short).collect::<Vec<_>>().join(",")
}

fn state(object: &Value) -> String {
    match at(object, "/metadata/deletionTimestamp") {
        Some(_) => "Terminating".to_owned(),
        None => text(object, "/status/phase"),
    }
}

fn finalizers(object: &Value) -> String {
    let all = at(object, "/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
    format!("[{}]", all.map(|one| shown(Some(one))).collect::<Vec<_>>().join(" "))
}

fn mode(object: &Value) -> Option<&str> {
    object.get("spec").and_then(|spec| string(spec, "volumeMode"))
}

/// Writes a claim; `pods` are those of its namespace.
pub(super) fn claim(page: &mut Page, object: &Value, pods: &[Value]) {
    head(page, object);
    page.field(0, "StorageClass", text(object, "/spec/storageClassName"));
    page.field(0, "Status", state(object));
    page.field(0, "Volume", text(object, "/spec/volumeName"));
    labels(page, object);
    page.field(0, "Finalizers", finalizers(object));
    // What a claim has is known once it is bound.
    let bound = !text(object, "/spec/volumeName").is_empty();
    let has = |pointer: &str| at(object, pointer).filter(|_| bound);
    let nothing = if bound { "0".to_owned() } else { String::new() };
    page.field(0, "Capacity", has("/status/capacity/storage").map_or(nothing, |size| shown(Some(size))));
    page.field(0, "Access Modes", modes(has("/status/accessModes")));
    if let Some(mode) = mode(object) {
        page.field(0, "VolumeMode", mode);
    }
    if let Some(source) = at(object, "/spec/dataSource") {
        page.heading(0, "DataSource");
        for (key, title) in [("apiGroup", "APIGroup"), ("kind", "Kind"), ("name", "Name")] {
            if let Some(text) = string(source, key) {
                page.field(1, title, text);
            }
        }
    }
    let name = name_of(object);
    let uses = |pod: &&Value| {
        let volumes = at(pod, "/spec/volumes").and_then(Value::as_array);
        volumes.into_iter().flatten().any(|volume| {
            let own = format!("{}-{}", name_of(pod), text(volume, "/name"));
            at(volume, "/persistentVolumeClaim/claimName").is_some_and(|claim| claim == name)
                || (volume.get("ephemeral").is_some() && own == name)
        })
    };
    let users: Vec<String> = of_kind(pods, "Pod").filter(uses).map(|pod| name_of(pod).to_owned()).collect();
    page.values(0, "Used By", &users);
    let rows: Vec<Vec<String>> = list(object.get("status").unwrap_or(&Value::Null), "conditions")
        .map(|condition| {
            let part = |key: &str| shown(condition.get(key));
            let (probed, changed) = (local_time(&part("lastProbeTime")), local_time(&part("lastTransitionTime")));
            vec![part("type"), part("status"), probed, changed, part("reason"), part("message")]
        })
        .collect();
    if !rows.is_empty() {
        page.heading(0, "Conditions");
        table(page, &["Type", "Status", "LastProbeTime", "LastTransitionTime", "Reason", "Message"], rows);
    }
}

/// Writes a volume.
pub(super) fn volume(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    labels(page, object);
    page.field(0, "Finalizers", finalizers(object));
    page.field(0, "StorageClass", text(object, "/spec/storageClassName"));
    page.field(0, "Status", state(object));
    let claim = at(object, "/spec/claimRef");
    let claim = claim.map(|claim| format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")));
    page.field(0, "Claim", claim.unwrap_or_default());
    page.field(0, "Reclaim Policy", text(object, "/spec/persistentVolumeReclaimPolicy"));
    page.field(0, "Access Modes", modes(at(object, "/spec/accessModes")));
    if let Some(mode) = mode(object) {
        page.field(0, "VolumeMode", mode);
    }
    page.field(0, "Capacity", text(object, "/spec/capacity/storage"));
    affinity(page, object);
    page.field(0, "Message", text(object, "/status/message"));
    page.heading(0, "Source");
    source(page, object);
}

fn affinity(page: &mut Page, object: &Value) {
    let Some(required) = at(object, "/spec/nodeAffinity") else {
        return page.field(0, "Node Affinity", "<none>");
    };
    // With an empty value, so that the lines around it keep one column.
    page.field(0, "Node Affinity", "");
    let Some(required) = required.get("required") else { return page.field(1, "Required Terms", "<none>") };
    page.field(1, "Required Terms", "");
    for (position, term) in list(required, "nodeSelectorTerms").enumerate() {
        let title = format!("Term {position}");
        let rules: Vec<String> = list(term, "matchExpressions")
            .map(|rule| {
                let values: Vec<String> = list(rule, "values").map(|value| shown(Some(value))).collect();
                let (key, operator) = (shown(rule.get("key")), shown(rule.get("operator")).to_lowercase());
                match values.is_empty() {
                    true => format!("{key} {operator}"),
                    false => format!("{key} {operator} [{}]", values.join(", ")),
                }
            })
            .collect();
        page.values(2, &title, &rules);
    }
}

/// Fields of a volume's source: its key, its title, and what stands where nothing is set (nothing: the line is left
/// out).
type Fields = [(&'static str, &'static str, &'static str)];

const SOURCES: &[(&str, &str, &Fields)] = &[
    ("hostPath", "HostPath (bare host directory volume)", &[("path", "Path", ""), ("type", "HostPathType", "")]),
    ("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[("path", "Path", "")]),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("server", "Server", ""), ("path", "Path", ""), ("readOnly", "ReadOnly", "false")],
    ),
    (
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[
            ("driver", "Driver", ""),
            ("fsType", "FSType", ""),
            ("volumeHandle", "VolumeHandle", ""),
            ("readOnly", "ReadOnly", "false"),
        ],
    ),
];

fn source(page: &mut Page, object: &Value) {
    for (key, words, fields) in SOURCES {
        let Some(source) = at(object, &format!("/spec/{key}")) else { continue };
        page.field(2, "Type", words);
        for (key, title, unset) in *fields {
            let text = shown(source.get(key));
            page.field(2, title, if text.is_empty() { (*unset).to_owned() } else { text });
        }
        if *key == "csi" {
            let pairs: Vec<String> = sorted(source, "/volumeAttributes")
                .iter()
                .map(|(key, value)| format!("{key}={}", shown(Some(value))))
                .collect();
            page.values(2, "VolumeAttributes", &pairs);
        }
        return;
    }
    // Other sources by the names of their fields.
    let plain = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeMode",
        "volumeAttributesClassName",
    ];
    let Some((kind, source)) = sorted(object, "/spec").into_iter().find(|(key, _)| !plain.contains(&key.as_str()))
    else {
        return page.cells(2, ["<unknown>".to_owned()]);
    };
    page.field(2, "Type", kind);
    sorted(source, "").iter().for_each(|(key, value)| page.field(2, key, shown(Some(value))));
}
