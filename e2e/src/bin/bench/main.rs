//! Measures a cluster from outside: `bench pod|pods|start|rest|probes`. Prints tables; never judges.

mod pods;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::cluster::Cluster;
use e2e::machine;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |default: usize| args.get(1).and_then(|text| text.parse().ok()).unwrap_or(default);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match args.first().map(String::as_str) {
        Some("pod") => runtime.block_on(pod(number(50))),
        Some("pods") => runtime.block_on(pods::measure(number(100))),
        Some("start") => start(number(10)),
        Some("rest") => runtime.block_on(rest(number(10))),
        Some("probes") => runtime.block_on(probes(number(100))),
        _ => Err("usage: bench pod|pods|start|rest|probes [N]".into()),
    }
}

fn cluster() -> Outcome<Cluster> {
    Ok(Cluster::start(&[&machine::image("busybox")?]))
}

async fn client(cluster: &Cluster) -> Outcome<kube::Client> {
    let config = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// The value below which `share` of the sorted values lie.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted[index.min(sorted.len() - 1)]
}

/// The median time of a write of 4 KiB made durable in `dir`.
fn measured_sync(dir: &Path) -> Outcome<Duration> {
    use std::io::Write as _;
    let path = dir.join("sync-probe");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..41 {
        let started = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort();
    Ok(percentile(&times, 0.5))
}

fn sample_pod(name: &str) -> Outcome<Pod> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000000"]}]}}))?)
}

/// POST to `Running` on a watch, one pod at a time on an idle node.
async fn pod(count: usize) -> Outcome<()> {
    let cluster = cluster()?;
    let api: Api<Pod> = Api::default_namespaced(client(&cluster).await?);
    let sync = measured_sync(&cluster.data_dir())?;
    let mut times = Vec::new();
    for round in 0..count + 3 {
        let name = format!("bench-{round}");
        let version = api.list_metadata(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
        let watched = WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut watch = api.watch(&watched, &version).await?.boxed();
        let started = Instant::now();
        api.create(&PostParams::default(), &sample_pod(&name)?).await?;
        while let Some(event) = watch.try_next().await? {
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
            if pod.status.and_then(|status| status.phase).as_deref() == Some("Running") {
                break;
            }
        }
        // The first few warm files and caches up.
        if round >= 3 {
            times.push(started.elapsed());
        }
        // The node is idle again when the pod is gone.
        api.delete(&name, &DeleteParams::default().grace_period(1)).await?;
        while let Some(event) = watch.try_next().await? {
            if matches!(event, WatchEvent::Deleted(_)) {
                break;
            }
        }
    }
    times.sort();
    let promise = Duration::from_millis(20) + 4 * sync;
    println!("POST a pod to Running on a watch, image present, idle node, {count} pods one after another");
    println!("{:<24}{:>12}{:>14}{:>8}", "", "measured", "promised", "ratio");
    for (name, measured, promised) in
        [("p50", percentile(&times, 0.5), promise), ("p99", percentile(&times, 0.99), Duration::from_millis(100))]
    {
        let ratio = measured.as_secs_f64() / promised.as_secs_f64();
        println!("{name:<24}{:>12}{:>14}{ratio:>8.2}", millis(measured), millis(promised));
    }
    println!("one fdatasync of 4 KiB in the data directory: {}", millis(sync));
    Ok(())
}

/// An empty directory to the ready line.
fn start(count: usize) -> Outcome<()> {
    let mut times = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        let cluster = Cluster::start(&[]);
        times.push(started.elapsed());
        drop(cluster);
    }
    times.sort();
    println!("empty directory to a Ready node, {count} starts (looked at every 50 ms)");
    println!("median {}, longest {}, promised 1 s", millis(percentile(&times, 0.5)), millis(percentile(&times, 1.0)));
    Ok(())
}

/// Kilobytes of proportional set size; proc(5), smaps_rollup.
fn pss(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}

/// Processor time of a process in seconds; proc(5), stat.
fn cpu_seconds(pid: i32) -> Option<f64> {
    cpu_fields(pid, 11)
}

/// That of its children that ended.
fn children_seconds(pid: i32) -> Option<f64> {
    cpu_fields(pid, 13)
}

/// A user time and the system time after it.
fn cpu_fields(pid: i32, first: usize) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit(") ").next()?.split(' ').collect();
    let ticks = fields.get(first)?.parse::<f64>().ok()? + fields.get(first + 1)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Pods with an exec probe each second: what asking costs us, apart from the programs that are run.
async fn probes(count: usize) -> Outcome<()> {
    let cluster = cluster()?;
    let api: Api<Pod> = Api::default_namespaced(client(&cluster).await?);
    for round in 0..count {
        let mut pod = serde_json::to_value(sample_pod(&format!("probed-{round}"))?)?;
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 10});
        api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    }
    e2e::client::eventually("the pods are ready", Duration::from_secs(120), || {
        let all = cluster.gantry().run(&["get", "pods", "--no-headers"]).out;
        (all.matches("1/1").count() == count).then_some(())
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (server, monitors) = (cluster.server_pid().as_raw(), monitors("/run/gantry/"));
    let of_monitors = |read: fn(i32) -> Option<f64>| -> f64 { monitors.iter().filter_map(|pid| read(*pid)).sum() };
    let sample = || Some([cpu_seconds(server)?, of_monitors(cpu_seconds), of_monitors(children_seconds)]);
    let window = Duration::from_secs(30);
    let before = sample().ok_or("no stat")?;
    tokio::time::sleep(window).await;
    let after = sample().ok_or("no stat")?;
    let share = |index: usize| (after[index] - before[index]) / window.as_secs_f64() * 100.0;
    println!("{count} pods with an exec probe each second, {} s", window.as_secs());
    println!("{:<44}{:>12}{:>12}", "", "of a core", "promised");
    println!("{:<44}{:>10.1} %", "server and agent", share(0));
    println!("{:<44}{:>10.1} %", format!("{} monitors", monitors.len()), share(1));
    println!("{:<44}{:>10.1} %{:>12}", "both", share(0) + share(1), "5 %");
    println!("{:<44}{:>10.1} %", "the programs, from clone to exit", share(2));
    Ok(())
}

fn monitors(data_marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_monitor = |pid: &i32| {
        let line = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(" monitor ") && line.contains(data_marker)
    };
    pids.filter(is_monitor).collect()
}

/// Memory with no pods, then memory and processor time with some.
async fn rest(count: usize) -> Outcome<()> {
    let cluster = cluster()?;
    let api: Api<Pod> = Api::default_namespaced(client(&cluster).await?);
    let pid = cluster.server_pid().as_raw();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = pss(pid).ok_or("no smaps_rollup")?;
    for round in 0..count {
        api.create(&PostParams::default(), &sample_pod(&format!("rest-{round}"))?).await?;
    }
    e2e::client::eventually("the pods run", Duration::from_secs(60), || {
        let all = cluster.gantry().run(&["get", "pods", "--no-headers"]).out;
        (all.matches("Running").count() == count).then_some(())
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = cpu_seconds(pid).ok_or("no stat")?;
    let window = Duration::from_secs(30);
    tokio::time::sleep(window).await;
    let share = (cpu_seconds(pid).ok_or("no stat")? - before) / window.as_secs_f64() * 100.0;
    let full = pss(pid).ok_or("no smaps_rollup")?;
    let monitors: Vec<u64> = monitors("/run/gantry/").into_iter().filter_map(pss).collect();
    let of_monitors: u64 = monitors.iter().sum();
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    println!("memory (PSS) and processor time at rest; server and agent in one process");
    println!("{:<44}{:>12}{:>12}", "", "measured", "promised");
    println!("{:<44}{:>12}{:>12}", "no user pods", mib(empty), "64 MiB");
    let per_pod = (full.saturating_sub(empty) + of_monitors) / count.max(1) as u64;
    println!("{:<44}{:>12}{:>12}", "per pod, monitor included", mib(per_pod), "1 MiB");
    println!(
        "{:<44}{:>12}{:>12}",
        format!("of a core with {count} running pods, 30 s"),
        format!("{share:.2} %"),
        "0.3 %"
    );
    println!("{} monitors, {} together", monitors.len(), mib(of_monitors));
    Ok(())
}
