//! Names that are not the cluster's: the servers that the host asks, with a small memory.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// A server that does not answer by then is passed over.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often all servers are tried.
const ROUNDS: usize = 2;
/// Questions that are under way at once; more wait.
const AT_ONCE: usize = 256;
/// Answers that are remembered, how long at most, and how long a "no" without a word about that.
const REMEMBERED: usize = 2048;
const REMEMBERED_SECONDS: u32 = 30;
const FAILURE_SECONDS: u32 = 5;
/// Answers longer than this are not remembered, so that the memory stays small.
const REMEMBERED_BYTES: usize = 4096;

type Key = (Query, bool);

struct Memory {
    answers: HashMap<Key, (Message, Instant)>,
    order: VecDeque<Key>,
}

/// The servers that the host asks.
pub(super) struct Upstream {
    servers: Vec<SocketAddr>,
    memory: Mutex<Memory>,
    at_once: Semaphore,
}

impl Upstream {
    /// `own` is the cluster's DNS, which may stand in the host's configuration: it would ask itself.
    pub(super) fn new(servers: &[String], own: Ipv4Addr) -> Upstream {
        let servers = servers.iter().filter_map(|server| server.parse::<IpAddr>().ok());
        let servers = servers.filter(|server| *server != IpAddr::V4(own)).map(|server| SocketAddr::new(server, 53));
        Upstream::at(servers.take(3).collect())
    }

    pub(super) fn at(servers: Vec<SocketAddr>) -> Upstream {
        let memory = Mutex::new(Memory { answers: HashMap::new(), order: VecDeque::new() });
        Upstream { servers, memory, at_once: Semaphore::new(AT_ONCE) }
    }

    /// Asks for a question, as a query with its flags and options has it.
    pub(super) async fn ask(&self, query: &Message, question: &Query) -> Result<Message, ResponseCode> {
        let key = (question.clone(), query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));
        if let Some(answer) = self.remembered(&key) {
            return Ok(answer);
        }
        let Ok(_permit) = self.at_once.acquire().await else { return Err(ResponseCode::ServFail) };
        let mut asked = Message::query();
        asked.metadata.recursion_desired = true;
        asked.metadata.checking_disabled = query.metadata.checking_disabled;
        asked.queries.push(question.clone());
        asked.edns.clone_from(&query.edns);
        let bytes = asked.to_vec().map_err(|_| ResponseCode::FormErr)?;
        for server in (0..ROUNDS).flat_map(|_| &self.servers) {
            let answer = tokio::time::timeout(PATIENCE, exchange(*server, &bytes, &asked)).await;
            match answer {
                Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => {
                    self.remember(key, &answer);
                    return Ok(answer);
                }
                // The next may know better.
                Ok(_) | Err(_) => {}
            }
        }
        Err(ResponseCode::ServFail)
    }

    fn remembered(&self, key: &Key) -> Option<Message> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = memory.answers.get(key)?;
        let left = until.checked_duration_since(Instant::now())?.as_secs();
        let left = u32::try_from(left).unwrap_or(0);
        let mut answer = answer.clone();
        let all = answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals);
        all.for_each(|record| record.ttl = record.ttl.min(left));
        Some(answer)
    }

    fn remember(&self, key: Key, answer: &Message) {
        let is_final = matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        let is_small = answer.to_vec().is_ok_and(|bytes| bytes.len() <= REMEMBERED_BYTES);
        if !is_final || !is_small || answer.metadata.truncation {
            return;
        }
        let shortest = answer.answers.iter().chain(&answer.authorities).map(|record| record.ttl).min();
        let seconds = shortest.unwrap_or(FAILURE_SECONDS).min(REMEMBERED_SECONDS);
        if seconds == 0 {
            return;
        }
        let until = Instant::now() + Duration::from_secs(seconds.into());
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.answers.insert(key.clone(), (answer.clone(), until)).is_none() {
            memory.order.push_back(key);
        }
        while memory.order.len() > REMEMBERED {
            if let Some(oldest) = memory.order.pop_front() {
                memory.answers.remove(&oldest);
            }
        }
    }
}

/// One question to one server: over UDP, and over TCP if the answer was cut.
async fn exchange(server: SocketAddr, bytes: &[u8], asked: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    // A port by chance for every question, and a connection: whoever forges answers must guess both it and the number.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(answer) = matching(&buffer[..length], asked) else { continue };
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        break;
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let answer = buffer.get_mut(..length).ok_or_else(|| io::Error::other("no room"))?;
    stream.read_exact(answer).await?;
    matching(answer, asked).ok_or_else(|| io::Error::other("the answer is another question's"))
}

fn matching(bytes: &[u8], asked: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_ours = answer.metadata.id == asked.metadata.id && answer.queries == asked.queries;
    is_ours.then_some(answer)
}
