//! One reconciler per kind: observe, plan (pure), apply (idempotent).
//! Never knows the store or the API server; a reconciler never knows another.
//! Start reading at `deployment`.
