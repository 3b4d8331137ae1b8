//! What a running cluster tells of itself: figures for scrapers, logs of much output, counted events.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn pod(name: &str, restart: &str, script: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": restart,
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox",
            "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}})
}

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// Whether a name is one that Prometheus takes; labels have no colon.
fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c == '_' || c.is_ascii_alphanumeric() || colon && c == ':';
    text.chars().all(fits) && text.starts_with(|c: char| !c.is_ascii_digit())
}

/// What follows `{a="x",b="y"}`, with the escapes of values undone on the way; `None` where it is malformed.
fn after_labels(text: &str) -> Option<&str> {
    let Some(mut rest) = text.strip_prefix('{') else { return Some(text) };
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (name, value) = rest.split_once("=\"")?;
        if !is_name(name, false) {
            return None;
        }
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => matches!(chars.next()?.1, '\\' | '"' | 'n').then_some(())?,
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &value[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// Reads the text format 0.0.4 line by line (prometheus.io, "Exposition formats"); answers the names of the samples.
#[track_caller]
fn scraped(text: &str) -> BTreeSet<String> {
    let (mut names, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
            assert!(is_name(name, true), "{line}");
            match what {
                Some("HELP") => {}
                Some("TYPE") => {
                    assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&rest), "{line}");
                    assert!(kinds.insert(name.to_owned()), "{line}: comes twice");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let name = &line[..line.find(['{', ' ']).unwrap_or(line.len())];
        assert!(is_name(name, true), "{line}");
        let values = after_labels(&line[name.len()..]).unwrap_or_else(|| panic!("{line}"));
        let mut values = values.split_whitespace();
        assert!(values.next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
        assert!(values.next().is_none_or(|time| time.parse::<i64>().is_ok()) && values.next().is_none(), "{line}");
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let typed = kinds.contains(name) || of_histogram.is_some_and(|family| kinds.contains(family));
        assert!(typed, "{line}: no # TYPE before it");
        names.insert(name.to_owned());
    }
    names
}

#[track_caller]
fn has(text: &str, expected: &[&str]) {
    let names = scraped(text);
    for name in expected {
        assert!(names.contains(*name), "{name} is not among {names:?}");
    }
}

/// A scraper of its own: DNS serves its figures to the cluster, not to clients of the API.
fn scrape(address: IpAddr, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: dns\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    Some(body.to_owned())
}

#[test]
fn every_part_tells_its_figures() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    apply(&client, &pod("asks", "Never", "nslookup kubernetes.default.svc.cluster.local; exec sleep 1000"));
    client.run(&["wait", "--for=condition=Ready", "pod/asks", "--timeout=60s"]).ok();
    let raw = |path: &str| client.run(&["get", "--raw", path]).ok();

    let of_node = ["kubelet_node_name", "kubelet_running_pods", "kubelet_started_containers_total"];
    let of_node = [&of_node[..], &["kubelet_pod_start_duration_seconds_bucket", "process_open_fds"]].concat();
    let of_server = [
        "apiserver_request_total",
        "apiserver_request_duration_seconds_bucket",
        "apiserver_longrunning_requests",
        "apiserver_storage_objects",
        "gantry_store_persist_duration_seconds_sum",
        "gantry_store_stalled",
        "scheduler_schedule_attempts_total",
        "workqueue_depth",
        "process_cpu_seconds_total",
    ];
    has(&raw("/metrics"), &[&of_server[..], &of_node].concat());
    has(&raw("/api/v1/nodes/node-1/proxy/metrics"), &of_node);
    let usage = eventually("the figures of a container", SOON, || {
        let text = raw("/api/v1/nodes/node-1/proxy/metrics/cadvisor");
        text.contains("pod=\"asks\"").then_some(text)
    });
    has(&usage, &["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "machine_cpu_cores"]);
    let service = client.get(&["-n", "kube-system", "service", "kube-dns"]);
    let address = service["spec"]["clusterIP"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let dns = eventually("the figures of DNS, of a query too", SOON, || {
        scrape(address, 9153).filter(|text| text.contains("coredns_dns_responses_total{"))
    });
    has(&dns, &["coredns_dns_requests_total", "coredns_dns_responses_total", "process_threads"]);
}

#[test]
fn a_log_of_many_files_is_one() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    const LINES: usize = 30_000;
    // A thousand bytes each; files are rotated at ten megabytes.
    let script = format!("awk 'BEGIN {{ for (i = 0; i < {LINES}; i++) printf \"%06d %0992d\\n\", i, 0 }}'");
    apply(&client, &pod("talks", "Never", &script));
    eventually("the pod ended", 4 * SOON, || {
        let phase = client.get(&["pod", "talks"])["status"]["phase"].clone();
        assert_ne!(phase, "Failed");
        (phase == "Succeeded").then_some(())
    });
    let logs = cluster.data_dir().join("agent/log/pods");
    let pods = std::fs::read_dir(&logs).expect("logs of pods").map(|dir| dir.expect("readable").path());
    let own = pods.filter(|dir| dir.to_string_lossy().contains("talks")).map(|dir| dir.join("c"));
    let files: usize = own.map(|dir| std::fs::read_dir(dir).expect("logs of the container").count()).sum();
    assert!(files > 2, "{files} files: they were rotated");
    let said = client.run(&["logs", "talks"]).ok();
    assert_eq!(said.lines().count(), LINES);
    let zeroes = "0".repeat(992);
    for (number, line) in said.lines().enumerate() {
        assert!(line == format!("{number:06} {zeroes}"), "line {number} is {:.20}", line);
    }
    assert!(client.run(&["logs", "talks", "--tail=1"]).ok().starts_with(&format!("{:06} ", LINES - 1)));
}

#[test]
fn what_happens_again_is_counted() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    apply(&client, &pod("ends", "Always", "exit 3"));
    let about = ["events", "--field-selector", "involvedObject.name=ends,reason=Pulled"];
    let event = eventually("its image was asked for three times", 2 * SOON, || {
        let events = client.get(&about)["items"].as_array().cloned().unwrap_or_default();
        assert!(events.len() <= 1, "the same event is one object: {events:#?}");
        // The first restart comes at once, the second seconds later.
        events.into_iter().find(|event| event["count"].as_i64() >= Some(3))
    });
    let time = |field: &str| event[field].as_str().map(str::to_owned).expect("a time");
    assert!(time("firstTimestamp") < time("lastTimestamp"), "{event:#}");
}

#[test]
fn a_busy_server_tells_where_its_time_goes() {
    need!(machine::root());
    let cluster = Cluster::start_with(&[], &["--disable-agent"]);
    let gantry = cluster.gantry();
    let profile = |seconds: u32| format!("/debug/pprof/profile?seconds={seconds}");
    let refused = gantry.run(&["get", "--raw", &profile(1), "--as=jane"]);
    assert!(refused.code != 0 && refused.err.contains("Forbidden"), "{}{}", refused.out, refused.err);
    // Who uses no CPU time has no samples: clients ask for much for as long as the profile is taken.
    let told = std::thread::scope(|scope| {
        let taken = scope.spawn(|| gantry.run_bytes(&["get", "--raw", &profile(2)]));
        while !taken.is_finished() {
            gantry.run(&["get", "clusterroles", "-o", "json"]).ok();
        }
        taken.join().expect("it does not panic")
    });
    let mut message = Vec::new();
    flate2::read::GzDecoder::new(&*told).read_to_end(&mut message).expect("gzip");
    // Fields of profile.proto: 2 is a sample, 6 a text.
    let (mut samples, mut texts, mut rest) = (0, Vec::new(), &*message);
    while let Some((key, after)) = varint(rest) {
        let (value, after) = varint(after).expect("a value");
        rest = if key & 7 == 2 { &after[value as usize..] } else { after };
        samples += usize::from(key == 2 << 3 | 2);
        texts.extend((key == 6 << 3 | 2).then(|| String::from_utf8_lossy(&after[..value as usize]).into_owned()));
    }
    assert!(samples > 0, "{texts:?}");
    assert!(texts.iter().any(|text| text.ends_with("/gantry")), "{texts:?}");
}

/// A number of protobuf, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..=end].iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[end + 1..]))
}
