//! A stream of lines or watch events out of an answer that goes on.

use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;

/// The longest line that is taken; objects are limited to a few megabytes by every server.
const LINE_LIMIT: usize = 64 << 20;

/// Watch events, one after the other.
pub(crate) struct Watch {
    body: Body,
    pending: Vec<u8>,
    searched: usize,
    ended: bool,
}

/// What a watch says about an object.
#[derive(Debug)]
pub(crate) struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`.
    pub(crate) kind: String,
    /// The object, or the table with its row.
    pub(crate) object: Value,
}

/// A watch that is opened again where it ended: at the version seen last, or anew where that is gone.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    seen: Option<String>,
    /// Whether the last watch brought anything; an end right after the start is not answered at once.
    idle_ends: u32,
}

impl Follow {
    /// Goes on after a version.
    pub(crate) fn from(version: Option<String>) -> Self {
        Self { seen: version, idle_ends: 0 }
    }

    /// The call for the next watch.
    fn prepare(&self, call: Call) -> Call {
        call.with_some("resourceVersion", self.seen.clone()).with("allowWatchBookmarks", "true")
    }

    /// The next event that is no bookmark; `None` once another watch has to be opened. A version that the server
    /// has forgotten (410) starts from what there is now.
    pub(crate) async fn next(&mut self, watch: &mut Watch) -> Result<Option<Event>, Failure> {
        loop {
            match watch.next().await {
                Ok(Some(event)) => {
                    self.idle_ends = 0;
                    let object = event.object.pointer("/rows/0/object").unwrap_or(&event.object);
                    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
                    self.seen = version.map(str::to_owned).or(self.seen.take());
                    if event.kind != "BOOKMARK" {
                        return Ok(Some(event));
                    }
                }
                Ok(None) => {
                    self.idle_ends += 1;
                    if self.idle_ends > 1 {
                        // A server that ends every watch at once is not asked in a tight loop.
                        let pause = Duration::from_millis(100 << self.idle_ends.min(6));
                        tokio::time::sleep(pause).await;
                    }
                    return Ok(None);
                }
                Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 410) => {
                    self.seen = None;
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Opens the next watch; a forgotten version is given up at once.
    pub(crate) async fn open(&mut self, session: &Session, call: &Call) -> Result<Watch, Failure> {
        match Watch::open(session, self.prepare(call.clone())).await {
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 410) => {
                self.seen = None;
                Watch::open(session, self.prepare(call.clone())).await
            }
            opened => opened,
        }
    }
}

impl Watch {
    /// Starts a watch; `call` carries selectors and the version to start after.
    pub(crate) async fn open(session: &Session, call: Call) -> Result<Self, Failure> {
        let body = session.stream(call.with("watch", "true")).await?;
        Ok(Self { body, pending: Vec::new(), searched: 0, ended: false })
    }

    /// The next event; `None` once the server ended the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let mut event: Value = serde_json::from_slice(&line)
                .map_err(|error| Failure::error(format!("a watch event is no JSON: {error}")))?;
            let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            let object = event.get_mut("object").map(Value::take).unwrap_or_default();
            if kind == "ERROR" {
                let code = object.get("code").and_then(Value::as_u64).unwrap_or(500);
                return Err(Failure::answered(u16::try_from(code).unwrap_or(500), &object));
            }
            return Ok(Some(Event { kind, object }));
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.pending, rest)));
            }
            self.searched = self.pending.len();
            if self.ended {
                self.searched = 0;
                let last = std::mem::take(&mut self.pending);
                return Ok((!last.is_empty()).then_some(last));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(Failure::error(format!("the watch broke off: {error}"))),
                None => self.ended = true,
            }
            if self.pending.len() > LINE_LIMIT {
                return Err(Failure::error("a watch event is larger than 64 MiB"));
            }
        }
    }
}
