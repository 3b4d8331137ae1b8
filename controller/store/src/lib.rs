//! MVCC: keys to bytes at revisions; compare-and-put, range, watch, compaction.
//! Never knows a Kubernetes kind.
//! Start reading at `store`.
