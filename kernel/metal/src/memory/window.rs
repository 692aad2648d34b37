//! The window of virtual addresses for images and stacks: page-wise mappings with an unmapped page before and behind.
//!
//! Its pages needn't be contiguous in RAM, so a long run of time can't fragment them away.

use metal::areas::Areas;

use super::{
    Owner, PAGE,
    paging::{self, Access},
};
use crate::{cpu, lock::SpinLock};

const START: u64 = 0xffff_c000_0000_0000;
const END: u64 = 0xffff_c080_0000_0000;

static AREAS: SpinLock<Option<Areas>> = SpinLock::new(None);

fn with_areas<R>(body: impl FnOnce(&mut Areas) -> R) -> R {
    // The first page stays free: it is the guard before the first area.
    body(AREAS.lock().get_or_insert_with(|| Areas::new(START + PAGE, END)))
}

/// Whether an address belongs to the window.
pub fn contains(address: u64) -> bool {
    (START..END).contains(&address)
}

/// Maps `pages` zeroed pages, readable and writable.
pub fn map(pages: usize, owner: Owner) -> Option<u64> {
    let start = with_areas(|areas| areas.take(pages as u64))?;
    for index in 0..pages {
        let at = start + index as u64 * PAGE;
        let mapped = super::allocate_zeroed(1, owner).ok().and_then(|physical| {
            paging::map(at, physical, Access::ReadWrite)
                // SAFETY: the page was just handed out and isn't mapped.
                .map_err(|_| unsafe { super::free(physical, owner) })
                .ok()
        });
        if mapped.is_none() {
            release(start, index, pages, owner);
            return None;
        }
    }
    Some(start)
}

/// Takes a mapping of `pages` pages away; when this returns no CPU can reach it.
///
/// # Safety
/// `start` came from [`map`] with the same number of pages and owner, and nobody uses the memory.
pub unsafe fn unmap(start: u64, pages: usize, owner: Owner) {
    release(start, pages, pages, owner);
}

/// Unmaps the first `mapped` pages of an area, waits until all CPUs have forgotten them, and only then gives the pages and
/// the addresses back. The pages are linked through their own first words meanwhile, since there may be any number.
fn release(start: u64, mapped: usize, pages: usize, owner: Owner) {
    let mut last = 0u64;
    for index in 0..mapped {
        let at = start + index as u64 * PAGE;
        let physical = paging::unmap(at).unwrap_or_else(|| panic!("{at:#x} is unmapped twice"));
        // SAFETY: by the contract of `unmap` nobody uses the page's content any more; the direct map reaches it.
        unsafe { super::direct(physical).cast::<u64>().write(last) };
        last = physical;
    }
    cpu::flush_everywhere();
    while last != 0 {
        // SAFETY: written above; the page is still ours.
        let next = unsafe { super::direct(last).cast::<u64>().read() };
        // SAFETY: no mapping leads to the page any more, and all CPUs have forgotten the one that did.
        if let Err(error) = unsafe { super::free(last, owner) } {
            panic!("page {last:#x} of {owner:?} isn't there to be freed: {error:?}");
        }
        last = next;
    }
    with_areas(|areas| areas.give_back(start, pages as u64));
}

/// Changes what pages allow, on all CPUs before it returns.
///
/// # Safety
/// The range lies in one mapping of this window, and nobody relies on what is taken away.
pub unsafe fn protect(first: u64, pages: usize, access: Access) {
    for index in 0..pages {
        paging::protect(first + index as u64 * PAGE, access);
    }
    cpu::flush_everywhere();
}
