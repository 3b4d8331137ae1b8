//! `gantry reset` leaves nothing of its instance on the machine.

use std::time::Duration;

use e2e::cluster::Cluster;
use e2e::machine::{self, Traces};
use e2e::need;

#[test]
fn nothing_is_left_after_a_reset() {
    need!(machine::root());
    need!(machine::program("nft").map(drop));
    need!(machine::program("ip").map(drop));
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let before = Traces::of(&["gantry"]);
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    let sample = machine::workspace().join("manifests/sample/hello.yaml");
    client.run(&["apply", "-f", &sample.display().to_string()]).ok();
    client.run(&["rollout", "status", "deployment/hello", "--timeout=30s"]).ok();
    let during = Traces::of(&["gantry"]);
    assert!(during.processes.len() > before.processes.len());
    assert!(during.mounts.len() > before.mounts.len() && during.cgroups.len() > before.cgroups.len());
    assert!(during.links.len() > before.links.len() && during.tables.len() > before.tables.len());

    // Stopping the server leaves the pods alone; that is what reset is for.
    cluster.stop_server();
    let stopped = Traces::of(&["gantry monitor"]);
    assert_eq!(stopped.processes.len(), 2, "{:?}", stopped.processes);
    cluster.reset(true);
    e2e::client::eventually("the machine is as before", Duration::from_secs(5), || {
        (Traces::of(&["gantry"]) == before).then_some(())
    });
    assert!(!cluster.data_dir().exists());
}
