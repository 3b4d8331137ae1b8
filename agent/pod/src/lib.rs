//! The pod lifecycle as a pure machine: step(state, now, event) -> (state, commands).
//! Never reads a clock or randomness, never does IO.
//! Start reading at `machine`.

pub mod backoff;
mod container;
pub mod facts;
mod image;
pub mod machine;
pub mod protocol;
pub mod state;
pub mod status;
pub mod support;
