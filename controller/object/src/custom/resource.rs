//! A definition as resources of the table: one for each served version.
use super::column::{self, Column};
use super::constraint::Faults;
use super::node::{Kind, Node};
use super::{Converted, parse, structure, version_order};
use crate::resource::{Resource, Scope, Subresource, Verbs};
use crate::tree::{list, text};
use serde_json::Value;
use std::sync::Arc;

/// What a custom resource has that built-in kinds have in code.
#[derive(Debug)]
pub struct Custom {
    /// Name of the definition, `PLURAL.GROUP`.
    pub definition: String,
    /// How objects of other versions become this one.
    pub conversion: Conversion,
    pub(crate) node: Node,
    pub(crate) columns: Vec<Column>,
    /// Paths of fields that selectors may name, without the leading dot.
    pub(crate) selectable: Vec<String>,
    pub(crate) scale: Option<Scale>,
    /// The schema as it was written, as JSON text; empty where there is none.
    pub(crate) schema: Box<str>,
    /// Changes with the schema: hexadecimal SHA-256.
    pub(crate) digest: String,
    /// Objects that a webhook turned into this version.
    pub converted: Converted,
    /// `deprecated` and its warning.
    pub deprecation: Option<String>,
}

/// How versions are converted.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook does it: `spec.conversion.webhook`.
    Webhook(Value),
}

/// Where the `scale` subresource finds its figures.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) spec_replicas: Vec<String>,
    pub(crate) status_replicas: Vec<String>,
    pub(crate) label_selector: Option<Vec<String>>,
}

impl Custom {
    /// Whether unknown fields stay at the top.
    pub fn is_open(&self) -> bool {
        self.node.keeps_unknown()
    }
}

/// `.a.b` as keys.
pub(super) fn keys(path: &str) -> Option<Vec<String>> {
    let steps = column::steps(path)?.into_iter();
    steps.map(|step| if let column::Step::Key(key) = step { Some(key) } else { None }).collect()
}

/// The resources of a definition under the names that it was granted (`names`: `spec.names` or `status.acceptedNames`).
/// A definition that was stored is valid; versions whose schema cannot be read all the same are left out.
pub fn resources(definition: &Value, names: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let versions = list(spec, &["versions"]);
    let storage = versions.iter().find(|version| version["storage"] == true);
    let Some(storage) = storage.and_then(|version| version["name"].as_str()) else { return Vec::new() };
    let served = versions.iter().filter(|version| version["served"] == true);
    served.filter_map(|version| resource(definition, names, version, storage)).collect()
}

fn resource(definition: &Value, names: &Value, version: &Value, storage: &str) -> Option<Resource> {
    let spec = &definition["spec"];
    let texts = |key: &str| -> Vec<String> {
        list(names, &[key]).iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let (group, plural) = (text(spec, &["group"])?, text(names, &["plural"]).filter(|name| !name.is_empty())?);
    let (version_name, kind) = (text(version, &["name"])?, text(names, &["kind"])?);
    let custom = custom(definition, version, group, kind)?;
    let mut subresources = Vec::new();
    if version["subresources"].get("status").is_some() {
        subresources.push(Subresource::Status);
    }
    if custom.scale.is_some() {
        subresources.push(Subresource::Scale);
    }
    let type_name = type_name(group, version_name, kind);
    let (schema, root) = structure::of(&custom.node, &type_name);
    Some(Resource {
        group: group.to_owned(),
        version: version_name.to_owned(),
        kind: kind.to_owned(),
        list_kind: text(names, &["listKind"]).map_or_else(|| format!("{kind}List"), str::to_owned),
        plural: plural.to_owned(),
        singular: text(names, &["singular"]).unwrap_or_default().to_owned(),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        subresources,
        verbs: Verbs::Storage,
        type_name,
        storage_group: group.to_owned(),
        storage_plural: plural.to_owned(),
        storage_version: storage.to_owned(),
        schema: Arc::new(schema),
        root: Some(root),
        custom: Some(Arc::new(custom)),
        is_terminating: definition["metadata"].get("deletionTimestamp").is_some(),
    })
}

fn digest(schema: &Value) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(schema.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `com.example.v1.Foo`
fn type_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn custom(definition: &Value, version: &Value, group: &str, kind: &str) -> Option<Custom> {
    let schema = version["schema"].get("openAPIV3Schema").cloned().unwrap_or_default();
    let mut faults = Faults::default();
    let node = match schema.is_object() {
        true => parse::parse_stored("", &schema, &mut faults),
        false => Node { kind: Kind::Object, preserve: true, ..Node::default() },
    };
    if !faults.causes.is_empty() {
        return None;
    }
    let columns: Vec<Column> = list(version, &["additionalPrinterColumns"]).iter().filter_map(Column::parse).collect();
    let scale = version["subresources"].get("scale").and_then(|scale| {
        Some(Scale {
            spec_replicas: keys(text(scale, &["specReplicasPath"])?)?,
            status_replicas: keys(text(scale, &["statusReplicasPath"])?)?,
            label_selector: text(scale, &["labelSelectorPath"]).filter(|path| !path.is_empty()).and_then(keys),
        })
    });
    let conversion = &definition["spec"]["conversion"];
    let selectable = list(version, &["selectableFields"]).iter();
    let version_name = text(version, &["name"]).unwrap_or_default();
    let deprecation = (version["deprecated"] == true).then(|| {
        let warning = text(version, &["deprecationWarning"]).map(str::to_owned);
        warning.unwrap_or_else(|| {
            let others = list(&definition["spec"], &["versions"]).iter();
            let good = others.filter(|other| other["served"] == true && other["deprecated"] != true);
            let better = good.filter_map(|other| other["name"].as_str()).min_by_key(|name| version_order(name));
            let advice = better.map(|better| format!("; use {group}/{better} {kind}")).unwrap_or_default();
            format!("{group}/{version_name} {kind} is deprecated{advice}")
        })
    });
    Some(Custom {
        definition: text(definition, &["metadata", "name"])?.to_owned(),
        conversion: match conversion["strategy"] == "Webhook" {
            true => Conversion::Webhook(conversion["webhook"].clone()),
            false => Conversion::None,
        },
        node,
        columns: if columns.is_empty() { vec![Column::age()] } else { columns },
        selectable: selectable
            .filter_map(|field| Some(text(field, &["jsonPath"])?.trim_start_matches('.').to_owned()))
            .collect(),
        scale,
        digest: digest(&schema),
        schema: if schema.is_object() { schema.to_string().into() } else { Box::default() },
        converted: Converted::default(),
        deprecation,
    })
}
