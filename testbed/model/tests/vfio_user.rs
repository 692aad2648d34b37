//! The vfio-user front-end, driven by an independent client: what QEMU does, without QEMU.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::control::{self, Control, Remote};
use model::frame_socket::{self, FrameSocket};
use model::registers::*;
use model::vfio_user::{Ended, ServeError, Server};
use model::{NicConfig, SharedCounters, Wire, frames};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::Client;

const RAM: u64 = 1 << 20;
/// Where the guest's RAM lies on the bus.
const AT: u64 = 0x1_0000_0000;
const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const MSIX: u32 = 2;
/// Eventfds, as trigger.
const EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

/// A served model and the far end of its cable.
struct Served {
    path: PathBuf,
    remote: Remote,
    far: FrameSocket,
    counters: SharedCounters,
    thread: JoinHandle<Result<Ended, ServeError>>,
    _folder: tempfile::TempDir,
}

fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    let server = Server::bind(&path).unwrap();
    let (near, far) = frame_socket::pair().unwrap();
    let (remote, inbox) = control::channel().unwrap();
    let counters = SharedCounters::new();
    let counted = counters.clone();
    let thread = std::thread::spawn(move || server.serve(NicConfig::default(), near, inbox, counted));
    Served { path, remote, far, counters, thread, _folder: folder }
}

/// Waits for what another thread is about to do.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it didn't happen in ten seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Guest {
    client: Client,
    ram: File,
}

impl Guest {
    fn new(path: &std::path::Path) -> Guest {
        let mut client = Client::new(path).unwrap();
        let ram = File::from(memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&ram, RAM).unwrap();
        client.dma_map(0, AT, RAM, ram.as_raw_fd()).unwrap();
        client.region_write(CONFIG, 4, &[0x06, 0]).unwrap();
        Guest { client, ram }
    }

    fn write(&mut self, register: u32, value: u32) {
        self.client.region_write(BAR0, u64::from(register), &value.to_le_bytes()).unwrap();
    }

    fn read(&mut self, register: u32) -> u32 {
        let mut bytes = [0; 4];
        self.client.region_read(BAR0, u64::from(register), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        std::os::unix::fs::FileExt::write_all_at(&self.ram, bytes, at).unwrap();
    }

    fn load(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        std::os::unix::fs::FileExt::read_exact_at(&self.ram, &mut bytes, at).unwrap();
        bytes
    }
}

/// The whole way: identity, registers, DMA both ways through the mapped RAM, an interrupt by eventfd.
#[test]
fn a_frame_each_way() {
    let mut served = served();
    let mut guest = Guest::new(&served.path);
    let mut identity = [0; 4];
    guest.client.region_read(CONFIG, 0, &mut identity).unwrap();
    assert_eq!(identity, [0x86, 0x80, 0xFB, 0x10]);
    assert_eq!(guest.client.region(BAR0).map(|region| region.size), Some(0x2_0000));
    assert_eq!(guest.client.get_irq_info(MSIX).unwrap().count, 64);
    let mut event = File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    guest.client.set_irqs(MSIX, EVENTFD_TRIGGER, 3, 1, &[event.as_raw_fd()]).unwrap();

    // One transmit descriptor at 0, its buffer at 0x1000; one receive descriptor at 0x800, its buffer at 0x2000.
    let frame = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 5, 6, b"over the socket");
    guest.store(0x1000, &frame);
    guest.store(0, &(AT + 0x1000).to_le_bytes());
    guest.store(8, &(3u64 << 20 | 0x2B << 24 | frame.len() as u64).to_le_bytes());
    guest.store(0x800, &(AT + 0x2000).to_le_bytes());
    guest.write(FCTRL, FCTRL_BAM);
    guest.write(RXCTRL, RXCTRL_RXEN);
    guest.write(DMATXCTL, DMATXCTL_TE);
    for (block, base) in [(tx(0, 0), AT), (rx(0, 0), AT + 0x800)] {
        guest.write(block + RDBAL, base as u32);
        guest.write(block + RDBAH, (base >> 32) as u32);
        guest.write(block + RDLEN, 128);
        guest.write(block + RXDCTL, DCTL_ENABLE);
    }
    guest.write(rx(0, SRRCTL), 2 | 1 << 25);
    guest.write(GPIE, GPIE_MULTIPLE_MSIX);
    guest.write(IVAR, 0x83);
    guest.write(EIMS_EX, 1 << 3);
    guest.write(tx(0, TDT), 1);
    guest.write(rx(0, RDT), 1);
    let sent = eventually(|| served.far.receive().map(<[u8]>::to_vec));
    assert_eq!(sent, frame);
    assert_eq!(guest.load(12, 1)[0] & 1, 1, "written back");
    served.far.send(&frame);
    let mut count = [0; 8];
    event.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    assert_eq!(guest.load(0x2000, frame.len()), frame);
    assert_eq!(guest.read(rx(0, RDH)), 1);

    // What isn't mapped any more is out of reach.
    guest.client.dma_unmap(AT, RAM).unwrap();
    guest.write(rx(0, RDT), 2);
    served.far.send(&frame);
    eventually(|| (served.counters.snapshot().dma_refused > 0).then_some(()));
    drop(guest);
    assert_eq!(served.thread.join().unwrap().unwrap(), Ended::GuestGone);
    assert!(!served.path.exists(), "the socket goes with the server");
}

/// The lab's ways to end and to disturb: stop before and after a guest came, cable, device reset.
#[test]
fn commands_are_obeyed() {
    let waiting = served();
    waiting.remote.send(Control::Stop).unwrap();
    assert_eq!(waiting.thread.join().unwrap().unwrap(), Ended::Stopped);

    let served = served();
    let mut guest = Guest::new(&served.path);
    assert_eq!(guest.read(LINKS) & LINKS_UP, LINKS_UP);
    served.remote.send(Control::Cable(false)).unwrap();
    eventually(|| (guest.read(LINKS) & LINKS_UP == 0).then_some(()));
    served.remote.send(Control::Cable(true)).unwrap();
    eventually(|| (guest.read(LINKS) & LINKS_UP != 0).then_some(()));
    guest.write(FCTRL, FCTRL_BAM);
    guest.client.reset().unwrap();
    assert_eq!(guest.read(FCTRL), 0);
    served.remote.send(Control::Stop).unwrap();
    assert_eq!(served.thread.join().unwrap().unwrap(), Ended::Stopped);
}

/// Nonsense from a client is answered with an error, and the connection stays in step.
#[test]
fn nonsense_is_refused() {
    let served = served();
    let mut guest = Guest::new(&served.path);
    let mut bytes = [0; 8];
    // The client takes an error's reply for a short one; what matters is that the next request works.
    let _ = guest.client.set_irqs(MSIX, EVENTFD_TRIGGER, 60, 9, &[]);
    guest.client.region_read(CONFIG, u64::MAX, &mut bytes).unwrap();
    assert_eq!(bytes, [0xFF; 8]);
    guest.client.region_write(BAR0, u64::MAX - 1, &[0; 8]).unwrap();
    guest.client.region_write(CONFIG, 5000, &[0; 8]).unwrap();
    guest.client.region_read(BAR0, u64::MAX - 2, &mut bytes).unwrap();
    assert_eq!(guest.read(LINKS) & LINKS_UP, LINKS_UP);
    drop(guest);
    assert_eq!(served.thread.join().unwrap().unwrap(), Ended::GuestGone);
}

/// A second model at the same place is told so.
#[test]
fn a_taken_path_is_named() {
    let served = served();
    let Err(error) = Server::bind(&served.path) else { panic!("the path is taken") };
    assert!(error.to_string().contains("another model"), "{error}");
    served.remote.send(Control::Stop).unwrap();
    served.thread.join().unwrap().unwrap();
}

/// Clock ticks that threads of this name have run for.
fn ticks(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let named = stats.filter_map(|stat| {
        let (_, rest) = stat.split_once(&format!("({name}) "))?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // User and system time are the fields 14 and 15 of the line (proc(5)).
        Some(fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
    });
    named.sum()
}

/// A dead cable must not make the model spin: it shares two CPUs with its guest.
#[test]
fn a_dead_wire_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nic");
    let server = Server::bind(&path).unwrap();
    let (near, far) = frame_socket::pair().unwrap();
    let (remote, inbox) = control::channel().unwrap();
    let serve = move || server.serve(NicConfig::default(), near, inbox, SharedCounters::new());
    let thread = std::thread::Builder::new().name("dead-wire".into()).spawn(serve).unwrap();
    let mut guest = Guest::new(&path);
    drop(far);
    std::thread::sleep(Duration::from_millis(500));
    assert!(ticks("dead-wire") <= 10, "ran for {} of 50 ticks", ticks("dead-wire"));
    assert_eq!(guest.read(LINKS) & LINKS_UP, LINKS_UP);
    remote.send(Control::Stop).unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), Ended::Stopped);
}
