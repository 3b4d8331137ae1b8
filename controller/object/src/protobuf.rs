//! The protobuf form of objects: 4 bytes of magic, then a `runtime.Unknown` around the message of the kind.
//! Decoded by a table of wire facts straight to the JSON form, so that there is one pipeline behind it, and encoded by
//! the same table.
mod encode;
mod message;
mod table;
pub(crate) mod wire;

use crate::status::Status;
use serde_json::Value;
use table::Facts;
use wire::{Field, Payload, Reader, Writer};

/// How every protobuf body of the API begins.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Why bytes are no object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    /// The first four bytes are others.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// A varint, tag or length is broken, or runs past the end.
    #[error("malformed protobuf at byte {0} of a message")]
    Malformed(usize),
    /// A field came with another wire type.
    #[error("wrong wire type for field {0}")]
    WireType(String),
    /// A string is not UTF-8.
    #[error("field {0} is not valid UTF-8")]
    Text(String),
    /// A field with a textual form of its own does not hold it.
    #[error("field {0} holds no valid {1}")]
    Form(String, &'static str),
    /// Messages nest too deep.
    #[error("exceeded max depth")]
    Depth,
    /// The envelope says that the content is packed.
    #[error("content encoding {0:?} is not supported")]
    Encoding(String),
    /// The envelope does not name a kind.
    #[error("apiVersion and kind must be set in the protobuf envelope")]
    NoKind,
    /// No such kind.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind {
        /// The apiVersion of the envelope.
        version: String,
        /// The kind of the envelope.
        kind: String,
    },
}

/// Decodes a body to the JSON form of the object, with `apiVersion` and `kind`.
/// Also for bodies that are no resource: `DeleteOptions`, `Scale`, `Eviction`, `Binding`, `TokenRequest`.
pub fn decode(bytes: &[u8]) -> Result<Value, Status> {
    if bytes.len() > crate::decode::MAX_BYTES {
        return Err(Status::request_entity_too_large(&format!("limit is {}", crate::decode::MAX_BYTES)));
    }
    object(bytes, 0).map_err(|error| Status::bad_request(format!("protobuf: {error}")))
}

/// Whether objects of this kind have a protobuf form. Custom resources and usage metrics have none.
pub fn has_form(api_version: &str, kind: &str) -> bool {
    Facts::builtin().find(api_version, kind).is_some()
}

/// Encodes an object by its `apiVersion` and `kind`, envelope included.
pub fn encode(object: &Value) -> Result<Vec<u8>, Status> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    envelope(version, kind, |raw| content(version, kind, object, raw))
}

/// Encodes a list of a kind whose items come one after the other, so that only one is held as JSON at a time.
/// `metadata` is a meta.v1 ListMeta.
pub fn encode_list(
    api_version: &str,
    item_kind: &str,
    metadata: &Value,
    items: impl Iterator<Item = Result<Value, Status>>,
) -> Result<Vec<u8>, Status> {
    envelope(api_version, &format!("{item_kind}List"), |raw| {
        // Every list has its metadata in field 1 and its items in field 2.
        raw.message(1, |inner| content("meta.k8s.io/v1", "ListMeta", metadata, inner))?;
        for item in items {
            raw.message(2, |inner| content(api_version, item_kind, &item?, inner))?;
        }
        Ok(())
    })
}

/// A `meta.v1.WatchEvent` around an object that is encoded already, framed by its length in four bytes, big-endian:
/// the stream of `application/vnd.kubernetes.protobuf;stream=watch`.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut extension = Writer::default();
    extension.bytes(1, object);
    let mut message = Writer::default();
    message.bytes(1, event.as_bytes());
    message.bytes(2, extension.as_slice());
    let length = u32::try_from(message.as_slice().len()).unwrap_or(u32::MAX);
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(message.as_slice());
    frame
}

fn content(version: &str, kind: &str, object: &Value, out: &mut Writer) -> Result<(), Status> {
    let facts = Facts::builtin();
    let unknown = || ProtobufError::Kind { version: version.to_owned(), kind: kind.to_owned() };
    let id = facts.find(version, kind).ok_or_else(unknown);
    id.and_then(|id| encode::encode(facts, id, object, out))
        .map_err(|error| Status::internal_error(format!("encoding protobuf: {error}")))
}

/// Magic and envelope around the message that `raw` writes.
fn envelope(version: &str, kind: &str, raw: impl FnOnce(&mut Writer) -> Result<(), Status>) -> Result<Vec<u8>, Status> {
    let mut unknown = Writer::after(&MAGIC);
    unknown.message(1, |meta| {
        meta.bytes(1, version.as_bytes());
        meta.bytes(2, kind.as_bytes());
        Ok::<_, Status>(())
    })?;
    unknown.message(2, raw)?;
    // Content encoding and type: always written, always empty.
    unknown.bytes(3, b"");
    unknown.bytes(4, b"");
    Ok(unknown.into_bytes())
}

/// Decodes an envelope; those inside raw extensions come here again with more depth.
fn object(bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(bytes.strip_prefix(&MAGIC).ok_or(ProtobufError::Magic)?)?;
    if !envelope.encoding.is_empty() {
        return Err(ProtobufError::Encoding(envelope.encoding));
    }
    let mut value = if envelope.content_type == "application/json" {
        serde_json::from_slice(envelope.raw).map_err(|_| ProtobufError::Form("raw".to_owned(), "JSON"))?
    } else {
        if envelope.kind.is_empty() || envelope.version.is_empty() {
            return Err(ProtobufError::NoKind);
        }
        let facts = Facts::builtin();
        let Some(id) = facts.find(&envelope.version, &envelope.kind) else {
            return Err(ProtobufError::Kind { version: envelope.version, kind: envelope.kind });
        };
        message::decode(facts, id, envelope.raw, depth)?
    };
    if let Value::Object(map) = &mut value {
        for (key, text) in [("apiVersion", envelope.version), ("kind", envelope.kind)] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.into());
            }
        }
    }
    Ok(value)
}

/// `k8s.io.apimachinery.pkg.runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    version: String,
    kind: String,
    raw: &'a [u8],
    encoding: String,
    content_type: String,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(Field { number, payload }) = reader.next()? {
            match (number, payload) {
                (1, Payload::Bytes(inner)) => {
                    let mut reader = Reader::new(inner);
                    while let Some(Field { number, payload }) = reader.next()? {
                        match (number, payload) {
                            (1, Payload::Bytes(text)) => envelope.version = wire::text(text, "apiVersion")?,
                            (2, Payload::Bytes(text)) => envelope.kind = wire::text(text, "kind")?,
                            _ => {}
                        }
                    }
                }
                (2, Payload::Bytes(raw)) => envelope.raw = raw,
                (3, Payload::Bytes(text)) => envelope.encoding = wire::text(text, "contentEncoding")?,
                (4, Payload::Bytes(text)) => envelope.content_type = wire::text(text, "contentType")?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A length-delimited field shorter than 128 bytes.
    fn block(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend(content);
        out
    }

    fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [block(1, version.as_bytes()), block(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), block(1, &meta), block(2, raw)].concat()
    }

    #[test]
    fn a_namespace() {
        // What kubectl sends: every plain field of the metadata stands there, most of them empty.
        let meta = [block(1, b"x"), block(2, b""), block(3, b""), vec![0x38, 0], block(8, b"")].concat();
        let raw = [block(1, &meta), block(2, b""), block(3, b"")].concat();
        assert_eq!(
            decode(&envelope("v1", "Namespace", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}, "spec": {}, "status": {}})
        );
    }

    #[test]
    fn a_zero_that_means_something_is_kept() {
        let raw = block(2, &[0x08, 0, 0x28, 0]);
        let value = decode(&envelope("apps/v1", "Deployment", &raw)).unwrap();
        assert_eq!(value["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn options_are_known_in_every_group() {
        let want = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        assert_eq!(decode(&envelope("apps/v1", "DeleteOptions", &[0x08, 0])).unwrap(), want);
    }

    #[test]
    fn refusals() {
        for (body, want) in [
            (b"{}".to_vec(), "does not appear to be a protobuf message"),
            (envelope("v1", "Nothing", b""), "no kind \"Nothing\""),
            (envelope("apps.example.com/v1", "Deployment", b""), "no kind"),
            (envelope("", "", b""), "must be set"),
            (envelope("v1", "Pod", &[0x0a, 5, 1]), "malformed"),
            (envelope("v1", "Pod", &[0x08, 1]), "wrong wire type for field metadata"),
            (envelope("v1", "Pod", &block(1, &block(1, b"\xff"))), "field metadata.name is not valid UTF-8"),
            ([envelope("v1", "Pod", b""), block(3, b"gzip")].concat(), "content encoding"),
        ] {
            let status = decode(&body).unwrap_err();
            assert!(status.message.contains(want), "{}", status.message);
        }
    }
}
