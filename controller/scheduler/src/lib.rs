//! Chooses a node: snapshot and pod to decision (pure), and one driver that binds.
//! Never knows the store or the API server.
//! Start reading at `decide`.
