//! kubectl's command lines beside ours: the same output, exit code and messages, or a difference that is listed
//! here with its reason. `docs/differences.md` shows the same table.

use std::path::Path;
use std::time::Duration;

use e2e::client::{Client, Said, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::json;

/// Command lines that must say the same, in the order in which they are run. Each runs with both programs; `{me}`
/// becomes `k` for kubectl and `g` for gantry, so that both change objects of their own.
const LINES: &str = include_str!("same_words/lines.txt");

/// Accepted differences: the beginning of the command line and why it may differ.
const DIFFERENCES: &str = include_str!("same_words/differences.txt");

/// Objects that are described with both programs; `{me}` as in the command lines.
const OBJECTS: &str = include_str!("same_words/objects.yaml");

/// Words that differ from run to run.
fn normal(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        // Columns are compared by their words; widths follow the longest name.
        let words = line.split_whitespace().map(|word| {
            let word = word.replace("kubectl", "gantry").replace("same-k", "same-x").replace("same-g", "same-x");
            match &word {
                word if is_age(word) => "AGE".to_owned(),
                word if is_clock(word) => "TIME".to_owned(),
                word => without_hash(word),
            }
        });
        let line = words.collect::<Vec<_>>().join(" ");
        if !is_volatile(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// `12s`, `3m4s`, `2d`.
fn is_age(word: &str) -> bool {
    let word = word.trim_end_matches(',');
    word.len() > 1
        && word.starts_with(|c: char| c.is_ascii_digit())
        && word.ends_with(['s', 'm', 'h', 'd'])
        && word.chars().all(|c| c.is_ascii_digit() || matches!(c, 's' | 'm' | 'h' | 'd'))
}

/// `17:04:05`.
fn is_clock(word: &str) -> bool {
    let parts: Vec<&str> = word.split(':').collect();
    parts.len() == 3 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()))
}

/// Names that the server made up: `same-x-abcdefghij-klmno`.
fn without_hash(word: &str) -> String {
    let mut word = word.to_owned();
    for key in ["pod-template-hash=", "controller-uid="] {
        if let Some((before, after)) = word.split_once(key) {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(after.len());
            word = format!("{before}{key}HASH{}", &after[end..]);
        }
    }
    let Some(start) = word.find("same-x-") else { return word };
    let tail = &word[start + "same-x-".len()..];
    let hash: usize = tail.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').count();
    format!("{}same-x-HASH{}", &word[..start], &tail[hash..])
}

/// Lines that hold only what differs from object to object.
fn is_volatile(line: &str) -> bool {
    // The first field of an element of a list.
    let line = line.trim_start_matches("- ");
    let keys = [
        "creationTimestamp:",
        "resourceVersion:",
        "uid:",
        "\"creationTimestamp\":",
        "\"resourceVersion\":",
        "\"uid\":",
        "clusterIP:",
        "clusterIPs:",
        "- 10.43.",
        "lastTransitionTime:",
        "lastUpdateTime:",
        "\"lastTransitionTime\":",
        "\"lastUpdateTime\":",
        "CreationTimestamp:",
        "IP:",
        "IPs:",
        "NodePort:",
        "HealthCheck NodePort:",
        "PodCIDR:",
        "PodCIDRs:",
        "time:",
        "generation:",
        "See 'gantry",
    ];
    keys.iter().any(|key| line.trim_start().starts_with(key))
}

fn said(client: &Client, line: &str, me: &str, dir: &Path) -> Said {
    let line = line.replace("{me}", me).replace("{dir}", &dir.display().to_string());
    client.run(&split(&line).iter().map(String::as_str).collect::<Vec<_>>())
}

/// Words of a command line; single quotes keep blanks together.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match (c, quoted) {
            ('\'', _) => quoted = !quoted,
            (' ', false) => words.push(String::new()),
            (c, _) => words.last_mut().expect("it begins with one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn reason(line: &str) -> Option<&'static str> {
    let all = DIFFERENCES.lines().filter_map(|entry| entry.split_once(" # "));
    all.filter(|(start, _)| line.starts_with(start.trim())).map(|(_, why)| why).next()
}

fn manifests(dir: &Path) {
    for me in ["k", "g"] {
        let web = |replicas: u32| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("same-{me}")},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": format!("same-{me}")}},
                    "template": {"metadata": {"labels": {"app": format!("same-{me}")}},
                        "spec": {"containers": [{"name": "c", "image": "nginx:1", "ports": [{"containerPort": 80}]}]}}}})
        };
        std::fs::write(dir.join(format!("same-{me}.yaml")), web(1).to_string()).expect("writable");
        std::fs::write(dir.join(format!("same-{me}2.yaml")), web(2).to_string()).expect("writable");
        for (number, verbs, role, user) in
            [(1, ["get", "list"], "r", "a"), (2, ["get", "watch"], "r", "b"), (3, ["get", "watch"], "s", "b")]
        {
            let access = json!({"apiVersion": "v1", "kind": "List", "items": access(me, &verbs, role, user)});
            std::fs::write(dir.join(format!("access-{me}{number}.yaml")), access.to_string()).expect("writable");
        }
    }
    std::fs::write(dir.join("bad.yaml"), "apiVersion: v1\nkind: Nope\nmetadata: {name: x}\n").expect("writable");
}

/// What `auth reconcile` is about: a role, a ClusterRole, a binding of `user` to `role`, in a namespace that is not there yet.
fn access(me: &str, verbs: &[&str], role: &str, user: &str) -> [serde_json::Value; 3] {
    let group = "rbac.authorization.k8s.io";
    let metadata = |name: &str| json!({"name": format!("same-{me}-{name}"), "labels": {"app": "x"}});
    let mut namespaced = metadata("access");
    namespaced["namespace"] = format!("same-{me}-made").into();
    [
        json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": namespaced,
            "rules": [{"apiGroups": ["", "apps"], "resources": ["pods"], "verbs": verbs, "resourceNames": ["one", "two"]}]}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": metadata("access"),
            "rules": [{"nonResourceURLs": ["/here"], "verbs": verbs}]}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": namespaced,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": role},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}),
    ]
}

/// Creates what the pages of `describe` are about.
fn described(kubectl: &Client, me: &str) {
    // Not by a client-side apply: its annotation would be a part of pages.
    kubectl.run_with(&["apply", "--server-side", "-f", "-"], &OBJECTS.replace("{me}", me)).ok();
    let amounts =
        |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory, "ephemeral-storage": "9Gi", "pods": "110"});
    let status = json!({"status": {
        "capacity": amounts("4", "8Gi"), "allocatable": amounts("3900m", "7Gi"),
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "h"}],
        "nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6", "osImage": "os",
            "containerRuntimeVersion": "g://1", "kubeletVersion": "v1", "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": "amd64"}}});
    let node = format!("same-{me}-full");
    kubectl.run(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", &status.to_string()]).ok();
}

/// Waits until the control plane has given up on the nodes, which have no agent: their pages stay as they are then.
fn nodes_are_given_up(kubectl: &Client) {
    for node in ["same-k-full", "same-g-full", "same-k-bare", "same-g-bare"] {
        eventually("the node is unreachable", Duration::from_secs(120), || {
            let taints = kubectl.run(&["get", "node", node, "-o", "jsonpath={.spec.taints}"]).ok();
            let both = ["NoSchedule", "NoExecute"];
            let there = |effect: &&str| {
                taints.contains(&format!(r#""effect":"{effect}","key":"node.kubernetes.io/unreachable""#))
            };
            both.iter().all(there).then_some(())
        });
    }
}

#[test]
fn gantry_says_what_kubectl_says() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let cluster = Cluster::start_with(&[], &["--disable-agent"]);
    let (kubectl, gantry) = (cluster.kubectl(), cluster.gantry());
    let dir = tempfile::tempdir().expect("a directory");
    manifests(dir.path());
    for me in ["k", "g"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("same-{me}-n")}});
        kubectl.run_with(&["create", "-f", "-"], &node.to_string()).ok();
        described(&kubectl, me);
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in LINES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        count += 1;
        if line.starts_with("describe node ") {
            nodes_are_given_up(&kubectl);
        }
        let (theirs, ours) = (said(&kubectl, line, "k", dir.path()), said(&gantry, line, "g", dir.path()));
        let theirs = (theirs.code, normal(&theirs.out), normal(&theirs.err));
        let ours = (ours.code, normal(&ours.out), normal(&ours.err));
        match (theirs == ours, reason(line)) {
            (true, Some(_)) => wrong.push(format!("{line}\n  is the same now: take it out of differences.txt")),
            (false, None) => wrong.push(format!("{line}\n  kubectl: {theirs:#?}\n  gantry: {ours:#?}")),
            (true, None) | (false, Some(_)) => {}
        }
    }
    println!("{count} command lines compared");
    assert!(count >= 60, "{count} command lines are too few");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_page_lists_every_difference() {
    let page = std::fs::read_to_string(machine::workspace().join("docs/differences.md")).expect("the page is there");
    for (line, why) in DIFFERENCES.lines().filter_map(|entry| entry.split_once(" # ")) {
        assert!(page.contains(line.trim()) && page.contains(why), "docs/differences.md lacks {line}: {why}");
    }
}
