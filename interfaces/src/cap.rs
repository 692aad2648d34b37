//! A capability: a handle minted at run time, such as a queue or a socket.

use alloc::boxed::Box;
use core::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use crate::abi::kernel;

/// The right to call one object of interface `I` (a `dyn Trait`), held by one domain.
///
/// Its maker builds it with [`Cap::new`]; on its way to the caller the kernel enters the object in its table and puts a proxy in its place. When the
/// holder drops it (or is reclaimed), the maker's object is dropped by a visit to the maker. After a restart of the maker it errs for ever.
pub struct Cap<I: ?Sized + 'static> {
    object: NonNull<I>,
    /// Whether `object` is still the maker's own box (true) or a proxy in the kernel's memory.
    local: bool,
    not_sync: PhantomData<core::cell::Cell<()>>,
}

// SAFETY: an object that is `Send` (as those of interfaces are) may be used from any thread, one at a time; and so may a proxy.
unsafe impl<I: ?Sized + Send> Send for Cap<I> {}

impl<I: ?Sized> Cap<I> {
    /// Wraps an object that this domain makes. `Box::new(x) as Box<dyn Trait>` is the usual argument.
    pub fn new(object: Box<I>) -> Self {
        Cap { object: NonNull::from(Box::leak(object)), local: true, not_sync: PhantomData }
    }

    /// A capability whose object is a proxy in the kernel's memory.
    ///
    /// # Safety
    /// `proxy` is a proxy from the kernel's capability table, which `KernelTable::cap_release` takes back.
    pub unsafe fn from_proxy(proxy: NonNull<I>) -> Self {
        Cap { object: proxy, local: false, not_sync: PhantomData }
    }

    /// Whether the object is still in its maker's own heap.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// The object or proxy, which this capability keeps.
    pub fn address(&self) -> NonNull<I> {
        self.object
    }

    /// Puts a proxy where the maker's own object was; returns the object, which is the caller's to drop from now on.
    ///
    /// # Safety
    /// As for [`Cap::from_proxy`]; `self` was local.
    pub unsafe fn replace(&mut self, proxy: NonNull<I>) -> NonNull<I> {
        self.local = false;
        core::mem::replace(&mut self.object, proxy)
    }

    /// The object, without releasing it.
    pub fn into_raw(self) -> NonNull<I> {
        let object = self.object;
        core::mem::forget(self);
        object
    }
}

impl<I: ?Sized> Deref for Cap<I> {
    type Target = I;
    fn deref(&self) -> &I {
        // SAFETY: the object lives until this capability is dropped (local: we own the box; else: the kernel's table keeps the proxy).
        unsafe { self.object.as_ref() }
    }
}

impl<I: ?Sized> DerefMut for Cap<I> {
    fn deref_mut(&mut self) -> &mut I {
        // SAFETY: as for `deref`, and a capability is unique.
        unsafe { self.object.as_mut() }
    }
}

impl<I: ?Sized> Drop for Cap<I> {
    fn drop(&mut self) {
        if self.local {
            // SAFETY: `object` came from `Box::leak` in `new` and nobody else has it.
            drop(unsafe { Box::from_raw(self.object.as_ptr()) });
        } else {
            // SAFETY: `from_proxy`'s contract.
            unsafe { (kernel().cap_release)(self.object.as_ptr().cast()) }
        }
    }
}
