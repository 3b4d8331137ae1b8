//! A cluster of one node in a directory of its own, removed with the value.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Client, eventually};
use crate::machine;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running server with its data directory.
pub struct Cluster {
    dir: tempfile::TempDir,
    server: Option<Child>,
    ports: (u16, u16),
    cidr_base: u8,
    starts: u32,
    flags: Vec<String>,
    address: IpAddr,
    /// Programs that the server finds before the machine's.
    pub programs: Option<PathBuf>,
    /// What the next server finds in its environment.
    pub environment: Vec<(&'static str, String)>,
}

/// The second byte of an address range for pods, and the third of one for Services. Instances in one network namespace
/// need ranges of their own, also those of one process: pods of the same address would be taken for each other.
fn own_range() -> u8 {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed));
    64 + (number % 128) as u8
}

/// All that happens, so that a test that fails can be understood; what costs time is measured with less.
fn log_level() -> String {
    let all = "debug,hyper=info,h2=info,rustls=info,tower=info,kube=info";
    std::env::var("GANTRY_LOG").unwrap_or_else(|_| all.into())
}

impl Cluster {
    /// Imports the images and starts a server; returns once it says that it is ready.
    pub fn start(images: &[&Path]) -> Self {
        Self::start_with(images, &[])
    }

    /// The same with further flags for the server.
    pub fn start_with(images: &[&Path], flags: &[&str]) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), images, flags)
    }

    /// The same at another address of this machine than loopback, for other machines.
    pub fn start_at(address: IpAddr, images: &[&Path], flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-e2e-").tempdir().expect("a temporary directory");
        let mut cluster = Self {
            dir,
            server: None,
            ports: (machine::free_port(10_000..15_000), machine::free_port(15_000..20_000)),
            cidr_base: own_range(),
            starts: 0,
            flags: vec![],
            address,
            programs: None,
            environment: vec![],
        };
        cluster.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        for image in images {
            machine::import(image, &cluster.data_dir());
        }
        cluster.start_server();
        cluster
    }

    /// Where the server answers.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.ports.0)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig.yaml")
    }

    fn log_path(&self, start: u32) -> PathBuf {
        self.dir.path().join(format!("server-{start}.log"))
    }

    /// Everything that the servers of this cluster logged.
    pub fn log(&self) -> String {
        (0..self.starts).map(|start| std::fs::read_to_string(self.log_path(start)).unwrap_or_default()).collect()
    }

    /// Starts the server in the background without waiting for it.
    pub fn spawn_server(&mut self) {
        let log = File::create(self.log_path(self.starts)).expect("a log file");
        self.starts += 1;
        let path = std::env::var("PATH").unwrap_or_default();
        let path = self.programs.iter().map(|dir| format!("{}:", dir.display())).collect::<String>() + &path;
        let child = Command::new(machine::gantry())
            .env("PATH", path)
            .arg("server")
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--write-kubeconfig")
            .arg(self.kubeconfig())
            .args(["--bind-address", &self.address.to_string(), "--node-name", "node-1"])
            .args(["--https-listen-port", &self.ports.0.to_string(), "--kubelet-port", &self.ports.1.to_string()])
            .args(["--cluster-cidr", &format!("10.{}.0.0/16", self.cidr_base)])
            .args(["--service-cidr", &format!("172.30.{}.0/24", self.cidr_base)])
            .args(machine::eviction(self.flags.iter().map(String::as_str)))
            .args(&self.flags)
            .env("GANTRY_LOG", log_level())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("gantry runs");
        self.server = Some(child);
    }

    /// Starts the server and waits for its ready line.
    pub fn start_server(&mut self) {
        self.spawn_server();
        self.wait_ready();
    }

    /// Waits for the ready line of the newest server.
    pub fn wait_ready(&mut self) {
        let path = self.log_path(self.starts - 1);
        let server = self.server.as_mut().expect("a server was started");
        eventually("the server is ready", READY_WITHIN, || {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if let Ok(Some(status)) = server.try_wait() {
                panic!("the server ended with {status}:\n{log}");
            }
            log.lines().any(|line| line.starts_with("ready https://")).then_some(())
        });
    }

    /// The server's process id.
    pub fn server_pid(&self) -> Pid {
        let id = self.server.as_ref().expect("a server runs").id();
        Pid::from_raw(i32::try_from(id).expect("process ids are small"))
    }

    /// Kills the server with no chance to say goodbye.
    pub fn kill_server(&mut self) {
        self.end_server(Signal::SIGKILL);
    }

    /// Waits for a server that ends by itself.
    pub fn ended(&mut self, what: &str) {
        let server = self.server.as_mut().expect("a server was started");
        eventually(what, READY_WITHIN, || server.try_wait().expect("it is ours"));
        self.server = None;
    }

    /// Asks the server to stop, as systemd does.
    pub fn stop_server(&mut self) {
        self.end_server(Signal::SIGTERM);
    }

    fn end_server(&mut self, signal: Signal) {
        if self.server.is_none() {
            return;
        }
        kill(self.server_pid(), signal).expect("the server is ours");
        let mut server = self.server.take().expect("looked at above");
        server.wait().expect("the server ends");
    }

    /// The stock kubectl.
    pub fn kubectl(&self) -> Client {
        Client::new(&machine::program("kubectl").expect("checked by need!"), &self.kubeconfig())
    }

    /// `gantry` as a client.
    pub fn gantry(&self) -> Client {
        Client::new(&machine::gantry(), &self.kubeconfig())
    }

    /// Removes all that the instance made on this machine, keeping its data unless `purge`.
    pub fn reset(&mut self, purge: bool) {
        self.stop_server();
        let mut command = Command::new(machine::gantry());
        command.arg("reset").arg("--data-dir").arg(self.data_dir());
        if purge {
            command.arg("--purge");
        }
        let output = command.output().expect("gantry runs");
        assert!(output.status.success(), "reset: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the server's log ---");
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                eprintln!("{line}");
            }
        }
        self.kill_if_running();
        let reset =
            Command::new(machine::gantry()).args(["reset", "--purge", "--data-dir"]).arg(self.data_dir()).output();
        if let Ok(output) = reset
            && !output.status.success()
            && !std::thread::panicking()
        {
            panic!("reset: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Cluster {
    fn kill_if_running(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }
}
