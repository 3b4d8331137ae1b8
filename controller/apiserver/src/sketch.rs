//! Some fields of a stored value, read without the rest, which costs no memory: what selectors look at, and what
//! admission asks of other objects.

use std::borrow::Cow;
use std::fmt;

use controller_object::field;
use controller_object::resource::Resource;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What selectors look at of an object of a built-in kind: whatever [`field::selectable`] reads of it, and the labels.
pub(crate) fn of(resource: &Resource, json: &[u8]) -> Result<Value, serde_json::Error> {
    read(field::looked_at(resource).chain(["metadata.labels"]), json)
}

/// The fields of an object at some paths, in their places: two names (`metadata.labels`), or one for a scalar (`type`).
pub(crate) fn read<'a>(paths: impl IntoIterator<Item = &'a str>, json: &[u8]) -> Result<Value, serde_json::Error> {
    let split = |path: &'a str| path.split_once('.').map_or((path, None), |(part, field)| (part, Some(field)));
    let wanted: Vec<(&str, Option<&str>)> = paths.into_iter().map(split).collect();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let sketch = Level::Object(&wanted).deserialize(&mut deserializer)?;
    deserializer.end().map(|()| sketch.unwrap_or_default())
}

/// Where a value stands, and which fields are wanted: in the object, or in a part of it.
#[derive(Clone, Copy)]
enum Level<'a> {
    /// It is the object.
    Object(&'a [(&'a str, Option<&'a str>)]),
    /// In the object, under this name.
    Part(&'a str, &'a [(&'a str, Option<&'a str>)]),
}

/// The name of a field, copied only where it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Option<Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value of JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Option<Value>, A::Error> {
        let mut kept = Map::new();
        while let Some(Name(name)) = fields.next_key::<Name<'de>>()? {
            let value = match self {
                Level::Object(wanted) if wanted.iter().any(|(part, _)| *part == name) => {
                    fields.next_value_seed(Level::Part(&name, wanted))?
                }
                Level::Part(part, wanted) if wanted.contains(&(part, Some(&name))) => Some(fields.next_value()?),
                Level::Object(_) | Level::Part(..) => {
                    fields.next_value::<IgnoredAny>()?;
                    None
                }
            };
            kept.extend(value.map(|value| (name.into_owned(), value)));
        }
        Ok(Some(Value::Object(kept)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use controller_object::resource::Table;
    use serde_json::json;

    #[test]
    fn selectors_see_the_same_in_a_sketch_as_in_the_whole() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a\u{e9}\n", "namespace": "n", "labels": {"k": "v", "w": ""}, "managedFields": [{"a": 1}], "generation": 3},
            "spec": {"nodeName": "node-1", "hostNetwork": true, "containers": [{"name": "c"}], "restartPolicy": "Always", "nodeSelector": {"x": "y"}},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "conditions": []}});
        let event = json!({"metadata": {"name": "e"}, "reason": "Killing", "type": "Normal", "count": 3, "source": {"component": "kubelet"},
            "involvedObject": {"kind": "Pod", "name": "a", "uid": "u", "fieldPath": "spec.containers{c}"}});
        let set =
            json!({"metadata": {"name": "s"}, "status": {"replicas": 3}, "spec": {"selector": {"matchLabels": {}}}});
        let job = json!({"metadata": {"name": "j"}, "status": {"succeeded": 3, "failed": 1}});
        for (group, version, plural, object) in [
            ("", "v1", "pods", &pod),
            ("", "v1", "events", &event),
            ("apps", "v1", "replicasets", &set),
            ("batch", "v1", "jobs", &job),
        ] {
            let resource = Table::builtin().find(group, version, plural).unwrap();
            let sketch = of(resource, object.to_string().as_bytes()).unwrap();
            for path in field::all(resource) {
                let (whole, seen) =
                    (field::selectable(resource, object, path), field::selectable(resource, &sketch, path));
                assert_eq!(seen, whole, "{plural}: {path}");
                assert!(seen.is_some());
            }
            assert_eq!(sketch["metadata"]["labels"], object["metadata"]["labels"]);
        }
        // Of all kinds nothing else stands deeper than a sketch goes.
        for resource in Table::builtin().all() {
            assert!(field::looked_at(resource).all(|path| path.split('.').count() <= 2), "{}", resource.plural);
        }
        let pods = Table::builtin().find("", "v1", "pods").unwrap();
        let sketch = of(pods, pod.to_string().as_bytes()).unwrap();
        assert_eq!(sketch["spec"], json!({"nodeName": "node-1", "hostNetwork": true, "restartPolicy": "Always"}));
        assert_eq!(sketch["metadata"].get("managedFields"), None);
        assert!(of(pods, b"{\"metadata\":{").is_err() && of(pods, b"{} x").is_err());
    }
}
