//! Jobs played to their end.
