//! Frames of exec and attach connections: one byte for the channel, a little-endian length, the payload.

use serde::{Deserialize, Serialize};

use super::protocol::{FRAME_MAX, FrameError};

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Input, to the process.
    Stdin,
    /// Output.
    Stdout,
    /// Errors.
    Stderr,
    /// The end: an [`End`] as JSON.
    End,
    /// A [`Size`] as JSON, to the terminal.
    Resize,
    /// No more input.
    CloseStdin,
}

impl Channel {
    fn number(self) -> u8 {
        match self {
            Channel::Stdin => 0,
            Channel::Stdout => 1,
            Channel::Stderr => 2,
            Channel::End => 3,
            Channel::Resize => 4,
            Channel::CloseStdin => 255,
        }
    }

    fn of(number: u8) -> Result<Channel, FrameError> {
        Ok(match number {
            0 => Channel::Stdin,
            1 => Channel::Stdout,
            2 => Channel::Stderr,
            3 => Channel::End,
            4 => Channel::Resize,
            255 => Channel::CloseStdin,
            other => return Err(FrameError::Channel(other)),
        })
    }
}

/// How a stream ends: `{"code": 0}` or `{"error": "..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The process ended.
    Code(i32),
    /// It could not go on.
    Error(String),
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Appends one frame.
pub fn encode_into(out: &mut Vec<u8>, channel: Channel, payload: &[u8]) {
    for piece in payload.chunks(FRAME_MAX).chain(payload.is_empty().then_some(&[][..])) {
        out.push(channel.number());
        out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// One frame.
pub fn encode(channel: Channel, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(5 + payload.len());
    encode_into(&mut frame, channel, payload);
    frame
}

/// Cuts bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// One that begins with bytes read already.
    pub fn starting_with(buffer: Vec<u8>) -> Decoder {
        Decoder { buffer }
    }

    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub fn next(&mut self) -> Result<Option<(Channel, Vec<u8>)>, FrameError> {
        let Some([channel, length @ ..]) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        let channel = Channel::of(*channel)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = self.buffer.get(5..5 + length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.buffer.drain(..5 + length);
        Ok(Some((channel, payload)))
    }
}
