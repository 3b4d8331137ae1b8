//! Network namespaces to test in: nothing here touches the machine's own, and each goes with its last thread or file.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agent_network::{Config, Network};
use agent_sys::{link::loopback_up, namespace};

const NEWNET: u64 = nix::libc::CLONE_NEWNET as u64;
const PATIENCE: Duration = Duration::from_secs(2);

/// A namespace held by a descriptor.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Namespace {
        let make = || {
            namespace::unshare(NEWNET).expect("a new network namespace");
            loopback_up().expect("loopback");
            Namespace::current()
        };
        std::thread::spawn(make).join().unwrap()
    }

    /// A machine beside this one, 192.0.2.2, on a link `up0` with 192.0.2.1 here. Each is the other's default gateway.
    pub(crate) fn outside() -> Namespace {
        let outside = Namespace::new();
        tool(&format!("ip link add up0 type veth peer name out0 netns {}", outside.path().display()));
        tool("ip address add 192.0.2.1/24 dev up0");
        tool("ip link set up0 up");
        outside.run(|| {
            tool("ip address add 192.0.2.2/24 dev out0");
            tool("ip link set out0 up");
            tool("ip route add default via 192.0.2.1");
        });
        tool("ip route add default via 192.0.2.2");
        outside
    }

    pub(crate) fn current() -> Namespace {
        Namespace(File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// Good for other processes too.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs something on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                namespace::setns(self.0.as_fd(), NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Connects from here to `address` in `to` and back: the source that the other side saw.
    pub(crate) fn reach(&self, to: &Namespace, address: IpAddr) -> std::io::Result<IpAddr> {
        let listener = to.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        let target = SocketAddr::new(address, listener.local_addr().unwrap().port());
        let mut client = self.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
        let (mut server, source) = listener.accept()?;
        server.set_read_timeout(Some(PATIENCE))?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"hello")?;
        server.read_exact(&mut [0; 5])?;
        server.write_all(b"hello")?;
        client.read_exact(&mut [0; 5])?;
        Ok(source.ip())
    }
}

/// Runs a test as the host: in a namespace of its own, with a directory for leases. Skips where that cannot be.
pub(crate) fn as_host<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send) {
    for tool in ["ip", "nft"] {
        if matches!(Command::new(tool).arg("-V").output(), Err(error) if error.kind() == ErrorKind::NotFound) {
            println!("skipped: {tool} is not installed (apt-get install iproute2 nftables)");
            return;
        }
    }
    std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            if let Err(error) = namespace::unshare(NEWNET) {
                println!("skipped: cannot make a network namespace: {error}");
                return;
            }
            loopback_up().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(directory.path().join("leases")));
        });
        host.join().unwrap();
    });
}

/// Runs a tool in the calling thread's namespace and gives its output.
pub(crate) fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) async fn open(instance: &str, state_dir: PathBuf) -> Network {
    let cluster_cidr = "10.42.0.0/16".parse().unwrap();
    let service_cidr = "10.43.0.0/16".parse().unwrap();
    Network::open(Config { instance: instance.to_owned(), state_dir, cluster_cidr, service_cidr }).await.unwrap()
}
