//! Catching exceptions that a test causes on purpose: the trap's way of diverting, without a domain.

use core::{
    arch::naked_asm,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use kernel_core::platform::Resume;

use crate::{cpu::trap::Frame, lock::SpinLock};

/// What ended a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caught {
    pub vector: u8,
    pub address: u64,
    pub rip: u64,
}

/// Whether someone expects an exception.
static ARMED: AtomicBool = AtomicBool::new(false);
/// On which thread.
static BLOCK: AtomicUsize = AtomicUsize::new(0);
static RIP: AtomicUsize = AtomicUsize::new(0);
static RSP: AtomicUsize = AtomicUsize::new(0);
static VECTOR: AtomicU64 = AtomicU64::new(u64::MAX);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static AT: AtomicU64 = AtomicU64::new(0);
/// One body at a time.
static TURN: SpinLock<()> = SpinLock::new(());

/// Asked by the trap's handler before anyone else. Diverts the thread whose exception is expected.
pub fn caught(vector: u8, address: u64, frame: &mut Frame) -> bool {
    let block = kernel_core::thread::current() as *const _ as usize;
    if !ARMED.load(Ordering::SeqCst) || BLOCK.load(Ordering::SeqCst) != block {
        return false;
    }
    ARMED.store(false, Ordering::SeqCst);
    VECTOR.store(vector.into(), Ordering::SeqCst);
    ADDRESS.store(address, Ordering::SeqCst);
    AT.store(frame.rip, Ordering::SeqCst);
    frame.divert(Resume { rip: RIP.load(Ordering::SeqCst), rsp: RSP.load(Ordering::SeqCst) });
    true
}

/// Runs `body`, which must own nothing that needs dropping; says what exception ended it, if any did.
pub fn run(body: extern "C" fn()) -> Option<Caught> {
    while TURN.lock_within(1).is_none_or(|_| ARMED.load(Ordering::SeqCst)) {
        crate::scheduler::yield_now();
    }
    VECTOR.store(u64::MAX, Ordering::SeqCst);
    BLOCK.store(kernel_core::thread::current() as *const _ as usize, Ordering::SeqCst);
    call(body, &RIP, &RSP, &ARMED);
    ARMED.store(false, Ordering::SeqCst);
    let vector = u8::try_from(VECTOR.load(Ordering::SeqCst)).ok()?;
    Some(Caught { vector, address: ADDRESS.load(Ordering::SeqCst), rip: AT.load(Ordering::SeqCst) })
}

/// Saves what a function must keep, notes where to continue, arms, and calls.
#[unsafe(naked)]
extern "C" fn call(body: extern "C" fn(), rip: &AtomicUsize, rsp: &AtomicUsize, armed: &AtomicBool) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "lea rax, [rip + 2f]",
        "mov [rsi], rax",
        "mov [rdx], rsp",
        "mov byte ptr [rcx], 1",
        "call rdi",
        "2:",
        "cld",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
