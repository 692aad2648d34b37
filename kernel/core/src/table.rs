//! The kernel's table: the functions that a domain's trusted runtime calls, in the kernel's image.
//!
//! Each entry checks the stack, counts the depth while it works, and goes back only into a domain that lives. The kernel's own image is connected to
//! [`INSIDE`], the same functions without that frame, for what drops in the kernel (an `RRef` in a proxy, for example).

use core::{
    arch::asm,
    ptr::{NonNull, null_mut},
    slice,
    sync::atomic::{AtomicU32, Ordering, compiler_fence},
};

use alloc::{boxed::Box, string::String};
use interfaces::{
    abi::{KernelTable, Reason},
    block::{Order, Requests},
    packet::Batch,
};

use crate::{
    blocks, call, capability, exchange, given_back,
    incarnation::{Cause, Owner},
    log, machine, packets,
    platform::{Mapping, PAGE, Priority},
    random,
    thread::{self, KERNEL_RESERVE, STACK_PAGES, Spawn, ThreadBlock},
    wait,
};

#[inline(always)]
fn stack_pointer() -> usize {
    let sp: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Whether less than the kernel's reserve is left of the stack.
#[inline(always)]
fn is_short(block: &ThreadBlock) -> bool {
    stack_pointer().wrapping_sub(KERNEL_RESERVE) < block.stack_limit.load(Ordering::Relaxed)
}

/// Begins a kernel entry: from here on the thread isn't diverted.
#[inline(always)]
pub(crate) fn enter_kernel() {
    let block = thread::current();
    if is_short(block) {
        stack_is_short(block);
    }
    block.depth.store(block.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

/// Ends a kernel entry. Returns only into a live domain.
#[inline(always)]
pub(crate) fn leave_kernel() {
    compiler_fence(Ordering::SeqCst);
    let block = thread::current();
    let depth = block.depth.load(Ordering::Relaxed) - 1;
    block.depth.store(depth, Ordering::Relaxed);
    if depth == 0 {
        call::come_back(block);
    }
}

/// A domain has used its stack up so far that the kernel can't work on it: the domain's fault, since its callers left it its declared minimum. (Inside another
/// entry it isn't so: that one has found its reserve.)
#[cold]
fn stack_is_short(block: &ThreadBlock) {
    if block.depth.load(Ordering::Relaxed) == 0 {
        thread::overflow(block)
    }
}

/// The innermost domain ends here.
fn crash_of(block: &ThreadBlock, reason: Reason, words: &[u8]) -> ! {
    let incarnation = block.innermost_relaxed();
    if incarnation.domain.is_none() {
        machine().fatal(format_args!(
            "a kernel thread crashed ({}): {}",
            reason.name(),
            String::from_utf8_lossy(words)
        ));
    }
    incarnation.die(Cause::Crash(reason), Some(block), words);
    block.depth.store(0, Ordering::Relaxed);
    call::never_return(block)
}

macro_rules! entry {
    ($work:expr) => {{
        enter_kernel();
        let result = $work;
        leave_kernel();
        result
    }};
}

/// What domains get.
pub(crate) static TABLE: KernelTable = KernelTable {
    log: {
        unsafe extern "C" fn entry(level: u32, text: *const u8, len: usize) {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.log)(level, text, len) })
        }
        entry
    },
    crash,
    now: {
        extern "C" fn entry() -> u64 {
            entry!(machine().now())
        }
        entry
    },
    date: {
        extern "C" fn entry() -> u64 {
            entry!((INSIDE.date)())
        }
        entry
    },
    random: {
        extern "C" fn entry() -> u64 {
            entry!(random::draw())
        }
        entry
    },
    heap_grow: {
        extern "C" fn entry(pages: usize) -> *mut u8 {
            entry!((INSIDE.heap_grow)(pages))
        }
        entry
    },
    exchange_allocate: {
        extern "C" fn entry(kind: u32, size: usize, align: usize) -> *mut u8 {
            entry!((INSIDE.exchange_allocate)(kind, size, align))
        }
        entry
    },
    exchange_free: {
        unsafe extern "C" fn entry(object: *mut u8) {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.exchange_free)(object) })
        }
        entry
    },
    exchange_put: {
        unsafe extern "C" fn entry(place: *mut u8, object: *mut u8) -> u32 {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.exchange_put)(place, object) })
        }
        entry
    },
    exchange_take: {
        unsafe extern "C" fn entry(object: *mut u8) {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.exchange_take)(object) })
        }
        entry
    },
    packets_allocate: {
        unsafe extern "C" fn entry(batch: *mut Batch, count: usize) -> usize {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.packets_allocate)(batch, count) })
        }
        entry
    },
    packets_transfer: {
        unsafe extern "C" fn entry(from: *mut Batch, mask: u32, to: *mut Batch) -> usize {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.packets_transfer)(from, mask, to) })
        }
        entry
    },
    packets_release: {
        unsafe extern "C" fn entry(batch: *mut Batch, mask: u32) {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.packets_release)(batch, mask) })
        }
        entry
    },
    blocks_add: {
        unsafe extern "C" fn entry(batch: *mut Requests, order: *const Order, bytes: usize) -> bool {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.blocks_add)(batch, order, bytes) })
        }
        entry
    },
    blocks_transfer: {
        unsafe extern "C" fn entry(from: *mut Requests, mask: u32, to: *mut Requests) -> usize {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.blocks_transfer)(from, mask, to) })
        }
        entry
    },
    blocks_share: {
        unsafe extern "C" fn entry(from: *const Requests, mask: u32, to: *mut Requests) -> usize {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.blocks_share)(from, mask, to) })
        }
        entry
    },
    blocks_release: {
        unsafe extern "C" fn entry(batch: *mut Requests, mask: u32) {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.blocks_release)(batch, mask) })
        }
        entry
    },
    thread_spawn: {
        unsafe extern "C" fn entry(
            name: *const u8,
            len: usize,
            cpu: u32,
            stack: usize,
            start: extern "C" fn(*mut u8),
            argument: *mut u8,
        ) -> u64 {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.thread_spawn)(name, len, cpu, stack, start, argument) })
        }
        entry
    },
    thread_yield: {
        extern "C" fn entry() {
            entry!((INSIDE.thread_yield)())
        }
        entry
    },
    thread_sleep: {
        extern "C" fn entry(deadline: u64) -> u32 {
            entry!((INSIDE.thread_sleep)(deadline))
        }
        entry
    },
    wait: {
        unsafe extern "C" fn entry(word: *const AtomicU32, expected: u32, deadline: u64) -> u32 {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.wait)(word, expected, deadline) })
        }
        entry
    },
    wake: {
        unsafe extern "C" fn entry(word: *const AtomicU32, count: u32) {
            // SAFETY: the caller's contract.
            entry!(unsafe { (INSIDE.wake)(word, count) })
        }
        entry
    },
    cap_release: {
        unsafe extern "C" fn entry(proxy: *mut u8) {
            entry!(capability::release(proxy, call::acting_owner()))
        }
        entry
    },
    alive: {
        extern "C" fn entry() {
            entry!(sign_of_life())
        }
        entry
    },
    want_back: {
        extern "C" fn entry() {
            entry!((INSIDE.want_back)())
        }
        entry
    },
    given_back: {
        extern "C" fn entry(kind: u32) -> *mut u8 {
            entry!((INSIDE.given_back)(kind))
        }
        entry
    },
};

/// What the kernel's own image is connected to.
pub(crate) static INSIDE: KernelTable = KernelTable {
    log,
    crash,
    now,
    date,
    random,
    heap_grow,
    exchange_allocate,
    exchange_free,
    exchange_put,
    exchange_take,
    packets_allocate,
    packets_transfer,
    packets_release,
    blocks_add,
    blocks_transfer,
    blocks_share,
    blocks_release,
    thread_spawn,
    thread_yield,
    thread_sleep,
    wait: wait_for,
    wake,
    cap_release,
    alive: sign_of_life,
    want_back,
    given_back,
};

/// # Safety
/// `len` bytes at `start`, while the result is used.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> &'a [u8] {
    // SAFETY: this function's contract; no byte is read where there is none.
    if len == 0 { &[] } else { unsafe { slice::from_raw_parts(start, len) } }
}

unsafe extern "C" fn log(level: u32, text: *const u8, len: usize) {
    let domain = call::acting_owner().domain();
    // SAFETY: the caller's contract.
    log::write(log::Level::from_number(level), domain, unsafe { bytes(text, len) });
}

unsafe extern "C" fn crash(reason: u32, words: *const u8, len: usize) -> ! {
    let block = thread::current();
    if is_short(block) {
        stack_is_short(block);
    }
    block.depth.store(block.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let reason = Reason::ALL.into_iter().find(|known| *known as u32 == reason).unwrap_or(Reason::Panic);
    // SAFETY: the caller's contract.
    crash_of(block, reason, unsafe { bytes(words, len) })
}

extern "C" fn now() -> u64 {
    machine().now()
}

extern "C" fn date() -> u64 {
    machine().boot_date().map_or(0, |boot| boot.saturating_add(machine().now() / 1_000_000_000))
}

extern "C" fn random() -> u64 {
    random::draw()
}

extern "C" fn heap_grow(pages: usize) -> *mut u8 {
    let incarnation = thread::current().innermost_relaxed();
    incarnation.map(pages, Mapping::Heap).map_or(null_mut(), NonNull::as_ptr)
}

extern "C" fn exchange_allocate(kind: u32, size: usize, align: usize) -> *mut u8 {
    exchange::allocate(kind, size, align).map_or(null_mut(), NonNull::as_ptr)
}

extern "C" fn want_back() {
    thread::current().innermost_relaxed().wants_back();
}

extern "C" fn given_back(kind: u32) -> *mut u8 {
    given_back::fetch(kind).map_or(null_mut(), NonNull::as_ptr)
}

unsafe extern "C" fn exchange_free(object: *mut u8) {
    if let Some(object) = NonNull::new(object) {
        // SAFETY: the caller's contract.
        unsafe { exchange::free(object) }
    }
}

unsafe extern "C" fn exchange_put(place: *mut u8, object: *mut u8) -> u32 {
    // SAFETY: the caller's contract.
    NonNull::new(object).map_or(0, |object| unsafe { exchange::put(place.addr(), object) })
}

unsafe extern "C" fn exchange_take(object: *mut u8) {
    if let Some(object) = NonNull::new(object) {
        // SAFETY: the caller's contract.
        unsafe { exchange::take(object) }
    }
}

unsafe extern "C" fn packets_allocate(batch: *mut Batch, count: usize) -> usize {
    // SAFETY: the caller's batch, used by nobody else.
    packets::fill(unsafe { &mut *batch }, count)
}

unsafe extern "C" fn packets_transfer(from: *mut Batch, mask: u32, to: *mut Batch) -> usize {
    // SAFETY: two batches of the caller, used by nobody else.
    packets::transfer(unsafe { &mut *from }, mask, unsafe { &mut *to })
}

unsafe extern "C" fn packets_release(batch: *mut Batch, mask: u32) {
    // SAFETY: the caller's batch, used by nobody else.
    packets::release(unsafe { &mut *batch }, mask);
}

unsafe extern "C" fn blocks_add(batch: *mut Requests, order: *const Order, bytes: usize) -> bool {
    // SAFETY: the caller's batch, used by nobody else, and its order.
    blocks::add(unsafe { &mut *batch }, unsafe { *order }, bytes)
}

unsafe extern "C" fn blocks_transfer(from: *mut Requests, mask: u32, to: *mut Requests) -> usize {
    // SAFETY: two batches of the caller, used by nobody else.
    blocks::transfer(unsafe { &mut *from }, mask, unsafe { &mut *to })
}

unsafe extern "C" fn blocks_share(from: *const Requests, mask: u32, to: *mut Requests) -> usize {
    // SAFETY: two batches of the caller, used by nobody else.
    blocks::share(unsafe { &*from }, mask, unsafe { &mut *to })
}

unsafe extern "C" fn blocks_release(batch: *mut Requests, mask: u32) {
    // SAFETY: the caller's batch, used by nobody else.
    blocks::release(unsafe { &mut *batch }, mask);
}

unsafe extern "C" fn thread_spawn(
    name: *const u8,
    len: usize,
    cpu: u32,
    stack: usize,
    entry: extern "C" fn(*mut u8),
    argument: *mut u8,
) -> u64 {
    let incarnation = thread::current().innermost_relaxed();
    let Some(domain) = incarnation.domain else { return 0 };
    if !domain.spec.cpus.contains(&cpu) || cpu as usize >= machine().cpus() {
        return 0;
    }
    // SAFETY: the caller's contract.
    let name = String::from_utf8_lossy(unsafe { bytes(name, len.min(32)) }).into_owned();
    let base = incarnation.shared();
    let visited = base.clone();
    let argument = Argument(argument);
    let work = move || {
        let argument = argument;
        // However the visit ends, the thread does too.
        let _ = call::visit(&call::base_gate(&visited), |_| entry(argument.0));
    };
    let spawn = Spawn {
        name,
        cpu: cpu as usize,
        priority: Priority::Normal,
        stack_pages: if stack == 0 { STACK_PAGES } else { stack.div_ceil(PAGE).max(STACK_PAGES) },
        base: Some(base),
        domain: Some(domain),
        work: Box::new(work),
    };
    thread::spawn(spawn).unwrap_or(0)
}

/// What a domain hands to its new thread.
struct Argument(*mut u8);

// SAFETY: `Env::spawn` takes closures that are `Send` only.
unsafe impl Send for Argument {}

extern "C" fn thread_yield() {
    sign_of_life();
    machine().thread_yield();
}

extern "C" fn thread_sleep(deadline: u64) -> u32 {
    sign_of_life();
    wait::sleep(deadline)
}

unsafe extern "C" fn wait_for(word: *const AtomicU32, expected: u32, deadline: u64) -> u32 {
    sign_of_life();
    // SAFETY: the caller's contract.
    unsafe { wait::wait(word, expected, deadline) }
}

unsafe extern "C" fn wake(word: *const AtomicU32, count: u32) {
    wait::wake(word, count);
}

/// What is dropped in the kernel's image is the kernel's own.
unsafe extern "C" fn cap_release(proxy: *mut u8) {
    capability::release(proxy, Owner::KERNEL);
}

extern "C" fn sign_of_life() {
    thread::current().sign_of_life();
}
