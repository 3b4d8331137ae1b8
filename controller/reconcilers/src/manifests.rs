//! `DIR/server/manifests/`: files of objects that are applied at start and whenever they change, as k3s does. An object
//! that leaves a file is deleted; a file that is removed leaves its objects alone.
mod apply;
mod files;
mod plan;

pub(crate) use apply::start;
