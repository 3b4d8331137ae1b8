//! Objects as people read them in full, in the layout of `kubectl describe`.

pub(crate) mod events;
pub(crate) mod kinds;
pub(crate) mod page;
pub(crate) mod related;
pub(crate) mod template;
