//! The text format of Prometheus: the kubelet's `/metrics/resource`, and the names of cAdvisor that dashboards use.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;

use super::pods::POD_LINK;
use super::{ContainerUsage, PodUsage, Sample, Traffic};

const NANO: f64 = 1e9;

/// A page under way: families one after the other.
struct Page {
    text: String,
    /// Milliseconds of the epoch, behind every figure that was measured.
    at: i64,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{labels} {value} {}", self.at);
    }
}

/// Label values: backslash, quote and line break are escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn epoch_seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// `/metrics/resource`
pub(super) fn resource(sample: &Sample) -> String {
    let mut page = Page { text: String::new(), at: sample.at.as_millisecond() };
    type OfContainer = fn(&ContainerUsage) -> Option<f64>;
    let containers: [(&str, &str, &str, OfContainer); 3] = [
        ("container_cpu_usage_seconds_total", "counter", "CPU time used by the container in core-seconds", |c| {
            Some(c.stats.cpu_usage_nanoseconds as f64 / NANO)
        }),
        ("container_memory_working_set_bytes", "gauge", "Working set of the container in bytes", |c| {
            Some(c.stats.memory_working_set_bytes as f64)
        }),
        ("container_start_time_seconds", "gauge", "Start of the container in seconds since the epoch", |c| {
            c.started_at.map(epoch_seconds)
        }),
    ];
    for (name, kind, help, of) in containers {
        page.family(name, kind, help);
        for pod in &sample.pods {
            for container in &pod.containers {
                let labels = [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                if let Some(value) = of(container) {
                    page.line(name, &labels, value);
                }
            }
        }
    }
    page.family("node_cpu_usage_seconds_total", "counter", "CPU time used by the node in core-seconds");
    page.line("node_cpu_usage_seconds_total", &[], sample.machine.cpu_nanoseconds as f64 / NANO);
    page.family("node_memory_working_set_bytes", "gauge", "Working set of the node in bytes");
    page.line("node_memory_working_set_bytes", &[], sample.machine.memory.working_set as f64);
    type OfPod = fn(&PodUsage) -> f64;
    let pods: [(&str, &str, &str, OfPod); 2] = [
        ("pod_cpu_usage_seconds_total", "counter", "CPU time used by the pod in core-seconds", |pod| {
            pod.stats.cpu_usage_nanoseconds as f64 / NANO
        }),
        ("pod_memory_working_set_bytes", "gauge", "Working set of the pod in bytes", |pod| {
            pod.stats.memory_working_set_bytes as f64
        }),
    ];
    for (name, kind, help, of) in pods {
        page.family(name, kind, help);
        for pod in &sample.pods {
            page.line(name, &[("namespace", &*pod.namespace), ("pod", &*pod.name)], of(pod));
        }
    }
    page.family("scrape_error", "gauge", "1 if the figures could not be had, 0 otherwise");
    page.text.push_str("scrape_error 0\n");
    page.text
}

/// `/metrics/cadvisor`. `images` is keyed by pod uid and container name.
pub(super) fn cadvisor(sample: &Sample, images: &BTreeMap<(String, String), String>) -> String {
    let mut page = Page { text: String::new(), at: sample.at.as_millisecond() };
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores");
    page.line("machine_cpu_cores", &[], sample.machine.cores as f64);
    page.family("machine_memory_bytes", "gauge", "Memory of the machine in bytes");
    page.line("machine_memory_bytes", &[], sample.machine.memory.total as f64);
    type OfStats = fn(&agent_runtime::cgroup::Stats) -> f64;
    let families: [(&str, &str, &str, OfStats); 7] = [
        ("container_cpu_usage_seconds_total", "counter", "CPU time used in seconds", |s| {
            s.cpu_usage_nanoseconds as f64 / NANO
        }),
        ("container_memory_usage_bytes", "gauge", "Memory in use, caches included", |s| s.memory_usage_bytes as f64),
        ("container_memory_working_set_bytes", "gauge", "Memory in use without inactive file pages", |s| {
            s.memory_working_set_bytes as f64
        }),
        ("container_memory_rss", "gauge", "Anonymous memory", |s| s.memory_rss_bytes as f64),
        ("container_fs_reads_bytes_total", "counter", "Bytes read from block devices", |s| s.io_read_bytes as f64),
        ("container_fs_writes_bytes_total", "counter", "Bytes written to block devices", |s| s.io_write_bytes as f64),
        ("container_processes", "gauge", "Processes and threads", |s| s.pids as f64),
    ];
    for (name, kind, help, of) in families {
        page.family(name, kind, help);
        for pod in &sample.pods {
            let whole = ["container", "image", "name"].map(|label| (label, ""));
            let of_pod = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
            page.line(name, &[&whole[..], &of_pod].concat(), of(&pod.stats));
            for container in &pod.containers {
                let image = images.get(&(pod.uid.clone(), container.name.clone())).map_or("", String::as_str);
                let id = format!("{}_{}", pod.uid, container.id);
                let own = [("container", &*container.name), ("image", image), ("name", &*id)];
                page.line(name, &[&own[..], &of_pod].concat(), of(&container.stats));
            }
        }
    }
    type OfTraffic = fn(&Traffic) -> u64;
    let families: [(&str, &str, OfTraffic); 6] = [
        ("container_network_receive_bytes_total", "Bytes received", |t| t.received_bytes),
        ("container_network_receive_packets_total", "Packets received", |t| t.received_packets),
        ("container_network_receive_errors_total", "Errors while receiving", |t| t.received_errors),
        ("container_network_transmit_bytes_total", "Bytes sent", |t| t.sent_bytes),
        ("container_network_transmit_packets_total", "Packets sent", |t| t.sent_packets),
        ("container_network_transmit_errors_total", "Errors while sending", |t| t.sent_errors),
    ];
    for (name, help, of) in families {
        page.family(name, "counter", help);
        for pod in &sample.pods {
            let Some(traffic) = &pod.network else { continue };
            let labels = [("interface", POD_LINK), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
            page.line(name, &labels, of(traffic) as f64);
        }
    }
    page.text
}

#[cfg(test)]
mod tests {
    use agent_runtime::cgroup::Stats;
    use tokio::time::Instant;

    use super::super::machine::Machine;
    use super::*;

    #[test]
    fn figures_stand_behind_their_labels() {
        let stats = Stats { cpu_usage_nanoseconds: 1_500_000_000, memory_working_set_bytes: 42, ..Stats::default() };
        let started_at = Timestamp::from_millisecond(12_500).ok();
        let container = ContainerUsage { name: "c\"\n".into(), id: "c.0".into(), started_at, stats };
        let network = Some(Traffic { sent_bytes: 7, ..Traffic::default() });
        let pod = PodUsage {
            uid: "u".into(),
            namespace: "a".into(),
            name: "p".into(),
            stats,
            network,
            containers: vec![container],
        };
        let at = Timestamp::from_second(100).unwrap();
        let sample = Sample { at, taken: Instant::now(), machine: Machine::default(), pods: vec![pod] };
        let page = resource(&sample);
        for line in [
            r#"container_cpu_usage_seconds_total{container="c\"\n",namespace="a",pod="p"} 1.5 100000"#,
            r#"container_start_time_seconds{container="c\"\n",namespace="a",pod="p"} 12.5 100000"#,
            r#"pod_memory_working_set_bytes{namespace="a",pod="p"} 42 100000"#,
            "scrape_error 0",
        ] {
            assert!(page.lines().any(|own| own == line), "{line} is not in\n{page}");
        }
        let images = BTreeMap::from([(("u".to_owned(), "c\"\n".to_owned()), "i".to_owned())]);
        let page = cadvisor(&sample, &images);
        for line in [
            r#"container_memory_working_set_bytes{container="c\"\n",image="i",name="u_c.0",namespace="a",pod="p"} 42 100000"#,
            r#"container_network_transmit_bytes_total{interface="eth0",namespace="a",pod="p"} 7 100000"#,
        ] {
            assert!(page.lines().any(|own| own == line), "{line} is not in\n{page}");
        }
    }
}
