//! A message of the wire to its JSON form, by the table.
use super::ProtobufError;
use super::table::{Facts, FieldFact, Form, MessageId, Place, Type};
use super::wire::{self, Field, Payload, Reader};
use base64::Engine as _;
use serde_json::{Map, Value};

/// No kind nests deeper but schemas of custom resources, and those are not meant to.
const MAX_DEPTH: usize = 100;

/// Decodes the fields of a message.
pub(super) fn decode(facts: &Facts, id: MessageId, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    Walk { facts, path: Vec::new(), depth }.message(id, bytes)
}

struct Walk<'a> {
    facts: &'a Facts,
    path: Vec<&'static str>,
    depth: usize,
}

impl Walk<'_> {
    fn here(&self) -> String {
        self.path.join(".")
    }

    fn wrong(&self) -> ProtobufError {
        ProtobufError::WireType(self.here())
    }

    /// Any message; `Null` stands for a time that is not set.
    fn message(&mut self, id: MessageId, bytes: &[u8]) -> Result<Value, ProtobufError> {
        if self.depth >= MAX_DEPTH {
            return Err(ProtobufError::Depth);
        }
        let form = self.facts.message(id).map_or(Form::Object, |m| m.form);
        let mut map = Map::new();
        if form == Form::Raw {
            return self.raw(bytes);
        }
        self.depth += 1;
        self.fields(id, bytes, &mut map)?;
        self.depth -= 1;
        let whole = |key: &str| map.get(key).and_then(Value::as_i64).unwrap_or_default();
        Ok(match form {
            Form::Object | Form::Raw => Value::Object(map),
            Form::Time | Form::MicroTime if bytes.is_empty() => Value::Null,
            Form::Time => self.time(whole("seconds"), 0, 0)?,
            Form::MicroTime => self.time(whole("seconds"), whole("nanos"), 6)?,
            Form::Duration => self.duration(whole("duration")),
            Form::Quantity => match map.remove("string") {
                Some(Value::String(text)) if !text.is_empty() => Value::String(text),
                _ => "0".into(),
            },
            Form::IntOrString if whole("type") == 1 => map.remove("strVal").unwrap_or_else(|| "".into()),
            Form::IntOrString => whole("intVal").into(),
            Form::Items => map.remove("items").unwrap_or_else(|| Value::Array(Vec::new())),
            Form::SchemaOrBool => {
                let allows = map.remove("allows").unwrap_or(Value::Bool(false));
                map.remove("schema").unwrap_or(allows)
            }
            Form::SchemaOrList => map
                .remove("jSONSchemas")
                .or_else(|| map.remove("property"))
                .or_else(|| map.remove("schema"))
                .unwrap_or(Value::Null),
        })
    }

    /// The fields of a message go into `map`.
    fn fields(&mut self, id: MessageId, bytes: &[u8], map: &mut Map<String, Value>) -> Result<(), ProtobufError> {
        let Some(message) = self.facts.message(id) else { return Ok(()) };
        let mut reader = Reader::new(bytes);
        while let Some(Field { number, payload }) = reader.next()? {
            let Some(fact) = message.field(number) else { continue };
            self.path.push(fact.name);
            self.field(fact, payload, map)?;
            self.path.pop();
        }
        Ok(())
    }

    fn field(
        &mut self,
        fact: &FieldFact,
        payload: Payload<'_>,
        map: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        match fact.place {
            Place::Inline => {
                let (Type::Message(id), Payload::Bytes(bytes)) = (fact.kind, payload) else { return Err(self.wrong()) };
                if self.depth >= MAX_DEPTH {
                    return Err(ProtobufError::Depth);
                }
                self.depth += 1;
                self.fields(id, bytes, map)?;
                self.depth -= 1;
            }
            Place::Map => {
                let Payload::Bytes(bytes) = payload else { return Err(self.wrong()) };
                let (key, value) = self.entry(fact.kind, bytes)?;
                if let Some(entries) = map.entry(fact.name).or_insert_with(|| Map::new().into()).as_object_mut() {
                    entries.insert(key, value);
                }
            }
            Place::List => {
                let slot = map.entry(fact.name).or_insert_with(|| Value::Array(Vec::new()));
                let Some(items) = slot.as_array_mut() else { return Err(self.wrong()) };
                match (fact.kind, payload) {
                    (Type::Bool | Type::Int32 | Type::Int64 | Type::Double, Payload::Bytes(packed)) => {
                        let mut reader = Reader::new(packed);
                        while !reader.is_done() {
                            let payload = match fact.kind {
                                Type::Double => Payload::Fixed64(u64::from_le_bytes(reader.array()?)),
                                _ => Payload::Varint(reader.varint()?),
                            };
                            items.push(self.single(fact.kind, payload)?);
                        }
                    }
                    (kind, payload) => items.push(self.single(kind, payload)?),
                }
            }
            Place::Single => {
                let value = self.single(fact.kind, payload)?;
                let zero = match &value {
                    Value::Null => true,
                    Value::Bool(flag) => !flag,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    Value::String(text) => text.is_empty(),
                    Value::Array(_) | Value::Object(_) => false,
                };
                let told = !zero || fact.keep_zero || matches!(fact.kind, Type::Message(_));
                if value.is_null() || !told {
                    map.remove(fact.name);
                } else {
                    map.insert(fact.name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// One entry of a map: key 1, value 2; what is left out is zero.
    fn entry(&mut self, kind: Type, bytes: &[u8]) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some(Field { number, payload }) = reader.next()? {
            match (number, payload) {
                (1, Payload::Bytes(text)) => key = wire::text(text, &self.here())?,
                (1, _) => return Err(self.wrong()),
                (2, payload) => value = Some(self.single(kind, payload)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => match kind {
                Type::Text | Type::Bytes => "".into(),
                Type::Bool => false.into(),
                Type::Int32 | Type::Int64 | Type::Double => 0.into(),
                Type::Message(id) => self.message(id, &[])?,
            },
        };
        Ok((key, value))
    }

    fn single(&mut self, kind: Type, payload: Payload<'_>) -> Result<Value, ProtobufError> {
        Ok(match (kind, payload) {
            (Type::Text, Payload::Bytes(bytes)) => Value::String(match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => return Err(ProtobufError::Text(self.here())),
            }),
            (Type::Bytes, Payload::Bytes(bytes)) => base64::prelude::BASE64_STANDARD.encode(bytes).into(),
            (Type::Message(id), Payload::Bytes(bytes)) => self.message(id, bytes)?,
            (Type::Bool, Payload::Varint(bits)) => (bits != 0).into(),
            // Negative numbers come as ten bytes: the sign is in the low 32 bits too.
            (Type::Int32, Payload::Varint(bits)) => (bits as u32).cast_signed().into(),
            (Type::Int64, Payload::Varint(bits)) => bits.cast_signed().into(),
            (Type::Double, Payload::Fixed64(bits)) => serde_json::Number::from_f64(f64::from_bits(bits))
                .map(Value::Number)
                .ok_or_else(|| ProtobufError::Form(self.here(), "number"))?,
            _ => return Err(self.wrong()),
        })
    }

    fn time(&self, seconds: i64, nanos: i64, precision: u8) -> Result<Value, ProtobufError> {
        let bad = || ProtobufError::Form(self.here(), "time");
        let nanos = i32::try_from(nanos).ok().filter(|n| (0..1_000_000_000).contains(n)).ok_or_else(bad)?;
        let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| bad())?;
        Ok(if precision == 0 { format!("{time:.0}") } else { format!("{time:.6}") }.into())
    }

    /// Go's `Duration.String` for whole seconds; parts of a second follow as decimals.
    fn duration(&self, nanos: i64) -> Value {
        let sign = if nanos < 0 { "-" } else { "" };
        let nanos = nanos.unsigned_abs();
        let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
        let seconds = format!("{}.{:09}", nanos / 1_000_000_000 % 60, nanos % 1_000_000_000);
        let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
        match (hours, minutes) {
            (0, 0) => format!("{sign}{seconds}s"),
            (0, _) => format!("{sign}{minutes}m{seconds}s"),
            _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
        }
        .into()
    }

    /// Bytes that hold JSON, or an object in protobuf again.
    fn raw(&mut self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut content: &[u8] = &[];
        let mut reader = Reader::new(bytes);
        while let Some(Field { number, payload }) = reader.next()? {
            match (number, payload) {
                (1, Payload::Bytes(bytes)) => content = bytes,
                (1, _) => return Err(self.wrong()),
                _ => {}
            }
        }
        if content.is_empty() {
            return Ok(Value::Null);
        }
        if content.starts_with(&super::MAGIC) {
            return super::object(content, self.depth + 1);
        }
        serde_json::from_slice(content).map_err(|_| ProtobufError::Form(self.here(), "JSON"))
    }
}
