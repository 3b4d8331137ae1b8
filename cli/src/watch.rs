//! A stream of lines or watch events out of an answer that goes on.

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
