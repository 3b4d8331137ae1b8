//! The body of a list, written piece by piece: however long it is, only a piece is held as parsed objects.

use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use controller_object::columns::{IncludeObject, Rows};
use controller_object::protobuf;
use controller_object::resource::Resource;
use controller_object::status::Status;
use controller_store::model::KeyValue;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, VARY};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::registry;
use crate::reply::{self, Encoding, Negotiated, Shape};

/// How much is put together before it goes out, in bytes.
const CHUNK: usize = 64 << 10;
/// Rows that are made at once.
const ROWS: usize = 32;
/// Smaller answers are not worth packing; what Kubernetes takes.
const GZIP_FROM: usize = 128 << 10;

/// A list that is ready to be written.
pub(super) struct List {
    pub(super) resource: Arc<Resource>,
    pub(super) items: Vec<KeyValue>,
    /// meta.v1 ListMeta.
    pub(super) metadata: Value,
    pub(super) negotiated: Negotiated,
    pub(super) omits_managed: bool,
    pub(super) include: IncludeObject,
    /// Whether the client takes gzip.
    pub(super) gzip: bool,
}

impl List {
    pub(super) fn reply(self) -> Result<Response<Body>, Status> {
        let gzip = self.gzip && self.items.iter().map(|kv| kv.value.len()).sum::<usize>() > GZIP_FROM;
        let (media_type, pieces): (_, Box<dyn Iterator<Item = Piece> + Send>) = match self.negotiated.encoding {
            Encoding::Json => ("application/json", Box::new(Chunks::new(self))),
            Encoding::Protobuf => (reply::PROTOBUF, Box::new(std::iter::once(Ok(self.protobuf()?.into())))),
            Encoding::Yaml => return Ok(reply::object(StatusCode::OK, &self.whole()?, Encoding::Yaml)),
        };
        let body = match gzip {
            true => Body::from_stream(futures::stream::iter(Gzip::new(pieces))),
            false => Body::from_stream(futures::stream::iter(pieces)),
        };
        let mut response = reply::with_type(StatusCode::OK, media_type, body);
        if gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        Ok(response)
    }

    fn protobuf(&self) -> Result<Vec<u8>, Status> {
        match self.negotiated.shape {
            Shape::Metadata => {
                let items = self.items.iter().map(|kv| registry::metadata(kv, kv.mod_revision));
                protobuf::encode_list("meta.k8s.io/v1", "PartialObjectMetadata", &self.metadata, items)
            }
            Shape::Object | Shape::Table => {
                let items = self.items.iter().map(|kv| registry::to_value(&self.resource, kv, kv.mod_revision));
                protobuf::encode_list(&self.resource.api_version(), &self.resource.kind, &self.metadata, items)
            }
        }
    }

    /// All of it as one value: YAML is for people, and people ask for short lists.
    fn whole(self) -> Result<Value, Status> {
        let mut text = Vec::new();
        for piece in Chunks::new(self) {
            text.extend_from_slice(&piece.map_err(Status::internal_error)?);
        }
        serde_json::from_slice(&text).map_err(Status::internal_error)
    }

    /// What stands before the first item.
    fn head(&self) -> String {
        let (resource, metadata) = (&self.resource, &self.metadata);
        let (kind, version) = match self.negotiated.shape {
            Shape::Object => (resource.list_kind.as_str(), resource.api_version()),
            Shape::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1".to_owned()),
            Shape::Table => ("Table", "meta.k8s.io/v1".to_owned()),
        };
        let head = format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},", json!(kind), json!(version));
        match self.negotiated.shape {
            Shape::Object | Shape::Metadata => head + "\"items\":[",
            Shape::Table => format!("{head}\"columnDefinitions\":{},\"rows\":[", self.rows().columns()),
        }
    }

    fn rows(&self) -> Rows<'_> {
        Rows::of(&self.resource, crate::time::epoch(), self.include)
    }

    /// The JSON of some items, without commas around them.
    fn write(&self, items: &[KeyValue], out: &mut BytesMut) -> Result<(), Status> {
        let objects = |kv: &KeyValue| registry::to_value(&self.resource, kv, kv.mod_revision);
        match self.negotiated.shape {
            Shape::Object => separated(items, out, |kv, out| {
                registry::write_json(&self.resource, kv, kv.mod_revision, self.omits_managed, out)
            }),
            Shape::Metadata => separated(items, out, |kv, out| {
                registry::write_metadata_json(kv, kv.mod_revision, self.omits_managed, out)
            }),
            Shape::Table => {
                let objects = items.iter().map(objects).collect::<Result<Vec<_>, _>>()?;
                separated(&self.rows().rows(objects), out, registry::put_json)
            }
        }
    }
}

fn separated<T>(
    items: &[T],
    out: &mut BytesMut,
    write: impl Fn(&T, &mut BytesMut) -> Result<(), Status>,
) -> Result<(), Status> {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        write(item, out)?;
    }
    Ok(())
}

/// A part of a body.
type Piece = Result<Bytes, std::io::Error>;

/// JSON in pieces of about `CHUNK` bytes.
struct Chunks {
    list: List,
    /// How many items are written.
    written: usize,
    begun: bool,
    done: bool,
}

impl Chunks {
    fn new(list: List) -> Self {
        Self { list, written: 0, begun: false, done: false }
    }
}

impl Iterator for Chunks {
    type Item = Piece;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK);
        if !std::mem::replace(&mut self.begun, true) {
            out.put_slice(self.list.head().as_bytes());
        }
        while out.len() < CHUNK {
            let rest = self.list.items.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                self.done = true;
                out.put_slice(b"]}");
                break;
            }
            if self.written > 0 {
                out.put_u8(b',');
            }
            let some = &rest[..rest.len().min(ROWS)];
            if let Err(status) = self.list.write(some, &mut out) {
                // The status line has gone out: cutting the connection is what is left.
                self.done = true;
                return Some(Err(std::io::Error::other(status.message)));
            }
            self.written += some.len();
        }
        Some(Ok(out.freeze()))
    }
}

/// The same pieces, packed (RFC 1952), quickly rather than tightly.
struct Gzip<I> {
    pieces: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Gzip<I> {
    fn new(pieces: I) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Piece>> Iterator for Gzip<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.pieces.next() {
                Some(Ok(piece)) => {
                    if let Err(error) = encoder.write_all(&piece) {
                        return Some(Err(error));
                    }
                    if encoder.get_ref().len() >= CHUNK / 4 {
                        return Some(Ok(std::mem::take(encoder.get_mut()).into()));
                    }
                }
                Some(Err(error)) => {
                    self.encoder = None;
                    return Some(Err(error));
                }
                None => return self.encoder.take().map(|encoder| encoder.finish().map(Bytes::from)),
            }
        }
    }
}
