//! What an object means to the server: resource table, schema, codecs, defaulting, validation, patches, `Status`.
//! Never does IO: no tokio, no axum, no store.
//! Start reading at `resource`.
pub mod conversion;
pub mod decode;
pub mod media;
pub mod resource;
pub mod scale;
pub mod schema;
pub mod status;
mod tree;
