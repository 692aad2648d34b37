//! The vfio-user messages that a PCI device without migration needs (vfio-user 0.1, "Message types").
//!
//! Parsing never trusts a length: a malformed message becomes an error reply, not a panic.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};

pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_INFO: u16 = 4;
pub const GET_REGION_INFO: u16 = 5;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const RESET: u16 = 13;

const HEADER: usize = 16;
const FLAG_REPLY: u32 = 1;
const FLAG_NO_REPLY: u32 = 1 << 4;
const FLAG_ERROR: u32 = 1 << 5;
/// The longest message that a client may send: what it may transfer at once, and a header.
const LONGEST: usize = 64 * 1024;
/// Descriptors that come with one message; announced to the client in the version reply.
pub const MOST_FDS: usize = 16;

/// A command from the client, still in the receive buffer.
#[derive(Debug)]
pub struct Command<'a> {
    pub id: u16,
    pub command: u16,
    pub no_reply: bool,
    pub body: &'a [u8],
}

/// Reads little-endian fields off the front of a message's body.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_le_bytes(*bytes))
    }

    pub fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// The client's byte stream, cut into messages.
pub struct Stream<S> {
    socket: S,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Descriptors, and the end of the bytes that they came with: they belong to the message that
    /// those bytes end in, since a sender passes each message and its descriptors in one go.
    fds: Vec<(usize, Vec<OwnedFd>)>,
    reply: Vec<u8>,
}

/// What reading from the client came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    Bytes,
    /// Nothing at the moment.
    Nothing,
    /// The client closed the connection.
    Closed,
}

impl<S: AsFd> Stream<S> {
    pub fn new(socket: S) -> Self {
        Stream {
            socket,
            buffer: vec![0; 2 * LONGEST].into_boxed_slice(),
            start: 0,
            end: 0,
            fds: Vec::new(),
            reply: Vec::new(),
        }
    }

    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Reads what the client has sent, in one go.
    pub fn fill(&mut self) -> io::Result<Filled> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            for (at, _) in &mut self.fds {
                *at -= self.start;
            }
            self.start = 0;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut self.buffer[self.end..])];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Filled::Nothing),
            Err(rustix::io::Errno::CONNRESET) => return Ok(Filled::Closed),
            Err(error) => return Err(error.into()),
        };
        if received.bytes == 0 {
            return Ok(Filled::Closed);
        }
        self.end += received.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.push((self.end, fds.collect()));
            }
        }
        Ok(Filled::Bytes)
    }

    /// The next whole message and its descriptors; `None` until more has been read.
    /// A length that can't be is an error: the stream is out of step for good.
    pub fn next(&mut self) -> io::Result<Option<(Command<'_>, Vec<OwnedFd>)>> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let mut fields = Fields(header);
        let (Some(id), Some(command), Some(size), Some(flags)) =
            (fields.u16(), fields.u16(), fields.u32(), fields.u32())
        else {
            return Ok(None);
        };
        let size = size as usize;
        if !(HEADER..=LONGEST).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a vfio-user message of {size} bytes")));
        }
        if bytes.len() < size {
            return Ok(None);
        }
        let body = self.start + HEADER..self.start + size;
        self.start += size;
        let mut fds = Vec::new();
        self.fds.retain_mut(|(at, with)| {
            let ours = *at <= self.start;
            if ours {
                fds.append(with);
            }
            !ours
        });
        let command = Command { id, command, no_reply: flags & FLAG_NO_REPLY != 0, body: &self.buffer[body] };
        Ok(Some((command, fds)))
    }

    /// Answers a command with a body made of `parts`.
    pub fn answer(&mut self, id: u16, command: u16, parts: &[&[u8]]) -> io::Result<()> {
        self.send(id, command, FLAG_REPLY, 0, parts)
    }

    /// Answers a command with an errno.
    pub fn refuse(&mut self, id: u16, command: u16, errno: rustix::io::Errno) -> io::Result<()> {
        self.send(id, command, FLAG_REPLY | FLAG_ERROR, errno.raw_os_error() as u32, &[])
    }

    fn send(&mut self, id: u16, command: u16, flags: u32, error: u32, parts: &[&[u8]]) -> io::Result<()> {
        let size = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
        self.reply.clear();
        self.reply.extend_from_slice(&id.to_le_bytes());
        self.reply.extend_from_slice(&command.to_le_bytes());
        self.reply.extend_from_slice(&(size as u32).to_le_bytes());
        self.reply.extend_from_slice(&flags.to_le_bytes());
        self.reply.extend_from_slice(&error.to_le_bytes());
        for part in parts {
            self.reply.extend_from_slice(part);
        }
        let mut left = &self.reply[..];
        while !left.is_empty() {
            match rustix::net::send(&self.socket, left, SendFlags::NOSIGNAL) {
                Ok(sent) => left = &left[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&command.to_le_bytes());
        bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes
    }

    /// Posted writes come many at once, and a message may end in the next read.
    #[test]
    fn messages_are_cut_from_the_stream() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(server);
        let mut bytes = message(1, REGION_WRITE, FLAG_NO_REPLY, &[7; 20]);
        bytes.extend(message(2, REGION_READ, 0, &[8; 16]));
        client.write_all(&bytes[..40]).unwrap();
        assert_eq!(stream.fill().unwrap(), Filled::Bytes);
        let (first, _) = stream.next().unwrap().unwrap();
        assert_eq!((first.id, first.command, first.no_reply, first.body), (1, REGION_WRITE, true, &[7; 20][..]));
        assert!(stream.next().unwrap().is_none());
        client.write_all(&bytes[40..]).unwrap();
        assert_eq!(stream.fill().unwrap(), Filled::Bytes);
        let (second, _) = stream.next().unwrap().unwrap();
        assert_eq!((second.id, second.no_reply, second.body), (2, false, &[8; 16][..]));
        stream.answer(2, REGION_READ, &[&[1, 2], &[3]]).unwrap();
        let mut reply = [0; HEADER + 3];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply[HEADER..], [1, 2, 3]);
        drop(client);
        assert_eq!(stream.fill().unwrap(), Filled::Closed);
    }

    /// A length outside all reason ends the connection instead of eating memory.
    #[test]
    fn absurd_lengths_are_refused() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(server);
        let mut bytes = message(1, REGION_READ, 0, &[]);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        client.write_all(&bytes).unwrap();
        stream.fill().unwrap();
        assert!(stream.next().is_err());
    }
}
