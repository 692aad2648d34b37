//! Switches an interface's offloads off: the model must see frames as a wire carries them, with their checksums in them and none longer than
//! the MTU.

use crate::error::Error;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The settings of linux/ethtool.h that are switched off, in the order that the kernel wants: what builds on checksums before checksums.
const OFF: [(u32, &str); 6] = [
    (0x1f, "TSO"),
    (0x24, "GSO"),
    (0x2c, "GRO"),
    (0x19, "scatter-gather"),
    (0x17, "TX checksum"),
    (0x15, "RX checksum"),
];

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Switches all offloads of `interface`, in the calling thread's namespace, off.
pub fn switch_off(interface: &str) -> Result<(), Error> {
    // SAFETY: plain system call; the descriptor is checked and then owned.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(Error::io("socket for ethtool")(io::Error::last_os_error()));
    }
    // SAFETY: `raw` is a fresh descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    for (command, what) in OFF {
        let mut value = Value { command, data: 0 };
        // SAFETY: an all-zero `ifreq` is valid: it holds integers, arrays and a pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads and writes the `ethtool_value` that `ifr_data` points at; both live until the call returns.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if done < 0 {
            let error = io::Error::last_os_error();
            // A setting that this kind of interface doesn't have can't be on.
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(Error::io(format!("{interface}: switching {what} off"))(error));
            }
        }
    }
    Ok(())
}
