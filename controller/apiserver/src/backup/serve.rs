//! `/gantry/v1/state`: GET gives a backup of the running server, PUT makes its state that of a backup.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use controller_object::status::Status;
use controller_store::store::ReplaceError;
use futures::stream;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Backup, BackupError};
use crate::reply;
use crate::server::State;

/// The path; `get` and `put` on it are the verbs that authorization asks about.
pub(crate) const PATH: &str = "/gantry/v1/state";

/// The largest backup that is taken while running, before and after decompression; more is for a restore offline.
const UPLOAD_LIMIT: usize = 256 << 20;
const STATE_LIMIT: u64 = 1 << 30;
/// What is compressed ahead of a client that reads slowly.
const CHUNKS: usize = 8;

/// Files that are the cluster's identity: a running server holds them in memory and cannot take others.
const IDENTITY: [(&str, &str); 3] =
    [("tls/ca.crt", "the authority"), ("tls/ca.key", "the authority's key"), ("tls/service.key", "the token key")];

pub(crate) async fn answer(state: &Arc<State>, method: &Method, body: Body) -> Result<Response<Body>, Status> {
    match *method {
        Method::GET => Ok(download(Arc::clone(state))),
        Method::PUT => upload(Arc::clone(state), body).await,
        _ => Err(Status::bad_request("expected GET or PUT")),
    }
}

/// Hands what is written to an HTTP body, waiting where the client does not keep up.
struct Sender(mpsc::Sender<Result<Bytes, io::Error>>);

impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn download(state: Arc<State>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(64 << 10, Sender(sender.clone()));
        let snapshot = state.registry.store.snapshot().map_err(BackupError::from);
        if let Err(error) = snapshot.and_then(|snapshot| super::write(out, &snapshot, &state.dir)) {
            tracing::warn!(error = api::causes::chain(&error), "a backup was not written to its end");
            // A body that breaks off is no backup, and the client must know.
            drop(sender.blocking_send(Err(io::Error::other("the backup could not be written"))));
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    reply::with_type(StatusCode::OK, "application/zstd", Body::from_stream(chunks))
}

async fn upload(state: Arc<State>, body: Body) -> Result<Response<Body>, Status> {
    let body = Limited::new(body, UPLOAD_LIMIT).collect().await.map_err(|_| {
        Status::request_entity_too_large(&format!(
            "the backup was not read, or has more than {UPLOAD_LIMIT} bytes: restore it with the server stopped"
        ))
    })?;
    let bytes = body.to_bytes();
    let read = tokio::task::spawn_blocking(move || super::read(&*bytes, STATE_LIMIT)).await;
    let backup = read.map_err(Status::internal_error)?.map_err(refusal)?;
    is_ours(&state, &backup).map_err(refusal)?;
    let kept = keep(&state).await.map_err(refusal)?;
    // The state first: the reconciler of manifests then finds files that it has applied already.
    let replaced = state.registry.store.replace(&backup.snapshot).await.map_err(|error| refusal(error.into()))?;
    backup.files.write(&state.dir, "manifests/").map_err(refusal)?;
    tracing::warn!(
        revision = replaced.revision.0,
        of = backup.description.created,
        changed = replaced.changed,
        kept = %kept.display(),
        "the state was replaced by that of a backup"
    );
    let answer = json!({
        "backup": backup.description, "revision": replaced.revision.0, "changed": replaced.changed, "kept": kept,
    });
    Ok(reply::json_bytes(StatusCode::OK, Bytes::from(answer.to_string())))
}

fn is_ours(state: &State, backup: &Backup) -> Result<(), BackupError> {
    for (file, what) in IDENTITY {
        let path = state.dir.join(file);
        let own = std::fs::read(&path).map_err(super::in_file("reading", &path))?;
        if backup.files.get(file) != Some(&own) {
            return Err(BackupError::Stranger(what));
        }
    }
    Ok(())
}

/// Keeps the state that is about to be replaced: what was accepted is never lost.
async fn keep(state: &Arc<State>) -> Result<PathBuf, BackupError> {
    let state = Arc::clone(state);
    let kept = tokio::task::spawn_blocking(move || {
        let path = state.dir.join(format!("before-restore-{}.backup", crate::time::epoch()));
        let file = crate::pki::create_private(&path).map_err(super::in_file("creating", &path))?;
        super::write(&file, &state.registry.store.snapshot()?, &state.dir)?;
        file.sync_all().map_err(super::in_file("syncing", &path))?;
        Ok(path)
    });
    kept.await.unwrap_or_else(|error| Err(BackupError::Write(io::Error::other(error))))
}

fn refusal(error: BackupError) -> Status {
    let text = api::causes::chain(&error);
    match error {
        BackupError::Stranger(_) => Status::bad_request(format!("{text}; stop the server to restore it nevertheless")),
        BackupError::Read(_) | BackupError::Version { .. } | BackupError::Damaged(_) | BackupError::Snapshot(_) => {
            Status::bad_request(text)
        }
        BackupError::Replace(ReplaceError::TooLarge { .. }) => {
            Status::request_entity_too_large(&format!("{text}: restore it with the server stopped"))
        }
        BackupError::Replace(ReplaceError::Sealed(_)) => Status::bad_request(text),
        BackupError::Replace(ReplaceError::Commit(_)) => Status::service_unavailable(text),
        BackupError::File { .. }
        | BackupError::Write(_)
        | BackupError::Store(_)
        | BackupError::Seal(_)
        | BackupError::Occupied(_) => Status::internal_error(text),
    }
}
