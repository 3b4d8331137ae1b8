//! `/debug/pprof/profile`: where the process spends its CPU time, for who may (Go's net/http/pprof has the path and the
//! parameter). Who takes the profile is told by the composition root: this crate does no such thing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use controller_object::status::Status;
use futures::stream;
use http::header::{CONTENT_DISPOSITION, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::query::Query;
use crate::reply;
use crate::server::State;

/// The path; `get` on it is the verb that authorization asks about.
pub(crate) const PATH: &str = "/debug/pprof/profile";

/// What is taken when nothing is asked for, as Go has it, and the most.
const DEFAULT_SECONDS: i64 = 30;
const MAX_SECONDS: i64 = 60;

/// Starts a CPU profile of the process that is to take so long; [`io::ErrorKind::ResourceBusy`] while another is taken.
pub type Start = dyn Fn(Duration) -> io::Result<Finish> + Send + Sync;

/// Ends it and gives it as `pprof` reads it, gzip'd; dropped, it ends without one.
pub type Finish = Box<dyn FnOnce() -> io::Result<Vec<u8>> + Send>;

/// How long, from `seconds`.
fn length(query: &Query) -> Result<Duration, Status> {
    let seconds = query.number("seconds")?.unwrap_or(DEFAULT_SECONDS);
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) if seconds <= MAX_SECONDS as u64 => Ok(Duration::from_secs(seconds)),
        _ => Err(Status::bad_request(format!(
            "query parameter seconds: invalid value {seconds}: must be between 1 and {MAX_SECONDS}, inclusive"
        ))),
    }
}

/// Begins the answer at once and ends it when the profile is there, or when the server stops.
pub(crate) fn answer(state: &Arc<State>, method: &Method, query: &Query) -> Result<Response<Body>, Status> {
    if *method != Method::GET {
        return Err(Status::bad_request("expected GET"));
    }
    let start = state.profiler.get().ok_or_else(Status::path_not_found)?;
    let length = length(query)?;
    let finish = start(length).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => Status::too_many_requests("another profile is being taken", 1),
        _ => Status::internal_error(format!("taking a profile: {error}")),
    })?;
    let shutdown = state.shutdown.clone();
    let body = stream::once(async move {
        tokio::select! {
            () = tokio::time::sleep(length) => {}
            () = shutdown.cancelled() => {}
        }
        let profile = tokio::task::spawn_blocking(finish).await.map_err(io::Error::other)?;
        profile.map(Bytes::from)
    });
    let mut response = reply::with_type(StatusCode::OK, "application/octet-stream", Body::from_stream(body));
    let name = HeaderValue::from_static("attachment; filename=\"profile\"");
    response.headers_mut().insert(CONTENT_DISPOSITION, name);
    Ok(response)
}
