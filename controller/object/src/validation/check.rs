//! Collecting faults, and the checks that many kinds share.
use crate::status::Cause;
use crate::tree::{at, entries};
use api::quantity::Quantity;
use serde_json::Value;

/// More faults than this are not told: an answer stays readable and small.
const MAX_FAULTS: usize = 200;

/// What a check says of an object, as people read it.
#[cfg(test)]
pub(super) fn told(check: fn(&Value, &mut Faults), object: &Value) -> Vec<String> {
    let mut faults = Faults::default();
    check(object, &mut faults);
    faults.into_causes().iter().map(Cause::describe).collect()
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Cause>);

impl Faults {
    pub(super) fn add(&mut self, cause: Cause) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(cause);
        }
    }

    pub(super) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.add(Cause::required(field, detail));
    }

    pub(super) fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: &str) {
        self.add(Cause::invalid(field, &value.into(), detail));
    }

    pub(super) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.add(Cause::forbidden(field, detail));
    }

    /// One fault for each message of a rule from [`api::name`].
    pub(super) fn rule(&mut self, field: &str, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(field, value, &message);
        }
    }

    pub(super) fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    /// A text that must be one of a few. Absent is not a fault here.
    pub(super) fn one_of(&mut self, holder: &Value, key: &str, path: &str, supported: &[&str]) {
        if let Some(value) = holder.get(key)
            && !value.as_str().is_some_and(|v| supported.contains(&v))
        {
            self.add(Cause::unsupported(join(path, key), value, supported));
        }
    }

    /// A text that must be there and be one of a few.
    pub(super) fn needs_one_of(&mut self, holder: &Value, key: &str, path: &str, supported: &[&str]) {
        if is_blank(holder.get(key)) {
            self.required(join(path, key), "");
        } else {
            self.one_of(holder, key, path, supported);
        }
    }

    /// A number that must not be negative. Absent is not a fault.
    pub(super) fn not_negative(&mut self, holder: &Value, key: &str, path: &str) {
        if let Some(value) = holder.get(key)
            && value.as_i64().is_none_or(|n| n < 0)
        {
            self.invalid(join(path, key), value.clone(), "must be greater than or equal to 0");
        }
    }

    /// A number or a percentage that must not be negative.
    pub(super) fn count_or_percent(&mut self, holder: &Value, key: &str, path: &str, at_most_all: bool) {
        let Some(value) = holder.get(key) else { return };
        let field = join(path, key);
        match value {
            Value::String(text) => {
                let digits = text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
                match digits.map(str::parse::<u32>) {
                    Some(Ok(percent)) if at_most_all && percent > 100 => {
                        self.invalid(field, text.as_str(), "must not be greater than 100%");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => {
                        self.invalid(field, text.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
                    }
                }
            }
            _ => self.not_negative(holder, key, path),
        }
    }
}

/// `path.key`, or only the key at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Absent or empty.
pub(super) fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => false,
    }
}

/// Labels as they stand at a path.
pub(super) fn labels(object: &Value, path: &[&str], field: &str, faults: &mut Faults) {
    for (key, value) in entries(object, path) {
        faults.rule(field, key, api::name::qualified_name(key));
        faults.rule(
            field,
            value.as_str().unwrap_or_default(),
            api::name::label_value(value.as_str().unwrap_or_default()),
        );
    }
}

/// A LabelSelector.
pub(super) fn selector(selector: &Value, field: &str, faults: &mut Faults) {
    labels(selector, &["matchLabels"], &join(field, "matchLabels"), faults);
    for (index, expression) in crate::tree::list(selector, &["matchExpressions"]).iter().enumerate() {
        let path = format!("{field}.matchExpressions[{index}]");
        let values = crate::tree::list(expression, &["values"]);
        match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => {
                faults.required(join(&path, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                faults.forbidden(
                    join(&path, "values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => faults.invalid(join(&path, "operator"), other, "not a valid selector operator"),
        }
        let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
        faults.rule(&join(&path, "key"), key, api::name::qualified_name(key));
    }
}

/// A map of quantities, none negative.
pub(super) fn amounts(object: &Value, path: &[&str], field: &str, faults: &mut Faults) {
    for (name, value) in entries(object, path) {
        let text = value.as_str().unwrap_or_default();
        match Quantity::parse(text) {
            Ok(quantity) if quantity.is_negative() => {
                faults.invalid(format!("{field}[{name}]"), text, "must be greater than or equal to 0");
            }
            Ok(_) => {}
            Err(error) => faults.invalid(format!("{field}[{name}]"), text, &error.to_string()),
        }
        faults.rule(&format!("{field}[{name}]"), name, api::name::qualified_name(name));
    }
}

/// An amount at a path.
pub(super) fn amount(object: &Value, path: &[&str]) -> Option<Quantity> {
    at(object, path)?.as_str().and_then(|text| Quantity::parse(text).ok())
}

/// An IP address.
pub(super) fn ip(text: &str, field: &str, faults: &mut Faults) {
    if text.parse::<std::net::IpAddr>().is_err() {
        faults.invalid(field, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// An address range.
pub(super) fn cidr(text: &str, field: &str, faults: &mut Faults) {
    let valid = text.split_once('/').is_some_and(|(address, bits)| match (address.parse(), bits.parse::<u8>()) {
        (Ok(std::net::IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(std::net::IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    });
    if !valid {
        faults.invalid(field, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}
