//! As much of gRPC as the tests' own plugins need, written by hand against its pages: messages field by field (protocol
//! buffers, "Encoding"), and calls over HTTP/2 ("gRPC over HTTP2").

use std::collections::BTreeMap;
use std::convert::Infallible;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;

/// The status of a call that went well.
pub(crate) const OK: &str = "0";
/// The status of a call that failed for a reason of the server's own.
pub(crate) const INTERNAL: &str = "13";

/// What a call is answered with.
pub(crate) type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

/// A message: the values of each field, in order; what is nested is bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message(BTreeMap<u64, Vec<Value>>);

#[derive(Debug, Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Message {
    fn read(mut bytes: &[u8]) -> Self {
        let mut fields: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        while !bytes.is_empty() {
            let tag = number(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(number(&mut bytes)),
                2 => {
                    let length = usize::try_from(number(&mut bytes)).expect("a length");
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(value.to_vec())
                }
                other => panic!("wire type {other} is not used by these messages"),
            };
            fields.entry(tag >> 3).or_default().push(value);
        }
        Self(fields)
    }

    pub(crate) fn all(&self, field: u64) -> impl Iterator<Item = &[u8]> {
        let values = self.0.get(&field).into_iter().flatten();
        values.filter_map(|value| if let Value::Bytes(bytes) = value { Some(bytes.as_slice()) } else { None })
    }

    pub(crate) fn text(&self, field: u64) -> String {
        self.all(field).next().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    pub(crate) fn number(&self, field: u64) -> u64 {
        match self.0.get(&field).and_then(|values| values.last()) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    pub(crate) fn message(&self, field: u64) -> Option<Self> {
        self.messages(field).next()
    }

    pub(crate) fn messages(&self, field: u64) -> impl Iterator<Item = Self> {
        self.all(field).map(Self::read)
    }

    /// `map<string, string>`: entries with a key and a value.
    pub(crate) fn map(&self, field: u64) -> BTreeMap<String, String> {
        self.messages(field).map(|entry| (entry.text(1), entry.text(2))).collect()
    }
}

fn number(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first().expect("a number ends");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of text, bytes or a message.
pub(crate) fn put(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_number(out, field << 3 | 2);
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A field that is a number.
pub(crate) fn number_field(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, field << 3);
    put_number(&mut out, value);
    out
}

/// A message as it is sent: not compressed, and how long it is.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// The end of a call.
fn end(status: &'static str) -> Frame<Bytes> {
    let status = ("grpc-status".parse().expect("a name"), HeaderValue::from_static(status));
    Frame::trailers(HeaderMap::from_iter([status]))
}

/// One message and the end.
pub(crate) fn reply(status: &'static str, message: &[u8]) -> Frames {
    stream::iter([Ok(Frame::data(framed(message))), Ok(end(status))]).boxed()
}

/// The method of a call and its message.
async fn read(request: Request<Incoming>) -> (String, Message) {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    (method, Message::read(body.get(5..).unwrap_or_default()))
}

/// Answers every call with what the handler makes of its method and its message; connections end with the future.
pub(crate) async fn serve<H>(listener: UnixListener, handler: H)
where
    H: Fn(&str, &Message) -> Frames + Clone + Send + Sync + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let handler = handler.clone();
        let service = hyper::service::service_fn(move |request| answer(handler.clone(), request));
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        connections.spawn(async move { drop(server.serve_connection(TokioIo::new(stream), service).await) });
    }
}

async fn answer<H>(handler: H, request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, Infallible>
where
    H: Fn(&str, &Message) -> Frames,
{
    let (method, asked) = read(request).await;
    let body = StreamBody::new(handler(&method, &asked));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("well formed"))
}
