//! What the kernel calls inside a domain's image, each as a contained visit: committing a fault on request, and dropping what a capability stood for.

use alloc::vec::Vec;
use core::{alloc::Layout, arch::asm, hint::black_box};

use interfaces::abi::{Hooks, RawObject, Reason};

pub(crate) const HOOKS: Hooks = Hooks { fault: Some(fault), release: Some(release) };

/// An address at which neither the kernel nor the rig maps anything: canonical, in the lower half, far from where either puts a domain's pages.
const NOWHERE: usize = 0x2bad_0000_0000;

/// Commits a fault of the kind of `reason`, for real: the kernel sees what it would see of a domain that is broken in this way. Returns for kinds that
/// are no fault of a domain (`killed`), and for numbers that are no reason.
extern "C" fn fault(reason: u32) {
    match Reason::ALL.into_iter().find(|known| *known as u32 == reason) {
        Some(Reason::Panic) => panic!("fault injected from the console"),
        Some(Reason::StackOverflow) => drop(black_box(recurse(black_box(1)))),
        // SAFETY: it is the fault that is wanted: the read doesn't complete, and the domain ends here (SOUNDNESS: fault injection).
        Some(Reason::PageFault) => drop(black_box(unsafe { (NOWHERE as *const u64).read_volatile() })),
        // SAFETY: it raises #UD and doesn't complete: the domain ends here (SOUNDNESS: fault injection).
        Some(Reason::CpuException) => unsafe { asm!("ud2", options(nomem, nostack)) },
        Some(Reason::Quota) => loop {
            // Leaked, so that the heap grows until the kernel refuses.
            core::mem::forget(black_box(Vec::<u8>::with_capacity(64 * 1024)));
        },
        Some(Reason::Watchdog) => loop {
            core::hint::spin_loop();
        },
        Some(Reason::Killed) | None => {}
    }
}

/// Recurses until the stack's guard page is touched, as a domain's own recursion would.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    // `black_box` keeps the frame alive beyond the inner call, which so can't become a jump.
    if depth == u64::MAX { depth } else { recurse(depth + 1) + black_box(&frame)[0] }
}

/// The head of every trait object's vtable.
#[repr(C)]
struct VtableHead {
    drop: Option<unsafe fn(*mut u8)>,
    size: usize,
    align: usize,
}

/// Drops a box whose trait is not known here.
///
/// # Safety
/// `object` is a box of some interface, made in this image and given away by `Cap::new`; nobody uses it any more.
unsafe extern "C" fn release(object: RawObject) {
    // SAFETY: every vtable begins with drop glue (null if there is none), size and alignment; held by the test below and by the ABI hash, which binds
    // image and kernel to one compiler (SOUNDNESS: ABI between images). The object is ours to drop, and a box's memory has its value's layout.
    unsafe {
        let head = &*object.vtable.cast::<VtableHead>();
        if let Some(drop) = head.drop {
            drop(object.data);
        }
        if head.size > 0 {
            alloc::alloc::dealloc(object.data, Layout::from_size_align_unchecked(head.size, head.align));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{boxed::Box, rc::Rc};

    trait Thing {}
    struct Counted(#[allow(dead_code)] Rc<()>);
    impl Thing for Counted {}
    #[repr(align(64))]
    struct Large(#[allow(dead_code)] [u8; 100], #[allow(dead_code)] Rc<()>);
    impl Thing for Large {}
    struct Nothing;
    impl Thing for Nothing {}

    fn raw(thing: Box<dyn Thing>) -> RawObject {
        // SAFETY: data and vtable, as `Interface::to_raw` has it.
        unsafe { core::mem::transmute(Box::into_raw(thing)) }
    }

    fn released(thing: Box<dyn Thing>) {
        // SAFETY: a box of this image, not used again.
        unsafe { release(raw(thing)) }
    }

    #[test]
    fn release_runs_drop_glue_and_frees_whatever_the_layout() {
        let count = Rc::new(());
        released(Box::new(Counted(count.clone())));
        released(Box::new(Large([0; 100], count.clone())));
        released(Box::new(Nothing));
        assert_eq!(Rc::strong_count(&count), 1);
    }

    #[test]
    fn the_vtables_head_is_as_we_believe() {
        let raw = raw(Box::new(Large([0; 100], Rc::new(()))));
        // SAFETY: read from a live vtable; that its head is this is what is tested.
        let head = unsafe { &*raw.vtable.cast::<VtableHead>() };
        assert_eq!((head.size, head.align), (size_of::<Large>(), 64));
        assert!(head.drop.is_some());
        // SAFETY: the box from above.
        unsafe { release(raw) }
    }

    #[test]
    fn what_is_no_fault_returns() {
        fault(Reason::Killed as u32);
        fault(99);
    }
}
