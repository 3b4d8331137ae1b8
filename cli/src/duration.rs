//! Durations as Go and kubectl write them: `1h30m`, `500ms`, `90s`; and ages as people read them.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

/// A duration of the command line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DurationArg {
    duration: Duration,
    negative: bool,
}

impl DurationArg {
    /// The duration; nothing for zero.
    pub(crate) fn nonzero(self) -> Option<Duration> {
        (!self.duration.is_zero() && !self.negative).then_some(self.duration)
    }

    /// Whether it is less than nothing, which `wait` takes for a week.
    pub(crate) fn is_negative(self) -> bool {
        self.negative
    }
}

impl FromStr for DurationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?}: expected a duration such as 30s, 5m or 1h30m");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        // A bare number counts seconds, as kubectl's timeouts do.
        if let Ok(seconds) = rest.parse::<u32>() {
            return Ok(Self { duration: Duration::from_secs(seconds.into()), negative });
        }
        let mut seconds = 0.0_f64;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
            seconds += number
                * match &rest[digits..unit_end] {
                    "h" => 3600.0,
                    "m" => 60.0,
                    "s" => 1.0,
                    "ms" => 1e-3,
                    "us" | "µs" => 1e-6,
                    "ns" => 1e-9,
                    _ => return Err(wrong()),
                };
            rest = &rest[unit_end..];
        }
        Duration::try_from_secs_f64(seconds).map(|duration| Self { duration, negative }).map_err(|_| wrong())
    }
}

/// How long ago, with the precision that kubectl uses (apimachinery `HumanDuration`).
pub(crate) fn age(timestamp: Option<&str>, now: Timestamp) -> String {
    match timestamp.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds for people.
pub(crate) fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |value: i64, unit: char, rest: i64, small: char| match rest {
        0 => format!("{value}{unit}"),
        rest => format!("{value}{unit}{rest}{small}"),
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        _ if minutes < 10 => with(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => with(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => with(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 8 * 365 => with(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let read = |text: &str| text.parse::<DurationArg>().ok().and_then(DurationArg::nonzero);
        assert_eq!(read("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(read("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(read("90"), Some(Duration::from_secs(90)));
        assert_eq!(read("0s"), None);
        for bad in ["", "s", "1x", "1", "h1", "1e400s", "-"] {
            assert_eq!(bad.parse::<DurationArg>().is_err(), bad != "1", "{bad}");
        }
    }

    #[test]
    fn ages_are_told_as_kubectl_does() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (730 * 86_400, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }
}
