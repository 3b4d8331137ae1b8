//! A namespace with servers that say who they are, and a pod to ask from.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};

use e2e::api::{Api, Patch, eventually};
use e2e::client::Client;
use e2e::{machine, shared};
use serde_json::{Value, json};

/// What names are asked with, as `QUERY SERVER NAME TYPE`: prints a line for each answer, and how the question ended.
const QUERY: &str = r#"use Socket; ($s,$n,$t)=@ARGV; socket(S,PF_INET,SOCK_DGRAM,0);
sub name{my($o)=@_;my @l;while(1){my $c=ord substr($r,$o,1);if($c==0){$o++;last}
if($c>=192){my($m)=name(unpack("n",substr($r,$o,2))&16383);push @l,$m;$o+=2;last}push @l,substr($r,$o+1,$c);$o+=$c+1}return(join(".",@l),$o)}
$q=pack("n6",7,256,1,0,0,0);$q.=pack("C/a*",$_) for split(/\./,$n);$q.=pack("Cnn",0,$t,1);
send(S,$q,0,sockaddr_in(53,inet_aton($s)));alarm 5;recv(S,$r,4096,0);@h=unpack("n6",$r);$o=12;
(undef,$o)=name($o),$o+=4 for 1..$h[2];
for(1..$h[3]){(undef,$o)=name($o);($y,undef,undef,$l)=unpack("nnNn",substr($r,$o,10));$o+=10;
print "A ".join(".",unpack("C4",substr($r,$o,4)))."\n" if $y==1;print "CNAME ".(name($o))[0]."\n" if $y==5;
print "PTR ".(name($o))[0]."\n" if $y==12;print "SRV ".unpack("n",substr($r,$o+4,2))." ".(name($o+6))[0]."\n" if $y==33;$o+=$l}
print "CODE ".($h[1]&15)."\n";"#;

/// Types of records.
pub(crate) const A: u32 = 1;
pub(crate) const CNAME: u32 = 5;
pub(crate) const PTR: u32 = 12;
pub(crate) const SRV: u32 = 33;

/// A shell line that asks a server over HTTP for its name.
fn asks(place: &str) -> String {
    format!(
        "printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | socat -T 2 - TCP4:{place},connect-timeout=2 2>/dev/null | tail -n 1"
    )
}

pub(crate) struct Scene {
    pub(crate) api: Api,
    client: Client,
}

impl Scene {
    /// A namespace with a pod `ask` that questions are asked from.
    pub(crate) async fn new(name: &str) -> Self {
        let kubeconfig = shared::kubeconfig(&["talk"]);
        let api = Api::fresh(&kubeconfig, name).await;
        let client = Client::new(&machine::gantry(), &kubeconfig);
        let scene = Self { api, client };
        scene.pod("ask", json!({}), "sleep 1d", json!({})).await;
        scene.running("ask").await;
        scene
    }

    pub(crate) fn path(&self, plural: &str) -> String {
        self.api.path("v1", plural)
    }

    pub(crate) fn slices(&self, service: &str) -> String {
        format!(
            "{}?labelSelector=kubernetes.io/service-name={service}",
            self.api.path("discovery.k8s.io/v1", "endpointslices")
        )
    }

    /// A pod that runs a shell line.
    pub(crate) async fn pod(&self, name: &str, labels: Value, line: &str, more: Value) {
        let mut spec = json!({"terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
            "containers": [{"name": "c", "image": "talk", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", line]}]});
        for (key, value) in more.as_object().expect("fields") {
            match key.as_str() {
                "ports" => spec["containers"][0]["ports"] = value.clone(),
                _ => spec[key] = value.clone(),
            }
        }
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        self.api.post(&self.path("pods"), pod).await.ok();
    }

    /// A pod that says its name, over TCP at these ports and over UDP at the first. It runs before it listens: ask again.
    pub(crate) async fn server(&self, name: &str, labels: Value, ports: &[u16], more: Value) {
        let udp = format!(
            r#"use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in({}, INADDR_ANY)) or die;
            while ($from = recv(S, $said, 99, 0)) {{ send(S, "$ENV{{NAME}}\n", 0, $from) }}"#,
            ports[0]
        );
        let tcp: String = ports.iter().map(|port| format!("httpd -f -p {port} -h /www & ")).collect();
        let line =
            format!("export NAME={name}; mkdir -p /www; echo $NAME > /www/name; {tcp} exec /usr/bin/perl -e '{udp}'");
        self.pod(name, labels, &line, more).await;
    }

    pub(crate) async fn running(&self, name: &str) -> Value {
        let is_up = |pod: &Value| pod["status"]["phase"] == "Running" && pod["status"]["podIP"].is_string();
        self.api.until(&self.path("pods"), name, &format!("pod {name} runs"), is_up).await
    }

    /// The address of a pod that runs.
    pub(crate) async fn address(&self, name: &str) -> String {
        self.running(name).await["status"]["podIP"].as_str().expect("an address").to_owned()
    }

    pub(crate) async fn service(&self, name: &str, spec: Value) -> Value {
        self.api.post(&self.path("services"), json!({"metadata": {"name": name}, "spec": spec})).await.ok()
    }

    /// An address of the lowest sixteen of the service range, which are chosen for nobody while others are free (KEP-3070).
    pub(crate) async fn low_address(&self, place: u32) -> String {
        let first = self.api.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
        let first: Ipv4Addr =
            first["spec"]["clusterIP"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Ipv4Addr::from(u32::from(first) + place).to_string()
    }

    pub(crate) async fn change(&self, service: &str, spec: Value) -> Value {
        let path = format!("{}/{service}", self.path("services"));
        self.api.patch(&path, Patch::Merge, json!({"spec": spec})).await.ok()
    }

    pub(crate) async fn delete(&self, plural: &str, name: &str) {
        self.api.delete(&format!("{}/{name}", self.path(plural)), json!({})).await.ok();
    }

    /// Runs a shell line in a pod; what it printed, whether it ended well or not.
    pub(crate) async fn exec(&self, pod: &str, line: &str) -> String {
        let (client, namespace) = (self.client.clone(), self.api.namespace.clone());
        let (pod, line) = (pod.to_owned(), format!("export PATH=/usr/bin:/bin; {line}"));
        let run = move || client.run(&["-n", &namespace, "exec", &pod, "--", "sh", "-c", &line]);
        tokio::task::spawn_blocking(run).await.expect("the client ends").out
    }

    /// Asks a server over HTTP from the pod `ask`: the name that it says, or nothing.
    pub(crate) async fn http(&self, place: &str) -> String {
        self.http_from("ask", place).await
    }

    pub(crate) async fn http_from(&self, pod: &str, place: &str) -> String {
        self.exec(pod, &asks(place)).await.trim().to_owned()
    }

    pub(crate) async fn udp_from(&self, pod: &str, place: &str) -> String {
        self.exec(pod, &format!("echo x | socat -T 1 - UDP4:{place} 2>/dev/null")).await.trim().to_owned()
    }

    /// The names that many questions over HTTP were answered with, each asked on a connection of its own.
    pub(crate) async fn answers(&self, place: &str, count: usize) -> Vec<String> {
        let said = self.exec("ask", &format!("for i in $(seq {count}); do {}; done", asks(place))).await;
        said.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// What the cluster's DNS answers in the pod `ask`.
    pub(crate) async fn dns(&self, name: &str, kind: u32) -> Vec<String> {
        let server = "$(sed -n 's/^nameserver //p' /etc/resolv.conf | head -n 1)";
        let said = self.exec("ask", &format!("perl -e '{QUERY}' {server} {name} {kind}")).await;
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Asks the cluster's DNS until it answers just this: it hears of Services, and a question may be lost.
    pub(crate) async fn resolves(&self, name: &str, kind: u32, wanted: &[impl AsRef<str> + Debug]) {
        eventually(&format!("{name} leads to {wanted:?}"), async || {
            let said = self.dns(name, kind).await;
            said.iter().map(String::as_str).eq(wanted.iter().map(AsRef::as_ref)).then_some(())
        })
        .await;
    }

    /// A name in the cluster.
    pub(crate) fn name(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.api.namespace)
    }

    /// The node's address.
    pub(crate) async fn node(&self) -> IpAddr {
        let node = self.api.get("/api/v1/nodes/node-1").await.ok();
        node["status"]["addresses"][0]["address"].as_str().expect("an address").parse().expect("an address")
    }

    /// Waits until every endpoint that is ready is one of these pods, by their names. The Service needs a selector: with
    /// one it has a slice even while nothing is selected, and without a slice nobody has looked yet.
    pub(crate) async fn endpoints(&self, service: &str, pods: &[&str]) -> Vec<Value> {
        let wanted: std::collections::BTreeSet<&str> = pods.iter().copied().collect();
        let what = format!("{service} leads to {pods:?}");
        self.api.until_all(&self.slices(service), &what, |slices| !slices.is_empty() && ready(slices) == wanted).await
    }
}

/// The names of the pods that slices lead to.
pub(crate) fn ready(slices: &[Value]) -> std::collections::BTreeSet<&str> {
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    ready.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str()).collect()
}
