//! Custom resources: what a CustomResourceDefinition says its objects are. A definition is checked
//! ([`validate_definition`]), becomes one [`Resource`](crate::resource::Resource) per served version ([`resources`]), and
//! its schema prunes, defaults and validates objects.
//! Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions". Start reading at `resource`.
mod column;
mod constraint;
mod converted;
mod defaulting;
mod definition;
mod format;
mod names;
mod node;
mod parse;
mod prune;
mod published;
mod resource;
mod rule;
mod structure;
#[cfg(test)]
mod tests;
mod validate;

pub use converted::Converted;
pub use definition::{validate_definition, validate_definition_update};
pub use names::{Claims, Verdict, judge, version_order};
pub use resource::{Conversion, Custom, resources};

pub(crate) use column::{cells, columns, selected};
pub(crate) use defaulting::{fill_defaults, fill_keys};
pub(crate) use prune::conform;
pub(crate) use published::published;
pub use validate::finalizer_warnings;
pub(crate) use validate::{scale, validate};

/// A stored object as it is read: what the schema does not have any more is dropped, what it has a default for is there.
pub(crate) fn read(custom: &Custom, object: &mut serde_json::Value) {
    // Metadata that the present release would not take is shown as it was stored.
    let _ = conform(&custom.node, object);
    fill_defaults(&custom.node, object);
}
