//! The stand-in's end of the wire: whole frames through AF_PACKET.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub struct Wire {
    socket: OwnedFd,
    interface: String,
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

const ETHTOOL_GLINK: u32 = 0x0a;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

impl Wire {
    pub fn open(interface: &str) -> io::Result<Self> {
        // SAFETY: plain system call; the result is checked.
        let raw = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        })?;
        // SAFETY: a fresh descriptor that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let one: libc::c_int = 1;
        // SAFETY: the kernel reads one integer, which outlives the call.
        check(unsafe {
            libc::setsockopt(raw, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, (&raw const one).cast(), 4)
        })?;
        let room: libc::c_int = 4 << 20;
        // SAFETY: as above. As much as the host allows; what doesn't fit is counted as missed.
        unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const room).cast(), 4) };
        // SAFETY: an all-zero `sockaddr_ll` is valid: integers only.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: a string that ends in a zero and outlives the call.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as libc::c_int;
        // SAFETY: address and length belong together and outlive the call.
        check(unsafe {
            libc::bind(raw, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        })?;
        Ok(Self { socket, interface: interface.to_owned() })
    }

    pub fn receive(&self, into: &mut [u8]) -> Option<usize> {
        // SAFETY: the kernel writes at most the buffer's length into the buffer.
        let length = unsafe { libc::recv(self.socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), 0) };
        usize::try_from(length).ok()
    }

    pub fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: the kernel reads the frame's bytes.
        unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) >= 0 }
    }

    /// Whether there is somebody at the other end of the cable.
    pub fn plugged_in(&self) -> bool {
        let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
        // SAFETY: an all-zero `ifreq` is valid: it holds integers, arrays and a pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(self.interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL writes the `ethtool_value` that `ifr_data` points at; both live until the call returns.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        done >= 0 && value.data != 0
    }

    /// Frames that found no room in the socket since the last time.
    pub fn missed(&self) -> u64 {
        // SAFETY: an all-zero statistics record is valid.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into the record.
        unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        u64::from(statistics.tp_drops)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
