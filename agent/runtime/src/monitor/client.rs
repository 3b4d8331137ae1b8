//! A blocking client, for tests and for people's tools; the agent uses the codec on its own sockets.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use super::protocol::{
    AttachRequest, Decoder, ErrorBody, Event, ExecRequest, FrameError, Hello, Message, Request, RequestBody,
    ResponseBody, VERSION, encode, stream,
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket.
    #[error("talk to the monitor")]
    Socket(#[from] io::Error),
    /// A frame.
    #[error("read from the monitor")]
    Frame(#[from] FrameError),
    /// The monitor refused.
    #[error("the monitor refused")]
    Refused(#[from] ErrorBody),
    /// The monitor closed the connection.
    #[error("the monitor closed the connection")]
    Closed,
}

/// A control connection.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    decoder: Decoder,
    next_id: u64,
    events: VecDeque<Event>,
}

fn receive(socket: &mut UnixStream, decoder: &mut Decoder) -> Result<Message, ClientError> {
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(message);
        }
        let mut buffer = [0u8; 8192];
        match socket.read(&mut buffer)? {
            0 => return Err(ClientError::Closed),
            length => decoder.push(&buffer[..length]),
        }
    }
}

fn hello(path: &Path, hello: &Hello) -> Result<(UnixStream, Decoder), ClientError> {
    let mut socket = UnixStream::connect(path)?;
    socket.write_all(&encode(hello))?;
    let mut decoder = Decoder::default();
    match receive(&mut socket, &mut decoder)? {
        Message::Response { result, .. } => result?,
        Message::Event(_) => return Err(ClientError::Closed),
    };
    Ok((socket, decoder))
}

impl Client {
    /// Connects for requests and events.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let (socket, decoder) = hello(path, &Hello::Control { version: VERSION, log_events: false })?;
        Ok(Client { socket, decoder, next_id: 1, events: VecDeque::new() })
    }

    /// Asks and waits for the answer; events meanwhile are kept.
    pub fn request(&mut self, body: RequestBody) -> Result<ResponseBody, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        self.socket.write_all(&encode(&Request { id, body }))?;
        loop {
            match receive(&mut self.socket, &mut self.decoder)? {
                Message::Response { id: answered, result } if answered == id => return Ok(result?),
                Message::Response { .. } => {}
                Message::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// The next event.
    pub fn event(&mut self) -> Result<Event, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        loop {
            if let Message::Event(event) = receive(&mut self.socket, &mut self.decoder)? {
                return Ok(event);
            }
        }
    }
}

/// An exec or attach connection.
#[derive(Debug)]
pub struct StreamClient {
    socket: UnixStream,
    decoder: stream::Decoder,
}

impl StreamClient {
    /// Runs a process.
    pub fn exec(path: &Path, request: ExecRequest) -> Result<StreamClient, ClientError> {
        StreamClient::open(path, &Hello::Exec(request))
    }

    /// Attaches to a container.
    pub fn attach(path: &Path, request: AttachRequest) -> Result<StreamClient, ClientError> {
        StreamClient::open(path, &Hello::Attach(request))
    }

    fn open(path: &Path, request: &Hello) -> Result<StreamClient, ClientError> {
        let (socket, decoder) = hello(path, request)?;
        Ok(StreamClient { socket, decoder: stream::Decoder::starting_with(decoder.into_rest()) })
    }

    /// Sends one frame.
    pub fn send(&mut self, channel: stream::Channel, payload: &[u8]) -> Result<(), ClientError> {
        Ok(self.socket.write_all(&stream::encode(channel, payload))?)
    }

    /// The next frame.
    pub fn receive(&mut self) -> Result<(stream::Channel, Vec<u8>), ClientError> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            let mut buffer = [0u8; 8192];
            match self.socket.read(&mut buffer)? {
                0 => return Err(ClientError::Closed),
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// Everything until the end: output, errors, the end.
    pub fn finish(mut self) -> Result<(Vec<u8>, Vec<u8>, stream::End), ClientError> {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        loop {
            match self.receive()? {
                (stream::Channel::Stdout, payload) => output.extend(payload),
                (stream::Channel::Stderr, payload) => errors.extend(payload),
                (stream::Channel::End, payload) => {
                    let end = serde_json::from_slice(&payload).map_err(FrameError::Parse)?;
                    return Ok((output, errors, end));
                }
                (stream::Channel::Stdin | stream::Channel::Resize | stream::Channel::CloseStdin, _) => {}
            }
        }
    }
}
