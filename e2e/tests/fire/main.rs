//! Rollouts under fire: workloads are changed, scaled, paused and taken back at random while nodes are drained, agents and the
//! server killed. No workload falls below what its budget leaves, and each comes to what was asked of it last.
//! `hack/fire` runs it at length.

mod floor;
mod workload;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use e2e::client::{Client, eventually, within};
use e2e::cluster::Cluster;
use e2e::neighbour::Neighbour;
use e2e::{machine, need};
use rand::prelude::IndexedRandom as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use floor::Floors;
use workload::{IMAGES, NAMESPACE, Workload};

const LONG: Duration = Duration::from_secs(300);

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Change {
    Template,
    Scale,
    Pause,
    Undo,
    Drain,
    AgentCrash,
    ServerRestart,
    ServerCrash,
}

const CHANGES: [Change; 8] = [
    Change::Template,
    Change::Scale,
    Change::Pause,
    Change::Undo,
    Change::Drain,
    Change::AgentCrash,
    Change::ServerRestart,
    Change::ServerCrash,
];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Every change once, and then more of those that workloads themselves see, in an order of chance.
fn plan(count: u64, random: &mut StdRng) -> Vec<Change> {
    let often = [
        Change::Template,
        Change::Template,
        Change::Template,
        Change::Scale,
        Change::Scale,
        Change::Pause,
        Change::Undo,
    ];
    let mut all: Vec<Change> = CHANGES.to_vec();
    while (all.len() as u64) < count {
        let pool: &[Change] = if random.random_ratio(3, 4) { &often } else { &CHANGES };
        all.extend(pool.choose(random));
    }
    all.shuffle(random);
    all
}

struct Scene {
    cluster: Cluster,
    other: Neighbour,
    client: Client,
    floors: Floors,
    workloads: Vec<Workload>,
    random: StdRng,
}

#[test]
fn rollouts_come_to_what_was_asked_last_whatever_happens_meanwhile() {
    need!(machine::root());
    need!(machine::program("nsenter"));
    let (seed, count) = (number("GANTRY_FIRE_SEED", 1), number("GANTRY_FIRE_CHANGES", 20));
    println!("seed {seed}, {count} changes");
    let mut scene = Scene::new(StdRng::seed_from_u64(seed), number("GANTRY_FIRE_WORKLOADS", 6));
    for (turn, change) in plan(count, &mut scene.random).into_iter().enumerate() {
        println!("{turn}: {change:?}");
        scene.change(change, turn as u64 + 1);
        let pause = scene.random.random_range(0..1500);
        std::thread::sleep(Duration::from_millis(pause));
        scene.note_whole();
    }
    scene.end();
}

impl Scene {
    fn new(random: StdRng, count: u64) -> Self {
        let images = IMAGES.map(|image| machine::image(image).expect("hack/image makes it"));
        let mut other = Neighbour::new();
        let here = IpAddr::from(other.here());
        let images = images.each_ref().map(PathBuf::as_path);
        let cluster = Cluster::start_at(here, &images, &["--node-ip", &here.to_string()]);
        other.join(&cluster, "node-2", &images);
        let client = cluster.gantry();
        client.run(&["create", "namespace", NAMESPACE]).ok();
        let floors = Floors::watch(&cluster.kubeconfig());
        let workloads = (0..count).map(|number| Workload {
            name: format!("w{number}"),
            is_deployment: number % 2 == 0,
            replicas: 3,
            image: IMAGES[0],
            turn: 0,
            is_paused: false,
        });
        let mut scene = Self { workloads: workloads.collect(), cluster, other, client, floors, random };
        for workload in scene.workloads.clone() {
            scene.apply(&workload);
        }
        scene.settle();
        scene
    }

    fn apply(&self, workload: &Workload) {
        self.floors.asks(&workload.name, workload.replicas);
        self.client.run_with(&["apply", "-f", "-"], &workload.manifest().to_string()).ok();
    }

    fn change(&mut self, change: Change, turn: u64) {
        let index = self.random.random_range(0..self.workloads.len());
        let mut workload = self.workloads[index].clone();
        match change {
            Change::Template => {
                workload.turn = turn;
                workload.image = IMAGES[self.random.random_range(0..IMAGES.len())];
                self.apply(&workload);
            }
            Change::Scale => {
                workload.replicas = self.random.random_range(2..=4);
                self.apply(&workload);
            }
            Change::Pause => {
                // Only Deployments can be paused.
                workload = self.workloads[index - index % 2].clone();
                workload.is_paused = !workload.is_paused;
                self.apply(&workload);
            }
            Change::Undo => {
                // Paused ones refuse, and the first template has none before it.
                let able: Vec<&Workload> = self.workloads.iter().filter(|own| !own.is_paused && own.turn > 0).collect();
                let Some(able) = able.choose(&mut self.random) else { return self.change(Change::Template, turn) };
                workload = (*able).clone();
                self.undo(&mut workload);
            }
            Change::Drain => {
                // A rollout looks at no budget: each may take one pod away in the same moment.
                self.settle();
                self.client.run(&["drain", "node-2", "--timeout=240s"]).ok();
                self.client.run(&["uncordon", "node-2"]).ok();
            }
            Change::AgentCrash => {
                self.other.kill();
                self.other.start("node-2", &["--server", &self.cluster.url(), "--node-name", "node-2"]);
            }
            Change::ServerRestart => {
                self.cluster.stop_server();
                self.cluster.start_server();
            }
            Change::ServerCrash => {
                self.cluster.kill_server();
                self.cluster.start_server();
            }
        }
        let index = self.workloads.iter().position(|known| known.name == workload.name).expect("one of ours");
        self.workloads[index] = workload;
    }

    /// Takes the last template back; what the server holds afterwards is what was asked.
    fn undo(&self, workload: &mut Workload) {
        // Its controller keeps the last template before there is one to go back from.
        eventually("the controller has seen the last change", LONG, || {
            let held = workload.held(&self.client);
            (held["status"]["observedGeneration"] == held["metadata"]["generation"]).then_some(())
        });
        self.client.run(&["rollout", "undo", &workload.path(), "-n", NAMESPACE]).ok();
        let template = workload.held(&self.client)["spec"]["template"].clone();
        let turn = template["metadata"]["annotations"]["turn"].as_str().and_then(|turn| turn.parse().ok());
        let turn: u64 = turn.expect("every template has its turn");
        assert_ne!(turn, workload.turn, "another template is back");
        workload.turn = turn;
        let image = &template["spec"]["containers"][0]["image"];
        workload.image = IMAGES.into_iter().find(|known| image == known).expect("an image of ours");
    }

    /// From here on, who is whole may not fall far below that.
    fn note_whole(&self) {
        for workload in self.workloads.iter().filter(|workload| !workload.is_paused) {
            if let Some(pods) = workload.settled(&self.client) {
                self.floors.is_whole(&workload.name, &pods);
            }
        }
    }

    /// Waits until all that are not paused are as they were asked to be.
    fn settle(&mut self) {
        for workload in self.workloads.iter().filter(|workload| !workload.is_paused) {
            let pods = within(LONG, || workload.settled(&self.client)).unwrap_or_else(|| {
                let told = self.client.run(&["get", "pods,rs,deploy,sts,events", "-n", NAMESPACE, "-o", "wide"]).out;
                panic!("{} does not come to {workload:?}: {}\n{told}", workload.path(), workload.held(&self.client))
            });
            self.floors.is_whole(&workload.name, &pods);
        }
    }

    fn end(mut self) {
        for index in 0..self.workloads.len() {
            if self.workloads[index].is_paused {
                self.workloads[index].is_paused = false;
                self.apply(&self.workloads[index].clone());
            }
        }
        self.settle();
        for workload in &self.workloads {
            assert_eq!(workload.differs(&workload.held(&self.client)), None);
        }
        let (broken, events) = self.floors.end();
        assert!(broken.is_empty(), "below what may be:\n{}", broken.join("\n"));
        println!("{events} changes of pods looked at");
        assert!(events > 50, "{events}");
        self.client.run(&["delete", "namespace", NAMESPACE, "--timeout=120s"]).ok();
        self.other.reset("node-2");
        eventually("the node is gone", LONG, || {
            (self.client.run(&["delete", "node", "node-2"]).code == 0).then_some(())
        });
    }
}
