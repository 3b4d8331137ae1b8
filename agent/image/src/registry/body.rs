//! Reading answers: bounded in size, and never waiting for ever.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::error::{RequestError, innermost};

/// Words of a registry that are shown to people.
const WORDS_MAX: usize = 300;

/// An answer's content, piece by piece.
pub(crate) struct Pieces {
    body: Incoming,
    had: u64,
    of: Option<u64>,
    stall: Duration,
}

impl Pieces {
    pub(crate) fn new(answer: Response<Incoming>, stall: Duration) -> Self {
        let body = answer.into_body();
        Self { of: body.size_hint().exact(), body, had: 0, stall }
    }

    /// The next piece; `None` at the end that the registry promised.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let of = || self.of.map_or_else(|| "?".to_owned(), |of| of.to_string());
            let frame = match tokio::time::timeout(self.stall, self.body.frame()).await {
                Err(_) => return Err(RequestError::Stalled { had: self.had, of: of(), within: self.stall }),
                Ok(Some(Err(error))) => {
                    let reason = Some(innermost(&error));
                    return Err(RequestError::Truncated { had: self.had, of: of(), reason });
                }
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
            };
            if let Ok(piece) = frame.into_data() {
                self.had += piece.len() as u64;
                return Ok(Some(piece));
            }
        }
    }

    /// All of it, if it is no more than `limit` bytes.
    pub(crate) async fn whole(mut self, limit: u64) -> Result<Vec<u8>, RequestError> {
        if self.of.is_some_and(|of| of > limit) {
            return Err(RequestError::TooLarge { limit });
        }
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            if self.had > limit {
                return Err(RequestError::TooLarge { limit });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }
}

/// What a registry says of a failure: its `errors` (distribution spec, "Error Codes"), a `message`, or plain words.
pub(crate) fn words(body: &[u8]) -> Option<String> {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = match &parsed {
        Some(value) => {
            let first = value.pointer("/errors/0").unwrap_or(value);
            let own = |key: &str| first.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
            own("message").or_else(|| own("code")).or_else(|| own("details")).or_else(|| own("error"))?
        }
        // A page for browsers says nothing that a person wants to read here.
        None => std::str::from_utf8(body).ok().filter(|text| !text.trim_start().starts_with('<'))?,
    };
    let clean: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean: String = clean.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
    Some(clean).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_registries_are_found_and_tamed() {
        let json = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(words(json).as_deref(), Some("manifest unknown"));
        assert_eq!(words(br#"{"errors":[{"code":"DENIED","message":""}]}"#).as_deref(), Some("DENIED"));
        assert_eq!(
            words(br#"{"details":"incorrect username or password"}"#).as_deref(),
            Some("incorrect username or password")
        );
        assert_eq!(words(b"too many\r\n\x1b[31mrequests").as_deref(), Some("too many [31mrequests"));
        assert_eq!(words(b"<html>502</html>"), None);
        assert_eq!(words("x".repeat(5000).as_bytes()).map(|text| text.len()), Some(WORDS_MAX));
    }
}
