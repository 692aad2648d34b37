//! Signals as traps: an exception of the CPU, or a kick, on an alternate stack; the saved context is edited as an exception frame would be.

use std::{mem, ptr::null_mut, sync::atomic::Ordering::SeqCst};

use kernel_core::{
    platform::{Resume, Verdict},
    thread,
    trap::{self, Exception, ExceptionKind},
};

use crate::{stops, threads};

/// The directed signal.
pub const KICK: i32 = libc::SIGUSR1;

const STACK: usize = 64 * 1024;
/// Direction, trap and alignment-check flags, which a continuation wants clear.
const FLAGS: i64 = 1 << 10 | 1 << 8 | 1 << 18;

/// Installs the handlers, for the whole process.
pub fn install() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, KICK] {
        // SAFETY: the handler keeps to what a handler may do; the mask keeps it from being entered twice.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigfillset(&mut action.sa_mask);
            assert_eq!(libc::sigaction(signal, &action, null_mut()), 0);
        }
    }
}

/// Gives the calling thread an alternate stack. It stays mapped: the thread may end anywhere.
pub fn use_alternate_stack() {
    // SAFETY: fresh memory, this thread's alone.
    unsafe {
        let memory = libc::mmap(
            null_mut(),
            STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(memory, libc::MAP_FAILED);
        let stack = libc::stack_t { ss_sp: memory, ss_flags: 0, ss_size: STACK };
        assert_eq!(libc::sigaltstack(&stack, null_mut()), 0);
    }
}

/// Gives the alternate stack back, before the thread ends.
pub fn drop_alternate_stack() {
    // SAFETY: the thread is on its own stack, so the alternate one is not in use.
    unsafe {
        let mut old: libc::stack_t = mem::zeroed();
        let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: STACK };
        if libc::sigaltstack(&none, &mut old) == 0 && !old.ss_sp.is_null() {
            libc::munmap(old.ss_sp, old.ss_size);
        }
    }
}

unsafe extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system's arguments of a handler with SA_SIGINFO.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    let registers = &mut context.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as usize;
    let rsp = registers[libc::REG_RSP as usize] as usize;
    let block = thread::current();
    let record = threads::record(block);
    if signal == KICK {
        record.kicks.fetch_add(1, SeqCst);
    }
    // Only what the thread sent to itself: a single step on the way there is none of it.
    let hold_rip = if signal == KICK { record.hold_rip.swap(0, SeqCst) } else { 0 };
    let stop = if signal == libc::SIGTRAP { stops::trapped(block, record, info.si_code, registers) } else { None };
    let verdict = match (signal, stop) {
        (_, Some(verdict)) => verdict,
        (KICK, _) if hold_rip != 0 => Verdict::Hold(Resume { rip: hold_rip, rsp: record.hold_rsp.load(SeqCst) }),
        (KICK, _) => trap::consider(block, rip),
        _ => {
            // SAFETY: an address is there for these signals; for others it is not used.
            let address = unsafe { info.si_addr() } as usize;
            let kind = match signal {
                // The system reports #GP as a fault at address 0 with this code.
                libc::SIGSEGV if info.si_code == 0x80 => ExceptionKind::Other { vector: 13 },
                libc::SIGSEGV | libc::SIGBUS => ExceptionKind::PageFault { address },
                libc::SIGILL => ExceptionKind::Other { vector: 6 },
                libc::SIGFPE => ExceptionKind::Other { vector: 0 },
                _ => ExceptionKind::Other { vector: 3 },
            };
            trap::exception(block, &Exception { kind, rip, rsp })
        }
    };
    match verdict {
        Verdict::Continue if signal == KICK => stops::kicked(block, record, registers),
        Verdict::Continue => {}
        Verdict::Hold(at) => {
            registers[libc::REG_RIP as usize] = at.rip as i64;
            registers[libc::REG_RSP as usize] = at.rsp as i64;
            registers[libc::REG_EFL as usize] &= !FLAGS;
            threads::wait_for_release(record);
        }
        Verdict::KernelBug => {
            report(signal, rip, rsp);
            // SAFETY: the default action, taken as soon as the handler returns to the faulting instruction.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Says what happened, by means that a handler may use.
fn report(signal: i32, rip: usize, rsp: usize) {
    let mut line = *b"rig: the kernel is at fault: signal    rip 0x0000000000000000 rsp 0x0000000000000000\n";
    line[36] = b'0' + (signal / 10) as u8;
    line[37] = b'0' + (signal % 10) as u8;
    for (end, value) in [(61, rip), (84, rsp)] {
        for digit in 0..16 {
            line[end - 1 - digit] = b"0123456789abcdef"[value >> (4 * digit) & 15];
        }
    }
    // SAFETY: the line outlives the call.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}
