//! The messages between a starting container and its parent: one packet each, on a pair of sockets.
//!
//! ```text
//!   child                         parent
//!   Succeeded + pidfd ->          goes on with this process instead, which the child made in its user namespace
//!                     <-          Go
//!   MapsWanted        ->          writes oom_score_adj, uid_map, gid_map
//!                     <-          Go
//!   HooksWanted       ->          runs prestart and createRuntime hooks
//!                     <-          Go
//!   Terminal + fd     ->          keeps the master side
//!   Created           ->
//!                     <-          Go            (start; or a connection to the start socket)
//!   end of file = the program runs, or Failed at any moment
//! ```

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use agent_sys::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use super::step::{self, ENCODED_MAX, Failure, StepError};

/// What the child says.
#[derive(Debug)]
pub enum FromChild {
    /// It made the process that goes on in its place.
    Succeeded {
        /// Its id in the parent's PID namespace.
        pid: i32,
        /// The process.
        pidfd: OwnedFd,
    },
    /// It waits for its id maps.
    MapsWanted,
    /// It waits for the hooks that run in the runtime's namespaces.
    HooksWanted,
    /// The master side of its terminal.
    Terminal(OwnedFd),
    /// Everything is ready but the program.
    Created,
    /// A step failed; the child is gone.
    Failed(StepError),
    /// The channel closed: the program runs, or the child died.
    Closed,
}

const SUCCEEDED: u8 = b'S';
const MAPS_WANTED: u8 = b'M';
const HOOKS_WANTED: u8 = b'H';
const TERMINAL: u8 = b'T';
const CREATED: u8 = b'C';
const FAILED: u8 = b'F';
const GO: u8 = b'G';

/// A connected pair: the parent's end, the child's end.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// The parent's side: the next message, blocking.
pub fn receive(channel: BorrowedFd<'_>) -> Result<FromChild, Errno> {
    let mut buffer = [0u8; 1 + ENCODED_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(channel, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The child died with a message of ours unread.
            Err(Errno::CONNRESET) => return Ok(FromChild::Closed),
            Err(error) => return Err(error),
            Ok(message) => break message.bytes,
        }
    };
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let body = &buffer[..received];
    Ok(match (body.first(), descriptor) {
        (None, _) => FromChild::Closed,
        (Some(&MAPS_WANTED), _) => FromChild::MapsWanted,
        (Some(&HOOKS_WANTED), _) => FromChild::HooksWanted,
        (Some(&CREATED), _) => FromChild::Created,
        (Some(&TERMINAL), Some(fd)) => FromChild::Terminal(fd),
        (Some(&SUCCEEDED), Some(pidfd)) => {
            let pid = body[1..].first_chunk().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Errno::PROTO)?;
            FromChild::Succeeded { pid, pidfd }
        }
        (Some(&FAILED), _) => FromChild::Failed(step::decode(&body[1..])),
        (Some(_), _) => return Err(Errno::PROTO),
    })
}

/// The parent's side: lets the child go on.
pub fn go(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::send(channel, &[GO], SendFlags::NOSIGNAL).map(|_| ())
}

/// The child's side of the channel.
#[derive(Debug)]
pub(super) struct ChildEnd<'a>(pub(super) BorrowedFd<'a>);

impl ChildEnd<'_> {
    pub(super) fn succeeded(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut packet = [SUCCEEDED; 5];
        packet[1..].copy_from_slice(&pid.to_le_bytes());
        send_descriptor(self.0, &packet, pidfd)
    }

    pub(super) fn maps(&self) -> Result<(), Errno> {
        self.say(MAPS_WANTED)?;
        self.await_go()
    }

    pub(super) fn hooks(&self) -> Result<(), Errno> {
        self.say(HOOKS_WANTED)?;
        self.await_go()
    }

    pub(super) fn created(&self) -> Result<(), Errno> {
        self.say(CREATED)
    }

    pub(super) fn terminal(&self, master: BorrowedFd<'_>) -> Result<(), Errno> {
        send_descriptor(self.0, &[TERMINAL], master)
    }

    pub(super) fn fail(&self, failure: &Failure<'_>) {
        let mut encoded = [0u8; ENCODED_MAX];
        let len = step::encode(failure, &mut encoded);
        let mut packet = [0u8; 1 + ENCODED_MAX];
        packet[0] = FAILED;
        packet[1..=len].copy_from_slice(&encoded[..len]);
        // Nobody is left to tell when this fails; the parent sees the closed channel and the exit code.
        let _ = rustix::net::send(self.0, &packet[..=len], SendFlags::NOSIGNAL);
    }

    /// Blocks for the word; end of file (the parent died) is an error.
    pub(super) fn await_go(&self) -> Result<(), Errno> {
        let mut byte = [0u8; 1];
        loop {
            match rustix::net::recv(self.0, &mut byte, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok((1, _)) if byte[0] == GO => return Ok(()),
                Ok(_) => return Err(Errno::PIPE),
            }
        }
    }

    fn say(&self, tag: u8) -> Result<(), Errno> {
        rustix::net::send(self.0, &[tag], SendFlags::NOSIGNAL).map(|_| ())
    }
}

/// The descriptor that comes with the next bytes, which say nothing; `None`: none did.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut buffer = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// Sends bytes with one descriptor.
pub fn send_descriptor(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
