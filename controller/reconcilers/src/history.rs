//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, each under a name made of its content.
mod apply;
mod plan;

pub(crate) use apply::Keeper;
pub(crate) use plan::{HASH_LABEL, Source, equals, hash_of, is_of, name_of, surplus, template_of};
