//! What a call between domains costs, natively, in cycles of the time-stamp counter: medians of 2,001 runs of 1,000 calls; what a crash costs; and beside them
//! what Linux charges for its own ways, in the same run.
//!
//! `bench-ipc [--report FILE]` prints a table, and writes a JSON list of `{"row", "metric", "median", "unit"}`. A run in which a plain call takes more than
//! 15 cycles is no measurement (the machine is busy, or the loop isn't what it should be): it says so and fails.

use std::{
    arch::asm,
    hint::black_box,
    process::ExitCode,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use interfaces::{
    CallError, Interface, Port, RRef,
    packet::Batch,
    probe::{Deed, Probe, Word},
};
use kernel_core::domain;
use rig::{
    Rig, Settings,
    bench::{self, Row, median, stamp},
    pin,
};

const RUNS: usize = 2_001;
const CALLS: usize = 1_000;
const CRASHES: usize = 201;
/// More than this for a plain call, and the run is invalid.
const PLAIN_AT_MOST: f64 = 15.0;
/// Where both threads of a pair are, as a call's two sides are on one CPU.
const PAIRS_CPU: usize = 0;

fn main() -> ExitCode {
    let report = bench::report_file("bench-ipc");
    let rig = Rig::start(Settings::chain(|_| {}));
    let [b, c] = ["b", "c"].map(|name| rig.port::<dyn Probe>(name, "probe"));
    let bare = domain::by_name("c").and_then(|domain| domain.bare_object("probe")).expect("c lives");
    // SAFETY: the domain's own object, of this interface; nothing ends c while this is used.
    let plain: Port<dyn Probe> = Port::new(unsafe { &*<dyn Probe as Interface>::from_raw(bare) });
    let mut rows = rig.run(1, move || calls(plain, b, c));
    rows.extend(rig.run(1, components));
    rows.extend(linux());
    rows.extend(crashes(&rig, c));
    let reported = bench::report(&rows, report.as_deref());
    let of = |name| rows.iter().find(|row| row.row == name).map_or(f64::NAN, |row| row.median);
    eprintln!(
        "a proxied call costs {:.1} more than a plain one, an RRef moved there and back {:.1} more than that, a shadow {:.2} times",
        of("call.proxied") - of("call.plain"),
        of("call.rref") - of("call.proxied"),
        of("call.shadow") / of("call.proxied"),
    );
    if of("call.plain") > PLAIN_AT_MOST {
        eprintln!(
            "invalid: a plain call took {:.1} cycles, more than {PLAIN_AT_MOST}; measure on a quiet machine",
            of("call.plain")
        );
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(!reported))
}

fn cost(name: &str, median: f64) -> Row {
    Row::new(name, "cost", median, "cycles")
}

/// Cycles of one of `count` calls, the median of `runs` runs.
fn cycles(runs: usize, count: usize, mut call: impl FnMut()) -> f64 {
    let run = || {
        let begun = stamp();
        for _ in 0..count {
            call();
        }
        (stamp() - begun) as f64 / count as f64
    };
    median(std::iter::repeat_with(run).take(runs).collect())
}

fn call(name: &'static str, call: impl FnMut()) -> Row {
    cost(name, cycles(RUNS, CALLS, call))
}

fn calls(plain: Port<dyn Probe>, b: Port<dyn Probe>, c: Port<dyn Probe>) -> Vec<Row> {
    let mut handle = c.handle().expect("c lives");
    let mut word = Some(RRef::new(Word(0)).expect("the kernel has no quota"));
    let mut batch = Some(Batch::allocate().expect("the kernel has no quota"));
    if let Some(batch) = &mut batch {
        assert_eq!(batch.fill(Batch::CAPACITY), 32, "the pool has that many");
    }
    let lent = RRef::new(Word(7)).expect("the kernel has no quota");
    vec![
        call("call.plain", || _ = black_box(plain.next(black_box(1)))),
        call("call.proxied", || _ = black_box(c.next(black_box(1)))),
        call("call.handle", || _ = black_box(handle.next(black_box(1)))),
        call("call.rref", || word = c.pass(word.take().expect("it came back")).ok()),
        call("call.batch32", || batch = c.ferry(batch.take().expect("it came back")).ok()),
        call("call.borrowed", || _ = black_box(c.look(lent.lend(), black_box(0)))),
        // A domain of the same interface in front, which passes each call on.
        call("call.shadow", || _ = black_box(b.forward(black_box(1)))),
    ]
}

/// The steps of a call by themselves, each as its own loop: what one of them costs more than an empty one. They overlap in a call, so their sum is more than it.
fn components() -> Vec<Row> {
    static WORDS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    static POINTER: AtomicUsize = AtomicUsize::new(0);
    let empty = cycles(RUNS, CALLS, || _ = black_box(0));
    let word = |at: usize| &WORDS[at];
    POINTER.store(std::ptr::from_ref(&WORDS).addr(), Ordering::Relaxed);
    let part =
        |name, work: &mut dyn FnMut()| Row::new(name, "share", (cycles(RUNS, CALLS, work) - empty).max(0.0), "cycles");
    vec![
        part("part.thread-state", &mut || {
            let block: usize;
            // SAFETY: `gs:[0]` is readable on every thread of the core.
            unsafe { asm!("mov {}, gs:[0]", out(reg) block, options(nostack, readonly)) };
            black_box(block);
        }),
        part("part.publish", &mut || {
            // Record, stack pointer, continuation, visit; then the top.
            for at in 0..4 {
                word(at).store(black_box(at as u64), Ordering::Relaxed);
            }
            word(4).store(word(4).load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            word(5).store(word(5).load(Ordering::Relaxed) + 32, Ordering::Relaxed);
            word(5).store(word(5).load(Ordering::Relaxed) - 32, Ordering::Relaxed);
        }),
        part("part.liveness", &mut || {
            // Slot again, callee's state, and the caller's on the way back: a pointer, then what it leads to.
            let to = POINTER.load(Ordering::Relaxed) as *const AtomicU64;
            // SAFETY: the static's address.
            black_box(unsafe { (*to).load(Ordering::Relaxed) } == word(0).load(Ordering::Relaxed));
            // SAFETY: as above.
            black_box(unsafe { (*to.add(1)).load(Ordering::Relaxed) } == 0);
        }),
        part("part.stack-check", &mut || {
            let here: usize;
            // SAFETY: reads a register.
            unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack)) };
            black_box(here as u64 > word(6).load(Ordering::Relaxed) && here as u64 > word(7).load(Ordering::Relaxed));
        }),
        part("part.registers", &mut || {
            // SAFETY: what is pushed is popped, in the same order the other way round.
            unsafe {
                asm!(
                    "push rbp", "push r15", "push r14", "push r13", "push r12", "push rbx", "push rbp", "push rbx",
                    "pop rbx", "pop rbp", "pop rbx", "pop r12", "pop r13", "pop r14", "pop r15", "pop rbp",
                );
            }
        }),
        part("part.result", &mut || {
            let result: Result<u64, CallError> = black_box(Ok(black_box(1)));
            _ = black_box(result.map(|value| value + 1));
        }),
    ]
}

/// What the same costs by Linux's ways: a system call, one byte through a pipe to another thread and back, and the same by futex, on two CPUs as it likes.
fn linux() -> Vec<Row> {
    let syscall = cycles(RUNS, CALLS, || {
        // SAFETY: no arguments, no effects.
        unsafe { libc::syscall(libc::SYS_getppid) };
    });
    vec![cost("linux.syscall", syscall), cost("linux.pipe", pipe()), cost("linux.futex", futex())]
}

/// A byte there and back between two threads on one CPU.
fn pipe() -> f64 {
    let ends = || {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        ends
    };
    let ([their_in, our_out], [our_in, their_out]) = (ends(), ends());
    let read = |from: i32| {
        let mut byte = 0u8;
        // SAFETY: one byte of room.
        unsafe { libc::read(from, (&raw mut byte).cast(), 1) == 1 }
    };
    // SAFETY: one byte.
    let write = |to: i32| unsafe { libc::write(to, [1u8].as_ptr().cast(), 1) == 1 };
    let partner = std::thread::spawn(move || {
        pin(PAIRS_CPU);
        while read(their_in) && write(their_out) {}
    });
    pin(PAIRS_CPU);
    let cost = cycles(201, 200, || assert!(write(our_out) && read(our_in)));
    // SAFETY: ours; the partner's next read ends.
    unsafe { libc::close(our_out) };
    let _ = partner.join();
    cost
}

/// A word handed over and back by two threads on one CPU that sleep meanwhile.
fn futex() -> f64 {
    static WORD: AtomicU32 = AtomicU32::new(0);
    const END: u32 = u32::MAX;
    let hand_over = |to: u32| {
        WORD.store(to, Ordering::SeqCst);
        // SAFETY: a static.
        unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    };
    let wait_while = |value: u32| {
        while WORD.load(Ordering::SeqCst) == value {
            // SAFETY: a static; no deadline.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    WORD.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    value,
                    0usize,
                )
            };
        }
    };
    let partner = std::thread::spawn(move || {
        pin(PAIRS_CPU);
        loop {
            wait_while(0);
            if WORD.load(Ordering::SeqCst) == END {
                break;
            }
            hand_over(0);
        }
    });
    pin(PAIRS_CPU);
    let cost = cycles(201, 200, || {
        hand_over(1);
        wait_while(1);
    });
    hand_over(END);
    let _ = partner.join();
    cost
}

/// From the crash to the caller's error, and to the next generation's first answer.
fn crashes(rig: &Rig, c: Port<dyn Probe>) -> [Row; 2] {
    let (mut errors, mut restarts) = (Vec::new(), Vec::new());
    for _ in 0..CRASHES {
        let (to_error, to_answer) = rig.run(1, move || {
            let begun = stamp();
            assert_eq!(c.act(Deed::Panic), Err(CallError::Crashed));
            let to_error = stamp() - begun;
            while c.next(1).is_err() {
                std::thread::sleep(Duration::from_micros(5));
            }
            (to_error, stamp() - begun)
        });
        errors.push(to_error as f64);
        restarts.push(to_answer as f64);
    }
    [cost("crash.to-error", median(errors)), cost("crash.to-restarted", median(restarts))]
}
