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
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    let sample = machine::workspace().join("manifests/sample/hello.yaml");
    client.run(&["apply", "-f", &sample.display().to_string()]).ok();
    client.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let data_dir = cluster.data_dir();
    let instance = machine::instance(&data_dir);
    let look = || Traces::of(&instance, &data_dir);
    let during = look();
    // The server, the name server, a monitor and a container of each of two pods; a namespace, a link and a route of each.
    assert!(during.processes.len() >= 6, "{during:#?}");
    assert_eq!((during.namespaces.len(), during.links.len()), (2, 2), "{during:#?}");
    assert!(during.mounts.len() >= 4 && during.cgroups.len() >= 4, "{during:#?}");
    assert!(
        during.routes.len() >= 2 && during.tables.len() == 2 && during.addresses.len() == 1 && during.run_dir.is_some(),
        "{during:#?}"
    );

    // Under a running server nothing is reset.
    let refused = client.run(&["reset", "--data-dir", &data_dir.display().to_string()]);
    assert!(refused.code == 1 && refused.err.contains("is in use"), "{refused:?}");
    assert_eq!(look(), during);

    // Stopping the server leaves the pods alone; that is what reset is for.
    cluster.stop_server();
    assert_eq!(look().processes.len(), during.processes.len() - 1);
    cluster.reset(true);
    e2e::client::eventually("nothing is left", Duration::from_secs(60), || (look() == Traces::default()).then_some(()));
    assert!(!data_dir.exists());
}
