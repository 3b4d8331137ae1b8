//! Services as clients meet them: from a pod and from the host, by cluster address, headless name, node port and host
//! port, over TCP and UDP, while endpoints come and go; and the cluster's names.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(3);
const NODE_PORTS: (u16, u16) = (30_480, 30_481);

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// A server at 8080 that says its pod's name, over TCP and UDP.
fn server(name: &str, replicas: u32) -> Value {
    let udp = r#"use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(8080, INADDR_ANY)) or die;
        while ($from = recv(S, $said, 99, 0)) { send(S, "$ENV{HOSTNAME}\n", 0, $from) }"#;
    let script = format!("httpd -f -p 8080 -h /www & exec /usr/bin/perl -e '{udp}'");
    let init = format!("mkdir -p /www && hostname > /www/name && {script}");
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name, "serves": "yes"}}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "talk", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", init], "ports": [{"name": "web", "containerPort": 8080}]}]}}}})
}

fn service(name: &str, app: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"app": app, "serves": "yes"}, "ports": [
        {"name": "tcp", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// Asks a server from this machine. `None` is an answer that did not come.
fn ask_tcp(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /name HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("200 OK").then(|| text.lines().last().unwrap_or_default().to_owned())
}

fn ask_udp(to: SocketAddr) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.send_to(b"x\n", to).ok()?;
    let mut buffer = [0; 128];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

#[test]
fn services_lead_to_what_is_ready_while_it_changes() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let image = machine::image("talk").expect("hack/image makes the image");
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.kubectl();
    builtin(&client);
    apply(&client, &server("web", 3));
    apply(&client, &service("web", "web", json!({"type": "NodePort"})));
    apply(&client, &service("names", "web", json!({"clusterIP": "None"})));
    let ports = json!([{"op": "replace", "path": "/spec/ports/0/nodePort", "value": NODE_PORTS.0},
        {"op": "replace", "path": "/spec/ports/1/nodePort", "value": NODE_PORTS.1}]);
    client.run(&["patch", "service", "web", "--type=json", "-p", &ports.to_string()]).ok();
    client.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let address: IpAddr = client.get(&["service", "web"])["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let node: IpAddr =
        client.get(&["node", "node-1"])["status"]["addresses"][0]["address"].as_str().unwrap().parse().unwrap();
    eventually("the endpoints are in a slice", SOON, || {
        let slices = client.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]);
        let count: usize =
            slices["items"].as_array()?.iter().map(|s| s["endpoints"].as_array().map_or(0, Vec::len)).sum();
        (count == 3).then_some(())
    });
    let host = host_port(&client);
    all_listen(&client);
    inside(&client, node, host);

    // While pods come and go, nothing that is asked of the Service is lost.
    let places = [
        (address, 80, 80),
        (node, NODE_PORTS.0, NODE_PORTS.1),
        ("127.0.0.1".parse().unwrap(), NODE_PORTS.0, NODE_PORTS.1),
    ];
    let end = Instant::now() + Duration::from_secs(10);
    std::thread::scope(|scope| {
        let asking = places.map(|(address, tcp, udp)| {
            scope.spawn(move || {
                let mut count = 0;
                while Instant::now() < end {
                    let got = ask_tcp((address, tcp).into());
                    assert!(got.is_some(), "TCP {address}:{tcp} after {count}");
                    assert!(ask_udp((address, udp).into()).is_some(), "UDP {address}:{udp} after {count}");
                    count += 1;
                }
                count
            })
        });
        // Endpoints come and go; what is one is a server that is there: without probes a pod that has just begun to
        // run counts as ready before it listens.
        let pods = client.run(&["get", "pods", "-l", "app=web", "-o", "name"]).ok();
        let mut turns = pods.lines().cycle();
        while Instant::now() + Duration::from_secs(1) < end {
            let pod = turns.next().expect("pods serve");
            for serves in ["no", "yes"] {
                client.run(&["label", "--overwrite", pod, &format!("serves={serves}")]).ok();
            }
        }
        let counts = asking.map(|asking| asking.join().expect("nothing was lost"));
        assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    });

    // Services outlive the server that wrote their rules.
    cluster.kill_server();
    assert!(ask_tcp((address, 80).into()).is_some());
    cluster.start_server();
    assert!(ask_tcp((address, 80).into()).is_some());
    cluster.kubectl().run(&["scale", "deployment/web", "--replicas=0"]).ok();
    eventually("nothing is behind it: refused at once", SOON, || {
        let begin = Instant::now();
        let got = TcpStream::connect_timeout(&(address, 80).into(), PATIENCE);
        (got.is_err() && begin.elapsed() < Duration::from_millis(500)).then_some(())
    });
}

fn builtin(client: &Client) {
    let kubernetes = client.get(&["service", "kubernetes"]);
    assert_eq!(kubernetes["spec"]["ports"][0]["port"], 443);
    let dns = client.get(&["-n", "kube-system", "service", "kube-dns"]);
    assert_eq!(dns["metadata"]["labels"]["k8s-app"], "kube-dns");
}

/// A pod with host ports; answers the machine's port.
fn host_port(client: &Client) -> u16 {
    let mut pod = server("on-host", 1)["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "on-host".into();
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "t", "containerPort": 8080, "hostPort": 28_080},
        {"name": "u", "containerPort": 8080, "hostPort": 28_080, "protocol": "UDP"}]);
    apply(client, &pod);
    client.run(&["wait", "pod/on-host", "--for=condition=Ready", "--timeout=60s"]).ok();
    28_080
}

/// Waits until every server answers at its pod's own address: without probes a pod counts as ready before it listens.
fn all_listen(client: &Client) {
    for pod in client.get(&["pods", "-l", "serves=yes"])["items"].as_array().expect("pods") {
        let address: IpAddr = pod["status"]["podIP"].as_str().expect("an address").parse().expect("an address");
        eventually("the server answers", SOON, || ask_tcp((address, 8080).into()).and(ask_udp((address, 8080).into())));
    }
}

/// The same from a pod, and what names mean there.
fn inside(client: &Client, node: IpAddr, host_port: u16) {
    let (tcp, udp) = NODE_PORTS;
    let script = format!(
        "set -e; PATH=/usr/bin:/bin; \
         t() {{ said=$(printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | socat -T 3 - TCP4:$1); test -n \"$said\"; echo \"$1: $said\"; }}; \
         u() {{ said=$(echo x | socat -T 3 - UDP4:$1); test -n \"$said\"; echo \"$1: $said\"; }}; \
         for i in 1 2 3 4 5 6; do t web:80; t web.default.svc.cluster.local:80; t names:8080; t {node}:{tcp}; t {node}:{host_port}; \
         u web:80; u names:8080; u {node}:{udp}; u {node}:{host_port}; done; \
         getent hosts kubernetes.default.svc.cluster.local; test -n \"$KUBERNETES_SERVICE_HOST\"; \
         test \"$WEB_SERVICE_PORT_TCP\" = 80; ! getent hosts nothing.default.svc.cluster.local; echo all well"
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inside"}, "spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "talk", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}});
    apply(client, &pod);
    let pod = eventually("the pod inside ended", SOON * 2, || {
        let pod = client.get(&["pod", "inside"]);
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")).then_some(pod)
    });
    let log = client.run(&["logs", "inside"]).ok();
    assert_eq!(pod["status"]["phase"], "Succeeded", "{log}");
    assert!(log.contains("all well"), "{log}");
}
