//! A conversation with a pod's monitor: requests by number, events as they come.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agent_runtime::monitor::protocol::{
    self, ContainerState, Decoder, ErrorBody, Event, FrameError, Hello, Message, Request, RequestBody, ResponseBody,
    VERSION,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// Why a monitor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    #[error("talking to the pod's monitor")]
    Io(#[from] std::io::Error),
    #[error("the pod's monitor said something that cannot be read")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Refused(#[from] ErrorBody),
    #[error("the pod's monitor is gone")]
    Gone,
    #[error("the pod's monitor answered something else")]
    Confused,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<ResponseBody, ErrorBody>>>>>;

/// A control connection.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl Monitor {
    /// Connects. Container exits arrive on the second value until the monitor is gone.
    pub(crate) async fn connect(socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), MonitorError> {
        let (mut read, mut write) = UnixStream::connect(socket).await?.into_split();
        write.write_all(&protocol::encode(&Hello::Control { version: VERSION })).await?;
        let mut decoder = Decoder::default();
        match next_message(&mut read, &mut decoder).await? {
            Message::Response { result, .. } => drop(result?),
            Message::Event(_) => return Err(MonitorError::Confused),
        }
        let waiting = Waiting::default();
        let (requests, queue) = mpsc::unbounded_channel();
        let (events, received) = mpsc::unbounded_channel();
        tokio::spawn(send(write, queue));
        tokio::spawn(receive(read, decoder, Arc::clone(&waiting), events));
        Ok((Self { requests, waiting, next: Arc::new(AtomicU64::new(1)) }, received))
    }

    /// Asks for something and waits for the answer.
    pub(crate) async fn request(&self, body: RequestBody) -> Result<ResponseBody, MonitorError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, done);
        self.requests.send(protocol::encode(&Request { id, body })).map_err(|_| MonitorError::Gone)?;
        Ok(answer.await.map_err(|_| MonitorError::Gone)??)
    }

    /// Every container that the monitor knows.
    pub(crate) async fn list(&self) -> Result<Vec<ContainerState>, MonitorError> {
        match self.request(RequestBody::List).await? {
            ResponseBody::List { containers } => Ok(containers),
            _ => Err(MonitorError::Confused),
        }
    }
}

async fn next_message(read: &mut OwnedReadHalf, decoder: &mut Decoder) -> Result<Message, MonitorError> {
    let mut buffer = [0u8; 8192];
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(message);
        }
        match read.read(&mut buffer).await? {
            0 => return Err(MonitorError::Gone),
            count => decoder.push(&buffer[..count]),
        }
    }
}

async fn send(mut write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        // The reader sees the same end and tells everybody who waits.
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn receive(
    mut read: OwnedReadHalf,
    mut decoder: Decoder,
    waiting: Waiting,
    events: mpsc::UnboundedSender<Event>,
) {
    while let Ok(message) = next_message(&mut read, &mut decoder).await {
        match message {
            Message::Response { id, result } => {
                let done = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(done) = done {
                    // Who asked may have gone away meanwhile.
                    drop(done.send(result));
                }
            }
            Message::Event(event) => drop(events.send(event)),
        }
    }
    // Dropping the senders wakes whoever still waits; `events` closes for the worker.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
