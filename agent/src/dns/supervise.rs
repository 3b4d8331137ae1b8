//! The agent's side of the process: its sockets, its start, and its successor.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Config, PORT, READY, VERSION};
use crate::execute::{Host, chain};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A process that serves already: it was started by an earlier agent.
struct Running {
    pidfd: OwnedFd,
}

struct Sockets {
    udp: OwnedFd,
    tcp: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error("{step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

fn at(step: &'static str) -> impl Fn(io::Error) -> SuperviseError {
    move |source| SuperviseError::Io { step, source }
}

/// Runs the cluster's DNS of this node until the agent ends; the process goes on.
pub(crate) async fn run(host: Arc<Host>) {
    let address = match host.network.node_address().await {
        Ok(address) => address,
        Err(error) => return tracing::error!(error = chain(&error), "there will be no cluster DNS on this node"),
    };
    let dir = host.config.instance.run_dir().join("dns");
    let mut wait = FIRST_WAIT;
    loop {
        let began = std::time::Instant::now();
        if let Err(error) = serve(&host, &dir, address).await {
            tracing::error!(error = chain(&error), "running the cluster's DNS");
        }
        // One that served for a while is replaced at once.
        if began.elapsed() > LAST_WAIT {
            wait = FIRST_WAIT;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// Starts a process over the sockets that are there already or new ones, and waits for its end.
async fn serve(host: &Host, dir: &Path, address: Ipv4Addr) -> Result<(), SuperviseError> {
    crate::instance::make_dir(dir, 0o700).map_err(at("making its directory"))?;
    let config_path = dir.join("config.json");
    let predecessor = find(dir, &config_path);
    let taken = predecessor.as_ref().and_then(|running| take(running, address));
    let sockets = match taken {
        Some(sockets) => sockets,
        None => {
            // Without its sockets it is of no use, and keeps the port.
            if let Some(running) = &predecessor {
                end(running);
            }
            open(address).map_err(at("opening its sockets"))?
        }
    };
    let config = Config {
        version: VERSION,
        kubeconfig: host.config.dns_kubeconfig.clone(),
        domain: host.config.cluster_dns.domain.clone(),
        address: host.config.cluster_dns.address,
        cgroup: format!("/{}/dns", host.config.instance.cgroup_root()),
    };
    let bytes = serde_json::to_vec(&config).map_err(io::Error::from).map_err(at("encoding its configuration"))?;
    replace(&config_path, &bytes).map_err(at("writing its configuration"))?;
    let mut command = host.program.command();
    command.arg("dns").arg(&config_path).process_group(0);
    command.stdin(sockets.udp).stdout(sockets.tcp).stderr(Stdio::piped());
    let mut child = tokio::process::Command::from(command).spawn().map_err(at("starting it"))?;
    let pid = child.id().unwrap_or_default();
    replace(&dir.join("pid"), pid.to_string().as_bytes()).map_err(at("noting its process id"))?;
    let mut predecessor = predecessor;
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == READY {
                tracing::info!(pid, %address, "the cluster's DNS serves");
                if let Some(running) = predecessor.take() {
                    end(&running);
                }
            } else {
                tracing::warn!(pid, line, "the cluster's DNS");
            }
        }
    }
    let status = child.wait().await.map_err(at("waiting for it"))?;
    tracing::warn!(pid, %status, "the cluster's DNS ended");
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What it says means nothing after a reboot: no sync.
    let temporary: PathBuf = path.with_extension("tmp");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

/// The process that an earlier agent noted, if it is still that.
fn find(dir: &Path, config: &Path) -> Option<Running> {
    use std::os::unix::ffi::OsStrExt as _;
    let pid: i32 = fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()?;
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Looked at after the descriptor was opened: the number cannot be another's now.
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).skip(1);
    (words.next() == Some(b"dns") && words.next() == Some(config.as_os_str().as_bytes())).then_some(Running { pidfd })
}

/// Its sockets, if they are those of the address.
fn take(running: &Running, address: Ipv4Addr) -> Option<Sockets> {
    let get = |number| pidfd_getfd(&running.pidfd, number, PidfdGetfdFlags::empty()).ok();
    let (udp, tcp) = (UdpSocket::from(get(0)?), TcpListener::from(get(1)?));
    let wanted = Some((address, PORT).into());
    let fits = udp.local_addr().ok() == wanted && tcp.local_addr().ok() == wanted;
    fits.then(|| Sockets { udp: udp.into(), tcp: tcp.into() })
}

fn open(address: Ipv4Addr) -> io::Result<Sockets> {
    Ok(Sockets { udp: UdpSocket::bind((address, PORT))?.into(), tcp: TcpListener::bind((address, PORT))?.into() })
}

fn end(running: &Running) {
    // It has ended by itself, else.
    let _ = pidfd_send_signal(&running.pidfd, Signal::TERM);
}
