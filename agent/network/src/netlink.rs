//! A conversation with the kernel over one netlink socket: requests out in one send, answers matched by number.
//!
//! It blocks, for microseconds: the kernel has answered by the time the send returns. A socket speaks to the network
//! namespace it was opened in, whatever its thread does later.

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{ReceiveTimeout, SndBufForce};
use nix::sys::time::{TimeVal, TimeValLike};

/// An answer is there when the send returns; one that is not by then is an error, not a thread that waits for ever.
const PATIENCE_SECONDS: i64 = 10;
/// What a socket takes in one send unless told otherwise is about 200 KiB.
const USUAL_BUFFER: usize = 128 * 1024;
/// How often a listing that changed underneath is asked for again.
const LISTINGS: usize = 8;

/// One request: a message and its flags beside the usual ones.
#[derive(Debug)]
pub(crate) struct Request<M> {
    message: M,
    flags: u16,
}

impl<M> Request<M> {
    /// A request that the kernel acknowledges.
    pub(crate) fn new(message: M, flags: u16) -> Request<M> {
        Request { message, flags: flags | NLM_F_REQUEST | NLM_F_ACK }
    }

    /// A request that the kernel answers only if it refuses it: thousands of acknowledgements would not fit the socket.
    pub(crate) fn quiet(message: M, flags: u16) -> Request<M> {
        Request { message, flags: flags | NLM_F_REQUEST }
    }

    /// Changes the message.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut M)) {
        change(&mut self.message);
    }

    /// The same with an acknowledgement.
    pub(crate) fn acknowledged(self) -> Request<M> {
        Request { flags: self.flags | NLM_F_ACK, ..self }
    }

    /// A request without an answer of its own, such as the brackets of a transaction.
    pub(crate) fn silent(message: M) -> Request<M> {
        Request { message, flags: NLM_F_REQUEST }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer<M> {
    /// Messages other than acknowledgements.
    pub(crate) replies: Vec<M>,
    /// One result for each request that was to be acknowledged, in their order.
    pub(crate) results: Vec<io::Result<()>>,
}

/// An open conversation.
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
    sent: usize,
}

impl Conversation {
    /// Opens one in the network namespace of the calling thread.
    pub(crate) fn open(protocol: isize) -> io::Result<Conversation> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Conversation { socket, sequence: 0, sent: 0 })
    }

    /// Bytes of the last requests.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.sent
    }

    /// Sends all requests at once and waits for every answer; a request that fails does not stop the ones behind it.
    pub(crate) fn ask<M>(&mut self, requests: Vec<Request<M>>) -> io::Result<Answer<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>>,
    {
        let mut buffer = Vec::new();
        let mut awaited = Vec::new();
        for Request { message, flags } in requests {
            self.sequence = self.sequence.wrapping_add(1);
            if flags & NLM_F_ACK != 0 {
                awaited.push((self.sequence, None));
            }
            append(&mut buffer, message, flags, self.sequence);
        }
        if buffer.len() > USUAL_BUFFER {
            // A transaction is sent whole or not at all; without the right to more this fails as the sending would.
            let _ = setsockopt(&self.socket, SndBufForce, &(buffer.len() * 2));
        }
        self.sent = buffer.len();
        self.send(&buffer)?;
        let mut replies = Vec::new();
        while awaited.iter().any(|(_, result)| result.is_none()) {
            self.receive(|number, payload| {
                let result = match payload {
                    NetlinkPayload::InnerMessage(reply) => {
                        replies.push(reply);
                        return Ok(());
                    }
                    NetlinkPayload::Error(error) => refusal(&error),
                    NetlinkPayload::Overrun(_) => return Err(lost()),
                    _ => return Ok(()),
                };
                match awaited.iter_mut().find(|(awaited, _)| *awaited == number) {
                    Some((_, slot)) => {
                        slot.get_or_insert(result);
                        Ok(())
                    }
                    // A refused bracket: the kernel answers nothing else of that transaction.
                    None => result,
                }
            })?;
        }
        let results = awaited.into_iter().filter_map(|(_, result)| result).collect();
        Ok(Answer { replies, results })
    }

    /// Asks for a listing, again if it changed meanwhile.
    pub(crate) fn list<M>(&mut self, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>> + Clone,
    {
        for _ in 0..LISTINGS {
            self.sequence = self.sequence.wrapping_add(1);
            let mut buffer = Vec::new();
            append(&mut buffer, message.clone(), NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
            self.send(&buffer)?;
            let mut replies = Vec::new();
            let (mut done, mut interrupted) = (false, false);
            while !done {
                interrupted |= self.receive(|_, payload| {
                    match payload {
                        NetlinkPayload::InnerMessage(reply) => replies.push(reply),
                        NetlinkPayload::Done(_) => done = true,
                        NetlinkPayload::Error(error) => {
                            refusal(&error)?;
                            done = true;
                        }
                        NetlinkPayload::Overrun(_) => return Err(lost()),
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            if !interrupted {
                return Ok(replies);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the listing changed each time it was read"))
    }

    fn send(&self, buffer: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(buffer, 0)?;
        if sent == buffer.len() { Ok(()) } else { Err(io::Error::other("netlink took a part of the request")) }
    }

    /// Receives one datagram and hands out its messages that answer this conversation's requests; tells whether one
    /// of them says that the listing changed underneath.
    fn receive<M>(&self, mut each: impl FnMut(u32, NetlinkPayload<M>) -> io::Result<()>) -> io::Result<bool>
    where
        M: NetlinkDeserializable,
    {
        let (datagram, sender) = self.socket.recv_from_full()?;
        if sender.port_number() != 0 {
            return Ok(false);
        }
        let mut rest = datagram.as_slice();
        let mut interrupted = false;
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length() as usize;
            let one = rest.get(..length).ok_or_else(|| io::Error::other("netlink message is cut off"))?;
            let message = NetlinkMessage::<M>::deserialize(one).map_err(io::Error::other)?;
            interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            each(message.header.sequence_number, message.payload)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(interrupted)
    }
}

/// An error with code zero is an acknowledgement.
fn refusal(error: &ErrorMessage) -> io::Result<()> {
    match error.code {
        None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
    }
}

fn lost() -> io::Error {
    io::Error::other("netlink answers were lost")
}

fn append<M>(buffer: &mut Vec<u8>, message: M, flags: u16, sequence: u32)
where
    M: NetlinkSerializable + Into<NetlinkPayload<M>>,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = buffer.len();
    let length = message.buffer_len();
    buffer.resize(start + length.next_multiple_of(4), 0);
    message.serialize(&mut buffer[start..start + length]);
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::none::ControlMessage;
    use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

    use super::*;

    fn named(name: &str) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        RouteNetlinkMessage::GetLink(message)
    }

    #[test]
    fn each_request_has_its_own_result() {
        let mut conversation = Conversation::open(NETLINK_ROUTE).unwrap();
        for _ in 0..3 {
            let requests = ["lo", "no-such-link", "lo"].map(|name| Request::new(named(name), 0));
            let answer = conversation.ask(requests.into()).unwrap();
            let codes: Vec<_> =
                answer.results.iter().map(|result| result.as_ref().err().and_then(io::Error::raw_os_error)).collect();
            assert_eq!(codes, [None, Some(nix::libc::ENODEV), None]);
            assert_eq!(answer.replies.len(), 2);
        }
        assert!(!conversation.list(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap().is_empty());
    }

    #[test]
    fn a_refused_transaction_does_not_wait_for_what_is_inside() {
        let control = |control| {
            // The subsystem of logging, which knows no transactions.
            NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 4), control)
        };
        let requests = vec![
            Request::silent(control(ControlMessage::BatchBegin)),
            Request::new(control(ControlMessage::Other { message_type: 99, attributes: Vec::new() }), 0),
            Request::silent(control(ControlMessage::BatchEnd)),
        ];
        let error = Conversation::open(NETLINK_NETFILTER).unwrap().ask(requests).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(nix::libc::EOPNOTSUPP | nix::libc::EPERM)), "{error}");
    }
}
