//! Traps: exceptions, interrupts, and the software interrupt by which a thread gives up its CPU. There is one way in
//! and one way out.
//!
//! In: 256 stubs push vector and error code, then all registers and the FPU's state ([`Frame`]), on the vector's interrupt
//! stack. Out: [`enter`] returns the frame to continue from, on the interrupt stack or a thread's saved one. Interrupts stay
//! off throughout. Before any thread goes on the domain core is asked ([`consider`]): a thread in a dead domain
//! continues somewhere else, later.

use core::{arch::global_asm, cell::UnsafeCell, mem::offset_of, sync::atomic::Ordering};

use kernel_core::{
    platform::{Resume, Verdict},
    trap::{Exception, ExceptionKind},
};
use x86_64::{
    VirtAddr,
    registers::control::Cr2,
    structures::idt::{Entry, HandlerFunc, InterruptDescriptorTable},
};

use super::{Cpu, apic, segments::Stack};
use crate::{interrupt, panic, scheduler, selftest, serial};

/// First vector of devices; [`VECTOR_TIMER`] and above are the kernel's own.
pub const FIRST_DEVICE_VECTOR: u8 = 0x30;
pub const LAST_DEVICE_VECTOR: u8 = 0xef;
/// This CPU's timer.
pub const VECTOR_TIMER: u8 = 0xf0;
/// Look at the run queue again.
pub const VECTOR_RESCHEDULE: u8 = 0xf1;
/// Do what [`super::barrier`] and its kind ask.
pub const VECTOR_SERVE: u8 = 0xf2;
/// The running thread gives up its CPU; raised by `int`, never by the APIC.
pub const VECTOR_SWITCH: u8 = 0xf3;
/// COM1, through the I/O APIC.
pub const VECTOR_CONSOLE: u8 = 0xf4;
/// What the local APIC delivers when an interrupt has gone away meanwhile.
pub const VECTOR_SPURIOUS: u8 = 0xff;

const DEBUG: u8 = 1;
const NON_MASKABLE: u8 = 2;
const DOUBLE_FAULT: u8 = 8;
const PAGE_FAULT: u8 = 14;
const MACHINE_CHECK: u8 = 18;
const FIRST_INTERRUPT: u8 = 32;

/// IF and the bit that is always set.
const RFLAGS_CLEAN: u64 = 0x202;

/// Everything that a thread is made of while it doesn't run.
#[derive(Clone)]
#[repr(C, align(16))]
pub struct Frame {
    /// As `fxsave64` writes it.
    pub fpu: [u8; 512],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(offset_of!(Frame, vector) == 512 + 120 && size_of::<Frame>() == 512 + 176);

impl Frame {
    /// A frame that calls `entry(argument)` on a fresh stack, as the `call` instruction would.
    pub fn call(entry: u64, argument: u64, stack_top: u64) -> Self {
        let mut fpu = [0; 512];
        // The state after FNINIT, and MXCSR with all exceptions masked (SDM vol. 1, §8.1.5 and §10.2.3).
        fpu[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        fpu[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        Self {
            fpu,
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rbp: 0,
            rdi: argument,
            rsi: 0,
            rdx: 0,
            rcx: 0,
            rbx: 0,
            rax: 0,
            vector: 0,
            error: 0,
            rip: entry,
            cs: 0x08,
            rflags: RFLAGS_CLEAN,
            // Where a return address would be: the stack is 16-byte aligned before a call.
            rsp: stack_top - 8,
            ss: 0x10,
        }
    }

    /// Makes the thread go on at its continuation: DF, TF and AC clear, interrupts on.
    pub fn divert(&mut self, at: Resume) {
        self.rip = at.rip as u64;
        self.rsp = at.rsp as u64;
        self.rbp = 0;
        self.rflags = RFLAGS_CLEAN;
    }
}

global_asm!(
    r#"
.balign 16
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    .byte 0x6a, 0                   /* push 0 where the CPU pushes no error code */
    .endif
    .byte 0x68                      /* push vector */
    .long vector
    jmp trap_entry
    .set vector, vector + 1
.endr

.balign 16
trap_entry:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    sub rsp, 512
    fxsave64 [rsp]
    cld
    xor ebp, ebp
    mov rdi, rsp
    call {enter}
    mov rsp, rax
    fxrstor64 [rsp]
    add rsp, 512
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
"#,
    enter = sym enter,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

struct Table(UnsafeCell<InterruptDescriptorTable>);

// SAFETY: written once, by the boot CPU before others start; afterwards only read, by the CPUs themselves.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new(InterruptDescriptorTable::new()));

/// Fills the table that all CPUs share. On the boot CPU, before any other runs.
pub fn fill_table() {
    let table = TABLE.0.get().cast::<Entry<HandlerFunc>>();
    for vector in 0..=255u8 {
        let stack = match vector {
            DEBUG => Stack::Debug,
            NON_MASKABLE => Stack::NonMaskable,
            DOUBLE_FAULT => Stack::DoubleFault,
            MACHINE_CHECK => Stack::MachineCheck,
            FIRST_INTERRUPT.. => Stack::Interrupt,
            _ => Stack::Exception,
        };
        let stub = VirtAddr::from_ptr(&raw const trap_stubs) + u64::from(vector) * 16;
        let mut entry = Entry::missing();
        // SAFETY: stub and stack belong to the vector, and the stub handles error code or none as the vector has it. All
        // entries of the table have one layout; only the boot CPU runs and it hasn't loaded the table.
        unsafe {
            entry
                .set_handler_addr(stub)
                .set_code_selector(x86_64::structures::gdt::SegmentSelector(8))
                .set_stack_index(stack as u16 - 1);
            table.add(vector.into()).write(entry);
        }
    }
}

/// Makes this CPU use the table.
pub fn load_table() {
    // SAFETY: the table lives for ever and isn't written any more.
    unsafe { (*TABLE.0.get()).load_unsafe() };
}

/// The handler of all vectors. Returns the frame to continue from.
extern "C" fn enter(frame: &mut Frame) -> *const Frame {
    let vector = frame.vector as u8;
    if vector < FIRST_INTERRUPT {
        return exception(vector, frame);
    }
    let cpu = super::this();
    cpu.interrupts.fetch_add(1, Ordering::Relaxed);
    match vector {
        VECTOR_SWITCH => scheduler::give_up(cpu, frame),
        VECTOR_SPURIOUS => {}
        _ => {
            cpu.in_handler.store(true, Ordering::Relaxed);
            match vector {
                // Whatever is due is found on the way out.
                VECTOR_TIMER => cpu.scheduler.timer_fired(),
                VECTOR_RESCHEDULE => {}
                VECTOR_SERVE => cpu.serve(),
                VECTOR_CONSOLE => serial::console_interrupt(),
                FIRST_DEVICE_VECTOR..=LAST_DEVICE_VECTOR => interrupt::dispatch(cpu.id, vector),
                // The legacy controller is masked; what it sends regardless is spurious and needs no answer.
                _ => {
                    cpu.in_handler.store(false, Ordering::Relaxed);
                    return leave(cpu, frame);
                }
            }
            cpu.in_handler.store(false, Ordering::Relaxed);
            apic::end_of_interrupt();
        }
    }
    leave(cpu, frame)
}

/// The way out: this or another thread goes on.
fn leave(cpu: &'static Cpu, frame: &mut Frame) -> *const Frame {
    scheduler::leave(cpu, frame)
}

fn exception(vector: u8, frame: &mut Frame) -> *const Frame {
    if vector == NON_MASKABLE {
        // Another CPU has panicked and wants silence; or the hardware is at fault, which is a reason to panic.
        panic::non_maskable();
    }
    let address = Cr2::read_raw();
    let kind = match vector {
        PAGE_FAULT => ExceptionKind::PageFault { address: address as usize },
        _ => ExceptionKind::Other { vector },
    };
    let never_a_domain = matches!(vector, DOUBLE_FAULT | MACHINE_CHECK);
    if super::has_block() && !never_a_domain {
        let cpu = super::this();
        if selftest::caught(vector, address, frame) {
            return leave(cpu, frame);
        }
        let what = Exception { kind, rip: frame.rip as usize, rsp: frame.rsp as usize };
        match kernel_core::trap::exception(cpu.scheduler.current_block(), &what) {
            Verdict::Continue => return leave(cpu, frame),
            Verdict::Hold(at) => {
                scheduler::hold_current(cpu, frame, at);
                return leave(cpu, frame);
            }
            Verdict::KernelBug => {}
        }
    }
    panic::exception(vector, address, frame)
}
