//! Commands to a model that is being served: cable, faults, stop.
//!
//! The two ends are a datagram socket pair, so they work between threads and across a fork alike,
//! and the model waits for them together with everything else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use serde::{Deserialize, Serialize};

/// What can be asked of a model while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Plug the cable in (true) or pull it.
    Cable(bool),
    Fault(Fault),
    /// End serving, though the guest is still there.
    Stop,
}

/// A device that misbehaves on command. Each holds until the device is reset, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The queue keeps its enable bit and does nothing any more.
    HangReceive {
        queue: u8,
    },
    HangTransmit {
        queue: u8,
    },
    /// The next frame for the queue is written half; its descriptor is never written back, and the queue hangs.
    StopReceive {
        queue: u8,
    },
    /// The next frame of the queue is read half and not sent, and the queue hangs.
    StopTransmit {
        queue: u8,
    },
    /// The next `count` MSI-X messages are lost.
    LoseInterrupts {
        count: u32,
    },
    /// One message that nothing caused.
    SpuriousInterrupt {
        vector: u8,
    },
    /// The next `count` receive descriptors are used and never written back.
    SkipWriteBack {
        count: u32,
    },
    /// The next `count` transmit descriptors that ask for a status never get one, though their frames are sent.
    SkipReport {
        count: u32,
    },
    /// The next `count` transmit descriptors that ask for a status get everything but "done".
    CorruptReport {
        count: u32,
    },
    /// The next `count` receive write-backs carry a length of `length`, whatever the frame had.
    CorruptLength {
        count: u32,
        length: u16,
    },
    /// The next `count` received frames are written half, and reported whole.
    HalfWrite {
        count: u32,
    },
    /// The buffers of the next `count` received frames are written once more, at their very ends, when the driver has taken them.
    WriteLate {
        count: u32,
    },
    /// Every register reads as ones and writes do nothing, as after surprise removal; `false` puts the card back.
    AllOnes(bool),
}

/// The commanding end.
#[derive(Debug)]
pub struct Remote(UnixDatagram);

/// The model's end.
#[derive(Debug)]
pub struct Inbox(UnixDatagram);

/// A pair of connected ends.
pub fn channel() -> io::Result<(Remote, Inbox)> {
    let (remote, inbox) = UnixDatagram::pair()?;
    inbox.set_nonblocking(true)?;
    Ok((Remote(remote), Inbox(inbox)))
}

impl Remote {
    /// Sends a command. It fails once the model has gone.
    pub fn send(&self, control: Control) -> io::Result<()> {
        let bytes = postcard::to_stdvec(&control).map_err(io::Error::other)?;
        self.0.send(&bytes).map(drop)
    }

    pub fn try_clone(&self) -> io::Result<Remote> {
        self.0.try_clone().map(Remote)
    }
}

impl Inbox {
    /// The next command. `Ok(None)`: none at the moment.
    pub(crate) fn next(&self) -> io::Result<Option<Control>> {
        let mut bytes = [0; 64];
        match self.0.recv(&mut bytes) {
            Ok(length) => postcard::from_bytes(&bytes[..length]).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The commanding end has gone; that alone stops nobody.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands arrive whole and in order, and an empty inbox doesn't block.
    #[test]
    fn commands_arrive_in_order() {
        let (remote, inbox) = channel().unwrap();
        let sent = [
            Control::Cable(false),
            Control::Fault(Fault::CorruptLength { count: u32::MAX, length: 65535 }),
            Control::Stop,
        ];
        for control in sent {
            remote.send(control).unwrap();
        }
        for control in sent {
            assert_eq!(inbox.next().unwrap(), Some(control));
        }
        assert_eq!(inbox.next().unwrap(), None);
        drop(inbox);
        assert!(remote.send(Control::Stop).is_err());
    }
}
