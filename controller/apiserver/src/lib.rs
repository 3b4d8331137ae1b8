//! HTTP to objects to store; the only writer of the store.
//! Never knows scheduler or reconcilers.
//! Start reading at `chain`.
