//! The Linux calls that need `unsafe` or that no kept crate wraps.
//! Never holds policy, never knows tokio.
//! Start reading at `clone`.
