//! `gantry auth can-i|reconcile|whoami`: who one is for the server, what one may, and what roles allow.

mod access;
mod reconcile;

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::json_text;
use crate::output::table::Columns;
use crate::screen;

/// What can be asked.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// May I? VERB TYPE [NAME], VERB TYPE/NAME, or VERB /PATH.
    CanI(CanI),
    /// Makes roles and bindings allow what manifests ask for.
    Reconcile(reconcile::Args),
    /// Who am I?
    Whoami {
        /// json or yaml.
        #[arg(short = 'o', long, value_name = "FORMAT")]
        output: Option<String>,
    },
}

/// Flags of `gantry auth can-i`.
#[derive(Debug, clap::Args)]
pub(crate) struct CanI {
    /// VERB TYPE [NAME].
    #[arg(value_name = "VERB TYPE [NAME]")]
    words: Vec<String>,
    /// Everything that is allowed.
    #[arg(long)]
    list: bool,
    /// A part of the resource, such as log.
    #[arg(long, value_name = "NAME")]
    subresource: Option<String>,
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// No words, only the exit code.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// With --list: no line of titles.
    #[arg(long)]
    no_headers: bool,
}

pub(crate) async fn run(connect: &ConnectArgs, verb: &Verb) -> Result<ExitCode, Failure> {
    let session = async || Session::open(connect).await;
    match verb {
        // It reads its files before it asks anybody.
        Verb::Reconcile(args) => reconcile::run(connect, args).await,
        Verb::Whoami { output } => whoami(&session().await?, output.as_deref()).await,
        Verb::CanI(args) if args.list => allowed(&session().await?, args).await,
        Verb::CanI(args) => can_i(&session().await?, args).await,
    }
}

async fn review(session: &Session, group: &str, kind: &str, plural: &str, spec: Value) -> Result<Value, Failure> {
    let review = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
    let call = Call::to(format!("/apis/{group}/v1/{plural}")).json(&review);
    Ok(session.send(Method::POST, call).await?.1)
}

async fn whoami(session: &Session, form: Option<&str>) -> Result<ExitCode, Failure> {
    let answer = review(session, "authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", json!({})).await?;
    match form.unwrap_or_default() {
        "json" => screen::put(json_text(&answer))?,
        "yaml" => screen::put(api::yaml::print(&answer)?)?,
        "" => {
            let user = answer.pointer("/status/userInfo").cloned().unwrap_or_default();
            let words = |value: &Value| {
                let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                format!("[{}]", all.collect::<Vec<_>>().join(" "))
            };
            let mut rows = vec![["ATTRIBUTE".to_owned(), "VALUE".to_owned()]];
            for (field, title) in [("username", "Username"), ("uid", "UID")] {
                if let Some(text) = user[field].as_str().filter(|text| !text.is_empty()) {
                    rows.push([title.to_owned(), text.to_owned()]);
                }
            }
            if user["groups"].as_array().is_some_and(|groups| !groups.is_empty()) {
                rows.push(["Groups".to_owned(), words(&user["groups"])]);
            }
            for (key, value) in user["extra"].as_object().into_iter().flatten() {
                rows.push([format!("Extra: {key}"), words(value)]);
            }
            let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
            screen::put(Columns::default().set(&rows))?;
        }
        other => return Err(Failure::error(format!("--output {other:?}: expected json or yaml"))),
    }
    Ok(ExitCode::SUCCESS)
}

async fn can_i(session: &Session, args: &CanI) -> Result<ExitCode, Failure> {
    let usage = || Failure::error("you must specify two arguments: verb resource or verb resource/resourceName");
    let (verb, resource, name) = match args.words.as_slice() {
        [verb, resource] => match resource.strip_prefix('/').is_none().then(|| resource.split_once('/')).flatten() {
            Some((resource, name)) => (verb, resource, Some(name)),
            None => (verb, resource.as_str(), None),
        },
        [verb, resource, name] => (verb, resource.as_str(), Some(name.as_str())),
        _ => return Err(usage()),
    };
    let spec = if resource.starts_with('/') {
        json!({"nonResourceAttributes": {"path": resource, "verb": verb}})
    } else {
        let catalog = Catalog::of(session).await?;
        let (group, plural, namespaced) = match catalog.find(resource) {
            Some(kind) => (kind.group.clone(), kind.plural.clone(), kind.namespaced),
            None if resource == "*" => ("*".to_owned(), "*".to_owned(), true),
            None => {
                screen::note(format!("Warning: the server doesn't have a resource type '{}'", screen::plain(resource)));
                let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
                (group.to_owned(), plural.to_owned(), true)
            }
        };
        if !namespaced && !args.all_namespaces {
            let of = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
            screen::note(format!("Warning: resource '{plural}' is not namespace scoped{of}\n"));
        }
        let namespace = if args.all_namespaces || !namespaced { "" } else { session.namespace.as_str() };
        json!({"resourceAttributes": {"namespace": namespace, "verb": verb, "group": group, "resource": plural,
            "subresource": args.subresource.as_deref().unwrap_or_default(), "name": name.unwrap_or_default()}})
    };
    let answer =
        review(session, "authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", spec).await?;
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let allowed = answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false);
    if !args.quiet {
        let mut line = if allowed { "yes" } else { "no" }.to_owned();
        if !allowed {
            line.extend(text("/status/reason").map(|reason| format!(" - {}", screen::plain(reason))));
            line.extend(text("/status/evaluationError").map(|error| format!(" - {}", screen::plain(error))));
        }
        screen::line(line)?;
    }
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn allowed(session: &Session, args: &CanI) -> Result<ExitCode, Failure> {
    let spec = json!({"namespace": session.namespace});
    let answer =
        review(session, "authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", spec).await?;
    let list = |value: &Value| {
        let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        format!("[{}]", all.collect::<Vec<_>>().join(" "))
    };
    let each = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for rule in answer.pointer("/status/resourceRules").and_then(Value::as_array).into_iter().flatten() {
        for group in each(&rule["apiGroups"]) {
            for resource in each(&rule["resources"]) {
                let name = if group.is_empty() { resource } else { format!("{resource}.{group}") };
                rows.push(vec![name, "[]".into(), list(&rule["resourceNames"]), list(&rule["verbs"])]);
            }
        }
    }
    for rule in answer.pointer("/status/nonResourceRules").and_then(Value::as_array).into_iter().flatten() {
        for path in each(&rule["nonResourceURLs"]) {
            rows.push(vec![String::new(), format!("[{path}]"), "[]".into(), list(&rule["verbs"])]);
        }
    }
    rows.sort_by(|left, right| {
        right[0].is_empty().cmp(&left[0].is_empty()).reverse().then_with(|| left[0].cmp(&right[0]))
    });
    if !args.no_headers {
        let titles = ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"];
        rows.insert(0, titles.map(str::to_owned).to_vec());
    }
    screen::put(Columns::default().set(&rows))?;
    Ok(ExitCode::SUCCESS)
}
