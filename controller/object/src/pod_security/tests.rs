use super::*;
use serde_json::json;

fn told(level: Level, minor: Option<u32>, pod: Value) -> String {
    describe(&violations(Policy { level, minor }, &pod))
}

fn hardened() -> Value {
    json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}}}], "volumes": [{"name": "v", "emptyDir": {}}]}})
}

/// The hardened pod with another value in one place.
fn hardened_but(pointer: &str, value: Value) -> Value {
    let mut pod = hardened();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = pod.pointer_mut(parent).unwrap();
    match key.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[key] = value,
    }
    pod
}

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    let pod = json!({"spec": {"containers": [{"name": "c"}]}});
    assert_eq!(told(Level::Baseline, None, pod.clone()), "");
    assert_eq!(
        told(Level::Restricted, None, pod),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(told(Level::Restricted, None, hardened()), "");
}

#[test]
fn every_rule_of_baseline_is_broken_once() {
    for (pointer, value, expected) in [
        ("/spec/hostNetwork", json!(true), "host namespaces (hostNetwork=true)"),
        ("/spec/volumes/0", json!({"name": "h", "hostPath": {"path": "/"}}), "hostPath volumes (volume \"h\")"),
        ("/spec/containers/0/ports", json!([{"hostPort": 80}]), "hostPort (container \"c\" uses hostPort 80)"),
        (
            "/spec/containers/0/securityContext/privileged",
            json!(true),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({"add": ["NET_ADMIN", "KILL"]}),
            "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            "/spec/containers/0/securityContext/procMount",
            json!("Unmasked"),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            "/spec/securityContext/seccompProfile",
            json!({"type": "Unconfined"}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "/spec/securityContext/seLinuxOptions",
            json!({"type": "x", "user": "u"}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            "/spec/securityContext/sysctls",
            json!([{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            "/spec/securityContext/windowsOptions",
            json!({"hostProcess": true}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            "/spec/securityContext/appArmorProfile",
            json!({"type": "Unconfined"}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"host": "10.0.0.1", "port": 1}}),
            "probe or lifecycle host (container \"c\" must not set host in probes or lifecycle handlers)",
        ),
    ] {
        let pod = hardened_but(pointer, value);
        assert_eq!(told(Level::Baseline, None, pod), expected, "{pointer}");
    }
}

#[test]
fn restricted_pods_may_not_fall_back() {
    for (pointer, value, expected) in [
        (
            "/spec/volumes/0",
            json!({"name": "h", "hostPath": {}}),
            "restricted volume types (volume \"h\" uses restricted volume type \"hostPath\")",
        ),
        (
            "/spec/securityContext/runAsNonRoot",
            json!(false),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            "/spec/containers/0/securityContext/runAsUser",
            json!(0),
            "runAsUser=0 (container \"c\" must not set runAsUser=0)",
        ),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({"add": ["KILL"], "drop": ["ALL"]}),
            "unrestricted capabilities (container \"c\" must not include \"KILL\" in securityContext.capabilities.add)",
        ),
    ] {
        let pod = hardened_but(pointer, value);
        assert_eq!(told(Level::Restricted, None, pod), expected, "{pointer}");
    }
}

#[test]
fn older_releases_had_fewer_rules() {
    let pod = json!({"spec": {"securityContext": {"runAsNonRoot": true, "runAsUser": 0,
        "sysctls": [{"name": "net.ipv4.tcp_rmem"}]}, "containers": [{"name": "c",
        "securityContext": {"allowPrivilegeEscalation": false}}]}});
    assert_eq!(told(Level::Restricted, Some(18), pod.clone()), "forbidden sysctls (net.ipv4.tcp_rmem)");
    assert!(told(Level::Restricted, Some(32), pod).starts_with("unrestricted capabilities"));
}

#[test]
fn labels_choose_and_are_checked() {
    let of = |labels: Value| policies(&json!({"metadata": {"labels": labels}}));
    let (policies, faults) = of(json!({"pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.30", "pod-security.kubernetes.io/warn": "restricted"}));
    assert!(faults.is_empty());
    assert_eq!(policies.enforce.describe(), "baseline:v1.30");
    assert_eq!(policies.warn.describe(), "restricted:latest");
    assert_eq!(policies.audit.level, Level::Privileged);
    let (policies, faults) = of(json!({"pod-security.kubernetes.io/enforce": "strict",
        "pod-security.kubernetes.io/warn-version": "1.2"}));
    assert_eq!(policies.enforce.level, Level::Restricted);
    let told: Vec<String> = faults.iter().map(Cause::describe).collect();
    assert_eq!(
        told,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\""
        ]
    );
}
