//! Garbage collection: what all owners have left goes; owners wait for their dependents where that was asked for.
mod apply;
mod graph;
mod kinds;
mod plan;

pub(crate) use apply::start;
