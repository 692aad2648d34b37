//! An incarnation: one generation of a domain, with everything that is freed when it is reclaimed.
//!
//! Its state is one word, which calls compare with `LIVE` (0). It goes from live to dying exactly once, and from dying to quiet when the supervisor
//! has seen that no thread executes its code; only then is anything of it freed.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering},
};

use interfaces::{
    CallError,
    abi::{Hooks, RawObject, Reason},
};

use crate::{
    domain::{Domain, Started},
    lock::Lock,
    machine,
    platform::{Mapped, Mapping, PAGE},
    record::{PortRecord, Slot},
    state::State,
    supervisor,
    thread::{KERNEL_RESERVE, ThreadBlock},
};

/// A domain has no more generations than this. One a millisecond would be five hours.
pub const LAST_GENERATION: u32 = (1 << 24) - 1024;

/// Who owns an exchange object or holds a capability: an incarnation's id, never used again (24 bits of generation, 8 of domain).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Owner(pub(crate) u32);

impl Owner {
    pub(crate) const KERNEL: Owner = Owner(0);

    /// `None` for a generation whose id would be another's: the highest are those of nobody (`exchange`), and then they would begin anew.
    pub(crate) fn new(domain: usize, generation: u32) -> Option<Self> {
        (generation <= LAST_GENERATION).then_some(Owner(generation << 8 | domain as u32))
    }

    pub(crate) fn domain(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

/// Why an incarnation ended, besides crashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Crash(Reason),
    /// The operator stopped it.
    Stopped,
    /// Its start returned an error.
    Refused,
}

/// Bytes of last words that are kept.
pub const WORDS: usize = 240;
/// Links of the call chain that are kept.
pub const CHAIN: usize = 16;

/// How an incarnation died. Written once, by whoever killed it.
#[derive(Clone, Copy)]
pub struct Death {
    pub cause: Cause,
    pub cpu: u32,
    pub at: u64,
    /// Domains that the thread was in, by index, from its base inwards; empty if no thread crashed.
    pub chain: [u8; CHAIN],
    pub chain_len: usize,
    pub words: [u8; WORDS],
    pub words_len: usize,
}

#[repr(C)]
pub struct Incarnation {
    pub(crate) state: State,
    owner: Owner,
    /// What a caller through a port hears: `CallError` as a number.
    answer: AtomicU32,
    pub(crate) domain: Option<&'static Domain>,
    pub(crate) generation: u32,
    image_first: AtomicUsize,
    image_len: AtomicUsize,
    stack_need: usize,
    /// Leads to no object: for threads of the domain, its start and its hooks.
    base: Slot,
    fault_hook: AtomicUsize,
    release_hook: AtomicUsize,
    mappings: Lock<Vec<Mapped>>,
    /// Pages of private heap, image and stacks.
    pages: AtomicUsize,
    quota_pages: usize,
    pub(crate) threads: AtomicUsize,
    /// What it moved into a call that failed is to wait for it.
    wants_back: AtomicBool,
    pub(crate) started: Lock<Started>,
    death: UnsafeCell<Option<Death>>,
}

// SAFETY: `death` is written by the one who claims the killing, before the state that lets others read it; all else is atomic or locked.
unsafe impl Sync for Incarnation {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Incarnation {}

/// Offset of the state word, for the call's assembly.
pub(crate) const STATE: usize = core::mem::offset_of!(Incarnation, state);

impl Incarnation {
    fn build(
        domain: Option<&'static Domain>,
        generation: u32,
        owner: Owner,
        min_stack: usize,
        quota_pages: usize,
        state: State,
    ) -> Arc<Self> {
        Arc::new(Incarnation {
            state,
            owner,
            answer: AtomicU32::new(CallError::Restarting as u32),
            domain,
            generation,
            image_first: AtomicUsize::new(0),
            image_len: AtomicUsize::new(0),
            stack_need: min_stack + KERNEL_RESERVE,
            base: AtomicPtr::new(ptr::null_mut()),
            fault_hook: AtomicUsize::new(0),
            release_hook: AtomicUsize::new(0),
            mappings: Lock::new(Vec::new()),
            pages: AtomicUsize::new(0),
            quota_pages,
            threads: AtomicUsize::new(0),
            wants_back: AtomicBool::new(false),
            started: Lock::new(Started::Loading),
            death: UnsafeCell::new(None),
        })
    }

    /// The next generation of a domain; `None` if it has had all that there are.
    pub(crate) fn new(domain: &'static Domain, generation: u32) -> Option<Arc<Self>> {
        let spec = &domain.spec;
        let quota = usize::try_from(spec.memory.0).unwrap_or(usize::MAX) / PAGE;
        let min_stack = usize::try_from(spec.min_stack.0).unwrap_or(usize::MAX / 2);
        let owner = Owner::new(domain.index, generation)?;
        let incarnation = Self::build(Some(domain), generation, owner, min_stack, quota, State::new());
        incarnation.base.store(ptr::from_ref(PortRecord::base(&incarnation)).cast_mut(), Ordering::Relaxed);
        Some(incarnation)
    }

    /// What a slot leads to while there is no live generation: every call says `answer`.
    pub(crate) fn absent(answer: CallError) -> Arc<Self> {
        let incarnation = Self::build(None, 0, Owner::KERNEL, 0, 0, State::quiet());
        incarnation.answer.store(answer as u32, Ordering::Relaxed);
        incarnation
    }

    /// Another count of this incarnation.
    pub(crate) fn shared(&self) -> Arc<Incarnation> {
        // SAFETY: every incarnation is in an `Arc` (`build`), and the reference keeps one count alive.
        unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        }
    }

    #[inline(always)]
    pub fn is_live(&self) -> bool {
        self.state.is_live()
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> u32 {
        self.state.get()
    }

    /// From now on objects of its failed calls are given back to it.
    pub(crate) fn wants_back(&self) {
        self.wants_back.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_to_have_back(&self) -> bool {
        self.wants_back.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) fn stack_need(&self) -> usize {
        self.stack_need
    }

    /// The record that leads to no object.
    pub(crate) fn base(&self) -> &'static PortRecord {
        // SAFETY: set once, in `build`; records are never unmapped.
        unsafe { &*self.base.load(Ordering::Relaxed) }
    }

    /// What a caller through a port hears of a dead incarnation.
    pub(crate) fn answer(&self) -> CallError {
        match self.answer.load(Ordering::Relaxed) {
            answer if answer == CallError::Stopped as u32 => CallError::Stopped,
            answer if answer == CallError::Gone as u32 => CallError::Gone,
            _ => CallError::Restarting,
        }
    }

    pub(crate) fn set_image(&self, first: usize, len: usize) {
        self.image_len.store(len, Ordering::Relaxed);
        self.image_first.store(first, Ordering::Release);
    }

    /// Whether an instruction at `rip` is this domain's own.
    pub(crate) fn executes(&self, rip: usize) -> bool {
        rip.wrapping_sub(self.image_first.load(Ordering::Acquire)) < self.image_len.load(Ordering::Relaxed)
    }

    /// Where in the image an instruction lies.
    pub(crate) fn offset_of(&self, rip: usize) -> Option<usize> {
        self.executes(rip).then(|| rip - self.image_first.load(Ordering::Relaxed))
    }

    pub(crate) fn set_hooks(&self, hooks: Hooks) {
        self.fault_hook.store(hooks.fault.map_or(0, |hook| hook as usize), Ordering::Relaxed);
        self.release_hook.store(hooks.release.map_or(0, |hook| hook as usize), Ordering::Relaxed);
    }

    pub(crate) fn hooks(&self) -> Hooks {
        let (fault, release) = (self.fault_hook.load(Ordering::Relaxed), self.release_hook.load(Ordering::Relaxed));
        // SAFETY: both were stored from such options; 0 is `None`.
        unsafe {
            Hooks {
                fault: core::mem::transmute::<usize, Option<extern "C" fn(u32)>>(fault),
                release: core::mem::transmute::<usize, Option<unsafe extern "C" fn(RawObject)>>(release),
            }
        }
    }

    // Memory.

    /// Counts pages against the quota; false if they don't fit.
    pub(crate) fn charge(&self, pages: usize) -> bool {
        let fits = |used: usize| used.checked_add(pages).filter(|sum| *sum <= self.quota_pages);
        self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(crate) fn refund(&self, pages: usize) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Pages of private heap, image and stacks that are charged now.
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Maps memory that is freed with the incarnation; `None` when the quota or the machine's memory is exhausted.
    pub(crate) fn map(&self, pages: usize, kind: Mapping) -> Option<NonNull<u8>> {
        if pages == 0 || !self.charge(pages) {
            return None;
        }
        let first = machine().map(pages, kind);
        match first {
            Some(first) => self.mappings.lock().push(Mapped { first, pages, kind }),
            None => self.refund(pages),
        }
        first
    }

    /// Frees image and private heap.
    ///
    /// # Safety
    /// The incarnation is quiet, and nothing leads into its memory any more but what is never followed.
    pub(crate) unsafe fn unmap_all(&self) {
        let mappings = core::mem::take(&mut *self.mappings.lock());
        self.image_len.store(0, Ordering::Relaxed);
        // SAFETY: mapped by `map`; unused by this function's contract.
        unsafe { machine().unmap(&mappings) };
        self.refund(mappings.iter().map(|mapped| mapped.pages).sum());
    }

    // Life and death.

    /// The next visit shall commit a fault. False if the domain isn't live.
    pub(crate) fn inject(&self, reason: Reason) -> bool {
        self.state.inject(reason as u8)
    }

    /// Takes the pending fault, if there is one: the caller commits it.
    pub(crate) fn take_fault(&self) -> Option<u32> {
        self.state.take_fault()
    }

    /// Kills the incarnation: no visit begins from now on (after a barrier). False if it was dead already. Takes no lock; may be called in a trap.
    pub(crate) fn die(&self, cause: Cause, thread: Option<&ThreadBlock>, words: &[u8]) -> bool {
        if !self.state.claim() {
            return false;
        }
        let mut death = Death {
            cause,
            cpu: thread.map_or(0, |block| block.cpu.load(Ordering::Relaxed)),
            at: machine().now(),
            chain: [0; CHAIN],
            chain_len: 0,
            words: [0; WORDS],
            words_len: words.len().min(WORDS),
        };
        death.words[..death.words_len].copy_from_slice(&words[..death.words_len]);
        if let Some(block) = thread {
            let published = block.published();
            for frame in &published[published.len().saturating_sub(CHAIN)..] {
                // SAFETY: published frames of the thread whose trap or kernel call this is.
                death.chain[death.chain_len] = unsafe { frame.record().incarnation() }.owner.domain() as u8;
                death.chain_len += 1;
            }
        }
        // SAFETY: we have claimed the killing: nobody else writes, and nobody reads before the state says so.
        unsafe { *self.death.get() = Some(death) };
        let answer = if cause == Cause::Stopped { CallError::Stopped } else { CallError::Restarting };
        self.answer.store(answer as u32, Ordering::Relaxed);
        self.state.die();
        if let Some(domain) = self.domain {
            domain.point_away(answer);
            if let Some(lease) = &domain.lease {
                lease.died();
            }
        }
        supervisor::notice();
        true
    }

    /// Nobody runs in it, nor ever will.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state.is_quiet()
    }

    /// No thread will execute its code again. For the supervisor.
    pub(crate) fn set_quiet(&self) {
        self.state.set_quiet();
    }

    /// How it died, if it did.
    pub fn death(&self) -> Option<Death> {
        if self.is_live() {
            return None;
        }
        // SAFETY: written before the state became what we saw, and never again.
        unsafe { *self.death.get() }
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        let base = self.base.load(Ordering::Relaxed);
        // SAFETY: records are never unmapped.
        if let Some(base) = unsafe { base.as_ref() } {
            base.retire();
        }
    }
}

/// The kernel, as the base of every thread: it always lives. Made at the first call, which the boot thread makes before there is another.
pub(crate) fn kernel() -> &'static Arc<Incarnation> {
    static KERNEL: AtomicPtr<Arc<Incarnation>> = AtomicPtr::new(ptr::null_mut());
    let kernel = KERNEL.load(Ordering::Acquire);
    if !kernel.is_null() {
        // SAFETY: stored below, from a leaked box.
        return unsafe { &*kernel };
    }
    let made = Box::leak(Box::new(Incarnation::build(None, 0, Owner::KERNEL, 0, usize::MAX, State::new())));
    made.base.store(ptr::from_ref(PortRecord::first_base(made)).cast_mut(), Ordering::Relaxed);
    KERNEL.store(made, Ordering::Release);
    made
}
