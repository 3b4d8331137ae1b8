//! The Container Device Interface: files of this machine say what a container needs to use a device, by names like
//! `vendor.com/class=name`. The specification is CDI 1.1.0 (cncf-tags/container-device-interface, SPEC.md). Who writes these
//! files is root here; still their size and number are bounded. Start reading at `find`.

mod edit;
mod find;
mod spec;

#[cfg(test)]
pub(crate) use edit::Mount;
pub(crate) use edit::{Edits, Node};
pub(crate) use find::{edits, unread};

/// A prefix of annotations by which plugins name devices.
pub(crate) const ANNOTATION: &str = "cdi.k8s.io/";
