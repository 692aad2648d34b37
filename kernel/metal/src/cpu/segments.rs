//! Descriptor tables of a CPU: GDT, TSS with the interrupt stacks, and the IDT that all share.
//!
//! Code in domains uses the red zone, so no vector may push onto the stack that it interrupts: every one has an entry in the interrupt
//! stack table. Vectors that can come while another handler runs have stacks of their own ([`Stack`]).

use alloc::boxed::Box;

use x86_64::{
    PrivilegeLevel, VirtAddr,
    instructions::tables::load_tss,
    registers::segmentation::{CS, DS, ES, SS, Segment, SegmentSelector},
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable},
        tss::TaskStateSegment,
    },
};

use crate::memory::{Owner, PAGE, window};

const STACK_PAGES: usize = 4;

/// Which interrupt stack a vector uses. Interrupts run with interrupts off, so they share one; an exception in a handler is a
/// kernel bug that must still be reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stack {
    Interrupt = 1,
    Exception = 2,
    DoubleFault = 3,
    NonMaskable = 4,
    MachineCheck = 5,
    Debug = 6,
}

const STACKS: [Stack; 6] =
    [Stack::Interrupt, Stack::Exception, Stack::DoubleFault, Stack::NonMaskable, Stack::MachineCheck, Stack::Debug];

/// Gives this CPU its tables, with fresh interrupt stacks.
pub fn install() {
    let tss = Box::leak(Box::new(TaskStateSegment::new()));
    for stack in STACKS {
        let start = window::map(STACK_PAGES, Owner::Kernel).expect("no memory for an interrupt stack");
        tss.interrupt_stack_table[stack as usize - 1] = VirtAddr::new(start + STACK_PAGES as u64 * PAGE);
    }
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
    // SAFETY: the selectors are of the table just loaded, which lives for ever. FS and GS stay untouched, since writing their
    // selectors would clear their bases.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(null);
        ES::set_reg(null);
        load_tss(task);
    }
    super::trap::load_table();
}
