//! An incarnation's state: one word, which every call compares with [`LIVE`]. It goes from live to dying exactly once, and from dying to quiet once; what is
//! injected into a live one never hides that it has died.

use crate::atomic::{AtomicBool, AtomicU32, Ordering};

pub(crate) const LIVE: u32 = 0;
/// Dead; threads may still be executing its code.
pub(crate) const DYING: u32 = 1;
/// Dead, and no thread will ever execute its code again.
pub(crate) const QUIET: u32 = 2;
/// Live, but the next visit is to commit a fault of the kind in the low byte.
pub(crate) const FAULT: u32 = 0x100;

/// The word comes first: the call's assembly reads it.
#[repr(C)]
pub(crate) struct State {
    word: AtomicU32,
    claimed: AtomicBool,
}

impl State {
    pub(crate) const fn new() -> Self {
        State { word: AtomicU32::new(LIVE), claimed: AtomicBool::new(false) }
    }

    /// Of what has never lived.
    pub(crate) const fn quiet() -> Self {
        State { word: AtomicU32::new(QUIET), claimed: AtomicBool::new(true) }
    }

    /// The word, as a call reads it.
    #[inline(always)]
    pub(crate) fn get(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        // Fault injection is a live domain's.
        !matches!(self.word.load(Ordering::SeqCst), DYING | QUIET)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.word.load(Ordering::SeqCst) == QUIET
    }

    /// The next visit shall commit a fault. False if it isn't live, or has one to commit.
    pub(crate) fn inject(&self, kind: u8) -> bool {
        let wanted = FAULT | u32::from(kind);
        self.word.compare_exchange(LIVE, wanted, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Takes the pending fault, if there is one: the caller commits it.
    pub(crate) fn take_fault(&self) -> Option<u32> {
        let pending = self.word.load(Ordering::SeqCst);
        let taken = pending & FAULT != 0
            && self.word.compare_exchange(pending, LIVE, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        taken.then_some(pending & 0xff)
    }

    /// Whether the caller is the one who kills: it writes down how, and then calls [`die`](Self::die).
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::SeqCst)
    }

    /// From here on, and after a barrier, no visit begins.
    pub(crate) fn die(&self) {
        self.word.store(DYING, Ordering::SeqCst);
    }

    /// No thread executes its code any more.
    pub(crate) fn set_quiet(&self) {
        self.word.store(QUIET, Ordering::SeqCst);
    }
}
