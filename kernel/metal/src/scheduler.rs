//! Threads: pinned to a CPU, preemptive, each CPU with its own queue.
//!
//! There is one way to switch. Every trap ends in [`leave`], which decides who goes on; a thread that blocks, yields or
//! ends raises [`VECTOR_SWITCH`] and is decided on in the same place. Saved state is always a whole trap frame.
//!
//! A CPU whose only ready thread runs isn't ticked: the timer is armed for the earliest sleeper, and for the end of a slice only while
//! others of the same priority wait. A thread that the domain core holds a spin lock in isn't switched away from
//! ([`ThreadBlock::preemption_is_off`]); it yields by itself when it lets go.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::{
    arch::asm,
    cell::{Cell, UnsafeCell},
    ptr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use kernel_core::{
    platform::{Priority, Resume, ThreadStart, Verdict},
    thread::ThreadBlock,
    trap,
};

use crate::{
    clock::{self, NEVER},
    cpu::{
        self, Cpu, apic,
        trap::{Frame, VECTOR_RESCHEDULE, VECTOR_SWITCH},
    },
    lock::SpinLock,
};

/// How long threads of one priority take turns for.
const SLICE: u64 = 5_000_000;
const PRIORITIES: usize = 2;

/// What a thread asks for when it raises [`VECTOR_SWITCH`]: in `rdi`, with arguments in `rsi` and `rdx`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Request {
    Yield = 0,
    Park = 1,
    Hold = 2,
    Exit = 3,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In a queue.
    Ready,
    Running,
    /// Until `unpark` or its deadline.
    Parked,
    /// Diverted, until `release`.
    Held,
    /// Off its stack for good; or unused.
    Ended,
}

/// The scheduler's record of a thread. Never freed, only used again: a stale pointer to one wakes a thread too often at worst.
pub struct Thread {
    frame: UnsafeCell<Frame>,
    cpu: usize,
    priority: Cell<usize>,
    block: Cell<&'static ThreadBlock>,
    state: Cell<State>,
    /// A wake-up that came before the thread parked.
    woken: Cell<bool>,
    /// A release that came before the thread was held.
    released: Cell<bool>,
    deadline: Cell<u64>,
}

// SAFETY: the cells are accessed under the lock of the thread's CPU (or before the thread has started); the frame only by that CPU with
// interrupts off.
unsafe impl Sync for Thread {}
// SAFETY: as above.
unsafe impl Send for Thread {}

struct Queue {
    ready: [VecDeque<&'static Thread>; PRIORITIES],
    /// Parked threads with a deadline, earliest first.
    sleepers: VecDeque<&'static Thread>,
    /// Threads that have left their stack and not yet been reported to the core.
    ended: Vec<&'static Thread>,
    /// Records that can be used again; a record stays with its CPU, so that this lock is always the right one.
    spare: Vec<&'static Thread>,
    /// Threads pinned here, so that the queues never have to grow in a trap.
    pinned: usize,
}

/// One CPU's part.
pub struct Scheduler {
    queue: SpinLock<Queue>,
    /// Null while the CPU idles. Written by this CPU with interrupts off.
    current: Cell<Option<&'static Thread>>,
    idle: &'static ThreadBlock,
    /// The idle loop's frame while a thread runs.
    idle_frame: UnsafeCell<Frame>,
    slice_end: Cell<u64>,
    armed: Cell<u64>,
    pub switches: AtomicU64,
}

// SAFETY: the cells are accessed by their own CPU only, with interrupts off.
unsafe impl Sync for Scheduler {}

/// Who is told when a thread has ended: see [`reap`].
static REAPER: SpinLock<Option<&'static ThreadBlock>> = SpinLock::new(None);
static LIVE: AtomicUsize = AtomicUsize::new(0);

impl Queue {
    /// The most urgent priority with a ready thread.
    fn best(&self) -> Option<usize> {
        (0..PRIORITIES).rev().find(|priority| !self.ready[*priority].is_empty())
    }

    fn make_ready(&mut self, thread: &'static Thread) {
        if thread.deadline.replace(NEVER) != NEVER
            && let Some(place) = self.sleepers.iter().position(|other| ptr::eq(*other, thread))
        {
            self.sleepers.remove(place);
        }
        thread.state.set(State::Ready);
        self.ready[thread.priority.get()].push_back(thread);
    }

    fn add_sleeper(&mut self, thread: &'static Thread, deadline: u64) {
        thread.deadline.set(deadline);
        let place = self.sleepers.partition_point(|other| other.deadline.get() <= deadline);
        self.sleepers.insert(place, thread);
    }
}

impl Scheduler {
    pub fn new(_cpu: usize, idle: &'static ThreadBlock) -> Self {
        let queue = Queue {
            ready: [const { VecDeque::new() }; PRIORITIES],
            sleepers: VecDeque::new(),
            ended: Vec::new(),
            spare: Vec::new(),
            pinned: 0,
        };
        Self {
            queue: SpinLock::new(queue),
            current: Cell::new(None),
            idle,
            idle_frame: UnsafeCell::new(Frame::call(0, 0, 8)),
            slice_end: Cell::new(NEVER),
            armed: Cell::new(NEVER),
            switches: AtomicU64::new(0),
        }
    }

    /// The block of whoever runs, the idle loop included. On this CPU only.
    pub fn current_block(&self) -> &'static ThreadBlock {
        self.current.get().map_or(self.idle, |thread| thread.block.get())
    }

    /// Whether no thread runs here. On this CPU only.
    pub fn is_idle(&self) -> bool {
        self.current.get().is_none()
    }

    /// The timer has fired, so it isn't armed any more.
    pub fn timer_fired(&self) {
        self.armed.set(NEVER);
    }
}

/// Where the outgoing thread's state belongs.
fn place_of(scheduler: &Scheduler, thread: Option<&'static Thread>) -> *mut Frame {
    thread.map_or(scheduler.idle_frame.get(), |thread| thread.frame.get())
}

/// Decides who goes on after a trap on `cpu`, and saves the interrupted thread if it is another.
pub fn leave(cpu: &'static Cpu, frame: &mut Frame) -> *const Frame {
    let scheduler = &cpu.scheduler;
    let mut saved: *const Frame = frame;
    loop {
        let before = scheduler.current.get();
        let next = choose(scheduler);
        if !same(before, next) {
            let has_ended = before.filter(|thread| thread.state.get() == State::Ended);
            if let Some(thread) = has_ended {
                report(scheduler, thread);
            } else if ptr::eq(saved, frame) {
                let place = place_of(scheduler, before);
                // SAFETY: the outgoing thread's place is this CPU's to write, and isn't what is being restored from.
                unsafe { place.write(frame.clone()) };
            }
            saved = place_of(scheduler, next);
            scheduler.current.set(next);
            scheduler.switches.fetch_add(1, Ordering::Relaxed);
            // SAFETY: on this CPU, interrupts are off.
            unsafe { cpu.set_thread(scheduler.current_block()) };
        }
        let Some(thread) = next else { break };
        // SAFETY: either the frame on the interrupt stack or the thread's own place; both are this CPU's now.
        let resumed = unsafe { &mut *saved.cast_mut() };
        match trap::consider(thread.block.get(), resumed.rip as usize) {
            Verdict::Continue => break,
            Verdict::Hold(at) => {
                resumed.divert(at);
                if !hold(scheduler, thread) {
                    break;
                }
            }
            Verdict::KernelBug => crate::panic::bug("the domain core found a thread where it cannot be", resumed),
        }
    }
    arm(scheduler);
    saved
}

/// Hands an ended thread to the reaper. Nothing touches its stack any more, and after this nothing its record.
fn report(scheduler: &Scheduler, thread: &'static Thread) {
    scheduler.queue.lock().ended.push(thread);
    if let Some(reaper) = *REAPER.lock() {
        unpark(reaper);
    }
}

fn same(one: Option<&Thread>, other: Option<&Thread>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => ptr::eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Wakes sleepers that are due and picks who runs: the current thread unless it can't, or a more urgent one is ready, or its slice is
/// over and an equal waits.
fn choose(scheduler: &Scheduler) -> Option<&'static Thread> {
    let now = clock::now();
    let mut queue = scheduler.queue.lock();
    while let Some(thread) = queue.sleepers.front().copied().filter(|thread| thread.deadline.get() <= now) {
        queue.make_ready(thread);
    }
    let current = scheduler.current.get();
    let best = queue.best();
    if let Some(thread) = current.filter(|thread| thread.state.get() == State::Running) {
        let mine = thread.priority.get();
        let slice_is_over = now >= scheduler.slice_end.get();
        let give_way = best.is_some_and(|best| best > mine || best == mine && slice_is_over);
        if !give_way {
            return current;
        }
        if thread.block.get().preemption_is_off() {
            thread.block.get().want_switch();
            return current;
        }
        // Who is preempted by a more urgent thread comes first again; who has used up its slice comes last.
        thread.state.set(State::Ready);
        if slice_is_over {
            queue.ready[mine].push_back(thread);
        } else {
            queue.ready[mine].push_front(thread);
        }
    }
    let next = best_of(&mut queue)?;
    next.state.set(State::Running);
    scheduler.slice_end.set(now + SLICE);
    Some(next)
}

fn best_of(queue: &mut Queue) -> Option<&'static Thread> {
    let best = queue.best()?;
    queue.ready[best].pop_front()
}

/// Arms the timer for the earliest sleeper, or the end of the slice if an equal waits.
fn arm(scheduler: &Scheduler) {
    let queue = scheduler.queue.lock();
    let sleeper = queue.sleepers.front().map_or(NEVER, |thread| thread.deadline.get());
    let slice = match scheduler.current.get() {
        Some(thread) if !queue.ready[thread.priority.get()].is_empty() => scheduler.slice_end.get(),
        _ => NEVER,
    };
    drop(queue);
    // A thread that may not be switched away from now has its own reminder; ticking it meanwhile would only cost time.
    let slice = if slice <= clock::now() { slice.saturating_add(SLICE) } else { slice };
    let wanted = sleeper.min(slice);
    if wanted != scheduler.armed.replace(wanted) {
        apic::arm_timer(wanted);
    }
}

/// The running thread has raised [`VECTOR_SWITCH`].
pub fn give_up(cpu: &'static Cpu, frame: &mut Frame) {
    let scheduler = &cpu.scheduler;
    let Some(thread) = scheduler.current.get() else { return };
    let mut queue = scheduler.queue.lock();
    match frame.rdi {
        request if request == Request::Park as u64 => {
            if !thread.woken.replace(false) {
                thread.state.set(State::Parked);
                if frame.rsi != NEVER {
                    queue.add_sleeper(thread, frame.rsi);
                }
            }
        }
        request if request == Request::Hold as u64 => {
            frame.divert(Resume { rip: frame.rsi as usize, rsp: frame.rdx as usize });
            drop(queue);
            hold(scheduler, thread);
        }
        request if request == Request::Exit as u64 => {
            thread.state.set(State::Ended);
            queue.pinned -= 1;
        }
        _ => {
            thread.state.set(State::Ready);
            queue.ready[thread.priority.get()].push_back(thread);
        }
    }
}

/// Takes the running thread off its CPU until it is released. False if the release has come already.
fn hold(scheduler: &Scheduler, thread: &'static Thread) -> bool {
    let _queue = scheduler.queue.lock();
    if thread.released.replace(false) {
        return false;
    }
    thread.state.set(State::Held);
    true
}

/// An exception has shown that the running thread must be diverted.
pub fn hold_current(cpu: &'static Cpu, frame: &mut Frame, at: Resume) {
    if let Some(thread) = cpu.scheduler.current.get() {
        frame.divert(at);
        hold(&cpu.scheduler, thread);
    }
}

/// Raises the switch vector with a request, on the calling thread's behalf.
fn ask(request: Request, first: u64, second: u64) {
    // SAFETY: the handler saves and restores all registers; the red zone is safe since it runs on a stack of its own.
    unsafe {
        asm!(
            "int {vector}",
            vector = const VECTOR_SWITCH,
            in("rdi") request as u64,
            in("rsi") first,
            in("rdx") second,
        );
    }
}

pub fn yield_now() {
    ask(Request::Yield, 0, 0);
}

/// Blocks the calling thread until it is woken or the deadline has come; at once if it was woken since the last time.
pub fn park(deadline: u64) {
    ask(Request::Park, deadline, 0);
}

/// Holds the calling thread until it is released, and lets it continue at `at`.
pub fn hold_self(at: Resume) -> ! {
    ask(Request::Hold, at.rip as u64, at.rsp as u64);
    unreachable!("a held thread continues elsewhere")
}

/// Ends the calling thread.
pub fn exit() -> ! {
    ask(Request::Exit, 0, 0);
    unreachable!("an ended thread was scheduled")
}

/// There is no memory for the record of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// Makes a thread and lets it run on its CPU.
pub fn start(start: ThreadStart) -> Result<(), OutOfMemory> {
    let cpu = cpu::get(start.cpu).ok_or(OutOfMemory)?;
    let entry = start.entry as usize as u64;
    let frame = Frame::call(entry, ptr::from_ref(start.block) as u64, start.stack_top as u64);
    let spare = cpu.scheduler.queue.lock().spare.pop();
    let thread = spare.unwrap_or_else(|| {
        Box::leak(Box::new(Thread {
            frame: UnsafeCell::new(frame.clone()),
            cpu: start.cpu,
            priority: Cell::new(0),
            block: Cell::new(start.block),
            state: Cell::new(State::Ended),
            woken: Cell::new(false),
            released: Cell::new(false),
            deadline: Cell::new(NEVER),
        }))
    });
    // SAFETY: an unused record: no CPU restores from its frame.
    unsafe { *thread.frame.get() = frame };
    thread.priority.set(match start.priority {
        Priority::Normal => 0,
        Priority::High => 1,
    });
    thread.block.set(start.block);
    thread.woken.set(false);
    thread.released.set(false);
    thread.deadline.set(NEVER);
    start.block.cpu.store(start.cpu as u32, Ordering::Relaxed);
    start.block.platform.store(ptr::from_ref(thread).cast_mut().cast(), Ordering::Release);
    LIVE.fetch_add(1, Ordering::Relaxed);

    let mut queue = cpu.scheduler.queue.lock();
    queue.pinned += 1;
    let room = queue.pinned;
    for priority in 0..PRIORITIES {
        let missing = room.saturating_sub(queue.ready[priority].len());
        queue.ready[priority].reserve(missing);
    }
    let missing = room.saturating_sub(queue.sleepers.len());
    queue.sleepers.reserve(missing);
    let missing = room.saturating_sub(queue.ended.len());
    queue.ended.reserve(missing);
    queue.make_ready(thread);
    drop(queue);
    nudge(cpu);
    Ok(())
}

/// The scheduler's record behind a block; `None` for a block whose thread hasn't started or belongs to no queue.
fn record(block: &ThreadBlock) -> Option<&'static Thread> {
    // SAFETY: the word is null or points at a record, which is never freed.
    unsafe { block.platform.load(Ordering::Acquire).cast::<Thread>().as_ref() }
}

/// Makes a CPU look at its queue again. A self-interrupt serves as well: it is taken when interrupts are on again.
fn nudge(cpu: &Cpu) {
    let me = cpu::this();
    if ptr::eq(me, cpu) && me.in_handler.load(Ordering::Relaxed) {
        return;
    }
    apic::send(cpu.apic, VECTOR_RESCHEDULE);
}

/// Wakes a thread from [`park`], or lets its next one return at once.
pub fn unpark(block: &ThreadBlock) {
    let Some(thread) = record(block) else { return };
    let Some(cpu) = cpu::get(thread.cpu) else { return };
    let mut queue = cpu.scheduler.queue.lock();
    match thread.state.get() {
        State::Parked => queue.make_ready(thread),
        State::Ended => return,
        _ => {
            thread.woken.set(true);
            return;
        }
    }
    drop(queue);
    nudge(cpu);
}

/// Lets a held thread go on.
pub fn release(block: &ThreadBlock) {
    let Some(thread) = record(block) else { return };
    let Some(cpu) = cpu::get(thread.cpu) else { return };
    let mut queue = cpu.scheduler.queue.lock();
    match thread.state.get() {
        State::Held => queue.make_ready(thread),
        _ => {
            thread.released.set(true);
            return;
        }
    }
    drop(queue);
    nudge(cpu);
}

/// Makes a running thread pass through a trap. One that is ready does so anyway before its next instruction.
pub fn kick(block: &ThreadBlock) {
    if let Some(cpu) = record(block).and_then(|thread| cpu::get(thread.cpu)) {
        nudge(cpu);
    }
}

/// Threads that have started and not been reported as ended.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The body of the thread that tells the domain core of threads that have ended.
pub extern "C" fn reap(block: &'static ThreadBlock) -> ! {
    *REAPER.lock() = Some(block);
    loop {
        for cpu in cpu::all() {
            loop {
                let Some(thread) = cpu.scheduler.queue.lock().ended.pop() else { break };
                let block = thread.block.get();
                block.platform.store(ptr::null_mut(), Ordering::Release);
                cpu.scheduler.queue.lock().spare.push(thread);
                LIVE.fetch_sub(1, Ordering::Relaxed);
                kernel_core::thread::ended(block);
            }
        }
        park(NEVER);
    }
}

/// What a CPU does when it has nothing to do: its first stack, its own block, interrupts on.
pub fn idle() -> ! {
    loop {
        x86_64::instructions::interrupts::enable_and_hlt();
    }
}
