//! The forms in which cells are written: ages, selectors, lists.
use crate::tree::{entries, text};
use serde_json::Value;

/// Seconds since the epoch of an RFC 3339 time.
pub(super) fn epoch(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// A duration as kubectl writes it: the two largest units while they say something.
pub(super) fn duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |a: i64, a_unit: &str, b: i64, b_unit: &str| {
        if b == 0 { format!("{a}{a_unit}") } else { format!("{a}{a_unit}{b}{b_unit}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        pair(days, "d", hours % 24, "h")
    } else if days < 730 {
        format!("{days}d")
    } else if days < 8 * 365 {
        pair(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}

/// How long ago a time was.
pub(super) fn since(time: Option<&str>, now: i64) -> String {
    time.and_then(epoch).map_or_else(|| "<unknown>".to_owned(), |then| duration(now.saturating_sub(then)))
}

/// The age of an object.
pub(super) fn age(object: &Value, now: i64) -> Value {
    since(text(object, &["metadata", "creationTimestamp"]), now).into()
}

/// The text at a path, or `<none>`.
pub(super) fn or_none(object: &Value, path: &[&str]) -> Value {
    text(object, path).filter(|t| !t.is_empty()).unwrap_or("<none>").into()
}

/// The text at a path, empty when absent.
pub(super) fn or_empty(object: &Value, path: &[&str]) -> Value {
    text(object, path).unwrap_or_default().into()
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(object: &Value, path: &[&str]) -> Value {
    let pairs: Vec<String> =
        entries(object, path).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",").into() }
}

/// A LabelSelector as text, or `<none>`.
pub(super) fn selector(object: &Value, path: &[&str]) -> Value {
    let selector = crate::tree::at(object, path).and_then(|s| api::selector::Selector::from_value(s).ok());
    selector.map(|s| s.to_string()).filter(|s| !s.is_empty()).unwrap_or_else(|| "<none>".to_owned()).into()
}

/// Joined texts, or `<none>`.
pub(super) fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    let all: Vec<&str> = texts.collect();
    if all.is_empty() { "<none>".into() } else { all.join(",").into() }
}

/// A number or text as it stands.
pub(super) fn plain(object: &Value, path: &[&str], absent: &str) -> Value {
    match crate::tree::at(object, path) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string().into(),
        _ => absent.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (660, "11m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (36_000, "10h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(duration(seconds), want);
        }
    }
}
