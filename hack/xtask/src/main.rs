//! Tasks of the build that are not tests.
fn main() {}
