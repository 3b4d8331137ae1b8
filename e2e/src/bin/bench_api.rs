//! Measures the API from outside: `bench_api [SECONDS] [OBJECTS] [WATCHERS]`. Prints tables; never judges.
//! `hack/bench/api` starts etcd beside it and calls it: the write path of both is measured in one run, on one disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::cluster::Cluster;
use e2e::wire::{Outcome, Server, percentile, pss, send, whole};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const ETCD: &str = "127.0.0.1:12379";
const VALUE: usize = 2048;
/// Streams that one connection carries.
const STREAMS: usize = 100;

fn main() -> Outcome<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let number =
        |at: usize, default: usize| std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seconds, objects, watchers) = (number(1, 5), number(2, 10_000), number(3, 1000));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(Duration::from_secs(seconds as u64), objects, watchers))
}

async fn measure(window: Duration, objects: usize, watchers: usize) -> Outcome<()> {
    let cluster = Cluster::start_with(&[], &["--disable-agent"]);
    let server = Server::of(&cluster.kubeconfig())?;
    writes(&server, window).await?;
    let before = pss(&cluster)?;
    fill(&server, objects).await?;
    println!(
        "\nmemory (PSS) per stored pod that was sent as {} bytes, {objects} pods: {} bytes",
        pod(0).to_string().len(),
        (pss(&cluster)? - before) * 1024 / objects as u64
    );
    reads(&server, window).await?;
    lists(&server, objects).await?;
    fan_out(&server, watchers).await
}

/// Different text each time, from the splitmix64 sequence.
fn text() -> String {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut state = SEED.fetch_add(1, Ordering::Relaxed) << 32;
    let mut text = String::with_capacity(VALUE);
    while text.len() < VALUE {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        text.push_str(&format!("{:016x}", mixed ^ (mixed >> 27)));
    }
    text
}

/// Calls `act` from so many clients for a while; prints requests a second and percentiles, and answers the first.
async fn load<F>(what: &str, clients: usize, window: Duration, act: F) -> Outcome<f64>
where
    F: AsyncFnMut(usize, u64) -> Outcome<()> + Clone + 'static,
{
    let local = tokio::task::LocalSet::new();
    let end = Instant::now() + window;
    let mut tasks = Vec::new();
    for client in 0..clients {
        let mut act = act.clone();
        tasks.push(local.spawn_local(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let started = Instant::now();
                act(client, times.len() as u64).await?;
                times.push(started.elapsed());
            }
            Outcome::Ok(times)
        }));
    }
    let mut times = Vec::new();
    local
        .run_until(async {
            for task in tasks {
                times.extend(task.await??);
            }
            Outcome::Ok(())
        })
        .await?;
    let rate = times.len() as f64 / window.as_secs_f64();
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    println!("{what:<44}{clients:>8}{rate:>12.0}{p50:>10.2}{p99:>10.2}");
    Ok(rate)
}

fn head() {
    println!("{:<44}{:>8}{:>12}{:>10}{:>10}", "", "clients", "requests/s", "p50 ms", "p99 ms");
}

/// POST of a ConfigMap of 2 KB, durable, beside etcd's Put of 2 KB.
async fn writes(server: &Server, window: Duration) -> Outcome<()> {
    head();
    for clients in [1, 64] {
        let mut senders = Vec::new();
        for _ in 0..clients.min(4) {
            senders.push(server.connect().await?);
        }
        let server = server.clone();
        let ours = load("POST of a ConfigMap, 2 KB, durable", clients, window, async move |client, n| {
            let server = server.clone();
            let mut sender = senders[client % senders.len()].clone();
            let body = json!({"metadata": {"name": format!("w-{clients}-{client}-{n}")}, "data": {"k": text()}});
            let path = "/api/v1/namespaces/default/configmaps";
            let request =
                server.request(Method::POST, path, &[("content-type", "application/json")], body.to_string().into())?;
            whole(&mut sender, request).await.map(drop)
        });
        let ours = ours.await?;
        let Ok(tcp) = TcpStream::connect(ETCD).await else {
            println!("(no etcd at {ETCD})");
            continue;
        };
        tcp.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        let etcd = load("etcd: Put of 2 KB, durable", clients, window, async move |client, n| {
            let mut sender = sender.clone();
            let put = put_request(format!("/w-{clients}-{client}-{n}").as_bytes(), text().as_bytes());
            let request = Request::post(format!("http://{ETCD}/etcdserverpb.KV/Put"));
            let request =
                request.header("content-type", "application/grpc").header("te", "trailers").body(Full::new(put))?;
            sender.ready().await?;
            let body = sender.send_request(request).await?.into_body().collect().await?;
            let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
            match status.is_some_and(|status| status == "0") {
                true => Ok(()),
                false => Err("etcd refused a write".into()),
            }
        });
        println!("{:<44}{clients:>8}{:>12.2}", "ratio to etcd", ours / etcd.await?);
    }
    Ok(())
}

/// A gRPC frame with a PutRequest: key 1, value 2.
fn put_request(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = Vec::new();
    for (tag, content) in [(0x0a, key), (0x12, value)] {
        message.push(tag);
        let mut length = content.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(content);
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// A pod as workloads have it. Nobody schedules it, so nothing else is going on.
fn pod(n: usize) -> Value {
    let environment: Vec<Value> = (0..12)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("some value of the variable {n}")}))
        .collect();
    json!({"metadata": {"name": format!("pod-{n:06}"), "labels": {"app": "bench", "pod-template-hash": "5d59d67564"},
        "annotations": {"example.com/checksum": "8b1a9953c4611296a827abf8c47804d7"}}, "spec": {"serviceAccountName": "default", "schedulerName": "none",
        "automountServiceAccountToken": false, "containers": [{"name": "main", "image": "registry.example.com/team/application:1.2.3",
        "env": environment, "ports": [{"containerPort": 8080, "name": "http"}], "resources": {"requests": {"cpu": "100m",
        "memory": "128Mi"}, "limits": {"memory": "256Mi"}}, "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}}}]}})
}

async fn fill(server: &Server, objects: usize) -> Outcome<()> {
    let account = json!({"metadata": {"name": "default"}});
    let mut sender = server.connect().await?;
    let json_type = [("content-type", "application/json")];
    // The controller may have been first.
    let accounts = server.request(
        Method::POST,
        "/api/v1/namespaces/default/serviceaccounts",
        &json_type,
        account.to_string().into(),
    )?;
    drop(whole(&mut sender, accounts).await);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..objects {
        if running.len() >= 64 {
            running.join_next().await.ok_or("no task")???;
        }
        let request =
            server.request(Method::POST, "/api/v1/namespaces/default/pods", &json_type, pod(n).to_string().into())?;
        let mut sender = sender.clone();
        running.spawn(async move { whole(&mut sender, request).await.map(drop) });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

async fn reads(server: &Server, window: Duration) -> Outcome<()> {
    println!();
    head();
    for clients in [1, 64] {
        let mut senders = Vec::new();
        for _ in 0..clients.min(4) {
            senders.push(server.connect().await?);
        }
        let server = server.clone();
        let get = load("GET of a pod", clients, window, async move |client, n| {
            let server = server.clone();
            let mut sender = senders[client % senders.len()].clone();
            let path = format!("/api/v1/namespaces/default/pods/pod-{:06}", (client as u64 * 7 + n) % 100);
            whole(&mut sender, server.request(Method::GET, &path, &[], Bytes::new())?).await.map(drop)
        });
        get.await?;
    }
    Ok(())
}

async fn lists(server: &Server, objects: usize) -> Outcome<()> {
    println!("\nlist of {objects} pods, median of five\n{:<44}{:>12}{:>14}", "", "ms", "bytes");
    let json = "application/json";
    let protobuf = "application/vnd.kubernetes.protobuf";
    for (name, accept, encoding) in [
        ("JSON", json, ""),
        ("JSON, gzip", json, "gzip"),
        ("protobuf", protobuf, ""),
        ("Table", "application/json;as=Table;v=v1;g=meta.k8s.io", ""),
        (
            "metadata, protobuf",
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            "",
        ),
    ] {
        let mut sender = server.connect().await?;
        let (mut times, mut length) = (Vec::new(), 0);
        for _ in 0..5 {
            let headers = [("accept", accept), ("accept-encoding", encoding)];
            let request = server.request(Method::GET, "/api/v1/namespaces/default/pods", &headers, Bytes::new())?;
            let started = Instant::now();
            length = whole(&mut sender, request).await?.len();
            times.push(started.elapsed());
        }
        println!("{name:<44}{:>12.0}{length:>14}", percentile(&mut times, 0.5));
    }
    Ok(())
}

/// One change at a time, until every watcher has seen it.
async fn fan_out(server: &Server, watchers: usize) -> Outcome<()> {
    const CHANGES: usize = 50;
    let path = "/api/v1/namespaces/default/secrets";
    let (seen, mut told) = tokio::sync::mpsc::unbounded_channel::<()>();
    for _ in 0..watchers.div_ceil(STREAMS) {
        let mut sender = server.connect().await?;
        for _ in 0..STREAMS.min(watchers) {
            let watch = server.request(Method::GET, &format!("{path}?watch=1&labelSelector=fan"), &[], Bytes::new())?;
            let (status, mut body) = send(&mut sender, watch).await?;
            if status != StatusCode::OK {
                return Err(format!("a watch: {status}").into());
            }
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                    if (0..lines).any(|_| seen.send(()).is_err()) {
                        return;
                    }
                }
            });
        }
    }
    let count = watchers.div_ceil(STREAMS) * STREAMS.min(watchers);
    let mut sender = server.connect().await?;
    let mut times = Vec::new();
    for n in 0..CHANGES {
        let body =
            json!({"metadata": {"name": format!("fan-{n}"), "labels": {"fan": "out"}}, "stringData": {"k": text()}});
        let started = Instant::now();
        let request =
            server.request(Method::POST, path, &[("content-type", "application/json")], body.to_string().into())?;
        whole(&mut sender, request).await?;
        for _ in 0..count {
            told.recv().await.ok_or("the watchers are gone")?;
        }
        times.push(started.elapsed());
    }
    println!("\nPOST until all of {count} watchers (with a label selector) have the event, {CHANGES} times");
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    println!("p50 {p50:.1} ms, p99 {p99:.1} ms: {:.0} events/s", count as f64 / p50 * 1000.0);
    Ok(())
}
