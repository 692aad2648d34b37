//! The peer: DPDK's own 82599 driver, in the process that the model lives in, measured by the same method as ours.
//!
//! DPDK finds its devices in sysfs, and reaches them through the kernel. Here sysfs is a folder of ours, whose `resource0` is the file that the model polls, and a FIFO stands
//! for the kernel's device; both are seen by this process alone, in a mount namespace of its own, so this needs root. Nothing of DPDK is changed.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fs, io,
    os::unix::fs::symlink,
    path::Path,
    ptr,
    sync::OnceLock,
};

use model::{NicConfig, pci, shared_memory::SharedBar};
use rig::{Card, Tester, bench::Row};

use crate::{
    method::{Book, LENGTH, PACKETS, PASSES, RING, Rounds, rounds, work},
    progress,
};

const ADDRESS: &str = "0000:01:00.0";
/// Memory for rings and packets.
const HEAP: usize = 96 << 20;
const BUFFERS: u32 = 8192;

/// Which of DPDK's data paths is measured: the compiler's flags don't decide that, a flag of DPDK's does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// What DPDK takes by itself: vector instructions, for batches of four and more.
    Vector,
    /// Without vector instructions, as batches of one need it.
    Scalar,
}

impl Width {
    pub fn name(self) -> &'static str {
        match self {
            Width::Vector => "dpdk",
            Width::Scalar => "dpdk-scalar",
        }
    }
}

/// The functions of `dpdk.c`.
pub struct Library(*mut c_void);

impl Library {
    fn load(file: &Path) -> Result<Library, String> {
        let name = CString::new(file.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: a name that ends in 0. What runs when it is loaded is DPDK's.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if library.is_null() {
            // SAFETY: after a failure there is a message.
            return Err(unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned());
        }
        Ok(Library(library))
    }

    pub fn function(&self, name: &CStr) -> Result<*mut c_void, String> {
        // SAFETY: a library that is loaded for good, and a name that ends in 0.
        let function = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if function.is_null() { Err(format!("no {}", name.to_string_lossy())) } else { Ok(function) }
    }
}

type Start = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut c_void, usize, u16, u32, extern "C" fn()) -> c_int;
pub type Deed = unsafe extern "C" fn(u32, u16) -> u64;
type Transmit = unsafe extern "C" fn(u32, u16, u16) -> u64;
type Drain = unsafe extern "C" fn() -> u32;

/// Makes this process see a machine with one card, whose files are in `place`, an empty folder. Before there is a second thread.
pub fn enter(place: &Path) -> Result<(), String> {
    let mount = |what: &Path, at: &Path, kind: Option<&CStr>, flags| {
        let [what, path] =
            [what, at].map(|path| CString::new(path.as_os_str().as_encoded_bytes()).expect("no 0 in it"));
        // SAFETY: strings that end in 0.
        let done = unsafe {
            libc::mount(what.as_ptr(), path.as_ptr(), kind.map_or(ptr::null(), CStr::as_ptr), flags, ptr::null())
        };
        if done == 0 { Ok(()) } else { Err(format!("mounting {}: {}", at.display(), io::Error::last_os_error())) }
    };
    let of = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    // SAFETY: plain flags.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(format!("a mount namespace: {} (it needs root)", io::Error::last_os_error()));
    }
    mount(Path::new("none"), Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)?;
    // What is made here goes with the namespace.
    mount(Path::new("tmpfs"), place, Some(c"tmpfs"), 0)?;
    let (dev, class, function) = (place.join("dev"), place.join("class"), place.join("pci").join(ADDRESS));
    for folder in [dev.clone(), class.join("uio/uio0/device"), function.join("uio/uio0"), place.join("uio_pci_generic")]
    {
        fs::create_dir_all(&folder).map_err(of("a folder"))?;
    }
    let config = NicConfig { device: pci::device::KX4, ..NicConfig::default() };
    let mut space = [0; 256];
    pci::ConfigSpace::new(config.device, config.mac, config.ports).read(0, &mut space);
    fs::write(class.join("uio/uio0/device/config"), space).map_err(of("configuration space"))?;
    let word = |at: usize| u16::from_le_bytes([space[at], space[at + 1]]);
    let class_code = u32::from_le_bytes([space[9], space[10], space[11], 0]);
    let nothing = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    // BAR 0: memory (IORESOURCE_MEM).
    let resource = format!("0x0000000080000000 0x000000008001ffff 0x0000000000040200\n{}", nothing.repeat(6));
    for (name, text) in [
        ("vendor", format!("{:#06x}\n", word(0))),
        ("device", format!("{:#06x}\n", word(2))),
        ("subsystem_vendor", format!("{:#06x}\n", word(0x2c))),
        ("subsystem_device", format!("{:#06x}\n", word(0x2e))),
        ("class", format!("{class_code:#08x}\n")),
        ("numa_node", "0\n".into()),
        ("resource", resource),
    ] {
        fs::write(function.join(name), text).map_err(of(name))?;
    }
    symlink(place.join("uio_pci_generic"), function.join("driver")).map_err(of("driver"))?;
    let fifo = CString::new(dev.join("uio0").as_os_str().as_encoded_bytes()).expect("no 0 in it");
    // SAFETY: a string that ends in 0.
    if unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) } != 0 {
        return Err(format!("a FIFO: {}", io::Error::last_os_error()));
    }
    for device in ["null", "zero", "urandom"] {
        fs::write(dev.join(device), "").map_err(of(device))?;
        mount(&Path::new("/dev").join(device), &dev.join(device), None, libc::MS_BIND)?;
    }
    mount(&class, Path::new("/sys/class"), None, libc::MS_BIND)?;
    mount(&dev, Path::new("/dev"), None, libc::MS_BIND | libc::MS_REC)?;
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var("SYSFS_PCI_DEVICES", place.join("pci")) };
    Ok(())
}

/// The card that DPDK drives, for [`look`].
static CARD: OnceLock<&Card<Tester>> = OnceLock::new();

extern "C" fn look() {
    if let Some(card) = CARD.get() {
        card.with(|device| device.look_at_all());
    }
}

/// A card that DPDK drives.
pub struct Port {
    pub card: &'static Card<Tester>,
    pub library: Library,
}

impl Port {
    /// Brings the card up; `place` is where [`enter`] was.
    pub fn start(library: &Path, place: &Path, width: Width) -> Result<Port, String> {
        let library = Library::load(library)?;
        let file = place.join("pci").join(ADDRESS).join("resource0");
        let bar = SharedBar::at(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let config = NicConfig { device: pci::device::KX4, ..NicConfig::default() };
        let card = Card::behind(bar, 0, config, Tester::new(64));
        kernel_core::platform::PciFunction::set_bus_master(card, true);
        card.serve(true);
        let _ = CARD.set(card);
        // SAFETY: fresh memory, for good.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                HEAP,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(format!("memory: {}", io::Error::last_os_error()));
        }
        rig::dma::admit(memory.expose_provenance() as u64, HEAP);
        let mut arguments: Vec<CString> = [
            "bench",
            "--no-huge",
            "--no-shconf",
            "--no-telemetry",
            "-m",
            "64",
            "--iova-mode=pa",
            "-l",
            "0",
            "--log-level=3",
        ]
        .map(|argument| CString::new(argument).expect("no 0 in it"))
        .into();
        if width == Width::Scalar {
            arguments.push(c"--force-max-simd-bitwidth=64".into());
        }
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        // SAFETY: the function of this name has this type.
        let start: Start = unsafe { std::mem::transmute(library.function(c"dpdk_start")?) };
        // SAFETY: arguments that end in 0, which DPDK may change the order of, and memory that is nobody else's.
        let started =
            unsafe { start(pointers.len() as c_int, pointers.as_mut_ptr(), memory, HEAP, RING, BUFFERS, look) };
        // DPDK may keep its arguments.
        std::mem::forget(arguments);
        if started != 0 {
            return Err("DPDK's driver did not start".into());
        }
        card.pause(true);
        card.with(|device| device.look_at_all());
        Ok(Port { card, library })
    }

    pub fn drain(&self) -> Result<(), String> {
        // SAFETY: the function of this name has this type.
        let drain: Drain = unsafe { std::mem::transmute(self.library.function(c"dpdk_drain")?) };
        let mut in_vain = 0;
        while in_vain < 8 {
            work(self.card, 0);
            // SAFETY: the port runs, and nobody else uses it.
            in_vain = if unsafe { drain() } == 0 { in_vain + 1 } else { 0 };
        }
        Ok(())
    }

    /// Rounds of a function that takes packets and batch.
    pub fn rounds(&self, function: &CStr, frames: usize, batch: u16) -> Result<Rounds, String> {
        // SAFETY: the functions that are asked for have this type.
        let deed: Deed = unsafe { std::mem::transmute(self.library.function(function)?) };
        // SAFETY: the port runs, and nobody else uses it.
        self.rounds_of(frames, || unsafe { deed(PACKETS as u32, batch) })
    }

    pub fn rounds_of(&self, frames: usize, mut run: impl FnMut() -> u64) -> Result<Rounds, String> {
        let mut failed = 0;
        let result = rounds(self.card, frames, || {
            let cycles = run();
            failed += u32::from(cycles == 0);
            cycles
        });
        if failed == 0 { Ok(result) } else { Err(format!("{failed} rounds came to no end")) }
    }
}

/// Rows of this data path.
pub fn measure(port: &Port, width: Width) -> Result<Vec<Row>, String> {
    let path = width.name();
    progress(&format!("cycles a packet: {path}"));
    port.drain()?;
    let mut book = Book::default();
    let batches: &[u16] = if width == Width::Vector { &[32] } else { &[32, 1] };
    // SAFETY: the function of this name has this type.
    let transmit: Transmit = unsafe { std::mem::transmute(port.library.function(c"dpdk_transmit")?) };
    for (_, &batch) in (0..PASSES).flat_map(|pass| batches.iter().map(move |batch| (pass, batch))) {
        let received = port.rounds(c"dpdk_receive", PACKETS, batch)?;
        // SAFETY: the port runs, and nobody else uses it.
        let sent = port.rounds_of(0, || unsafe { transmit(PACKETS as u32, batch, LENGTH as u16) })?;
        let forwarded = port.rounds(c"dpdk_forward", PACKETS, batch)?;
        for (direction, rounds) in [("receive", received), ("transmit", sent), ("forward", forwarded)] {
            book.add(path, direction, usize::from(batch), rounds);
        }
    }
    Ok(book.rows())
}
