//! Captures on an interface: a ring shared with the kernel (AF_PACKET, TPACKET_V3), which stamps each frame as it passes.
//!
//! Promises: frames come in order, cut to their first [`SNAP`] bytes; what the kernel had to drop for want of room is counted, and a run
//! with such drops says so instead of drawing conclusions.

use crate::clock::{Moment, WallClock};
use crate::error::Error;
use crate::frame::Frame;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Enough for Ethernet, IPv4 and TCP with all options, or a probe.
pub const SNAP: u32 = 136;

const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 64;
/// How long the kernel may sit on a block that isn't full. All blocks together outlast a reader that a busy host keeps waiting for seconds.
const RETIRE_MS: u32 = 40;

/// Which way a captured frame went through the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// What a capture is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Both,
    IncomingOnly,
}

pub struct Capture {
    socket: OwnedFd,
    ring: NonNull<u8>,
    next: usize,
    dropped: u64,
}

// SAFETY: the mapping belongs to this value alone, and nothing in it depends on the thread.
unsafe impl Send for Capture {}

impl Capture {
    /// Begins to capture on `interface` of the calling thread's namespace.
    pub fn open(interface: &str, scope: Scope) -> Result<Self, Error> {
        Self::try_open(interface, scope).map_err(Error::io(format!("capture on {interface}")))
    }

    fn try_open(interface: &str, scope: Scope) -> io::Result<Self> {
        // Protocol 0: nothing is captured before everything is set up.
        // SAFETY: plain system call; the result is checked.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: a fresh descriptor that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        set_option(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V3 as libc::c_int),
        )?;
        if scope == Scope::IncomingOnly {
            set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
        }
        // A filter program of one instruction, "accept SNAP bytes": what is cut off isn't copied.
        let mut accept = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: SNAP };
        let program = libc::sock_fprog { len: 1, filter: &raw mut accept };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2048,
            tp_frame_nr: (BLOCK * BLOCKS / 2048) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a fresh shared mapping of the ring that was just made; the result is checked.
        let ring = unsafe {
            libc::mmap(ptr::null_mut(), BLOCK * BLOCKS, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, raw, 0)
        };
        if ring == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let capture =
            Self { socket, ring: NonNull::new(ring.cast()).expect("a mapping isn't at 0"), next: 0, dropped: 0 };
        capture.bind(interface)?;
        Ok(capture)
    }

    fn bind(&self, interface: &str) -> io::Result<()> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        // SAFETY: an all-zero `sockaddr_ll` is valid: it holds integers only.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: address and length belong together, and outlive the call.
        check(unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(())
    }

    /// Hands every frame that the kernel has finished with to `see`, oldest first.
    pub fn drain(&mut self, mut see: impl FnMut(Moment, Way, Frame)) {
        let clock = WallClock::sample();
        // At most one round, so that a flood can't hold us here.
        for _ in 0..BLOCKS {
            // SAFETY: `next` is below BLOCKS, so the block lies in the mapping; blocks are aligned by the kernel.
            let block = unsafe { self.ring.add(self.next * BLOCK) };
            let header = block.cast::<libc::tpacket_block_desc>();
            // SAFETY: the status word is the one thing that both sides may touch at any time; it is an aligned u32 in the mapping.
            let status = unsafe { AtomicU32::from_ptr(&raw mut (*header.as_ptr()).hdr.bh1.block_status) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return;
            }
            // SAFETY: TP_STATUS_USER says that the block is ours until we give it back below.
            let whole = unsafe { std::slice::from_raw_parts(block.as_ptr(), BLOCK) };
            for_each_frame(whole, &clock, &mut see);
            fence(Ordering::SeqCst);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }

    /// Frames that the kernel dropped for want of room, since the beginning.
    pub fn dropped(&mut self) -> u64 {
        // SAFETY: an all-zero statistics record is valid: integers only.
        let mut statistics: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into the record, which outlives the call.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if done == 0 {
            // Reading clears the kernel's count.
            self.dropped += u64::from(statistics.tp_drops);
        }
        self.dropped
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `try_open`, which nothing refers to any more.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), BLOCK * BLOCKS) };
    }
}

/// Walks a block by the offsets in its headers; offsets that lead out of the block end the walk.
fn for_each_frame(block: &[u8], clock: &WallClock, see: &mut impl FnMut(Moment, Way, Frame)) {
    let Some(description) = read::<libc::tpacket_block_desc>(block, 0) else { return };
    // SAFETY: TPACKET_V3 blocks always carry the first and only variant.
    let header = unsafe { description.hdr.bh1 };
    let mut at = header.offset_to_first_pkt as usize;
    for _ in 0..header.num_pkts {
        let Some(frame) = read::<libc::tpacket3_hdr>(block, at) else { return };
        let link = read::<libc::sockaddr_ll>(block, at + align(size_of::<libc::tpacket3_hdr>()));
        let start = at + usize::from(frame.tp_mac);
        let (Some(link), Some(bytes)) = (link, block.get(start..start + frame.tp_snaplen as usize)) else { return };
        let way = if link.sll_pkttype == libc::PACKET_OUTGOING { Way::Out } else { Way::In };
        let untagged = frame.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
        see(clock.moment(frame.tp_sec, frame.tp_nsec), way, Frame::parse(bytes, untagged));
        at += frame.tp_next_offset as usize;
    }
}

/// Structures of `linux/if_packet.h`: integers only, so that any bytes are a valid value.
trait Plain: Copy {}
impl Plain for libc::tpacket_block_desc {}
impl Plain for libc::tpacket3_hdr {}
impl Plain for libc::sockaddr_ll {}

fn read<T: Plain>(block: &[u8], at: usize) -> Option<T> {
    let bytes = block.get(at..at.checked_add(size_of::<T>())?)?;
    // SAFETY: the slice has the size of `T`, any bytes are a `T` (see `Plain`), and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// TPACKET_ALIGN (linux/if_packet.h).
fn align(size: usize) -> usize {
    size.next_multiple_of(16)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set_option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a value that outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })?;
    Ok(())
}
