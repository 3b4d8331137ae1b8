//! `gantry check`: what this machine lacks to run pods, what would fight them, and what to do about it.

use std::path::PathBuf;
use std::process::ExitCode;

use agent::config::CDI_DIRS;
use agent::eviction::{Limits, Soft};
use agent::preflight::{Finding, Wishes, look};
use ipnet::Ipv4Net;

use super::DataDir;
use crate::failure::Failure;

/// Flags of `gantry check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Port that the API server would listen on.
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    https_listen_port: u16,
    /// Port that the kubelet API would listen on.
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
    /// Addresses of pods.
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR")]
    cluster_cidr: Ipv4Net,
    /// When pods would be evicted at once; by default as the server's.
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_hard: Option<String>,
    /// Directory with files of the Container Device Interface; may be repeated.
    #[arg(long, value_name = "DIR", default_values = CDI_DIRS)]
    cdi_spec_dir: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let ports = [("API server", args.https_listen_port), ("kubelet API", args.kubelet_port)];
    let eviction = Limits::new(args.eviction_hard.as_deref(), &Soft::default())
        .map_err(|error| Failure::new(format!("error: --{error}")))?;
    let wishes = Wishes {
        data_dir: &args.data.data_dir,
        ports: &ports,
        cluster_cidr: args.cluster_cidr,
        eviction: &eviction,
        cdi_dirs: &args.cdi_spec_dir,
    };
    let mut broken = false;
    for finding in look(&wishes) {
        match finding {
            Finding::Fine(what) => println!("ok    {what}"),
            Finding::Thin(what) => println!("warn  {what}"),
            Finding::Broken(what, todo) => {
                broken = true;
                println!("FAIL  {what}\n      {todo}");
            }
        }
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
