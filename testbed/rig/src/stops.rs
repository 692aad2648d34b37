//! Stops at single instructions of domains' images, as a debugger makes them: for campaigns that find out which instructions run, and crash domains there.
//!
//! A stop is code in an image that faults when it is executed, mostly of one byte, and so a real exception. Images are not writable, so it is written as a debugger writes,
//! by `/proc/self/mem`; or while the image is being loaded, before anything of it runs.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    ptr::{self, NonNull},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
};

use kernel_core::{
    domain::{self, Domain},
    platform::{PAGE, Protected, Protection, Verdict},
    supervisor::{self, Command},
    thread::{self, ThreadBlock},
    trap,
};
use serde::{Deserialize, Serialize};

use crate::threads::Record;

/// What a thread meets at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    Breakpoint,
    GeneralProtection,
    InvalidOpcode,
    /// The operator's kill reaches the thread exactly here.
    Kill,
    PageFault,
    DivideError,
}

impl Fault {
    /// Those that are one byte, and so change no other instruction, which another thread may be about to execute.
    pub const OF_ONE_BYTE: [Fault; 4] =
        [Fault::Breakpoint, Fault::GeneralProtection, Fault::InvalidOpcode, Fault::Kill];
    const ALL: [Fault; 6] = [
        Fault::Breakpoint,
        Fault::GeneralProtection,
        Fault::InvalidOpcode,
        Fault::Kill,
        Fault::PageFault,
        Fault::DivideError,
    ];

    /// What is no instruction of a domain's.
    fn code(self) -> &'static [u8] {
        match self {
            Fault::Breakpoint | Fault::Kill => &[INT3],
            // hlt
            Fault::GeneralProtection => &[0xf4],
            // Means nothing in 64-bit mode.
            Fault::InvalidOpcode => &[0x06],
            // xor eax, eax; mov eax, [rax]
            Fault::PageFault => &[0x31, 0xc0, 0x8b, 0x00],
            // xor eax, eax; div eax
            Fault::DivideError => &[0x31, 0xc0, 0xf7, 0xf0],
        }
    }
}

/// As the system saves them.
type Registers = [libc::greg_t; 23];

const INT3: u8 = 0xcc;
/// `si_code` of a single step.
const TRAP_TRACE: i32 = 2;
const TRAP_FLAG: i64 = 1 << 8;

/// What is to be in the next image of a domain.
enum Plan {
    /// A stop at each of these offsets, which goes when it has been reached.
    Trace(Vec<u32>),
    Fault(u32, Fault),
}

static PLANS: Mutex<BTreeMap<String, Plan>> = Mutex::new(BTreeMap::new());
/// Where the image that each domain loaded last lies.
static IMAGES: Mutex<BTreeMap<String, (usize, usize)>> = Mutex::new(BTreeMap::new());
static MEMORY: OnceLock<File> = OnceLock::new();
/// Address of the stop at which a thread is to be killed.
static KILL: AtomicUsize = AtomicUsize::new(0);

/// A traced domain. What the pointers lead to is never freed.
struct Trace {
    base: AtomicUsize,
    len: AtomicUsize,
    /// The bytes that belong there.
    original: AtomicPtr<u8>,
    /// By offset: the phase in which it was first reached, 0 for never.
    reached: AtomicPtr<AtomicU8>,
    phase: AtomicU8,
}

const TRACED: usize = 16;
static TRACES: [Trace; TRACED] = [const {
    Trace {
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        original: AtomicPtr::new(ptr::null_mut()),
        reached: AtomicPtr::new(ptr::null_mut()),
        phase: AtomicU8::new(0),
    }
}; TRACED];

/// The thread that is being stepped: in which domain, what it is to meet with, and where it has.
static STEP_DOMAIN: AtomicUsize = AtomicUsize::new(0);
static STEP_FAULT: AtomicU8 = AtomicU8::new(0);
static STEPPED_TO: AtomicUsize = AtomicUsize::new(0);
/// Instead of an address: the thread wasn't in its domain's code, or left it.
const GIVEN_UP: usize = 1;

/// Once, before the first stop.
pub fn prepare() -> io::Result<()> {
    if MEMORY.get().is_none() {
        let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
        let _ = MEMORY.set(memory);
    }
    Ok(())
}

fn write(at: usize, code: &[u8]) -> bool {
    MEMORY.get().is_some_and(|memory| memory.write_all_at(code, at as u64).is_ok())
}

fn read(at: usize) -> Option<u8> {
    let mut byte = [0];
    MEMORY.get()?.read_exact_at(&mut byte, at as u64).ok()?;
    Some(byte[0])
}

/// Where the domain's image lies that was loaded last.
pub fn image_of(domain: &str) -> Option<usize> {
    IMAGES.lock().expect("nobody panics with it").get(domain).map(|(base, _)| *base)
}

/// A stop that has been set in a live image.
pub struct Stop {
    domain: &'static Domain,
    generation: u32,
    at: usize,
    original: u8,
}

/// Sets a stop of one byte in the image that the domain has now.
pub fn set(domain: &str, offset: u32, fault: Fault) -> Option<Stop> {
    let at = image_of(domain)? + offset as usize;
    if fault == Fault::Kill {
        KILL.store(at, SeqCst);
    }
    let domain = domain::by_name(domain)?;
    let stop = Stop { domain, generation: domain.status().generation, at, original: read(at)? };
    write(at, fault.code()).then_some(stop)
}

impl Stop {
    /// Takes it away. True if somebody has met with it after all; the image is still the one in which it was set.
    pub fn take_away(self) -> bool {
        write(self.at, &[self.original]);
        // Who executed it just before is about to be trapped. A kick is delivered after that, so whoever has taken one has no trap to come. That some thread inside is being
        // diverted says nothing: it may be on its way out of an earlier generation.
        let inside = |block: &&ThreadBlock| block.innermost_domain() == self.domain.index && !block.is_blocked();
        let lives = || self.domain.lives(self.generation);
        for block in thread::all().filter(inside) {
            let record = crate::threads::record(block);
            let kicks = record.kicks.load(SeqCst);
            crate::threads::kick(block);
            while record.kicks.load(SeqCst) == kicks && inside(&block) && lives() {
                std::thread::yield_now();
            }
        }
        !lives()
    }
}

/// A fault that the domain's next image is to have from the first.
pub fn set_in_next(domain: &str, offset: u32, fault: Fault) {
    PLANS.lock().expect("nobody panics with it").insert(domain.into(), Plan::Fault(offset, fault));
}

/// The next image of the domain is to be traced at these offsets, where its instructions begin.
pub fn trace_next(domain: &str, starts: &[u32]) {
    PLANS.lock().expect("nobody panics with it").insert(domain.into(), Plan::Trace(starts.to_vec()));
}

fn trace_of(domain: &str) -> Option<&'static Trace> {
    TRACES.get(domain::by_name(domain)?.index)
}

/// From now on what is reached in the domain was reached in this phase (from 1).
pub fn set_phase(domain: &str, phase: u8) {
    if let Some(trace) = trace_of(domain) {
        trace.phase.store(phase, SeqCst);
    }
}

/// Which of these offsets have been reached while the domain was traced, and in which phase first.
pub fn reached(domain: &str, starts: &[u32]) -> Vec<(u32, u8)> {
    let Some(reached) = trace_of(domain).map(|trace| trace.reached.load(SeqCst)).filter(|reached| !reached.is_null())
    else {
        return Vec::new();
    };
    // SAFETY: of the image's length, which all offsets are less than; never freed.
    let phase = |start: &u32| unsafe { (*reached.add(*start as usize)).load(SeqCst) };
    starts.iter().map(|start| (*start, phase(start))).filter(|(_, phase)| *phase != 0).collect()
}

/// Has the thread stopped where it is now, stepped over `steps` instructions of the domain of this index, and then met with `fault`; if it is in that domain's
/// code, and doesn't leave it before.
pub fn step(block: &ThreadBlock, domain: usize, steps: u32, fault: Fault) {
    STEP_DOMAIN.store(domain, SeqCst);
    STEPPED_TO.store(0, SeqCst);
    STEP_FAULT.store(fault as u8, SeqCst);
    crate::threads::record(block).steps.store(steps.max(1), SeqCst);
    crate::threads::kick(block);
}

/// Has whoever executes the domain's code now meet with `fault` a few instructions on. False if nobody did, or left it before.
pub fn strike(domain: usize, fault: Fault) -> bool {
    let executes = |block: &&ThreadBlock| block.innermost_domain() == domain && !block.is_blocked();
    thread::all().find(executes).is_some_and(|block| {
        step(block, domain, 3, fault);
        // Whoever is off its CPU comes to it when it is on it again.
        while is_stepping(block) && !block.is_blocked() {
            std::thread::yield_now();
        }
        step_no_more(block).is_some()
    })
}

/// Whether that is still going on.
pub fn is_stepping(block: &ThreadBlock) -> bool {
    crate::threads::record(block).steps.load(SeqCst) != 0
}

/// Ends that. The address of the instruction at which the thread has met with its fault, or is about to, if it has come so far.
pub fn step_no_more(block: &ThreadBlock) -> Option<usize> {
    if crate::threads::record(block).steps.swap(0, SeqCst) != 0 {
        return None;
    }
    // It came to its end by itself, and is about to say how.
    loop {
        match STEPPED_TO.load(SeqCst) {
            0 => std::thread::yield_now(),
            GIVEN_UP => return None,
            at => return Some(at),
        }
    }
}

// What the machine and the signal handler tell us.

/// The starting thread of a domain has got memory for the image.
pub fn image_mapped(first: NonNull<u8>, pages: usize) {
    if let Some(name) = thread::current().name().strip_prefix("start ") {
        let image = (first.as_ptr().addr(), pages * PAGE);
        IMAGES.lock().expect("nobody panics with it").insert(name.to_owned(), image);
    }
}

/// An image is whole, and still writable.
pub fn image_written(ranges: &[Protected]) {
    let name = thread::current().name();
    let Some(name) = name.strip_prefix("start ") else { return };
    let Some(plan) = PLANS.lock().expect("nobody panics with it").remove(name) else { return };
    let Some(&(base, len)) = IMAGES.lock().expect("nobody panics with it").get(name) else { return };
    let executable = |offset: u32| {
        let at = base + offset as usize;
        let holds = |range: &&Protected| {
            range.protection == Protection::ReadExecute
                && (range.first.as_ptr().addr()..range.first.as_ptr().addr() + range.pages * PAGE).contains(&at)
        };
        ranges.iter().any(|range| holds(&range))
    };
    let image = base as *mut u8;
    match plan {
        Plan::Fault(offset, fault) if executable(offset) => {
            if fault == Fault::Kill {
                KILL.store(base + offset as usize, SeqCst);
            }
            // SAFETY: inside the image, which is not yet protected and known to this thread alone.
            unsafe { image.add(offset as usize).write(fault.code()[0]) };
        }
        Plan::Trace(starts) => {
            let Some(trace) = trace_of(name) else { return };
            // SAFETY: the image, all of it written.
            let original = unsafe { std::slice::from_raw_parts(image, len) }.to_vec();
            trace.original.store(original.leak().as_mut_ptr(), SeqCst);
            if trace.reached.load(SeqCst).is_null() {
                let none: Vec<AtomicU8> = (0..len).map(|_| AtomicU8::new(0)).collect();
                trace.reached.store(none.leak().as_mut_ptr(), SeqCst);
            }
            trace.len.store(len, SeqCst);
            trace.base.store(base, SeqCst);
            for start in starts.into_iter().filter(|start| executable(*start)) {
                // SAFETY: as for a fault.
                unsafe { image.add(start as usize).write(INT3) };
            }
        }
        Plan::Fault(..) => {}
    }
}

/// An image goes: what is mapped there next is another.
pub fn image_unmapped(first: NonNull<u8>, pages: usize) {
    let base = first.as_ptr().addr();
    for trace in &TRACES {
        let _ = trace.base.compare_exchange(base, 0, SeqCst, SeqCst);
    }
    let kill = KILL.load(SeqCst);
    if (base..base + pages * PAGE).contains(&kill) {
        let _ = KILL.compare_exchange(kill, 0, SeqCst, SeqCst);
    }
}

/// A kicked thread is about to go on: perhaps by single steps.
pub fn kicked(block: &ThreadBlock, record: &Record, registers: &mut Registers) {
    if goes_on(block, record, registers[libc::REG_RIP as usize] as usize) {
        registers[libc::REG_EFL as usize] |= TRAP_FLAG;
    }
}

/// A trap of the kind that stops make. `None` if it was none of ours: then it is the domain's.
pub fn trapped(block: &ThreadBlock, record: &Record, code: i32, registers: &mut Registers) -> Option<Verdict> {
    let rip = registers[libc::REG_RIP as usize] as usize;
    if code == TRAP_TRACE {
        if !goes_on(block, record, rip) {
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
        }
        return Some(Verdict::Continue);
    }
    let at = rip - 1;
    if let Some(trace) = TRACES.iter().find(|trace| {
        let base = trace.base.load(SeqCst);
        base != 0 && at.wrapping_sub(base) < trace.len.load(SeqCst)
    }) {
        let offset = at - trace.base.load(SeqCst);
        // SAFETY: both are of the image's length, and never freed.
        let (original, reached) =
            unsafe { (*trace.original.load(SeqCst).add(offset), &*trace.reached.load(SeqCst).add(offset)) };
        let _ = reached.compare_exchange(0, trace.phase.load(SeqCst), SeqCst, SeqCst);
        write(at, &[original]);
        registers[libc::REG_RIP as usize] = at as i64;
        return Some(Verdict::Continue);
    }
    if at == KILL.load(SeqCst) {
        let domain = domain::all().into_iter().find(|domain| domain.index == block.innermost_domain())?;
        // Nothing of the kernel's or the C library's is interrupted: the thread is in the domain's code. Others may have come here first.
        if !block.is_cancelled() {
            supervisor::order(Command::Kill(domain));
        }
        while !block.is_cancelled() {
            std::thread::yield_now();
        }
        registers[libc::REG_RIP as usize] = at as i64;
        return Some(trap::consider(block, at));
    }
    None
}

/// Whether a stepped thread is to be stopped again after the instruction at `rip`; sets its fault there when it has come far enough.
fn goes_on(block: &ThreadBlock, record: &Record, rip: usize) -> bool {
    let steps = record.steps.load(SeqCst);
    let set = |to| record.steps.compare_exchange(steps, to, SeqCst, SeqCst).is_ok();
    if steps == 0 {
        return false;
    }
    // In the kernel's and the C library's code no thread is stepped: they may have signals blocked.
    if block.innermost_domain() != STEP_DOMAIN.load(SeqCst) || !trap::executes(block, rip) {
        if set(0) {
            STEPPED_TO.store(GIVEN_UP, SeqCst);
        }
        return false;
    }
    // Whoever wanted it stepped may want that no more.
    if !set(steps - 1) {
        return false;
    }
    if steps > 1 {
        return true;
    }
    let fault = Fault::ALL[usize::from(STEP_FAULT.load(SeqCst)) % Fault::ALL.len()];
    if fault == Fault::Kill {
        KILL.store(rip, SeqCst);
    }
    write(rip, fault.code());
    STEPPED_TO.store(rip, SeqCst);
    false
}
