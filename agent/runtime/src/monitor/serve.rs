//! The loop: connections, output, exits.

use std::{collections::BTreeMap, os::fd::AsFd, os::unix::net::UnixStream};

use agent_sys::{Errno, signal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags},
    process::{WaitOptions, wait},
};

use super::{
    io::Got,
    pod::{Pod, Session, exit_code},
    protocol::{
        AttachRequest, Decoder, ErrorBody, ErrorKind, Event, FrameError, Hello, Message, Request, RequestBody,
        ResponseBody, VERSION, encode, stream,
    },
    setup::{MonitorError, Prepared, kernel},
    stream::{Channel, End, Size},
};
use crate::container::clock;

/// An attached client that lets more than this wait is dropped.
const BACKLOG_MAX: usize = 1 << 20;
/// While more than this waits for an exec's client, its process's output is not read.
const BACKLOG_PAUSE: usize = 64 << 10;
/// More clients than anybody needs.
const CONNECTIONS_MAX: usize = 256;
/// How much is read at once.
const CHUNK: usize = 16 << 10;
/// So many reads empty a pipe of the largest size users may ask for (1 MiB).
const PIPE_CHUNKS: usize = (1 << 20) / CHUNK;
/// How long answers may take to leave once everything is removed.
const FAREWELL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

#[derive(Debug)]
enum Role {
    /// Has not said yet.
    New(Decoder),
    Control(Decoder),
    Attach(stream::Decoder, AttachRequest),
    Exec(stream::Decoder, Box<Session>),
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    role: Role,
    out: Vec<u8>,
    /// It asked to be told of logs.
    log_events: bool,
    /// Close once `out` is empty.
    closing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Listener,
    Signals,
    Connection(u64),
    ExecOutput(u64, usize),
    ExecInput(u64),
    Output(String, usize),
    Input(String),
}

struct Server {
    listener: std::os::unix::net::UnixListener,
    signals: std::os::fd::OwnedFd,
    pod: Pod,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Everything is removed; end once the answers are out.
    over: bool,
    buffer: Box<[u8; CHUNK]>,
}

pub(super) fn run(prepared: Prepared) -> Result<(), MonitorError> {
    let mut server = Server {
        listener: prepared.listener,
        signals: prepared.signals,
        pod: Pod::new(prepared.config, prepared.reaper),
        connections: BTreeMap::new(),
        next: 1,
        over: false,
        buffer: Box::new([0; CHUNK]),
    };
    while !(server.over && server.connections.values().all(|connection| connection.out.is_empty())) {
        server.turn()?;
    }
    Ok(())
}

impl Server {
    fn turn(&mut self) -> Result<(), MonitorError> {
        let Some(ready) = self.wait()? else {
            self.connections.clear();
            return Ok(());
        };
        for (token, events) in ready {
            match token {
                Token::Listener => self.accept(),
                Token::Signals => self.take_signals()?,
                Token::Connection(key) => self.connection(key, events),
                Token::ExecOutput(key, index) => drop(self.exec_output(key, index)),
                Token::ExecInput(key) => {
                    if let Some(Connection { role: Role::Exec(_, session), .. }) = self.connections.get_mut(&key) {
                        session.io.flush();
                    }
                }
                Token::Output(id, index) => drop(self.output(&id, index)),
                Token::Input(id) => {
                    if let Some(slot) = self.pod.slots.get_mut(&id) {
                        slot.io.flush();
                    }
                }
            }
        }
        let gone = |connection: &Connection| connection.closing && connection.out.is_empty();
        let done: Vec<u64> = self.connections.iter().filter(|(_, c)| gone(c)).map(|(key, _)| *key).collect();
        done.into_iter().for_each(|key| self.close(key));
        Ok(())
    }

    fn wait(&self) -> Result<Option<Vec<(Token, PollFlags)>>, MonitorError> {
        let mut tokens = vec![Token::Signals];
        let mut events = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if self.connections.len() < CONNECTIONS_MAX && !self.over {
            tokens.push(Token::Listener);
            events.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for (key, connection) in &self.connections {
            let mut flags = PollFlags::empty();
            if self.takes_input(connection) {
                flags |= PollFlags::IN;
            }
            if !connection.out.is_empty() {
                flags |= PollFlags::OUT;
            }
            tokens.push(Token::Connection(*key));
            events.push(PollFd::new(&connection.socket, flags));
            if let Role::Exec(_, session) = &connection.role {
                for index in 0..2 {
                    if let Some(fd) = session.io.output(index).filter(|_| connection.out.len() < BACKLOG_PAUSE) {
                        tokens.push(Token::ExecOutput(*key, index));
                        events.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                    }
                }
                if let Some(fd) = session.io.waiting_input() {
                    tokens.push(Token::ExecInput(*key));
                    events.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
                }
            }
        }
        for (id, slot) in &self.pod.slots {
            for index in 0..2 {
                if let Some(fd) = slot.io.output(index) {
                    tokens.push(Token::Output(id.clone(), index));
                    events.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                }
            }
            if let Some(fd) = slot.io.waiting_input() {
                tokens.push(Token::Input(id.clone()));
                events.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
        }
        match poll(&mut events, self.over.then_some(&FAREWELL)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Some(Vec::new())),
            Err(error) => return Err(kernel("wait for events")(error)),
        }
        let flags = events.iter().map(PollFd::revents);
        Ok(Some(tokens.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect()))
    }

    fn takes_input(&self, connection: &Connection) -> bool {
        match &connection.role {
            Role::New(_) | Role::Control(_) => !connection.closing && connection.out.len() < BACKLOG_MAX,
            Role::Exec(_, session) => session.io.takes_input(),
            Role::Attach(_, request) => self.pod.slots.get(&request.container).is_none_or(|slot| slot.io.takes_input()),
        }
    }

    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let connection = Connection {
            socket,
            role: Role::New(Decoder::default()),
            out: Vec::new(),
            log_events: false,
            closing: false,
        };
        self.connections.insert(self.next, connection);
        self.next += 1;
    }

    /// A process whose client went away is killed; a container whose one client went away may lose its input.
    fn close(&mut self, key: u64) {
        let Some(connection) = self.connections.remove(&key) else { return };
        match connection.role {
            Role::Exec(_, session) if session.code.is_none() => self.pod.kill(&session),
            Role::Attach(_, request) if request.stdin => {
                if let Some(slot) = self.pod.slots.get_mut(&request.container).filter(|slot| slot.stdin_once) {
                    slot.io.end_input();
                }
            }
            Role::Exec(..) | Role::Attach(..) | Role::New(_) | Role::Control(_) => {}
        }
    }

    fn connection(&mut self, key: u64, events: PollFlags) {
        if events.contains(PollFlags::OUT) {
            self.flush(key);
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let Some(connection) = self.connections.get(&key) else { return };
        let length = match rustix::net::recv(&connection.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok((0, _)) | Err(_) => return self.close(key),
            Ok((length, _)) => length,
        };
        let bytes = self.buffer[..length].to_vec();
        if let Err(error) = self.take(key, &bytes) {
            eprintln!("{} close a connection: {}", clock(), crate::container::error::chain(&error));
            self.close(key);
        }
    }

    fn take(&mut self, key: u64, bytes: &[u8]) -> Result<(), FrameError> {
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        match &mut connection.role {
            Role::New(decoder) => {
                decoder.push(bytes);
                let Some(hello) = decoder.next::<Hello>()? else { return Ok(()) };
                let rest = std::mem::take(decoder).into_rest();
                self.greet(key, hello);
                if rest.is_empty() { Ok(()) } else { self.take(key, &rest) }
            }
            Role::Control(decoder) => {
                decoder.push(bytes);
                loop {
                    let Some(Connection { role: Role::Control(decoder), .. }) = self.connections.get_mut(&key) else {
                        return Ok(());
                    };
                    let Some(Request { id, body }) = decoder.next()? else { return Ok(()) };
                    self.over |= body == RequestBody::Shutdown;
                    let result = self.pod.handle(body);
                    self.send(key, &encode(&Message::Response { id, result }));
                }
            }
            Role::Attach(decoder, request) => {
                decoder.push(bytes);
                while let Some((channel, payload)) = decoder.next()? {
                    if let Some(slot) = self.pod.slots.get_mut(&request.container) {
                        input(&mut slot.io, channel, &payload, request.stdin);
                    }
                }
                Ok(())
            }
            Role::Exec(decoder, session) => {
                decoder.push(bytes);
                while let Some((channel, payload)) = decoder.next()? {
                    input(&mut session.io, channel, &payload, true);
                }
                Ok(())
            }
        }
    }

    fn greet(&mut self, key: u64, hello: Hello) {
        let log_events = matches!(hello, Hello::Control { log_events: true, .. });
        let result = match hello {
            Hello::Control { .. } => {
                let welcome = ResponseBody::Welcome { version: VERSION, pod_uid: self.pod.config.pod_uid.clone() };
                Ok((Role::Control(Decoder::default()), welcome))
            }
            Hello::Exec(request) => self
                .pod
                .exec(request)
                .map(|session| (Role::Exec(stream::Decoder::default(), Box::new(session)), ResponseBody::Done)),
            Hello::Attach(request) => match self.pod.slots.get(&request.container) {
                Some(slot) if slot.state.exit.is_none() => {
                    Ok((Role::Attach(stream::Decoder::default(), request), ResponseBody::Done))
                }
                found => {
                    let (kind, what) = match found {
                        Some(_) => (ErrorKind::Conflict, "is stopped"),
                        None => (ErrorKind::NotFound, "does not exist"),
                    };
                    Err(ErrorBody { kind, message: format!("container {:?} {what}", request.container) })
                }
            },
        };
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let result = match result {
            Ok((role, body)) => {
                connection.role = role;
                connection.log_events = log_events;
                Ok(body)
            }
            Err(error) => {
                connection.closing = true;
                Err(error)
            }
        };
        self.send(key, &encode(&Message::Response { id: 0, result }));
    }

    /// Queues bytes and sends what goes at once; who lets too much wait is cut off.
    fn send(&mut self, key: u64, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.out.len() + bytes.len() > 2 * BACKLOG_MAX {
            connection.out.clear();
            connection.closing = true;
            return;
        }
        connection.out.extend_from_slice(bytes);
        self.flush(key);
    }

    fn flush(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        while !connection.out.is_empty() {
            match rustix::net::send(&connection.socket, &connection.out, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(connection.out.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    connection.out.clear();
                    connection.closing = true;
                }
            }
        }
        // Give the memory of a burst back.
        connection.out = Vec::new();
    }

    fn exec_output(&mut self, key: u64, index: usize) -> Got {
        let Some(Connection { role: Role::Exec(_, session), .. }) = self.connections.get_mut(&key) else {
            return Got::End;
        };
        let got = session.io.read(index, &mut self.buffer[..]);
        if let Got::Bytes(length) = got {
            let channel = if index == 0 { Channel::Stdout } else { Channel::Stderr };
            let frame = stream::encode(channel, &self.buffer[..length]);
            self.send(key, &frame);
        }
        got
    }

    fn output(&mut self, id: &str, index: usize) -> Got {
        let got = self.pod.output(id, index, &mut self.buffer[..]);
        if let Got::Bytes(length) = got {
            let channel = if index == 0 { Channel::Stdout } else { Channel::Stderr };
            let wants = |connection: &Connection| match &connection.role {
                Role::Attach(_, request) => {
                    request.container == id && if index == 0 { request.stdout } else { request.stderr }
                }
                Role::New(_) | Role::Control(_) | Role::Exec(..) => false,
            };
            let keys: Vec<u64> = self.connections.iter().filter(|(_, c)| wants(c)).map(|(key, _)| *key).collect();
            if !keys.is_empty() {
                let frame = stream::encode(channel, &self.buffer[..length]);
                keys.into_iter().for_each(|key| self.send(key, &frame));
            }
            if self.pod.take_rotated(id) {
                let event = encode(&Message::Event(Event::LogRotated { container: id.to_owned() }));
                let told = self.connections.iter().filter(|(_, c)| c.log_events).map(|(key, _)| *key);
                told.collect::<Vec<_>>().into_iter().for_each(|key| self.send(key, &event));
            }
        }
        got
    }

    /// Reads what a pipe can hold and no more: somebody else may still be writing.
    fn drain(&mut self, mut read: impl FnMut(&mut Server) -> Got) {
        for _ in 0..PIPE_CHUNKS {
            if !matches!(read(self), Got::Bytes(_)) {
                return;
            }
        }
    }

    fn take_signals(&mut self) -> Result<(), MonitorError> {
        while let Some(number) = signal::next_signal(self.signals.as_fd()).map_err(kernel("read signals"))? {
            if number == libc::SIGTERM {
                self.pod.shutdown();
                self.over = true;
            }
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid.as_raw_nonzero().get(), status),
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(kernel("wait for children")(error)),
            }
        }
    }

    /// A child ended: a container's first process, an exec's, or an orphan, of which nobody asks.
    fn ended(&mut self, pid: i32, status: rustix::process::WaitStatus) {
        if let Some(id) = self.pod.container_of(pid) {
            // What it wrote last is in the pipes; those of its children that live on do not hold us up.
            for index in 0..2 {
                self.drain(|server| server.output(&id, index));
            }
            let Some(exit) = self.pod.ended(&id, status) else { return };
            let end = serde_json::to_vec(&End::Code(exit.code)).unwrap_or_default();
            let event = encode(&Message::Event(Event::Exited { container: id.clone(), exit }));
            let keys: Vec<u64> = self.connections.keys().copied().collect();
            for key in keys {
                match self.connections.get_mut(&key) {
                    Some(Connection { role: Role::Control(_), .. }) => self.send(key, &event),
                    Some(Connection { role: Role::Attach(_, request), closing, .. }) if request.container == id => {
                        *closing = true;
                        self.send(key, &stream::encode(Channel::End, &end));
                    }
                    _ => {}
                }
            }
            return;
        }
        let key = self.connections.iter().find_map(|(key, connection)| match &connection.role {
            Role::Exec(_, session) if session.code.is_none() && session.child.pid == pid => Some(*key),
            _ => None,
        });
        let Some(key) = key else { return };
        for index in 0..2 {
            // No more than fits a pipe is left; a client that is slow now gets it queued.
            self.drain(|server| server.exec_output(key, index));
        }
        if let Some(Connection { role: Role::Exec(_, session), closing, .. }) = self.connections.get_mut(&key) {
            let code = exit_code(status);
            session.code = Some(code);
            *closing = true;
            let end = serde_json::to_vec(&End::Code(code)).unwrap_or_default();
            self.send(key, &stream::encode(Channel::End, &end));
        }
    }
}

fn input(io: &mut super::io::Io, channel: Channel, payload: &[u8], allowed: bool) {
    match channel {
        Channel::Stdin if allowed => io.feed(payload),
        Channel::CloseStdin if allowed => io.end_input(),
        Channel::Resize => {
            if let Ok(Size { width, height }) = serde_json::from_slice(payload) {
                // Resizing what is no terminal means nothing, as with kubectl.
                let _ = io.resize(width, height);
            }
        }
        Channel::Stdin | Channel::CloseStdin | Channel::Stdout | Channel::Stderr | Channel::End => {}
    }
}
