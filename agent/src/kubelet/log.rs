//! GET /containerLogs/NAMESPACE/POD/CONTAINER: a container's log, from a file that the pod's monitor writes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{self, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde::Deserialize;

use super::Shared;
use crate::changes::Changes;
use crate::execute::Host;
use crate::log::{Options, Reader};
use crate::static_pods::local_uid;

/// How long a silent file is followed before the container's end is asked for again.
const CHECK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct Params {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<String>,
    since_seconds: Option<String>,
    since_time: Option<String>,
    limit_bytes: Option<String>,
    stream: Option<String>,
}

fn flag(value: Option<&String>) -> bool {
    value.is_some_and(|value| value != "false" && value != "0")
}

impl Params {
    fn options(&self) -> Result<Options, String> {
        let number = |name: &str, value: Option<&String>| match value {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| format!("{name}: invalid value {text:?}: expected a whole number")),
        };
        let since = match (&self.since_time, number("sinceSeconds", self.since_seconds.as_ref())?) {
            (Some(time), _) => Some(
                time.parse::<Timestamp>()
                    .map_err(|_| format!("sinceTime: invalid value {time:?}: expected RFC 3339"))?,
            ),
            (None, Some(seconds)) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 4).min(1 << 40);
                Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok()
            }
            (None, None) => None,
        };
        let stream = match self.stream.as_deref() {
            None | Some("All") => None,
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            Some(other) => return Err(format!("stream: unsupported value {other:?}: expected All, Stdout or Stderr")),
        };
        Ok(Options {
            tail: number("tailLines", self.tail_lines.as_ref())?,
            since,
            timestamps: flag(self.timestamps.as_ref()),
            limit_bytes: number("limitBytes", self.limit_bytes.as_ref())?,
            stream,
        })
    }
}

pub(super) async fn get(
    extract::State(host): Shared,
    extract::Path((namespace, pod, container)): extract::Path<(String, String, String)>,
    Query(params): Query<Params>,
) -> Response {
    let answer = async {
        let options = params.options()?;
        let log = find(&host, &namespace, &pod, &container, flag(params.previous.as_ref())).await?;
        let reader = Reader::open(&log.path, options)
            .await
            .map_err(|error| format!("failed to open the log of container {container}: {error}"))?;
        let follow =
            flag(params.follow.as_ref()).then_some(Follow { host, namespace, pod, container, attempt: log.attempt });
        Ok::<_, String>(Body::from_stream(lines(reader, log.path, follow)))
    };
    match answer.await {
        Ok(body) => body.into_response(),
        Err(message) => (StatusCode::BAD_REQUEST, message).into_response(),
    }
}

struct Found {
    path: PathBuf,
    attempt: u32,
}

/// The file of the container's newest start, or of the one before.
async fn find(host: &Arc<Host>, namespace: &str, name: &str, container: &str, previous: bool) -> Result<Found, String> {
    let api: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let pod = api.get(name).await.map_err(|error| error.to_string())?;
    let uid = local_uid(&pod);
    let dir = host.config.instance.log_dir().join(format!("{namespace}_{name}_{uid}")).join(container);
    let mut attempts: Vec<u32> = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
        .collect();
    attempts.sort_unstable();
    let attempt = match previous {
        false => attempts.last().copied(),
        true => attempts.len().checked_sub(2).map(|at| attempts[at]),
    };
    match (attempt, previous) {
        (Some(attempt), _) => Ok(Found { path: dir.join(format!("{attempt}.log")), attempt }),
        (None, true) => Err(format!("previous terminated container {container:?} in pod {name:?} not found")),
        (None, false) => Err(format!("container {container:?} in pod {name:?} is waiting to start: no log yet")),
    }
}

/// Whose end stops the following.
struct Follow {
    host: Arc<Host>,
    namespace: String,
    pod: String,
    container: String,
    attempt: u32,
}

impl Follow {
    /// Whether the start whose log is read still runs.
    async fn is_running(&self) -> bool {
        let api: Api<Pod> = Api::namespaced(self.host.client.clone(), &self.namespace);
        let Ok(pod) = api.get(&self.pod).await else { return false };
        let status = pod.status.unwrap_or_default();
        let all =
            status.container_statuses.into_iter().flatten().chain(status.init_container_statuses.into_iter().flatten());
        let own = all.into_iter().find(|status| status.name == self.container);
        own.is_some_and(|status| {
            let running = status.state.is_some_and(|state| state.running.is_some());
            running && u32::try_from(status.restart_count) == Ok(self.attempt)
        })
    }
}

enum State {
    Reading(Box<Reader>, Option<Changes>, Option<Follow>),
    Done,
}

fn lines(reader: Reader, path: PathBuf, follow: Option<Follow>) -> impl futures::Stream<Item = io::Result<Bytes>> {
    // Watching begins before the first read, so that nothing written meanwhile is missed.
    let changes = follow.as_ref().and_then(|_| Changes::of(path.parent().unwrap_or(&path)).ok());
    stream::unfold(State::Reading(Box::new(reader), changes, follow), |state| async move {
        let State::Reading(mut reader, changes, follow) = state else { return None };
        let mut last_look = false;
        loop {
            match reader.read().await {
                Err(error) => return Some((Err(error), State::Done)),
                Ok(chunk) if !chunk.is_empty() => return Some((Ok(chunk), State::Reading(reader, changes, follow))),
                Ok(_) => {}
            }
            if last_look || reader.is_done() {
                return None;
            }
            let (Some(follow), Some(changes)) = (&follow, &changes) else { return None };
            if tokio::time::timeout(CHECK_EVERY, changes.next()).await.is_err() && !follow.is_running().await {
                // What it wrote between the last read and its end.
                last_look = true;
            }
        }
    })
}
