//! What is measured of this process as a whole, with the names that every Prometheus client library gives it. Read from
//! proc(5) when somebody asks, and not before.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Adds the process to what is served.
pub(crate) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

/// What proc(5) says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    start_time_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
        if let Some(figures) = figures(&stat, &booted) {
            let cpu = ConstCounter::new(figures.cpu_seconds);
            cpu.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                "Time on processors, by this program and by the kernel for it",
                None,
                cpu.metric_type(),
            )?)?;
            let mut gauge = |name: &str, help: &str, value: f64| {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
            };
            gauge("process_start_time_seconds", "When it started, since 1970", figures.start_time_seconds)?;
            gauge("process_resident_memory_bytes", "Memory in use", figures.resident_bytes as f64)?;
            gauge("process_virtual_memory_bytes", "Addresses in use", figures.virtual_bytes as f64)?;
            gauge("process_threads", "Threads", figures.threads as f64)?;
            if let Ok(open) = fs::read_dir("/proc/self/fd") {
                // The directory that is being read is one of them.
                gauge("process_open_fds", "Open file descriptors", open.count().saturating_sub(1) as f64)?;
            }
            if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
                gauge("process_max_fds", "File descriptors that may be open", soft as f64)?;
            }
        }
        Ok(())
    }
}

/// Reads `/proc/self/stat` and the boot time of `/proc/stat`.
fn figures(stat: &str, system: &str) -> Option<Figures> {
    // The name in parentheses may hold anything, also parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let (ticks, page) = (ticks_per_second(), page_bytes());
    let booted: u64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Figures {
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
        start_time_seconds: booted as f64 + field(22)? as f64 / ticks,
        resident_bytes: field(24)? * page,
        virtual_bytes: field(23)?,
        threads: field(20)?,
    })
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_shift_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 5 0 0 0 100 50 0 0 20 0 9 0 200 8192 3 1 1 1";
        let found = figures(stat, "cpu 1\nbtime 1000\n").unwrap();
        assert_eq!(found.cpu_seconds, 150.0 / ticks_per_second());
        assert_eq!(found.start_time_seconds, 1000.0 + 200.0 / ticks_per_second());
        assert_eq!((found.virtual_bytes, found.resident_bytes, found.threads), (8192, 3 * page_bytes(), 9));
        assert_eq!(figures("", ""), None);
    }
}
