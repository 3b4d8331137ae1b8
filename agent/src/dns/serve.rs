//! Queries over UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::answer::{self, Outcome};
use super::metrics::{Metrics, Transport};
use super::upstream::Upstream;
use super::zone::Zone;

/// Queries that wait for another server at once; more are dropped, and asked again by their clients.
const WAITING: usize = 1024;
/// TCP connections at once.
const CONNECTIONS: usize = 128;
/// A client that sends nothing for so long is hung up on.
const IDLE: Duration = Duration::from_secs(10);
/// After an error of a socket.
const PAUSE: Duration = Duration::from_millis(50);
/// Queries are short; what is longer is no query.
const QUERY_BYTES: usize = 4096;

/// Where queries come in.
pub(super) struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

impl Sockets {
    /// Those that this process was started with.
    pub(super) fn inherited() -> io::Result<Sockets> {
        Sockets::new(std::io::stdin().as_fd().try_clone_to_owned()?, std::io::stdout().as_fd().try_clone_to_owned()?)
    }

    pub(super) fn new(udp: OwnedFd, tcp: OwnedFd) -> io::Result<Sockets> {
        let (udp, tcp) = (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp));
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Sockets { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
    }
}

struct Server {
    zone: Arc<RwLock<Zone>>,
    upstream: Arc<Upstream>,
    waiting: Semaphore,
    metrics: Metrics,
}

/// Answers until the process ends.
pub(super) async fn run(sockets: Sockets, zone: Arc<RwLock<Zone>>, upstream: Arc<Upstream>, metrics: Metrics) {
    let server = Arc::new(Server { zone, upstream, waiting: Semaphore::new(WAITING), metrics });
    tokio::join!(serve_udp(Arc::new(sockets.udp), Arc::clone(&server)), serve_tcp(sockets.tcp, server));
}

async fn serve_udp(socket: Arc<UdpSocket>, server: Arc<Server>) {
    let mut buffer = vec![0; QUERY_BYTES];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier client is gone, mostly.
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
        };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let began = Instant::now();
        server.metrics.asked(Transport::Udp, &query);
        let limit = answer::udp_limit(&query);
        let outcome = server.decide(&query);
        if let Outcome::Answer(answer) = outcome {
            server.metrics.answered(Transport::Udp, &answer, began);
            send(&socket, client, &answer, limit).await;
            continue;
        }
        let (socket, server) = (Arc::clone(&socket), Arc::clone(&server));
        tokio::spawn(async move {
            let Ok(_permit) = server.waiting.try_acquire() else { return };
            if let Some(answer) = server.complete(&query, outcome).await {
                server.metrics.answered(Transport::Udp, &answer, began);
                send(&socket, client, &answer, limit).await;
            }
        });
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, answer: &Message, limit: usize) {
    if let Some(bytes) = answer::bytes(answer, limit) {
        // A client that is gone asks again if it comes back.
        drop(socket.send_to(&bytes, client).await);
    }
}

async fn serve_tcp(listener: TcpListener, server: Arc<Server>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    // The client went away.
                    drop(converse(stream, &server).await);
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn converse(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    loop {
        let mut buffer = vec![];
        let reading = async {
            let length = usize::from(stream.read_u16().await?);
            buffer.resize(length.min(QUERY_BYTES), 0);
            stream.read_exact(&mut buffer).await?;
            io::Result::Ok(length <= QUERY_BYTES)
        };
        if !tokio::time::timeout(IDLE, reading).await?? {
            return Ok(());
        }
        let Ok(query) = Message::from_vec(&buffer) else { return Ok(()) };
        let began = Instant::now();
        server.metrics.asked(Transport::Tcp, &query);
        let outcome = server.decide(&query);
        let Some(answer) = server.complete(&query, outcome).await else { return Ok(()) };
        server.metrics.answered(Transport::Tcp, &answer, began);
        let bytes = answer::bytes(&answer, usize::from(u16::MAX)).unwrap_or_default();
        let length = u16::try_from(bytes.len()).unwrap_or(0);
        tokio::time::timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
}

impl Server {
    fn decide(&self, query: &Message) -> Outcome {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        answer::decide(&zone, query, u32::try_from(now).unwrap_or(u32::MAX))
    }

    /// What another server has to add.
    async fn complete(&self, query: &Message, outcome: Outcome) -> Option<Message> {
        match outcome {
            Outcome::Drop => None,
            Outcome::Answer(answer) => Some(*answer),
            Outcome::Ask => {
                self.metrics.forwarded();
                let question = query.queries.first()?;
                Some(match self.upstream.ask(query, question).await {
                    Ok(found) => {
                        let mut answer = answer::reply(query, found.metadata.response_code);
                        answer.metadata.authentic_data = found.metadata.authentic_data;
                        answer.answers = found.answers;
                        answer.authorities = found.authorities;
                        answer.additionals = found.additionals;
                        answer
                    }
                    Err(code) => answer::reply(query, code),
                })
            }
            Outcome::Follow(mut answer, target) => {
                let question = Query::query(target, query.queries.first()?.query_type());
                // An alias within the cluster needs no other server.
                let mut inner = Message::query();
                inner.queries.push(question.clone());
                match self.decide(&inner) {
                    Outcome::Answer(found) | Outcome::Follow(found, _) => answer.answers.extend(found.answers),
                    Outcome::Ask => match self.upstream.ask(query, &question).await {
                        Ok(found) => answer.answers.extend(found.answers),
                        Err(_) => answer.metadata.response_code = ResponseCode::ServFail,
                    },
                    Outcome::Drop => {}
                }
                Some(*answer)
            }
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
