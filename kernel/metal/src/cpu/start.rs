//! Starting the other CPUs: INIT, then twice START, as the SDM has it (vol. 3, §9.4.4.1). One after the other, so that they can share the
//! trampoline.

use core::{
    hint, ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use kernel_core::thread::ThreadBlock;
use metal::{
    acpi::Acpi,
    boot_info::{BootInfo, RegionKind},
};

use super::{Cpu, MAX_CPUS, announce, apic, create, install, segments};
use crate::{
    clock,
    memory::{self, Owner, PAGE, paging, window},
    report, scheduler,
};

const STACK_PAGES: usize = 8;
/// How long a CPU may take to report. Emulated on a busy host, seconds have been seen.
const PATIENCE: u64 = 10_000_000_000;

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static trampoline_far_target: u8;
    static trampoline_long_target: u8;
    static trampoline_gdt_pointer: u8;
    static trampoline_stack: u8;
    static trampoline_cpu: u8;
}

/// The clock as the CPU that is being started read it, for the comparison.
static ITS_TIME: AtomicU64 = AtomicU64::new(0);

/// Starts all CPUs that the MADT lists; this one is number 0 and runs already.
pub fn start_others(acpi: &Acpi, info: &BootInfo) {
    let me = apic::id();
    let others = acpi.cpus.iter().copied().filter(|apic| *apic != me);
    let Some(page) = free_low_page(info) else {
        if acpi.cpus.len() > 1 {
            report!("cpu      no free page below 1 MiB to start other CPUs from");
        }
        return;
    };
    let mut id = 1;
    for apic in others {
        if id == MAX_CPUS {
            report!("cpu      more than {MAX_CPUS} CPUs: the rest stays off");
            break;
        }
        if start_one(page, id, apic) {
            id += 1;
        } else {
            report!("cpu      APIC {apic} doesn't start");
        }
    }
    super::flush_everywhere();
}

/// A page of low memory that is RAM and beyond what BIOSes keep for themselves.
fn free_low_page(info: &BootInfo) -> Option<u64> {
    let usable = info.regions.iter().filter(|region| region.kind == RegionKind::Usable);
    usable
        .map(|region| (region.start.max(0x8000).next_multiple_of(PAGE), region.end.min(0xa_0000)))
        .find(|(start, end)| start + PAGE <= *end)
        .map(|(start, _)| start)
}

fn start_one(page: u64, id: usize, target: u32) -> bool {
    let Some(stack) = window::map(STACK_PAGES, Owner::Kernel) else { return false };
    let cpu = create(id, target, ThreadBlock::resident(id));
    prepare(page, stack + STACK_PAGES as u64 * PAGE, cpu);
    ITS_TIME.store(0, Ordering::SeqCst);

    if paging::map_trampoline(page).is_err() {
        return false;
    }
    apic::send_init(target);
    clock::spin(10_000_000);
    apic::send_start(target, (page / PAGE) as u8);
    clock::spin(200_000);
    if ITS_TIME.load(Ordering::SeqCst) == 0 {
        apic::send_start(target, (page / PAGE) as u8);
    }
    let begun = clock::now();
    while !cpu.online.load(Ordering::SeqCst) && clock::now() - begun < PATIENCE {
        hint::spin_loop();
    }
    let its_time = ITS_TIME.load(Ordering::SeqCst);
    let now = clock::now();
    // Nobody executes the page now: the CPU has gone on to the kernel's image, or never came.
    paging::unmap(page);
    if its_time > now || (its_time != 0 && its_time < begun.saturating_sub(1_000_000_000)) {
        report!("cpu      the clock of CPU {id} is {} ns off", its_time as i64 - now as i64);
    }
    cpu.online.load(Ordering::SeqCst)
}

/// Copies the trampoline and fills in its addresses.
fn prepare(page: u64, stack_top: u64, cpu: &'static Cpu) {
    let start = &raw const trampoline;
    let length = (&raw const trampoline_end as usize) - start as usize;
    assert!(length <= PAGE as usize, "the trampoline is longer than a page");
    let copy = memory::direct(page);
    let place = |symbol: *const u8| copy.wrapping_add(symbol as usize - start as usize);
    // SAFETY: the page is free RAM below 1 MiB, mapped, longer than the trampoline; the places lie inside it.
    unsafe {
        ptr::copy_nonoverlapping(start, copy, length);
        for target in [&raw const trampoline_far_target, &raw const trampoline_long_target] {
            let field = place(target).cast::<u32>();
            field.write_unaligned(field.read_unaligned() + page as u32);
        }
        let field = place(&raw const trampoline_gdt_pointer).add(2).cast::<u32>();
        field.write_unaligned(field.read_unaligned() + page as u32);
        place(&raw const trampoline_stack).cast::<u64>().write(stack_top);
        place(&raw const trampoline_cpu).cast::<u64>().write(cpu as *const Cpu as u64);
    }
}

/// Where the trampoline leads to, on the CPU's own stack.
#[unsafe(no_mangle)]
extern "C" fn cpu_start(cpu: &'static Cpu) -> ! {
    ITS_TIME.store(clock::now().max(1), Ordering::SeqCst);
    install(cpu);
    segments::install();
    apic::enable();
    announce(cpu);
    scheduler::idle()
}
