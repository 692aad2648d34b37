//! The lab's cable: an AF_PACKET socket on a network interface, usually one end of a veth pair.
//!
//! Frames come in through a ring that the host's kernel shares with us (TPACKET_V2, one look at
//! memory per frame) and go out in batches, one system call each. The far end must have its offloads
//! off: a cable carries whole frames with right checksums. What the host does to frames on the
//! way is undone here: VLAN tags that it took out are put back, and short frames padded as the far
//! MAC would have done.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::counters::SharedCounters;
use crate::surroundings::Wire;
use crate::vfio_user::PollableWire;

/// Frames that wait to be sent in one system call.
const SEND_BATCH: usize = 64;
/// Frames that the host can hold for us: at 1 Gb/s of small frames more than 20 ms. Fewer where they are so long that the ring would have more than this.
const RING_FRAMES: usize = 8192;
const RING_BYTES: usize = 64 << 20;
/// Shortest frame without FCS (IEEE 802.3 §3.2.8).
const SHORTEST: usize = 60;

/// Why an interface can't be used as a cable.
#[derive(Debug)]
pub enum WireError {
    /// No interface has this name.
    NoInterface { name: String },
    /// The host refused a step; `step` says which.
    Refused { name: String, step: &'static str, error: io::Error },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::NoInterface { name } => {
                write!(f, "there is no network interface {name:?}; make it before the model starts")
            }
            WireError::Refused { name, step, error } => write!(
                f,
                "can't use {name:?} as a cable: {step}: {error} (it takes CAP_NET_RAW in the interface's namespace)"
            ),
        }
    }
}

impl std::error::Error for WireError {}

/// A cable on an interface.
pub struct PacketSocket {
    socket: OwnedFd,
    ring: *mut u8,
    slot: usize,
    frames: usize,
    next: usize,
    /// The slot that the last frame returned lies in; given back at the next call.
    lent: Option<usize>,
    /// A frame that had to be rebuilt.
    rebuilt: Vec<u8>,
    batch: Vec<u8>,
    lengths: Vec<usize>,
    counters: Option<SharedCounters>,
}

// SAFETY: [shared ring] `ring` is a mapping that belongs to this value alone.
unsafe impl Send for PacketSocket {}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: [system call] `value` is a plain C structure that lives across the call, with its own size.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl PacketSocket {
    /// Opens the interface `name` in this thread's network namespace, for frames of up to `longest` bytes.
    pub fn open(name: &str, longest: usize) -> Result<PacketSocket, WireError> {
        let refused = |step| {
            let name = name.to_owned();
            move |error| WireError::Refused { name, step, error }
        };
        let c_name = CString::new(name).map_err(|_| WireError::NoInterface { name: name.to_owned() })?;
        // SAFETY: [system call] a terminated string.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(WireError::NoInterface { name: name.to_owned() });
        }
        // Protocol 0: nothing arrives until the socket is bound to the one interface.
        // SAFETY: [system call] no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(refused("opening a packet socket")(io::Error::last_os_error()));
        }
        // SAFETY: [descriptor] just made, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V2)
            .map_err(refused("choosing the ring's version"))?;
        set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)
            .map_err(refused("ignoring what we send ourselves"))?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32).map_err(refused("passing by the queueing"))?;
        let slot = (longest + 128).next_power_of_two().max(2048);
        let block = slot.max(64 * 1024);
        let frames = RING_FRAMES.min(RING_BYTES / slot);
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (frames * slot / block) as u32,
            tp_frame_size: slot as u32,
            tp_frame_nr: frames as u32,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request).map_err(refused("making the ring"))?;
        // SAFETY: [mapping] a fresh mapping of exactly the ring that was asked for.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                frames * slot,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if ring == libc::MAP_FAILED {
            return Err(refused("mapping the ring")(io::Error::last_os_error()));
        }
        let wire = PacketSocket {
            socket,
            ring: ring.cast(),
            slot,
            frames,
            next: 0,
            lent: None,
            rebuilt: Vec::new(),
            batch: Vec::new(),
            lengths: Vec::new(),
            counters: None,
        };
        let membership = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&wire.socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
            .map_err(refused("receiving every address"))?;
        // SAFETY: [plain data] all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: [system call] the address lives across the call.
        let bound = unsafe {
            libc::bind(
                wire.socket.as_raw_fd(),
                ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(refused("binding to the interface")(io::Error::last_os_error()));
        }
        Ok(wire)
    }

    /// Counts frames that the host dropped before we saw them in `counters.wire_overrun`.
    pub fn count_overruns(mut self, counters: SharedCounters) -> Self {
        self.counters = Some(counters);
        self
    }

    fn header(&self, index: usize) -> *mut libc::tpacket2_hdr {
        // SAFETY: [shared ring] `index` is below `frames`, so the slot lies in the mapping.
        unsafe { self.ring.add(index * self.slot).cast() }
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: [shared ring] tp_status is the header's first, aligned word; kernel and we hand the slot over through it.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.header(index)).tp_status) }
    }

    /// Asks the host how many frames it dropped since the last time.
    fn collect_overruns(&self) {
        let Some(counters) = &self.counters else {
            return;
        };
        // SAFETY: [plain data] all-zero is a valid tpacket_stats.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: [system call] the structure and its length live across the call.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                ptr::from_mut(&mut statistics).cast(),
                &mut length,
            )
        };
        if outcome == 0 && statistics.tp_drops > 0 {
            log::warn!("the host dropped {} frames on their way to the model", statistics.tp_drops);
            counters.wire_overrun.add(u64::from(statistics.tp_drops));
        }
    }
}

/// Linux's `if_packet.h`; not in the libc crate for every target.
const PACKET_IGNORE_OUTGOING: i32 = 23;

impl Wire for PacketSocket {
    fn send(&mut self, frame: &[u8]) {
        self.batch.extend_from_slice(frame);
        self.lengths.push(frame.len());
        if self.lengths.len() == SEND_BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.lengths.is_empty() {
            return;
        }
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
        // SAFETY: [plain data] all-zero is a valid mmsghdr.
        let mut messages: [libc::mmsghdr; SEND_BATCH] = unsafe { std::mem::zeroed() };
        let mut at = 0;
        for (i, length) in self.lengths.iter().enumerate() {
            vectors[i] = libc::iovec { iov_base: self.batch[at..].as_mut_ptr().cast(), iov_len: *length };
            messages[i].msg_hdr.msg_iov = &mut vectors[i];
            messages[i].msg_hdr.msg_iovlen = 1;
            at += length;
        }
        let mut sent = 0;
        while sent < self.lengths.len() {
            let left = self.lengths.len() - sent;
            // SAFETY: [system call] `left` headers, each with one vector into `batch`, all alive across the call.
            let outcome =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages[sent..].as_mut_ptr(), left as u32, 0) };
            if outcome > 0 {
                sent += outcome as usize;
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                // The first of them can't go (interface down, too long for it): a cable loses it.
                log::debug!("a frame of {} bytes was lost: {error}", self.lengths[sent]);
                sent += 1;
            }
        }
        self.batch.clear();
        self.lengths.clear();
    }

    fn receive(&mut self) -> Option<&[u8]> {
        let lent = self.lent.take();
        if let Some(index) = lent {
            self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        let index = self.next;
        let status = self.status(index).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            // The end of a burst: if it was too much for the ring, its last frames tell nobody.
            if lent.is_some() {
                self.collect_overruns();
            }
            return None;
        }
        self.next = if index + 1 == self.frames { 0 } else { index + 1 };
        self.lent = Some(index);
        if status & libc::TP_STATUS_LOSING != 0 {
            self.collect_overruns();
        }
        let header = self.header(index);
        // SAFETY: [shared ring] the slot is ours since its status says so, until it is stored back.
        let (start, length, tci, tpid) = unsafe {
            let header = &*header;
            (usize::from(header.tp_mac), header.tp_snaplen as usize, header.tp_vlan_tci, header.tp_vlan_tpid)
        };
        let (start, length) = (start.min(self.slot), length.min(self.slot - start.min(self.slot)));
        // SAFETY: [shared ring] start and length lie inside the slot; the kernel doesn't write it meanwhile.
        let frame = unsafe { std::slice::from_raw_parts(header.cast::<u8>().add(start), length) };
        let tagged = status & libc::TP_STATUS_VLAN_VALID != 0;
        if !tagged && length >= SHORTEST {
            return Some(frame);
        }
        self.rebuilt.clear();
        if tagged && length >= 12 {
            let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { tpid } else { 0x8100 };
            self.rebuilt.extend_from_slice(&frame[..12]);
            self.rebuilt.extend_from_slice(&tpid.to_be_bytes());
            self.rebuilt.extend_from_slice(&tci.to_be_bytes());
            self.rebuilt.extend_from_slice(&frame[12..]);
        } else {
            self.rebuilt.extend_from_slice(frame);
        }
        let padded = self.rebuilt.len().max(SHORTEST);
        self.rebuilt.resize(padded, 0);
        Some(&self.rebuilt)
    }
}

impl PollableWire for PacketSocket {
    /// The interface went down, or away. Asking for the error clears it; if the interface comes back,
    /// frames do.
    fn outlives_error(&mut self) -> bool {
        match rustix::net::sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                log::warn!("the cable's interface reports: {error}");
                true
            }
            Err(_) => false,
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for PacketSocket {
    fn drop(&mut self) {
        self.flush();
        self.collect_overruns();
        // SAFETY: [mapping] made in `open` with this size; no slice of it outlives `&mut self`.
        unsafe { libc::munmap(self.ring.cast(), self.frames * self.slot) };
    }
}
