//! Small things of a registry: what a tag means, manifests, configurations. All of them read whole and checked.

use http::Method;
use http::header::HeaderMap;

use super::body::Pieces;
use super::error::RequestError;
use super::session::{Session, Wish};
use crate::digest::Digest;
use crate::document::ACCEPTED;

/// The header in which a registry tells what it sends (distribution spec, "Pulling manifests").
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A manifest or index and what it is known by.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

/// What a tag means now, if the registry tells without sending it.
pub(crate) async fn resolve(session: &Session<'_>, tag: &str) -> Result<Option<Digest>, RequestError> {
    let wish = Wish { method: Method::HEAD, rest: format!("manifests/{tag}"), accept: Some(ACCEPTED), from: None };
    let answer = session.ask(&wish).await?;
    Ok(told_digest(answer.headers()))
}

/// A manifest or index by tag or digest.
pub(crate) async fn manifest(
    session: &Session<'_>,
    tag: Option<&str>,
    expected: Option<&Digest>,
    limit: u64,
) -> Result<Fetched, RequestError> {
    let name = expected.map(Digest::to_string).or(tag.map(str::to_owned)).unwrap_or_default();
    let wish = Wish { method: Method::GET, rest: format!("manifests/{name}"), accept: Some(ACCEPTED), from: None };
    persist(session, &wish, expected, limit).await
}

/// A small blob: an image's configuration.
pub(crate) async fn blob(session: &Session<'_>, digest: &Digest, limit: u64) -> Result<Vec<u8>, RequestError> {
    let wish = Wish { method: Method::GET, rest: format!("blobs/{digest}"), accept: None, from: None };
    Ok(persist(session, &wish, Some(digest), limit).await?.bytes)
}

/// One answer, read whole. It must be what was expected, or what the registry says that it sends.
async fn once(
    session: &Session<'_>,
    wish: &Wish,
    expected: Option<&Digest>,
    limit: u64,
) -> Result<Fetched, RequestError> {
    let answer = session.ask(wish).await?;
    let told = told_digest(answer.headers());
    let bytes = Pieces::new(answer, session.stall()).whole(limit).await?;
    let found = Digest::of(&bytes);
    match expected.or(told.as_ref()).filter(|expected| **expected != found) {
        Some(expected) => Err(RequestError::Mismatch { expected: expected.clone(), found }),
        None => Ok(Fetched { digest: found, bytes }),
    }
}

fn told_digest(headers: &HeaderMap) -> Option<Digest> {
    // A digest of a kind that we do not know is no promise that we could check.
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// Tries again what may pass. A registry that cannot be reached at all is not waited for: there may be another, and
/// whoever asked will ask again.
async fn persist(
    session: &Session<'_>,
    wish: &Wish,
    expected: Option<&Digest>,
    limit: u64,
) -> Result<Fetched, RequestError> {
    let mut tries = session.tries();
    loop {
        let error = match once(session, wish, expected, limit).await {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        match tries.after(error.kind(false), rand::random()) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(error),
        }
    }
}
