//! A conversation with a pod's monitor: requests by number, events as they come.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_runtime::monitor::protocol::{
    self, ContainerState, Decoder, ErrorBody, Event, FrameError, Hello, Message, Request, RequestBody, ResponseBody,
    VERSION,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
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
    #[error("the pod's monitor does not answer")]
    Late,
    #[error("the pod's monitor answered something else")]
    Confused,
}

/// A monitor that takes longer than this to greet hangs.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

type Answers = HashMap<u64, oneshot::Sender<Result<ResponseBody, ErrorBody>>>;
/// Who waits for an answer; `None` once no answer can come any more.
type Waiting = Arc<Mutex<Option<Answers>>>;

/// A control connection.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    serial: u64,
    requests: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl Monitor {
    /// Connects. Container exits arrive on the second value until the monitor is gone.
    pub(crate) async fn connect(socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), MonitorError> {
        tokio::time::timeout(HELLO_TIMEOUT, Self::greet(socket)).await.unwrap_or(Err(MonitorError::Late))
    }

    async fn greet(socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), MonitorError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (mut read, mut write) = UnixStream::connect(socket).await?.into_split();
        write.write_all(&protocol::encode(&Hello::Control { version: VERSION, log_events: true })).await?;
        let mut decoder = Decoder::default();
        match next_message(&mut read, &mut decoder).await? {
            Message::Response { result, .. } => drop(result?),
            Message::Event(_) => return Err(MonitorError::Confused),
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (requests, queue) = mpsc::unbounded_channel();
        let (events, received) = mpsc::unbounded_channel();
        tokio::spawn(converse(read, decoder, write, queue, Arc::clone(&waiting), events));
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok((Self { serial, requests, waiting, next: Arc::new(AtomicU64::new(1)) }, received))
    }

    /// Tells this conversation from every other of this process.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Asks for something and waits for the answer.
    pub(crate) async fn request(&self, body: RequestBody) -> Result<ResponseBody, MonitorError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        match &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(answers) => drop(answers.insert(id, done)),
            None => return Err(MonitorError::Gone),
        }
        self.requests.send(protocol::encode(&Request { id, body })).map_err(|_| MonitorError::Gone)?;
        Ok(answer.await.map_err(|_| MonitorError::Gone)??)
    }

    /// Asks, and waits no longer than this.
    pub(crate) async fn request_within(
        &self,
        limit: Duration,
        body: RequestBody,
    ) -> Result<ResponseBody, MonitorError> {
        tokio::time::timeout(limit, self.request(body)).await.unwrap_or(Err(MonitorError::Late))
    }

    /// Every container that the monitor knows.
    pub(crate) async fn list(&self) -> Result<Vec<ContainerState>, MonitorError> {
        match self.request_within(HELLO_TIMEOUT, RequestBody::List).await? {
            ResponseBody::List { containers } => Ok(containers),
            _ => Err(MonitorError::Confused),
        }
    }
}

/// Opens a connection of another kind. Answers it with the bytes that came after the welcome.
pub(crate) async fn open(socket: &Path, hello: &Hello) -> Result<(UnixStream, Vec<u8>), MonitorError> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&protocol::encode(hello)).await?;
    let mut decoder = Decoder::default();
    match next_message(&mut stream, &mut decoder).await? {
        Message::Response { result, .. } => drop(result?),
        Message::Event(_) => return Err(MonitorError::Confused),
    }
    Ok((stream, decoder.into_rest()))
}

/// The process of the container with this bundle. A further one is the same with other arguments.
pub(crate) async fn process(bundle: &Path) -> Result<oci_spec::runtime::Process, String> {
    #[derive(serde::Deserialize)]
    struct Config {
        process: oci_spec::runtime::Process,
    }
    let bytes = tokio::fs::read(bundle.join("config.json")).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map(|config: Config| config.process).map_err(|error| error.to_string())
}

async fn next_message(read: &mut (impl AsyncRead + Unpin), decoder: &mut Decoder) -> Result<Message, MonitorError> {
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

/// Both directions, until either ends; then nobody waits any more.
async fn converse(
    read: OwnedReadHalf,
    decoder: Decoder,
    write: OwnedWriteHalf,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Waiting,
    events: mpsc::UnboundedSender<Event>,
) {
    tokio::select! {
        () = send(write, queue) => {}
        () = receive(read, decoder, &waiting, &events) => {}
    }
    // Dropping the senders wakes whoever still waits; `events` closes for the worker.
    drop(waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
}

async fn send(mut write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn receive(
    mut read: OwnedReadHalf,
    mut decoder: Decoder,
    waiting: &Waiting,
    events: &mpsc::UnboundedSender<Event>,
) {
    while let Ok(message) = next_message(&mut read, &mut decoder).await {
        match message {
            Message::Response { id, result } => {
                let mut answers = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                // Who asked may have gone away meanwhile.
                if let Some(done) = answers.as_mut().and_then(|answers| answers.remove(&id)) {
                    drop(done.send(result));
                }
            }
            Message::Event(event) => drop(events.send(event)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Greets, answers nothing, and closes when told.
    async fn mute(socket: &Path, close: oneshot::Receiver<()>) {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let welcome = ResponseBody::Welcome { version: VERSION, pod_uid: "u".into() };
            stream.write_all(&protocol::encode(&Message::Response { id: 0, result: Ok(welcome) })).await.unwrap();
            drop(close.await);
        });
    }

    #[tokio::test]
    async fn nobody_waits_for_a_monitor_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("m.sock");
        let (close, closed) = oneshot::channel();
        mute(&socket, closed).await;
        let (monitor, mut events) = Monitor::connect(&socket).await.unwrap();
        let late = monitor.request_within(Duration::from_millis(20), RequestBody::List).await;
        assert!(matches!(late, Err(MonitorError::Late)));
        let asked = tokio::spawn({
            let monitor = monitor.clone();
            async move { monitor.request(RequestBody::List).await }
        });
        close.send(()).unwrap();
        assert!(matches!(asked.await.unwrap(), Err(MonitorError::Gone)));
        assert!(events.recv().await.is_none());
        let after = tokio::time::timeout(Duration::from_secs(2), monitor.request(RequestBody::List)).await;
        assert!(matches!(after, Ok(Err(MonitorError::Gone))), "{after:?}");
    }
}
