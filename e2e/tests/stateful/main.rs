//! Software that keeps data, from plain manifests (`manifests/stateful`) and Debian's packages, on two nodes: each member is
//! lost once, and what was acknowledged is there in the end.

mod app;
mod ceph;
mod etcd;
mod postgresql;
mod rabbitmq;
mod web;
mod zookeeper;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use e2e::cluster::Cluster;
use e2e::neighbour::Neighbour;
use e2e::{machine, need};

use app::App;

const RECIPES: [&str; 6] = ["etcd", "zookeeper", "rabbitmq", "postgresql", "nginx", "haproxy"];

/// What is done to one of them, and must hold.
type Scene = fn(&App);

#[test]
fn stateful_software_loses_members_and_keeps_its_data() {
    need!(machine::root());
    need!(machine::program("nsenter"));
    let images: Vec<PathBuf> = std::thread::scope(|scope| {
        let builds = RECIPES.map(|recipe| scope.spawn(move || machine::image(recipe).expect("hack/image makes it")));
        builds.map(|build| build.join().expect("an image")).into()
    });
    let mut other = Neighbour::new();
    let here = IpAddr::from(other.here());
    let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    let cluster = Cluster::start_at(here, &images, &["--node-ip", &here.to_string()]);
    other.join(&cluster, "node-2", &images);
    let client = cluster.gantry();

    let scenes: [(&str, Scene); 5] = [
        ("etcd", etcd::scene),
        ("zookeeper", zookeeper::scene),
        ("rabbitmq", rabbitmq::scene),
        ("postgresql", postgresql::scene),
        ("web", web::scene),
    ];
    std::thread::scope(|scope| {
        for (name, scene) in scenes {
            let client = client.clone();
            scope.spawn(move || {
                let app = App::new(client, name);
                scene(&app);
                app.remove();
            });
        }
    });
    // Its volumes end with their claims, so that the node leaves nothing.
    other.reset("node-2");
}

/// Three machines, and the data of all of them on each: any of them may end.
#[test]
#[ignore = "hack/machines runs it"]
fn objects_outlive_machines() {
    need!(machine::root());
    need!(machine::program("nsenter"));
    let image = machine::image("ceph").expect("hack/image makes it");
    let images = [image.as_path()];
    let mut second = Neighbour::new();
    let here = IpAddr::from(second.here());
    let cluster = Cluster::start_at(here, &images, &["--node-ip", &here.to_string()]);
    second.join(&cluster, "node-2", &images);
    let mut third = second.beside(3);
    third.join(&cluster, "node-3", &images);
    let app = App::new(cluster.gantry(), "ceph");
    ceph::scene(&app, &cluster.url(), [(&mut second, "node-2"), (&mut third, "node-3")]);
    app.remove();
    third.reset("node-3");
    second.reset("node-2");
}
