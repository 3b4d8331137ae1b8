//! The monitor's ends of a process's streams: pipes or one terminal, never blocking.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_sys::Errno;
use rustix::{
    fs::OFlags,
    pipe::{PipeFlags, pipe_with},
};

use crate::plan::Streams;

/// Input is taken from clients while less than this waits for the process.
const INPUT_MAX: usize = 64 << 10;

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// None now.
    Nothing,
    /// None ever again; the stream is closed.
    End,
}

/// The streams of one process.
#[derive(Debug, Default)]
pub(super) struct Io {
    stdin: Option<OwnedFd>,
    input: Vec<u8>,
    input_ends: bool,
    outputs: [Option<OwnedFd>; 2],
    terminal: bool,
}

fn unblock(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
}

impl Io {
    /// Pipes: our ends, and the process's. Without `stdin` it reads /dev/null.
    pub(super) fn pipes(stdin: bool) -> Result<(Io, Streams), Errno> {
        let (their_input, our_input) = if stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            unblock(write.as_fd())?;
            (read, Some(write))
        } else {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            (rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty())?, None)
        };
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
        unblock(out_read.as_fd())?;
        unblock(err_read.as_fd())?;
        let io = Io { stdin: our_input, outputs: [Some(out_read), Some(err_read)], ..Io::default() };
        Ok((io, Streams { descriptors: [Some(their_input), Some(out_write), Some(err_write)] }))
    }

    /// The master side of a terminal; without `stdin` nobody types.
    pub(super) fn terminal(master: OwnedFd, stdin: bool) -> Result<Io, Errno> {
        unblock(master.as_fd())?;
        let stdin = if stdin { Some(rustix::io::fcntl_dupfd_cloexec(&master, 3)?) } else { None };
        Ok(Io { stdin, outputs: [Some(master), None], terminal: true, ..Io::default() })
    }

    /// An output to poll, 0 or 1.
    pub(super) fn output(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.outputs[index].as_ref().map(AsFd::as_fd)
    }

    /// The input to poll for room, while something waits for it.
    pub(super) fn waiting_input(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| !self.input.is_empty()).map(AsFd::as_fd)
    }

    /// Whether clients may send more.
    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < INPUT_MAX
    }

    pub(super) fn read(&mut self, index: usize, buffer: &mut [u8]) -> Got {
        let Some(output) = &self.outputs[index] else { return Got::End };
        match rustix::io::read(output, buffer) {
            Ok(length) if length > 0 => Got::Bytes(length),
            Err(Errno::AGAIN | Errno::INTR) => Got::Nothing,
            // The end; a terminal reports it as EIO once nobody holds the other side.
            Ok(_) | Err(_) => {
                self.outputs[index] = None;
                Got::End
            }
        }
    }

    /// Takes input for the process; after its end, or without one wanted, it goes nowhere.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.stdin.is_some() && !self.input_ends {
            self.input.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// No more input after what waits.
    pub(super) fn end_input(&mut self) {
        self.input_ends = true;
        self.flush();
    }

    /// Gives the process what it takes.
    pub(super) fn flush(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        while !self.input.is_empty() {
            match rustix::io::write(stdin, &self.input) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.input.clear();
                    self.stdin = None;
                    return;
                }
            }
        }
        self.input = Vec::new();
        if self.input_ends
            && let Some(stdin) = self.stdin.take()
            && self.terminal
        {
            // A terminal has no end of file but the character for it.
            let _ = rustix::io::write(&stdin, &[4]);
        }
    }

    pub(super) fn resize(&self, width: u16, height: u16) -> Result<(), Errno> {
        let Some(master) = self.outputs[0].as_ref().filter(|_| self.terminal) else { return Err(Errno::NOTTY) };
        let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(master, size)
    }
}
