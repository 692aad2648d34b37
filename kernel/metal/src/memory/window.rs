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
            release(Area { start, pages, owner }, index);
            return None;
        }
    }
    Some(start)
}

/// Pages of the window, as [`map`] gave them.
#[derive(Clone, Copy)]
pub struct Area {
    pub start: u64,
    pub pages: usize,
    pub owner: Owner,
}

/// Takes mappings away; when this returns no CPU can reach them.
///
/// # Safety
/// Each is what [`map`] was asked for and gave, and nobody uses the memory.
pub unsafe fn unmap(areas: impl Iterator<Item = Area> + Clone) {
    let mut removed = Removed::default();
    areas.clone().for_each(|area| removed.take_away(area, area.pages));
    removed.free();
    areas.for_each(give_back);
}

/// Takes back an area of which only the first `mapped` pages have memory.
fn release(area: Area, mapped: usize) {
    let mut removed = Removed::default();
    removed.take_away(area, mapped);
    removed.free();
    give_back(area);
}

fn give_back(area: Area) {
    with_areas(|areas| areas.give_back(area.start, area.pages as u64));
}

/// Pages whose mappings have been taken away while other CPUs may still know them. They are linked through their own first words, since
/// there may be any number.
#[derive(Default)]
struct Removed {
    /// Physical address of the one removed last; 0 is never handed out.
    last: u64,
}

/// The first words of a removed page.
#[repr(C)]
struct Link {
    next: u64,
    owner: Owner,
}

impl Removed {
    fn take_away(&mut self, area: Area, mapped: usize) {
        for index in 0..mapped {
            let at = area.start + index as u64 * PAGE;
            let physical = paging::unmap(at).unwrap_or_else(|| panic!("{at:#x} is unmapped twice"));
            let link = Link { next: self.last, owner: area.owner };
            // SAFETY: by the contract of `unmap` nobody uses the page's content any more; the direct map reaches it.
            unsafe { super::direct(physical).cast::<Link>().write(link) };
            self.last = physical;
        }
    }

    /// Waits until all CPUs have forgotten the mappings, and only then gives the pages back.
    fn free(self) {
        if self.last == 0 {
            return;
        }
        cpu::flush_everywhere();
        let mut last = self.last;
        while last != 0 {
            // SAFETY: written by `take_away`; the page is still ours.
            let Link { next, owner } = unsafe { super::direct(last).cast::<Link>().read() };
            // SAFETY: no mapping leads to the page any more, and all CPUs have forgotten the one that did.
            if let Err(error) = unsafe { super::free(last, owner) } {
                panic!("page {last:#x} of {owner:?} isn't there to be freed: {error:?}");
            }
            last = next;
        }
    }
}

/// Changes what ranges of pages (first address, pages, access) allow, on all CPUs before it returns.
///
/// # Safety
/// Each range lies in one mapping of this window, and nobody relies on what is taken away.
pub unsafe fn protect(ranges: impl Iterator<Item = (u64, usize, Access)>) {
    for (first, pages, access) in ranges {
        for index in 0..pages {
            paging::protect(first + index as u64 * PAGE, access);
        }
    }
    cpu::flush_everywhere();
}
