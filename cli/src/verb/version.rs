//! `gantry version`: of this program and of the server.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kubeconfig::ConnectArgs;
use crate::output::json_text;
use crate::screen;

/// Flags of `gantry version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask the server.
    #[arg(long)]
    client: bool,
    /// json or yaml.
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let form = args.output.as_deref().unwrap_or_default();
    if !matches!(form, "" | "json" | "yaml") {
        return Err(Failure::error(format!("--output {form:?}: expected json or yaml")));
    }
    let client = format!("v{}", env!("CARGO_PKG_VERSION"));
    let mut versions = json!({"clientVersion": {"gitVersion": client, "platform": platform()}});
    // What is known is told before the server can fail to answer.
    if form.is_empty() {
        screen::line(format!("Client Version: {client}"))?;
    }
    if !args.client {
        let session = Session::open(connect).await?;
        let server = session.get(Call::to("/version")).await?;
        if form.is_empty() {
            let version = server.get("gitVersion").and_then(Value::as_str).unwrap_or("unknown");
            screen::line(format!("Server Version: {}", screen::plain(version)))?;
        }
        versions["serverVersion"] = server;
    }
    match form {
        "json" => screen::put(json_text(&versions))?,
        "yaml" => screen::put(api::yaml::print(&versions)?)?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}
