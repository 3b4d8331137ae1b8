//! `grpc.health.v1.Health/Check` over HTTP/2. Its two messages have one field each, so they are written and read by hand:
//! `HealthCheckRequest { string service = 1; }`, `HealthCheckResponse { ServingStatus status = 1; }`
//! (grpc/health/v1/health.proto; framing: gRPC over HTTP2).

use std::time::Duration;

use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::{OUTPUT_MAX, Stream, authority, connect, tls};

const SERVING: u64 = 1;
/// grpc-status.
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

/// Asks whether a service is well; with an empty name, the server. Answers why not.
pub(crate) async fn check(host: &str, port: u16, service: &str, is_tls: bool, limit: Duration) -> Result<(), String> {
    let address = authority(host, port);
    let until = tokio::time::Instant::now() + limit;
    let connecting = async {
        let stream = connect(host, port).await?;
        Ok::<Box<dyn Stream>, String>(match is_tls {
            true => Box::new(tls(stream, host).await?),
            false => Box::new(stream),
        })
    };
    let stream = match tokio::time::timeout_at(until, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("failed to connect service {address:?}: {error}")),
        Err(_) => return Err(format!("timeout: failed to connect service {address:?} within {limit:?}")),
    };
    let asking = ask(stream, &address, service);
    let (status, message, body) = match tokio::time::timeout_at(until, asking).await {
        Ok(answer) => answer.map_err(|error| format!("error: health rpc failed: {error}"))?,
        Err(_) => return Err(format!("timeout: health rpc did not complete within {limit:?}")),
    };
    match status.as_str() {
        OK => match serving_status(&body) {
            Some(SERVING) => Ok(()),
            Some(other) => Err(format!("service unhealthy (responded with {:?})", status_name(other))),
            None => Err("error: the answer of the health rpc cannot be read".into()),
        },
        UNIMPLEMENTED => {
            Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into())
        }
        _ => Err(format!("error: health rpc failed: {message}")),
    }
}

/// The gRPC status, its message and the body.
async fn ask(stream: Box<dyn Stream>, address: &str, service: &str) -> Result<(String, String, Vec<u8>), String> {
    let (mut sender, driver) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends the connection when dropped.
    let mut connection = JoinSet::new();
    connection.spawn(async move { drop(driver.await) });
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(Bytes::from(request(service))))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| super::super::chain(&error))?;
    let (parts, body) = response.into_parts();
    let (body, trailers) = read(body).await.map_err(|error| super::super::chain(&error))?;
    let field = |name: &str| {
        let value = trailers.get(name).or_else(|| parts.headers.get(name));
        value.and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match field("grpc-status") {
        Some(status) => Ok((status, field("grpc-message").unwrap_or_default(), body)),
        None => Err(format!("unexpected HTTP status code received from server: {}", parts.status)),
    }
}

async fn read(mut body: Incoming) -> Result<(Vec<u8>, HeaderMap), hyper::Error> {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data[..data.len().min(OUTPUT_MAX - bytes.len())]),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((bytes, trailers))
}

/// A byte for "not compressed", the length, the message.
fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.push(0x0a);
        varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Field 1 of the answer; a message without it is one of the default, zero.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    match (head[0], message.get(..length)?) {
        (0, []) => Some(0),
        (0, [0x08, value @ ..]) => {
            let end = value.iter().position(|byte| byte & 0x80 == 0).filter(|end| *end < 9)?;
            Some(value[..=end].iter().rev().fold(0, |all, byte| all << 7 | u64::from(byte & 0x7f)))
        }
        _ => None,
    }
}

fn status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".into(),
        1 => "SERVING".into(),
        2 => "NOT_SERVING".into(),
        3 => "SERVICE_UNKNOWN".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::response::Response;
    use axum::routing::post;
    use futures::stream;

    use super::*;

    /// A server that says this; the name of the service comes back as the message of the status.
    async fn serve(body: &'static [u8], status: &'static str) -> u16 {
        let answer = move |sent: axum::body::Bytes| async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("grpc-message", hex::encode(&sent).parse().unwrap());
            let frames = [hyper::body::Frame::data(Bytes::from_static(body)), hyper::body::Frame::trailers(trailers)];
            let frames = stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
            let body = http_body_util::StreamBody::new(frames);
            Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
        };
        let app = Router::new().route("/grpc.health.v1.Health/Check", post(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    async fn check_at(port: u16, service: &str) -> Result<(), String> {
        check("127.0.0.1", port, service, false, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn what_serves_is_well() {
        assert_eq!(check_at(serve(b"\0\0\0\0\x02\x08\x01", "0").await, "").await, Ok(()));
        let not = check_at(serve(b"\0\0\0\0\x02\x08\x02", "0").await, "").await.unwrap_err();
        assert_eq!(not, "service unhealthy (responded with \"NOT_SERVING\")");
        assert!(check_at(serve(b"\0\0\0\0\x00", "0").await, "").await.unwrap_err().contains("UNKNOWN"));
        assert!(check_at(serve(b"junk", "0").await, "").await.unwrap_err().contains("cannot be read"));
        assert!(check_at(serve(b"", "12").await, "").await.unwrap_err().contains("does not implement"));
    }

    #[tokio::test]
    async fn the_service_is_named() {
        let port = serve(b"", "5").await;
        let told = check_at(port, "ab").await.unwrap_err();
        assert_eq!(told, "error: health rpc failed: 00000000040a026162");
        let long = check_at(port, &"s".repeat(300)).await.unwrap_err();
        assert!(long.starts_with("error: health rpc failed: 000000012f0aac02"), "{long}");
    }

    #[tokio::test]
    async fn who_is_silent_is_not_well() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = check("127.0.0.1", port, "", false, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(told, "timeout: health rpc did not complete within 100ms");
        drop(listener);
        assert!(check_at(port, "").await.unwrap_err().contains("connection refused"));
    }

    #[test]
    fn noise_is_no_status() {
        for noise in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\xff\xff\xff\xff\x08", b"\0\0\0\0\x01\x08"] {
            assert_eq!(serving_status(noise), None, "{noise:?}");
        }
        assert_eq!(serving_status(b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), None);
    }
}
