//! Physical memory: who holds which pages, and where all of it is mapped.
//!
//! All RAM is mapped at [`DIRECT_MAP`], readable and writable, never executable. Device registers appear there too, at
//! their physical address, uncached, once [`paging::map_device`] was asked for them.

pub mod heap;
pub mod paging;
pub mod window;

use core::{ptr, slice};

use metal::{
    boot_info::{BootInfo, PhysicalMemory, RegionKind},
    frames::{Account, Frame, FrameError, Frames, Page},
};

use crate::lock::SpinLock;

pub const PAGE: u64 = 4096;
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// What the boot code has mapped before [`paging::take_over`].
const BOOT_MAP_END: u64 = 4 << 30;
/// Left to the BIOS, to the start of other CPUs, and to nobody by mistake.
const LOW_MEMORY_END: u64 = 1 << 20;

/// To whom pages are charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Owner {
    /// The kernel's own heap; grows, never shrinks.
    Kernel = 1,
    /// Page tables.
    Tables = 2,
    /// Heaps of domains and the exchange heap.
    Heap = 3,
    Image = 4,
    Stack = 5,
    /// Memory that devices reach.
    Device = 6,
    /// The self-test's own.
    Test = 7,
}

static FRAMES: SpinLock<Option<Frames<'static>>> = SpinLock::new(None);

unsafe extern "C" {
    static kernel_physical_start: u8;
    static kernel_physical_end: u8;
}

/// The direct map's address of a physical one.
pub fn direct(physical: u64) -> *mut u8 {
    (DIRECT_MAP + physical) as *mut u8
}

/// The physical address behind an address in the direct map.
pub fn physical_of(address: *const u8) -> u64 {
    address as u64 - DIRECT_MAP
}

/// Physical memory for the parsers, through the direct map.
pub struct Direct;

impl PhysicalMemory for Direct {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let end = address.checked_add(length as u64)?;
        paging::map_firmware(address, end)?;
        // SAFETY: the range is mapped, and it holds tables of the firmware or of the loader, which nobody writes.
        Some(unsafe { slice::from_raw_parts(direct(address), length) })
    }
}

/// Usable ranges of whole pages, without what is taken already: low memory, the kernel, the loader's modules.
fn usable(info: &BootInfo) -> impl Iterator<Item = (u64, u64)> + '_ {
    let kernel = (&raw const kernel_physical_start as u64, &raw const kernel_physical_end as u64);
    let taken = move || {
        let modules = info.modules.iter().map(|module| (module.start, module.end));
        let holes = info.regions.iter().filter(|r| r.kind != RegionKind::Usable).map(|r| (r.start, r.end));
        [(0, LOW_MEMORY_END), kernel].into_iter().chain(modules).chain(holes)
    };
    info.regions.iter().filter(|region| region.kind == RegionKind::Usable).flat_map(move |region| {
        let end = region.end & !(PAGE - 1);
        let mut from = region.start.next_multiple_of(PAGE);
        core::iter::from_fn(move || {
            // Step over whatever covers `from`, then go on to the next thing that is taken.
            while let Some((_, until)) = taken().find(|(start, until)| *start <= from && from < *until) {
                from = until.next_multiple_of(PAGE);
            }
            if from >= end {
                return None;
            }
            let next = taken().map(|(start, _)| start & !(PAGE - 1)).filter(|start| *start > from).min();
            let until = next.unwrap_or(end).min(end);
            let range = (from, until);
            from = until;
            Some(range)
        })
    })
}

/// Sets up the book of pages, then exact page tables. Called once, on the boot CPU, with the boot code's tables.
pub fn start(info: &BootInfo) {
    let top = info.regions.iter().filter(|r| r.kind == RegionKind::Usable).map(|r| r.end).max().unwrap_or(0);
    let pages = usize::try_from(top / PAGE).expect("more memory than an address space");
    let accounts = 64;
    let book = (pages * size_of::<Page>() + accounts * size_of::<Account>()) as u64;
    let book = book.next_multiple_of(PAGE);
    let (_, home_end) = usable(info)
        .filter(|(start, end)| *end <= BOOT_MAP_END && end - start >= book)
        .max_by_key(|(start, end)| end - start)
        .expect("no room below 4 GiB for the book of pages");
    let home = home_end - book;

    let first = direct(home).cast::<Page>();
    // SAFETY: the range [home, home_end) is usable RAM below 4 GiB, mapped by the boot code, and from here on taken:
    // it isn't handed to the book below. Every element is written before it is read.
    let (pages, accounts) = unsafe {
        for index in 0..pages {
            first.add(index).write(Page::ABSENT);
        }
        let behind = first.add(pages).cast::<Account>();
        for index in 0..accounts {
            behind.add(index).write(Account::EMPTY);
        }
        (slice::from_raw_parts_mut(first, pages), slice::from_raw_parts_mut(behind, accounts))
    };
    let mut frames = Frames::new(pages, accounts);
    let give = |frames: &mut Frames, start: u64, end: u64| {
        frames.add((start / PAGE) as Frame, (end / PAGE) as Frame);
    };
    for (start, end) in usable(info) {
        if start < BOOT_MAP_END {
            let end = end.min(BOOT_MAP_END);
            if (start..end).contains(&home) {
                give(&mut frames, start, home);
                give(&mut frames, home_end, end);
            } else {
                give(&mut frames, start, end);
            }
        }
    }
    *FRAMES.lock() = Some(frames);
    paging::take_over(info);
    // Memory from 4 GiB up can be touched only now.
    let mut frames = FRAMES.lock();
    let frames = frames.as_mut().expect("set above");
    for (start, end) in usable(info) {
        if end > BOOT_MAP_END {
            give(frames, start.max(BOOT_MAP_END), end);
        }
    }
}

fn with_frames<R>(body: impl FnOnce(&mut Frames<'static>) -> R) -> R {
    body(FRAMES.lock().as_mut().expect("pages are asked for after memory::start"))
}

/// A contiguous run of `count` pages, as its physical address. What it contains is left as it was.
pub fn allocate(count: usize, owner: Owner) -> Result<u64, FrameError> {
    let count = u32::try_from(count).map_err(|_| FrameError::OutOfPages)?;
    with_frames(|frames| frames.allocate(count, owner as u32)).map(|frame| u64::from(frame) * PAGE)
}

/// A contiguous run of `count` zeroed pages.
pub fn allocate_zeroed(count: usize, owner: Owner) -> Result<u64, FrameError> {
    let physical = allocate(count, owner)?;
    // SAFETY: the run was just handed out, is mapped in the direct map, and nobody else knows it.
    unsafe { ptr::write_bytes(direct(physical), 0, count * PAGE as usize) };
    Ok(physical)
}

/// Gives a run back.
///
/// # Safety
/// Nobody uses the pages any more, no mapping other than the direct map leads to them, no device reaches them.
pub unsafe fn free(physical: u64, owner: Owner) -> Result<u32, FrameError> {
    with_frames(|frames| frames.free((physical / PAGE) as Frame, owner as u32))
}

pub fn pages_of(owner: Owner) -> usize {
    with_frames(|frames| frames.pages_of(owner as u32))
}

pub fn free_pages() -> usize {
    with_frames(|frames| frames.free_pages())
}
