//! A cable inside one process: a socket pair that carries one frame per message.
//!
//! Its far end may be anything that speaks Ethernet: a TCP/IP stack in a thread, a test. A full cable
//! loses frames, as a real one does; it never blocks the model.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair, sockopt};

use crate::surroundings::Wire;
use crate::vfio_user::PollableWire;

/// Bytes under way in each direction.
const CAPACITY: usize = 4 << 20;

/// One end of the cable.
pub struct FrameSocket {
    socket: OwnedFd,
    frame: Box<[u8; 65536]>,
}

/// Both ends of a new cable.
pub fn pair() -> io::Result<(FrameSocket, FrameSocket)> {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for socket in [&a, &b] {
        sockopt::set_socket_send_buffer_size(socket, CAPACITY)?;
    }
    let end = |socket| FrameSocket { socket, frame: Box::new([0; 65536]) };
    Ok((end(a), end(b)))
}

impl FrameSocket {
    /// Whether the other end has gone; only meaningful once `receive` has nothing.
    pub fn closed(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.socket, &mut [0u8; 1], flags), Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET))
    }
}

impl Wire for FrameSocket {
    fn send(&mut self, frame: &[u8]) {
        if let Err(error) = rustix::net::send(&self.socket, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            log::debug!("a frame of {} bytes was lost: {error}", frame.len());
        }
    }

    fn receive(&mut self) -> Option<&[u8]> {
        match rustix::net::recv(&self.socket, &mut self.frame[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) if length > 0 => Some(&self.frame[..length]),
            _ => None,
        }
    }
}

impl PollableWire for FrameSocket {
    fn outlives_error(&mut self) -> bool {
        !self.closed()
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames keep their boundaries, a full cable loses frames rather than blocking, and an end that goes is noticed.
    #[test]
    fn carries_frames() {
        let (mut a, mut b) = pair().unwrap();
        a.send(&[1; 60]);
        a.send(&[2; 1514]);
        assert_eq!(b.receive(), Some(&[1; 60][..]));
        assert_eq!(b.receive(), Some(&[2; 1514][..]));
        assert_eq!(b.receive(), None);
        for _ in 0..20_000 {
            a.send(&[3; 1514]);
        }
        assert!(!b.closed());
        drop(a);
        while b.receive().is_some() {}
        assert!(b.closed());
    }
}
