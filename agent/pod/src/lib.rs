//! The pod lifecycle as a pure machine: step(state, now, event) -> (state, commands).
//! Never reads a clock or randomness, never does IO.
//! Start reading at `machine`.
