//! `gantry autoscale`: a HorizontalPodAutoscaler for a workload.

use std::process::ExitCode;

use api::quantity::Quantity;
use http::Method;
use serde_json::{Value, json};

use crate::change::{ChangeArgs, DryRun};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::FileArgs;
use crate::workload::{WhichArgs, Workload};

/// Flags of `gantry autoscale`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE NAME or TYPE/NAME...
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Name of the autoscaler; by default that of the object.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The fewest pods; negative leaves it to the server.
    #[arg(long, value_name = "COUNT", default_value_t = -1, allow_negative_numbers = true)]
    min: i32,
    /// The most pods.
    #[arg(long, value_name = "COUNT", default_value_t = -1, allow_negative_numbers = true)]
    max: i32,
    /// CPU time of each pod: a percentage of what it asks for, such as 70%, or an amount, such as 500m.
    #[arg(long, value_name = "TARGET", conflicts_with = "cpu_percent")]
    cpu: Option<String>,
    /// The same in percent; negative leaves it to the server.
    #[arg(long, value_name = "PERCENT", default_value_t = -1, allow_negative_numbers = true)]
    cpu_percent: i32,
    /// Memory of each pod: a percentage of what it asks for, such as 60%, or an amount, such as 200Mi.
    #[arg(long, value_name = "TARGET")]
    memory: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let metrics = metrics(args)?;
    bounds(args)?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let autoscalers = catalog.expect("horizontalpodautoscalers.autoscaling")?;
    for object in WhichArgs::named(&args.targets, &args.files).find(&session, &catalog).await? {
        if let Err(failure) = session.get(Call::to(format!("{}/scale", object.path()))).await {
            return Err(Failure::error(format!("cannot autoscale a {}: {failure}", object.kind.kind)));
        }
        let mut made = autoscaler(&object, args, &metrics);
        if args.change.dry_run != DryRun::Client {
            let call = args.change.prepare(Call::to(autoscalers.collection(Some(&object.namespace)))).json(&made);
            made = session.send(Method::POST, call).await?.1;
        }
        args.change.tell(&output, autoscalers, &made, "autoscaled")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// In the words of kubectl.
fn bounds(args: &Args) -> Result<(), Failure> {
    let Args { min, max, .. } = args;
    if *max < 1 {
        return Err(Failure::error(format!("--max=MAXPODS is required and must be at least 1, max: {max}")));
    }
    if max < min {
        let told = format!("--max=MAXPODS must be larger or equal to --min=MINPODS, max: {max}, min: {min}");
        return Err(Failure::error(told));
    }
    Ok(())
}

/// What is to be measured; nothing leaves it to the server.
fn metrics(args: &Args) -> Result<Vec<Value>, Failure> {
    let percent = (args.cpu_percent >= 0).then(|| format!("{}%", args.cpu_percent));
    let asked = [("cpu", args.cpu.clone().or(percent)), ("memory", args.memory.clone())];
    let given = asked.into_iter().filter_map(|(name, text)| Some((name, text?)));
    given
        .map(|(name, text)| {
            let target = target(name, &text)?;
            Ok(json!({"type": "Resource", "resource": {"name": name, "target": target}}))
        })
        .collect()
}

fn target(name: &str, text: &str) -> Result<Value, Failure> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse::<i32>().ok().filter(|percent| *percent > 0);
        let percent =
            percent.ok_or_else(|| Failure::error(format!("invalid --{name}={text}: expected a percentage")))?;
        return Ok(json!({"type": "Utilization", "averageUtilization": percent}));
    }
    match Quantity::parse(text) {
        Ok(_) => Ok(json!({"type": "AverageValue", "averageValue": text})),
        Err(error) => Err(Failure::error(format!("invalid --{name}={text}: {error}"))),
    }
}

fn autoscaler(object: &Workload<'_>, args: &Args, metrics: &[Value]) -> Value {
    let name = args.name.as_deref().unwrap_or(&object.name);
    let mut made = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": object.namespace},
        "spec": {"maxReplicas": args.max, "scaleTargetRef": {"apiVersion": object.kind.api_version(),
            "kind": object.kind.kind, "name": object.name}}});
    if args.min > 0 {
        made["spec"]["minReplicas"] = args.min.into();
    }
    if !metrics.is_empty() {
        made["spec"]["metrics"] = metrics.into();
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Line::parse_from([&["autoscale", "deploy", "web"], line].concat()).args
    }

    #[test]
    fn targets_are_percentages_or_amounts() {
        let told = |line: &[&str]| Value::from(metrics(&args(line)).unwrap());
        let cpu = |target: Value| json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        assert_eq!(told(&["--max=3"]), json!([]));
        let percent = cpu(json!({"type": "Utilization", "averageUtilization": 70}));
        assert_eq!(told(&["--max=3", "--cpu-percent=70"]), percent);
        assert_eq!(told(&["--max=3", "--cpu=70%"]), percent);
        assert_eq!(told(&["--max=3", "--cpu=500m"]), cpu(json!({"type": "AverageValue", "averageValue": "500m"})));
        assert_eq!(told(&["--cpu=1", "--memory=1Gi"])[1]["resource"]["name"], "memory");
        for wrong in ["--cpu=0%", "--cpu=x%", "--memory=much"] {
            assert!(metrics(&args(&[wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_are_refused_in_kubectls_words() {
        let refused = |line: &[&str]| bounds(&args(line)).map_err(|failure| failure.to_string());
        assert_eq!(refused(&["--max=3", "--min=3"]), Ok(()));
        assert!(refused(&[]).unwrap_err().ends_with("--max=MAXPODS is required and must be at least 1, max: -1"));
        assert!(
            refused(&["--max=2", "--min=3"])
                .unwrap_err()
                .ends_with("--max=MAXPODS must be larger or equal to --min=MINPODS, max: 2, min: 3")
        );
    }
}
