//! Seccomp: an OCI profile becomes one BPF program.
//!
//! Our own compiler and not `seccompiler`: that makes one filter per action, walks the calls one by one, keeps its table
//! of names to itself and fails on names it does not know. Here all actions share one program with a binary search, so a
//! call passes some ten instructions, and names this table does not know are skipped, as container engines do.

mod compile;
mod default;
mod syscall;

pub use compile::{SeccompError, compile};
pub use default::{default_profile, default_profile_for};
pub use syscall::number;
