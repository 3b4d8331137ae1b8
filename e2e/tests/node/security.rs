//! Lines 292 and 340 to 347: whom a container runs as, and what it may.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, status};

/// A pod that runs a script under a security context: its exit code and what it printed.
async fn run(pods: &Pods, name: &str, script: &str, own: Value, whole: Value) -> (i64, String) {
    let mut container = container("c", script);
    container["securityContext"] = own;
    let mut all = pod(name, &[container]);
    all["spec"]["restartPolicy"] = json!("Never");
    all["spec"]["securityContext"] = whole;
    pods.create(all).await;
    let ended = pods.ended(name).await;
    let code = status(&ended, "c")["state"]["terminated"]["exitCode"].as_i64().expect("a code");
    (code, pods.api.log(name, "c").await)
}

#[tokio::test]
async fn c340_c343_c344_users_and_groups_are_those_of_the_spec() {
    need!(machine::root());
    let pods = Pods::new("users").await;
    let ids = "echo $(id -u) $(id -g)";
    for (name, own, whole, want) in [
        ("nobody", json!({"runAsUser": 65534}), json!({}), "65534 0"),
        ("of-pod", json!({}), json!({"runAsUser": 1001, "runAsGroup": 2002}), "1001 2002"),
        (
            "of-container",
            json!({"runAsUser": 1001, "runAsGroup": 2002}),
            json!({"runAsUser": 5, "runAsGroup": 6}),
            "1001 2002",
        ),
    ] {
        let (code, said) = run(&pods, name, ids, own, whole).await;
        // The group of a user that the image knows is the image's.
        let group = if name == "nobody" { "65534 65534" } else { want };
        assert_eq!((code, said.trim()), (0, group), "{name}");
    }
}

#[tokio::test]
async fn c341_only_the_privileged_change_links() {
    need!(machine::root());
    let pods = Pods::new("privileged").await;
    let script = "ip link add made type dummy 2>/dev/null || ip link set lo down";
    let (code, said) = run(&pods, "no", script, json!({"privileged": false}), json!({})).await;
    assert!(code != 0 && said.contains("not permitted"), "{code} {said}");
    let (code, said) = run(&pods, "yes", script, json!({"privileged": true}), json!({})).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn c292_c342_the_root_file_system_is_written_where_it_may_be() {
    need!(machine::root());
    let pods = Pods::new("readonly").await;
    let (code, said) = run(&pods, "no", "echo x > /file", json!({"readOnlyRootFilesystem": true}), json!({})).await;
    assert!(code != 0 && said.contains("Read-only file system"), "{code} {said}");
    let script = "echo x > /file && cat /file";
    let (code, said) = run(&pods, "yes", script, json!({"readOnlyRootFilesystem": false}), json!({})).await;
    assert_eq!((code, said.as_str()), (0, "x\n"));
}

#[tokio::test]
async fn c345_nobody_becomes_more_than_they_were() {
    need!(machine::root());
    let pods = Pods::new("escalation").await;
    let flag = "grep NoNewPrivs /proc/self/status";
    let own = |allowed: bool| json!({"runAsUser": 1000, "allowPrivilegeEscalation": allowed});
    let (_, said) = run(&pods, "no", flag, own(false), json!({})).await;
    assert_eq!(said.trim(), "NoNewPrivs:\t1");
    let (_, said) = run(&pods, "yes", flag, own(true), json!({})).await;
    assert_eq!(said.trim(), "NoNewPrivs:\t0");
}

#[tokio::test]
async fn c346_c347_kernel_settings_of_the_pod_are_set_and_others_refused() {
    need!(machine::root());
    let pods = Pods::new("settings").await;
    let whole = json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]});
    let (code, said) = run(&pods, "p", "cat /proc/sys/kernel/shm_rmid_forced", json!({}), whole).await;
    assert_eq!((code, said.trim()), (0, "1"));
    let mut wrong = pod("w", &[container("c", "true")]);
    wrong["spec"]["securityContext"] = json!({"sysctls": [{"name": "foo-", "value": "bar"}, {"name": "kernel.shmmax", "value": "1"},
        {"name": "bar..", "value": "42"}]});
    let said = pods.api.post(&pods.api.path("v1", "pods"), wrong).await.refused(422);
    assert!(
        said.contains("sysctls[0].name") && said.contains("sysctls[2].name") && !said.contains("sysctls[1]"),
        "{said}"
    );
}

#[tokio::test]
async fn a_seccomp_profile_of_the_node_forbids_what_it_says() {
    need!(machine::root());
    let pods = Pods::new("profile").await;
    let dir = e2e::shared::kubeconfig(&crate::IMAGES).with_file_name("data").join("agent/kubelet/seccomp/own");
    std::fs::create_dir_all(&dir).expect("a directory");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    std::fs::write(dir.join("no-directories.json"), profile.to_string()).expect("a file");
    let wish = |file: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": file}});
    let script = "mkdir /made 2>&1; echo $?; touch /file && echo touched";
    let (_, said) = run(&pods, "confined", script, wish("own/no-directories.json"), json!({})).await;
    assert!(said.contains("not supported") && said.contains("1\ntouched"), "{said}");
    let (_, said) = run(&pods, "of-pod", script, json!({}), wish("own/no-directories.json")).await;
    assert!(said.contains("not supported"), "{said}");

    let mut container = container("c", "true");
    container["securityContext"] = wish("own/none.json");
    pods.create(pod("without", &[container])).await;
    pods.api.event("without", "Failed", "own/none.json\": No such file").await;
}

#[tokio::test]
async fn the_default_profile_follows_capabilities() {
    need!(machine::root());
    let pods = Pods::new("gated").await;
    let script = "grep Seccomp: /proc/self/status; \
        mount -t tmpfs none /mnt 2>&1 || mkdir -p /mnt && mount -t tmpfs none /mnt && echo mounted";
    let (_, said) = run(&pods, "plain", script, json!({}), json!({})).await;
    assert!(said.contains("Seccomp:\t2") && !said.contains("mounted"), "{said}");
    let more = json!({"capabilities": {"add": ["SYS_ADMIN"]}});
    let (_, said) = run(&pods, "more", script, more, json!({})).await;
    assert!(said.contains("Seccomp:\t2") && said.contains("mounted"), "{said}");
}

#[tokio::test]
async fn the_status_says_as_what_a_container_runs_and_how_it_is_told_to_end() {
    need!(machine::root());
    let pods = Pods::new("effective").await;
    let says = |name: &str| {
        let mut own = container(name, "grep -E '^(Uid|Gid|Groups):' /proc/self/status; exec sleep 600");
        own["securityContext"] = json!({"runAsUser": 1000});
        own
    };
    let (plain, mut init, mut other) = (says("plain"), says("init"), says("other"));
    init["command"] = json!(["true"]);
    other["securityContext"] = json!({"runAsGroup": 7});
    other["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
    let mut all = pod("p", &[plain, other]);
    all["spec"]["os"] = json!({"name": "linux"});
    all["spec"]["initContainers"] = json!([init]);
    all["spec"]["securityContext"] = json!({"runAsGroup": 2000, "supplementalGroups": [3000], "fsGroup": 4000,
        "supplementalGroupsPolicy": "Strict"});
    pods.create(all).await;
    let pod = pods.ready("p").await;
    for (name, uid, gid, groups, signal) in [
        ("init", 1000, 2000, json!([2000, 3000, 4000]), "SIGTERM"),
        ("plain", 1000, 2000, json!([2000, 3000, 4000]), "SIGTERM"),
        ("other", 0, 7, json!([7, 3000, 4000]), "SIGUSR1"),
    ] {
        let own = status(&pod, name);
        assert_eq!(own["user"]["linux"], json!({"uid": uid, "gid": gid, "supplementalGroups": groups}), "{name}");
        assert_eq!(own["stopSignal"], signal, "{name}");
        if name != "init" {
            // As the kernel has it.
            let log = pods.api.log("p", name).await;
            let numbers: Vec<Vec<i64>> = log
                .lines()
                .map(|line| line.split_whitespace().skip(1).map(|own| own.parse().expect("a number")).collect())
                .collect();
            assert_eq!((numbers[0][0], numbers[1][0], json!(numbers[2])), (uid, gid, groups), "{name}");
        }
    }
}
