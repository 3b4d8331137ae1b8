//! The JSON form of an object to a message of the wire, by the table: fields in the order of their numbers, maps in
//! the order of their keys, as the generated code of Kubernetes writes them.
use super::ProtobufError;
use super::table::{Facts, FieldFact, Form, MessageId, Place, Type};
use super::wire::Writer;
use base64::Engine as _;
use serde_json::{Map, Value};

/// What decoding takes; more would be unreadable.
const MAX_DEPTH: usize = 100;

/// Appends the fields of a message to `out`.
pub(super) fn encode(facts: &Facts, id: MessageId, value: &Value, out: &mut Writer) -> Result<(), ProtobufError> {
    Walk { facts, path: Vec::new() }.message(id, value, out)
}

struct Walk<'a> {
    facts: &'a Facts,
    path: Vec<&'static str>,
}

impl Walk<'_> {
    fn wrong(&self, expected: &'static str) -> ProtobufError {
        ProtobufError::Form(self.path.join("."), expected)
    }

    /// The content of any message.
    fn message(&mut self, id: MessageId, value: &Value, out: &mut Writer) -> Result<(), ProtobufError> {
        if self.path.len() > MAX_DEPTH {
            return Err(ProtobufError::Depth);
        }
        match self.facts.message(id).map_or(Form::Object, |message| message.form) {
            Form::Object => self.fields(id, value.as_object().ok_or_else(|| self.wrong("object"))?, out)?,
            Form::Time | Form::MicroTime => self.time(value, out)?,
            Form::Duration => out.number(1, self.duration(value)?),
            Form::Quantity => {
                // A quantity may be written as a number in JSON.
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                out.bytes(1, text.as_bytes());
            }
            Form::IntOrString => {
                let text = value.as_str();
                let number = value.as_i64().unwrap_or_default();
                if text.is_none() && !value.is_i64() {
                    return Err(self.wrong("number or string"));
                }
                out.number(1, i64::from(text.is_some()));
                out.number(2, number);
                out.bytes(3, text.unwrap_or_default().as_bytes());
            }
            Form::Raw => out.bytes(1, &serde_json::to_vec(value).map_err(|_| self.wrong("JSON"))?),
            Form::Items => {
                let fact = self.facts.message(id).and_then(|message| message.field(1)).copied();
                let fact = fact.ok_or_else(|| self.wrong("list"))?;
                self.list(&fact, value, out)?;
            }
            Form::SchemaOrBool => {
                out.number(1, i64::from(value.as_bool().unwrap_or(true)));
                if value.is_object() {
                    self.single(self.facts.message(id).and_then(|message| message.field(2)).copied(), value, out)?;
                }
            }
            // The schema is field 1, the list field 2.
            Form::SchemaOrList => {
                let number = if value.is_array() { 2 } else { 1 };
                let fact = self.facts.message(id).and_then(|message| message.field(number)).copied();
                match fact {
                    Some(fact) if value.is_array() => self.list(&fact, value, out)?,
                    fact => self.single(fact, value, out)?,
                }
            }
        }
        Ok(())
    }

    fn fields(&mut self, id: MessageId, map: &Map<String, Value>, out: &mut Writer) -> Result<(), ProtobufError> {
        let facts = self.facts;
        for fact in facts.message(id).map_or(&[][..], |message| message.fields()) {
            if fact.place == Place::Inline {
                let Type::Message(inner) = fact.kind else { continue };
                out.message(fact.number, |out| self.fields(inner, map, out))?;
                continue;
            }
            let Some(value) = map.get(fact.name).filter(|value| !value.is_null()) else { continue };
            self.path.push(fact.name);
            match fact.place {
                Place::Single => self.single(Some(*fact), value, out)?,
                Place::List => self.list(fact, value, out)?,
                Place::Map => {
                    for (key, value) in value.as_object().ok_or_else(|| self.wrong("map"))? {
                        let fact_of_value = FieldFact { number: 2, place: Place::Single, ..*fact };
                        out.message(fact.number, |out| {
                            out.bytes(1, key.as_bytes());
                            self.single(Some(fact_of_value), value, out)
                        })?;
                    }
                }
                Place::Inline => {}
            }
            self.path.pop();
        }
        Ok(())
    }

    fn list(&mut self, fact: &FieldFact, value: &Value, out: &mut Writer) -> Result<(), ProtobufError> {
        for item in value.as_array().ok_or_else(|| self.wrong("list"))? {
            self.single(Some(*fact), item, out)?;
        }
        Ok(())
    }

    fn single(&mut self, fact: Option<FieldFact>, value: &Value, out: &mut Writer) -> Result<(), ProtobufError> {
        let Some(FieldFact { number, kind, .. }) = fact else { return Err(self.wrong("known field")) };
        match kind {
            Type::Text => out.bytes(number, value.as_str().ok_or_else(|| self.wrong("string"))?.as_bytes()),
            Type::Bool => out.number(number, i64::from(value.as_bool().ok_or_else(|| self.wrong("bool"))?)),
            Type::Int32 | Type::Int64 => {
                // Values of JSON number fields may be whole floats.
                let whole = value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as i64));
                out.number(number, whole.ok_or_else(|| self.wrong("integer"))?);
            }
            Type::Double => out.double(number, value.as_f64().ok_or_else(|| self.wrong("number"))?),
            Type::Bytes => {
                let text = value.as_str().ok_or_else(|| self.wrong("string"))?;
                let bytes = base64::prelude::BASE64_STANDARD.decode(text).map_err(|_| self.wrong("base64"))?;
                out.bytes(number, &bytes);
            }
            Type::Message(id) => out.message(number, |out| self.message(id, value, out))?,
        }
        Ok(())
    }

    fn time(&self, value: &Value, out: &mut Writer) -> Result<(), ProtobufError> {
        if value.is_null() {
            return Ok(());
        }
        let parsed = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let time = parsed.ok_or_else(|| self.wrong("time"))?;
        out.number(1, time.as_second());
        out.number(2, i64::from(time.subsec_nanosecond()));
        Ok(())
    }

    /// Nanoseconds of Go's text of a duration: decimal numbers with units, as in `1h2m3.5s`.
    fn duration(&self, value: &Value) -> Result<i64, ProtobufError> {
        let text = value.as_str().ok_or_else(|| self.wrong("duration"))?;
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text),
        };
        let mut nanos = 0.0;
        while !rest.is_empty() && rest != "0" {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| self.wrong("duration"))?;
            let (number, tail) = rest.split_at(digits);
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let unit = match unit {
                "h" => 3.6e12,
                "m" => 6e10,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" => 1e3,
                "ns" => 1.0,
                _ => return Err(self.wrong("duration")),
            };
            nanos += number.parse::<f64>().map_err(|_| self.wrong("duration"))? * unit;
            rest = tail;
        }
        Ok((sign * nanos) as i64)
    }
}
