//! The kubelet's `stats/v1alpha1` Summary: what `kubectl top` in the end shows.

use agent_runtime::cgroup::Stats;
use k8s_openapi::jiff::{Timestamp, TimestampRound, Unit};
use serde_json::{Value, json};

use super::machine::Space;
use super::pods::POD_LINK;
use super::{Pair, PodUsage, Traffic};

/// The page. `window` is ours: the seconds that the rates are an average of.
pub(super) fn page(node: &str, pair: &Pair, only_cpu_and_memory: bool) -> Value {
    let (earlier, later) = (&*pair.earlier, &*pair.later);
    let clock = Clock { window: later.taken.duration_since(earlier.taken).as_secs_f64(), time: second(later.at) };
    let machine = &later.machine;
    let memory = machine.memory;
    let mut own = json!({
        "nodeName": node,
        "startTime": machine.booted_at.map(second),
        "cpu": clock.cpu(machine.cpu_nanoseconds, Some(earlier.machine.cpu_nanoseconds)),
        "memory": {"time": clock.time, "availableBytes": memory.total.saturating_sub(memory.working_set),
            "usageBytes": memory.usage, "workingSetBytes": memory.working_set, "rssBytes": memory.rss},
    });
    if !only_cpu_and_memory {
        if let Some((link, traffic)) = &machine.network {
            own["network"] = clock.network(link, traffic);
        }
        if let Some(space) = &machine.disk {
            own["fs"] = clock.space(space);
        }
        if let Some(space) = &machine.images {
            own["runtime"] = json!({"imageFs": clock.space(space), "containerFs": clock.space(space)});
        }
    }
    let pods = later.pods.iter().map(|pod| {
        let before = earlier.pods.iter().find(|other| other.uid == pod.uid);
        clock.pod(pod, before, only_cpu_and_memory)
    });
    json!({"node": own, "pods": pods.collect::<Vec<_>>(), "window": clock.window})
}

struct Clock {
    /// Seconds between the two samples.
    window: f64,
    time: String,
}

impl Clock {
    fn cpu(&self, total: u64, before: Option<u64>) -> Value {
        let mut cpu = json!({"time": self.time, "usageCoreNanoSeconds": total});
        if let Some(rate) = before.and_then(|before| rate(total, before, self.window)) {
            cpu["usageNanoCores"] = rate.into();
        }
        cpu
    }

    fn memory(&self, stats: &Stats) -> Value {
        json!({"time": self.time, "usageBytes": stats.memory_usage_bytes,
            "workingSetBytes": stats.memory_working_set_bytes, "rssBytes": stats.memory_rss_bytes})
    }

    fn network(&self, link: &str, traffic: &Traffic) -> Value {
        let own = json!({"name": link, "rxBytes": traffic.received_bytes, "rxErrors": traffic.received_errors,
            "txBytes": traffic.sent_bytes, "txErrors": traffic.sent_errors});
        let mut network = own.clone();
        network["time"] = self.time.clone().into();
        network["interfaces"] = json!([own]);
        network
    }

    fn space(&self, space: &Space) -> Value {
        json!({"time": self.time, "capacityBytes": space.capacity_bytes, "availableBytes": space.available_bytes,
            "usedBytes": space.capacity_bytes.saturating_sub(space.available_bytes), "inodes": space.inodes,
            "inodesFree": space.inodes_free, "inodesUsed": space.inodes.saturating_sub(space.inodes_free)})
    }

    fn pod(&self, pod: &PodUsage, before: Option<&PodUsage>, only_cpu_and_memory: bool) -> Value {
        let containers = pod.containers.iter().map(|container| {
            let before = before.and_then(|pod| pod.containers.iter().find(|other| other.id == container.id));
            let before = before.map(|container| container.stats.cpu_usage_nanoseconds);
            json!({"name": container.name, "startTime": container.started_at.map(second),
                "cpu": self.cpu(container.stats.cpu_usage_nanoseconds, before), "memory": self.memory(&container.stats)})
        });
        let total = pod.stats.cpu_usage_nanoseconds;
        let mut value = json!({
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "startTime": pod.containers.iter().filter_map(|container| container.started_at).min().map(second),
            "containers": containers.collect::<Vec<_>>(),
            "cpu": self.cpu(total, before.map(|pod| pod.stats.cpu_usage_nanoseconds)),
            "memory": self.memory(&pod.stats),
        });
        if !only_cpu_and_memory {
            value["process_stats"] = json!({"process_count": pod.stats.pids});
            if let Some(traffic) = &pod.network {
                value["network"] = self.network(POD_LINK, traffic);
            }
        }
        value
    }
}

/// Nanoseconds of CPU per second. A counter that went back belongs to another start: nothing is known yet.
fn rate(total: u64, before: u64, window: f64) -> Option<u64> {
    let used = total.checked_sub(before)?;
    // A window is at least half a second, so the quotient fits.
    (window > 0.0).then(|| (used as f64 / window) as u64)
}

/// As Kubernetes writes times: whole seconds.
fn second(at: Timestamp) -> String {
    at.round(TimestampRound::new().smallest(Unit::Second)).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::{ContainerUsage, Sample, machine::Machine};
    use super::*;

    #[test]
    fn rates_are_of_the_same_start_of_a_container() {
        let stats = |cpu| Stats { cpu_usage_nanoseconds: cpu, memory_usage_bytes: 10, ..Stats::default() };
        let container =
            |id: &str, cpu| ContainerUsage { name: "c".into(), id: id.into(), stats: stats(cpu), ..Default::default() };
        let start = Instant::now();
        let sample = |after, cpu, containers| {
            let pod = PodUsage { uid: "u".into(), stats: stats(cpu), containers, ..Default::default() };
            let taken = start + Duration::from_secs(after);
            Arc::new(Sample { at: Timestamp::UNIX_EPOCH, taken, machine: Machine::default(), pods: vec![pod] })
        };
        let earlier = sample(0, 100, vec![container("c.0", 100), container("d.0", 0)]);
        let later = sample(2, 500, vec![container("c.1", 50), container("d.0", 300)]);
        let page = page("n", &Pair { earlier, later }, false);
        let pod = &page["pods"][0];
        assert_eq!(pod["cpu"]["usageNanoCores"], 200);
        assert!(pod["containers"][0]["cpu"]["usageNanoCores"].is_null(), "another start: {pod}");
        assert_eq!(pod["containers"][0]["cpu"]["usageCoreNanoSeconds"], 50);
        assert_eq!(pod["containers"][1]["cpu"]["usageNanoCores"], 150);
        assert_eq!(page["window"], 2.0);
    }
}
