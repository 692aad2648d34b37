//! The kernel's own heap: `talc` over pages of [`Owner::Kernel`], grown on demand, never shrunk.
//!
//! What domains hold is not here: their heaps are pages of their own, given back in bulk.

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::{self, NonNull},
};

use talc::{OomHandler, Span, Talc};

use super::{Owner, PAGE, direct};
use crate::lock::SpinLock;

/// The least that the heap grows by.
const GROWTH: usize = 256 << 10;

struct Grow;

impl OomHandler for Grow {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        // Room for the allocator's own tags and for alignment.
        let needed = layout.size().checked_add(layout.align()).and_then(|size| size.checked_add(64)).ok_or(())?;
        let pages = needed.max(GROWTH).div_ceil(PAGE as usize);
        let physical = super::allocate(pages, Owner::Kernel).map_err(|_| ())?;
        let span = Span::from_base_size(direct(physical), pages * PAGE as usize);
        // SAFETY: the run was just handed out, is mapped readable and writable, and stays the heap's for ever.
        unsafe { talc.claim(span) }.map(drop)
    }
}

struct KernelHeap(SpinLock<Talc<Grow>>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(SpinLock::new(Talc::new(Grow)));

// SAFETY: talc hands out disjoint blocks of the layout asked for; the lock keeps its state consistent, interrupts included.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() == 0 {
            return ptr::without_provenance_mut(layout.align());
        }
        // SAFETY: the layout's size isn't zero.
        unsafe { self.0.lock().malloc(layout) }.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let (Some(block), true) = (NonNull::new(block), layout.size() != 0) {
            // SAFETY: by `GlobalAlloc`'s contract the block came from `alloc` with this layout.
            unsafe { self.0.lock().free(block, layout) }
        }
    }
}
