//! Other machines beside this one: each a network namespace behind a pair of links, with an agent and a data directory of
//! its own. They share a network with this machine, which their traffic does not leave.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Said, eventually};
use crate::cluster::Cluster;
use crate::machine::{self, Traces};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Runs a program that has to succeed.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let said: Said = Command::new(program).args(args).output().expect("the program runs").into();
    said.ok()
}

/// The network: a bridge that has this machine's address.
struct Network {
    bridge: String,
    number: u8,
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["link", "del", &self.bridge]).output());
    }
}

/// A pair of links, and what lies behind it.
pub struct Neighbour {
    namespace: String,
    link: String,
    dir: tempfile::TempDir,
    network: Arc<Network>,
    /// The last part of its address.
    host: u8,
    agent: Option<Child>,
    starts: u32,
    /// What the next agent finds in its environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Neighbour {
    /// Makes the network, the links and the namespace; nothing runs there yet.
    pub fn new() -> Self {
        let id = std::process::id();
        let network = Network { bridge: format!("ge{id}"), number: (id % 250) as u8 + 1 };
        run("ip", &["link", "add", &network.bridge, "type", "bridge"]);
        let this = Self::on(Arc::new(network), 2);
        run("ip", &["addr", "add", &format!("{}/24", this.here()), "dev", &this.network.bridge]);
        run("ip", &["link", "set", &this.network.bridge, "up"]);
        this
    }

    /// Another machine on the same network; its address ends with `host`.
    pub fn beside(&self, host: u8) -> Self {
        Self::on(Arc::clone(&self.network), host)
    }

    fn on(network: Arc<Network>, host: u8) -> Self {
        let (namespace, link) =
            (format!("gantry-e2e-{}-{host}", std::process::id()), format!("{}-{host}", network.bridge));
        let dir = tempfile::Builder::new().prefix("gantry-e2e-").tempdir().expect("a temporary directory");
        let this = Self { namespace, link, dir, network, host, agent: None, starts: 0, environment: vec![] };
        let (name, far) = (this.namespace.clone(), "eth0");
        run("ip", &["netns", "add", &name]);
        run("ip", &["link", "add", &this.link, "type", "veth", "peer", "name", far, "netns", &name]);
        run("ip", &["link", "set", &this.link, "master", &this.network.bridge, "up"]);
        let (own, gateway) = (format!("{}/24", this.there()), this.here().to_string());
        for args in [
            vec!["link", "set", "lo", "up"],
            vec!["addr", "add", &own, "dev", far],
            vec!["link", "set", far, "up"],
            vec!["route", "add", "default", "via", &gateway],
        ] {
            run("ip", &[&["-n", name.as_str()], args.as_slice()].concat());
        }
        this
    }

    /// This machine's address on the way there.
    pub fn here(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.network.number, 1)
    }

    /// The other machine's address.
    pub fn there(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.network.number, self.host)
    }

    /// The other machine's data directory; `name` tells several apart.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of that machine.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command
    }

    /// The routes there.
    pub fn routes(&self) -> String {
        run("ip", &["-n", &self.namespace, "route"])
    }

    /// `gantry agent` with these flags, to its end: for those that are refused.
    pub fn refused(&self, data: &str, flags: &[&str]) -> Said {
        let output = self.agent_command(data, flags).output();
        output.expect("gantry runs").into()
    }

    fn agent_command(&self, data: &str, flags: &[&str]) -> Command {
        let mut command = self.command(&machine::gantry());
        command.arg("agent").arg("--data-dir").arg(self.data_dir(data)).args(["--node-ip", &self.there().to_string()]);
        command.args(machine::eviction(flags.iter().copied()));
        command.args(flags).envs(self.environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts the agent and waits until it says that it is ready.
    pub fn start(&mut self, data: &str, flags: &[&str]) {
        let path = self.dir.path().join(format!("agent-{}.log", self.starts));
        self.starts += 1;
        let log = File::create(&path).expect("a log file");
        let agent = self.agent_command(data, flags).stderr(log).spawn().expect("gantry runs");
        let agent = self.agent.insert(agent);
        eventually("the agent is ready", READY_WITHIN, || {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if let Ok(Some(status)) = agent.try_wait() {
                panic!("the agent ended with {status}:\n{log}");
            }
            log.lines().any(|line| line.starts_with("ready https://")).then_some(())
        });
    }

    /// Joins a cluster as a node of this name, which finds these images there.
    pub fn join(&mut self, cluster: &Cluster, name: &str, images: &[&Path]) {
        images.iter().for_each(|image| machine::import(image, &self.data_dir(name)));
        let client = cluster.gantry();
        let token = client.run(&["token", "create", "--ttl", "1h"]).ok();
        self.start(name, &["--server", &cluster.url(), "--token", token.trim(), "--node-name", name]);
        client.run(&["wait", "node", name, "--for=condition=Ready", "--timeout=60s"]).ok();
    }

    /// Kills the agent with no chance to say goodbye.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGKILL).expect("the agent is ours");
            agent.wait().expect("the agent ends");
        }
    }

    /// The machine ends at once: nobody there says anything any more, and all that ran there is dead.
    pub fn lose(&mut self, data: &str) {
        run("ip", &["link", "set", &self.link, "down"]);
        self.kill();
        let data_dir = self.data_dir(data);
        let instance = machine::instance(&data_dir);
        let left = || {
            let processes = Traces::of(&instance, &data_dir).processes;
            let pids = processes.iter().filter_map(|process| process.split(' ').next()?.parse().ok());
            for pid in pids {
                if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                    assert_eq!(error, Errno::ESRCH, "it can only have ended by itself meanwhile");
                }
            }
            processes.is_empty().then_some(())
        };
        eventually("all that ran on the machine is dead", READY_WITHIN, left);
    }

    /// The machine is there again; its agent starts with these flags.
    pub fn come_back(&mut self, data: &str, flags: &[&str]) {
        run("ip", &["link", "set", &self.link, "up"]);
        self.start(data, flags);
    }

    /// Waits until the agent has ended by itself.
    pub fn ended(&mut self, why: &str) {
        let agent = self.agent.as_mut().expect("an agent was started");
        eventually(why, READY_WITHIN, || agent.try_wait().expect("ours to wait for"));
        self.agent = None;
    }

    /// Removes all that an agent made there.
    pub fn reset(&mut self, data: &str) {
        self.kill();
        let output =
            self.command(&machine::gantry()).args(["reset", "--purge", "--data-dir"]).arg(self.data_dir(data)).output();
        let said: Said = output.expect("gantry runs").into();
        said.ok();
    }

    /// What the agents logged.
    pub fn log(&self) -> String {
        let path = |start| self.dir.path().join(format!("agent-{start}.log"));
        (0..self.starts).map(|start| std::fs::read_to_string(path(start)).unwrap_or_default()).collect()
    }
}

impl Default for Neighbour {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the agent's log ---");
            lines.iter().skip(lines.len().saturating_sub(60)).for_each(|line| eprintln!("{line}"));
        }
        if let Some(mut agent) = self.agent.take() {
            drop(agent.kill());
            drop(agent.wait());
        }
        for entry in
            std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            drop(self.command(&machine::gantry()).args(["reset", "--purge", "--data-dir"]).arg(entry.path()).output());
        }
        drop(Command::new("ip").args(["link", "del", &self.link]).output());
        drop(Command::new("ip").args(["netns", "del", &self.namespace]).output());
    }
}
