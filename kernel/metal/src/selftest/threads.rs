//! Threads: preemption that nobody notices, sleeping, waking across CPUs, holding, ending; barriers; a CPU without a tick.

use alloc::{sync::Arc, vec, vec::Vec};
use core::{
    arch::asm,
    hint,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use kernel_core::platform::{Platform, Priority, Resume};

use super::{
    Outcome, Test,
    crew::{self, sleep, wait_for},
};
use crate::{check, clock, cpu, lock::SpinLock, platform::Metal, scheduler};

pub const TESTS: &[Test] = &[
    ("threads are preempted with all registers and the red zone intact", preemption_is_invisible),
    ("threads of one priority share a CPU", turns_are_taken),
    ("a high thread runs at once", high_runs_at_once),
    ("preemption waits while a core lock is held", preemption_waits),
    ("sleepers wake in order and never early", sleepers_wake_in_order),
    ("a wake-up before parking counts", early_wake_counts),
    ("no wake-up between CPUs is lost", ping_pong),
    ("a CPU with one ready thread isn't ticked", no_tick),
    ("barriers from all CPUs at once, with interrupts on and off", barriers),
    ("a held thread continues elsewhere when released, early or late", hold_and_release),
    ("a kick passes a running thread through a trap", kick),
    ("a thousand threads start and end, and nothing is left", start_and_end),
    ("the clock agrees on all CPUs and never goes back", clock_agrees),
];

/// Fills every general register, every XMM register and the red zone with values made of `seed`, spins, and compares.
/// Returns how many differ. Nothing but interrupts comes between.
fn probe(seed: u64, rounds: u64) -> u64 {
    let mut wrong: u64;
    // SAFETY: writes the red zone (below rsp, no call inside) and registers that are declared; rbx and rbp are kept on the way.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "xor ebx, ebx",                 // wrong
            "mov rbp, {rounds}",
            "2:",
            "mov [rsp - 128], {seed}",
            "mov [rsp - 64], {seed}",
            "mov [rsp - 8], {seed}",
            "movq xmm0, {seed}",
            "punpcklqdq xmm0, xmm0",
            "movdqa xmm1, xmm0",
            "movdqa xmm7, xmm0",
            "movdqa xmm8, xmm0",
            "movdqa xmm14, xmm0",
            "movdqa xmm15, xmm0",
            "lea r8, [{seed} + 8]",
            "lea r9, [{seed} + 9]",
            "lea r10, [{seed} + 10]",
            "lea r11, [{seed} + 11]",
            "lea r12, [{seed} + 12]",
            "lea r13, [{seed} + 13]",
            "mov ecx, 2000",
            "3: dec ecx",
            "jnz 3b",
            // Compare everything with the seed.
            "lea rcx, [{seed} + 8]", "cmp rcx, r8", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "lea rcx, [{seed} + 9]", "cmp rcx, r9", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "lea rcx, [{seed} + 10]", "cmp rcx, r10", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "lea rcx, [{seed} + 11]", "cmp rcx, r11", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "lea rcx, [{seed} + 12]", "cmp rcx, r12", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "lea rcx, [{seed} + 13]", "cmp rcx, r13", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "cmp [rsp - 128], {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "cmp [rsp - 64], {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "cmp [rsp - 8], {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "movq rcx, xmm0", "cmp rcx, {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "movq rcx, xmm1", "cmp rcx, {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "psrldq xmm7, 8",
            "movq rcx, xmm7", "cmp rcx, {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "movq rcx, xmm8", "cmp rcx, {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "movq rcx, xmm14", "cmp rcx, {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "psrldq xmm15, 8",
            "movq rcx, xmm15", "cmp rcx, {seed}", "setne cl", "movzx ecx, cl", "add rbx, rcx",
            "dec rbp",
            "jnz 2b",
            "mov {wrong}, rbx",
            "pop rbp",
            "pop rbx",
            seed = in(reg) seed,
            rounds = in(reg) rounds,
            wrong = out(reg) wrong,
            out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
            out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm8") _, out("xmm14") _, out("xmm15") _,
        );
    }
    wrong
}

fn preemption_is_invisible() -> Outcome {
    let wrong = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::new();
    let before: u64 = cpu::all().map(|cpu| cpu.scheduler.switches.load(Ordering::Relaxed)).sum();
    for cpu in 0..cpu::count() {
        for thread in 0..3u64 {
            let wrong = wrong.clone();
            workers.push(crew::spawn(cpu, Priority::Normal, move || {
                let until = clock::now() + 400_000_000;
                let mut seed = 0x0123_4567_89ab_cdef ^ (thread << 40) ^ ((cpu as u64) << 20);
                while clock::now() < until {
                    wrong.fetch_add(probe(seed, 20), Ordering::Relaxed);
                    seed = seed.rotate_left(7) & !0xff;
                }
            }));
        }
    }
    for worker in workers {
        worker.join()?;
    }
    let switches = cpu::all().map(|cpu| cpu.scheduler.switches.load(Ordering::Relaxed)).sum::<u64>() - before;
    check!(
        wrong.load(Ordering::Relaxed) == 0,
        "{} values damaged in {switches} switches",
        wrong.load(Ordering::Relaxed)
    );
    check!(switches > 30, "only {switches} switches");
    Ok(())
}

fn turns_are_taken() -> Outcome {
    let counts = Arc::new([const { AtomicU64::new(0) }; 3]);
    let stop = Arc::new(AtomicBool::new(false));
    let home = cpu::count() - 1;
    let workers: Vec<_> = (0..3)
        .map(|index| {
            let (counts, stop) = (counts.clone(), stop.clone());
            crew::spawn(home, Priority::Normal, move || {
                while !stop.load(Ordering::Relaxed) {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                    clock::spin(10_000);
                }
            })
        })
        .collect();
    sleep(600_000_000);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join()?;
    }
    let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    check!(least > 0 && most < 4 * least, "turns {counts:?}");
    Ok(())
}

fn high_runs_at_once() -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let home = cpu::count() - 1;
    let theirs = stop.clone();
    let spinner = crew::spawn(home, Priority::Normal, move || while !theirs.load(Ordering::Relaxed) {});
    let ran = Arc::new(AtomicUsize::new(0));
    for _ in 0..20 {
        let ran = ran.clone();
        // The spinner never gives way by itself, and no slice is needed for a more urgent thread.
        crew::spawn(home, Priority::High, move || {
            ran.fetch_add(1, Ordering::Relaxed);
        })
        .join()?;
    }
    stop.store(true, Ordering::Relaxed);
    spinner.join()?;
    check!(ran.load(Ordering::Relaxed) == 20, "{} of 20 ran", ran.load(Ordering::Relaxed));
    Ok(())
}

fn preemption_waits() -> Outcome {
    let (intruder, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let home = cpu::count() - 1;
    let (theirs, result, started) = (intruder.clone(), seen.clone(), Arc::new(AtomicBool::new(false)));
    let begun = started.clone();
    let holder = crew::spawn(home, Priority::Normal, move || {
        kernel_core::thread::preemption_off();
        begun.store(true, Ordering::SeqCst);
        clock::spin(50_000_000);
        result.store(theirs.load(Ordering::SeqCst), Ordering::SeqCst);
        kernel_core::thread::preemption_on();
    });
    if home != 0 {
        wait_for("the holder starts", || started.load(Ordering::SeqCst))?;
    }
    let theirs = intruder.clone();
    let high = crew::spawn(home, Priority::High, move || theirs.store(true, Ordering::SeqCst));
    high.join()?;
    holder.join()?;
    check!(home == 0 || !seen.load(Ordering::SeqCst), "the holder was switched away from");
    check!(intruder.load(Ordering::SeqCst), "the other thread never ran");
    Ok(())
}

fn sleepers_wake_in_order() -> Outcome {
    let log = Arc::new(SpinLock::new(Vec::new()));
    let start = clock::now() + 20_000_000;
    let workers: Vec<_> = [7u64, 2, 9, 1, 5, 3, 8, 4, 6]
        .into_iter()
        .map(|place| {
            let log = log.clone();
            crew::spawn(place as usize % cpu::count(), Priority::Normal, move || {
                let due = start + place * 30_000_000;
                while clock::now() < due {
                    scheduler::park(due);
                }
                log.lock().push((place, clock::now() - due));
            })
        })
        .collect();
    for worker in workers {
        worker.join()?;
    }
    let log = log.lock().clone();
    check!(log.len() == 9, "{log:?} woke alone");
    // On each CPU: the host may stop one of them for longer than it is from one sleeper to the next.
    for cpu in 0..cpu::count() {
        let woken: Vec<u64> =
            log.iter().map(|entry| entry.0).filter(|place| *place as usize % cpu::count() == cpu).collect();
        check!(woken.is_sorted(), "woken in this order: {log:?}");
    }
    Ok(())
}

fn early_wake_counts() -> Outcome {
    let me = kernel_core::thread::current();
    scheduler::unpark(me);
    scheduler::unpark(me);
    let begun = clock::now();
    scheduler::park(begun + 5_000_000_000);
    check!(clock::now() - begun < 4_000_000_000, "the wake-up was lost");
    // Two that came together are one.
    let begun = clock::now();
    scheduler::park(begun + 3_000_000);
    check!(clock::now() - begun >= 3_000_000, "an old wake-up was counted twice");
    Ok(())
}

fn ping_pong() -> Outcome {
    const ROUNDS: usize = 5_000;
    let turn = Arc::new(AtomicUsize::new(0));
    let players: usize = cpu::count().clamp(2, 4);
    let blocks = Arc::new(SpinLock::new(vec![None; players]));
    let workers: Vec<_> = (0..players)
        .map(|player| {
            let (turn, blocks) = (turn.clone(), blocks.clone());
            crew::spawn(player % cpu::count(), Priority::Normal, move || {
                blocks.lock()[player] = Some(kernel_core::thread::current());
                while blocks.lock().iter().any(Option::is_none) {
                    scheduler::yield_now();
                }
                let next = blocks.lock()[(player + 1) % players];
                for round in 0..ROUNDS {
                    while turn.load(Ordering::SeqCst) != round * players + player {
                        scheduler::park(clock::NEVER);
                    }
                    turn.fetch_add(1, Ordering::SeqCst);
                    next.into_iter().for_each(scheduler::unpark);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join()?;
    }
    check!(turn.load(Ordering::SeqCst) == ROUNDS * players, "{} turns", turn.load(Ordering::SeqCst));
    Ok(())
}

fn no_tick() -> Outcome {
    let home = cpu::count() - 1;
    let ticks = Arc::new(AtomicU64::new(u64::MAX));
    let result = ticks.clone();
    let worker = crew::spawn(home, Priority::Normal, move || {
        let cpu = cpu::this();
        let mut least = u64::MAX;
        // The boot CPU has the test's own sleeper, so a window may be disturbed; not all of five.
        for _ in 0..5 {
            let before = cpu.interrupts.load(Ordering::Relaxed);
            clock::spin(40_000_000);
            least = least.min(cpu.interrupts.load(Ordering::Relaxed) - before);
        }
        result.store(least, Ordering::Relaxed);
    });
    // Not `join`, which polls: the boot CPU would have a timer for that.
    sleep(400_000_000);
    worker.join()?;
    let ticks = ticks.load(Ordering::Relaxed);
    check!(ticks == 0, "{ticks} interrupts in 40 ms");
    Ok(())
}

fn barriers() -> Outcome {
    let workers: Vec<_> = (0..cpu::count() * 2)
        .map(|index| {
            crew::spawn(index % cpu::count(), Priority::Normal, move || {
                for round in 0..300 {
                    if round % 3 == 0 {
                        x86_64::instructions::interrupts::without_interrupts(cpu::barrier);
                    } else if round % 3 == 1 {
                        cpu::barrier();
                    } else {
                        cpu::flush_everywhere();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join()?;
    }
    Ok(())
}

static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);
static RETURN: AtomicUsize = AtomicUsize::new(0);

/// Where a held thread goes on: on the stack that it was told, it counts and goes back.
#[unsafe(naked)]
extern "C" fn elsewhere() {
    core::arch::naked_asm!(
        "lock inc qword ptr [{count}]",
        "pop rbx",
        "pop rbp",
        "ret",
        count = sym ELSEWHERE,
    )
}

/// Holds the calling thread with `elsewhere` as its continuation, which returns to the caller.
#[unsafe(naked)]
extern "C" fn hold_here() {
    core::arch::naked_asm!(
        "push rbp",
        "push rbx",
        "mov rdi, rsp",
        "sub rsp, 8",
        "call {hold}",
        hold = sym hold_at,
    )
}

extern "C" fn hold_at(rsp: usize) -> ! {
    scheduler::hold_self(Resume { rip: elsewhere as *const () as usize, rsp })
}

fn hold_and_release() -> Outcome {
    ELSEWHERE.store(0, Ordering::SeqCst);
    RETURN.store(0, Ordering::SeqCst);
    let home = cpu::count() - 1;
    for round in 1..=50 {
        let is_early = round % 2 == 0;
        let worker = crew::spawn(home, Priority::Normal, move || {
            if is_early {
                scheduler::release(kernel_core::thread::current());
            }
            hold_here();
            RETURN.fetch_add(1, Ordering::SeqCst);
        });
        if !is_early {
            sleep(2_000_000);
            check!(RETURN.load(Ordering::SeqCst) == round - 1, "a held thread runs");
            // A wake-up is not a release.
            Metal.unpark(worker.block);
            sleep(1_000_000);
            check!(RETURN.load(Ordering::SeqCst) == round - 1, "a wake-up lets a held thread go");
            Metal.release(worker.block);
        }
        worker.join()?;
        check!(RETURN.load(Ordering::SeqCst) == round, "a released thread doesn't return");
    }
    check!(ELSEWHERE.load(Ordering::SeqCst) == 50, "{} of 50 went elsewhere", ELSEWHERE.load(Ordering::SeqCst));
    Ok(())
}

fn kick() -> Outcome {
    let home = cpu::count() - 1;
    if home == 0 {
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    let worker = crew::spawn(home, Priority::Normal, move || {
        while !theirs.load(Ordering::Relaxed) {
            hint::spin_loop();
        }
    });
    sleep(5_000_000);
    let traps = || cpu::get(home).map_or(0, |cpu| cpu.interrupts.load(Ordering::Relaxed));
    let before = traps();
    Metal.kick(worker.block);
    let outcome = wait_for("the trap of a kicked thread", || traps() > before);
    stop.store(true, Ordering::Relaxed);
    worker.join()?;
    outcome
}

fn start_and_end() -> Outcome {
    let ran = Arc::new(AtomicUsize::new(0));
    let before = scheduler::live();
    for _ in 0..125 {
        let workers: Vec<_> = (0..8)
            .map(|index| {
                let ran = ran.clone();
                crew::spawn(
                    index % cpu::count(),
                    if index % 3 == 0 { Priority::High } else { Priority::Normal },
                    move || {
                        ran.fetch_add(1, Ordering::Relaxed);
                        if index % 2 == 0 {
                            scheduler::yield_now();
                        }
                    },
                )
            })
            .collect();
        for worker in workers {
            worker.join()?;
        }
    }
    check!(ran.load(Ordering::Relaxed) == 1000, "{} of 1,000 ran", ran.load(Ordering::Relaxed));
    wait_for("all threads to be reported as ended", || scheduler::live() == before)
}

fn clock_agrees() -> Outcome {
    let latest = Arc::new(AtomicU64::new(0));
    let back = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..cpu::count())
        .map(|cpu| {
            let (latest, back) = (latest.clone(), back.clone());
            crew::spawn(cpu, Priority::Normal, move || {
                for _ in 0..50_000 {
                    let seen = latest.load(Ordering::SeqCst);
                    let now = clock::now();
                    if now < seen {
                        back.fetch_max(seen - now, Ordering::Relaxed);
                    }
                    latest.fetch_max(now, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join()?;
    }
    check!(back.load(Ordering::Relaxed) == 0, "back by {} ns between CPUs", back.load(Ordering::Relaxed));
    Ok(())
}
