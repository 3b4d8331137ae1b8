//! Measures the control plane with hollow nodes: `bench_hollow [NODES] [PODS] [REST] [SECONDS] [WORKLOAD]`. Prints tables; never judges.
//! PODS are placed end to end for each workload, or the named one, then REST pods are held at rest, then 20 a second come and go.

mod agents;
mod life;
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::cluster::Cluster;
use e2e::wire::{Outcome, Server, percentile, pss, whole};
use http::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use life::Seen;
use workload::{Kind, LOW_PER_NODE, WORKLOADS, Workload, plain};

const JSON: (&str, &str) = ("content-type", "application/json");
/// Pods of one namespace.
const NAMESPACE: usize = 3000;
const CHURN: u32 = 20;

fn main() -> Outcome<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let number =
        |at: usize, default: usize| std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (nodes, pods, rest, seconds) = (number(1, 5000), number(2, 10_000), number(3, 150_000), number(4, 60));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(nodes, pods, rest, seconds as u64))
}

async fn measure(nodes: usize, pods: usize, rest: usize, seconds: u64) -> Outcome<()> {
    let cluster = Cluster::start_with(&[], &["--disable-agent"]);
    let server = Server::of(&cluster.kubeconfig())?;
    let started = Instant::now();
    agents::make(&server, nodes).await?;
    println!("{nodes} hollow nodes made in {:.1} s", started.elapsed().as_secs_f64());
    let seen = Arc::new(Seen::default());
    let agents = async {
        let alive = (agents::renew(server.clone(), nodes), life::live(server.clone(), Arc::clone(&seen)));
        tokio::try_join!(alive.0, alive.1).map(drop)
    };
    let measured = async {
        at_rest(&cluster, &format!("{nodes} nodes, no pods")).await?;
        end_to_end(&cluster, &server, &seen, (nodes, pods)).await?;
        if rest > 0 {
            fill(&server, &seen, rest).await?;
            at_rest(&cluster, &format!("{nodes} nodes, {rest} pods")).await?;
            churn(&server, seconds, pods).await?;
        }
        Ok(())
    };
    // Agents live until the measurement is over.
    tokio::select! {
        ended = agents => ended,
        measured = measured => measured,
    }
}

/// Processor time of the server so far, user and system, in seconds (proc_pid_stat(5): ticks of 10 ms).
fn processor(cluster: &Cluster) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.server_pid()))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / 100.0)
}

async fn at_rest(cluster: &Cluster, what: &str) -> Outcome<()> {
    const WINDOW: Duration = Duration::from_secs(20);
    // What was under way ends first.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = processor(cluster)?;
    tokio::time::sleep(WINDOW).await;
    let share = (processor(cluster)? - before) / WINDOW.as_secs_f64() * 100.0;
    println!(
        "at rest, {what}: {:.0} MiB (PSS), {share:.1} % of a core (leases renewed every 10 s)",
        pss(cluster)? as f64 / 1024.0
    );
    Ok(())
}

async fn namespace(server: &Server, name: &str) -> Outcome<()> {
    let mut sender = server.connect().await?;
    let body = json!({"metadata": {"name": name}}).to_string();
    whole(&mut sender, server.request(Method::POST, "/api/v1/namespaces", &[JSON], body.into())?).await?;
    // Pods are refused until their account is there.
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    loop {
        match whole(&mut sender, server.request(Method::GET, &account, &[], Bytes::new())?).await {
            Err(error) if error.to_string().starts_with("404") => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other.map(drop),
        }
    }
}

/// Makes pods from 64 clients as fast as they are taken.
async fn create(server: &Server, namespace: &str, spec: impl Fn(usize) -> Value, count: usize) -> Outcome<()> {
    let senders = server.connections().await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut running = tokio::task::JoinSet::new();
    for number in 0..count {
        if running.len() >= 64 {
            running.join_next().await.ok_or("no task")???;
        }
        let metadata = json!({"name": format!("pod-{number:06}"), "labels": {"set": namespace}});
        let body = json!({"metadata": metadata, "spec": spec(number)}).to_string();
        let request = server.request(Method::POST, &path, &[JSON], body.into())?;
        let mut sender = senders[number % senders.len()].clone();
        running.spawn(async move { whole(&mut sender, request).await.map(drop) });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// From the first POST to the last binding that a watch has told of.
async fn end_to_end(cluster: &Cluster, server: &Server, seen: &Seen, (nodes, wished): (usize, usize)) -> Outcome<()> {
    println!("\nend to end: from the first POST until a watch has told of the last binding (durable)");
    println!(
        "{:<22}{:>8}{:>10}{:>12}{:>8}{:>8}{:>14}{:>14}",
        "", "pods", "created/s", "placed/s", "gate", "ratio", "all Running s", "server ms/pod"
    );
    let mut sender = server.connect().await?;
    for (name, value) in [("low", 1), ("high", 1000)] {
        let class = json!({"metadata": {"name": name}, "value": value}).to_string();
        let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
        whole(&mut sender, server.request(Method::POST, path, &[JSON], class.into())?).await?;
    }
    let only = std::env::args().nth(5);
    let is_chosen = |own: &&Workload| only.as_ref().is_none_or(|only| only == own.name);
    if !WORKLOADS.iter().any(|own| is_chosen(&own)) {
        return Err(format!("no workload {only:?}: expected one of {:?}", WORKLOADS.map(|own| own.name)).into());
    }
    for own in WORKLOADS.iter().filter(is_chosen) {
        let (name, space, pods) = (own.name, own.namespace(), own.count(wished, nodes));
        let before = seen.now();
        namespace(server, &space).await?;
        if own.kind == Kind::Preemption {
            let low = nodes * LOW_PER_NODE;
            namespace(server, "low").await?;
            create(server, "low", |_| workload::low(), low).await?;
            seen.until("low pods run", |now| now.running >= before.running + low).await?;
        }
        let begun = seen.now();
        let (started, processor_before) = (Instant::now(), processor(cluster)?);
        let placing = async {
            create(server, &space, |number| own.spec(number), pods).await?;
            let created = pods as f64 / started.elapsed().as_secs_f64();
            seen.until("pods are bound", |now| now.bound >= begun.bound + pods).await?;
            Ok((created, pods as f64 / started.elapsed().as_secs_f64()))
        };
        let (created, placed) = match own.kind {
            Kind::Churn => tokio::select! {
                placed = placing => placed,
                ended = come_and_go(server) => ended.and(Err("nothing comes and goes any more".into())),
            },
            _ => placing.await,
        }?;
        seen.until("pods run", |now| now.running >= begun.running + pods).await?;
        let all = started.elapsed().as_secs_f64();
        let each = (processor(cluster)? - processor_before) * 1000.0 / pods as f64;
        let (gate, ratio) = (own.gate, placed / own.gate);
        println!("{name:<22}{pods:>8}{created:>10.0}{placed:>12.0}{gate:>8.0}{ratio:>8.1}{all:>14.1}{each:>14.2}");
        // Some fill nodes up; the plain ones are listed later.
        if own.kind == Kind::Plain {
            continue;
        }
        remove(server, &space).await?;
        if own.kind == Kind::Preemption {
            remove(server, "low").await?;
        }
        // The next begins when everybody has heard of the end of these.
        seen.until("pods are gone", |now| now.held() <= before.held()).await?;
    }
    Ok(())
}

/// Has all pods of a namespace removed.
async fn remove(server: &Server, namespace: &str) -> Outcome<()> {
    let mut sender = server.connect().await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    whole(&mut sender, server.request(Method::DELETE, &path, &[], Bytes::new())?).await.map(drop)
}

/// Each second another node, another Service and another pod that fits nowhere, until dropped.
async fn come_and_go(server: &Server) -> Outcome<()> {
    namespace(server, "churning").await?;
    let mut sender = server.connect().await?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let kinds = ["/api/v1/nodes", "/api/v1/namespaces/churning/services", "/api/v1/namespaces/churning/pods"];
    for number in 0_u64.. {
        tick.tick().await;
        for path in kinds {
            let spec = match path.rsplit('/').next() {
                Some("nodes") => json!({"unschedulable": true}),
                Some("services") => json!({"selector": {"set": "churning"}, "ports": [{"port": 80}]}),
                _ => workload::huge(),
            };
            let body = json!({"metadata": {"name": format!("churning-{number}")}, "spec": spec}).to_string();
            whole(&mut sender, server.request(Method::POST, path, &[JSON], body.into())?).await?;
            if let Some(old) = number.checked_sub(1) {
                let path = format!("{path}/churning-{old}");
                whole(&mut sender, server.request(Method::DELETE, &path, &[], Bytes::new())?).await?;
            }
        }
    }
    Ok(())
}

/// Pods until so many run.
async fn fill(server: &Server, seen: &Seen, rest: usize) -> Outcome<()> {
    let started = Instant::now();
    let mut number = 0;
    while seen.now().held() < rest {
        let count = (rest - seen.now().held()).min(NAMESPACE);
        let name = format!("rest-{number}");
        number += 1;
        namespace(server, &name).await?;
        let before = seen.now();
        create(server, &name, |_| plain(), count).await?;
        seen.until("pods run", |now| now.running >= before.running + count).await?;
    }
    println!("\nfilled up to {rest} running pods in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// So many pods a second come and go, while others ask.
async fn churn(server: &Server, seconds: u64, held: usize) -> Outcome<()> {
    namespace(server, "churn").await?;
    let mut sender = server.connect().await?;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / CHURN);
    let pods = "/api/v1/namespaces/churn/pods";
    let mut calls: [(&str, Vec<Duration>); 4] =
        [("POST pod", vec![]), ("GET pod", vec![]), ("DELETE pod", vec![]), ("LIST of a namespace", vec![])];
    for number in 0..seconds * u64::from(CHURN) {
        tick.tick().await;
        let body = json!({"metadata": {"name": format!("pod-{number}")}, "spec": plain()}).to_string();
        let mut asks = vec![
            (0, server.request(Method::POST, pods, &[JSON], body.into())?),
            (
                1,
                server.request(
                    Method::GET,
                    &format!("/api/v1/namespaces/plain/pods/pod-{:06}", number % held as u64),
                    &[],
                    Bytes::new(),
                )?,
            ),
        ];
        if let Some(old) = number.checked_sub(u64::from(CHURN) * 3) {
            asks.push((2, server.request(Method::DELETE, &format!("{pods}/pod-{old}"), &[], Bytes::new())?));
        }
        if number % u64::from(CHURN) == 0 {
            asks.push((3, server.request(Method::GET, "/api/v1/namespaces/plain/pods", &[], Bytes::new())?));
        }
        for (kind, request) in asks {
            let started = Instant::now();
            whole(&mut sender, request).await?;
            calls[kind].1.push(started.elapsed());
        }
    }
    println!(
        "\nwhile {CHURN} pods a second come and go for {seconds} s (one client, {held} pods in the namespace; the objective of Kubernetes: p99 1 s, lists 30 s)"
    );
    println!("{:<22}{:>10}{:>10}{:>10}", "", "calls", "p50 ms", "p99 ms");
    for (name, times) in &mut calls {
        let count = times.len();
        println!("{name:<22}{count:>10}{:>10.2}{:>10.2}", percentile(times, 0.5), percentile(times, 0.99));
    }
    Ok(())
}
