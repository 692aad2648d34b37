//! Whose an object is, and to how many calls it is lent: two words that several threads may change at once when an owner dies.
//!
//! An owner's word is changed by the owner itself while it lives, else by compare-and-exchange from the dead owner: so each object has one heir. What is lent
//! when its owner dies becomes an orphan; who gives it back last frees it.

use crate::atomic::{AtomicU32, Ordering};

/// Of an object whose owner died while it was lent. (No generation is as high; the domain is the kernel's, which is charged for it.)
pub const ORPHANED: u32 = 0xffff_ff00;

#[repr(C)]
pub struct Title {
    owner: AtomicU32,
    loans: AtomicU32,
}

impl Title {
    pub const fn new(owner: u32) -> Self {
        Title { owner: AtomicU32::new(owner), loans: AtomicU32::new(0) }
    }

    #[inline(always)]
    pub fn owner(&self) -> u32 {
        self.owner.load(Ordering::Acquire)
    }

    /// A new object's first owner is set last, so that nobody finds it half made; its loans are none.
    pub fn begin(&self) {
        self.loans.store(0, Ordering::Relaxed);
    }

    /// By whoever acts for the owner, while nobody else may claim it.
    #[inline(always)]
    pub fn give_to(&self, owner: u32) {
        self.owner.store(owner, Ordering::Release);
    }

    /// Gives what is `from`'s to `to`, unless it isn't `from`'s any more. For what somebody else may claim at the same time.
    pub fn claim(&self, from: u32, to: u32) -> bool {
        self.owner.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    pub fn is_lent(&self) -> bool {
        self.loans.load(Ordering::SeqCst) != 0
    }

    /// Counts a loan. The lender has the object, and isn't reclaimed meanwhile.
    #[inline(always)]
    pub fn lend(&self) {
        self.loans.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a loan. True: it was the last, and the owner has died. Whoever then [claims](Self::claim) the orphan frees it.
    #[inline(always)]
    pub fn give_back(&self) -> bool {
        self.loans.fetch_sub(1, Ordering::SeqCst) == 1 && self.owner.load(Ordering::SeqCst) == ORPHANED
    }

    /// Leaves what the dead `owner` had to those to whom it is lent. False if nobody has it any more: then it is `owner`'s as before, to be freed by the caller.
    pub fn orphan(&self, owner: u32) -> bool {
        // First this, then the count; who gives back does it the other way round. One of us sees what the other did, and the second claim says who frees.
        self.claim(owner, ORPHANED);
        self.is_lent() || !self.claim(ORPHANED, owner)
    }
}
