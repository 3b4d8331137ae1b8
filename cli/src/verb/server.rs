//! `gantry server`: the control plane and the agent in one process.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as _;
use controller::config::Config;

/// Flags of `gantry server`; names as k3s has them where the thing is the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where everything that must last is kept.
    #[arg(long, default_value = "/var/lib/gantry")]
    data_dir: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443)]
    https_listen_port: u16,
    /// Address that agents and clients on other machines use.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Further names and addresses of the server's certificate.
    #[arg(long)]
    tls_san: Vec<String>,
    /// Where the administrator's kubeconfig is written.
    #[arg(long, default_value = "/etc/gantry/kubeconfig.yaml")]
    write_kubeconfig: PathBuf,
    /// Do not run pods on this machine.
    #[arg(long)]
    disable_agent: bool,
}

pub(crate) fn run(args: Args) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(r) => r,
        Err(_) => return 1,
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    runtime.block_on(async {
        let config = Config {
            data_dir: args.data_dir.clone(),
            bind_address: args.bind_address,
            port: args.https_listen_port,
            advertise_address: args.advertise_address.unwrap_or([127, 0, 0, 1].into()),
            tls_sans: args.tls_san.clone(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            event_ttl: Duration::from_secs(3600),
        };
        let plane = config.start().await.unwrap();
        let url = format!("https://127.0.0.1:{}", plane.address.port());
        plane.api.write_kubeconfig(&args.write_kubeconfig, &url).unwrap();
        eprintln!("ready {url} {}", args.write_kubeconfig.display());
        tokio::signal::ctrl_c().await.unwrap();
        plane.drain().await;
    });
    0
}
