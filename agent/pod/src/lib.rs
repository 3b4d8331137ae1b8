//! The pod lifecycle as a pure machine: step(state, now, event) -> (state, commands).
//! Never reads a clock or randomness, never does IO.
//! Start reading at `machine`.

pub mod backoff;
mod clock;
pub mod condition;
mod container;
#[cfg(test)]
mod driver;
pub mod facts;
mod image;
pub mod machine;
pub mod probe;
pub mod protocol;
mod resize;
pub mod state;
pub mod status;
mod stop;
pub mod support;
