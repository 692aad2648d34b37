//! Two domains, `A` and `C`, and threads that work in them. A worker is in A, has an object there, calls C with it and comes back with it; [its killer](super::killer) ends one of
//! the domains meanwhile. What must never be at the same time is a data race to Loom: executing an image and unmapping it, following a record and making it
//! anew, using an object and freeing it, knowing a frame on a thread's stack and skipping it.
//!
//! Plain moves of x86 are release stores and acquire loads (stores come in order, loads come in order, a load may overtake an earlier store). The
//! barrier is what IPI and `membarrier` are: every CPU that runs executes a full fence between two of its instructions, whenever it gets there, and the killer
//! waits until each has.

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Notify,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};

use crate::orders::{Orders, Step};

pub const KERNEL: usize = 0;
pub const A: usize = 1;
pub const C: usize = 2;
const LIVE: usize = 0;
pub const DYING: usize = 1;
pub const QUIET: usize = 2;
/// The slot of C's port leads to the record of its generation, or nowhere.
pub const RECORD_OF_C: usize = 1;
pub const NOWHERE: usize = 0;
const FREED: usize = 9;

/// A thread's block, and the CPU that it runs on.
pub struct Block {
    /// Frames that are published: 0 is the kernel's.
    pub top: AtomicUsize,
    pub records: [AtomicUsize; 3],
    pub crossing: AtomicUsize,
    pub held: AtomicUsize,
    /// Barriers asked of this CPU, in hundreds, and kicks of the thread.
    pub asked: AtomicUsize,
    /// The last barrier that the CPU has answered.
    pub answered: AtomicUsize,
    pub gone: AtomicUsize,
    depth: AtomicUsize,
    stack: UnsafeCell<bool>,
    /// The platform lets a held thread go on.
    pub released: Notify,
    /// It has crashed before all this, and is held; nobody executes it. It lands at the moment when it is released.
    pub crashed: bool,
}

impl Block {
    pub fn new() -> Block {
        let zero = || AtomicUsize::new(0);
        Block {
            top: AtomicUsize::new(1),
            records: [zero(), zero(), zero()],
            crossing: zero(),
            held: zero(),
            asked: zero(),
            answered: zero(),
            gone: zero(),
            depth: zero(),
            stack: UnsafeCell::new(false),
            released: Notify::new(),
            crashed: false,
        }
    }
}

pub struct Appliance {
    pub orders: Orders,
    pub states: [AtomicUsize; 3],
    pub images: [UnsafeCell<bool>; 3],
    pub slot: AtomicUsize,
    /// What the record leads to: C's generation, which is freed with it, or one that is always there.
    pub leads: AtomicUsize,
    pub generation: UnsafeCell<bool>,
    /// The port is a capability, whose slot always names its record.
    pub by_handle: bool,
    /// The worker has loaded the slot before anything else happens.
    pub held_up: bool,
    /// Something that the supervisor waits for may have come about.
    pub changed: Notify,
    pub owner: AtomicUsize,
    object: UnsafeCell<bool>,
    /// Two words of the kernel's that change together.
    pub pair: [AtomicUsize; 2],
    pub blocks: Vec<Block>,
}

/// The thread was taken out of the domain that it was in, and has landed at its continuation.
pub struct Landed;

pub fn put(word: &AtomicUsize, value: usize) {
    word.store(value, Release);
}

pub fn get(word: &AtomicUsize) -> usize {
    word.load(Acquire)
}

/// A store by `xchg`, which comes before or after any other read-modify-write; to Loom a plain store may be on both sides of one.
pub fn put_fenced(word: &AtomicUsize, value: usize) {
    word.swap(value, AcqRel);
    fence(SeqCst);
}

/// Uses what must not have ended, nor end meanwhile. (Loom finds the second; it would let pass an end that is in order before the use.)
pub fn uses(what: &UnsafeCell<bool>) {
    what.with(|ended| {
        // SAFETY: what Loom checks.
        assert!(!unsafe { *ended }, "Causality violation: it is used after its end");
    });
}

/// Ends it: frees, unmaps.
pub fn ends(what: &UnsafeCell<bool>) {
    what.with_mut(|ended| {
        // SAFETY: what Loom checks.
        assert!(!unsafe { ended.replace(true) }, "Causality violation: it ends twice");
    });
}

impl Appliance {
    pub fn new(orders: Orders, by_handle: bool, workers: usize) -> Arc<Appliance> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Appliance {
            orders,
            states: [zero(), zero(), zero()],
            images: [UnsafeCell::new(false), UnsafeCell::new(false), UnsafeCell::new(false)],
            slot: AtomicUsize::new(RECORD_OF_C),
            leads: AtomicUsize::new(C),
            generation: UnsafeCell::new(false),
            by_handle,
            held_up: false,
            changed: Notify::new(),
            owner: AtomicUsize::new(A),
            object: UnsafeCell::new(false),
            pair: [zero(), zero()],
            blocks: (0..workers).map(|_| Block::new()).collect(),
        })
    }

    /// Between two instructions: the CPU answers a barrier; and a kick diverts a thread that executes a dead domain's code (`trap::consider`).
    fn trap(&self, block: &Block, executing: Option<usize>) -> Result<(), Landed> {
        if !self.answer(block) {
            return Ok(());
        }
        // `consider` looks at the innermost frame's incarnation, whatever code the thread is in.
        if get(&block.top) == C {
            self.follow(block);
        }
        let Some(domain) = executing else { return Ok(()) };
        let dead = get(&self.states[domain]) != LIVE;
        let deep = block.depth.load(Relaxed) != 0 && self.orders.depth_is_respected;
        if dead && !deep && get(&block.top) == domain {
            // `divert`; then the platform doesn't let it run.
            put_fenced(&block.held, 1);
            self.wait_until_released(block);
            return Err(Landed);
        }
        Ok(())
    }

    /// Executes the fence that a barrier has asked for; whether anything was asked.
    fn answer(&self, block: &Block) -> bool {
        // What has been asked is known at once when the interrupt comes: that it comes late is a schedule in which this comes early.
        let asked = block.asked.fetch_add(0, Relaxed);
        let anything = asked != block.answered.load(Relaxed);
        if anything {
            fence(SeqCst);
            put(&block.answered, asked);
            self.changed.notify();
        }
        anything
    }

    /// Follows the record that C's frame names. In the rig a barrier's fence may come in the midst of a trap.
    fn follow(&self, block: &Block) {
        if get(&block.records[C]) == RECORD_OF_C {
            let leads = get(&self.leads);
            self.answer(block);
            if leads == C {
                uses(&self.generation);
            }
        }
    }

    fn wait_until_released(&self, block: &Block) {
        self.changed.notify();
        while get(&block.held) != 0 {
            block.released.wait();
        }
    }

    /// A store that the supervisor may be waiting for.
    pub fn change(&self, word: &AtomicUsize, value: usize) {
        put(word, value);
        self.changed.notify();
    }

    /// `call::never_return`.
    fn never_return(&self, block: &Block) {
        let domain = get(&block.top);
        put_fenced(&block.held, 1);
        if get(&self.states[domain]) == QUIET && block.held.swap(0, SeqCst) == 1 {
            return;
        }
        self.wait_until_released(block);
    }

    /// The landing: the skipped frames' memory is used for other things from now on.
    pub fn land(&self, block: &Block) {
        block.stack.with_mut(|_| ());
        self.change(&block.top, get(&block.top) - 1);
    }

    /// A thread of A: calls C with the object, uses what comes back, leaves A.
    pub fn work(&self, number: usize) {
        let block = &self.blocks[number];
        if self.in_a(block).is_err() {
            self.land(block);
        } else {
            self.change(&block.top, KERNEL);
        }
        self.leave(block);
    }

    /// A thread of C that knows a frame on another's stack looks at it, and leaves.
    pub fn look_at_a_frame(&self, block: &Block, of: &Block) {
        // A barrier's fence alone diverts nobody.
        self.answer(block);
        uses(&self.images[C]);
        uses(&of.stack);
        if self.trap(block, Some(C)).is_err() {
            self.land(block);
        } else {
            self.change(&block.top, A);
        }
        self.leave(block);
    }

    /// The thread is at its end; its CPU goes on answering.
    pub fn leave(&self, block: &Block) {
        fence(SeqCst);
        self.change(&block.gone, 1);
    }

    /// In A's code.
    fn in_a(&self, block: &Block) -> Result<(), Landed> {
        self.trap(block, Some(A))?;
        uses(&self.images[A]);
        uses(&self.object);
        let back = self.call(block)?;
        // Back in A's code.
        uses(&self.images[A]);
        if back {
            uses(&self.object);
        }
        self.trap(block, Some(A))
    }

    /// `Gate::call` of a method that moves an object in and back out. Whether the object came back; `Err` when the caller is dead and the thread has landed
    /// at the caller's own continuation.
    fn call(&self, block: &Block) -> Result<bool, Landed> {
        let mut record = if self.held_up { RECORD_OF_C } else { NOWHERE };
        for step in &self.orders.call {
            // In the proxy a trap diverts nobody.
            let _ = self.trap(block, None);
            match step {
                Step::CrossIn | Step::CrossOut => put(&block.crossing, 1),
                Step::CrossedIn | Step::CrossedOut => self.change(&block.crossing, 0),
                Step::LoadSlot if self.held_up => {}
                Step::LoadSlot => record = get(&self.slot),
                Step::NameRecord => put(&block.records[C], record),
                Step::Publish => put(&block.top, C),
                Step::CheckSlot => {
                    if get(&self.slot) != record || record == NOWHERE {
                        return self.refused(block);
                    }
                }
                Step::CheckCallee => {
                    self.follow(block);
                    // The state of whatever the record leads to.
                    if get(&self.states[get(&self.leads)]) != LIVE {
                        return self.refused(block);
                    }
                }
                Step::MoveIn => put(&self.owner, C),
                Step::Invoke => {
                    if self.in_c(block).is_err() {
                        self.land(block);
                        return self.come_back(block, false);
                    }
                }
                Step::Unpublish => self.change(&block.top, A),
                Step::CheckCaller => {
                    if get(&self.states[A]) != LIVE {
                        // `back_late`: the callee's, then the kernel's, then nobody's.
                        self.follow(block);
                        put(&self.owner, KERNEL);
                        self.free();
                        self.change(&block.crossing, 0);
                        return self.come_back(block, false);
                    }
                }
                Step::MoveOut => {
                    // `callee_of`.
                    self.follow(block);
                    put(&self.owner, A);
                }
            }
        }
        Ok(true)
    }

    /// A refused call: the frame is taken back, the arguments are dropped.
    fn refused(&self, block: &Block) -> Result<bool, Landed> {
        self.change(&block.top, A);
        put(&self.owner, KERNEL);
        self.free();
        self.change(&block.crossing, 0);
        self.come_back(block, false)
    }

    /// `call::come_back`.
    fn come_back(&self, block: &Block, with_object: bool) -> Result<bool, Landed> {
        if get(&self.states[A]) != LIVE {
            self.never_return(block);
            return Err(Landed);
        }
        Ok(with_object)
    }

    /// In C's code, with a kernel call amid it.
    fn in_c(&self, block: &Block) -> Result<(), Landed> {
        self.follow(block);
        self.trap(block, Some(C))?;
        uses(&self.images[C]);
        uses(&self.object);
        put(&block.depth, 1);
        put(&self.pair[0], 1);
        self.trap(block, Some(C))?;
        put(&self.pair[1], 1);
        put(&block.depth, 0);
        // `leave_kernel`.
        if get(&self.states[C]) != LIVE {
            self.never_return(block);
            return Err(Landed);
        }
        uses(&self.images[C]);
        self.trap(block, Some(C))
    }

    pub fn free(&self) {
        ends(&self.object);
        put(&self.owner, FREED);
    }
}
