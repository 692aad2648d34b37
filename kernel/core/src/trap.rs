//! What the platform asks when a trap has interrupted a thread: is a domain at fault, must the thread be diverted?
//!
//! Runs in exception and interrupt handlers, on the thread's own CPU, on another stack than the thread's: takes no lock, allocates nothing.

use core::{
    fmt::{self, Write},
    sync::atomic::Ordering,
};

use interfaces::abi::Reason;

use crate::{
    incarnation::{Cause, Incarnation, WORDS},
    platform::{Resume, Verdict},
    thread::ThreadBlock,
};

/// A CPU exception.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    pub kind: ExceptionKind,
    pub rip: usize,
    pub rsp: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionKind {
    /// With the address that was reached for (CR2, `si_addr`).
    PageFault { address: usize },
    /// Any other, by its x86 vector number.
    Other { vector: u8 },
}

/// An exception happened in `block`'s thread, which is the one that this CPU runs.
pub fn exception(block: &ThreadBlock, exception: &Exception) -> Verdict {
    let incarnation = block.innermost();
    let wild_jump = matches!(exception.kind, ExceptionKind::PageFault { address } if address == exception.rip);
    // At depth 0 the kernel's image touches the stack only on the way into a proxy or an entry, before it has found its reserve.
    let overflow = matches!(exception.kind, ExceptionKind::PageFault { address } if block.guards(address));
    let domains_own = incarnation.domain.is_some()
        && block.depth.load(Ordering::Relaxed) == 0
        && (incarnation.executes(exception.rip) || wild_jump || overflow);
    if !domains_own {
        return Verdict::KernelBug;
    }
    let reason = match exception.kind {
        ExceptionKind::PageFault { .. } if overflow => Reason::StackOverflow,
        ExceptionKind::PageFault { .. } => Reason::PageFault,
        ExceptionKind::Other { .. } => Reason::CpuException,
    };
    let mut words = Words { len: 0, bytes: [0; WORDS] };
    let _ = describe(&mut words, exception, incarnation, reason);
    incarnation.die(Cause::Crash(reason), Some(block), &words.bytes[..words.len]);
    // What it was about to pass on is still the dead domain's, and is reclaimed with it.
    block.crossing.store(0, Ordering::SeqCst);
    Verdict::Hold(divert(block))
}

/// The platform is about to let `block`'s thread go on at `rip` after a kick (or after any interrupt: it costs little). Also a watchdog's sample.
pub fn consider(block: &ThreadBlock, rip: usize) -> Verdict {
    block.watch.sample(block);
    let incarnation = block.innermost();
    if !incarnation.is_live() && block.depth.load(Ordering::Relaxed) == 0 && incarnation.executes(rip) {
        return Verdict::Hold(divert(block));
    }
    Verdict::Continue
}

/// Whether an instruction at `rip` is of the domain that the thread is in. For the thread's own trap.
pub fn executes(block: &ThreadBlock, rip: usize) -> bool {
    block.innermost().executes(rip)
}

/// From here on the thread executes no more of its innermost domain's code.
fn divert(block: &ThreadBlock) -> Resume {
    // SAFETY: `top` points at a published frame of the thread that was interrupted.
    let at = unsafe { (*block.top.load(Ordering::Relaxed)).continuation() };
    block.held.store(1, Ordering::SeqCst);
    at
}

/// Last words that the kernel finds for a domain that had none.
struct Words {
    len: usize,
    bytes: [u8; WORDS],
}

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.len().min(WORDS - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

fn describe(words: &mut Words, exception: &Exception, incarnation: &Incarnation, reason: Reason) -> fmt::Result {
    match exception.kind {
        ExceptionKind::PageFault { .. } if reason == Reason::StackOverflow => {
            words.write_str("the stack's guard page was touched")?
        }
        ExceptionKind::PageFault { address } => write!(words, "no access to {address:#x}")?,
        ExceptionKind::Other { vector } => words.write_str(match vector {
            0 => "divide error",
            3 => "breakpoint",
            4 => "overflow trap",
            5 => "bound range exceeded",
            6 => "invalid opcode",
            12 => "stack segment fault",
            13 => "general protection",
            16 => "x87 floating-point error",
            17 => "alignment check",
            19 => "SIMD floating-point error",
            _ => "exception",
        })?,
    }
    match incarnation.offset_of(exception.rip) {
        Some(offset) => write!(words, " at image+{offset:#x}"),
        None if reason == Reason::StackOverflow => words.write_str(" by a call"),
        None => write!(words, " after a jump to {:#x}", exception.rip),
    }
}
