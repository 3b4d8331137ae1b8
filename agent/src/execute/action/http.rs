//! One GET request, as the kubelet's HTTP probe makes it (`pkg/probe/http`): no proxy, no certificates checked, redirects
//! followed within the same host only.

use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use url::Url;

use super::{OUTPUT_MAX, Stream, connect, tls};

/// As many redirects as Go's client follows.
const REDIRECTS_MAX: usize = 10;
const AGENT: &str = concat!("kube-probe/", "1.37");

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Get {
    /// Where.
    pub(crate) url: Url,
    /// As the user wrote them; an empty `Accept` or `User-Agent` takes ours away.
    pub(crate) headers: Vec<(String, String)>,
    /// Over HTTP/2 without TLS, known beforehand.
    pub(crate) is_http2: bool,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// At most [`OUTPUT_MAX`] bytes.
    pub(crate) body: Vec<u8>,
}

/// The URL of a path, which may have a query.
pub(crate) fn url(is_tls: bool, host: &str, port: u16, path: &str) -> Result<Url, String> {
    let scheme = if is_tls { "https" } else { "http" };
    let base = format!("{scheme}://{}/", super::authority(host, port));
    let mut url = Url::parse(&base).map_err(|error| format!("parse {base:?}: {error}"))?;
    let (path, _) = path.split_once('#').unwrap_or((path, ""));
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    url.set_path(path);
    url.set_query(query);
    Ok(url)
}

/// Asks, and follows where it is sent within the host.
pub(crate) async fn get(request: &Get) -> Result<Answer, String> {
    let mut url = request.url.clone();
    for _ in 0..REDIRECTS_MAX {
        let headers = headers(request, &url)?;
        let (answer, location) =
            once(&url, headers, request.is_http2).await.map_err(|error| format!("Get \"{url}\": {error}"))?;
        let Some(next) = location.and_then(|location| url.join(&location).ok()) else { return Ok(answer) };
        if next.host_str() != request.url.host_str() || !matches!(next.scheme(), "http" | "https") {
            return Ok(answer);
        }
        url = next;
    }
    Err(format!("Get \"{url}\": stopped after {REDIRECTS_MAX} redirects"))
}

fn headers(request: &Get, url: &Url) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let invalid = |error: &dyn std::fmt::Display| format!("header {name:?}: {error}");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(&error))?;
        let value = HeaderValue::from_str(value).map_err(|error| invalid(&error))?;
        headers.append(name, value);
    }
    for (name, default) in [(USER_AGENT, AGENT), (ACCEPT, "*/*")] {
        match headers.get(&name).map(HeaderValue::is_empty) {
            None => drop(headers.insert(name, HeaderValue::from_static(default))),
            Some(true) => drop(headers.remove(name)),
            Some(false) => {}
        }
    }
    if !headers.contains_key(HOST) {
        let own = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        headers.insert(HOST, HeaderValue::from_str(&own).map_err(|error| error.to_string())?);
    }
    Ok(headers)
}

/// One exchange on a connection of its own. Answers also where a redirect leads.
async fn once(url: &Url, headers: HeaderMap, is_http2: bool) -> Result<(Answer, Option<String>), String> {
    // An IPv6 address without its brackets.
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = connect(host, port).await?;
    match url.scheme() {
        "https" => exchange(tls(stream, host).await?, url, headers, is_http2).await,
        _ => exchange(stream, url, headers, is_http2).await,
    }
}

async fn exchange(
    stream: impl Stream + 'static,
    url: &Url,
    mut headers: HeaderMap,
    is_http2: bool,
) -> Result<(Answer, Option<String>), String> {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    // Ends the connection when dropped.
    let mut connection = JoinSet::new();
    let io = TokioIo::new(stream);
    let request = Request::builder().method(Method::GET);
    let response = if is_http2 {
        let (mut sender, driver) =
            conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|error| error.to_string())?;
        connection.spawn(async move { drop(driver.await) });
        // Over HTTP/2 the host is the authority.
        let host = headers.remove(HOST).unwrap_or_else(|| HeaderValue::from_static("localhost"));
        let host = host.to_str().unwrap_or_default();
        let uri = format!("{}://{host}{target}", url.scheme());
        let mut request =
            request.uri(uri).version(Version::HTTP_2).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        sender.send_request(request).await
    } else {
        let (mut sender, driver) = conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
        connection.spawn(async move { drop(driver.await) });
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let mut request = request.uri(target).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        sender.send_request(request).await
    };
    let response = response.map_err(|error| super::super::chain(&error))?;
    let (parts, body) = response.into_parts();
    let leads_on = matches!(parts.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = parts.headers.get(LOCATION).filter(|_| leads_on).and_then(|value| value.to_str().ok());
    let location = location.map(str::to_owned);
    let body = match read(body).await {
        Ok(body) => body,
        Err(error) => return Err(format!("reading the answer: {error}")),
    };
    Ok((Answer { status: parts.status, body }, location))
}

/// The beginning of a body.
async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < OUTPUT_MAX {
        let Some(frame) = body.frame().await else { break };
        if let Some(data) = frame?.data_ref() {
            bytes.extend_from_slice(&data[..data.len().min(OUTPUT_MAX - bytes.len())]);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::Request as Received;
    use axum::http::StatusCode as Code;
    use axum::response::{IntoResponse as _, Redirect};
    use axum::routing::get as route;

    use super::*;

    type Seen = Arc<Mutex<Vec<(Version, HeaderMap, String)>>>;

    async fn serve(seen: Seen) -> SocketAddr {
        let note = move |request: Received| {
            let mut seen = seen.lock().unwrap();
            seen.push((request.version(), request.headers().clone(), request.uri().to_string()));
            async { "well" }
        };
        let app = Router::new()
            .route("/", route(note.clone()))
            .route("/deep/er", route(note))
            .route("/large", route(|| async { "x".repeat(100_000) }))
            .route("/broken", route(|| async { (Code::INTERNAL_SERVER_ERROR, "no").into_response() }))
            .route("/near", route(|| async { Redirect::temporary("/deep/er?a=b") }))
            .route("/far", route(|| async { Redirect::temporary("http://192.0.2.1/") }))
            .route("/round", route(|| async { Redirect::temporary("/round") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    fn request(address: SocketAddr, path: &str) -> Get {
        Get { url: url(false, "127.0.0.1", address.port(), path).unwrap(), headers: vec![], is_http2: false }
    }

    #[tokio::test]
    async fn answers_come_with_their_status_and_the_beginning_of_their_body() {
        let address = serve(Seen::default()).await;
        let answer = get(&request(address, "/broken")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (500, b"no".as_slice()));
        assert_eq!(get(&request(address, "/large")).await.unwrap().body.len(), OUTPUT_MAX);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = get(&request(port, "/x?y=z")).await.unwrap_err();
        assert_eq!(refused, format!("Get \"http://{port}/x?y=z\": dial tcp {port}: connect: connection refused"));
    }

    #[tokio::test]
    async fn redirects_are_followed_within_the_host() {
        let seen = Seen::default();
        let address = serve(Arc::clone(&seen)).await;
        assert_eq!(get(&request(address, "/near")).await.unwrap().body, b"well");
        assert_eq!(seen.lock().unwrap()[0].2, "/deep/er?a=b");
        assert_eq!(get(&request(address, "/far")).await.unwrap().status.as_u16(), 307);
        assert!(get(&request(address, "/round")).await.unwrap_err().ends_with("stopped after 10 redirects"));
    }

    #[tokio::test]
    async fn headers_are_the_users_and_the_kubelets() {
        let seen = Seen::default();
        let address = serve(Arc::clone(&seen)).await;
        get(&request(address, "/")).await.unwrap();
        let own = [("X-One", "1"), ("X-One", "2"), ("Host", "example.com"), ("Accept", ""), ("User-Agent", "me")];
        let headers: Vec<_> = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        get(&Get { headers: headers.clone(), ..request(address, "/") }).await.unwrap();
        get(&Get { headers, is_http2: true, ..request(address, "/") }).await.unwrap();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let of = |index: usize, name: &str| -> Vec<String> {
            let values = seen[index].1.get_all(name).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!((of(0, "user-agent"), of(0, "accept")), (vec![AGENT.to_owned()], vec!["*/*".to_owned()]));
        assert_eq!(of(0, "host"), [address.to_string()]);
        assert_eq!((of(1, "x-one"), of(1, "host")), (vec!["1".into(), "2".into()], vec!["example.com".to_owned()]));
        assert_eq!((of(1, "user-agent"), of(1, "accept").len()), (vec!["me".to_owned()], 0));
        assert_eq!((seen[0].0, seen[2].0), (Version::HTTP_11, Version::HTTP_2));
        assert_eq!(seen[2].2, "http://example.com/");
        let bad = Get { headers: vec![("a b".into(), String::new())], ..request(address, "/") };
        assert!(get(&bad).await.unwrap_err().starts_with("header \"a b\""));
    }

    #[tokio::test]
    async fn nobody_has_to_prove_who_they_are() {
        let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.into()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nbad").await.unwrap();
            stream.flush().await.unwrap();
        });
        let url = url(true, "127.0.0.1", port, "/").unwrap();
        let answer = get(&Get { url, headers: vec![], is_http2: false }).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_slice()), (503, b"bad".as_slice()));
    }

    #[test]
    fn a_path_stays_a_path() {
        let of = |host: &str, path: &str| url(true, host, 443, path).unwrap().to_string();
        assert_eq!(of("::1", "/a b?c=d#e"), "https://[::1]/a%20b?c=d");
        assert_eq!(of("a", "http://evil/x"), "https://a/http://evil/x");
        assert_eq!(of("a", ""), "https://a/");
    }
}
