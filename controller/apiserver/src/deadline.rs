//! How long a request that changes something may take: a disk that hangs keeps no client waiting for ever.

use std::time::Duration;

use controller_object::resource::Subresource;
use controller_object::status::Status;

use crate::handle::Context;
use crate::route::Verb;

/// What a change may take at most; a client that asks for more gets this. Kubernetes' API server has the same bound
/// (staging/src/k8s.io/apiserver, endpoints/handlers: 34 s).
const LONGEST: Duration = Duration::from_secs(34);

/// The limit of a request; `None` for reads, watches and streams, which wait for no disk.
pub(crate) fn of(context: &Context) -> Result<Option<Duration>, Status> {
    let reads = matches!(context.request.verb, Verb::Get | Verb::List | Verb::Watch);
    let streams = matches!(
        context.subresource,
        Some(Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy)
    );
    if reads || streams { Ok(None) } else { limit(context.query.get("timeout")).map(Some) }
}

/// The limit for `?timeout=`; 0 asks for the longest.
fn limit(asked: Option<&str>) -> Result<Duration, Status> {
    let Some(text) = asked else { return Ok(LONGEST) };
    match duration(text) {
        Some(Duration::ZERO) => Ok(LONGEST),
        Some(asked) => Ok(asked.min(LONGEST)),
        None => Err(Status::bad_request(format!(
            "query parameter timeout: invalid value {text:?}: must be a duration with units, like 1m30s or 500ms"
        ))),
    }
}

/// A duration as Go's `time.ParseDuration` reads it, without negative ones.
fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// What the work answers, or that it took too long. What it had asked of the store is not taken back.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(limit) = limit else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Status::timeout(&format!("the request was not done within {limit:?}; the write may still happen")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_durations_as_go_writes_them() {
        for (text, expected) in [
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("1h0m0.5s", Some(3_600_500)),
            ("500ms", Some(500)),
            ("1500us", Some(1)),
            (".5s", Some(500)),
            ("+2s", Some(2_000)),
            ("0", Some(0)),
            ("", None),
            ("+", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("1 s", None),
            ("1sm", None),
        ] {
            assert_eq!(duration(text).map(|found| found.as_millis()), expected, "{text:?}");
        }
        assert_eq!(duration(&format!("{}h", "9".repeat(400))), None);
        assert_eq!(limit(None).ok(), Some(LONGEST));
        assert_eq!(limit(Some("0s")).ok(), Some(LONGEST));
        assert_eq!(limit(Some("1h")).ok(), Some(LONGEST));
        assert!(limit(Some("soon")).is_err_and(|status| status.message.contains("\"soon\"")));
    }
}
