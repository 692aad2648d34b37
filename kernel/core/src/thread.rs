//! Threads: the block that `gs:[0]` points at, with the continuation stack, and how threads begin and end.
//!
//! A block is written by its own thread (and, where a field says so, by the supervisor); others read it while it runs. Blocks are never unmapped, only
//! used again, so that a stale pointer to one is at worst a pointer to another thread.

use alloc::{
    alloc::{alloc_zeroed, handle_alloc_error},
    boxed::Box,
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::{
    alloc::Layout,
    arch::asm,
    cell::UnsafeCell,
    fmt,
    panic::Location,
    ptr,
    sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use crate::{
    domain::Domain,
    exchange::Magazines,
    given_back,
    incarnation::{Incarnation, kernel},
    lock::Lock,
    machine,
    packets::BufferCache,
    platform::{Mapped, Mapping, PAGE, Priority, Resume, ThreadStart},
    record::PortRecord,
    supervisor,
};

/// How deep calls nest: more is an error to the caller.
pub const MAX_FRAMES: usize = 64;
/// Threads of the box, those of the platform included.
pub const MAX_THREADS: usize = bundle::manifest::THREADS as usize;
/// Domains of the box, the kernel included.
pub const MAX_DOMAINS: usize = 64;
/// Stack that each kernel entry wants to find below it.
pub const KERNEL_RESERVE: usize = 16 * 1024;
/// A thread's stack if nothing else is said.
pub const STACK_PAGES: usize = 32;

/// A published continuation: where this thread goes on if the domain that it is in dies.
#[repr(C)]
pub struct Frame {
    /// Names the incarnation that the thread is in, and keeps the record (a hazard pointer).
    pub(crate) record: AtomicPtr<PortRecord>,
    pub(crate) sp: AtomicUsize,
    pub(crate) resume: AtomicUsize,
    /// The visit's number among this thread's.
    pub(crate) visit: AtomicU64,
}

impl Frame {
    /// # Safety
    /// The frame is published, on a stack that can't change now or that the caller only looks at as the supervisor, which alone frees records.
    pub(crate) unsafe fn record(&self) -> &PortRecord {
        // SAFETY: a published frame keeps its record.
        unsafe { &*self.record.load(Ordering::Relaxed) }
    }

    pub(crate) fn continuation(&self) -> Resume {
        Resume { rip: self.resume.load(Ordering::Relaxed), rsp: self.sp.load(Ordering::Relaxed) }
    }
}

/// What the kernel knows of a thread. The first fields are the hot ones.
#[repr(C, align(64))]
pub struct ThreadBlock {
    /// The innermost published frame.
    pub(crate) top: AtomicPtr<Frame>,
    /// Lowest usable byte of the stack.
    pub(crate) stack_limit: AtomicUsize,
    /// Kernel entries that this thread is in: it isn't diverted while this isn't 0.
    pub(crate) depth: AtomicU32,
    /// Objects are on their way between the two innermost domains: reclaim of either waits.
    pub(crate) crossing: AtomicU32,
    /// Visits begun, ever.
    pub(crate) visits: AtomicU64,
    /// The last usable frame.
    pub(crate) last_frame: AtomicPtr<Frame>,
    preempt_off: AtomicU32,
    want_switch: AtomicU32,
    /// For the platform's own use: its record of this thread.
    pub platform: AtomicPtr<()>,
    /// CPU that this thread is pinned to.
    pub cpu: AtomicU32,
    /// The thread is, or is about to be, held at its continuation: it runs no more domain code. Set by itself or its trap, cleared by whoever lets it go.
    pub(crate) held: AtomicU32,
    /// Index in [`THREADS`], plus one for ids that aren't 0.
    id: AtomicU32,
    ended: AtomicBool,
    /// Blocked in `park`: no time runs for the watchdog.
    pub(crate) blocked: AtomicU32,
    /// A domain's own thread, which lives as long as it likes, rather than a visitor.
    pub(crate) own: AtomicU32,
    /// Calls of `alive`, `yield` and blocking calls: signs of life for the watchdog.
    pub(crate) signs: AtomicU64,
    pub(crate) watch: crate::watchdog::Watch,
    /// Locks of the core taken (debug builds), and where the last one was.
    locks: AtomicU64,
    last_lock: AtomicPtr<Location<'static>>,
    /// Exchange objects to which this thread has given another owner (debug builds).
    moves: AtomicU64,
    /// Bytes on the exchange heap that came to a domain (+) or left it (−) by this thread and are not yet in the domain's own count.
    pub(crate) exchange: [AtomicI64; MAX_DOMAINS],
    /// For the thread itself alone, in the kernel; the supervisor empties it after the thread has ended.
    pub(crate) magazines: UnsafeCell<Magazines>,
    /// As above.
    pub(crate) buffers: UnsafeCell<BufferCache>,
    /// What its last failed call gave back.
    pub(crate) given_back: given_back::Place,
    life: Lock<Life>,
    pub(crate) frames: [Frame; MAX_FRAMES],
}

// SAFETY: every field is an atomic, behind a lock, or (the two cells) used by one thread as their comments say.
unsafe impl Sync for ThreadBlock {}
// SAFETY: nothing in a block belongs to the thread that made it.
unsafe impl Send for ThreadBlock {}

/// From a thread's start to its end.
#[derive(Default)]
struct Life {
    name: String,
    stack: Option<Mapped>,
    /// The domain whose thread it is; `None` for the kernel's.
    base: Option<Arc<Incarnation>>,
    domain: Option<&'static Domain>,
    work: Option<Box<dyn FnOnce() + Send>>,
}

/// All blocks that are in use.
static THREADS: [AtomicPtr<ThreadBlock>; MAX_THREADS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_THREADS];
/// Places in it that were ever taken, or were about to be: behind them there is nobody.
static PLACES: AtomicUsize = AtomicUsize::new(0);
/// Blocks of threads that have ended, to be used again.
static SPARE: Lock<alloc::vec::Vec<&'static ThreadBlock>> = Lock::new(alloc::vec::Vec::new());

static MADE: AtomicUsize = AtomicUsize::new(0);

/// Blocks that were ever made: a box that restarts its domains makes no more of them.
pub fn blocks_made() -> usize {
    MADE.load(Ordering::Relaxed)
}

/// Offsets for the call's assembly.
pub(crate) mod offsets {
    use super::{Frame, ThreadBlock};
    use core::mem::offset_of;

    pub const TOP: usize = offset_of!(ThreadBlock, top);
    pub const STACK_LIMIT: usize = offset_of!(ThreadBlock, stack_limit);
    pub const VISITS: usize = offset_of!(ThreadBlock, visits);
    pub const LAST_FRAME: usize = offset_of!(ThreadBlock, last_frame);
    pub const FRAME: usize = size_of::<Frame>();
    pub const RECORD: usize = offset_of!(Frame, record);
    pub const SP: usize = offset_of!(Frame, sp);
    pub const RESUME: usize = offset_of!(Frame, resume);
    pub const VISIT: usize = offset_of!(Frame, visit);
}

impl ThreadBlock {
    fn new(name: &str) -> &'static ThreadBlock {
        MADE.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::new::<ThreadBlock>();
        // SAFETY: a block isn't of size 0. Zeroes are what each field begins with: numbers, null pointers, no buffers, an open lock; but for `life`, which is written
        // before anybody sees it. In place, because a domain's thread that starts another may have no more stack than the kernel's reserve.
        let block: &'static ThreadBlock = unsafe {
            let block = alloc_zeroed(layout).cast::<ThreadBlock>();
            if block.is_null() {
                handle_alloc_error(layout);
            }
            (&raw mut (*block).life).write(Lock::new(Life { name: name.into(), ..Life::default() }));
            &*block
        };
        let frames = (&raw const block.frames).cast::<Frame>().cast_mut();
        block.last_frame.store(frames.wrapping_add(MAX_FRAMES - 1), Ordering::Relaxed);
        block.frames[0].record.store(ptr::from_ref(kernel().base()).cast_mut(), Ordering::Relaxed);
        block.top.store(frames, Ordering::Relaxed);
        block
    }

    /// A block for a thread that the platform itself makes: one that idles, or the one that boots. Its stack is taken to be long enough.
    pub fn resident(cpu: usize) -> &'static ThreadBlock {
        let block = ThreadBlock::new("resident");
        block.cpu.store(cpu as u32, Ordering::Relaxed);
        assert!(block.enlist(), "more CPUs than there is room for threads");
        block
    }

    /// Enters the block into the table of threads.
    fn enlist(&'static self) -> bool {
        let this = ptr::from_ref(self).cast_mut();
        let place = THREADS.iter().enumerate().position(|(at, place)| {
            // First, so that whoever looks at all threads sees everyone who is in the table.
            PLACES.fetch_max(at + 1, Ordering::SeqCst);
            place.compare_exchange(ptr::null_mut(), this, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        });
        self.id.store(place.map_or(0, |place| place as u32 + 1), Ordering::Relaxed);
        place.is_some()
    }

    /// Whether this thread must not be switched away from now.
    pub fn preemption_is_off(&self) -> bool {
        self.preempt_off.load(Ordering::Relaxed) != 0
    }

    /// Asks the thread to yield when it turns preemption on again.
    pub fn want_switch(&self) {
        self.want_switch.store(1, Ordering::Relaxed);
    }

    /// Whether the domain that this thread is in is ending: blocking calls return.
    pub fn is_cancelled(&self) -> bool {
        !self.innermost().is_live()
    }

    /// Whether the thread is blocked in the kernel. A hint: it runs on.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) != 0
    }

    /// Says to the watchdog that this visit yields, or that a domain's own thread is well.
    pub(crate) fn sign_of_life(&self) {
        self.signs.store(self.signs.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// This thread takes a lock, the core's or the platform's. By the thread itself.
    pub fn count_lock(&self, at: &'static Location<'static>) {
        self.locks.store(self.locks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.last_lock.store(ptr::from_ref(at).cast_mut(), Ordering::Relaxed);
        // Who has nothing to do but sleep holds nobody up by a lock.
        if self.own.load(Ordering::Relaxed) != 0 && self.blocked.load(Ordering::Relaxed) == 0 {
            crate::lock::count_at(at);
        }
    }

    /// How many locks of the kernel this thread has taken in its life, and where the last one (debug builds; 0 otherwise).
    pub fn locks(&self) -> (u64, Option<&'static Location<'static>>) {
        // SAFETY: null, or a `'static` location.
        (self.locks.load(Ordering::Relaxed), unsafe { self.last_lock.load(Ordering::Relaxed).as_ref() })
    }

    /// This thread has given an exchange object another owner. By the thread itself.
    pub(crate) fn count_move(&self) {
        self.moves.store(self.moves.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How many exchange objects this thread has given another owner in its life (debug builds; 0 otherwise).
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Visits that this thread has begun in its life.
    pub fn visits(&self) -> u64 {
        self.visits.load(Ordering::Relaxed)
    }

    /// The thread's name, for reports.
    pub fn name(&self) -> String {
        self.life.lock().name.clone()
    }

    /// Writes through which domains this thread has come, the innermost last. For a kernel's panic on this thread, so it takes no lock.
    pub fn write_chain(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for (depth, frame) in self.published().iter().enumerate() {
            // SAFETY: published frames of the thread that asks.
            let domain = unsafe { frame.record().incarnation() }.domain;
            let name = domain.map_or("kernel", |domain| domain.spec.name.as_str());
            write!(out, "{}{name}", if depth == 0 { "" } else { " > " })?;
        }
        Ok(())
    }

    /// Index of the domain that the thread is in. A hint: it runs on.
    pub fn innermost_domain(&self) -> usize {
        // SAFETY: `top` points into `frames`, and records are never unmapped.
        unsafe { (*(*self.top.load(Ordering::Relaxed)).record.load(Ordering::Relaxed)).domain() }
    }

    /// The incarnation whose code this thread executes. For the thread itself, its trap, or the supervisor.
    pub(crate) fn innermost(&self) -> &Incarnation {
        // SAFETY: `top` points into `frames`, the frame is published, and only the supervisor frees records.
        unsafe { (*self.top.load(Ordering::SeqCst)).record().incarnation() }
    }

    /// The same, for the thread itself.
    #[inline(always)]
    pub(crate) fn innermost_relaxed(&self) -> &Incarnation {
        // SAFETY: as for `innermost`.
        unsafe { (*self.top.load(Ordering::Relaxed)).record().incarnation() }
    }

    /// Published frames, from the base outwards to the innermost.
    pub(crate) fn published(&self) -> &[Frame] {
        let base = (&raw const self.frames).addr();
        let count = (self.top.load(Ordering::SeqCst).addr() - base) / size_of::<Frame>() + 1;
        &self.frames[..count.min(MAX_FRAMES)]
    }

    /// The lowest usable byte of this thread's stack.
    pub fn stack_limit(&self) -> usize {
        self.stack_limit.load(Ordering::Relaxed)
    }

    /// Whether `address` lies in the guard page below this thread's stack.
    pub(crate) fn guards(&self, address: usize) -> bool {
        let limit = self.stack_limit.load(Ordering::Relaxed);
        limit != 0 && (limit.saturating_sub(PAGE)..limit).contains(&address)
    }
}

/// The running thread's block.
#[inline(always)]
pub fn current() -> &'static ThreadBlock {
    let block: *const ThreadBlock;
    // SAFETY: `gs:[0]` holds the running thread's block on every CPU at any time (the platform's contract), and blocks are never unmapped.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) block, options(nostack, preserves_flags, readonly, pure));
        &*block
    }
}

/// Ends the innermost domain of the calling thread, at depth 0, which has used up its stack: touches the guard page, and so goes to the trap, which has a
/// stack of its own.
#[cold]
pub(crate) fn overflow(block: &ThreadBlock) -> ! {
    let guard = block.stack_limit.load(Ordering::Relaxed).wrapping_sub(1) as *mut u8;
    loop {
        // SAFETY: nothing is mapped there: it is the fault that is wanted (SOUNDNESS: stack).
        unsafe { guard.write_volatile(0) }
    }
}

/// All threads. A block stays readable for ever, if only as another thread's.
pub fn all() -> impl Iterator<Item = &'static ThreadBlock> {
    // SAFETY: blocks are never unmapped.
    THREADS[..PLACES.load(Ordering::SeqCst)].iter().filter_map(|place| unsafe { place.load(Ordering::SeqCst).as_ref() })
}

/// The names of all threads; empty for one that is just coming or going.
pub fn names() -> alloc::vec::Vec<String> {
    all().map(ThreadBlock::name).collect()
}

pub fn preemption_off() {
    let block = current();
    block.preempt_off.store(block.preempt_off.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

pub fn preemption_on() {
    let block = current();
    let count = block.preempt_off.load(Ordering::Relaxed) - 1;
    block.preempt_off.store(count, Ordering::Relaxed);
    if count == 0 && block.want_switch.swap(0, Ordering::Relaxed) != 0 {
        machine().thread_yield();
    }
}

/// Blocks the calling thread until somebody unparks it, or `deadline`; perhaps shorter.
pub(crate) fn park(deadline: u64) {
    let block = current();
    block.blocked.store(1, Ordering::Relaxed);
    machine().park(deadline);
    block.blocked.store(0, Ordering::Relaxed);
}

/// Sleeps until `deadline`, also if the domain that it is in ends meanwhile: for what a device is at, which is not to be left half done. As every wait it is a sign of life.
pub fn sleep(deadline: u64) {
    current().sign_of_life();
    while machine().now() < deadline {
        park(deadline);
    }
}

/// What a new thread is to be.
pub(crate) struct Spawn {
    pub name: String,
    pub cpu: usize,
    pub priority: Priority,
    pub stack_pages: usize,
    /// The domain that the thread belongs to, and that its stack is charged to.
    pub base: Option<Arc<Incarnation>>,
    /// The domain among whose threads it is counted.
    pub domain: Option<&'static Domain>,
    pub work: Box<dyn FnOnce() + Send>,
}

/// Starts a thread; its id, or `None` if memory, the domain's quotas or the table of threads doesn't admit it.
pub(crate) fn spawn(spawn: Spawn) -> Option<u64> {
    let pages = spawn.stack_pages;
    if spawn.domain.is_some_and(|domain| !domain.admit_thread()) {
        return None;
    }
    if spawn.base.as_ref().is_some_and(|base| !base.charge(pages)) {
        spawn.domain.inspect(|domain| domain.dismiss_thread());
        return None;
    }
    let refund = || {
        spawn.base.as_ref().inspect(|base| base.refund(pages));
        spawn.domain.inspect(|domain| domain.dismiss_thread());
    };
    let Some(first) = machine().map(pages, Mapping::Stack) else {
        refund();
        return None;
    };
    let block = SPARE.lock().pop().unwrap_or_else(|| ThreadBlock::new(""));
    if !block.enlist() {
        SPARE.lock().push(block);
        // SAFETY: mapped above, used by nobody.
        unsafe { machine().unmap(&[Mapped { first, pages, kind: Mapping::Stack }]) };
        refund();
        return None;
    }
    block.cpu.store(spawn.cpu as u32, Ordering::Relaxed);
    block.stack_limit.store(first.as_ptr().addr(), Ordering::Relaxed);
    block.ended.store(false, Ordering::Relaxed);
    block.own.store(u32::from(spawn.base.is_some()), Ordering::Relaxed);
    if let Some(base) = &spawn.base {
        base.threads.fetch_add(1, Ordering::Relaxed);
    }
    *block.life.lock() = Life {
        name: spawn.name,
        stack: Some(Mapped { first, pages, kind: Mapping::Stack }),
        base: spawn.base,
        domain: spawn.domain,
        work: Some(spawn.work),
    };
    let id = u64::from(block.id.load(Ordering::Relaxed));
    let stack_top = first.as_ptr().addr() + pages * PAGE;
    if machine().thread_start(ThreadStart { block, cpu: spawn.cpu, priority: spawn.priority, stack_top, entry: main }) {
        Some(id)
    } else {
        bury(&[block]);
        None
    }
}

/// Starts a thread of the kernel's own, with a stack of so many pages. False: no memory for it.
pub fn spawn_kernel_thread(name: &str, cpu: usize, stack_pages: usize, work: Box<dyn FnOnce() + Send>) -> bool {
    let name = name.into();
    spawn(Spawn { name, cpu, priority: Priority::Normal, stack_pages, base: None, domain: None, work }).is_some()
}

/// Where every thread of the core begins.
extern "C" fn main(block: &'static ThreadBlock) -> ! {
    let work = block.life.lock().work.take();
    if let Some(work) = work {
        work();
    }
    machine().thread_exit()
}

/// `block`'s thread has left its stack for good. Called by the platform from another thread or stack, holding no lock of its scheduler; afterwards the
/// platform doesn't touch the block or the stack.
pub fn ended(block: &'static ThreadBlock) {
    block.ended.store(true, Ordering::SeqCst);
    supervisor::notice();
}

/// Takes back what threads that have ended leave. For the supervisor.
pub(crate) fn bury_ended() {
    let ended: Vec<_> = all().filter(|block| block.ended.load(Ordering::SeqCst)).collect();
    bury(&ended);
}

/// Frees threads' stacks and caches. They don't run, and never will.
fn bury(blocks: &[&'static ThreadBlock]) {
    let mut lives = Vec::with_capacity(blocks.len());
    for block in blocks {
        block.given_back.clear();
        // SAFETY: the thread doesn't run any more, so the caches are ours.
        unsafe {
            (*block.magazines.get()).flush();
            (*block.buffers.get()).flush();
        }
        crate::exchange::settle(block);
        lives.push(core::mem::take(&mut *block.life.lock()));
    }
    let stacks: Vec<_> = lives.iter().filter_map(|life| life.stack).collect();
    // SAFETY: mapped in `spawn`; the threads have left them for good.
    unsafe { machine().unmap(&stacks) };
    for (block, life) in blocks.iter().zip(lives) {
        if let (Some(stack), Some(base)) = (life.stack, life.base) {
            base.refund(stack.pages);
            base.threads.fetch_sub(1, Ordering::Relaxed);
        }
        life.domain.inspect(|domain| domain.dismiss_thread());
        block.stack_limit.store(0, Ordering::Relaxed);
        block.ended.store(false, Ordering::Relaxed);
        block.watch.forget();
        let place = block.id.load(Ordering::Relaxed) as usize - 1;
        THREADS[place].store(ptr::null_mut(), Ordering::SeqCst);
        SPARE.lock().push(block);
    }
}
