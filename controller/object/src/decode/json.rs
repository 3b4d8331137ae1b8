//! JSON text to a value; the last of equal keys wins, and each doubled key is reported with its path.
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;

/// More doubled fields than this are not told.
const MAX_REPORTED: usize = 100;

#[derive(Default)]
struct Trace {
    path: String,
    doubled: Vec<String>,
}

/// Parses a whole text.
pub(super) fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let trace = RefCell::new(Trace::default());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&trace).deserialize(&mut deserializer)?;
    deserializer.end()?;
    let doubled = trace.into_inner().doubled;
    Ok((value, doubled.iter().map(|path| format!("duplicate field {path:?}")).collect()))
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a RefCell<Trace>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let length = self.push(&format!("[{}]", items.len()));
            let next = seq.next_element_seed(self)?;
            self.0.borrow_mut().path.truncate(length);
            match next {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let dot = if self.0.borrow().path.is_empty() { "" } else { "." };
            let length = self.push(&format!("{dot}{key}"));
            if map.contains_key(&key) {
                let trace = &mut *self.0.borrow_mut();
                if trace.doubled.len() < MAX_REPORTED {
                    trace.doubled.push(trace.path.clone());
                }
            }
            let value = access.next_value_seed(self)?;
            self.0.borrow_mut().path.truncate(length);
            if key.len() > super::MAX_BYTES {
                return Err(A::Error::custom("key is too long"));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

impl Seed<'_> {
    /// Adds a step to the path; gives the length to cut it back to.
    fn push(self, step: &str) -> usize {
        let path = &mut self.0.borrow_mut().path;
        let length = path.len();
        path.push_str(step);
        length
    }
}
