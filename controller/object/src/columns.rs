//! `meta.k8s.io/v1` Table: the columns that kubectl prints, by kind.
mod autoscaler;
mod cells;
mod kinds;
mod pod;
mod policy;
mod rows;

/// How long ago a time was, `<invalid>` where it is none.
pub(crate) fn since(time: &str, now_epoch_seconds: i64) -> String {
    match cells::epoch(time) {
        Some(_) => cells::since(Some(time), now_epoch_seconds),
        None => "<invalid>".to_owned(),
    }
}

use crate::resource::Resource;
use crate::tree::{list, text};
use serde_json::{Map, Value, json};

/// What each row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// One column: its name, its type, and whether only `-o wide` shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

pub(crate) const fn narrow(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}
pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}
pub(crate) const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", wide: false }
}
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}

/// The columns of a kind behind the name, and how an object fills them.
pub(crate) struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, i64) -> Vec<Value>,
}

/// How the objects of a resource are shown as rows.
pub struct Rows<'a> {
    resource: &'a Resource,
    printer: Printer,
    now_epoch_seconds: i64,
    include: IncludeObject,
}

impl<'a> Rows<'a> {
    /// `now_epoch_seconds` is what ages count to.
    pub fn of(resource: &'a Resource, now_epoch_seconds: i64, include: IncludeObject) -> Self {
        Self { resource, printer: kinds::printer(resource), now_epoch_seconds, include }
    }

    /// `columnDefinitions`.
    pub fn columns(&self) -> Value {
        let mut columns = vec![json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace."})];
        match self.resource.custom.as_deref() {
            Some(custom) => columns.extend(crate::custom::columns(custom)),
            None => columns.extend(self.printer.columns.iter().map(|c| {
                json!({"name": c.name, "type": c.kind, "format": "", "priority": i32::from(c.wide), "description": ""})
            })),
        }
        columns.into()
    }

    /// The rows of some objects, in the order in which people want to see them.
    pub fn rows(&self, mut items: Vec<Value>) -> Vec<Value> {
        if self.resource.is("flowcontrol.apiserver.k8s.io", "flowschemas") {
            items.sort_by(|one, other| policy::order(one).cmp(&policy::order(other)));
        }
        items.into_iter().map(|item| self.row(item)).collect()
    }

    fn row(&self, mut item: Value) -> Value {
        let mut cells = vec![Value::from(text(&item, &["metadata", "name"]).unwrap_or_default())];
        match self.resource.custom.as_deref() {
            Some(custom) => cells.extend(crate::custom::cells(custom, &item, self.now_epoch_seconds)),
            None => {
                cells.extend((self.printer.cells)(&item, self.now_epoch_seconds));
                // A printer and its columns stand side by side; a short row would shift what kubectl prints.
                cells.resize(self.printer.columns.len() + 1, "<none>".into());
            }
        }
        let mut row = json!({"cells": cells});
        if self.resource.is("", "pods") && pod::is_over(&item) {
            let phase = text(&item, &["status", "phase"]).unwrap_or_default();
            row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": phase,
                "message": if phase == "Succeeded" { "The pod has completed successfully." } else { "The pod failed." }}]);
        }
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Metadata => {
                let metadata = item.get_mut("metadata").map_or_else(|| Map::new().into(), Value::take);
                let mut object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
                object["metadata"] = metadata;
                row["object"] = object;
            }
            IncludeObject::Object => row["object"] = item,
        }
        row
    }
}

/// A table of `items`. `now_epoch_seconds` is what ages count to.
pub fn table(resource: &Resource, items: Vec<Value>, now_epoch_seconds: i64, include: IncludeObject) -> Value {
    let rows = Rows::of(resource, now_epoch_seconds, include);
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": rows.columns(),
        "rows": rows.rows(items)})
}

/// Names and images of a pod spec's containers, as `-o wide` shows them.
pub(crate) fn containers_and_images(template: &Value) -> (String, String) {
    let containers = list(template, &["spec", "containers"]);
    let join = |key: &str| containers.iter().map(|c| text(c, &[key]).unwrap_or_default()).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

    fn row(group: &str, plural: &str, object: &Value) -> Vec<String> {
        let version = Table::builtin().preferred(group);
        let resource = Table::builtin().find(group, version, plural).unwrap();
        let table = table(resource, vec![object.clone()], 1_000_000_000, IncludeObject::None);
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len());
        cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect()
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for resource in Table::builtin().all() {
            let printer = kinds::printer(resource);
            for object in [json!({}), json!({"metadata": {"name": "a"}, "spec": {}, "status": {}})] {
                assert_eq!((printer.cells)(&object, 0).len(), printer.columns.len(), "{}", resource.plural);
            }
        }
    }

    #[test]
    fn pods_print_as_kubectl_prints_them() {
        let pod = |status: Value| json!({"metadata": {"name": "a", "creationTimestamp": "2001-09-09T01:45:40Z"}, "spec": {"nodeName": "n", "containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}, "status": status});
        let running = pod(
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "initContainerStatuses": [{"name": "i", "ready": true, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [{"ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2001-09-09T01:46:10Z"}}}], "conditions": [{"type": "Ready", "status": "True"}]}),
        );
        assert_eq!(
            row("", "pods", &running),
            ["a", "1/1", "Running", "2 (30s ago)", "60s", "10.0.0.1", "n", "<none>", "<none>"]
        );
        for (status, want) in [
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                "Init:0/1",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ErrImagePull"}}}]}),
                "Init:ErrImagePull",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "CrashLoopBackOff",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
                "Completed",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        ] {
            assert_eq!(row("", "pods", &pod(status.clone()))[2], want, "{status}");
        }
        let mut leaving = running;
        leaving["metadata"]["deletionTimestamp"] = "2001-09-09T01:46:00Z".into();
        assert_eq!(row("", "pods", &leaving)[2], "Terminating");
    }

    #[test]
    fn other_kinds() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"readyReplicas": 1, "updatedReplicas": 3, "availableReplicas": 1}});
        assert_eq!(row("apps", "deployments", &deployment), ["d", "1/3", "3", "1", "<unknown>", "c", "i", "a=b"]);
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"], "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}], "selector": {"a": "b"}}});
        assert_eq!(
            row("", "services", &service),
            ["s", "NodePort", "10.43.0.1", "<none>", "80:30000/TCP", "<unknown>", "a=b"]
        );
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.37.0"}}});
        assert_eq!(row("", "nodes", &node)[1..4], ["Ready,SchedulingDisabled", "control-plane", "<unknown>"]);
    }
    #[test]
    fn what_governs_requests_prints_as_kube_apiserver_prints_it() {
        let schema = |name: &str, precedence: i64| {
            json!({"metadata": {"name": name}, "spec": {"priorityLevelConfiguration": {"name": "p"},
                "matchingPrecedence": precedence, "distinguisherMethod": {"type": "ByUser"}},
                "status": {"conditions": [{"type": "Dangling", "status": "False"}]}})
        };
        let flow = "flowcontrol.apiserver.k8s.io";
        assert_eq!(row(flow, "flowschemas", &schema("a", 9)), ["a", "p", "9", "ByUser", "<unknown>", "False"]);
        let resource = Table::builtin().find(flow, "v1", "flowschemas").unwrap();
        let (late, early) = (schema("a", 9), schema("z", 1));
        let sorted = table(resource, vec![late, early], 0, IncludeObject::None);
        assert_eq!(sorted["rows"][0]["cells"][0], "z");
        let level = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 30, "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 6,
            "queueLengthLimit": 50}}}}});
        let levels = "prioritylevelconfigurations";
        assert_eq!(row(flow, levels, &level), ["l", "Limited", "30", "64", "6", "50", "<unknown>"]);
        let exempt =
            json!({"metadata": {"name": "e"}, "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0}}});
        let none = "<none>";
        assert_eq!(row(flow, levels, &exempt), ["e", "Exempt", none, none, none, none, "<unknown>"]);

        let admission = "admissionregistration.k8s.io";
        let policy = json!({"metadata": {"name": "p"}, "spec": {"validations": [{}, {}],
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}});
        let policies = "validatingadmissionpolicies";
        assert_eq!(row(admission, policies, &policy), ["p", "2", "v1/ConfigMap", "<unknown>"]);
        for (reference, want) in
            [(json!({"name": "c"}), "*/c"), (json!({"name": "c", "namespace": "n"}), "n/c"), (Value::Null, "<unset>")]
        {
            let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "paramRef": reference}});
            let bindings = "validatingadmissionpolicybindings";
            assert_eq!(row(admission, bindings, &binding), ["b", "p", want, "<unknown>"]);
        }
    }

    #[test]
    fn drivers_and_groups_of_others() {
        let driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "a"}, {"audience": "b"}],
            "volumeLifecycleModes": ["Persistent"]}});
        assert_eq!(
            row("storage.k8s.io", "csidrivers", &driver),
            ["d", "true", "false", "false", "a,b", "false", "Persistent", "<unknown>"]
        );
        let group = json!({"metadata": {"name": "g"}, "spec": {"service": {"namespace": "n", "name": "s"}}, "status":
            {"conditions": [{"type": "Available", "status": "False", "reason": "MissingEndpoints"}]}});
        let told = row("apiregistration.k8s.io", "apiservices", &group);
        assert_eq!(told, ["g", "n/s", "False (MissingEndpoints)", "<unknown>"]);
    }
}
