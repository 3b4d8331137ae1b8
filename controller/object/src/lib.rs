//! What an object means to the server: resource table, schema, codecs, defaulting, validation, patches, `Status`.
//! Never does IO: no tokio, no axum, no store.
//! Start reading at `resource`.
pub mod apply;
pub mod columns;
pub mod conversion;
pub mod custom;
pub mod decode;
pub mod defaulting;
pub mod discovery;
pub mod field;
pub mod media;
pub mod openapi;
pub mod patch;
pub mod pod_security;
pub mod policy;
pub mod protobuf;
pub mod resource;
pub mod scale;
pub mod schema;
pub mod status;
pub mod strategy;
mod tree;
pub mod validation;
