//! Formats of text that are checked (k8s.io/apiextensions-apiserver, "supported formats"); unknown ones say nothing.
use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether a text has the form that a format names.
pub(crate) fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "email" => text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !host.contains('@') && !text.contains(char::is_whitespace)
        }),
        "hostname" => {
            text.len() <= 253
                && text.split('.').all(|label| api::name::rfc1123_label(&label.to_ascii_lowercase()).is_empty())
        }
        "uri" => text.split_once(':').is_some_and(|(scheme, rest)| {
            !scheme.is_empty()
                && !rest.is_empty()
                && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                && !text.contains(char::is_whitespace)
        }),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && is_hex(part))
        }
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && is_hex(digits)
        }
        "k8sshortname" => api::name::rfc1123_label(text).is_empty(),
        "k8slongname" => api::name::rfc1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// RFC 3339 with an offset.
pub(crate) fn is_date_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
        && text.as_bytes().get(10).is_some_and(|byte| matches!(byte, b'T' | b't' | b' '))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let limit = if address.parse::<Ipv4Addr>().is_ok() {
        32
    } else if address.parse::<Ipv6Addr>().is_ok() {
        128
    } else {
        return false;
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= limit)
}

fn is_uuid(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    plain.len() == 32 && is_hex(&plain)
}

/// Go's durations (`1h30m`), and the words that go-openapi takes besides (`3 days`).
pub(crate) fn is_duration(text: &str) -> bool {
    let trimmed = text.trim_start_matches(['-', '+']);
    if trimmed == "0" {
        return true;
    }
    let mut rest = trimmed;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() || number.parse::<f64>().is_err() {
            return false;
        }
        let tail = tail.trim_start_matches(' ');
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (word, next) = tail.split_at(unit);
        let known = [
            "ns", "us", "\u{b5}s", "ms", "s", "m", "h", "d", "w", "sec", "secs", "second", "seconds", "min", "mins",
            "minute", "minutes", "hr", "hrs", "hour", "hours", "day", "days", "week", "weeks", "milli", "micro",
            "nano",
        ];
        if !known.contains(&word.trim_end()) {
            return false;
        }
        any = true;
        rest = next;
    }
    any
}
