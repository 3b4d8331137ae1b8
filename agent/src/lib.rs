//! Makes assigned pods real and reports them.
//! Never knows a controller crate.
//! Start reading at `assemble`.
