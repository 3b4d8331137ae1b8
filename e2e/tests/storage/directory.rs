//! Volumes that are directories: empty ones on disk and in memory, the machine's own, images, and parts of all of them.

use std::os::unix::fs::symlink;

use e2e::api::Patch;
use e2e::{machine, need};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::scene::{Scene, pod};

#[tokio::test]
async fn c399_c400_c401_c402_c403_c404_c405_c406_c407_c408_c409_c410_c411_c412_empty_directories_take_what_anybody_writes()
 {
    need!(machine::root());
    let scene = Scene::new("empty").await;
    let mut pods = Vec::new();
    for (medium, kind) in [("", "disk"), ("Memory", "tmpfs")] {
        for (user, who) in [(0, "root"), (1001, "user")] {
            let line = "stat -c %a /v; stat -f -c %T /v; for mode in 0644 0666 0777; do echo $mode > /v/$mode; chmod $mode /v/$mode; \
                        stat -c '%a %u' /v/$mode; cat /v/$mode; done";
            let volumes = json!([{"name": "v", "emptyDir": {"medium": medium}}]);
            let mut pod = pod(&format!("{kind}-{who}"), line, volumes, json!([{"name": "v", "mountPath": "/v"}]));
            pod["spec"]["securityContext"] = json!({"runAsUser": user});
            pods.push((pod, kind, user));
        }
    }
    let runs = pods.iter().map(|(pod, kind, user)| async { (scene.run(pod.clone()).await, *kind, *user) });
    for (said, kind, user) in join_all(runs).await {
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[0], lines[1] == "tmpfs"), ("777", kind == "tmpfs"), "{said}");
        let files: Vec<String> =
            ["644", "666", "777"].iter().flat_map(|mode| [format!("{mode} {user}"), format!("0{mode}")]).collect();
        assert_eq!(lines[2..], files, "{kind} {user}");
    }
}

#[tokio::test]
async fn c398_containers_of_a_pod_share_a_directory_and_memory_has_its_limit() {
    need!(machine::root());
    let scene = Scene::new("shared").await;
    let volumes =
        json!([{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]);
    let line = "until [ -e /v/from-other ]; do usleep 50000; done; cat /v/from-other; \
                dd if=/dev/zero of=/m/f bs=1M count=2 2>&1 | grep -o 'No space left'";
    let mut both = pod("p", line, volumes, mounts);
    let mut other = both["spec"]["containers"][0].clone();
    (other["name"], other["command"][2]) = ("other".into(), "echo hello > /v/.new; mv /v/.new /v/from-other".into());
    both["spec"]["containers"].as_array_mut().expect("containers").push(other);
    scene.make("pods", both).await;
    scene.phase("p", &["Succeeded"]).await;
    let log = scene.api.get(&format!("{}/p/log?container=c", scene.path("pods"))).await;
    assert_eq!(String::from_utf8_lossy(&log.bytes), "hello\nNo space left\n");
}

#[tokio::test]
async fn who_takes_more_of_the_disk_than_it_may_is_evicted() {
    need!(machine::root());
    let scene = Scene::new("evicted").await;
    let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let greedy = "dd if=/dev/zero of=/v/f bs=1M count=4 2>/dev/null; sync; sleep 600";
    scene.make("pods", pod("modest", "echo x > /v/f; sleep 600", volumes.clone(), mounts.clone())).await;
    scene.running("modest").await;
    scene.make("pods", pod("greedy", greedy, volumes, mounts)).await;
    let greedy = scene.phase("greedy", &["Failed"]).await;
    assert_eq!(greedy["status"]["reason"], "Evicted");
    assert_eq!(greedy["status"]["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    scene.api.event("greedy", "Evicted", "").await;
    let modest = scene.api.get(&format!("{}/modest", scene.path("pods"))).await.ok();
    assert_eq!(modest["status"]["phase"], "Running");
}

#[tokio::test]
async fn c351_c352_c353_c354_c355_parts_by_expression_stay_inside_and_can_be_mended() {
    need!(machine::root());
    let scene = Scene::new("expression").await;
    let with = |name: &str, value: &str| {
        let mounts = json!([{"name": "v", "mountPath": "/part", "subPathExpr": "$(POD_NAME)"}, {"name": "v", "mountPath": "/whole"}]);
        let mut pod =
            pod(name, &format!("test -d /whole/{value}; echo $?"), json!([{"name": "v", "emptyDir": {}}]), mounts);
        pod["spec"]["containers"][0]["env"] = json!([{"name": "POD_NAME", "value": value}]);
        pod
    };
    let annotated = |name: &str, annotations: Value| {
        let mounts = json!([{"name": "v", "mountPath": "/part", "subPathExpr": "$(ANNOTATION)/$(POD_NAME)"}, {"name": "v", "mountPath": "/whole"}]);
        let mut pod = pod(name, "sleep 600", json!([{"name": "v", "emptyDir": {}}]), mounts);
        pod["metadata"]["annotations"] = annotations;
        pod["spec"]["containers"][0]["env"] = json!([{"name": "POD_NAME", "value": "foo"},
            {"name": "ANNOTATION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}}]);
        pod
    };
    for (name, value) in [("up", ".."), ("absolute", "/tmp")] {
        scene.make("pods", with(name, value)).await;
    }
    scene.make("pods", annotated("mended", json!({"notmysubpath": "mypath"}))).await;
    scene.make("pods", annotated("right", json!({"mysubpath": "mypath"}))).await;
    assert_eq!(scene.run(with("plain", "plain")).await, "0\n");
    let refused = |name: &'static str, why: &'static str| {
        let waits = move |pod: &Value| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CreateContainerConfigError"
                && waiting["message"].as_str().is_some_and(|text| text.contains(why))
        };
        let scene = &scene;
        async move { scene.api.until(&scene.path("pods"), name, why, waits).await }
    };
    refused("up", "must not contain '..'").await;
    refused("absolute", "must not be an absolute path").await;
    refused("mended", "must not be an absolute path").await;
    let patch = json!({"metadata": {"annotations": {"mysubpath": "mypath"}}});
    scene.api.patch(&format!("{}/mended", scene.path("pods")), Patch::Merge, patch).await.ok();
    scene.running("right").await;
    scene.exec("right", "touch /whole/mypath/foo/test.log && test -f /part/test.log").await.ok();
    scene.running("mended").await;
}

#[tokio::test]
async fn c455_c456_c457_c458_c459_parts_of_volumes_that_are_replaced_at_once() {
    need!(machine::root());
    let scene = Scene::new("subpath").await;
    scene.make("configmaps", json!({"metadata": {"name": "m"}, "data": {"key": "of the map"}})).await;
    scene.make("secrets", json!({"metadata": {"name": "s"}, "stringData": {"key": "of the secret"}})).await;
    let down = json!({"items": [{"path": "down/name", "fieldRef": {"fieldPath": "metadata.name"}}]});
    let volumes = json!([{"name": "map", "configMap": {"name": "m"}}, {"name": "secret", "secret": {"secretName": "s"}},
        {"name": "down", "downwardAPI": down}, {"name": "all", "projected": {"sources": [{"configMap": {"name": "m"}}]}}]);
    let part = |name: &str, path: &str, to: &str| json!({"name": name, "subPath": path, "mountPath": to});
    // The image has its own /etc/passwd: a file over a file.
    let mounts = json!([
        part("map", "key", "/a"),
        part("secret", "key", "/b"),
        part("down", "down/name", "/c"),
        part("all", "key", "/d"),
        part("map", "key", "/etc/passwd")
    ]);
    let line = "for f in a b c d etc/passwd; do cat /$f; echo; done";
    let said = scene.run(pod("p", line, volumes, mounts)).await;
    assert_eq!(said, "of the map\nof the secret\np\nof the map\nof the map\n");
}

#[tokio::test]
async fn links_of_a_container_lead_nowhere() {
    need!(machine::root());
    let scene = Scene::new("links").await;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("v")).expect("a directory");
    std::fs::write(directory.path().join("secret"), "of the host").expect("a file");
    symlink("../secret", directory.path().join("v/up")).expect("a link");
    symlink(directory.path(), directory.path().join("v/out")).expect("a link");
    let volumes = json!([{"name": "v", "hostPath": {"path": directory.path().join("v")}}]);
    for (name, path) in [("up", "up"), ("out", "out/secret")] {
        let mounts = json!([{"name": "v", "mountPath": "/x", "subPath": path}]);
        scene.make("pods", pod(name, "cat /x", volumes.clone(), mounts)).await;
        let waits = |pod: &Value| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        };
        scene.api.until(&scene.path("pods"), name, "the link is refused", waits).await;
    }
}

#[tokio::test]
async fn directories_of_the_machine_are_what_their_type_says() {
    need!(machine::root());
    let scene = Scene::new("host").await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("dir")).expect("a directory");
    std::fs::write(at("file"), "").expect("a file");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
    let cases = [
        ("dir", "Directory"),
        ("file", "File"),
        ("socket", "Socket"),
        ("made", "DirectoryOrCreate"),
        ("made-file", "FileOrCreate"),
    ];
    let volumes: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(index, (name, kind))| json!({"name": format!("v{index}"), "hostPath": {"path": at(name), "type": kind}}))
        .chain([json!({"name": "v5", "hostPath": {"path": "/dev/null", "type": "CharDevice"}})])
        .collect();
    let mounts: Vec<Value> =
        (0..6).map(|index| json!({"name": format!("v{index}"), "mountPath": format!("/v/{index}")})).collect();
    let good = pod("good", "stat -c %F /v/0 /v/1 /v/2 /v/3 /v/4 /v/5", json!(volumes), json!(mounts));
    let said = scene.run(good).await;
    assert_eq!(said, "directory\nregular empty file\nsocket\ndirectory\nregular empty file\ncharacter special file\n");
    let wrong = json!([{"name": "v", "hostPath": {"path": at("file"), "type": "Directory"}}]);
    scene.make("pods", pod("wrong", "true", wrong, json!([{"name": "v", "mountPath": "/v"}]))).await;
    let told = scene.api.event("wrong", "FailedMount", "").await;
    assert!(told["message"].as_str().is_some_and(|text| text.contains("hostPath type check failed")), "{told}");
}

#[tokio::test]
async fn images_are_read_as_volumes() {
    need!(machine::root());
    let scene = Scene::new("image").await;
    let volumes = json!([{"name": "v", "image": {"reference": "busybox", "pullPolicy": "IfNotPresent"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/www", "subPath": "www"}]);
    let line = "cat /v/www/index.html /www/index.html; touch /v/x 2>&1 | grep -o Read-only; /v/bin/busybox true 2>&1 | grep -o 'Permission denied'";
    let said = scene.run(pod("p", line, volumes, mounts)).await;
    assert_eq!(said, "hello from gantry\nhello from gantry\nRead-only\nPermission denied\n");
    let never = json!([{"name": "v", "image": {"reference": "registry.invalid/none:1", "pullPolicy": "Never"}}]);
    scene.make("pods", pod("never", "true", never, json!([{"name": "v", "mountPath": "/v"}]))).await;
    let told = scene.api.event("never", "FailedMount", "").await;
    assert!(told["message"].as_str().is_some_and(|text| text.contains("pull policy of Never")), "{told}");
}

#[tokio::test]
async fn mounts_below_are_seen_and_may_be_read_only_too() {
    need!(machine::root());
    let scene = Scene::new("mounts").await;
    let directory = SharedDirectory::new();
    let volumes = json!([{"name": "v", "hostPath": {"path": directory.0.path()}}]);
    let mut maker = pod("p", "sleep 600", volumes, json!([]));
    let container = |name: &str, more: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/v"});
        for (key, value) in more.as_object().into_iter().flatten() {
            mount[key] = value.clone();
        }
        json!({"name": name, "image": "busybox", "imagePullPolicy": "Never", "command": ["sleep", "600"],
            "securityContext": {"privileged": name == "maker"}, "volumeMounts": [mount]})
    };
    maker["spec"]["containers"] = json!([
        container("maker", json!({"mountPropagation": "Bidirectional"})),
        container("follower", json!({"mountPropagation": "HostToContainer"})),
        container("alone", json!({}))
    ]);
    scene.make("pods", maker).await;
    scene.running("p").await;
    let exec = |pod: &'static str, container: &'static str, line: &'static str| {
        let client = e2e::client::Client::new(&machine::gantry(), &scene.place.kubeconfig);
        client.run(&["-n", &scene.api.namespace, "exec", pod, "-c", container, "--", "sh", "-c", line])
    };
    exec("p", "maker", "mkdir /v/m && mount -t tmpfs t /v/m && echo below > /v/m/f").ok();
    assert_eq!(exec("p", "follower", "cat /v/m/f").ok(), "below\n");
    assert_eq!(exec("p", "alone", "ls /v/m").ok(), "", "it has its own view");
    let mut reader =
        pod("reader", "sleep 600", json!([{"name": "v", "hostPath": {"path": directory.0.path()}}]), json!([]));
    reader["spec"]["containers"] = json!([
        container("top", json!({"readOnly": true})),
        container("all", json!({"readOnly": true, "recursiveReadOnly": "Enabled"}))
    ]);
    scene.make("pods", reader).await;
    let reader = scene.running("reader").await;
    let told: Vec<&Value> =
        (0..2).map(|index| &reader["status"]["containerStatuses"][index]["volumeMounts"][0]).collect();
    let words = |own: &Value| format!("{} {} {}", own["name"], own["mountPath"], own["recursiveReadOnly"]);
    assert_eq!(words(told[0]), r#""v" "/v" "Disabled""#);
    assert_eq!(words(told[1]), r#""v" "/v" "Enabled""#);
    exec("reader", "top", "touch /v/m/g").ok();
    for (container, file) in [("top", "/v/f"), ("all", "/v/m/h")] {
        let said = exec("reader", container, if file == "/v/f" { "touch /v/f" } else { "touch /v/m/h" });
        assert!(said.code != 0 && said.err.contains("Read-only"), "{container}: {said:?}");
    }
    scene.end("reader").await;
    exec("p", "maker", "umount /v/m").ok();
    scene.end("p").await;
}

#[tokio::test]
async fn where_the_machines_mounts_are_private_nothing_travels_and_that_is_told() {
    need!(machine::root());
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default();
    let is_private = !root.contains(" shared:") && !root.contains(" master:");
    need!(is_private.then_some(()).ok_or("this machine's mounts are shared"));
    let scene = Scene::new("private").await;
    let volumes = json!([{"name": "v", "emptyDir": {"medium": "Memory"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"}]);
    scene.make("pods", pod("private", "true", volumes, mounts)).await;
    let waits =
        |pod: &Value| pod["status"]["containerStatuses"].to_string().contains("but it is not a shared or slave mount");
    scene.api.until(&scene.path("pods"), "private", "it is told", waits).await;
}

/// A directory with a mount of its own that is shared, whatever the machine's are.
struct SharedDirectory(tempfile::TempDir);

impl SharedDirectory {
    fn new() -> Self {
        use nix::mount::{MsFlags, mount};
        let directory = tempfile::tempdir().expect("a directory");
        let none = None::<&str>;
        let this = Self(directory);
        mount(Some("t"), this.0.path(), Some("tmpfs"), MsFlags::empty(), none).expect("root mounts");
        mount(none, this.0.path(), none, MsFlags::MS_SHARED, none).expect("root changes mounts");
        this
    }
}

impl Drop for SharedDirectory {
    fn drop(&mut self) {
        // A failure shows where the directory cannot be removed.
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}
