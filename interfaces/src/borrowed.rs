//! Shared borrows across a call: an object on the exchange heap, lent to a callee for the time of one call.
//!
//! What arrives points at the exchange heap, never at the caller's stack or private heap, and the kernel counts the loan in the object's head: so the caller's
//! domain can die and be reclaimed while its thread is away, and the object is freed only when the last call to which it was lent is over.

use core::{marker::PhantomData, ops::Deref, ptr::NonNull};

use crate::rref::{Exchangeable, RRef};

/// An object that somebody lends for the time of a call: an argument, made with [`RRef::lend`]. It may be lent on, but not kept.
pub struct Borrowed<'a, T: Exchangeable> {
    object: NonNull<T>,
    lent: PhantomData<&'a T>,
}

// SAFETY: it is a `&T`.
unsafe impl<T: Exchangeable + Sync> Send for Borrowed<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Exchangeable + Sync> Sync for Borrowed<'_, T> {}

impl<T: Exchangeable> Clone for Borrowed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Exchangeable> Copy for Borrowed<'_, T> {}

impl<T: Exchangeable> Borrowed<'_, T> {
    /// # Safety
    /// `object` is a live object on the exchange heap, which for the result's lifetime is neither changed nor freed: it is borrowed from, or lent to, this domain.
    pub unsafe fn from_raw(object: NonNull<T>) -> Self {
        Borrowed { object, lent: PhantomData }
    }

    /// The object's address.
    pub fn address(&self) -> NonNull<T> {
        self.object
    }
}

impl<T: Exchangeable> Deref for Borrowed<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `from_raw`'s contract (SOUNDNESS: borrowed objects and crash).
        unsafe { self.object.as_ref() }
    }
}

impl<T: Exchangeable> RRef<T> {
    /// Lends the object to a call.
    pub fn lend(&self) -> Borrowed<'_, T> {
        // SAFETY: the `RRef` is borrowed as long as the result is used.
        unsafe { Borrowed::from_raw(self.address()) }
    }
}
