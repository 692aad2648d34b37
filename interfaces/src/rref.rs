//! RRef: the owned reference to an object on the exchange heap, the only thing besides plain data and capabilities that crosses a boundary.

use core::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use crate::{abi::kernel, shape};

/// What may be part of something that crosses a boundary: plain data without references, pointers, closures or interior mutability.
///
/// # Safety
/// Only `#[derive(Exchangeable)]` and this crate implement it. The type has no drop glue of its own, holds no address of any private heap, stack or
/// image, and means the same in every image.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a domain boundary",
    label = "not exchangeable",
    note = "what may cross: plain data with `#[derive(Exchangeable)]`, `RRef<T>`, `Borrowed<'_, T>` as an argument, `Cap<dyn Interface>`; no references, closures, `Box`, `Vec`, `Arc` or pointers"
)]
pub unsafe trait Exchangeable: Send + Sized + 'static {
    /// Tells object kinds apart in the exchange heap's headers.
    const KIND: u32;
    /// Of what the type is made of.
    const SHAPE: u64 = shape::of::<Self>(Self::KIND as u64);
}

/// Exchangeable data that a domain may change in place. (Not so: a [`Batch`](crate::packet::Batch), whose buffers only the kernel moves: half a
/// `mem::swap` of two of them would be seen after a crash.)
///
/// # Safety
/// Any byte-wise state that safe code can leave the type in, half-done assignments included, may be reclaimed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of an exchangeable object",
    label = "not plain exchangeable data",
    note = "what may be: numbers, `bool`, `char`, arrays, options, `Nested<T>`, `Deque<T, N>`, and types with `#[derive(Exchangeable)]`; no references, closures, `Box`, `Vec`, `Arc` or pointers"
)]
pub unsafe trait Plain: Exchangeable {}

macro_rules! plain_data {
    ($($kind:literal $type:ty),* $(,)?) => {$(
        // SAFETY: a number, or an address made of numbers, means the same everywhere.
        #[diagnostic::do_not_recommend]
        unsafe impl Exchangeable for $type { const KIND: u32 = $kind; }
        // SAFETY: as above.
        #[diagnostic::do_not_recommend]
        unsafe impl Plain for $type {}
    )*};
}

plain_data!(2 u8, 3 u16, 4 u32, 5 u64, 6 u128, 7 i8, 8 i16, 9 i32, 10 i64, 11 i128, 12 bool, 13 char, 14 (), 15 f32, 16 f64);
plain_data!(17 core::net::Ipv4Addr, 18 core::net::Ipv6Addr, 19 core::net::IpAddr, 20 core::net::SocketAddr);

// SAFETY: what is in it is exchangeable, and there is nothing else.
#[diagnostic::do_not_recommend]
unsafe impl<T: Plain, const LEN: usize> Exchangeable for [T; LEN] {
    const KIND: u32 = 0x20;
    const SHAPE: u64 = shape::mix(&[0x20, LEN as u64, T::SHAPE]);
}
// SAFETY: as above.
#[diagnostic::do_not_recommend]
unsafe impl<T: Plain, const LEN: usize> Plain for [T; LEN] {}

// SAFETY: what is in it is exchangeable, and there is nothing else.
#[diagnostic::do_not_recommend]
unsafe impl<T: Plain> Exchangeable for Option<T> {
    const KIND: u32 = 0x21;
    const SHAPE: u64 = shape::mix(&[shape::of::<Self>(0x21), T::SHAPE]);
}
// SAFETY: as above.
#[diagnostic::do_not_recommend]
unsafe impl<T: Plain> Plain for Option<T> {}

// SAFETY: what is in it is exchangeable, and there is nothing else.
#[diagnostic::do_not_recommend]
unsafe impl<A: Plain, B: Plain> Exchangeable for (A, B) {
    const KIND: u32 = 0x22;
    const SHAPE: u64 = shape::mix(&[shape::of::<Self>(0x22), A::SHAPE, B::SHAPE]);
}
// SAFETY: as above.
#[diagnostic::do_not_recommend]
unsafe impl<A: Plain, B: Plain> Plain for (A, B) {}

/// The caller's exchange quota, or the box's memory, does not admit another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeFull;

impl fmt::Display for ExchangeFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the exchange heap's quota of this domain is exhausted")
    }
}

/// An object on the exchange heap. One domain owns it; moving it to another by a call makes it unreachable here.
pub struct RRef<T: Exchangeable> {
    object: NonNull<T>,
    owns: PhantomData<T>,
}

// SAFETY: an RRef is the only way to its object, like a box.
unsafe impl<T: Exchangeable> Send for RRef<T> {}
// SAFETY: shared access gives only `&T`.
unsafe impl<T: Exchangeable + Sync> Sync for RRef<T> {}

impl<T: Exchangeable> RRef<T> {
    /// Moves `value` to the exchange heap.
    pub fn new(value: T) -> Result<Self, ExchangeFull> {
        let object = (kernel().exchange_allocate)(T::KIND, size_of::<T>(), align_of::<T>()).cast::<T>();
        let object = NonNull::new(object).ok_or(ExchangeFull)?;
        // SAFETY: the kernel gave us fresh memory of this size and alignment.
        unsafe { object.write(value) };
        Ok(RRef { object, owns: PhantomData })
    }

    /// Takes over an object by its address.
    ///
    /// # Safety
    /// `object` is a live object of type `T` on the exchange heap, owned by the calling domain, and nobody else holds it.
    pub unsafe fn from_raw(object: NonNull<T>) -> Self {
        RRef { object, owns: PhantomData }
    }

    /// The object, for the wrappers of this crate.
    pub(crate) fn object_mut(&mut self) -> &mut T {
        // SAFETY: the object is live, and we hold it uniquely.
        unsafe { self.object.as_mut() }
    }

    /// The object's address, which this RRef keeps.
    pub fn address(&self) -> NonNull<T> {
        self.object
    }

    /// The object's address, without releasing it.
    pub fn into_raw(self) -> NonNull<T> {
        let object = self.object;
        core::mem::forget(self);
        object
    }
}

/// What a caller can have back from a callee that has died with it.
///
/// # Safety
/// Its kind is no other type's, so it isn't generic; and whatever mixture of old and new a callee may have left in it, in the midst of an assignment, is a
/// value of this type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be had back from a callee that has died with it",
    note = "a batch of packets or of block requests can; of anything else keep what you need for another call"
)]
pub unsafe trait Returnable: Exchangeable {}

impl<T: Returnable> RRef<T> {
    /// What this thread's last call moved into another domain, and got back since the call failed: whole if the call never began; as the callee has left it if
    /// that one crashed with it. Only after [`want_back`].
    pub fn given_back() -> Option<Self> {
        let object = NonNull::new((kernel().given_back)(T::KIND).cast::<T>())?;
        // SAFETY: an object of this kind, which the kernel has just made ours again.
        Some(unsafe { RRef::from_raw(object) })
    }
}

/// From now on what this domain moves into a call that fails can be had back by [`RRef::given_back`].
pub fn want_back() {
    (kernel().want_back)()
}

impl<T: Exchangeable> Deref for RRef<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the object is live and ours while we hold the RRef (SOUNDNESS: exchange heap).
        unsafe { self.object.as_ref() }
    }
}

impl<T: Plain> DerefMut for RRef<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and we hold it uniquely.
        unsafe { self.object.as_mut() }
    }
}

impl<T: Exchangeable> Drop for RRef<T> {
    fn drop(&mut self) {
        // SAFETY: the object is ours; its kind tells the kernel what is nested in it, so no drop glue of ours runs.
        unsafe { (kernel().exchange_free)(self.object.as_ptr().cast()) }
    }
}
