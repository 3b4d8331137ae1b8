//! Custom resources: what a CustomResourceDefinition says its objects are. A definition is checked
//! ([`validate_definition`]), becomes one [`Resource`](crate::resource::Resource) per served version ([`resources`]), and
//! its schema prunes, defaults and validates objects.
//! Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions". Start reading at `resource`.
mod column;
mod constraint;
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

pub use definition::{validate_definition, validate_definition_update};
pub use names::{Claims, Verdict, judge, version_order};
pub use resource::{Conversion, Custom, resources};

pub(crate) use column::{cells, columns, selected};
pub(crate) use defaulting::fill_defaults;
pub(crate) use prune::conform;
pub(crate) use published::{hashed, published};
pub(crate) use validate::validate;
