//! Pods with users of their own (`hostUsers: false`): root inside is nobody outside, and the pod's files are its own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, status};

/// A pod with users of its own whose containers see the volumes, each at its name.
fn own(name: &str, mut containers: Vec<Value>, volumes: Value) -> Value {
    let mounts: Vec<Value> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap_or_default())}))
        .collect();
    for container in &mut containers {
        container["volumeMounts"] = json!(mounts);
    }
    let mut pod = pod(name, &containers);
    pod["spec"]["hostUsers"] = json!(false);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["volumes"] = volumes;
    pod
}

/// The user, on the machine, of the processes of a pod's containers.
fn owner(pod: &Value) -> u32 {
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let all = machine::container_processes(uid);
    let first = all.values().flatten().next().expect("a process");
    std::fs::metadata(format!("/proc/{first}")).expect("it runs").uid()
}

/// What a shell line prints in a container.
async fn exec(pods: &Pods, pod: &str, container: &str, line: &str) -> String {
    let client = Client::new(&machine::gantry(), &e2e::shared::kubeconfig(&crate::IMAGES));
    let [namespace, pod, container, line] = [pods.api.namespace.as_str(), pod, container, line].map(str::to_owned);
    let run = move || client.run(&["exec", "-n", &namespace, &pod, "-c", &container, "--", "sh", "-c", &line]).ok();
    tokio::task::spawn_blocking(run).await.expect("the client ends")
}

#[tokio::test]
async fn root_inside_is_nobody_outside_and_pods_have_different_ids() {
    need!(machine::root());
    let pods = Pods::new("own-ids").await;
    let script = "cat /proc/self/uid_map; sleep 1000000";
    for name in ["a", "b"] {
        pods.create(own(name, vec![container("c", script)], json!([]))).await;
    }
    let (a, b) = (pods.ready("a").await, pods.ready("b").await);
    let (first, second) = (owner(&a), owner(&b));
    assert!(first >= 65_536 && first % 65_536 == 0 && second % 65_536 == 0 && second >= 65_536, "{first} {second}");
    assert_ne!(first, second);
    let map = pods.api.log_with("a", "c", "65536", 1).await;
    let wanted = ["0".to_owned(), first.to_string(), "65536".to_owned()];
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), wanted);

    // Containers without input read the machine's.
    assert_eq!(std::fs::metadata("/dev/null").expect("there").uid(), 0);
    let said = exec(&pods, "a", "c", "id -u; echo $$ > /pid; ls -ln /pid").await;
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((words[0], words[3], words[4]), ("0", "0", "0"), "{said}");
}

#[tokio::test]
async fn files_of_volumes_have_the_ids_that_the_spec_says() {
    need!(machine::root());
    let pods = Pods::new("own-files").await;
    let dir = tempfile::tempdir().expect("a directory");
    for (name, id) in [("of-root", 0), ("of-user", 1000)] {
        let file = dir.path().join(name);
        std::fs::write(&file, "secret\n").expect("a file");
        std::os::unix::fs::chown(&file, Some(id), Some(id)).expect("a new owner");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"key": "value"}});
    pods.api.post(&pods.api.path("v1", "configmaps"), config).await.ok();
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "value"}});
    pods.api.post(&pods.api.path("v1", "secrets"), secret).await.ok();
    let script = "stat -L -c '%n %u:%g' /host/of-root /host/of-user /map/key /sec/key /empty /memory /img/bin /etc/hosts /bin /dev/shm; \
        cat /host/of-root /host/of-user; echo mine > /host/made; echo x > /empty/f && stat -c '%n %u:%g' /empty/f; \
        id -u; id -G; cat /var/run/secrets/kubernetes.io/serviceaccount/token > /dev/null && echo token; \
        echo x > /dev/shm/x && echo >> /etc/hosts && echo written; echo farewell > /dev/termination-log";
    let volumes = json!([{"name": "host", "hostPath": {"path": dir.path()}}, {"name": "map", "configMap": {"name": "m"}},
        {"name": "sec", "secret": {"secretName": "s"}}, {"name": "empty", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "img", "image": {"reference": "busybox", "pullPolicy": "IfNotPresent"}}]);
    let mut root = own("root", vec![container("c", script)], volumes.clone());
    root["spec"]["securityContext"] = json!({"fsGroup": 4242});
    pods.create(root).await;
    let ended = pods.ended("root").await;
    let said = pods.api.log("root", "c").await;
    for line in [
        "/host/of-root 0:0",
        "/host/of-user 1000:1000",
        "/map/key 0:4242",
        "/sec/key 0:4242",
        "/empty 0:4242",
        "/memory 0:4242",
        "/img/bin 0:0",
        "/etc/hosts 0:0",
        "/bin 0:0",
        "/dev/shm 0:0",
        "/empty/f 0:4242",
        "token",
        "written",
    ] {
        assert!(said.lines().any(|own| own == line), "{line}: {said}");
    }
    assert_eq!(said.lines().filter(|line| *line == "secret").count(), 2, "{said}");
    assert_eq!(std::fs::metadata(dir.path().join("made")).expect("made").uid(), 0, "the disk has the pod's ids");
    let terminated = &status(&ended, "c")["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["message"]), (&json!(0), &json!("farewell\n")));

    // Another user cannot read what is root's alone, and opens its streams again.
    let script = "cat /host/of-root 2>&1; cat /host/of-user; id -u; echo again > /proc/self/fd/1";
    let mut user = own("user", vec![container("c", script)], volumes);
    user["spec"]["securityContext"] = json!({"runAsUser": 1000});
    pods.create(user).await;
    pods.ended("user").await;
    let said = pods.api.log("user", "c").await;
    assert!(said.contains("Permission denied") && said.ends_with("secret\n1000\nagain\n"), "{said}");
}

#[tokio::test]
async fn what_a_pod_has_of_its_own_works_with_its_users() {
    need!(machine::root());
    let pods = Pods::new("own-things").await;
    let script = "ping -c 1 -W 2 127.0.0.1 > /dev/null && echo pinged; hostname; \
        cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net; \
        mount -t proc none /mnt 2>/dev/null || mkdir -p /mnt && mount -t proc none /mnt && echo proc-mounted; \
        echo x > /dev/null && head -c 4 /dev/urandom | wc -c; echo bytes; sleep 1234567";
    let mut one = container("c", script);
    one["securityContext"] = json!({"procMount": "Unmasked", "capabilities": {"add": ["SYS_ADMIN"]}});
    one["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "test $(id -u) = 0"]}, "periodSeconds": 1});
    let mut all = own("p", vec![one, container("d", "sleep 1000000")], json!([]));
    all["spec"]["hostname"] = json!("named");
    all["spec"]["securityContext"] = json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"},
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]});
    pods.create(all).await;
    pods.ready("p").await;
    let said = pods.api.log_with("p", "c", "bytes", 1).await;
    for line in ["pinged", "named", "1", "0", "lo", "eth0", "proc-mounted", "4"] {
        assert!(said.lines().any(|own| own == line), "{line}: {said}");
    }
    let seen = exec(&pods, "p", "d", "ps").await;
    assert!(seen.contains("sleep 1000000") && !seen.contains("1234567"), "each sees its own processes: {seen}");

    // The brackets keep the one that looks from finding its own command line.
    let looks = "until ps | grep -q '[1]234567'; do sleep 0.1; done; echo seen; sleep 1000000";
    let mut shared = own("shared", vec![container("c", "sleep 1234567"), container("d", looks)], json!([]));
    shared["spec"]["shareProcessNamespace"] = json!(true);
    pods.create(shared).await;
    pods.ready("shared").await;
    pods.api.log_with("shared", "d", "seen", 1).await;
}

#[tokio::test]
async fn proc_is_masked_unless_the_pod_asks() {
    need!(machine::root());
    let pods = Pods::new("own-proc").await;
    let script = "grep -c ' /proc/' /proc/mounts; true";
    pods.create(own("masked", vec![container("c", script)], json!([]))).await;
    let mut all = container("c", script);
    all["securityContext"] = json!({"procMount": "Unmasked"});
    pods.create(own("unmasked", vec![all.clone()], json!([]))).await;
    pods.ended("masked").await;
    pods.ended("unmasked").await;
    let count = |said: String| said.trim().parse::<u32>().expect("a number");
    assert!(count(pods.api.log("masked", "c").await) > 3);
    assert_eq!(count(pods.api.log("unmasked", "c").await), 0);
    // The machine's own users see no more of /proc than is good for them.
    let said = pods.api.post(&pods.api.path("v1", "pods"), pod("wrong", &[all])).await.refused(422);
    assert!(said.contains("`hostUsers` must be false to use `Unmasked`"), "{said}");
    let mut wrong = own("wrong", vec![container("c", "true")], json!([]));
    wrong["spec"]["hostNetwork"] = json!(true);
    let said = pods.api.post(&pods.api.path("v1", "pods"), wrong).await.refused(422);
    assert!(said.contains("when `pod.Spec.HostUsers` is false"), "{said}");
}

#[tokio::test]
async fn a_file_system_that_maps_no_owners_is_told_by_the_volume_s_name() {
    need!(machine::root());
    let pods = Pods::new("own-refused").await;
    let volumes = json!([{"name": "kernel", "hostPath": {"path": "/proc/sys"}}]);
    pods.create(own("p", vec![container("c", "true")], volumes)).await;
    pods.api.event("p", "Failed", "volume \"kernel\" cannot be had with hostUsers: false").await;
    let mut high = own("high", vec![container("c", "true")], json!([]));
    high["spec"]["securityContext"] = json!({"runAsUser": 70_000});
    pods.create(high).await;
    pods.api.event("high", "Failed", "id 70000 cannot be had with hostUsers: false").await;
}

#[test]
fn a_pod_keeps_its_ids_when_the_agent_comes_back() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    let soon = Duration::from_secs(60);
    let create = |name: &str| {
        let pod = own(name, vec![container("c", "sleep 1000000")], json!([]));
        client.run_with(&["apply", "-f", "-"], &pod.to_string()).ok();
        eventually("the pod runs", soon, || {
            let pod = client.get(&["pod", name]);
            (status(&pod, "c")["ready"] == true).then_some(pod)
        })
    };
    let before = create("before");
    let first = owner(&before);
    cluster.kill_server();
    cluster.start_server();
    let after = create("after");
    assert_eq!(
        (owner(&before), status(&client.get(&["pod", "before"]), "c")["restartCount"].as_u64()),
        (first, Some(0))
    );
    assert_ne!(owner(&after), first);
    assert_eq!(client.run(&["exec", "before", "--", "id", "-u"]).ok().trim(), "0");
    // What is gone leaves its ids and no mount.
    let uid = before["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let has_run_dir = || {
        let own = |hash: &String| Path::new("/run/gantry").join(hash).join("pods").join(&uid);
        machine::instances().iter().any(|hash| own(hash).exists())
    };
    assert!(has_run_dir(), "the pod has a directory while it runs");
    client.run(&["delete", "pod", "before", "--now"]).ok();
    eventually("the pod is gone", soon, || {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        (!mounts.contains(&uid) && !has_run_dir()).then_some(())
    });
    // Ids that are free again may be another machine's by now: all that counts is that nobody here has them.
    assert_ne!(owner(&create("again")), owner(&after));
}
