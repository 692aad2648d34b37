//! Threads of the core as pthreads: each has a stack of its own kind to leave to, waits on futexes, and finds its block by `gs`.

use std::{
    arch::naked_asm,
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use kernel_core::{
    platform::{NEVER, Resume, ThreadStart},
    thread::{self, ThreadBlock},
};

use crate::{machine::clock, signals};

/// What the rig knows of a thread; found by `ThreadBlock::platform`. Never freed, since a block is used again with the same one.
pub struct Record {
    /// What `gs:[0]` is.
    block: AtomicPtr<ThreadBlock>,
    /// 1: somebody has woken the thread from `park`, or will have.
    permit: AtomicU32,
    /// 1: a held thread may go on.
    release: AtomicU32,
    /// Where `hold` wants the thread to continue; 0: the signal is a mere kick.
    pub hold_rip: AtomicUsize,
    pub hold_rsp: AtomicUsize,
    /// Where the pthread's own stack was left.
    saved: AtomicUsize,
    /// The Linux thread, 0 while there is none. Locked, so that nobody sends a signal to a thread that has just ended.
    tid: Mutex<i32>,
    tid_hint: AtomicI32,
    /// Instructions of its domain's that the thread is still to be stepped over (`stops`).
    pub steps: AtomicU32,
    /// Kicks that the thread has taken.
    pub kicks: AtomicU32,
}

/// The rig's record of a block's thread.
pub fn record(block: &ThreadBlock) -> &'static Record {
    let record = block.platform.load(SeqCst).cast::<Record>();
    // SAFETY: set by `adopt`, from a leaked box, before the thread or anybody else asks.
    unsafe { record.as_ref() }.expect("a thread of the rig")
}

/// Makes the calling pthread the thread of `block`.
pub fn adopt(block: &'static ThreadBlock) {
    let record = enroll(block);
    record.permit.store(0, SeqCst);
    record.release.store(0, SeqCst);
    // SAFETY: gs is nobody else's in this process; the record is never freed. (ARCH_SET_GS = 0x1001.)
    let done = unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1001, (&raw const record.block).addr()) };
    assert_eq!(done, 0, "arch_prctl: {}", std::io::Error::last_os_error());
    signals::use_alternate_stack();
    // SAFETY: no arguments, no failure.
    let tid = unsafe { libc::gettid() };
    record.tid_hint.store(tid, SeqCst);
    *record.tid.lock().expect("no thread of the rig panics with it") = tid;
}

/// Whether `gs` of the calling pthread leads to a block.
pub fn is_of_the_core() -> bool {
    let mut base = 0usize;
    // SAFETY: writes one word. (ARCH_GET_GS = 0x1004.)
    let done = unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1004, &raw mut base) };
    done == 0 && base != 0
}

/// Gives a block its record.
fn enroll(block: &'static ThreadBlock) -> &'static Record {
    if block.platform.load(SeqCst).is_null() {
        let record = Box::leak(Box::new(Record {
            block: AtomicPtr::new(ptr::from_ref(block).cast_mut()),
            permit: AtomicU32::new(0),
            release: AtomicU32::new(0),
            hold_rip: AtomicUsize::new(0),
            hold_rsp: AtomicUsize::new(0),
            saved: AtomicUsize::new(0),
            tid: Mutex::new(0),
            tid_hint: AtomicI32::new(0),
            steps: AtomicU32::new(0),
            kicks: AtomicU32::new(0),
        }));
        block.platform.store(ptr::from_mut(record).cast(), SeqCst);
    }
    record(block)
}

/// Keeps the calling pthread on one CPU.
pub fn pin(cpu: usize) {
    // SAFETY: a CPU set is plain data; the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

pub fn start(start: ThreadStart) -> bool {
    enroll(start.block);
    let ThreadStart { block, cpu, stack_top, entry, .. } = start;
    let spawned = std::thread::Builder::new().name(format!("rig {cpu}")).stack_size(256 * 1024).spawn(move || {
        // As far as the machine has it.
        pin(cpu % std::thread::available_parallelism().map_or(1, usize::from));
        // Sleeps end when they should, as on the metal: by default Linux adds 50 µs.
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        adopt(block);
        let record = record(block);
        // SAFETY: `entry` doesn't return but ends in `exit`, which comes back here by what was saved.
        unsafe { onto(stack_top, entry, block, record.saved.as_ptr()) };
        *record.tid.lock().expect("no thread of the rig panics with it") = 0;
        signals::drop_alternate_stack();
        thread::ended(block);
    });
    spawned.is_ok()
}

/// Leaves for another stack: saves what a callee must keep, then calls `entry(block)` there.
#[unsafe(naked)]
unsafe extern "C" fn onto(
    stack_top: usize,
    entry: extern "C" fn(&'static ThreadBlock) -> !,
    block: &'static ThreadBlock,
    saved: *mut usize,
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rcx], rsp",
        "mov rsp, rdi",
        "mov rdi, rdx",
        "xor ebp, ebp",
        "call rsi",
        "ud2",
    )
}

/// Comes back from [`onto`], on the stack that was saved.
#[unsafe(naked)]
unsafe extern "C" fn back(saved: usize) -> ! {
    naked_asm!("mov rsp, rdi", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp", "ret")
}

/// Ends the calling thread: back to its pthread's stack, which does the rest.
pub fn exit() -> ! {
    let saved = record(thread::current()).saved.load(SeqCst);
    // SAFETY: `onto` saved it, further out on this pthread, and waits.
    unsafe { back(saved) }
}

/// Waits while `*word == expected`, at most until `deadline`.
pub fn futex_wait(word: &AtomicU32, expected: u32, deadline: u64) {
    let mut timeout = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut timeout_at = ptr::null();
    if deadline != NEVER {
        let left = Duration::from_nanos(deadline.saturating_sub(clock()));
        timeout.tv_sec = left.as_secs().min(1 << 30) as i64;
        timeout.tv_nsec = i64::from(left.subsec_nanos());
        timeout_at = &raw const timeout;
    }
    // SAFETY: the word and the time outlive the call.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, expected, timeout_at)
    };
}

/// Wakes whoever waits at `word`.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
}

pub fn park(deadline: u64) {
    let record = record(thread::current());
    if record.permit.swap(0, SeqCst) == 0 {
        futex_wait(&record.permit, 0, deadline);
        record.permit.store(0, SeqCst);
    }
}

/// Async-signal-safe.
pub fn unpark(block: &ThreadBlock) {
    let record = block.platform.load(SeqCst).cast::<Record>();
    // SAFETY: null, or a leaked box.
    if let Some(record) = unsafe { record.as_ref() } {
        record.permit.store(1, SeqCst);
        futex_wake(&record.permit);
    }
}

/// Sends the thread through its signal handler.
pub fn kick(block: &ThreadBlock) {
    let record = record(block);
    let tid = record.tid.lock().expect("no thread of the rig panics with it");
    if *tid != 0 {
        // SAFETY: the thread is this process's and hasn't ended: its record's lock is held.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), *tid, signals::KICK) };
    }
}

/// Holds the calling thread, off its stack.
pub fn hold(at: Resume) -> ! {
    let record = record(thread::current());
    record.hold_rsp.store(at.rsp, SeqCst);
    record.hold_rip.store(at.rip, SeqCst);
    loop {
        // The handler sees `hold_rip` and doesn't come back here.
        // SAFETY: a signal to ourselves, which is delivered before the call returns.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), record.tid_hint.load(SeqCst), signals::KICK) };
    }
}

/// Waits for [`release`], in the signal handler.
pub fn wait_for_release(record: &Record) {
    while record.release.swap(0, SeqCst) == 0 {
        futex_wait(&record.release, 0, NEVER);
    }
}

pub fn release(block: &ThreadBlock) {
    let record = record(block);
    record.release.store(1, SeqCst);
    futex_wake(&record.release);
}
