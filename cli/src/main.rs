//! The entry of the one binary `gantry`.
fn main() {}
