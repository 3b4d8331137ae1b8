//! Composition root of the control plane: config, assemble, serve, drain.
//! Never holds logic of its own.
//! Start reading at `assemble`.

pub mod assemble;
pub mod config;
mod disk;
mod network;
