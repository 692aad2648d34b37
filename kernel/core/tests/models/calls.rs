//! The call, its killer and its supervisor: `call.rs`, `incarnation.rs` (`die`), `supervisor.rs`, `record.rs`, `trap.rs`.
//!
//! Two domains, `A` and `C`. A worker is in A, has an object there, calls C with it and comes back with it. A killer, who is the supervisor, ends one of the
//! domains meanwhile. What must never be at the same time is a data race to Loom: executing an image and unmapping it, following a record and making it
//! anew, using an object and freeing it, knowing a frame on a thread's stack and skipping it.
//!
//! Plain moves of x86 are release stores and acquire loads (stores come in order, loads come in order, a load may overtake an earlier store). The
//! barrier is what IPI and `membarrier` are: every CPU that runs executes a full fence between two of its instructions, whenever it gets there, and the killer
//! waits until each has.

use std::collections::HashSet;

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Notify,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
    thread,
};

use crate::{
    explore,
    sources::{body_of, in_order},
};

const CALL: &str = include_str!("../../src/call.rs");
const STATE: &str = include_str!("../../src/state.rs");
const INCARNATION: &str = include_str!("../../src/incarnation.rs");
const SUPERVISOR: &str = include_str!("../../src/supervisor.rs");
const RECORD: &str = include_str!("../../src/record.rs");
const TRAP: &str = include_str!("../../src/trap.rs");
const TABLE: &str = include_str!("../../src/table.rs");

/// Steps of a thread that calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// `crossing` on, before anything is moved to the callee.
    CrossIn,
    LoadSlot,
    NameRecord,
    Publish,
    CheckSlot,
    CheckCallee,
    MoveIn,
    CrossedIn,
    Invoke,
    CrossOut,
    Unpublish,
    CheckCaller,
    MoveOut,
    CrossedOut,
}

/// Steps of a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Death {
    Mark,
    PointAway,
    Barrier,
    Look,
    Quiet,
    Resume,
    Reclaim,
}

/// What is read of each thread in a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Look {
    Frame,
    Crossing,
    Held,
    Verdict,
}

/// What becomes of a record that no slot names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Collect {
    Detach,
    Barrier,
    LookAtFrames,
    UseAgain,
}

/// The orders that the kernel keeps, and what a trap asks before it diverts a thread.
#[derive(Clone)]
struct Orders {
    call: Vec<Step>,
    death: Vec<Death>,
    look: Vec<Look>,
    collect: Vec<Collect>,
    /// `consider` and `exception` look at the depth.
    depth_is_respected: bool,
}

impl Orders {
    fn of_the_sources() -> Orders {
        use Step::*;
        let enter = in_order(
            body_of(CALL, "unsafe fn enter("),
            &[
                ("\"mov rcx, [rdi]\"", LoadSlot),
                ("\"mov [rbx + {record}], rcx\"", NameRecord),
                ("\"mov [r8 + {top}], rbx\"", Publish),
                ("\"cmp rcx, [rdi]\"", CheckSlot),
                ("\"cmp dword ptr [rax + {state}], 0\"", CheckCallee),
                ("\"call rdx\"", Invoke),
                ("\"mov [rbp + {top}], rbx\"", Unpublish),
            ],
        );
        let moved = body_of(CALL, "unsafe extern \"C\" fn body<M: Method>");
        let inside = in_order(
            &moved[moved.find("let between").expect("the arguments are moved")..],
            &[
                ("context.arguments.cross(&between)", MoveIn),
                ("set_crossing(block, false)", CrossedIn),
                ("M::invoke(", Invoke),
                ("set_crossing(thread::current(), true)", CrossOut),
            ],
        );
        let gate = body_of(CALL, "fn call<M: Method>(&self, arguments: M::Arguments)");
        let before = &gate[..gate.find("if let Err(error) = ran").expect("a call may fail")];
        let after = &gate[gate.find("// SAFETY: the body came to its end").expect("a call may succeed")..];
        let outer: Vec<Step> = [
            in_order(before, &[("set_crossing(block, true)", CrossIn), ("run(block, self", Invoke)]),
            in_order(after, &[("caller.state() != state::LIVE", CheckCaller), ("move_back(block", MoveOut)]),
        ]
        .concat();
        let back = in_order(
            body_of(CALL, "fn move_back<O: Outcome>"),
            &[("outcome.cross(", MoveOut), ("set_crossing(block, false)", CrossedOut)],
        );
        // Each within the next: the call runs the entry, which runs the body; what is moved back is moved by its own function.
        let put = |outer: Vec<Step>, at: Step, inner: &[Step]| -> Vec<Step> {
            outer.into_iter().flat_map(|step| if step == at { inner.to_vec() } else { vec![step] }).collect()
        };
        let inside: Vec<Step> = put(enter, Invoke, &inside);
        let call = put(put(outer, Invoke, &inside), MoveOut, &back);

        let dying = body_of(SUPERVISOR, "fn dying(");
        let death = [
            in_order(
                body_of(INCARNATION, "pub(crate) fn die("),
                &[("self.state.die()", Death::Mark), ("domain.point_away(answer)", Death::PointAway)],
            ),
            in_order(
                dying,
                &[
                    ("machine().barrier()", Death::Barrier),
                    ("!is_quiet(incarnation)", Death::Look),
                    ("incarnation.set_quiet()", Death::Quiet),
                    ("machine().release(block)", Death::Resume),
                    ("reclaim(domain, incarnation)", Death::Reclaim),
                ],
            ),
        ]
        .concat();
        let look = in_order(
            body_of(SUPERVISOR, "fn is_quiet("),
            &[
                ("block.innermost()", Look::Frame),
                ("block.crossing.load", Look::Crossing),
                ("block.held.load", Look::Held),
                ("quiet &= !inside && !crossing;", Look::Verdict),
            ],
        );
        let collecting = body_of(RECORD, "pub(crate) fn collect()");
        let collecting =
            &collecting[collecting.find("unnamed.is_empty()").expect("only what seems free costs a barrier")..];
        let collect = in_order(
            collecting,
            &[
                ("record.incarnation.swap(", Collect::Detach),
                ("machine().barrier()", Collect::Barrier),
                ("if record.is_named()", Collect::LookAtFrames),
                ("free.push(record)", Collect::UseAgain),
            ],
        );
        assert!(body_of(STATE, "pub(crate) fn die(").contains("Ordering::SeqCst"));
        let depth_is_respected = body_of(TRAP, "pub fn consider(").contains("block.depth.load(Ordering::Relaxed) == 0")
            && body_of(TABLE, "pub(crate) fn enter_kernel()").contains("block.depth.store(");
        Orders { call, death, look, collect, depth_is_respected }
    }

    /// With `first` and `second` in each other's places.
    fn swapped(mut self, first: Step, second: Step) -> Orders {
        let place = |step| self.call.iter().position(|other| *other == step).expect("a step of the call");
        let (first, second) = (place(first), place(second));
        self.call.swap(first, second);
        self
    }

    fn without(mut self, step: Step) -> Orders {
        self.call.retain(|other| *other != step);
        self
    }

    fn deaths_without(mut self, step: Death) -> Orders {
        self.death.retain(|other| *other != step);
        self
    }
}

const KERNEL: usize = 0;
const A: usize = 1;
const C: usize = 2;
const LIVE: usize = 0;
const DYING: usize = 1;
const QUIET: usize = 2;
/// The slot of C's port leads to the record of its generation, or nowhere.
const RECORD_OF_C: usize = 1;
const NOWHERE: usize = 0;
const FREED: usize = 9;

/// A thread's block, and the CPU that it runs on.
struct Block {
    /// Frames that are published: 0 is the kernel's.
    top: AtomicUsize,
    records: [AtomicUsize; 3],
    crossing: AtomicUsize,
    held: AtomicUsize,
    /// Barriers asked of this CPU, in hundreds, and kicks of the thread.
    asked: AtomicUsize,
    /// The last barrier that the CPU has answered.
    answered: AtomicUsize,
    gone: AtomicUsize,
    depth: AtomicUsize,
    stack: UnsafeCell<bool>,
    /// The platform lets a held thread go on.
    released: Notify,
}

impl Block {
    fn new() -> Block {
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
        }
    }
}

struct Appliance {
    orders: Orders,
    states: [AtomicUsize; 3],
    images: [UnsafeCell<bool>; 3],
    slot: AtomicUsize,
    /// What the record leads to: C's generation, which is freed with it, or one that is always there.
    leads: AtomicUsize,
    generation: UnsafeCell<bool>,
    /// The port is a capability, whose slot always names its record.
    by_handle: bool,
    /// The worker has loaded the slot before anything else happens.
    held_up: bool,
    /// Something that the supervisor waits for may have come about.
    changed: Notify,
    owner: AtomicUsize,
    object: UnsafeCell<bool>,
    /// Two words of the kernel's that change together.
    pair: [AtomicUsize; 2],
    blocks: Vec<Block>,
}

/// The thread was taken out of the domain that it was in, and has landed at its continuation.
struct Landed;

fn put(word: &AtomicUsize, value: usize) {
    word.store(value, Release);
}

fn get(word: &AtomicUsize) -> usize {
    word.load(Acquire)
}

/// A store by `xchg`.
fn put_fenced(word: &AtomicUsize, value: usize) {
    word.store(value, Release);
    fence(SeqCst);
}

/// Uses what must not have ended, nor end meanwhile. (Loom finds the second; it would let pass an end that is in order before the use.)
fn uses(what: &UnsafeCell<bool>) {
    what.with(|ended| {
        // SAFETY: what Loom checks.
        assert!(!unsafe { *ended }, "Causality violation: it is used after its end");
    });
}

/// Ends it: frees, unmaps.
fn ends(what: &UnsafeCell<bool>) {
    what.with_mut(|ended| {
        // SAFETY: what Loom checks.
        assert!(!unsafe { ended.replace(true) }, "Causality violation: it ends twice");
    });
}

impl Appliance {
    fn new(orders: Orders, by_handle: bool, workers: usize) -> Arc<Appliance> {
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

    // The thread.

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
    fn change(&self, word: &AtomicUsize, value: usize) {
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
    fn land(&self, block: &Block) {
        block.stack.with_mut(|_| ());
        self.change(&block.top, get(&block.top) - 1);
    }

    /// A thread of A: calls C with the object, uses what comes back, leaves A.
    fn work(&self, number: usize) {
        let block = &self.blocks[number];
        if self.in_a(block).is_err() {
            self.land(block);
        } else {
            self.change(&block.top, KERNEL);
        }
        self.leave(block);
    }

    /// The thread is at its end; its CPU goes on answering.
    fn leave(&self, block: &Block) {
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

    fn free(&self) {
        ends(&self.object);
        put(&self.owner, FREED);
    }

    // The killer and supervisor.

    /// Every CPU that runs executes a fence.
    fn barrier(&self) {
        fence(SeqCst);
        for block in &self.blocks {
            let asked = block.asked.fetch_add(100, SeqCst) + 100;
            while get(&block.answered) / 100 < asked / 100 && get(&block.gone) == 0 && get(&block.held) == 0 {
                self.changed.wait();
            }
        }
        fence(SeqCst);
    }

    fn kill(&self, victim: usize) {
        for step in &self.orders.death {
            match step {
                Death::Mark => put_fenced(&self.states[victim], DYING),
                Death::PointAway if victim == C && !self.by_handle => put_fenced(&self.slot, NOWHERE),
                Death::PointAway => {}
                Death::Barrier => self.barrier(),
                Death::Look => {
                    while !self.is_quiet(victim) {
                        self.changed.wait();
                    }
                }
                Death::Quiet => put_fenced(&self.states[victim], QUIET),
                Death::Resume => {
                    for block in &self.blocks {
                        if self.is_innermost(block, victim) && block.held.swap(0, SeqCst) == 1 {
                            block.released.notify();
                        }
                    }
                }
                Death::Reclaim => self.reclaim(victim),
            }
        }
        // The watchdog asks for samples at any time.
        for block in &self.blocks {
            block.asked.fetch_add(1, SeqCst);
        }
    }

    fn is_quiet(&self, victim: usize) -> bool {
        let mut quiet = true;
        for block in &self.blocks {
            let (mut inside, mut crossing, mut held) = (false, false, false);
            for step in &self.orders.look {
                match step {
                    Look::Frame => inside = self.is_innermost(block, victim),
                    Look::Crossing => crossing = get(&block.crossing) != 0,
                    Look::Held => held = get(&block.held) != 0,
                    Look::Verdict => quiet &= held || !inside && !crossing,
                }
            }
            if !held && inside {
                block.asked.fetch_add(1, SeqCst);
            }
        }
        quiet
    }

    fn is_innermost(&self, block: &Block, domain: usize) -> bool {
        get(&block.top) == domain && (domain != C || get(&block.records[C]) == RECORD_OF_C)
    }

    fn reclaim(&self, victim: usize) {
        if self.owner.compare_exchange(victim, KERNEL, SeqCst, Relaxed).is_ok() {
            self.free();
        }
        ends(&self.images[victim]);
        // Whoever was in the kernel on the victim's behalf has come to the end of it.
        if victim == C {
            assert_eq!(get(&self.pair[0]), get(&self.pair[1]), "a kernel call was left half done");
            // A capability's record is its own until it is let go of.
            if !self.by_handle {
                self.collect();
            }
        }
    }

    /// `record::collect`.
    fn collect(&self) {
        let mut named = false;
        for step in &self.orders.collect {
            match step {
                Collect::Detach => put(&self.leads, KERNEL),
                Collect::Barrier => self.barrier(),
                Collect::LookAtFrames => {
                    named = self.blocks.iter().any(|block| {
                        get(&block.crossing) != 0 || get(&block.top) == C && get(&block.records[C]) == RECORD_OF_C
                    });
                }
                Collect::UseAgain if !named => ends(&self.generation),
                Collect::UseAgain => {}
            }
        }
    }
}

/// A worker calls from A to C with an object while `victims` are killed, one after the other.
fn a_call_amid_deaths(orders: &Orders, by_handle: bool, preemptions: usize, victims: &'static [usize]) {
    let orders = orders.clone();
    explore(preemptions, move || {
        let appliance = Appliance::new(orders.clone(), by_handle, 1);
        let worker = thread::spawn({
            let appliance = appliance.clone();
            move || appliance.work(0)
        });
        victims.iter().for_each(|victim| appliance.kill(*victim));
        worker.join().expect("a worker comes to its end");
        let owner = get(&appliance.owner);
        assert!(!victims.contains(&owner), "an object is still {owner}'s, which was reclaimed");
    });
}

/// The worker has loaded the slot, and is held up before it publishes its frame, for as long as the callee's death and all that follows may take.
fn a_caller_is_held_up(orders: &Orders, preemptions: usize) {
    let orders = orders.clone();
    explore(preemptions, move || {
        let mut appliance = Appliance::new(orders.clone(), false, 1);
        Arc::get_mut(&mut appliance).expect("nobody else has it yet").held_up = true;
        let worker = thread::spawn({
            let appliance = appliance.clone();
            move || appliance.work(0)
        });
        appliance.kill(C);
        worker.join().expect("a worker comes to its end");
    });
}

/// Two threads are in C, and one knows a frame on the other's stack, as scoped threads do, when that one's crash ends the domain.
fn a_crash_with_another_thread_inside(orders: &Orders, preemptions: usize) {
    let orders = orders.clone();
    explore(preemptions, move || {
        let appliance = Appliance::new(orders.clone(), false, 2);
        for block in &appliance.blocks {
            put(&block.records[C], RECORD_OF_C);
            put(&block.top, C);
        }
        // `trap::exception` has held it, and its `die` is what the supervisor goes on with.
        put_fenced(&appliance.blocks[0].held, 1);
        let crashing = thread::spawn({
            let appliance = appliance.clone();
            move || {
                let block = &appliance.blocks[0];
                appliance.wait_until_released(block);
                appliance.land(block);
                appliance.leave(block);
            }
        });
        let knowing = thread::spawn({
            let appliance = appliance.clone();
            move || {
                let block = &appliance.blocks[1];
                uses(&appliance.images[C]);
                uses(&appliance.blocks[0].stack);
                if appliance.trap(block, Some(C)).is_err() {
                    appliance.land(block);
                } else {
                    appliance.change(&block.top, A);
                }
                appliance.leave(block);
            }
        });
        appliance.kill(C);
        crashing.join().expect("it lands");
        knowing.join().expect("it lands or leaves");
    });
}

/// The orders are complete: every step that the model knows is in the sources, once.
#[test]
fn the_sources_have_every_step_in_its_place() {
    use Step::*;
    let orders = Orders::of_the_sources();
    let steps: HashSet<Step> = orders.call.iter().copied().collect();
    assert_eq!((orders.call.len(), steps.len()), (14, 14), "{:?}", orders.call);
    let before = |first, second| {
        let place = |step| orders.call.iter().position(|other| *other == step);
        place(first) < place(second)
    };
    for (first, second) in [
        (CrossIn, Publish),
        (NameRecord, Publish),
        (Publish, CheckSlot),
        (CheckSlot, CheckCallee),
        (CheckCallee, MoveIn),
        (MoveIn, CrossedIn),
        (CrossOut, Unpublish),
        (Unpublish, CheckCaller),
        (CheckCaller, MoveOut),
        (MoveOut, CrossedOut),
    ] {
        assert!(before(first, second), "{first:?} comes before {second:?}: {:?}", orders.call);
    }
    assert!(orders.depth_is_respected, "a trap asks for the depth");
    let death =
        [Death::Mark, Death::PointAway, Death::Barrier, Death::Look, Death::Quiet, Death::Resume, Death::Reclaim];
    assert_eq!(orders.death, death);
    assert_eq!(orders.look, [Look::Frame, Look::Crossing, Look::Held, Look::Verdict]);
}

/// Invariants 2, 3 and 4: whatever the moment at which the callee dies, nobody executes it, follows its record or has its object afterwards.
#[test]
fn a_callee_dies() {
    a_call_amid_deaths(&Orders::of_the_sources(), false, 3, &[C]);
    a_call_amid_deaths(&Orders::of_the_sources(), true, 3, &[C]);
}

/// The same for the caller: nobody returns into it.
#[test]
fn a_caller_dies() {
    a_call_amid_deaths(&Orders::of_the_sources(), false, 3, &[A]);
}

#[test]
fn both_die() {
    a_call_amid_deaths(&Orders::of_the_sources(), false, 2, &[A, C]);
    a_call_amid_deaths(&Orders::of_the_sources(), false, 2, &[C, A]);
}

/// A record that is gone is never followed, not even by a trap.
#[test]
fn a_stale_record_leads_nowhere() {
    a_caller_is_held_up(&Orders::of_the_sources(), 3);
}

#[test]
fn a_thread_knows_anothers_frame() {
    a_crash_with_another_thread_inside(&Orders::of_the_sources(), 2);
}

/// Each of these orders is wrong, and the model must say so: else it shows nothing.
mod wrong {
    use super::*;

    fn orders() -> Orders {
        Orders::of_the_sources()
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn check_then_publish() {
        a_call_amid_deaths(&orders().swapped(Step::Publish, Step::CheckCallee), true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_second_look_at_the_slot() {
        a_call_amid_deaths(&orders().without(Step::CheckSlot), false, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_check_of_the_callee() {
        a_call_amid_deaths(&orders().without(Step::CheckCallee), true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn check_the_caller_then_unpublish() {
        a_call_amid_deaths(&orders().swapped(Step::Unpublish, Step::CheckCaller), false, 3, &[A]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_check_of_the_caller() {
        a_call_amid_deaths(&orders().without(Step::CheckCaller), false, 3, &[A]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_killer_without_a_barrier() {
        let mut orders = orders().deaths_without(Death::Barrier);
        orders.collect.retain(|step| *step != Collect::Barrier);
        a_call_amid_deaths(&orders, true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_look_before_the_mark() {
        let mut orders = orders();
        let mark = orders.death.iter().position(|step| *step == Death::Mark).expect("a death is marked");
        let mark = orders.death.remove(mark);
        let look = orders.death.iter().position(|step| *step == Death::Look).expect("there is a look");
        orders.death.insert(look + 1, mark);
        a_call_amid_deaths(&orders, false, 3, &[A]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_look() {
        a_call_amid_deaths(&orders().deaths_without(Death::Look), true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "left half done")]
    fn diversion_at_depth() {
        a_call_amid_deaths(&Orders { depth_is_respected: false, ..orders() }, false, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_crossing_on_the_way_back() {
        a_call_amid_deaths(&orders().without(Step::CrossOut), false, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_crossing_on_the_way_in() {
        a_call_amid_deaths(&orders().without(Step::CrossIn), false, 3, &[A]);
    }

    /// A caller that was held up between loading the slot and publishing its frame names a record that is gone: it never follows it, but its CPU's trap does.
    #[test]
    #[should_panic(expected = "Causality violation")]
    fn records_lead_to_the_freed() {
        let mut orders = orders();
        orders.collect.retain(|step| *step != Collect::Detach);
        a_caller_is_held_up(&orders, 3);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn records_are_used_again_unseen() {
        let mut orders = orders();
        orders.collect.retain(|step| *step != Collect::LookAtFrames);
        a_caller_is_held_up(&orders, 3);
    }
}
