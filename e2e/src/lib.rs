//! Cluster fixture and scenarios, driving the binary over the wire.
//! Never uses an in-house crate.
//! Start reading at `tests/walkthrough.rs`.
