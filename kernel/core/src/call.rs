//! The call: how a thread goes into another domain and comes back, whatever happens there.
//!
//! The order of the steps is that of docs/ARCHITECTURE.md, "A call", and is what the kernel's soundness rests on (SOUNDNESS: proxies). In: publish the frame,
//! *then* check that slot and callee hold. Back: unpublish, *then* check that the caller still lives. There is no atomic read-modify-write and no fence on
//! this path: a killer marks the domain dead, runs a barrier on all CPUs, and only then looks at the published frames.
//!
//! Objects change their owner only while both domains' reclaim waits for this thread: either is innermost in the published frames, or `crossing` is set.

use core::{
    arch::asm,
    cell::Cell,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering, compiler_fence},
};

use interfaces::{
    CallError, Cap,
    gate::{ArgumentList, Callable, Gate, Method, Outcome, Passage, Receiver},
};

use crate::{
    capability, exchange,
    given_back::Return,
    incarnation::{self, Incarnation, Owner},
    machine,
    platform::Resume,
    record::{self, PortRecord, Slot},
    state,
    thread::{self, Frame, KERNEL_RESERVE, ThreadBlock, offsets},
};

/// A proxy's insides: the slot, and what a caller hears whose callee is dead.
#[repr(C)]
pub struct SlotGate {
    pub(crate) slot: Slot,
    /// A capability belongs to one generation: it errs for ever. A port recovers.
    of_one_generation: bool,
}

impl SlotGate {
    pub(crate) fn port(record: &'static PortRecord) -> Self {
        SlotGate { slot: AtomicPtr::new(ptr::from_ref(record).cast_mut()), of_one_generation: false }
    }

    pub(crate) fn capability(record: &'static PortRecord) -> Self {
        SlotGate { slot: AtomicPtr::new(ptr::from_ref(record).cast_mut()), of_one_generation: true }
    }
}

/// How an entry went.
const RETURNED: u32 = 0;
/// The thread was diverted out of the callee, or kept from returning into it.
const LANDED: u32 = 1;
/// The frame is still published; the callee doesn't take visits.
const REFUSED: u32 = 2;
/// The frame is still published; the stack is too short.
const SHORT: u32 = 3;
/// No frame is left; nothing has been published.
const DEEP: u32 = 4;
/// Not even the kernel's own reserve is left of the stack; nothing has been published.
const EXHAUSTED: u32 = 5;

/// What runs inside the callee's frame, in the kernel's image.
type Body = unsafe extern "C" fn(&PortRecord, *mut ());

/// The value of a fresh MXCSR (all exceptions masked) and x87 control word, as the ABI wants them at a function's entry.
static FRESH_MXCSR: u32 = 0x1f80;
static FRESH_X87: u16 = 0x037f;

/// Publishes a frame for what `slot` leads to, checks, runs `body` in it and unpublishes.
///
/// # Safety
/// `body` accepts `context`; it may never return. `block` is the calling thread's.
#[inline(always)]
unsafe fn enter(block: &ThreadBlock, slot: &Slot, body: Body, context: *mut ()) -> u32 {
    let how: u32;
    // SAFETY: the block clobbers every register that a callee may change and, since a continuation keeps none, all the others; rbx and rbp, which can't be
    // named, are pushed. `3:` is where a diverted thread lands, with the stack pointer that was saved.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "mov rbx, [r8 + {top}]",
            "cmp rbx, [r8 + {last_frame}]",
            "jae 7f",
            "add rbx, {frame}",
            "lea rax, [rip + 3f]",
            "mov rcx, [rdi]",
            "mov [rbx + {resume}], rax",
            "mov [rbx + {sp}], rsp",
            "mov [rbx + {record}], rcx",
            "mov rax, [r8 + {visits}]",
            "inc rax",
            "mov [r8 + {visits}], rax",
            "mov [rbx + {visit}], rax",
            "mov [r8 + {top}], rbx", // published
            "cmp rcx, [rdi]",
            "jne 5f",
            "mov rax, [rcx + {incarnation}]",
            "cmp dword ptr [rax + {state}], 0",
            "jne 5f",
            "mov rax, rsp",
            "sub rax, [rcx + {stack_need}]",
            "jb 6f",
            "cmp rax, [r8 + {stack_limit}]",
            "jb 6f",
            // A callee that returns has kept these two: block and frame.
            "mov rbp, r8",
            "mov rdi, rcx",
            "call rdx",
            "xor eax, eax",
            "sub rbx, {frame}",
            "mov [rbp + {top}], rbx", // unpublished
            "jmp 8f",
            "3:",
            "ldmxcsr [rip + {mxcsr}]",
            "fninit",
            "fldcw [rip + {x87}]",
            "mov r8, gs:[0]",
            "sub qword ptr [r8 + {top}], {frame}", // unpublished
            "mov eax, 1",
            "jmp 8f",
            "5:",
            "mov eax, 2",
            "jmp 9f",
            "6:",
            "mov eax, 3",
            // What follows a refusal needs some stack; a fault there would be taken for the callee's.
            "9:",
            "lea rcx, [rsp - {reserve}]",
            "cmp rcx, [r8 + {stack_limit}]",
            "jae 8f",
            "sub qword ptr [r8 + {top}], {frame}",
            "mov eax, 5",
            "jmp 8f",
            "7:",
            "lea rcx, [rsp - {reserve}]",
            "cmp rcx, [r8 + {stack_limit}]",
            "mov eax, 4",
            "jae 8f",
            "mov eax, 5",
            "8:",
            "pop rbx",
            "pop rbp",
            top = const offsets::TOP,
            last_frame = const offsets::LAST_FRAME,
            stack_limit = const offsets::STACK_LIMIT,
            reserve = const KERNEL_RESERVE,
            visits = const offsets::VISITS,
            frame = const offsets::FRAME,
            record = const offsets::RECORD,
            sp = const offsets::SP,
            resume = const offsets::RESUME,
            visit = const offsets::VISIT,
            incarnation = const record::offsets::INCARNATION,
            stack_need = const record::offsets::STACK_NEED,
            state = const incarnation::STATE,
            mxcsr = sym FRESH_MXCSR,
            x87 = sym FRESH_X87,
            inout("rdi") slot => _,
            inout("rsi") context => _,
            inout("rdx") body => _,
            inout("r8") block => _,
            lateout("eax") how,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r14") _,
            lateout("r15") _,
            clobber_abi("C"),
        );
    }
    how
}

/// Takes the innermost frame back after a refusal.
fn unpublish(block: &ThreadBlock) {
    let top = block.top.load(Ordering::Relaxed);
    block.top.store(top.wrapping_sub(1), Ordering::Relaxed);
}

/// What becomes of a refused call.
enum Refusal {
    /// The slot has changed meanwhile: try again.
    Again,
    /// The callee is to commit this fault first.
    Fault(u32),
    Error(CallError),
}

/// Looks into a refusal while the frame still keeps the record, then takes the frame back.
#[cold]
fn refusal(block: &ThreadBlock, gate: &SlotGate) -> Refusal {
    // SAFETY: our own innermost frame.
    let frame = unsafe { &*block.top.load(Ordering::Relaxed) };
    let record = frame.record.load(Ordering::Relaxed);
    let refusal = if gate.slot.load(Ordering::SeqCst) != record {
        Refusal::Again
    } else {
        // SAFETY: the frame was published when the slot still named the record.
        let incarnation = unsafe { frame.record().incarnation() };
        match incarnation.take_fault() {
            Some(reason) => Refusal::Fault(reason),
            None if incarnation.is_live() => Refusal::Again,
            None if gate.of_one_generation => Refusal::Error(CallError::Gone),
            None => Refusal::Error(incarnation.answer()),
        }
    };
    unpublish(block);
    refusal
}

/// Why a body hasn't run to its end.
enum Failure {
    Error(CallError),
    /// The callee is to commit this fault, in a visit of the thread that has taken it: once it has nothing on its way any more ([`settle`](Self::settle)).
    Fault(u32),
}

impl Failure {
    /// What the caller hears, once the callee has committed what it was to commit; `None`: it came back from that. Nothing may be on its way: while the thread is
    /// in the callee for that, the caller may die and be reclaimed.
    #[cold]
    fn settle(self, block: &ThreadBlock, gate: &SlotGate) -> Option<CallError> {
        match self {
            Failure::Error(error) => Some(error),
            Failure::Fault(reason) => commit(block, gate, reason),
        }
    }
}

/// Runs a body in the callee. `Ok` exactly if the body ran and came back.
///
/// # Safety
/// As for [`enter`].
#[inline(always)]
unsafe fn run(block: &ThreadBlock, gate: &SlotGate, body: Body, context: *mut ()) -> Result<(), Failure> {
    loop {
        // SAFETY: this function's contract.
        let how = unsafe { enter(block, &gate.slot, body, context) };
        if how == RETURNED {
            return Ok(());
        }
        if let Some(error) = failure(block, gate, how) {
            return Err(error);
        }
    }
}

/// Why a call failed; `None`: try again.
#[cold]
#[inline(never)]
fn failure(block: &ThreadBlock, gate: &SlotGate, how: u32) -> Option<Failure> {
    match how {
        LANDED => Some(Failure::Error(CallError::Crashed)),
        SHORT => {
            unpublish(block);
            Some(Failure::Error(CallError::StackShort))
        }
        DEEP => Some(Failure::Error(CallError::StackShort)),
        EXHAUSTED => thread::overflow(block),
        how => {
            debug_assert_eq!(how, REFUSED);
            match refusal(block, gate) {
                Refusal::Again => None,
                Refusal::Error(error) => Some(Failure::Error(error)),
                Refusal::Fault(reason) => Some(Failure::Fault(reason)),
            }
        }
    }
}

/// Has the callee commit a fault; `None` if it came back from that.
fn commit(block: &ThreadBlock, gate: &SlotGate, mut reason: u32) -> Option<CallError> {
    // SAFETY: `fault` takes a `u32`.
    match unsafe { enter(block, &gate.slot, fault, (&raw mut reason).cast()) } {
        RETURNED => None,
        how => failure(block, gate, how)?.settle(block, gate),
    }
}

/// Body of a visit that commits a fault.
unsafe extern "C" fn fault(record: &PortRecord, reason: *mut ()) {
    // SAFETY: `failure` passes a `u32`; the record is published.
    let (reason, hooks) = unsafe { (*reason.cast::<u32>(), record.incarnation().hooks()) };
    if let Some(hook) = hooks.fault {
        hook(reason);
    }
}

/// Arguments and outcome of a call of `M`, on the caller's stack.
struct Context<M: Method> {
    arguments: ManuallyDrop<M::Arguments>,
    /// Who has the arguments, once they have been moved and the loans among them are counted. Written and read only where there are such.
    callee: Option<Owner>,
    outcome: MaybeUninit<M::Outcome>,
}

/// Moves the arguments, calls the method, writes the outcome in place.
unsafe extern "C" fn body<M: Method>(record: &PortRecord, context: *mut ()) {
    // SAFETY: `call` passes this context, and waits for us.
    let context = unsafe { &mut *context.cast::<Context<M>>() };
    if crosses::<M>() || <M::Outcome as Outcome>::MOVES {
        let block = thread::current();
        // SAFETY: the record is published: we are in its frame.
        let between = Between { to: unsafe { record.incarnation() }, from: caller_of(block) };
        if !between.is_admitted::<M>(&mut context.arguments) {
            // SAFETY: the arguments are still the caller's, and not used again: this is the end.
            refuse(block, unsafe { ManuallyDrop::take(&mut context.arguments) }, between.from);
            context.outcome.write(M::Outcome::failed(CallError::Overloaded));
            set_crossing(block, <M::Outcome as Outcome>::MOVES);
            return;
        }
        if crosses::<M>() {
            context.callee = Some(between.to.owner());
            context.arguments.cross(&between);
            context.arguments.lend(&between);
            set_crossing(block, false);
        }
    }
    // SAFETY: the arguments are read once; on every path out of here nobody drops them again. The object is the callee's, which lives; `&mut` only behind
    // a capability, which is unique.
    unsafe {
        let arguments = ptr::read(&*context.arguments);
        let outcome = ManuallyDrop::new(M::invoke(<M::This<'_> as Receiver>::from_raw(record.object()), arguments));
        context.outcome.write(M::Outcome::moved(&outcome));
    }
    if <M::Outcome as Outcome>::MOVES {
        set_crossing(thread::current(), true);
    }
}

/// Whether arguments of `M` own or borrow anything.
const fn crosses<M: Method>() -> bool {
    <M::Arguments as ArgumentList>::MOVES || <M::Arguments as ArgumentList>::LENDS
}

/// Says whether objects are on their way. Ordered against frames by x86's store order and, for the compiler, by the fences.
#[inline(always)]
fn set_crossing(block: &ThreadBlock, on: bool) {
    compiler_fence(Ordering::SeqCst);
    block.crossing.store(u32::from(on), Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

/// The incarnation from which the innermost one was called.
fn caller_of(block: &ThreadBlock) -> &Incarnation {
    // SAFETY: our own frames; below a callee's there is at least the kernel's.
    unsafe { (*block.top.load(Ordering::Relaxed).wrapping_sub(1)).record().incarnation() }
}

// SAFETY: `run` is the order that the contract names.
unsafe impl Gate for SlotGate {
    #[inline(always)]
    fn call<M: Method>(&self, arguments: M::Arguments) -> M::Outcome {
        let block = thread::current();
        if crosses::<M>() {
            set_crossing(block, true);
        }
        let mut context =
            Context::<M> { arguments: ManuallyDrop::new(arguments), callee: None, outcome: MaybeUninit::uninit() };
        // SAFETY: `body` takes this context.
        let ran = unsafe { run(block, self, body::<M>, (&raw mut context).cast()) };
        if let Err(error) = ran {
            if let Some(callee) = context.callee {
                // Of what the body read nothing is in use any more, since the callee is quiet.
                give_back::<M>(&context, block);
                recover(block, &mut *context.arguments, callee);
            } else if crosses::<M>() {
                // SAFETY: the body didn't start, so the arguments are still here and the caller's.
                refuse(block, unsafe { ManuallyDrop::take(&mut context.arguments) }, block.innermost_relaxed());
            }
            set_crossing(block, false);
            // The arguments are refused before the callee commits a fault. Should it come back from that, the caller calls again.
            let error = error.settle(block, self).unwrap_or(CallError::Restarting);
            block.given_back.came_back();
            come_back(block);
            return M::Outcome::failed(error);
        }
        // SAFETY: the body came to its end, and wrote it.
        let mut outcome = unsafe { M::Outcome::moved(context.outcome.assume_init_ref()) };
        give_back::<M>(&context, block);
        let caller = block.innermost_relaxed();
        if caller.state() != state::LIVE {
            return self.back_late::<M>(block, outcome);
        }
        if <M::Outcome as Outcome>::MOVES {
            move_back(block, &mut outcome, caller);
        }
        outcome
    }
}

/// Ends the loans of a call that is over, however it ended. The caller may be dead, and what it lent an orphan; but nobody goes back into it before this.
#[inline(always)]
fn give_back<M: Method>(context: &Context<M>, block: &ThreadBlock) {
    if <M::Arguments as ArgumentList>::LENDS && context.callee.is_some() {
        // What has moved on is not looked at: only the loans' addresses, which are still there.
        let caller = block.innermost_relaxed();
        context.arguments.give_back(&Between { from: caller, to: caller });
    }
}

impl SlotGate {
    /// The way back into a caller that is dead, or is to commit a fault.
    #[cold]
    #[inline(never)]
    fn back_late<M: Method>(&self, block: &ThreadBlock, mut outcome: M::Outcome) -> M::Outcome {
        let caller = block.innermost_relaxed();
        if !caller.is_live() {
            if <M::Outcome as Outcome>::MOVES {
                discard_outcome(outcome, callee_of(block));
                set_crossing(block, false);
            }
            never_return(block);
        }
        if <M::Outcome as Outcome>::MOVES {
            move_back(block, &mut outcome, caller);
        }
        come_back(block);
        outcome
    }
}

/// Gives what the callee returned to the caller.
#[inline(always)]
fn move_back<O: Outcome>(block: &ThreadBlock, outcome: &mut O, caller: &Incarnation) {
    outcome.cross(&Between { to: caller, from: callee_of(block) });
    set_crossing(block, false);
}

/// What was moved into a call that its callee hasn't survived: the caller's again, if it wants it and it is still there. A caller that is dead may have been
/// reclaimed before: what became its own now nobody would find. (One that dies from here on isn't quiet before this thread is held.)
#[cold]
fn recover<A: ArgumentList>(block: &ThreadBlock, arguments: &mut A, holder: Owner) {
    let caller = block.innermost_relaxed();
    if caller.is_to_have_back() && caller.is_live() {
        block.given_back.clear();
        arguments.cross(&Return { block, caller, holder });
    }
}

/// Arguments that can't be delivered: kept for a caller that wants them, else dropped.
#[cold]
fn refuse<A: ArgumentList>(block: &ThreadBlock, arguments: A, caller: &Incarnation) {
    if !caller.is_to_have_back() {
        return discard(arguments, caller);
    }
    let mut arguments = ManuallyDrop::new(arguments);
    block.given_back.clear();
    arguments.cross(&Return { block, caller, holder: caller.owner() });
}

/// Drops a capability that didn't reach its callee.
pub(crate) fn drop_capability<I: ?Sized + Callable>(cap: &mut Cap<I>, from: &Incarnation) {
    Between { from, to: incarnation::kernel() }.capability(cap);
    // SAFETY: the caller of this function never uses it again: its arguments are forgotten.
    unsafe { ptr::drop_in_place(cap) };
}

/// Drops arguments that can't be delivered. They go to the kernel first: it is never reclaimed, while the domain that the thread acts for may be, at this very
/// moment; and a capability that is still its maker's own object can't just be dropped here.
fn discard<A: ArgumentList>(mut arguments: A, from: &Incarnation) {
    arguments.cross(&Between { from, to: incarnation::kernel() });
    drop(arguments);
}

/// The same for an outcome.
fn discard_outcome<O: Outcome>(mut outcome: O, from: &Incarnation) {
    outcome.cross(&Between { from, to: incarnation::kernel() });
    drop(outcome);
}

/// The incarnation that the thread has just come back from, while `crossing` is set, which keeps it from being reclaimed.
fn callee_of(block: &ThreadBlock) -> &Incarnation {
    // SAFETY: the frame that was just unpublished still holds its record.
    unsafe { (*block.top.load(Ordering::Relaxed).wrapping_add(1)).record().incarnation() }
}

/// Before going back into the innermost domain's code: it must live, and may have a fault to commit. Returns at once for a live one.
#[inline(always)]
pub(crate) fn come_back(block: &ThreadBlock) {
    if block.innermost_relaxed().state() != state::LIVE {
        come_back_late(block);
    }
}

#[cold]
#[inline(never)]
fn come_back_late(block: &ThreadBlock) {
    let incarnation = block.innermost_relaxed();
    if !incarnation.is_live() {
        never_return(block);
    }
    if let Some(reason) = incarnation.take_fault()
        && let Some(hook) = incarnation.hooks().fault
    {
        // In the domain, on its own thread, at depth 0: what follows is its crash.
        hook(reason);
    }
}

/// Goes to the innermost continuation instead of returning into its dead domain, once no thread runs there any more. Depth and crossing are 0.
#[cold]
pub(crate) fn never_return(block: &ThreadBlock) -> ! {
    // SAFETY: our own innermost frame.
    let frame: &Frame = unsafe { &*block.top.load(Ordering::Relaxed) };
    let at = frame.continuation();
    block.held.store(1, Ordering::SeqCst);
    // SAFETY: as above.
    let quiet = unsafe { frame.record().incarnation() }.is_quiet();
    if quiet && block.held.swap(0, Ordering::SeqCst) == 1 {
        // SAFETY: a published continuation; nobody knows the frames that are skipped, since nobody runs in the dead domain (SOUNDNESS:
        // continuations over skipped frames).
        unsafe { jump(at) }
    }
    // The supervisor has not yet let threads go, or has just let this one go: then the platform doesn't wait.
    machine().hold(at)
}

/// # Safety
/// `at` is the calling thread's innermost continuation, and what is skipped is known to nobody.
unsafe fn jump(at: Resume) -> ! {
    // SAFETY: this function's contract; the landing reloads what it needs.
    unsafe { asm!("cld", "mov rsp, {}", "jmp {}", in(reg) at.rsp, in(reg) at.rip, options(noreturn)) }
}

/// From one domain to another.
struct Between<'a> {
    from: &'a Incarnation,
    to: &'a Incarnation,
}

impl Between<'_> {
    /// Whether both sides' limits admit a call. The callee's have room for all that would be moved to it. A caller that asks for objects isn't beyond its quota, once it
    /// has given away what it gives; what it will get nobody knows before, so each of its threads may bring it beyond by one result.
    #[inline(always)]
    fn is_admitted<M: Method>(&self, arguments: &mut M::Arguments) -> bool {
        let weight = Weight::default();
        if <M::Arguments as ArgumentList>::MOVES {
            arguments.cross(&weight);
        }
        let (bytes, handles) = (weight.bytes.get(), weight.handles.get());
        let (from, to) = (self.from.owner(), self.to.owner());
        (!<M::Arguments as ArgumentList>::MOVES || exchange::has_room(to, bytes))
            && (handles == 0 || capability::has_room(to, handles))
            && (!<M::Outcome as Outcome>::MOVES || exchange::has_room(from, -bytes))
            && (!<M::Outcome as Outcome>::HANDLE || capability::has_room(from, 1))
    }
}

impl Passage for Between<'_> {
    #[inline(always)]
    fn object(&self, object: NonNull<u8>) {
        exchange::transfer(object, self.from.owner(), self.to.owner());
    }

    #[inline(always)]
    fn lend(&self, object: NonNull<u8>) {
        exchange::lend(object);
    }

    #[inline(always)]
    fn give_back(&self, object: NonNull<u8>) {
        exchange::give_back(object);
    }

    fn capability<I: ?Sized + Callable>(&self, cap: &mut Cap<I>) {
        if cap.is_local() {
            capability::mint(cap, self.from, self.to.owner());
        } else {
            capability::pass(I::to_raw(cap.address().as_ptr()).data, self.from.owner(), self.to.owner());
        }
    }
}

/// What objects weigh, and how many handles there are: nothing crosses by this.
#[derive(Default)]
struct Weight {
    bytes: Cell<i64>,
    handles: Cell<u32>,
}

impl Passage for Weight {
    #[inline(always)]
    fn object(&self, object: NonNull<u8>) {
        self.bytes.set(self.bytes.get() + exchange::weight(object));
    }

    fn lend(&self, _: NonNull<u8>) {}

    fn give_back(&self, _: NonNull<u8>) {}

    #[inline(always)]
    fn capability<I: ?Sized + Callable>(&self, _: &mut Cap<I>) {
        self.handles.set(self.handles.get() + 1);
    }
}

/// Runs `work` as a visit to the incarnation that `slot` leads to, from a kernel thread. `work` calls the domain; it owns nothing that a crash would
/// leak but what the domain's reclaim frees.
pub(crate) fn visit<R>(gate: &SlotGate, work: impl FnOnce(&PortRecord) -> R) -> Result<R, CallError> {
    struct Visit<W, R> {
        work: ManuallyDrop<W>,
        result: MaybeUninit<R>,
    }
    unsafe extern "C" fn body<R, W: FnOnce(&PortRecord) -> R>(record: &PortRecord, visit: *mut ()) {
        // SAFETY: `visit` passes this context, and the work is taken once.
        unsafe {
            let visit = &mut *visit.cast::<Visit<W, R>>();
            let work = ManuallyDrop::take(&mut visit.work);
            visit.result.write(work(record));
        }
    }
    fn run_it<R, W: FnOnce(&PortRecord) -> R>(gate: &SlotGate, work: W) -> Result<R, CallError> {
        let block = thread::current();
        let mut visit = Visit::<W, R> { work: ManuallyDrop::new(work), result: MaybeUninit::uninit() };
        // SAFETY: `body` takes this context; if it hasn't run, the work is still there.
        while let Err(failure) = unsafe { run(block, gate, body::<R, W>, (&raw mut visit).cast()) } {
            if let Some(error) = failure.settle(block, gate) {
                return Err(error);
            }
        }
        // SAFETY: the body came to its end.
        Ok(unsafe { visit.result.assume_init() })
    }
    run_it(gate, work)
}

/// A gate to the incarnation itself, for the visits of kernel threads.
pub(crate) fn base_gate(incarnation: &Incarnation) -> SlotGate {
    SlotGate::capability(incarnation.base())
}

/// Who the calling thread acts for.
pub(crate) fn acting_owner() -> Owner {
    thread::current().innermost_relaxed().owner()
}
