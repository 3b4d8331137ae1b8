//! `gantry run`: one pod made of flags, and where asked for its streams.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::change::{ChangeArgs, DryRun};
use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::output::name_of;
use crate::verb::attach;
use crate::verb::delete::until_gone;
use crate::verb::expose::labels;
use crate::watch::Follow;
use crate::{screen, stream};

/// Flags of `gantry run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the pod.
    name: String,
    /// Image of the container.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Port that the container listens on.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// With --port: also make a service.
    #[arg(long, requires = "port")]
    expose: bool,
    /// Always, OnFailure or Never.
    #[arg(long, default_value = "Always", value_name = "WHEN")]
    restart: Restart,
    /// When the image is pulled: Always, IfNotPresent or Never.
    #[arg(long, value_name = "WHEN")]
    image_pull_policy: Option<String>,
    /// Labels, such as app=web.
    #[arg(short = 'l', long, value_name = "LABELS")]
    labels: Option<String>,
    /// KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    /// A merge patch of the pod, as JSON.
    #[arg(long, value_name = "JSON")]
    overrides: Option<String>,
    /// What follows -- is the command, not its arguments.
    #[arg(long)]
    command: bool,
    /// Keep standard input open.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the container a terminal.
    #[arg(short = 't', long)]
    tty: bool,
    /// Attach to the pod once it runs; the default with -i.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    attach: Option<bool>,
    /// Delete the pod when it has ended.
    #[arg(long)]
    rm: bool,
    /// No words about what is done.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Let the container run with all rights of the machine.
    #[arg(long)]
    privileged: bool,
    /// How long to wait for the pod when attaching.
    #[arg(long, default_value = "1m", value_name = "DURATION")]
    pod_running_timeout: DurationArg,
    #[command(flatten)]
    change: ChangeArgs,
    /// Arguments of the container, after --.
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Restart {
    #[value(name = "Always")]
    Always,
    #[value(name = "OnFailure")]
    OnFailure,
    #[value(name = "Never")]
    Never,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let attached = args.attach.unwrap_or(args.stdin || args.tty);
    if args.rm && !attached {
        return Err(Failure::error("--rm should only be used for attached containers"));
    }
    if attached && args.change.dry_run != DryRun::None {
        return Err(Failure::error(
            "--dry-run=client|server can't be used with attached containers options (--attach, --stdin, or --tty)",
        ));
    }
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let kind = catalog.expect("pods")?;
    // A manifest that is only shown names a namespace where one was asked for.
    let is_named = session.namespace_given || args.change.dry_run != DryRun::Client;
    let namespace = is_named.then_some(session.namespace.as_str());
    let mut made = vec![(kind, pod(args, namespace)?)];
    if args.expose {
        made.push((catalog.expect("services")?, service(args, namespace)?));
    }
    for (kind, object) in &mut made {
        if args.change.dry_run != DryRun::Client {
            let call = args.change.prepare(Call::to(kind.collection(Some(&session.namespace)))).json(object);
            *object = session.send(Method::POST, call).await?.1;
        }
        if !attached && !args.quiet {
            args.change.tell(&output, kind, object, "created")?;
        }
    }
    if !attached {
        return Ok(ExitCode::SUCCESS);
    }
    let pod = &made[0].1;
    let outcome = follow(&session, &catalog, kind, pod, args).await;
    if args.rm {
        for (kind, object) in &made {
            let path = kind.object(&session.namespace, name_of(object));
            let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
            session.send(Method::DELETE, Call::to(path).json(&options)).await?;
            if !args.quiet {
                screen::line(format!("{} \"{}\" deleted", kind.prefix(), name_of(object)))?;
            }
            until_gone(&session, (kind, &session.namespace, name_of(object)), uid).await?;
        }
    }
    outcome
}

fn pairs(all: &[String], flag: &str) -> Result<Vec<(String, String)>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::error(format!("invalid {flag}: {text}: expected KEY=VALUE"))),
    };
    all.iter().map(pair).collect()
}

/// The pod that the flags describe.
fn pod(args: &Args, namespace: Option<&str>) -> Result<Value, Failure> {
    let labels = match &args.labels {
        Some(text) => Value::Object(labels(text)?),
        None => json!({"run": args.name}),
    };
    let mut container = json!({"name": args.name, "image": args.image, "resources": {}});
    let env = pairs(&args.env, "--env")?;
    if !env.is_empty() {
        let env = env.iter().map(|(name, value)| json!({"name": name, "value": value}));
        container["env"] = env.collect();
    }
    if !args.arguments.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(args.arguments);
    }
    if let Some(port) = args.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if let Some(policy) = &args.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if args.stdin {
        container["stdin"] = json!(true);
        container["stdinOnce"] = json!(true);
    }
    if args.tty {
        container["tty"] = json!(true);
    }
    if args.privileged {
        container["securityContext"] = json!({"privileged": true});
    }
    let restart = match args.restart {
        Restart::Always => "Always",
        Restart::OnFailure => "OnFailure",
        Restart::Never => "Never",
    };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": restart}, "status": {}});
    if let Some(namespace) = namespace {
        pod["metadata"]["namespace"] = json!(namespace);
    }
    for (key, value) in pairs(&args.annotations, "--annotations")? {
        pod["metadata"]["annotations"][key] = json!(value);
    }
    if let Some(text) = &args.overrides {
        let patch: Value = serde_json::from_str(text)
            .map_err(|error| Failure::error(format!("Invalid JSON Patch: --overrides: {error}")))?;
        pod = controller_object::patch::merge_patch(&pod, &patch).map_err(|status| Failure::error(status.message))?;
    }
    Ok(pod)
}

fn service(args: &Args, namespace: Option<&str>) -> Result<Value, Failure> {
    let selector = match &args.labels {
        Some(text) => Value::Object(labels(text)?),
        None => json!({"run": args.name}),
    };
    let port = args.port.unwrap_or_default();
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": args.name},
        "spec": {"selector": selector, "ports": [{"port": port, "targetPort": port, "protocol": "TCP"}]}});
    if let Some(namespace) = namespace {
        service["metadata"]["namespace"] = json!(namespace);
    }
    Ok(service)
}

/// Attaches once the pod runs, or shows what it wrote where it has ended already; gives its exit code.
async fn follow(
    session: &Session,
    catalog: &Catalog,
    kind: &Kind,
    pod: &Value,
    args: &Args,
) -> Result<ExitCode, Failure> {
    let limit = args.pod_running_timeout.nonzero().unwrap_or(Duration::from_secs(60));
    let begun = |pod: &Value| phase(pod) != "Pending";
    let waiting = until(session, kind, pod, begun);
    let started = match tokio::time::timeout(limit, waiting).await {
        Ok(pod) => pod?,
        Err(_) => {
            return Err(Failure::error(format!(
                "timed out waiting for the condition: the pod does not run after {}s; gantry why {} tells more",
                limit.as_secs(),
                name_of(pod)
            )));
        }
    };
    let container = crate::pods::container(&started, None)?;
    let mut attached = None;
    if phase(&started) == "Running" {
        match attach::to(session, catalog, &started, &container, args.stdin, args.tty).await {
            Ok(status) => attached = Some(status),
            // It may have ended meanwhile; the log holds all that it wrote.
            Err(failure) if args.restart == Restart::Always => return Err(failure),
            Err(_) => {}
        }
    }
    if attached.is_none() {
        let path = format!("{}/log", kind.object(&session.namespace, name_of(pod)));
        let call = Call::to(path).with("container", &container).with("follow", "true");
        screen::put(session.send_raw(Method::GET, call).await?.1)?;
    }
    if args.restart == Restart::Always {
        return attached.as_ref().map_or(Ok(ExitCode::SUCCESS), stream::outcome);
    }
    let ended = until(session, kind, pod, |pod| matches!(phase(pod), "Succeeded" | "Failed")).await?;
    let code = ended.pointer("/status/containerStatuses/0/state/terminated/exitCode").and_then(Value::as_i64);
    match code {
        Some(0) | None => Ok(ExitCode::SUCCESS),
        Some(code) => {
            screen::note(format!("pod {}/{} terminated (Error)", session.namespace, name_of(pod)));
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
    }
}

fn phase(pod: &Value) -> &str {
    pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending")
}

/// The pod once it is as wished.
async fn until(session: &Session, kind: &Kind, pod: &Value, wish: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    let now = session.get(Call::to(kind.object(&session.namespace, name_of(pod)))).await?;
    if wish(&now) {
        return Ok(now);
    }
    let version = now.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
    let mut follow = Follow::from(version);
    let call = Call::to(kind.collection(Some(&session.namespace)))
        .with("fieldSelector", format!("metadata.name={}", name_of(pod)));
    loop {
        let mut watch = follow.open(session, &call).await?;
        while let Some(event) = follow.next(&mut watch).await? {
            if event.kind == "DELETED" {
                return Err(Failure::error(format!("pod {} was deleted", name_of(pod))));
            }
            if wish(&event.object) {
                return Ok(event.object);
            }
        }
    }
}
