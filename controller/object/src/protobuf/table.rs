//! The wire facts of every message, read once from `facts/protobuf.tsv`.
use std::collections::HashMap;
use std::sync::OnceLock;

/// A message's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageId(usize);

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Text.
    Text,
    /// `true` or `false`.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point.
    Double,
    /// Base64 in JSON.
    Bytes,
    /// Another message.
    Message(MessageId),
}

/// How often, and where in JSON, it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Once.
    Single,
    /// A list.
    List,
    /// A map with text keys.
    Map,
    /// The message's fields stand in the parent.
    Inline,
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldFact {
    /// Number on the wire.
    pub(super) number: u32,
    /// Name in JSON.
    pub(super) name: &'static str,
    /// How it stands in JSON.
    pub(super) place: Place,
    /// What it holds.
    pub(super) kind: Type,
    /// Zero and empty are told in JSON: Go has a pointer there, or no `omitempty`.
    pub(super) keep_zero: bool,
}

/// How a message looks in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An object.
    Object,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go's text of a duration.
    Duration,
    /// Resource quantity.
    Quantity,
    /// Number or text.
    IntOrString,
    /// JSON in bytes.
    Raw,
    /// The list alone.
    Items,
    /// `true`, `false` or a schema.
    SchemaOrBool,
    /// A schema or a list.
    SchemaOrList,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// How it looks in JSON.
    pub(super) form: Form,
    fields: Vec<FieldFact>,
}

impl Message {
    /// All fields, by number.
    pub(super) fn fields(&self) -> &[FieldFact] {
        &self.fields
    }

    /// The field with this number.
    pub(super) fn field(&self, number: u32) -> Option<&FieldFact> {
        self.fields.binary_search_by_key(&number, |f| f.number).ok().and_then(|i| self.fields.get(i))
    }
}

/// All messages.
#[derive(Debug, Default)]
pub(super) struct Facts {
    messages: Vec<Message>,
    names: HashMap<&'static str, MessageId>,
}

/// Groups whose package is not their first label below `k8s.io.api`.
const PACKAGES: [(&str, &str); 4] = [
    ("", "k8s.io.api.core"),
    ("apiextensions.k8s.io", "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions"),
    ("apiregistration.k8s.io", "k8s.io.kube_aggregator.pkg.apis.apiregistration"),
    ("internal.apiserver.k8s.io", "k8s.io.api.apiserverinternal"),
];
/// The groups whose package is their first label.
const GROUPS: [&str; 21] = [
    "admissionregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "extensions",
    "flowcontrol.apiserver.k8s.io",
    "lifecycle.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];
/// Kinds of `meta/v1` that every group has.
const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1";
const META_KINDS: [&str; 7] =
    ["CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "Status", "UpdateOptions"];

impl Facts {
    /// The built-in table.
    pub(super) fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Facts> = OnceLock::new();
        // The text is part of the binary; a test parses it, so that a broken one never ships.
        BUILTIN.get_or_init(|| Self::parse(include_str!("../../facts/protobuf.tsv")).unwrap_or_default())
    }

    /// The message of a kind.
    pub(super) fn find(&self, version: &str, kind: &str) -> Option<MessageId> {
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        if META_KINDS.contains(&kind) {
            return self.names.get(format!("{META}.{kind}").as_str()).copied();
        }
        let name = match PACKAGES.iter().find(|p| p.0 == group) {
            Some((_, package)) => format!("{package}.{short}.{kind}"),
            None if GROUPS.contains(&group) => {
                format!("k8s.io.api.{}.{short}.{kind}", group.split('.').next().unwrap_or_default())
            }
            None if group == "meta.k8s.io" => format!("{META}.{kind}"),
            None => return None,
        };
        self.names.get(name.as_str()).copied()
    }

    /// A message.
    pub(super) fn message(&self, id: MessageId) -> Option<&Message> {
        self.messages.get(id.0)
    }

    fn parse(text: &'static str) -> Option<Self> {
        let mut facts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once('\t') else {
                facts.names.insert(line, MessageId(facts.messages.len()));
                facts.messages.push(Message { form: form(line), fields: Vec::new() });
                continue;
            };
            let (number, expression) = rest.split_once('\t')?;
            let keep_zero = expression.ends_with('+');
            let expression = expression.trim_end_matches('+');
            let (place, expression) = match expression.split_at_checked(1)? {
                ("[", rest) => (Place::List, rest),
                ("{", rest) => (Place::Map, rest),
                (">", rest) => (Place::Inline, rest),
                _ => (Place::Single, expression),
            };
            let kind = match expression.split_at_checked(1)? {
                ("s", "") => Type::Text,
                ("b", "") => Type::Bool,
                ("i", "") => Type::Int32,
                ("l", "") => Type::Int64,
                ("d", "") => Type::Double,
                ("y", "") => Type::Bytes,
                ("&", index) => Type::Message(MessageId(index.parse().ok()?)),
                _ => return None,
            };
            let fact = FieldFact { number: number.parse().ok()?, name, place, kind, keep_zero };
            facts.messages.last_mut()?.fields.push(fact);
        }
        for message in &mut facts.messages {
            message.fields.shrink_to_fit();
        }
        Some(facts)
    }
}

fn form(name: &str) -> Form {
    match name.rsplit_once('.').unwrap_or(("", name)) {
        (META, "Time") => Form::Time,
        (META, "MicroTime") => Form::MicroTime,
        (META, "Duration") => Form::Duration,
        ("k8s.io.apimachinery.pkg.api.resource", "Quantity") => Form::Quantity,
        (_, "IntOrString") => Form::IntOrString,
        (_, "RawExtension" | "FieldsV1" | "JSON") => Form::Raw,
        (_, "ExtraValue" | "Verbs" | "AttestationValue") => Form::Items,
        (_, "JSONSchemaPropsOrBool") => Form::SchemaOrBool,
        (_, "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray") => Form::SchemaOrList,
        _ => Form::Object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let facts = Facts::parse(include_str!("../../facts/protobuf.tsv")).expect("parses");
        assert!(facts.messages.len() > 500);
        for message in &facts.messages {
            assert!(message.fields.is_sorted_by_key(|f| f.number));
            for field in &message.fields {
                if let Type::Message(id) = field.kind {
                    assert!(facts.message(id).is_some(), "{}", field.name);
                }
            }
        }
        // What can only be read is never sent here.
        let is_sent =
            |resource: &&std::sync::Arc<crate::resource::Resource>| resource.verbs != crate::resource::Verbs::ReadOnly;
        for resource in crate::resource::Table::builtin().all().filter(is_sent) {
            let version = resource.api_version();
            assert!(facts.find(&version, &resource.kind).is_some(), "{version} {}", resource.kind);
        }
    }
}
