//! Page tables: one set for all CPUs, since there is one address space.
//!
//! [`take_over`] replaces the boot code's tables by exact ones: RAM at the direct map, the kernel's image at the top with
//! text executable and not writable, constants neither, data not executable. The image's pages are read-only
//! in the direct map where they are in the image. No page is ever writable and executable.

use core::sync::atomic::{AtomicBool, Ordering};

use metal::boot_info::{BootInfo, RegionKind};
use x86_64::{
    PhysAddr, VirtAddr,
    instructions::tlb,
    structures::paging::{
        FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size2MiB, Size4KiB,
        Translate,
        mapper::{MapToError, TranslateResult},
    },
};

use super::{DIRECT_MAP, Owner, PAGE, direct};
use crate::lock::SpinLock;

const LARGE: u64 = 2 << 20;
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// The direct map ends here: 64 TiB.
const DIRECT_MAP_SIZE: u64 = 1 << 46;

static LOCK: SpinLock<()> = SpinLock::new(());
static EXACT: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    static mut kernel_root_table: PageTable;
    static kernel_text_start: u8;
    static kernel_text_end: u8;
    static kernel_constants_end: u8;
    static kernel_end: u8;
    static boot_stack: u8;
}

/// What a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    ReadOnly,
    ReadWrite,
    ReadExecute,
    /// Device registers: uncached.
    Device,
}

impl Access {
    fn flags(self) -> PageTableFlags {
        let present = PageTableFlags::PRESENT;
        match self {
            Self::ReadOnly => present | PageTableFlags::NO_EXECUTE,
            Self::ReadWrite => present | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE,
            Self::ReadExecute => present,
            // With PAT as it is after reset, PCD and PWT together mean "uncacheable" (SDM vol. 3, table 12-11).
            Self::Device => Self::ReadWrite.flags() | PageTableFlags::NO_CACHE | PageTableFlags::WRITE_THROUGH,
        }
    }
}

/// There is no page left for a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

struct Tables;

// SAFETY: the frames come from the book of pages, charged to page tables, used for nothing else and zeroed.
unsafe impl FrameAllocator<Size4KiB> for Tables {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let physical = super::allocate_zeroed(1, Owner::Tables).ok()?;
        Some(PhysFrame::containing_address(PhysAddr::new(physical)))
    }
}

fn with_tables<R>(body: impl FnOnce(&mut OffsetPageTable) -> R) -> R {
    let _guard = LOCK.lock();
    // SAFETY: the lock makes this the only reference to the root table; tables lie in RAM, all of which is in the direct map.
    let mut tables = unsafe { OffsetPageTable::new(&mut *root_table(), VirtAddr::new(DIRECT_MAP)) };
    body(&mut tables)
}

/// Whether an address can be read; for a panic, so it doesn't wait for the lock for ever, and says no if it can't know.
pub fn is_readable(at: u64) -> bool {
    let Some(_guard) = LOCK.lock_within(1 << 20) else { return false };
    // SAFETY: as in `with_tables`.
    let tables = unsafe { OffsetPageTable::new(&mut *root_table(), VirtAddr::new(DIRECT_MAP)) };
    tables.translate_addr(VirtAddr::new_truncate(at)).is_some()
}

/// The one table that all CPUs use; referred to under the lock, or by the boot CPU alone.
fn root_table() -> *mut PageTable {
    &raw mut kernel_root_table
}

fn page(address: u64) -> Page {
    Page::containing_address(VirtAddr::new(address))
}

fn frame(address: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(address))
}

/// Maps one page. An address that is mapped already is a bug.
fn map_one(tables: &mut impl Mapper<Size4KiB>, at: u64, physical: u64, access: Access) -> Result<(), OutOfTables> {
    // SAFETY: callers map fresh addresses of areas that they own, or RAM into the direct map; aliases are harmless to
    // Rust, since only one of them is used for any object.
    match unsafe { tables.map_to(page(at), frame(physical), access.flags(), &mut Tables) } {
        Ok(flush) => {
            flush.ignore();
            Ok(())
        }
        Err(MapToError::FrameAllocationFailed) => Err(OutOfTables),
        Err(error) => panic!("mapping {at:#x} to {physical:#x}: {error:?}"),
    }
}

/// Replaces the boot code's tables.
pub fn take_over(info: &BootInfo) {
    let root = super::allocate_zeroed(1, Owner::Tables).expect("no page for the first table");
    // SAFETY: the page was just handed out and zeroed, which is an empty table.
    let scratch = unsafe { &mut *direct(root).cast::<PageTable>() };
    // SAFETY: the scratch table isn't active yet; all tables come from below 4 GiB, which the boot code mapped.
    let mut tables = unsafe { OffsetPageTable::new(scratch, VirtAddr::new(DIRECT_MAP)) };

    // The kernel's image.
    let text = &raw const kernel_text_start as u64;
    let text_end = &raw const kernel_text_end as u64;
    let constants_end = &raw const kernel_constants_end as u64;
    let end = &raw const kernel_end as u64;
    let guard = &raw const boot_stack as u64 - PAGE;
    for (from, until, access) in [
        (text, text_end, Access::ReadExecute),
        (text_end, constants_end, Access::ReadOnly),
        (constants_end, end, Access::ReadWrite),
    ] {
        for at in (from..until).step_by(PAGE as usize).filter(|at| *at != guard) {
            map_one(&mut tables, at, at - KERNEL_BASE, access).expect("no page for the kernel's tables");
        }
    }

    // RAM: usable, the ACPI tables, all of low memory (BIOS tables, the text screen), modules. Ranges may touch or overlap.
    let low = (0, 1 << 20);
    let ram = info.regions.iter().filter(|r| r.kind != RegionKind::Reserved).map(|r| (r.start, r.end));
    let modules = info.modules.iter().map(|module| (module.start, module.end));
    for (start, until) in [low].into_iter().chain(ram).chain(modules) {
        let read_only = (text - KERNEL_BASE)..(constants_end - KERNEL_BASE);
        let mut at = start & !(PAGE - 1);
        while at < until {
            let is_large = at.is_multiple_of(LARGE) && at + LARGE <= until;
            let touches_image = at < read_only.end && at + LARGE > read_only.start;
            if is_large && !touches_image && map_large(&mut tables, at) {
                at += LARGE;
                continue;
            }
            if tables.translate_addr(VirtAddr::new(DIRECT_MAP + at)).is_none() {
                let access = if read_only.contains(&at) { Access::ReadOnly } else { Access::ReadWrite };
                map_one(&mut tables, DIRECT_MAP + at, at, access).expect("no page for the direct map's tables");
            }
            at += PAGE;
        }
    }

    // SAFETY: the new tables map the code, data and stack in use at the same addresses; the boot CPU is alone.
    unsafe {
        let active = &mut *root_table();
        for index in 0..512 {
            active[index] = scratch[index].clone();
        }
        tlb::flush_all();
        // The copy is the root table now.
        let _ = super::free(root, Owner::Tables);
    }
    EXACT.store(true, Ordering::Release);
}

/// Maps 2 MiB of RAM into the direct map, unless parts of it are mapped already.
fn map_large(tables: &mut OffsetPageTable, physical: u64) -> bool {
    let page = Page::<Size2MiB>::containing_address(VirtAddr::new(DIRECT_MAP + physical));
    let frame = PhysFrame::<Size2MiB>::containing_address(PhysAddr::new(physical));
    // SAFETY: RAM into the direct map, see `map_one`.
    match unsafe { tables.map_to(page, frame, Access::ReadWrite.flags(), &mut Tables) } {
        Ok(flush) => {
            flush.ignore();
            true
        }
        Err(MapToError::FrameAllocationFailed) => panic!("no page for the direct map's tables"),
        Err(_) => false,
    }
}

/// Maps `physical` at the fresh address `at`.
pub fn map(at: u64, physical: u64, access: Access) -> Result<(), OutOfTables> {
    with_tables(|tables| map_one(tables, at, physical, access))
}

/// Takes a page's mapping away and says where it led. Other CPUs may still know it: `cpu::flush_everywhere`.
pub fn unmap(at: u64) -> Option<u64> {
    with_tables(|tables| {
        let (frame, flush) = tables.unmap(page(at)).ok()?;
        flush.flush();
        Some(frame.start_address().as_u64())
    })
}

/// Changes what a mapped page allows. Other CPUs may still know the old state: `cpu::flush_everywhere`.
pub fn protect(at: u64, access: Access) {
    with_tables(|tables| {
        // SAFETY: callers own the area; access is never writable and executable.
        match unsafe { tables.update_flags(page(at), access.flags()) } {
            Ok(flush) => flush.flush(),
            Err(error) => panic!("protecting {at:#x}: {error:?}"),
        }
    });
}

/// Maps device registers into the direct map, uncached; the same range again is the same mapping.
pub fn map_device(physical: u64, length: u64) -> Result<*mut u8, OutOfTables> {
    let end = physical + length;
    assert!(end <= DIRECT_MAP_SIZE, "device registers at {physical:#x} lie beyond the direct map");
    map_missing(physical, end, Access::Device)?;
    Ok(direct(physical))
}

/// Makes a range that firmware speaks of readable; `None` if it lies beyond any memory.
pub(super) fn map_firmware(start: u64, end: u64) -> Option<()> {
    if !EXACT.load(Ordering::Acquire) {
        return (end <= super::BOOT_MAP_END).then_some(());
    }
    if end > DIRECT_MAP_SIZE {
        return None;
    }
    map_missing(start, end, Access::ReadOnly).ok()
}

fn map_missing(start: u64, end: u64, access: Access) -> Result<(), OutOfTables> {
    with_tables(|tables| {
        for at in (start & !(PAGE - 1)..end).step_by(PAGE as usize) {
            if tables.translate_addr(VirtAddr::new(DIRECT_MAP + at)).is_none() {
                map_one(tables, DIRECT_MAP + at, at, access)?;
            }
        }
        Ok(())
    })
}

/// Maps one page of low memory at its own address, executable, for starting other CPUs; or takes that mapping away.
pub fn map_trampoline(physical: u64) -> Result<(), OutOfTables> {
    map(physical, physical, Access::ReadExecute)
}

/// What an address allows: `None` if nothing is mapped there.
pub fn access_at(at: u64) -> Option<Access> {
    with_tables(|tables| match tables.translate(VirtAddr::new(at)) {
        TranslateResult::Mapped { flags, .. } => Some(if flags.contains(PageTableFlags::NO_CACHE) {
            Access::Device
        } else if flags.contains(PageTableFlags::WRITABLE) {
            Access::ReadWrite
        } else if flags.contains(PageTableFlags::NO_EXECUTE) {
            Access::ReadOnly
        } else {
            Access::ReadExecute
        }),
        _ => None,
    })
}
