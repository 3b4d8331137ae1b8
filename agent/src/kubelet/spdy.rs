//! SPDY/3.1 framing as far as port forwarding needs it (chromium.org, "SPDY Protocol - Draft 3.1").
//! Flow control is left to the transport: the clients that still speak this (moby/spdystream) neither send nor
//! await window updates for data.

use std::collections::HashMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The dictionary of header blocks, 1423 bytes of the specification (draft 3.1, 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("spdy-dictionary.bin");
const VERSION: u16 = 3;
/// The largest control frame that is taken.
const CONTROL_LIMIT: usize = 64 << 10;
/// The largest header block that is unpacked.
const HEADERS_LIMIT: usize = 64 << 10;
/// The most headers of one stream.
const HEADER_COUNT: usize = 64;
/// Data is passed on in pieces of this size, whatever a frame's length.
const PIECE: usize = 32 << 10;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    /// The connection broke.
    #[error("reading a SPDY frame")]
    Read(#[source] std::io::Error),
    /// The client does not keep to the protocol.
    #[error("a SPDY frame: {0}")]
    Malformed(&'static str),
    /// A header block cannot be unpacked.
    #[error("unpacking SPDY headers")]
    Unpack(#[source] flate2::DecompressError),
}

/// What a client sent.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// A new stream with its headers.
    Open { stream: u32, headers: HashMap<String, String> },
    /// A piece of data; `last` with the end of the client's side.
    Data { stream: u32, data: Vec<u8>, last: bool },
    /// The stream is given up.
    Reset { stream: u32 },
    /// To be sent back as it is.
    Ping { id: u32 },
    /// The client opens no more streams.
    GoAway,
}

/// Reads frames.
pub(super) struct Reader<R> {
    from: R,
    inflate: Decompress,
    /// The stream, the bytes that its data frame still has, and whether it is its last.
    data: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, inflate: Decompress::new(true), data: None }
    }

    /// The next frame; `None` at the end of the connection. Frames without a meaning here are left out.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some((stream, rest, last)) = self.data.take() {
                let mut data = vec![0; rest.min(PIECE)];
                self.from.read_exact(&mut data).await.map_err(SpdyError::Read)?;
                let rest = rest - data.len();
                if rest > 0 {
                    self.data = Some((stream, rest, last));
                }
                return Ok(Some(Frame::Data { stream, data, last: last && rest == 0 }));
            }
            let mut head = [0u8; 8];
            match self.from.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(SpdyError::Read(error)),
            }
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if first >> 31 == 0 {
                if length == 0 {
                    return Ok(Some(Frame::Data { stream: first, data: Vec::new(), last: head[4] & FIN != 0 }));
                }
                self.data = Some((first, length, head[4] & FIN != 0));
                continue;
            }
            if (first >> 16) as u16 & 0x7fff != VERSION {
                return Err(SpdyError::Malformed("expected version 3"));
            }
            if length > CONTROL_LIMIT {
                return Err(SpdyError::Malformed("a control frame of more than 64 KiB"));
            }
            let mut body = vec![0; length];
            self.from.read_exact(&mut body).await.map_err(SpdyError::Read)?;
            if let Some(frame) = self.control(first as u16, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, body: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let number = |at: usize| {
            let bytes: Option<[u8; 4]> = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or(SpdyError::Malformed("too short"))
        };
        match kind {
            SYN_STREAM => {
                let block = body.get(10..).ok_or(SpdyError::Malformed("too short"))?;
                let headers = headers(&self.unpack(block)?)?;
                Ok(Some(Frame::Open { stream: number(0)? & 0x7fff_ffff, headers }))
            }
            RST_STREAM => Ok(Some(Frame::Reset { stream: number(0)? & 0x7fff_ffff })),
            PING => Ok(Some(Frame::Ping { id: number(0)? })),
            GOAWAY => Ok(Some(Frame::GoAway)),
            // A block of headers goes through the common state of compression even where nobody reads it.
            SYN_REPLY | 8 => {
                let block = body.get(4..).ok_or(SpdyError::Malformed("too short"))?;
                self.unpack(block).map(|_| None)
            }
            _ => Ok(None),
        }
    }

    fn unpack(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut text = Vec::with_capacity(1024);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), text.len());
            let status = match self.inflate.decompress_vec(block, &mut text, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(SpdyError::Unpack)?;
                    Status::Ok
                }
                status => status.map_err(SpdyError::Unpack)?,
            };
            let taken = (self.inflate.total_in() - before_in) as usize;
            block = block.get(taken..).unwrap_or_default();
            if status == Status::StreamEnd {
                return Ok(text);
            }
            let is_full = text.len() == text.capacity();
            if block.is_empty() && !is_full {
                return Ok(text);
            }
            if taken == 0 && text.len() == before_out && !is_full && status != Status::Ok {
                return Err(SpdyError::Malformed("headers that end too early"));
            }
            if text.len() >= HEADERS_LIMIT {
                return Err(SpdyError::Malformed("headers of more than 64 KiB"));
            }
            if is_full {
                text.reserve(text.len().max(1024));
            }
        }
    }
}

/// A block of names and values, lengths before each.
fn headers(mut block: &[u8]) -> Result<HashMap<String, String>, SpdyError> {
    fn number(block: &mut &[u8]) -> Result<usize, SpdyError> {
        let (bytes, rest) = block.split_first_chunk::<4>().ok_or(SpdyError::Malformed("headers are cut off"))?;
        *block = rest;
        Ok(u32::from_be_bytes(*bytes) as usize)
    }
    fn text(block: &mut &[u8]) -> Result<String, SpdyError> {
        let length = number(block)?;
        let (bytes, rest) = block.split_at_checked(length).ok_or(SpdyError::Malformed("headers are cut off"))?;
        *block = rest;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
    let count = number(&mut block)?;
    if count > HEADER_COUNT {
        return Err(SpdyError::Malformed("more than 64 headers"));
    }
    (0..count).map(|_| Ok((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?))).collect()
}

/// Makes frames. Replies carry headers, whose compression has a state of its own.
pub(super) struct Writer {
    deflate: Compress,
}

impl Writer {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).map_err(|_| SpdyError::Malformed("the dictionary is not taken"))?;
        Ok(Self { deflate })
    }

    /// The answer to a new stream, without headers.
    pub(super) fn reply(&mut self, stream: u32) -> Result<Vec<u8>, SpdyError> {
        let mut body = stream.to_be_bytes().to_vec();
        body.reserve(128);
        self.deflate
            .compress_vec(&0u32.to_be_bytes(), &mut body, FlushCompress::Sync)
            .map_err(|_| SpdyError::Malformed("headers cannot be packed"))?;
        Ok(control(SYN_REPLY, &body))
    }
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend((body.len() as u32 & 0x00ff_ffff).to_be_bytes());
    frame.extend(body);
    frame
}

/// A frame of data, at most 16 MiB; `last` ends our side of the stream.
pub(super) fn data(stream: u32, data: &[u8], last: bool) -> Vec<u8> {
    let mut frame = (stream & 0x7fff_ffff).to_be_bytes().to_vec();
    frame.extend((data.len() as u32 & 0x00ff_ffff | u32::from(last) << 24).to_be_bytes());
    frame.extend(data);
    frame
}

/// The answer to a ping.
pub(super) fn pong(id: u32) -> Vec<u8> {
    control(PING, &id.to_be_bytes())
}

/// Gives a stream up (status 3, REFUSED_STREAM).
pub(super) fn refuse(stream: u32) -> Vec<u8> {
    control(RST_STREAM, &[stream.to_be_bytes(), 3u32.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(deflate: &mut Compress, stream: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut block = (pairs.len() as u32).to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut body = [stream.to_be_bytes().to_vec(), vec![0; 6]].concat();
        body.reserve(8192);
        deflate.compress_vec(&block, &mut body, FlushCompress::Sync).unwrap();
        control(SYN_STREAM, &body)
    }

    #[tokio::test]
    async fn streams_open_with_headers_and_carry_data() {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).unwrap();
        let mut bytes = open(&mut deflate, 1, &[("streamtype", "error"), ("port", "80")]);
        bytes.extend(open(&mut deflate, 3, &[("Streamtype", "data"), ("long", &"x".repeat(5000))]));
        bytes.extend(data(3, &vec![7; PIECE + 1], true));
        bytes.extend(pong(9));
        let mut reader = Reader::new(bytes.as_slice());
        let Some(Frame::Open { stream: 1, headers }) = reader.next().await.unwrap() else { panic!("a stream") };
        assert_eq!(headers["streamtype"], "error");
        let Some(Frame::Open { stream: 3, headers }) = reader.next().await.unwrap() else { panic!("a stream") };
        assert_eq!((headers["streamtype"].as_str(), headers["long"].len()), ("data", 5000));
        let Some(Frame::Data { stream: 3, data, last: false }) = reader.next().await.unwrap() else { panic!("data") };
        assert_eq!(data.len(), PIECE);
        let one = Frame::Data { stream: 3, data: vec![7], last: true };
        assert_eq!(reader.next().await.unwrap(), Some(one));
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Ping { id: 9 }));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_hostile_client_is_turned_away() {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).unwrap();
        let bomb = open(&mut deflate, 1, &[("x", &"y".repeat(1 << 20))]);
        let long = [&control(SYN_STREAM, &[])[..5], &[0xff, 0xff, 0xff]].concat();
        let short = control(SYN_STREAM, &[0; 4]);
        let junk = control(SYN_STREAM, &[0xab; 64]);
        for bytes in [bomb, long, short, junk, vec![0x80, 2, 0, 1, 0, 0, 0, 0]] {
            let mut reader = Reader::new(bytes.as_slice());
            assert!(reader.next().await.is_err(), "{:?}", &bytes[..8]);
        }
        assert!(headers(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(headers(&1000u32.to_be_bytes()).is_err());
    }

    #[test]
    fn replies_unpack_with_the_same_dictionary() {
        // The checksum by which a peer names the dictionary in its zlib header.
        assert_eq!(Compress::new(Compression::default(), true).set_dictionary(DICTIONARY).unwrap(), 0xe3c6_a7c2);
        let mut writer = Writer::new().unwrap();
        let (first, second) = (writer.reply(1).unwrap(), writer.reply(3).unwrap());
        let mut reader = Reader::new(tokio::io::empty());
        for frame in [first, second] {
            assert_eq!(reader.unpack(&frame[12..]).unwrap(), 0u32.to_be_bytes());
        }
    }
}
