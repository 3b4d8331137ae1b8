//! The mandatory and the suggested objects, with the figures of Kubernetes (documentation, "API Priority and
//! Fairness", default objects; staging/src/k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap).

use serde_json::{Value, json};

const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// How many queues, the size of a hand of them, the length of each; `None`: nobody waits.
type Queues = Option<(u32, u32, u32)>;

/// Name, shares, percent that is lent, queues.
const LEVELS: [(&str, u32, u32, Queues); 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
];

fn level(name: &str, spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec})
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

type Names = &'static [&'static str];

/// Verbs, group, resources, namespaces, and whether cluster-wide too.
type Rule = (Names, &'static str, Names, Names, bool);

/// What a schema takes of its subjects.
enum Takes {
    Everything,
    Urls(&'static [&'static str]),
    Resources(&'static [Rule]),
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn schema(name: &str, level: &str, precedence: i64, by: Option<&str>, subjects: Vec<Value>, takes: Takes) -> Value {
    let all =
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let any_url = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let mut rules = json!({"subjects": subjects});
    match takes {
        Takes::Everything => (rules["resourceRules"], rules["nonResourceRules"]) = (all, any_url),
        Takes::Urls(urls) => rules["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": urls}]),
        Takes::Resources(list) => {
            rules["resourceRules"] = list
                .iter()
                .map(|(verbs, group, resources, namespaces, is_cluster_wide)| {
                    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
                    if !namespaces.is_empty() {
                        rule["namespaces"] = json!(namespaces);
                    }
                    if *is_cluster_wide {
                        rule["clusterScope"] = true.into();
                    }
                    rule
                })
                .collect();
        }
    }
    let mut spec =
        json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rules]});
    if let Some(by) = by {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    let found = json!([{"type": "Dangling", "status": "False", "reason": "Found",
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"),
        "lastTransitionTime": crate::time::now()}]);
    json!({"apiVersion": VERSION, "kind": "FlowSchema", "metadata": metadata(name), "spec": spec, "status": {"conditions": found}})
}

/// All of them.
pub(crate) fn objects() -> Vec<Value> {
    let everybody = || vec![group("system:authenticated"), group("system:unauthenticated")];
    let by_user = Some("ByUser");
    let mut objects = vec![level(
        "exempt",
        json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
    )];
    objects.extend(LEVELS.iter().map(|(name, shares, lendable, queuing)| {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
            }
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        level(name, json!({"type": "Limited", "limited": limited}))
    }));
    const NODE_HIGH: Takes = Takes::Resources(&[
        (&["*"], "", &["nodes", "nodes/status"], &["*"], true),
        (&["*"], "coordination.k8s.io", &["leases"], &["*"], false),
    ]);
    const LEASES: &[&str] = &["get", "create", "update"];
    let elections = vec![user("system:kube-controller-manager"), user("system:kube-scheduler"), account("*")];
    objects.extend([
        schema("exempt", "exempt", 1, None, vec![group(crate::authn::MASTERS)], Takes::Everything),
        schema("probes", "exempt", 2, None, everybody(), Takes::Urls(&["/healthz", "/readyz", "/livez"])),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            by_user,
            elections,
            Takes::Resources(&[(LEASES, "coordination.k8s.io", &["leases"], &["kube-system"], false)]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            by_user,
            vec![
                user("system:kube-controller-manager"),
                account("endpoint-controller"),
                account("endpointslice-controller"),
            ],
            Takes::Resources(&[(LEASES, "", &["endpoints"], &["*"], false)]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            by_user,
            vec![account("*")],
            Takes::Resources(&[(LEASES, "coordination.k8s.io", &["leases"], &["*"], false)]),
        ),
        schema("system-node-high", "node-high", 400, by_user, vec![group(crate::authn::NODES)], NODE_HIGH),
        schema("system-nodes", "system", 500, by_user, vec![group(crate::authn::NODES)], Takes::Everything),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            Some("ByNamespace"),
            vec![user("system:kube-controller-manager")],
            Takes::Everything,
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            Some("ByNamespace"),
            vec![user("system:kube-scheduler")],
            Takes::Everything,
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            Some("ByNamespace"),
            vec![account("*")],
            Takes::Everything,
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            vec![group(crate::authn::SERVICE_ACCOUNTS)],
            Takes::Everything,
        ),
        schema("global-default", "global-default", 9900, by_user, everybody(), Takes::Everything),
        schema("catch-all", "catch-all", 10_000, by_user, everybody(), Takes::Everything),
    ]);
    objects
}
