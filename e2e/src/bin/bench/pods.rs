//! A pod's life on one node, measured from outside: started one by one and all at once, ended by a crash, asked by exec, deleted;
//! and the memory of many.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use e2e::cluster::Cluster;
use e2e::machine;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, DeleteParams, PostParams, WatchEvent, WatchParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::{Outcome, client, millis, monitors, percentile, pss};

/// How often each is done that is done one by one.
const ROUNDS: usize = 50;
/// So many on one node, for their memory.
const CROWDS: [usize; 3] = [10, 100, 500];

/// A pod that ends when it is told to, and that can be told from others by its command.
fn pod(name: &str, number: usize) -> Outcome<Pod> {
    let script = format!("trap exit TERM; sleep {} & wait", 1_000_000 + number);
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}}))?)
}

fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|own| own.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|own| own.restart_count).sum()
}

/// What a watch tells of all pods, with the moment at which it did.
struct Watch(futures::stream::BoxStream<'static, kube::Result<WatchEvent<Pod>>>);

impl Watch {
    async fn start(api: &Api<Pod>) -> Outcome<Self> {
        let version = api.list_metadata(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
        Ok(Self(api.watch(&WatchParams::default(), &version).await?.boxed()))
    }

    /// Until each of these was seen as it should be; answers when.
    async fn until(
        &mut self,
        names: &[String],
        is: impl Fn(&WatchEvent<Pod>) -> bool,
    ) -> Outcome<HashMap<String, Instant>> {
        let mut seen = HashMap::new();
        while seen.len() < names.len() {
            let event = self.0.try_next().await?.ok_or("the watch has ended")?;
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod)) = &event else {
                continue;
            };
            let name = pod.metadata.name.clone().unwrap_or_default();
            if names.contains(&name) && is(&event) {
                seen.entry(name).or_insert_with(Instant::now);
            }
        }
        Ok(seen)
    }
}

fn is_up(event: &WatchEvent<Pod>) -> bool {
    matches!(event, WatchEvent::Added(pod) | WatchEvent::Modified(pod) if is_running(pod))
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let of = |share| millis(percentile(&times, share));
    println!("{name:<58}{:>6}{:>12}{:>12}", times.len(), of(0.5), of(0.99));
}

/// The first process of a container, by its command line.
fn process(number: usize) -> Option<i32> {
    let script = format!("trap exit TERM; sleep {} & wait", 1_000_000 + number);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line) == format!("sh\0-c\0{script}\0")
    })
}

pub(crate) async fn measure(count: usize) -> Outcome<()> {
    let cluster = Cluster::start(&[&machine::image("busybox")?]);
    let api: Api<Pod> = Api::default_namespaced(client(&cluster).await?);
    println!("{:<58}{:>6}{:>12}{:>12}", "", "", "p50", "p99");
    one_by_one(&api).await?;
    at_once(&api, count).await?;
    drop(cluster);
    memory().await
}

async fn one_by_one(api: &Api<Pod>) -> Outcome<()> {
    let mut watch = Watch::start(api).await?;
    let (mut starts, mut restarted, mut execs, mut deleted) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS + 3 {
        let name = format!("one-{round}");
        let names = [name.clone()];
        let posted = Instant::now();
        api.create(&PostParams::default(), &pod(&name, round)?).await?;
        let up = watch.until(&names, is_up).await?[&name];
        let asked = Instant::now();
        let mut attached = api.exec(&name, ["true"], &AttachParams::default().stderr(false)).await?;
        let mut said = Vec::new();
        if let Some(mut stdout) = attached.stdout() {
            stdout.read_to_end(&mut said).await?;
        }
        attached.join().await?;
        let answered = asked.elapsed();
        let pid = process(round).ok_or("the container has no process")?;
        let killed = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        let again = |event: &WatchEvent<Pod>| matches!(event, WatchEvent::Modified(pod) if restarts(pod) == 1 && is_running(pod));
        let back = watch.until(&names, again).await?[&name];
        let told = Instant::now();
        api.delete(&name, &DeleteParams::default()).await?;
        let gone = watch.until(&names, |event| matches!(event, WatchEvent::Deleted(_))).await?[&name];
        // The first few warm files and caches up.
        if round >= 3 {
            starts.push(up - posted);
            execs.push(answered);
            restarted.push(back - killed);
            deleted.push(gone - told);
        }
    }
    row("POST to Running, one by one", starts);
    row("exec of true, from the request to its end", execs);
    row("killed to running again, the first restart", restarted);
    row("DELETE to gone, a program that ends when told", deleted);
    Ok(())
}

async fn at_once(api: &Api<Pod>, count: usize) -> Outcome<()> {
    let names: Vec<String> = (0..count).map(|number| format!("all-{number}")).collect();
    let mut watch = Watch::start(api).await?;
    let began = Instant::now();
    let posts = names.iter().enumerate().map(async |(number, name)| -> Outcome<(String, Instant)> {
        let posted = Instant::now();
        api.create(&PostParams::default(), &pod(name, 10_000 + number)?).await?;
        Ok((name.clone(), posted))
    });
    let (posted, up) = tokio::try_join!(futures::future::try_join_all(posts), watch.until(&names, is_up))?;
    row(&format!("POST to Running, {count} at once"), posted.iter().map(|(name, at)| up[name] - *at).collect());
    let last = up.values().max().copied().unwrap_or(began);
    let told = Instant::now();
    let deletes = names.iter().map(async |name| api.delete(name, &DeleteParams::default()).await);
    let gone = |event: &WatchEvent<Pod>| matches!(event, WatchEvent::Deleted(_));
    let deleted = async { futures::future::try_join_all(deletes).await.map_err(Into::into) };
    let (_, gone) = tokio::try_join!(deleted, watch.until(&names, gone))?;
    row(&format!("DELETE to gone, {count} at once"), gone.values().map(|at| *at - told).collect());
    println!(
        "{count} at once: all Running after {:.2} s (promised for 100 on 2 cores: 3 s)",
        (last - began).as_secs_f64()
    );
    Ok(())
}

/// Memory of a node that is full of idle pods, each time on a fresh one.
async fn memory() -> Outcome<()> {
    println!(
        "\n{:<14}{:>18}{:>18}{:>20}{:>12}",
        "pods on a node", "server, agent", "monitors", "per pod, both", "promised"
    );
    for count in CROWDS {
        // A range of addresses that holds them all.
        let flags = ["--max-pods=600", "--node-cidr-mask-size=22"];
        let cluster = Cluster::start_with(&[&machine::image("busybox")?], &flags);
        let api: Api<Pod> = Api::default_namespaced(client(&cluster).await?);
        let server = cluster.server_pid().as_raw();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let empty = pss(server).ok_or("no smaps_rollup")?;
        let mut watch = Watch::start(&api).await?;
        let names: Vec<String> = (0..count).map(|number| format!("crowd-{number}")).collect();
        let creating = async {
            for name in &names {
                let mut one = pod(name, 0)?;
                if let Some(spec) = &mut one.spec {
                    spec.containers[0].command = Some(vec!["sleep".into(), "1000000".into()]);
                    spec.termination_grace_period_seconds = Some(0);
                }
                api.create(&PostParams::default(), &one).await?;
            }
            Ok(())
        };
        tokio::try_join!(creating, watch.until(&names, is_up))?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let full = pss(server).ok_or("no smaps_rollup")?;
        let of_monitors: u64 = monitors("/run/gantry/").into_iter().filter_map(pss).sum();
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        let each = (full.saturating_sub(empty) + of_monitors) as f64 / 1024.0 / count as f64;
        println!("{count:<14}{:>18}{:>18}{:>20}{:>12}", mib(full), mib(of_monitors), format!("{each:.2} MiB"), "1 MiB");
    }
    Ok(())
}
