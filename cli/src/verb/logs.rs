//! `gantry logs`: what containers write.

use std::process::ExitCode;

use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::{pods, screen};

/// Flags of `gantry logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// POD, or TYPE/NAME for one of its pods.
    #[arg(value_name = "POD | TYPE/NAME")]
    target: Option<String>,
    /// The container.
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    container_word: Option<String>,
    /// The container.
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Every container of the pods.
    #[arg(long)]
    all_containers: bool,
    /// Pods with these labels.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Go on as containers write.
    #[arg(short = 'f', long)]
    follow: bool,
    /// The container before the last restart.
    #[arg(short = 'p', long)]
    previous: bool,
    /// The last lines; -1 is all. With -l the default is 10.
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Not older than this.
    #[arg(long, value_name = "DURATION", conflicts_with = "since_time")]
    since: Option<DurationArg>,
    /// Not older than this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since_time: Option<Timestamp>,
    /// The time before each line.
    #[arg(long)]
    timestamps: bool,
    /// Pod and container before each line.
    #[arg(long)]
    prefix: bool,
    /// The first bytes only.
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// How many logs are followed at once, at most, with -l.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    max_log_requests: usize,
    /// Go on where the log of one container cannot be read.
    #[arg(long)]
    ignore_errors: bool,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let kind = catalog.expect("pods")?;
    let found = match (&args.target, &args.selector) {
        (Some(_), Some(_)) => return Err(Failure::error("only a selector (-l) or a POD name is allowed")),
        (None, None) => return Err(Failure::error("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'")),
        (Some(word), None) => vec![pods::pick(&session, &catalog, word).await?],
        (None, Some(selector)) => {
            let select = SelectArgs { selector: Some(selector.clone()), field_selector: None };
            list::objects(&session, kind, Some(&session.namespace), &select).await?
        }
    };
    if found.is_empty() {
        screen::note(format!("No resources found in {} namespace.", session.namespace));
        return Ok(ExitCode::SUCCESS);
    }
    let mut sources = Vec::new();
    for pod in &found {
        sources.extend(containers(pod, args)?.into_iter().map(|container| (name_of(pod), container)));
    }
    if args.follow && sources.len() > args.max_log_requests {
        return Err(Failure::error(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use \
             --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        )));
    }
    let several = sources.len() > 1;
    let session = &session;
    let copies = sources.iter().map(|(pod, container)| async move {
        match copy(session, kind, pod, container, args, several).await {
            Err(failure) if args.ignore_errors && !matches!(failure, Failure::OutputClosed) => {
                screen::note(failure.to_string());
                Ok(())
            }
            done => done,
        }
    });
    if args.follow {
        futures::future::try_join_all(copies).await?;
    } else {
        for one in copies {
            one.await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn containers(pod: &Value, args: &Args) -> Result<Vec<String>, Failure> {
    if args.all_containers {
        return Ok(pods::containers(pod, &["initContainers", "containers", "ephemeralContainers"]));
    }
    let asked = args.container.as_deref().or(args.container_word.as_deref());
    Ok(vec![pods::container(pod, asked)?])
}

async fn copy(
    session: &Session,
    kind: &Kind,
    pod: &str,
    container: &str,
    args: &Args,
    several: bool,
) -> Result<(), Failure> {
    let tail = args.tail.or(args.selector.as_ref().map(|_| 10)).filter(|lines| *lines >= 0);
    let since = args.since.and_then(DurationArg::nonzero).map(|since| since.as_secs().max(1).to_string());
    let call = Call::to(format!("{}/log", kind.object(&session.namespace, pod)))
        .accept("*/*")
        .with("container", container)
        .with_some("follow", args.follow.then_some("true"))
        .with_some("previous", args.previous.then_some("true"))
        .with_some("timestamps", args.timestamps.then_some("true"))
        .with_some("tailLines", tail.map(|lines| lines.to_string()))
        .with_some("sinceSeconds", since)
        .with_some("sinceTime", args.since_time.map(|time| time.to_string()))
        .with_some("limitBytes", args.limit_bytes.map(|bytes| bytes.to_string()));
    let mut body = session.stream(call).await?;
    let prefix = if args.prefix { format!("[pod/{pod}/{container}] ") } else { String::new() };
    // Lines of several logs must not be torn apart; one log goes through as it comes.
    let mut lines = Lines { prefix, whole: several || args.prefix, pending: Vec::new() };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::error(format!("the log broke off: {error}")))?;
        if let Some(data) = frame.data_ref() {
            lines.put(data)?;
        }
    }
    lines.end()
}

/// Puts bytes of one log to the screen.
struct Lines {
    prefix: String,
    whole: bool,
    pending: Vec<u8>,
}

impl Lines {
    fn put(&mut self, data: &[u8]) -> Result<(), Failure> {
        if !self.whole {
            return screen::put(data);
        }
        self.pending.extend_from_slice(data);
        // A line without an end is let go in pieces before it fills the memory.
        let end = match self.pending.iter().rposition(|byte| *byte == b'\n') {
            Some(position) => position + 1,
            None if self.pending.len() > 1 << 20 => self.pending.len(),
            None => return Ok(()),
        };
        let rest = self.pending.split_off(end);
        let lines = std::mem::replace(&mut self.pending, rest);
        screen::put(self.prefixed(&lines))
    }

    fn end(&mut self) -> Result<(), Failure> {
        let rest = std::mem::take(&mut self.pending);
        if rest.is_empty() { Ok(()) } else { screen::put(self.prefixed(&rest)) }
    }

    fn prefixed(&self, text: &[u8]) -> Vec<u8> {
        if self.prefix.is_empty() {
            return text.to_vec();
        }
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| [self.prefix.as_bytes(), line].concat()).collect()
    }
}
