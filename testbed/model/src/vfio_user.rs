//! Front-end for QEMU: a vfio-user server with one NIC behind it.
//!
//! QEMU's `vfio-user-pci` device connects to the socket, maps the guest's RAM, passes eventfds for
//! MSI-X and sends every register access here. One thread waits for socket, wire and commands
//! together and sleeps when none has anything, so the model costs nothing while the guest is idle.
//!
//! The protocol's handful of messages is spoken by `message`, not by the crate `vfio_user`: that one blocks
//! on its socket alone, can't be stopped, panics on a malformed greeting and after an error is out of step.

mod guest_memory;
mod message;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::config::NicConfig;
use crate::control::Inbox;
use crate::counters::SharedCounters;
use crate::nic::Nic;
use crate::pci::{BAR0_SIZE, BAR4_SIZE, CONFIG_SIZE};
use crate::registers::VECTORS;
use crate::surroundings::{Interrupts, Wire};
use guest_memory::GuestMemory;
use message::{Fields, Filled, Stream};

/// A wire that can be waited for.
pub trait PollableWire: Wire + AsFd {
    /// Called when waiting reports an error instead of frames. False: the wire is dead, and waiting for it
    /// again would only spin.
    fn outlives_error(&mut self) -> bool;
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// QEMU closed the connection, or died.
    GuestGone,
    /// By [`Control::Stop`].
    Stopped,
}

/// Why serving failed.
#[derive(Debug)]
pub enum ServeError {
    /// The socket can't be made at this path.
    Bind { path: PathBuf, error: io::Error },
    /// The connection broke in the middle of a message, or carried nonsense.
    Connection(io::Error),
    /// Waiting or the command channel failed.
    Wait(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Bind { path, error } => {
                write!(f, "can't listen on {}: {error}; is another model serving there?", path.display())
            }
            ServeError::Connection(error) => write!(f, "the connection to QEMU failed: {error}"),
            ServeError::Wait(error) => {
                write!(f, "waiting for QEMU, the wire and commands failed: {error}")
            }
        }
    }
}

impl std::error::Error for ServeError {}

/// MSI-X messages as writes to eventfds.
struct EventFds(Vec<Option<OwnedFd>>);

impl Interrupts for EventFds {
    fn raise(&mut self, vector: u16) {
        let Some(Some(fd)) = self.0.get(usize::from(vector)) else {
            log::debug!("vector {vector} has no eventfd: masked or not set up");
            return;
        };
        // It can only fail when the count is full, and then the message is pending anyway.
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }
}

/// A socket that QEMU can connect to. It exists from [`Server::bind`] on and goes with the value.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds `socket` and serves one guest; see [`Server`] for doing it in two steps.
pub fn serve<W: PollableWire>(socket: &Path, config: NicConfig, wire: W, control: Inbox) -> Result<Ended, ServeError> {
    Server::bind(socket)?.serve(config, wire, control, SharedCounters::new())
}

/// QEMU's arguments for RAM that a device of another process can map, in bytes. The machine's own `-machine` stands beside them.
pub fn memory_arguments(bytes: u64) -> [String; 6] {
    let ram = format!("memory-backend-memfd,id=ram,share=on,size={bytes}B");
    ["-m", &format!("{bytes}B"), "-object", &ram, "-machine", "memory-backend=ram"].map(str::to_owned)
}

/// QEMU's arguments for the card that is served at `socket`, behind a port of its own.
pub fn card_arguments(socket: &Path) -> [String; 4] {
    // A path's characters are escaped in Rust as in JSON, but for ones that no folder of ours has.
    let path = format!("{:?}", socket.display().to_string());
    let card = format!(r#"{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":{path}}}}}"#);
    ["-device", "pcie-root-port,id=rp0,chassis=1,slot=1", "-device", &card].map(str::to_owned)
}

impl Server {
    pub fn bind(path: &Path) -> Result<Server, ServeError> {
        let listener = UnixListener::bind(path).map_err(|error| ServeError::Bind { path: path.to_owned(), error })?;
        Ok(Server { listener, path: path.to_owned() })
    }

    /// Waits for QEMU and serves it until it goes or a command says stop.
    pub fn serve<W: PollableWire>(
        self,
        config: NicConfig,
        wire: W,
        control: Inbox,
        counters: SharedCounters,
    ) -> Result<Ended, ServeError> {
        let mut nic = Nic::with_counters(
            config,
            GuestMemory::default(),
            wire,
            EventFds((0..VECTORS).map(|_| None).collect()),
            counters,
        );
        let mut wire_lives = true;
        let socket = loop {
            let ready = wait(&self.listener, &mut nic, &control, &mut wire_lives, None)?;
            if ready.command && obey(&mut nic, &control)? {
                return Ok(Ended::Stopped);
            }
            // What arrives before the guest finds no receiver, and is counted so.
            if ready.wire {
                nic.process();
            }
            if ready.guest {
                break self.listener.accept().map_err(ServeError::Wait)?.0;
            }
        };
        let mut connection = Connection { stream: Stream::new(socket), nic };
        let began = Instant::now();
        loop {
            let now = began.elapsed().as_nanos() as u64;
            let timeout = connection.nic.next_deadline().map(|at| at.saturating_sub(now));
            let nic = &mut connection.nic;
            let ready = wait(connection.stream.socket(), nic, &control, &mut wire_lives, timeout)?;
            nic.set_time(began.elapsed().as_nanos() as u64);
            if ready.guest && !connection.take_messages().map_err(ServeError::Connection)? {
                return Ok(Ended::GuestGone);
            }
            let due = connection.nic.next_deadline().is_some();
            if ready.wire || due {
                connection.nic.process();
            }
            if ready.command && obey(&mut connection.nic, &control)? {
                return Ok(Ended::Stopped);
            }
        }
    }
}

/// Who has something to say.
struct Ready {
    guest: bool,
    wire: bool,
    command: bool,
}

/// Sleeps until the guest, the wire or a command is there, or for `timeout` nanoseconds.
fn wait<W: PollableWire>(
    guest: &impl AsFd,
    nic: &mut Nic<GuestMemory, W, EventFds>,
    control: &Inbox,
    wire_lives: &mut bool,
    timeout: Option<u64>,
) -> Result<Ready, ServeError> {
    let timeout = timeout.map(|nanoseconds| Timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    });
    let flags = {
        let mut fds = [
            PollFd::new(guest, PollFlags::IN),
            PollFd::new(control, PollFlags::IN),
            PollFd::new(nic.wire(), PollFlags::IN),
        ];
        let watched = if *wire_lives { 3 } else { 2 };
        match poll(&mut fds[..watched], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(ServeError::Wait(error.into())),
        }
        fds.map(|fd| fd.revents())
    };
    let [guest, command, wire] = flags;
    if wire.intersects(PollFlags::ERR | PollFlags::HUP) && !wire.contains(PollFlags::IN) {
        *wire_lives = nic.wire_mut().outlives_error();
    } else if wire.contains(PollFlags::HUP) {
        // Frames that were under way when the far end went come first.
        nic.process();
        *wire_lives = nic.wire_mut().outlives_error();
    }
    Ok(Ready { guest: !guest.is_empty(), wire: wire.contains(PollFlags::IN), command: !command.is_empty() })
}

/// Carries out commands. True: stop.
fn obey<W: PollableWire>(nic: &mut Nic<GuestMemory, W, EventFds>, control: &Inbox) -> Result<bool, ServeError> {
    while let Some(command) = control.next().map_err(ServeError::Wait)? {
        if !nic.obey(command) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Regions and interrupt indexes as vfio numbers them (Linux's `vfio.h`).
const REGION_BAR0: u32 = 0;
const REGION_BAR4: u32 = 4;
const REGION_CONFIG: u32 = 7;
const REGIONS: u32 = 9;
const IRQ_INTX: u32 = 0;
const IRQ_MSIX: u32 = 2;
const IRQS: u32 = 5;
/// Of a region: readable and writable. Of the device: it can be reset, and is PCI.
const REGION_READ_WRITE: u32 = 3;
const DEVICE_RESET_PCI: u32 = 3;
const IRQ_EVENTFD: u32 = 1;
const SET_DATA_EVENTFD: u32 = 1 << 2;
const SET_ACTION_TRIGGER: u32 = 1 << 5;
const MAP_WRITE: u32 = 2;
const UNMAP_ALL: u32 = 2;

struct Connection<W> {
    stream: Stream<UnixStream>,
    nic: Nic<GuestMemory, W, EventFds>,
}

/// What a command's answer is.
type Answer = Result<Vec<u8>, Errno>;

impl<W: PollableWire> Connection<W> {
    /// Takes what the client has sent. False: it has gone.
    fn take_messages(&mut self) -> io::Result<bool> {
        match self.stream.fill()? {
            Filled::Closed => return Ok(false),
            Filled::Nothing => return Ok(true),
            Filled::Bytes => {}
        }
        loop {
            let Some((command, fds)) = self.stream.next()? else {
                return Ok(true);
            };
            let (id, number, silent) = (command.id, command.command, command.no_reply);
            // Register reads are what the guest waits for: no allocation on their way.
            if number == message::REGION_READ {
                let body: [u8; 16] = match command.body.first_chunk() {
                    Some(body) => *body,
                    None => {
                        self.stream.refuse(id, number, Errno::INVAL)?;
                        continue;
                    }
                };
                self.read_region(id, &body)?;
                continue;
            }
            let answer = handle(&mut self.nic, number, command.body, fds);
            if silent {
                if let Err(errno) = answer {
                    log::warn!("vfio-user command {number} without reply failed: {errno}");
                }
                continue;
            }
            let sent = match answer {
                Ok(body) => self.stream.answer(id, number, &[&body]),
                Err(errno) => {
                    log::debug!("vfio-user command {number} refused: {errno}");
                    self.stream.refuse(id, number, errno)
                }
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                other => other?,
            }
        }
    }

    fn read_region(&mut self, id: u16, body: &[u8; 16]) -> io::Result<()> {
        let mut fields = Fields(body);
        let (offset, region, count) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(offset), Some(region), Some(count)) = (offset, region, count) else {
            return Ok(());
        };
        let mut data = [0; CONFIG_SIZE];
        let Some(data) = data.get_mut(..count as usize) else {
            return self.stream.refuse(id, message::REGION_READ, Errno::INVAL);
        };
        match region {
            REGION_BAR0 => {
                for (i, word) in data.chunks_mut(4).enumerate() {
                    // Accesses narrower than a register read the register's low bytes (82599 §8.1).
                    let at = offset.wrapping_add(4 * i as u64);
                    let value = u32::try_from(at).map_or(0, |at| self.nic.read32(at & !3));
                    let shift = (at & 3) as usize;
                    let bytes = value.to_le_bytes();
                    let length = word.len().min(4 - shift);
                    word[..length].copy_from_slice(&bytes[shift..shift + length]);
                }
            }
            REGION_CONFIG => self.nic.pci().read(offset as usize, data),
            // QEMU keeps the MSI-X table and pending bits itself; the rest of BAR4 is empty.
            REGION_BAR4 => {}
            _ => return self.stream.refuse(id, message::REGION_READ, Errno::INVAL),
        }
        self.stream.answer(id, message::REGION_READ, &[body, data])
    }
}

fn handle<W: PollableWire>(
    nic: &mut Nic<GuestMemory, W, EventFds>,
    command: u16,
    body: &[u8],
    fds: Vec<OwnedFd>,
) -> Answer {
    let mut fields = Fields(body);
    match command {
        message::VERSION => {
            let (major, minor) = (fields.u16().ok_or(Errno::INVAL)?, fields.u16().ok_or(Errno::INVAL)?);
            if major != 0 {
                return Err(Errno::NOTSUP);
            }
            let capabilities = format!(
                "{{\"capabilities\":{{\"max_msg_fds\":{},\"max_data_xfer_size\":{CONFIG_SIZE}}}}}\0",
                message::MOST_FDS
            );
            Ok([&0u16.to_le_bytes(), &minor.min(1).to_le_bytes(), capabilities.as_bytes()].concat())
        }
        message::DMA_MAP => map(nic.memory_mut(), &mut fields, fds).map(|()| Vec::new()),
        message::DMA_UNMAP => {
            unmap(nic.memory_mut(), &mut fields).ok_or(Errno::INVAL)?;
            Ok(body.to_vec())
        }
        message::GET_INFO => Ok(words(&[16, DEVICE_RESET_PCI, REGIONS, IRQS])),
        message::GET_REGION_INFO => {
            let (_, _, index) = (fields.u32(), fields.u32(), fields.u32().ok_or(Errno::INVAL)?);
            let size = match index {
                REGION_BAR0 => BAR0_SIZE,
                REGION_BAR4 => BAR4_SIZE,
                REGION_CONFIG => CONFIG_SIZE as u64,
                index if index < REGIONS => 0,
                _ => return Err(Errno::INVAL),
            };
            let mut answer = words(&[32, if size > 0 { REGION_READ_WRITE } else { 0 }, index, 0]);
            answer.extend_from_slice(&size.to_le_bytes());
            // The offset matters to whoever maps the region; nobody may map ours.
            answer.extend_from_slice(&0u64.to_le_bytes());
            Ok(answer)
        }
        message::GET_IRQ_INFO => {
            let (_, _, index) = (fields.u32(), fields.u32(), fields.u32().ok_or(Errno::INVAL)?);
            match index {
                IRQ_MSIX => Ok(words(&[16, IRQ_EVENTFD, index, VECTORS as u32])),
                // Announced, so that the interrupt pin means something; never raised.
                IRQ_INTX => Ok(words(&[16, IRQ_EVENTFD, index, 1])),
                index if index < IRQS => Ok(words(&[16, 0, index, 0])),
                _ => Err(Errno::INVAL),
            }
        }
        message::SET_IRQS => set_irqs(nic.interrupts_mut(), &mut fields, fds).map(|()| Vec::new()),
        message::REGION_WRITE => write_region(nic, &mut fields),
        message::RESET => {
            nic.function_reset();
            Ok(Vec::new())
        }
        _ => Err(Errno::NOTSUP),
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn map(memory: &mut GuestMemory, fields: &mut Fields<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
    let _size = fields.u32();
    let flags = fields.u32().ok_or(Errno::INVAL)?;
    let offset = fields.u64().ok_or(Errno::INVAL)?;
    let address = fields.u64().ok_or(Errno::INVAL)?;
    let length = fields.u64().ok_or(Errno::INVAL)?;
    let Some(file) = fds.into_iter().next() else {
        // Not backed by a file: it would take messages to reach it, and no ring lies in such a place.
        log::debug!("{length:#x} bytes at {address:#x} can't be mapped here and stay out of reach");
        return Ok(());
    };
    memory.map(address, length, file, offset, flags & MAP_WRITE != 0).map_err(|error| {
        log::warn!("mapping {length:#x} bytes at {address:#x}: {error}");
        Errno::INVAL
    })
}

fn unmap(memory: &mut GuestMemory, fields: &mut Fields<'_>) -> Option<()> {
    let _size = fields.u32();
    let flags = fields.u32()?;
    let (address, length) = (fields.u64()?, fields.u64()?);
    if flags & UNMAP_ALL != 0 {
        memory.unmap_all();
    } else {
        memory.unmap(address, length);
    }
    Some(())
}

fn set_irqs(events: &mut EventFds, fields: &mut Fields<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
    let _size = fields.u32();
    let flags = fields.u32().ok_or(Errno::INVAL)?;
    let index = fields.u32().ok_or(Errno::INVAL)?;
    let start = fields.u32().ok_or(Errno::INVAL)? as usize;
    let count = fields.u32().ok_or(Errno::INVAL)? as usize;
    if index != IRQ_MSIX {
        return if index < IRQS { Ok(()) } else { Err(Errno::INVAL) };
    }
    if flags & SET_ACTION_TRIGGER == 0 {
        // Masking: QEMU masks by taking the eventfd away.
        return Ok(());
    }
    if count == 0 {
        events.0.fill_with(|| None);
        return Ok(());
    }
    if flags & SET_DATA_EVENTFD == 0 {
        return Err(Errno::NOTSUP);
    }
    let slots = events.0.get_mut(start..).and_then(|slots| slots.get_mut(..count)).ok_or(Errno::INVAL)?;
    // Fewer descriptors than vectors: the rest of them lose theirs.
    let mut fds = fds.into_iter();
    for slot in slots {
        *slot = fds.next();
    }
    Ok(())
}

fn write_region<W: PollableWire>(nic: &mut Nic<GuestMemory, W, EventFds>, fields: &mut Fields<'_>) -> Answer {
    let header = fields.rest().get(..16).ok_or(Errno::INVAL)?.to_vec();
    let offset = fields.u64().ok_or(Errno::INVAL)?;
    let region = fields.u32().ok_or(Errno::INVAL)?;
    let count = fields.u32().ok_or(Errno::INVAL)? as usize;
    let data = fields.rest().get(..count).ok_or(Errno::INVAL)?;
    match region {
        REGION_BAR0 => {
            for (i, word) in data.chunks_exact(4).enumerate() {
                let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                if let Ok(at) = u32::try_from(offset.wrapping_add(4 * i as u64)) {
                    nic.write32(at, value);
                }
            }
        }
        REGION_CONFIG => nic.write_pci(usize::try_from(offset).map_err(|_| Errno::INVAL)?, data),
        REGION_BAR4 => {}
        _ => return Err(Errno::INVAL),
    }
    Ok(header)
}
