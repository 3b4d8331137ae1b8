//! What is measured of the cluster's DNS, with CoreDNS' names, and where it is read: port 9153, as CoreDNS has it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::exposition::Format;
use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::IntoResponse as _;
use axum::routing::get;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

/// Scrapers at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// A scraper that sends nothing for so long is hung up on.
const IDLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

/// What a query came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    proto: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    proto: &'static str,
    rcode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proto {
    proto: &'static str,
}

/// Counters and histograms of one name server. Clones count together.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    requests: Family<Request, Counter>,
    responses: Family<Answered, Counter>,
    durations: Family<Proto, Histogram, fn() -> Histogram>,
    forwarded: Counter,
}

fn latency() -> Histogram {
    // 62 us to 8 s.
    Histogram::new((0..18).map(|power| 6.25e-5 * f64::from(1u32 << power)))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            responses: Family::default(),
            durations: Family::new_with_constructor(latency as fn() -> Histogram),
            forwarded: Counter::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("coredns_dns_requests", "Queries by transport and type", self.requests.clone());
        registry.register("coredns_dns_responses", "Answers by transport and code", self.responses.clone());
        let help = "From a query to its answer";
        registry.register("coredns_dns_request_duration_seconds", help, self.durations.clone());
        let help = "Queries that other servers were asked";
        registry.register("coredns_forward_requests", help, self.forwarded.clone());
    }

    /// A query came.
    pub(super) fn asked(&self, transport: Transport, query: &Message) {
        let kind = query.queries.first().map_or("other", |question| kind(question.query_type()));
        self.requests.get_or_create(&Request { proto: proto(transport), r#type: kind }).inc();
    }

    /// It was answered.
    pub(super) fn answered(&self, transport: Transport, answer: &Message, since: Instant) {
        let rcode = code(answer.metadata.response_code);
        self.responses.get_or_create(&Answered { proto: proto(transport), rcode }).inc();
        let took = since.elapsed().as_secs_f64();
        self.durations.get_or_create(&Proto { proto: proto(transport) }).observe(took);
    }

    /// Another server was asked.
    pub(super) fn forwarded(&self) {
        self.forwarded.inc();
    }
}

fn proto(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

/// Types that clients of clusters ask for; a client could make endless many others.
fn kind(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::ANY => "ANY",
        RecordType::CNAME => "CNAME",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

fn code(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}

/// Serves `/metrics` until the process ends. The one before may still hold the port: it is taken over once that is gone.
pub(super) async fn serve(address: SocketAddr, registry: Registry) {
    let registry = Arc::new(registry);
    let exposition = move |headers: HeaderMap| {
        let registry = Arc::clone(&registry);
        async move {
            let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
            let mut text = String::new();
            // Writing to a string does not fail.
            let written = encode(&mut text, &registry);
            debug_assert!(written.is_ok());
            ([(CONTENT_TYPE, format.content_type())], format.render(text)).into_response()
        }
    };
    let router: Router = Router::new().route("/metrics", get(exposition));
    let listener = match listen(address).await {
        Ok(listener) => listener,
        Err(error) => return eprintln!("there will be no metrics of it at {address}: {error}"),
    };
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let router = router.clone();
                async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
            // A scraper that goes away ends its connection; there is nobody to tell.
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
            drop(permit);
        });
    }
}

/// Two name servers may listen while one follows the other; the older one ends soon.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_coredns() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let query = Message::query();
        metrics.asked(Transport::Udp, &query);
        metrics.answered(Transport::Udp, &super::super::answer::reply(&query, ResponseCode::NXDomain), Instant::now());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "coredns_dns_requests_total{proto=\"udp\",type=\"other\"} 1",
            "coredns_dns_responses_total{proto=\"udp\",rcode=\"NXDOMAIN\"} 1",
            "coredns_dns_request_duration_seconds_count{proto=\"udp\"} 1",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in {text}");
        }
    }
}
