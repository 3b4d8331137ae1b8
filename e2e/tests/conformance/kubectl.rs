//! What kubectl does: the stock program where it is new enough, and `gantry` with the same words.

use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::{machine, need};

use crate::server::{api, kubeconfig};

const SOON: Duration = Duration::from_secs(60);

/// Both programs; the stock one only where it is new enough.
fn programs() -> Vec<Client> {
    let mut programs = vec![Client::new(&machine::gantry(), &kubeconfig())];
    if machine::modern_kubectl().is_ok() {
        programs.push(Client::new(&machine::program("kubectl").expect("checked"), &kubeconfig()));
    }
    programs
}

/// A namespace that takes pods.
fn namespace(prefix: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(api(prefix)).namespace
}

fn controller(replicas: u32) -> String {
    format!(
        "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{app: web}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 0\n      containers:\n      - {{name: web, image: busybox, imagePullPolicy: Never, \
         command: [httpd, -f, -p, \"80\"], ports: [{{containerPort: 80}}]}}\n"
    )
}

fn running(client: &Client, namespace: &str, wanted: usize) -> Vec<String> {
    eventually("pods that run", SOON, || {
        let said = client.run(&[
            "-n",
            namespace,
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "go-template={{range .items}}{{if (eq .status.phase \"Running\")}}{{.metadata.name}} {{end}}{{end}}",
        ]);
        let names: Vec<String> = said.out.split_whitespace().map(str::to_owned).collect();
        (names.len() == wanted).then_some(names)
    })
}

#[test]
fn c192_c194_c195_c196_c203_c204_a_replication_controller_is_described_exposed_labelled_patched_and_scaled() {
    need!(machine::root());
    for client in programs() {
        let namespace = namespace("rc");
        let run = |args: &[&str]| client.run(&[&["-n", namespace.as_str()], args].concat());
        client.run_with(&["-n", &namespace, "create", "-f", "-"], &controller(1)).ok();
        let pods = running(&client, &namespace, 1);

        let described = run(&["describe", "pod", &pods[0]]).ok();
        for wanted in [
            "Name:",
            "Namespace:",
            "Node:",
            "Labels:",
            "app=web",
            "Status:",
            "IP:",
            "Controlled By:",
            "ReplicationController/web",
            "Image:",
            "State:",
            "QoS Class:",
        ] {
            assert!(described.contains(wanted), "{wanted} in {described}");
        }
        let described = run(&["describe", "rc", "web"]).ok();
        for wanted in [
            "Name:",
            "Selector:",
            "app=web",
            "Replicas:",
            "Pods Status:",
            "1 Running / 0 Waiting",
            "Pod Template:",
            "Image:",
            "Events:",
        ] {
            assert!(described.contains(wanted), "{wanted} in {described}");
        }
        assert!(client.run(&["describe", "node", "node-1"]).ok().contains("Conditions:"));
        assert!(client.run(&["describe", "namespace", &namespace]).ok().contains(&namespace));

        run(&["expose", "rc", "web", "--name=rm2", "--port=1234", "--target-port=80"]).ok();
        run(&["expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=80"]).ok();
        let port = |name: &str| {
            run(&["get", "service", name, "-o", "jsonpath={.spec.ports[0].port}:{.spec.ports[0].targetPort}"]).ok()
        };
        assert_eq!((port("rm2"), port("rm3")), ("1234:80".into(), "2345:80".into()));
        eventually("endpoints", SOON, || {
            let slices = run(&[
                "get",
                "endpointslices",
                "-l",
                "kubernetes.io/service-name=rm3",
                "-o",
                "jsonpath={.items[*].endpoints[*].addresses[0]}",
            ]);
            (!slices.out.is_empty()).then_some(())
        });

        run(&["label", "pod", &pods[0], "testing-label=testing-label-value"]).ok();
        assert!(run(&["get", "pod", &pods[0], "-L", "testing-label"]).ok().contains("testing-label-value"));
        run(&["label", "pod", &pods[0], "testing-label-"]).ok();
        assert!(!run(&["get", "pod", &pods[0], "-L", "testing-label"]).ok().contains("testing-label-value"));
        run(&["patch", "pod", &pods[0], "-p", "{\"metadata\":{\"annotations\":{\"x\":\"y\"}}}"]).ok();
        assert_eq!(run(&["get", "pod", &pods[0], "-o", "jsonpath={.metadata.annotations.x}"]).ok(), "y");

        for wanted in [2, 1, 2] {
            run(&["scale", "rc", "web", &format!("--replicas={wanted}"), "--timeout=5m"]).ok();
            running(&client, &namespace, wanted);
        }
        run(&["delete", "rc", "web", "--grace-period=0", "--force"]).ok();
        eventually("no pods", SOON, || run(&["get", "pods", "-o", "name"]).out.is_empty().then_some(()));
    }
}

#[test]
fn c193_c199_differences_and_trials_change_nothing() {
    need!(machine::root());
    for client in programs() {
        let namespace = namespace("diff");
        let deployment = |image: &str| {
            format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  replicas: 0\n  selector: {{matchLabels: {{a: b}}}}\n  \
                 template:\n    metadata: {{labels: {{a: b}}}}\n    spec: {{containers: [{{name: c, image: {image:?}}}]}}\n"
            )
        };
        client.run_with(&["-n", &namespace, "apply", "-f", "-"], &deployment("busybox:1")).ok();
        let diff = client.run_with(&["-n", &namespace, "diff", "-f", "-"], &deployment("busybox:2"));
        assert_eq!(diff.code, 1, "{}{}", diff.out, diff.err);
        assert!(
            diff.out.contains("-      - image: busybox:1") && diff.out.contains("+      - image: busybox:2"),
            "{}",
            diff.out
        );
        let same = client.run_with(&["-n", &namespace, "diff", "-f", "-"], &deployment("busybox:1"));
        assert_eq!((same.code, same.out.as_str()), (0, ""));

        let run = |args: &[&str]| client.run(&[&["-n", namespace.as_str()], args].concat());
        run(&[
            "run",
            "p",
            "--image=busybox",
            "--labels=run=p",
            "--image-pull-policy=Never",
            "--command",
            "--",
            "sleep",
            "600",
        ])
        .ok();
        let change = "{\"spec\":{\"containers\":[{\"name\":\"p\",\"image\":\"other\"}]}}";
        run(&["patch", "pod", "p", "-p", change, "--dry-run=server"]).ok();
        assert_eq!(run(&["get", "pod", "p", "-o", "jsonpath={.spec.containers[0].image}"]).ok(), "busybox");
    }
}

#[test]
fn c197_c198_pods_run_once_and_get_another_image() {
    need!(machine::root());
    for client in programs() {
        let namespace = namespace("run");
        let run = |args: &[&str]| client.run(&[&["-n", namespace.as_str()], args].concat());
        run(&["run", "once", "--restart=Never", "--pod-running-timeout=2m0s", "--image=busybox"]).ok();
        let pod = client.get(&["-n", &namespace, "pod", "once"]);
        assert_eq!(
            (&pod["spec"]["containers"][0]["image"], &pod["spec"]["restartPolicy"]),
            (&"busybox".into(), &"Never".into())
        );
        let mut pod = pod;
        // Its status goes on changing.
        pod["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        pod["spec"]["containers"][0]["image"] = "docker.io/library/other:latest".into();
        client.run_with(&["-n", &namespace, "replace", "-f", "-"], &pod.to_string()).ok();
        let image = run(&["get", "pod", "once", "-o", "jsonpath={.spec.containers[0].image}"]).ok();
        assert_eq!(image, "docker.io/library/other:latest");
    }
}

#[test]
fn c205_logs_are_filtered() {
    need!(machine::root());
    for client in programs() {
        let namespace = namespace("logs");
        let run = |args: &[&str]| client.run(&[&["-n", namespace.as_str()], args].concat());
        let command = "for n in 1 2 3 4 5 6 7 8 9; do echo line number $n; done; sleep 600";
        run(&[
            "run",
            "logs",
            "--image=busybox",
            "--image-pull-policy=Never",
            "--restart=Never",
            "--command",
            "--",
            "sh",
            "-c",
            command,
        ])
        .ok();
        let whole = eventually("the log", SOON, || {
            let said = run(&["logs", "logs"]);
            (said.out.lines().count() == 9).then_some(said.out)
        });
        assert_eq!(run(&["logs", "logs", "--tail=1"]).ok(), "line number 9\n");
        assert_eq!(run(&["logs", "logs", "--limit-bytes=1"]).ok(), "l");
        let stamped = run(&["logs", "logs", "--tail=1", "--timestamps"]).ok();
        let (stamp, rest) = stamped.split_once(' ').expect("a stamp");
        assert!(stamp.ends_with('Z') && stamp.contains('T') && rest == "line number 9\n", "{stamped}");
        assert_eq!(run(&["logs", "logs", "--since=24h"]).ok(), whole);
    }
}

#[test]
fn c201_c202_proxies_listen_where_they_are_told() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let kubectl = machine::program("kubectl").expect("checked");
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("api.sock");
    for (args, curl) in [
        (
            vec!["proxy".to_owned(), format!("--unix-socket={}", socket.display())],
            vec!["--unix-socket".to_owned(), socket.display().to_string(), "http://localhost/api/".to_owned()],
        ),
        (vec!["proxy".to_owned(), "--port=0".to_owned(), "--disable-filter".to_owned()], vec![]),
    ] {
        let mut proxy = Command::new(&kubectl)
            .args(&args)
            .env("KUBECONFIG", kubeconfig())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl runs");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(proxy.stdout.take().expect("piped")), &mut line)
            .expect("a line");
        let curl = match curl.is_empty() {
            true => vec![format!("http://{}/api/", line.trim().rsplit(' ').next().expect("an address"))],
            false => curl,
        };
        let said = Command::new("curl").arg("--silent").args(curl).output().expect("curl runs");
        proxy.kill().expect("it runs");
        proxy.wait().expect("it ends");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("APIVersions"), "{line}{said}");
    }
}

#[test]
fn kubectl_creates_tokens_prunes_customizes_and_debugs() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let client = Client::new(&machine::program("kubectl").expect("checked"), &kubeconfig());
    let namespace = namespace("kubectl");
    let run = |args: &[&str]| client.run(&[&["-n", namespace.as_str()], args].concat());
    let token = run(&["create", "token", "default", "--duration=10m"]).ok();
    assert_eq!(token.trim().split('.').count(), 3);
    assert!(client.run(&["auth", "can-i", "--list"]).ok().contains("*.*"));
    assert!(
        client.run(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).ok().contains("system:admin")
    );

    let map = |name: &str| {
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: one}}}}\n")
    };
    client.run_with(&["-n", &namespace, "apply", "-f", "-"], &(map("a") + &map("b"))).ok();
    let pruned = client.run_with(
        &["-n", &namespace, "apply", "--prune", "-l", "set=one", "--prune-allowlist=core/v1/ConfigMap", "-f", "-"],
        &map("a"),
    );
    assert!(pruned.ok().contains("configmap/b pruned"));
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(
        dir.path().join("kustomization.yaml"),
        "namePrefix: pre-\nconfigMapGenerator:\n- {name: made, literals: [k=v]}\n",
    )
    .expect("a file");
    assert!(run(&["apply", "-k", &dir.path().display().to_string()]).ok().contains("configmap/pre-made-"));
    let explained = client.run(&["explain", "deployment.spec.strategy", "--recursive"]).ok();
    assert!(explained.contains("rollingUpdate") && explained.contains("maxSurge"), "{explained}");
    run(&["run", "p", "--image=busybox", "--image-pull-policy=Never", "--command", "--", "sleep", "600"]).ok();
    let debug =
        run(&["debug", "p", "--copy-to=p-debug", "--container=p", "--image-pull-policy=Never", "--", "sleep", "601"]);
    debug.ok();
    let command = run(&["get", "pod", "p-debug", "-o", "jsonpath={.spec.containers[0].command}"]).ok();
    assert!(command.contains("601"), "{command}");
}
