//! A domain image's entry: between the kernel's raw arguments and `start(env, imports, config) -> exports`.
//!
//! The builder generates a binary crate round each domain, which is only
//!
//! ```text
//! #![no_std]
//! #![no_main]
//! runtime::entry!(maglev::start);
//! ```
//!
//! What it promises: a domain starts with exactly the ports that it declares, each by its name and of the very interface, or is refused with words that say what differs; the path given to
//! [`entry!`](crate::entry!) is never evaluated inside `unsafe`.

use alloc::{format, string::String, vec, vec::Vec};
use core::{fmt::Display, slice, str};

use interfaces::{
    abi::{self, KernelTable, RawObject, StartArguments, WiredPort},
    config::Configuration,
};

use crate::{
    env::{Env, StartError},
    hooks::HOOKS,
    wiring::{Exported, Exports, Imported, Imports, PortSpec},
};

/// What `domain_entry` returns for a domain that runs, and for one that didn't want to.
const STARTED: u32 = 0;
const REFUSED: u32 = 1;

/// A domain's image that has just been entered, connected to the kernel.
pub struct Arrival<'a>(&'a mut StartArguments);

impl<'a> Arrival<'a> {
    /// Connects this image.
    ///
    /// # Safety
    /// Called once per image, first of all, by the kernel, with `arguments` that are as `StartArguments` says.
    pub unsafe fn new(kernel: &'static KernelTable, arguments: &'a mut StartArguments) -> Self {
        // SAFETY: the kernel outlives the image (SOUNDNESS: ABI between images).
        unsafe { abi::connect(kernel) };
        Arrival(arguments)
    }

    /// Starts the domain; what `domain_entry` returns.
    pub fn start<I: Imports, C: Configuration, E: Exports>(
        self,
        start: impl FnOnce(Env, I, C) -> Result<E, StartError>,
    ) -> u32 {
        crate::log::install();
        let arguments = self.0;
        arguments.hooks = HOOKS;
        match run(arguments, start) {
            Ok(()) => STARTED,
            Err(StartError(words)) => {
                // SAFETY: the kernel's room for words.
                let room = unsafe { bytes_mut(arguments.error, arguments.error_capacity) };
                let len = words.floor_char_boundary(room.len());
                room[..len].copy_from_slice(&words.as_bytes()[..len]);
                arguments.error_len = len;
                REFUSED
            }
        }
    }
}

fn run<I: Imports, C: Configuration, E: Exports>(
    arguments: &mut StartArguments,
    start: impl FnOnce(Env, I, C) -> Result<E, StartError>,
) -> Result<(), StartError> {
    // SAFETY: all of these are as the kernel filled them in, valid for the call of `domain_entry`.
    let (name, config, cpus, imports, exports) = unsafe {
        (
            str::from_utf8(bytes(arguments.name, arguments.name_len))?,
            bytes(arguments.config, arguments.config_len),
            bytes(arguments.cpus, arguments.cpu_count as usize),
            bytes(arguments.imports, arguments.import_count),
            bytes_mut(arguments.exports, arguments.export_count),
        )
    };
    let (import_places, export_places) = agree(I::PORTS, imports, E::PORTS, exports)?;
    let config: C = postcard::from_bytes(config).map_err(|error| refuse("the compiled configuration", error))?;
    let env = Env { name: name.into(), generation: arguments.generation, cpus: cpus.into() };
    let proxies: Vec<RawObject> =
        import_places.iter().map(|place| place.map_or(RawObject::NULL, |place| imports[place].object)).collect();
    // SAFETY: the kernel's proxies are of the interfaces that it says, and `agree` has put them in the order of `PORTS` (SOUNDNESS: ABI between images).
    let mut imported = unsafe { Imported::new(I::PORTS, &proxies) };
    let imports = I::take(&mut imported);
    let mut objects = vec![RawObject::NULL; E::PORTS.len()];
    start(env, imports, config)?.give(&mut Exported::new(E::PORTS, &mut objects));
    for (place, object) in export_places.into_iter().zip(objects) {
        if let Some(place) = place {
            exports[place].object = object;
        }
    }
    Ok(())
}

/// Where among the kernel's ports.
type Place = Option<usize>;

/// For each port that the domain declares, where the kernel has wired it; an optional one may be nowhere. All that differs between the two is an error, in one message.
fn agree(
    imports: &[PortSpec],
    wired_imports: &[WiredPort],
    exports: &[PortSpec],
    wired_exports: &[WiredPort],
) -> Result<(Vec<Place>, Vec<Place>), StartError> {
    let mut faults = Vec::new();
    let imports = matched("import", imports, wired_imports, &mut faults);
    let exports = matched("export", exports, wired_exports, &mut faults);
    if faults.is_empty() { Ok((imports, exports)) } else { Err(StartError(faults.join("; "))) }
}

fn matched(direction: &str, declared: &[PortSpec], wired: &[WiredPort], faults: &mut Vec<String>) -> Vec<Place> {
    // SAFETY: the kernel's names live as long as its arguments.
    let (name, interface) = unsafe { (|port: &WiredPort| port.name(), |port: &WiredPort| port.interface()) };
    for port in wired.iter().filter(|port| !declared.iter().any(|spec| spec.name == name(port))) {
        faults.push(format!("the manifest wires an {direction} port `{}`, which the domain doesn't have", name(port)));
    }
    let places = declared.iter().map(|spec| {
        let place = wired.iter().position(|port| name(port) == spec.name);
        match place.map(|place| &wired[place]) {
            None if spec.optional => {}
            None => faults.push(format!(
                "{direction} port `{}` ({}) of the domain isn't wired",
                spec.name, spec.interface.name
            )),
            Some(port) if interface(port) != spec.interface.name => faults.push(format!(
                "{direction} port `{}` is wired as {}, the domain has it as {}",
                spec.name,
                interface(port),
                spec.interface.name
            )),
            Some(port) if port.hash != spec.interface.hash => faults.push(format!(
                "{direction} port `{}`: the kernel's {} ({:016x}) isn't the image's ({:016x}); build both from one source",
                spec.name, spec.interface.name, port.hash, spec.interface.hash
            )),
            Some(_) => {}
        }
        place
    });
    places.collect()
}

fn refuse(what: &str, error: impl Display) -> StartError {
    StartError(format!("{what} can't be read: {error}"))
}

/// # Safety
/// `len` values at `start` that outlive `'a`; or `len` is 0.
unsafe fn bytes<'a, T>(start: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller's.
    if len == 0 { &[] } else { unsafe { slice::from_raw_parts(start, len) } }
}

/// # Safety
/// As for [`bytes`], and nobody else uses them.
unsafe fn bytes_mut<'a, T>(start: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's.
    if len == 0 { &mut [] } else { unsafe { slice::from_raw_parts_mut(start, len) } }
}

/// Makes a binary crate the image of a domain: entry, heap, panic handler, and what the compiler expects to be there. Its argument is the path of the
/// domain's `start`.
#[macro_export]
macro_rules! entry {
    ($start:path) => {
        #[global_allocator]
        static HEAP: $crate::heap::Heap = $crate::heap::Heap::new();

        #[panic_handler]
        fn panic(info: &::core::panic::PanicInfo) -> ! {
            $crate::last_words::panic(info)
        }

        $crate::arrive!($start);
        $crate::image_symbols!();
    };
}

/// The only part of [`entry!`] that sees the caller's path: apart from `domain_entry`, so that it stands in no unsafe function.
#[doc(hidden)]
#[macro_export]
macro_rules! arrive {
    ($start:path) => {
        fn arrive(arrival: $crate::entry::Arrival<'_>) -> u32 {
            arrival.start($start)
        }
    };
}

/// The symbols of an image that the kernel's loader and the compiler look for by name. None of them sees tokens of a domain.
#[doc(hidden)]
#[macro_export]
macro_rules! image_symbols {
    () => {
        /// The image's entry point (`interfaces::abi::Entry`).
        ///
        /// # Safety
        /// For the kernel's loader only, once.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn domain_entry(
            kernel: &'static $crate::interfaces::abi::KernelTable,
            arguments: &mut $crate::interfaces::abi::StartArguments,
        ) -> u32 {
            // SAFETY: this is the image's entry, which the kernel calls once (SOUNDNESS: ABI between images).
            let arrival = unsafe { $crate::entry::Arrival::new(kernel, arguments) };
            arrive(arrival)
        }

        // The precompiled `core` refers to these although panics abort: never called.
        #[unsafe(no_mangle)]
        extern "C" fn rust_eh_personality() {}
        #[unsafe(no_mangle)]
        extern "C" fn _Unwind_Resume() -> ! {
            panic!("unwinding in an image whose panics abort")
        }

        /// # Safety
        /// C's.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
            // SAFETY: C's contract.
            unsafe { $crate::memory::copy_apart(to, from, len) };
            to
        }

        /// # Safety
        /// C's.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
            // SAFETY: C's contract.
            unsafe { $crate::memory::copy(to, from, len) };
            to
        }

        /// # Safety
        /// C's.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
            // SAFETY: C's contract; C's int is the byte to fill with.
            unsafe { $crate::memory::fill(to, byte as u8, len) };
            to
        }

        /// # Safety
        /// C's.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
            // SAFETY: C's contract.
            unsafe { $crate::memory::compare(a, b, len) }
        }

        /// # Safety
        /// C's.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
            // SAFETY: C's contract.
            unsafe { $crate::memory::compare(a, b, len) }
        }
    };
}
