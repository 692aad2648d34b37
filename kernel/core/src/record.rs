//! Port records and slots: what a proxy points at.
//!
//! A slot is one pointer to an immutable record; nobody ever reads two words apart. Records are type-stable: a stale pointer to one still points at a
//! record, so that a caller may publish it first and check the slot then. They are used again only when no frame of any thread names them.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

use interfaces::abi::RawObject;

use crate::{
    incarnation::{self, Incarnation},
    lock::Lock,
    thread,
};

/// Where a port of one generation leads. Atomics, since a stale reader may look while it is being made anew; immutable while a slot or frame names it.
#[repr(C)]
pub struct PortRecord {
    incarnation: AtomicPtr<Incarnation>,
    data: AtomicPtr<u8>,
    vtable: AtomicPtr<u8>,
    /// Stack that a caller must have left.
    stack_need: AtomicUsize,
    /// Whether the record holds a count of its incarnation. (An incarnation's own base record doesn't.)
    counted: AtomicBool,
    /// Index of the domain, for whoever may not follow `incarnation`.
    domain: AtomicUsize,
}

pub(crate) mod offsets {
    use super::PortRecord;
    use core::mem::offset_of;

    pub const INCARNATION: usize = offset_of!(PortRecord, incarnation);
    pub const STACK_NEED: usize = offset_of!(PortRecord, stack_need);
}

/// One word: the record that holds now.
pub type Slot = AtomicPtr<PortRecord>;

#[derive(Default)]
struct Store {
    free: Vec<&'static PortRecord>,
    /// Not named by any slot any more, perhaps still by frames.
    limbo: Vec<&'static PortRecord>,
}

static STORE: Lock<Store> = Lock::new(Store { free: Vec::new(), limbo: Vec::new() });

impl PortRecord {
    /// A record that leads to `object` in `incarnation`, which it keeps.
    pub(crate) fn new(incarnation: Arc<Incarnation>, object: RawObject) -> &'static PortRecord {
        let spare = STORE.lock().free.pop();
        let record = spare.unwrap_or_else(Self::blank);
        record.counted.store(true, Ordering::Relaxed);
        record.fill(Arc::into_raw(incarnation), object);
        record
    }

    /// The record that leads to no object in `incarnation`, which owns it and retires it at its end.
    pub(crate) fn base(incarnation: &Arc<Incarnation>) -> &'static PortRecord {
        let spare = STORE.lock().free.pop();
        spare.unwrap_or_else(Self::blank).become_base(incarnation)
    }

    /// The same, always in fresh memory: takes no lock.
    pub(crate) fn first_base(incarnation: &Arc<Incarnation>) -> &'static PortRecord {
        Self::blank().become_base(incarnation)
    }

    fn become_base(&'static self, incarnation: &Arc<Incarnation>) -> &'static Self {
        self.counted.store(false, Ordering::Relaxed);
        self.fill(Arc::as_ptr(incarnation), RawObject::NULL);
        self
    }

    fn blank() -> &'static PortRecord {
        MADE.fetch_add(1, Ordering::Relaxed);
        Box::leak(Box::new(PortRecord {
            incarnation: AtomicPtr::new(ptr::null_mut()),
            data: AtomicPtr::new(ptr::null_mut()),
            vtable: AtomicPtr::new(ptr::null_mut()),
            stack_need: AtomicUsize::new(0),
            counted: AtomicBool::new(false),
            domain: AtomicUsize::new(0),
        }))
    }

    fn fill(&self, incarnation: *const Incarnation, object: RawObject) {
        // SAFETY: from a live `Arc`.
        let to = unsafe { &*incarnation };
        self.stack_need.store(to.stack_need(), Ordering::Relaxed);
        self.domain.store(to.owner().domain(), Ordering::Relaxed);
        self.data.store(object.data, Ordering::Relaxed);
        self.vtable.store(object.vtable.cast_mut(), Ordering::Relaxed);
        self.incarnation.store(incarnation.cast_mut(), Ordering::Release);
    }

    /// # Safety
    /// The record is in use: a slot or a published frame keeps it while the result is used.
    #[inline(always)]
    pub(crate) unsafe fn incarnation(&self) -> &Incarnation {
        // SAFETY: a record in use keeps its incarnation.
        unsafe { &*self.incarnation.load(Ordering::Relaxed) }
    }

    pub(crate) fn domain(&self) -> usize {
        self.domain.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn object(&self) -> RawObject {
        RawObject { data: self.data.load(Ordering::Relaxed), vtable: self.vtable.load(Ordering::Relaxed) }
    }

    /// No slot names the record any more; it is used again when no frame does.
    pub(crate) fn retire(&'static self) {
        STORE.lock().limbo.push(self);
    }

    /// Whether a frame of any thread names the record. For the supervisor and the reaper: after a barrier, if what keeps new frames away is a store.
    pub(crate) fn is_named(&self) -> bool {
        let this = ptr::from_ref(self).cast_mut();
        thread::all().any(|block| {
            // A thread that moves something back looks once more at the frame that it has just unpublished.
            block.crossing.load(Ordering::SeqCst) != 0
                || block.published().iter().any(|frame| frame.record.load(Ordering::Relaxed) == this)
        })
    }
}

/// Frees the retired records that no frame names. For the supervisor alone.
pub(crate) fn collect() {
    let limbo = core::mem::take(&mut STORE.lock().limbo);
    // A barrier interrupts every CPU: only for records that may be free. One that looks named without it is looked at again later.
    let (named, unnamed): (Vec<_>, Vec<_>) = limbo.into_iter().partition(|record| record.is_named());
    named.into_iter().for_each(PortRecord::retire);
    if unnamed.is_empty() {
        return;
    }
    // A caller that was held up between loading its slot and publishing its frame may name such a record at any time. It finds that its slot has changed before it
    // follows the record; but a trap of its CPU looks at the innermost frame's incarnation. So first the record leads to one that is always there; then,
    // when no frame names it, nobody can still be looking at the one that it led to.
    let detached: Vec<_> = unnamed
        .into_iter()
        .map(|record| {
            let absent = ptr::from_ref(&**incarnation::kernel()).cast_mut();
            (record, record.incarnation.swap(absent, Ordering::SeqCst))
        })
        .collect();
    crate::machine().barrier();
    for (record, incarnation) in detached {
        if record.is_named() {
            record.incarnation.store(incarnation, Ordering::SeqCst);
            record.retire();
            continue;
        }
        if record.counted.load(Ordering::Relaxed) {
            // SAFETY: `new` made it of an `Arc`; no slot or frame leads here any more.
            drop(unsafe { Arc::from_raw(incarnation.cast_const()) });
        }
        STORE.lock().free.push(record);
    }
}

static MADE: AtomicUsize = AtomicUsize::new(0);

/// Records that were ever made: a box that restarts its domains makes no more of them.
pub fn records_made() -> usize {
    MADE.load(Ordering::Relaxed)
}
