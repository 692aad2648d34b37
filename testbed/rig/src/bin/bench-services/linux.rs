//! The peer's side: a server that we did not write, on Linux, behind a TAP device in a network namespace of its own. The generator's frames are written into the device, and what
//! Linux sends is read from it; the server has CPU 0 for itself.
//!
//! What counts: the server's CPU time, user and system, in which Linux sends; and the cycles of the generator's writes, in which Linux receives: as far as the socket's queue, and waking
//! the server. The device has what an 82599 has for Linux: checksums both ways, and segmentation (TSO).

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Child, Command, Stdio},
};

use rig::{
    bench::{cpu_time, stamp},
    pin,
};

use crate::{
    client::{PREFIX, SERVER},
    link::Link,
};

const DEVICE: &str = "bench0";
/// linux/if_tun.h: an Ethernet device, without a header of the driver's own, with virtio's; and which offloads the reader of the device takes.
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54D0;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
/// linux/virtio_net.h: the header before each frame, and the flag with which Linux takes a sum for right.
const HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
/// Where TCP begins in a frame of IPv4 without options, and where its sum is in it.
const TCP: u16 = 34;
const TCP_SUM: u16 = 16;
/// The longest that Linux leaves to a card to be cut, with room to spare.
const LONGEST: usize = 70_000;

/// The machine lacks something; what is asked for can't be had here.
pub struct Lack(pub String);

pub struct Tap {
    device: File,
    server: Child,
    /// The server's clock.
    clock: libc::clockid_t,
    receiving: u64,
    buffer: Vec<u8>,
    written: Vec<u8>,
}

/// struct ifreq, as far as we use it: a name, then what is asked.
#[repr(C)]
struct Ask {
    name: [u8; 16],
    what: [u8; 24],
}

impl Ask {
    fn new(name: &str, what: &[u8]) -> Ask {
        let mut ask = Ask { name: [0; 16], what: [0; 24] };
        ask.name[..name.len()].copy_from_slice(name.as_bytes());
        ask.what[..what.len()].copy_from_slice(what);
        ask
    }

    fn of(&mut self, descriptor: &impl AsRawFd, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: each request made here reads or writes a struct ifreq, which this is, and nothing else.
        match unsafe { libc::ioctl(descriptor.as_raw_fd(), request, &raw mut *self) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Enters a network namespace with the device in it. The process must have one thread.
pub fn enter() -> Result<File, Lack> {
    let lack = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Lack(format!("{what}: {error}"))
    };
    namespace().map_err(lack("a network namespace of its own"))?;
    let device = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let device = device.map_err(lack("opening /dev/net/tun"))?;
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    Ask::new(DEVICE, &flags.to_ne_bytes()).of(&device, TUNSETIFF).map_err(lack("a TAP device"))?;
    // SAFETY: this request takes a number.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) };
    if done == -1 {
        return Err(lack("offloads of a TAP device")(io::Error::last_os_error()));
    }
    // Nobody of the segment speaks it, and Linux would ask. A system without it has no such file.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1");
    // SAFETY: plain numbers; the descriptor is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)) };
    let address = |octets: [u8; 4]| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[4..].copy_from_slice(&octets);
        bytes
    };
    let mask = (u32::MAX << (32 - PREFIX)).to_be_bytes();
    let up = (libc::IFF_UP as u16 | libc::IFF_RUNNING as u16).to_ne_bytes();
    let steps: [(&str, &[u8], libc::c_ulong); 4] = [
        (DEVICE, &address(SERVER.octets()), libc::SIOCSIFADDR),
        (DEVICE, &address(mask), libc::SIOCSIFNETMASK),
        (DEVICE, &up, libc::SIOCSIFFLAGS),
        ("lo", &up, libc::SIOCSIFFLAGS),
    ];
    for (name, what, request) in steps {
        Ask::new(name, what).of(&socket, request).map_err(lack("an address for a TAP device"))?;
    }
    Ok(device)
}

/// A network namespace; for who isn't root in a user namespace, where one is.
fn namespace() -> io::Result<()> {
    // SAFETY: asks and flags only.
    let (uid, gid, root) = unsafe { (libc::geteuid(), libc::getegid(), libc::geteuid() == 0) };
    let flags = libc::CLONE_NEWNET | if root { 0 } else { libc::CLONE_NEWUSER };
    // SAFETY: plain flags; the process has one thread.
    if unsafe { libc::unshare(flags) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if !root {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    Ok(())
}

impl Tap {
    /// Starts the server, on CPU 0.
    pub fn start(device: File, mut server: Command) -> Result<Tap, Lack> {
        server.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: between fork and exec the closure makes system calls; it allocates nothing and takes no lock.
        unsafe {
            server.pre_exec(|| {
                pin(0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let program = server.get_program().to_string_lossy().into_owned();
        let server = server.spawn().map_err(|error| Lack(format!("{program}: {error}")))?;
        let mut clock = 0;
        // SAFETY: a place for the answer.
        if unsafe { libc::clock_getcpuclockid(server.id() as libc::pid_t, &raw mut clock) } != 0 {
            return Err(Lack(format!("{program} has ended at once")));
        }
        Ok(Tap { device, server, clock, receiving: 0, buffer: vec![0; LONGEST], written: Vec::new() })
    }
}

impl Link for Tap {
    const POLLS: bool = false;

    /// One at a time: the server begins with the first.
    fn send(&mut self, frames: &mut VecDeque<Vec<u8>>) {
        let Some(frame) = frames.pop_front() else { return };
        self.written.clear();
        self.written.resize(HEADER, 0);
        if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&6) {
            self.written[0] = NEEDS_CHECKSUM;
            self.written[6..8].copy_from_slice(&TCP.to_ne_bytes());
            self.written[8..10].copy_from_slice(&TCP_SUM.to_ne_bytes());
        }
        self.written.extend_from_slice(&frame);
        let begun = stamp();
        // A frame that Linux doesn't take is lost, as on any wire, and TCP sends it again.
        let _ = self.device.write(&self.written);
        self.receiving += stamp() - begun;
    }

    fn receive(&mut self, into: &mut Vec<Vec<u8>>) {
        while let Ok(length) = self.device.read(&mut self.buffer) {
            into.extend(self.buffer.get(HEADER..length).map(<[u8]>::to_vec));
        }
    }

    fn busy(&self) -> u64 {
        cpu_time(self.clock)
    }

    fn receiving(&self) -> u64 {
        self.receiving
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
